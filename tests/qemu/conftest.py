"""What boards need of this machine, or the reason why their tests are skipped."""

import os
import shutil

import m4
import machine
import pytest


@pytest.fixture(scope="session", autouse=True)
def firmware():
    """The firmware that most tests run, up to date."""
    for program in ("mosquitto", "mosquitto_pub", "espeak-ng"):
        if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin"):
            pytest.skip(f"{program} is not installed (Debian: {PACKAGES.get(program, program)})")
    try:
        return machine.firmware("qemu-m4")
    except m4.Missing as missing:
        pytest.skip(str(missing))


PACKAGES = {"mosquitto_pub": "mosquitto-clients"}
