"""The fleet page in a real Chromium, served by the daemon: every view and action, with fifty live nodes and with ten thousand."""

import asyncio
import math
import os
import re
import shutil
import struct
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from live import Node, info, until

from gatewayd.core import wire
from gatewayd.core.types import NodeState, Reason, State, Window, WindowKind

pytest.importorskip("playwright", reason="needs playwright: scripts/setup.sh dev")
from page_site import CHROMIUM, PageSite, chromium, tab
from playwright.async_api import expect

pytestmark = [
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium"),
    pytest.mark.skipif(not shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin"), reason="needs mosquitto"),
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
]
NODES = 50
MORE_THAN_A_PAGE = 60  # events
EVIL = "<img src=x onerror=alert(1)>"
VIEWS = ("", "nodes/fleet-7", "events", "events/1", "rollouts", "cascades", "cascades/wakeword", "audit")
TONE = struct.pack("<16000h", *(int(12_000 * math.sin(2 * math.pi * 1_000 * n / 16_000)) for n in range(16_000)))
WINDOWS = {
    WindowKind.PCM16: Window(WindowKind.PCM16, 16_000, 1, (16_000,), TONE),
    WindowKind.VIBRATION: Window(WindowKind.VIBRATION, 4_000, 3, (512, 3), TONE[:3_072]),
    WindowKind.FEATURES: Window(WindowKind.FEATURES, 0, 1, (49, 40), bytes(range(196)) * 10, 0.1, -128),
    WindowKind.RGB8: Window(WindowKind.RGB8, 0, 3, (16, 16, 3), bytes([255, 0, 0]) * 256),
    WindowKind.TABULAR: Window(WindowKind.TABULAR, 0, 1, (32,), bytes(range(32)), 1.0, 0),
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def site(tmp_path_factory, host_build):
    """Fifty nodes that are up, send events with a clip each, and one that says what a test wants."""
    site = PageSite(tmp_path_factory.mktemp("page"))
    async with site.broker(), site.gateway(), site.fleet(NODES, "--event-rate", "2", "--window-bytes", "3200", "--vitals-s", "5"):
        await until(lambda: len(site.known()) == NODES and len(site.stored()) > 3, site.said)
        site.operate, site.read = await site.token(), await site.token("bob", "read")
        yield site


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser():
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def seen(site, browser):
    """A tab whose user may operate; a complaint of the browser's fails the test."""
    async with tab(browser, site) as seen:
        await seen.log_in(site.operate)
        seen.page.set_default_timeout(15_000)
        await seen.settled()
        yield seen
        assert seen.complaints == []


def row(page, name):
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))


async def painted(canvas):
    """How many colours it shows."""
    return await canvas.evaluate(
        """canvas => new Set(new Uint32Array(
            canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size"""
    )


async def newest(seen, site, node):
    """The view of a node's newest event."""
    (id_,) = max(site._rows(f"SELECT id FROM events WHERE node = '{node}'"))
    await seen.go(f"events/{id_}")


async def test_the_spectrum_is_numpys(site, seen):
    samples = np.random.default_rng(1).normal(size=512).astype(np.float32)
    transformed = await seen.page.evaluate(
        """async samples => {
            const { fft } = await import("/page/spectrogram.js");
            const [re, im] = [Float32Array.from(samples), new Float32Array(samples.length)];
            fft(re, im);
            return [[...re], [...im]];
        }""",
        samples.tolist(),
    )
    np.testing.assert_allclose(np.array(transformed[0]) + 1j * np.array(transformed[1]), np.fft.fft(samples), atol=1e-3)


async def test_a_token_opens_the_page_and_logging_out_closes_it(site, browser):
    async with tab(browser, site) as seen:
        await seen.page.goto(f"{site.address}/#/events")
        await seen.page.get_by_label("Token").fill("not-a-token-at-all")
        await seen.page.get_by_role("button", name="Log in").click()
        await expect(seen.page.get_by_role("alert")).to_contain_text("does not know this token")
        assert not await seen.page.get_by_role("navigation").count()
        await seen.log_in(site.read, "events")
        await expect(seen.page.get_by_role("heading", name="Events")).to_be_visible()  # where it wanted to go
        await seen.page.get_by_role("button", name="Log out").click()
        await expect(seen.page.get_by_label("Token")).to_be_focused()
        await seen.page.reload()
        await expect(seen.page.get_by_label("Token")).to_be_visible()


async def test_the_fleet_at_a_glance(site, seen):
    page = seen.page
    await expect(page.get_by_role("button", name=f"{NODES} nodes")).to_be_visible()
    await expect(page.get_by_role("table", name="Nodes").locator("tbody tr")).to_have_count(NODES)
    await expect(row(page, "fleet-7")).to_contain_text("wakeword 1.0.0")
    await expect(page.get_by_text("live", exact=True)).to_be_visible()
    await expect(page.get_by_role("region", name="Latest events").get_by_role("listitem")).to_have_count(8)


async def test_the_list_is_searched_and_filtered_by_the_gateway(site, seen):
    page = seen.page
    await page.get_by_label("Search nodes").fill("fleet-1")
    await expect(page.get_by_role("table", name="Nodes").locator("tbody tr")).to_have_count(11)
    assert await page.locator("#said").text_content() == "11 nodes match"
    assert page.url.endswith("#/?q=fleet-1")  # can be kept, and sent to somebody
    await page.get_by_label("Search nodes").fill("nobody")
    await expect(page.get_by_text("No node matches")).to_be_visible()
    await page.get_by_label("Search nodes").fill("")
    await page.get_by_role("button", name=re.compile("down")).click()
    await expect(page.get_by_text("No node matches")).to_be_visible()
    await page.get_by_role("button", name=re.compile("down")).click()
    await page.get_by_label("Sort").select_option("by last heard")
    await expect(page.get_by_role("table", name="Nodes").locator("tbody tr")).to_have_count(NODES)


async def test_what_changes_is_seen_as_it_does(site, seen):
    page = seen.page
    async with Node(site, "attic-1") as node:
        await node.birth()
        await page.get_by_label("Search nodes").fill("attic")
        await expect(row(page, "attic-1")).to_contain_text("up")
        await node.say("state", wire.encode(State(NodeState.LOST, 1)), retain=True)
        await expect(row(page, "attic-1")).to_contain_text("down")  # nobody loads the page again


async def test_a_node_with_its_vitals_models_and_events(site, seen):
    page = seen.page
    await row(page, "fleet-7").get_by_role("link", name="fleet-7").click()
    await seen.settled()
    await expect(page.get_by_role("heading", name="fleet-7")).to_be_focused()
    await expect(page.get_by_role("img", name=re.compile(r"Running for\. Running for: .+ to .+, at the end"))).to_be_visible()
    assert await painted(page.locator("line-plot canvas").first) > 2
    await expect(page.get_by_role("table", name="Image slots")).to_contain_text("wakeword 1.0.0")
    await page.get_by_role("button", name="week").click()
    assert page.url.endswith("?hours=168")
    await page.get_by_text("Numbers of Running for").click()
    await expect(page.get_by_role("table", name="Running for").get_by_role("row").nth(1)).to_be_visible()


async def test_labels_are_edited(site, seen):
    page = seen.page
    await seen.go("nodes/fleet-8")
    await page.get_by_role("button", name="Edit labels").click()
    await page.get_by_role("textbox", name="Labels").fill("upstairs Not-A-Label")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_contain_text("is no label")
    await page.get_by_role("button", name="Close").click()
    await page.get_by_role("button", name="Edit labels").click()
    await page.get_by_role("textbox", name="Labels").fill("upstairs window")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator(".heading .label")).to_have_text(["upstairs", "window"])
    await expect(page.get_by_role("button", name="Edit labels")).to_be_focused()
    await seen.go("")
    await expect(row(page, "fleet-8")).to_contain_text("window")


async def test_a_node_is_dismissed_and_enrolled_by_keyboard_alone(site, seen):
    page = seen.page
    await seen.go("nodes/fleet-9")
    await page.get_by_role("button", name="Dismiss").focus()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Escape")  # rather not
    await expect(page.get_by_role("button", name="Dismiss")).to_be_focused()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("button", name="Enrol")).to_be_visible()
    assert ("fleet-9", 0) in site._rows("SELECT id, enrolled FROM nodes")
    await page.get_by_role("button", name="Enrol").click()
    await page.get_by_role("dialog").get_by_role("button", name="Enrol").click()
    await expect(page.get_by_role("button", name="Dismiss")).to_be_visible()
    await seen.go("audit")
    await expect(page.get_by_role("row").filter(has_text="fleet-9").first).to_contain_text("anna")


async def test_events_come_by_themselves_and_are_filtered(site, seen):
    page = seen.page
    await seen.go("events")
    rows = page.get_by_role("table", name="Events, newest first").locator("tbody tr")
    first = await rows.first.get_by_role("link").first.get_attribute("href")
    await expect(rows.first.get_by_role("link").first).not_to_have_attribute("href", first)
    await page.get_by_role("button", name="Hold still").click()
    await page.get_by_role("button", name=re.compile(r"Show \d+ new event")).click()
    async with Node(site, "cellar-1") as node:
        await node.birth()
        await page.get_by_role("button", name="Hold still").click()
        await page.get_by_label("Node").fill("cellar-1")
        await expect(page.get_by_text("No event here")).to_be_visible()
        await node.event(1, cascade="wakeword", reason=Reason.AUDIT)
        await expect(rows).to_have_count(1)
        await expect(rows.first).to_contain_text("audit")
    await page.get_by_label("Agreement").select_option("disagreed")  # an audit on which the larger model found what the node had not
    await expect(rows).to_have_count(1)
    await page.get_by_label("Agreement").select_option("both agreed")
    await expect(page.get_by_text("No event here")).to_be_visible()
    await until(lambda: len(site.stored()) > MORE_THAN_A_PAGE, site.said)
    await page.get_by_label("Node").fill("")
    await page.get_by_label("Agreement").select_option("agreed or not")
    await page.get_by_role("button", name="Older").click()
    await expect(page.get_by_role("button", name="Newest")).to_be_visible()


async def test_an_event_is_seen_and_heard(site, seen):
    page = seen.page
    async with Node(site, "hall-1") as node:
        await node.birth()
        await node.event(1, cascade="wakeword", window=WINDOWS[WindowKind.PCM16])
        await node.verdicts(1)
    await newest(seen, site, "hall-1")
    opinions = page.get_by_role("region", name="Opinions")
    await expect(opinions.locator(".side.node")).to_contain_text("0.500")
    await expect(opinions.locator(".side.gateway")).to_contain_text("accepted")
    await expect(opinions).to_contain_text("agreed")
    await expect(page.get_by_role("img", name="Waveform: 1 s at 16 kHz, peak -9 dB")).to_be_visible()
    plots = page.locator("sound-clip line-plot canvas")
    assert [await painted(plot) > 20 for plot in await plots.all()] == [True, True]
    audio = page.locator("audio")
    await audio.evaluate("audio => audio.play()")
    await audio.evaluate("audio => new Promise(ended => audio.addEventListener('ended', ended))")
    assert await audio.evaluate("audio => audio.duration") == pytest.approx(1.0)


@pytest.mark.parametrize("kind", [WindowKind.VIBRATION, WindowKind.FEATURES, WindowKind.TABULAR, WindowKind.RGB8])
async def test_windows_that_are_no_sound_are_drawn(site, seen, kind):
    async with Node(site, f"{kind.replace('_', '-')}-1") as node:
        await node.birth()
        await node.event(1, cascade="wakeword", window=WINDOWS[kind])
        await node.verdicts(1)
    await newest(seen, site, node.name)
    await expect(seen.page.get_by_role("region", name="What it was about")).to_contain_text(kind.replace("_", " "))
    canvas = seen.page.locator("main canvas").first
    await canvas.wait_for()
    if kind is WindowKind.RGB8:
        assert await canvas.evaluate("canvas => [...canvas.getContext('2d').getImageData(3, 3, 1, 1).data]") == [255, 0, 0, 255]
    else:
        assert await painted(canvas) > 5


async def test_what_a_node_says_is_text(site, seen):
    said = []
    seen.page.on("dialog", lambda dialog: said.append(dialog.message))
    async with Node(site, "evil-1") as node:
        await node.birth()
        await node.say("info", wire.encode(info()._replace(board=EVIL, firmware=EVIL, hardware=EVIL)), retain=True)
        await seen.go("nodes/evil-1")
        await expect(seen.page.locator("dd").filter(has_text=EVIL)).to_have_count(3)
    with pytest.raises(Exception, match="TrustedHTML"):
        await seen.page.evaluate("document.body.innerHTML = '<p>nobody may'")
    seen.complaints.clear()  # that was ours
    assert said == []


async def test_a_rollout_as_it_runs_with_orders(site, seen):
    page = seen.page
    rules = ("--groups", "4,100%", "--soak", "1h", "--concurrent", "2")
    id_ = await asyncio.to_thread(site.rollout, "start", site.bundle, *rules, "--yes", "--json")
    number = re.search(r'"id": ?"?(\d+)', id_)[1]
    await seen.go("rollouts")
    await page.get_by_role("link", name=number, exact=True).click()
    await expect(page.get_by_role("heading", name="wakeword 2.0.0")).to_be_visible()
    groups = page.get_by_role("region", name="Groups").locator("ol > li")
    await expect(groups).to_have_count(2)
    await expect(groups.first).to_contain_text("4 judging", timeout=60_000)  # without loading again
    await expect(page.get_by_role("region", name="Gate")).to_contain_text("not enough evidence")
    await page.get_by_role("button", name="Pause").click()
    await page.get_by_label("Because").fill("the electrician is here")
    await page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    await expect(page.locator(".heading .badge")).to_have_text("paused")
    await expect(page.get_by_role("list").filter(has_text="electrician").first).to_be_visible()
    await page.get_by_role("button", name="Resume").click()
    await page.get_by_role("dialog").get_by_role("button", name="Resume").click()
    await expect(page.locator(".heading .badge")).not_to_have_text("paused")
    await page.get_by_role("button", name="Roll back").click()
    await page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    await expect(page.locator(".heading .badge")).to_have_text("rolled back", timeout=60_000)
    assert not await page.locator(".heading").get_by_role("button").count()


async def test_cascades_and_their_quality(site, seen):
    page = seen.page
    await seen.go("cascades")
    await page.get_by_role("link", name="Wake word: okay nabu").click()
    await expect(page.get_by_role("img", name=re.compile("Agreed with the node, of what was judged"))).to_be_visible()
    await expect(page.get_by_role("region", name="Quality in the field")).to_contain_text("1.0.0")  # not a hash
    await expect(page.get_by_role("region", name="Its card")).to_contain_text("okay")


async def test_who_may_only_read_sees_no_orders(site, browser):
    async with tab(browser, site) as seen:
        await seen.log_in(site.read)
        assert not await seen.page.get_by_role("link", name="Audit").count()
        await seen.go("nodes/fleet-7")
        for name in ("Edit labels", "Dismiss", "Enrol"):
            assert not await seen.page.get_by_role("button", name=name).count()
        assert seen.complaints == []


async def test_a_keyboard_finds_its_way(site, seen):
    page = seen.page
    await page.reload()
    await seen.settled()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Fleet")).to_be_focused()
    await page.get_by_role("link", name="Cascades").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Cascades")).to_be_focused()
    assert await page.title() == "Cascades · demo"


async def test_what_is_not_there_is_said(site, seen):
    await seen.go("nodes/nobody")
    await expect(seen.page.get_by_role("heading", name="Not here")).to_be_visible()
    await seen.go("there/is/no/such/view")
    await expect(seen.page.get_by_text("There is no such page")).to_be_visible()
    seen.complaints[:] = [said for said in seen.complaints if "404" not in said]


async def test_colours_are_the_systems_until_somebody_chooses(site, seen):
    page = seen.page
    paper = "getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(paper)
    await page.emulate_media(color_scheme="dark")
    dark = await page.evaluate(paper)
    await page.get_by_role("button", name=re.compile("Change to light")).click()
    assert light != dark
    assert await page.evaluate(paper) == light
    await page.reload()
    await seen.settled()
    assert await page.evaluate(paper) == light


@pytest.mark.parametrize(("dark", "phone"), [(False, False), (True, True)], ids=["light-desktop", "dark-phone"])
async def test_every_view_is_accessible_and_fits(site, browser, dark, phone):
    axe = (Path(find_spec("axe_playwright_python").origin).parent / "axe.min.js").read_text()
    async with tab(browser, site, dark=dark, phone=phone, bypass_csp=True) as seen:
        await seen.page.goto(f"{site.address}/")
        await seen.page.get_by_label("Token").wait_for()
        await seen.page.evaluate(axe)
        found = {"login": await seen.page.evaluate("axe.run().then(({violations}) => violations)")}
        await seen.log_in(site.operate)
        for view in VIEWS:
            await seen.go(view)
            found[view] = await seen.page.evaluate("axe.run().then(({violations}) => violations)")
            assert await seen.page.evaluate("document.documentElement.scrollWidth") <= (360 if phone else 1360), view
    wrong = {view: [(one["id"], [node["target"] for node in one["nodes"]]) for one in said] for view, said in found.items() if said}
    assert wrong == {}


async def test_ten_thousand_nodes_are_paged_searched_and_sorted(tmp_path, browser):
    site = PageSite(tmp_path)
    await site.remember(10_000)
    async with site.broker(), site.gateway(), tab(browser, site) as seen:
        page = seen.page
        await seen.log_in(await site.token())
        await expect(page.get_by_role("button", name="10,000 nodes")).to_be_visible()
        await expect(page.get_by_text("1 to 50 of 10,000")).to_be_visible()
        await page.get_by_role("button", name="Next").click()
        await expect(page.get_by_text("51 to 100 of 10,000")).to_be_visible()
        await expect(row(page, "old-00050")).to_be_visible()
        await page.get_by_label("Search nodes").fill("0999")
        await expect(page.get_by_role("table", name="Nodes").locator("tbody tr")).to_have_count(11)  # 00999, and 09990 to 09999
        await page.get_by_label("Sort").select_option("by last heard")
        await expect(page.get_by_role("table", name="Nodes").locator("tbody tr").first).to_contain_text("old-09999")
        await page.goto(f"{site.address}/#/?state=up")
        await expect(page.get_by_text("No node matches")).to_be_visible()
        assert seen.complaints == []


async def test_when_the_gateway_goes_and_comes_back(tmp_path, browser):
    site = PageSite(tmp_path)
    async with site.broker(), tab(browser, site) as seen:
        async with site.gateway():
            await seen.log_in(await site.token())
            await expect(seen.page.get_by_text("No nodes yet")).to_be_visible()
            await expect(seen.page.get_by_text("gatewayctl node add")).to_be_visible()
        await expect(seen.page.get_by_role("alert")).to_contain_text("does not answer")
        await expect(seen.page.get_by_text("No nodes yet")).to_be_visible()  # what was known stays
        async with site.gateway():
            await expect(seen.page.get_by_role("alert")).to_contain_text("Your session is over", timeout=30_000)
