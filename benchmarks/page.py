"""The fleet page with ten thousand live nodes beside itself with fifty: until the gateway has answered, and until the browser has shown it."""

import asyncio
import os
import statistics
import sys
import time
import urllib.request
from pathlib import Path

from report import Result

from gatewayd.demo import site

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from fleet_site import FLEET
from live import until
from page_site import PageSite, chromium, tab

_FEW, _MANY = 50, 10_000
_TIMES = 15
_REQUEST = "/api/v1/nodes?limit=50&sort=last_seen&q=fleet"


async def page(folder: Path) -> dict[str, Result]:
    """Both, a few nodes first."""
    few, many = await _measured(folder / "few", _FEW), await _measured(folder / "many", _MANY)
    return {
        f"page.list_{_MANY}_ms": _result(
            few[0],
            many[0],
            200,
            f"GET {_REQUEST}: the fleet is searched and sorted, fifty rows are answered; each more than a second after the last.",
        ),
        f"page.show_{_MANY}_ms": _result(
            few[1],
            many[1],
            1_000,
            "The fleet page, loaded again in Chromium, until its fifty rows are painted: session, five requests, charts' code and all.",
        ),
    }


def _result(few: float, many: float, goal: float, note: str) -> Result:
    return Result(
        round(many, 1),
        "ms",
        goal,
        round(few, 1),
        round(many / few, 2),
        f"{note} Median of {_TIMES}; reference (ms): the same with {_FEW} nodes.",
    )


async def _measured(folder: Path, nodes: int) -> tuple[float, float]:
    """(Answer, page) in milliseconds, with so many nodes of the real core, all up."""
    folder.mkdir()
    os.chmod(folder, 0o755)  # noqa: PTH101 -- the broker has a user of its own
    ours = PageSite(folder)
    async with (
        ours.broker(),
        ours.gateway(),
        site.process([FLEET, "--broker", f"127.0.0.1:{ours.mqtt_port}", "--count", str(nodes)], folder / "fleet.log"),
    ):
        await until(lambda: len(ours.known()) == nodes, ours.said, 300)
        token = await ours.token()
        answers = [await asyncio.to_thread(_answered_ms, ours, token) for _ in range(_TIMES)]
        async with chromium() as browser, tab(browser, ours) as seen:
            await seen.log_in(token)
            shown = [await _shown_ms(seen) for _ in range(_TIMES)]
    return statistics.median(answers), statistics.median(shown)


def _answered_ms(ours: PageSite, token: str) -> float:
    time.sleep(1.1)  # what the gateway knows of a second ago it tells at once
    request = urllib.request.Request(f"{ours.address}{_REQUEST}", headers={"Authorization": f"Bearer {token}"})
    began = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()
    return 1e3 * (time.perf_counter() - began)


async def _shown_ms(seen) -> float:  # noqa: ANN001 -- page_site.Tab
    await asyncio.sleep(1.1)
    began = time.perf_counter()
    await seen.page.reload(wait_until="commit")
    await seen.page.locator("tbody tr").nth(49).wait_for()
    await seen.settled()
    return 1e3 * (time.perf_counter() - began)


SUBJECTS = {"page": page}
