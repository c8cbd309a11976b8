"""Boards and hosts in one fleet, with keys and the access list: speech to verdict to action, a rollout, and who is kept out."""

import contextlib

import numpy as np
import pytest
from live import until

from cascades.wakeword import speech
from gatewayd.core.update import State

pytestmark = pytest.mark.slow
BOARDS = {"kitchen": "qemu-m4", "office": "qemu-m4", "hall": "qemu-m4", "attic": "qemu-m4", "cellar": "qemu-m3"}
VOICES = ("en-us+m3", "en-gb+m2", "en-us+m4", "en-gb+Annie", "en-gb-x-rp+m6")
HOSTS = 200
STRANGER = "stranger"


def spoken(voice):
    """The wake word, a breath, a command, and a second of nothing around it."""
    word, command = (speech.say(text, f"espeak-ng:{voice}") for text in ("okay nabu", "turn on the lights"))
    return np.concatenate([np.pad(word, (speech.RATE_HZ, speech.RATE_HZ // 2)), np.pad(command, (0, speech.RATE_HZ))])


async def test_five_boards_and_two_hundred_hosts(site, host_build):
    hosts = [f"host-{number}" for number in range(HOSTS)]
    place = site(*BOARDS, *hosts, STRANGER)
    async with place.broker() as broker, place.gateway(), place.hosts(HOSTS, "host-"), contextlib.AsyncExitStack() as power:
        boards = {name: await power.enter_async_context(place.board(name, preset)) for name, preset in BOARDS.items()}
        await until(lambda: set(place.known()) == {*BOARDS, *hosts}, place.said)
        await speak(place, boards)
        await roll_out(place, boards)
        await keep_out(place, broker)
    assert "Traceback" not in place.said()


async def speak(place, boards):
    """Each hears its own voice; the gateway's larger model agrees; the board does as it says, and sends what came next."""
    for board, voice in zip(boards.values(), VOICES, strict=True):
        board.say(spoken(voice))
    for board in boards.values():
        await board.until_said("wakeword: action listen (okay_nabu)")
    follows = "SELECT node, verdict_label FROM events WHERE reason = 'follow'"
    await until(lambda: {node for node, _ in place._rows(follows)} == {*boards}, place.said)
    clips = "SELECT node, reason, kind, basis, accepted, verdict_label FROM events JOIN windows ON event_id = events.id"
    heard = place._rows(clips)
    for name in boards:
        assert (name, "trigger", "adpcm", "gateway", 1, "okay_nabu") in heard, heard
        assert (name, "follow", "adpcm", "gateway", 1, "lights_on") in heard, heard


async def roll_out(place, boards):
    """The new model, to all; meanwhile the power of each board fails once."""
    rules = ("--no-gate", "--soak", "0s", "--groups", "5,50%,100%", "--concurrent", "16")
    status, said = await place.ctl("rollout", "start", place.models.bundle, "--yes", *rules, "-c", place.config)
    assert status == 0, said
    for board in boards.values():
        await board.kill()
        await board.start()
    await until(lambda: place._rows("SELECT closed FROM rollouts") == [(1,)], place.said, 240)
    assert place._rows("SELECT state, count(*) FROM updates GROUP BY state") == [(State.CONFIRMED, len(BOARDS) + HOSTS)]


async def keep_out(place, broker):
    """A board with a wrong key, and a node that speaks for another."""
    async with place.board(STRANGER, key="0" * 32) as board:
        await board.until_said("offline: ", 2)
        assert "online" not in board.said()
    assert STRANGER not in place.known()

    async def forge():
        forged = ("-V", "mqttv5", "-i", "forger", "-q", "1", "-t", "nodelink/1/up/cellar/event", "-m", "x")
        _, said = await broker.client("mosquitto_pub", *forged, login=broker.node("kitchen", place.keys["kitchen"]))
        assert "Not authorized" in said

    assert "nodelink/1/up/cellar/event" not in await broker.heard("nodelink/1/up/+/event", broker.gateway(), forge)
