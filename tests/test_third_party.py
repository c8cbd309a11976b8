"""Third-party sources: a second configure asks no network for anything."""

import shutil
import subprocess
from pathlib import Path

import pytest

FIRMWARE = Path(__file__).parents[1] / "node_firmware"


@pytest.mark.usefixtures("host_build")
def test_a_second_configure_needs_no_network():
    offline = ("unshare", "--net")
    if not shutil.which("unshare") or subprocess.run([*offline, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a network namespace")
    configure = ["cmake", "-S", FIRMWARE, "--preset", "host", "-DCMAKE_RULE_MESSAGES=OFF"]
    done = subprocess.run([*offline, *configure], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fetching" not in done.stdout
