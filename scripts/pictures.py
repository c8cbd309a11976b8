"""Makes docs/pictures/: the fleet page in Chromium, at the demo's site with its twelve nodes. Needs `make node`, and takes two minutes.

People talk and a bearing fails as in `make demo`, and a rollout begins. What lies before that, four weeks of events and a day of vitals,
is made up.
"""

import asyncio
import base64
import json
import math
import random
import sys
import tempfile
import time
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from gatewayd import app, bundle, config, signing
from gatewayd.core import image
from gatewayd.database import events, vitals
from gatewayd.demo import site, stage
from gatewayd.store import Store

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
from page_site import Tab, chromium, tab  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
LABELS = {
    "kitchen": ["ground-floor"],
    "hall": ["ground-floor"],
    "bedroom": ["upstairs"],
    "attic": ["upstairs"],
    "press": ["workshop"],
    "mill": ["workshop"],
}
DAYS, A_DAY = 28, 60
WEBP = """async png => {
    const bytes = Uint8Array.from(atob(png), one => one.charCodeAt(0));
    const image = await createImageBitmap(new Blob([bytes], {type: "image/png"}));
    const canvas = new OffscreenCanvas(image.width, image.height);
    canvas.getContext("2d").drawImage(image, 0, 0);
    const blob = await canvas.convertToBlob({type: "image/webp", quality: 0.85});
    return btoa(Array.from(new Uint8Array(await blob.arrayBuffer()), one => String.fromCharCode(one)).join(""));
}"""
DAY_S = 86_400.0


class Place:
    """The site, as far as pictures need it."""

    def __init__(self, folder: Path, http_port: int) -> None:
        self.config = folder / "gatewayd.toml"
        self.address = f"http://127.0.0.1:{http_port}"
        self.token = ""

    async def ctl(self, *words: str) -> str:
        """What gatewayctl prints. Raises RuntimeError with what it complains of."""
        command = (sys.executable, "-m", "gatewayd.cli", *words, "-c", str(self.config))
        running = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
        out, complaint = await running.communicate()
        if running.returncode:
            raise RuntimeError(complaint.decode())
        return out.decode().strip()

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The API's answer. Raises OSError."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(  # noqa: S310 -- our own gateway on the loopback
            f"{self.address}/api/v1{path}", data, headers, method="PUT" if body else "GET"
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.loads(answer.read() or "null")


async def main() -> None:
    """Build the site, let it work, and take the pictures."""
    with tempfile.TemporaryDirectory(prefix="gatewayd-pictures-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the broker has a user of its own
        print("making speech and vibration ...")
        sensors = await asyncio.to_thread(stage.build, folder)
        key = folder / "operator.pem"
        signing.make(key)
        private = signing.load_private(key)
        cascades = bundle.read_all(app.cascade_folders(config.Config()))
        images = {}
        for cascade, one in cascades.items():
            images[cascade] = folder / f"{cascade}.img"
            images[cascade].write_bytes(bundle.node_image(one, audit_s=30, key=private))
        newer = folder / "newer.bundle"
        newer.write_bytes(await asyncio.to_thread(_newer, folder, private))
        mqtt_port, http_port = site.free_port(), site.free_port()
        place = Place(folder, http_port)
        settings = f'[cascades]\nkeys = ["{key}.pub"]\n[escalation]\nqueue_size = 96\n'
        async with AsyncExitStack() as running:
            await running.enter_async_context(site.broker(folder, mqtt_port))
            site.write_config(folder, mqtt_port, http_port, settings)
            await _past(place, sensors, image.parse(images["wakeword"].read_bytes()).sha256[:8])
            await running.enter_async_context(site.gateway(folder, mqtt_port, http_port, settings))
            await site.healthy(place.address)
            place.token = await place.ctl("token", "add", "anna", "--scope", "operate")
            for sensor in sensors:
                inputs = [f"{'audio' if sensor.cascade == 'wakeword' else 'vibration'}:{sensor.wav}"]
                more = ("--key", f"{key}.pub", "--vitals-s", "5")
                command = site.node_command(folder, sensor.node, mqtt_port, [images[sensor.cascade]], inputs, *more)
                await running.enter_async_context(site.process(command, folder / f"{sensor.node}.log"))
            print(f"they talk for {stage.SECONDS} seconds ...")
            await asyncio.sleep(10)
            for node, labels in LABELS.items():
                await asyncio.to_thread(place.ask, f"/nodes/{node}/labels", {"labels": labels})
            await asyncio.sleep(stage.SECONDS - 40)
            await place.ctl("rollout", "start", str(newer), "--yes", "--groups", "2,4,100%", "--soak", "1d", "--json")
            await asyncio.sleep(30)
            await _pictures(place)


def _newer(folder: Path, private: Any) -> bytes:
    """A bundle of the wake word, with nothing new but its version."""
    copy = folder / "wakeword"
    copy.mkdir()
    for file in (app.SHIPPED_CASCADES / "wakeword").iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    toml = copy / "cascade.toml"
    toml.write_text(toml.read_text().replace('version = "1.0.0"', 'version = "1.1.0"'))
    return bundle.build(bundle.read(copy), counter=1, key=private)


async def _past(place: Place, sensors: list[stage.Sensor], model: bytes) -> None:
    """Weeks of events, at last of the `model` that runs now, and a day of vitals."""
    rng, now_s, settled = random.Random(28), time.time(), config.load(place.config)
    rooms = [sensor.node for sensor in sensors if sensor.cascade == "wakeword"]
    begin_s = now_s // DAY_S * DAY_S - (DAYS - 1) * DAY_S
    old = [_event(rng, rooms, number, begin_s, model) for number in range(int((now_s - begin_s) / DAY_S * A_DAY))]
    day = [row for sensor in sensors for row in _vitals(rng, sensor.node, now_s)]
    async with Store(settled.store, settled.store_url) as store:
        with store.writing() as connection:
            connection.execute(sa.insert(events), old)
            connection.execute(sa.insert(vitals), day)


def _event(rng: random.Random, rooms: list[str], number: int, begin_s: float, model: bytes) -> dict[str, Any]:
    audit, second = rng.random() < 0.3, number >= DAYS * A_DAY * 0.6
    agreed = rng.random() < (0.02 if audit else 0.86 if second else 0.74)
    return {
        "node": rng.choice(rooms),
        "session": 1,
        "seq": number,
        "arrived_s": begin_s + number / A_DAY * DAY_S,
        "cascade": "wakeword",
        "model": model if second else bytes.fromhex("9f2c4e1ab03d77c1"),
        "score": rng.uniform(0.2, 1.0),
        "label": 0,
        "t_ms": 0,
        "reason": "audit" if audit else "trigger",
        "accepted": agreed,
        "verdict_label": "okay_nabu" if agreed else "",
        "verdict_score": 0.9,
        "action": "listen" if agreed else "none",
        "basis": "gateway",
        "judge": "wakeword 1.0.0",
        "heard": "",
        "stages": "[]",
        "latency_s": 0.1,
        "wait_s": 0.01,
        "model_s": 0.08,
    }


def _vitals(rng: random.Random, node: str, now_s: float) -> list[dict[str, Any]]:
    full, near = rng.uniform(0.5, 0.95), rng.randint(-75, -45)
    return [
        {
            "node": node,
            "at_s": now_s - (288 - i) * 300,
            "battery": full - i * 0.0004,
            "rssi_dbm": near + round(6 * math.sin(i / 23) + rng.gauss(0, 1.5)),
            "heap_free_bytes": None,
            "stack_free_bytes": None,
            "queued": max(0, round(4 * math.sin(i / 40))),
            "uptime_s": 300 * i,
            "invoke_us": rng.gauss(24, 1),
        }
        for i in range(288)
        if not 150 < i < 158  # it was away
    ]


async def _pictures(place: Place) -> None:
    PICTURES.mkdir(exist_ok=True)
    heard = place.ask("/events?cascade=wakeword&reason=trigger&agreed=true&limit=200")["items"]
    spoken = next(row for row in heard if row["window"])
    failing = place.ask("/events?node=press&limit=1")["items"][0]
    number = place.ask("/rollouts")[0]["id"]
    views = {
        "fleet": "", "node": "nodes/kitchen", "event": f"events/{spoken['id']}", "vibration": f"events/{failing['id']}",
        "rollout": f"rollouts/{number}", "cascade": "cascades/wakeword",
    }  # fmt: skip
    async with chromium() as browser:
        for look in ("light", "dark", "phone"):
            async with tab(browser, place, dark=look == "dark", phone=look == "phone") as seen:
                await seen.log_in(place.token)
                for view, path in views.items():
                    await _picture(seen, path, PICTURES / f"{view}-{look}.webp")


async def _picture(seen: Tab, path: str, file: Path) -> None:
    await seen.go(path)
    await seen.page.wait_for_timeout(1_500)  # for a recording to be there
    await seen.page.mouse.move(0, 0)
    png = base64.b64encode(await seen.page.screenshot()).decode()
    webp = await seen.page.evaluate(WEBP, png)  # a third of PNG's size
    file.write_bytes(base64.b64decode(webp))
    print(f"{file.name}: {file.stat().st_size >> 10} KiB")


if __name__ == "__main__":
    asyncio.run(main())
