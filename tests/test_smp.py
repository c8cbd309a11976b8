"""SMP over a transport's frames, and the courier that speaks it: what smpclient does through it, and what a hostile node can do to it."""

import asyncio

import cbor2
import hostile_images
import pytest
from smp import header as smp
from smp_node import OLD, SmpNode, answer
from smpclient import SMPClient
from smpclient.requests.os_management import EchoWrite

from gatewayd import courier
from gatewayd import smp as links
from gatewayd.core import image
from gatewayd.core.types import SlotState
from gatewayd.courier import conversation
from gatewayd.errors import NodeRefusedError, TransportError
from gatewayd.smp import NodeLink

IMAGE = hostile_images.good()
SHA = image.parse(IMAGE).sha256


class Wire:
    """Carries frames to a node and its answers back, through the event loop."""

    def __init__(self, handle):
        self.handle, self.frames = handle, []
        self.links = links.SmpLinks(self._send)

    def _send(self, node, transport, frame):
        self.frames.append(frame)
        said = self.handle(frame)
        for one in said if isinstance(said, list) else [said]:
            if one is not None:
                asyncio.get_running_loop().call_soon(self.links.deliver, node, transport, one)


@pytest.fixture
def node():
    return SmpNode()


@pytest.fixture
def counts():
    return []


async def bring(wire, counts, work):
    async with conversation(wire.links, "n1", "mqtt", counts.append) as courier:
        return await work(courier)


async def test_an_image_is_brought_tested_confirmed_and_taken_back(node, counts):
    wire = Wire(node.handle)

    async def work(courier):
        offsets = [offset async for offset in courier.upload(IMAGE, 1)]
        assert offsets == sorted(offsets)
        assert offsets[-1] == len(IMAGE)
        assert (await courier.states())[SHA] is SlotState.VERIFIED
        assert await courier.test(SHA)
        assert await courier.states() == {OLD: SlotState.CONFIRMED, SHA: SlotState.TEST}
        await courier.confirm(SHA)
        assert (await courier.states())[SHA] is SlotState.CONFIRMED
        await courier.confirm(OLD)
        await courier.erase(1, 1)

    await bring(wire, counts, work)
    assert node.data == b""
    assert node.asked == ["upload", "test", "confirm", "confirm", "erase"]
    assert set(counts) == {"ok"}
    assert max(map(len, wire.frames)) <= node.buffer_bytes  # what it said of its buffer


async def test_an_upload_goes_on_where_the_node_has_it(node, counts):
    wire = Wire(node.handle)

    async def half(courier):
        async for offset in courier.upload(IMAGE, 1):
            if offset > len(IMAGE) // 2:
                return offset
        return None

    async def rest(courier):
        return [offset async for offset in courier.upload(IMAGE, 1)]

    had = await bring(wire, counts, half)
    assert (await bring(wire, counts, rest))[0] >= had
    assert node.data == IMAGE
    assert node.asked == ["upload"]


@pytest.mark.parametrize(("rc", "reason"), [(30, "capacity"), (24, "digest"), (27, "counter")])
async def test_a_refusal_has_its_reason(node, counts, rc, reason):
    node.refuses = {"upload": rc, "test": rc}

    async def upload(courier):
        async for _ in courier.upload(IMAGE, 1):
            pass

    for work in (upload, lambda courier: courier.test(SHA)):
        with pytest.raises(NodeRefusedError) as refused:
            await bring(Wire(node.handle), counts, work)
        assert refused.value.reason == reason
    assert counts == ["refused", "refused"]


def _lies(*fields):
    """A node that answers `fields`, whatever it was asked of its images."""
    node = SmpNode()

    def handle(frame):
        header = smp.Header.loads(frame[:8])
        return answer(header, *fields) if header.group_id == 1 else node.handle(frame)

    return handle


def _raw(change):
    node = SmpNode()

    def handle(frame):
        return change(node.handle(frame)) if smp.Header.loads(frame[:8]).group_id == 1 else node.handle(frame)

    return handle


@pytest.mark.parametrize(
    "handle",
    [
        _lies({"off": 0}),
        _lies({"off": len(IMAGE) + 1}),
        _lies({"off": -1}),
        _lies({"off": "x"}),
        _lies({}),
        _lies([]),
        _lies({"images": [{"slot": 1, "version": "1", "hash": "text"}], "surprise": 1}),
        _lies({"err": {"group": 1, "rc": 7777}}),
        _lies({"err": 5}),
        _raw(lambda frame: frame[:8]),
        _raw(lambda frame: frame[:8] + b"\xff\xff"),
        _raw(lambda frame: frame[:8] + cbor2.dumps(1)),
        _raw(lambda frame: b"\xff" * 4 + frame[4:]),
        _raw(lambda frame: frame[:4] + b"\xff\xff" + frame[6:]),
    ],
)
async def test_nonsense_is_a_broken_link_and_no_more(handle, counts):
    async def upload(courier):
        async for _ in courier.upload(IMAGE, 1):
            pass

    for work in (upload, lambda courier: courier.states()):
        with pytest.raises((TransportError, NodeRefusedError)):
            await bring(Wire(handle), counts, work)
    assert set(counts) & {"broken", "refused"}


async def test_answers_to_earlier_questions_and_of_strangers_are_not_heard(node, counts):
    def stammer(frame):
        said = node.handle(frame)
        late = said[:6] + bytes([said[6] ^ 1]) + said[7:]
        return [late, b"", b"short", said, said]

    wire = Wire(stammer)
    assert not wire.links.deliver("n2", "mqtt", b"\0" * 8)
    await bring(wire, counts, lambda courier: courier.states())
    assert not wire.links.deliver("n1", "mqtt", b"\0" * 8)


async def test_as_many_requests_are_in_flight_as_the_node_has_buffers(counts):
    node = SmpNode(buffer_bytes=links.LEAST_FRAME_BYTES, buffers=4)
    most = 0

    def handle(frame):
        nonlocal most
        most = max(most, len(wire.links._links["n1"]._asked))
        return node.handle(frame)

    async def upload(courier):
        async for _ in courier.upload(IMAGE, 1):
            pass

    wire = Wire(handle)
    await bring(wire, counts, upload)
    assert (most, node.data) == (4, IMAGE)


async def test_a_conversation_breaks_with_its_radio(counts):
    wire = Wire(lambda frame: None)

    async def ask(courier):
        raise AssertionError("nobody answers")

    talk = asyncio.ensure_future(bring(wire, counts, ask))
    await asyncio.sleep(0)
    wire.links.check(lambda node, transport: (node, transport) == ("n1", "mqtt"))
    await asyncio.sleep(0)
    assert not talk.done()
    wire.links.check(lambda _node, _transport: False)
    with pytest.raises(TransportError, match="not reached over mqtt"):
        await talk
    assert counts == ["broken"]


async def test_what_comes_over_another_radio_is_no_answer(node, counts):
    wire = Wire(node.handle)

    async def ask(courier):
        assert not wire.links.deliver("n1", "ble", wire.frames[-1])

    await bring(wire, counts, ask)


@pytest.mark.parametrize(("rc", "word"), [(3, "malformed"), (10, "busy")])
async def test_a_node_that_has_not_heard_has_not_refused(node, counts, rc, word):
    def handle(frame):
        header = smp.Header.loads(frame[:8])
        return answer(header, {"rc": rc}) if header.group_id == 1 else node.handle(frame)

    with pytest.raises(TransportError, match=word):
        await bring(Wire(handle), counts, lambda courier: courier.test(SHA))
    assert counts == ["broken"]


async def test_silence_is_a_timeout(node, counts, monkeypatch):
    monkeypatch.setattr(courier, "TIMEOUT_S", 0.05)
    node.silent = {"states"}
    with pytest.raises(TimeoutError):
        await bring(Wire(node.handle), counts, lambda courier: courier.states())
    assert counts == ["timeout"]


async def test_there_is_one_conversation_with_a_node(node):
    wire = Wire(node.handle)
    async with conversation(wire.links, "n1", "mqtt", print):
        with pytest.raises(TransportError, match="already"):
            async with conversation(wire.links, "n1", "mqtt", print):
                pass
        async with conversation(wire.links, "n2", "mqtt", print):
            pass
    async with conversation(wire.links, "n1", "mqtt", print):
        pass


@pytest.mark.parametrize(
    ("said", "used"), [(0, links.LEAST_FRAME_BYTES), (-5, links.LEAST_FRAME_BYTES), (1 << 40, links.MOST_FRAME_BYTES), (600, 600)]
)
async def test_a_node_is_not_believed_every_buffer(said, used):
    async with conversation(Wire(SmpNode(buffer_bytes=said).handle).links, "n1", "mqtt", print) as courier:
        assert courier.frame_bytes == used


async def test_smpclient_itself_is_used_unchanged():
    def echo(frame):
        header = smp.Header.loads(frame[:8])
        return answer(header, {"r": "hello"} if header.command_id == 0 else {"buf_size": 1024, "buf_count": 1})

    async with SMPClient(NodeLink(Wire(echo).links, "mqtt"), "n1") as client:
        assert (await client.request(EchoWrite(d="hello"))).r == "hello"
