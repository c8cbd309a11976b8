"""What boards need of this machine, or the reason why their tests are skipped."""

import os
import shutil

import m4
import machine
import place
import pytest

PACKAGES = {"mosquitto_pub": "mosquitto-clients"}


@pytest.fixture(scope="session", autouse=True)
def firmware():
    """All its builds, up to date."""
    for program in ("mosquitto", "mosquitto_pub", "espeak-ng"):
        if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin"):
            pytest.skip(f"{program} is not installed (Debian: {PACKAGES.get(program, program)})")
    try:
        for preset in machine.BOARDS:
            machine.firmware(preset)
    except m4.Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def models(firmware, tmp_path_factory):
    """What place.models() makes."""
    return place.models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def site(tmp_path, models):
    """Function from the names of nodes to their place."""
    return lambda *names: place.Place(tmp_path, models, names)
