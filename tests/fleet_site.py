"""A site whose nodes take updates: a broker, a gateway, and a fleet of the real node core with a signed image, for tests and benchmarks."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from live import Live, until

from gatewayd import bundle, signing
from gatewayd.demo import site

FLEET = site.NODE_PROGRAM.with_name("gateway-fleet")
MODEL = "okay_nabu.tflite", "hey_jarvis.tflite"  # 50 KB, and another word's: nobody speaks here
WAKEWORD = Path(__file__).parent.parent / "cascades" / "wakeword"


class FleetSite(Live):
    """`folder` has the operator's key, the image of version 1.0.0 that the nodes begin with, and the bundle of 2.0.0.

    The gateway has no larger model: what moves is the node's half.
    """

    def __init__(self, folder):
        super().__init__(folder, settings=f'keys = ["{folder / "operator.pem.pub"}"]\n')
        self.key = folder / "operator.pem"
        signing.make(self.key)
        self._cascade("1.0.0")
        private = signing.load_private(self.key)
        self.image = folder / "old.img"
        self.image.write_bytes(bundle.node_image(bundle.read(self.cascade), key=private))
        self._cascade("2.0.0")
        self.bundle = folder / "new.bundle"
        self.bundle.write_bytes(bundle.build(bundle.read(self.cascade), counter=1, key=private))
        self._cascade("1.0.0")

    def _cascade(self, version):
        text = (WAKEWORD / "cascade.toml").read_text().replace('version = "1.0.0"', f'version = "{version}"').replace(*MODEL)
        (self.cascade / "cascade.toml").write_text(re.sub(r"\[gateway\].*?(?=\[policy\])", "", text, flags=re.DOTALL))
        shutil.copy(WAKEWORD / "CARD.md", self.cascade)

    def bundle_image(self):
        """What each node is sent."""
        return bundle.open_bundle(self.bundle, None).members[bundle.NODE_IMAGE]

    @contextlib.asynccontextmanager
    async def fleet(self, count, *more):
        """`count` nodes; what they counted is in `fleet_says()` after the block."""
        command = [
            FLEET,
            "--broker",
            f"127.0.0.1:{self.mqtt_port}",
            "--count",
            str(count),
            "--image",
            self.image,
            "--key",
            f"{self.key}.pub",
        ]
        self.fleet_log = self.folder / "fleet.log"
        async with site.process([*command, *more], self.fleet_log) as running:
            await until(lambda: f"{count} online" in self.fleet_log.read_text(), self.fleet_log.read_text)
            yield running

    def fleet_says(self):
        return json.loads(self.fleet_log.read_text().splitlines()[-1])

    def rollout(self, *arguments):
        """`gatewayctl rollout ...`, as an operator runs it, but not on the event loop's time."""
        command = [sys.executable, "-m", "gatewayd.cli", "rollout", *map(str, arguments), "-c", str(self.config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def status(self, id_="1"):
        return json.loads(self.rollout("status", id_, "--json"))
