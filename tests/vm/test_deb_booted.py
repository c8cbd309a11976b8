"""The Debian package in a booted guest: installed, a node enrolled and seen, upgraded, downgraded, removed, purged; how long each takes."""

import contextlib
import json
import time

import image
import pytest
import pytest_asyncio
from guest import CONSOLE, Guest

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(1800)]

STEP_S = 300  # each, on an emulated processor that others use too
UNITS = "gatewayd.service gatewayd-keys.service mosquitto.service"
# systemd keeps its key for credentials on no file system that it knows to be in memory, as all of the guest's is.
DISK = "truncate -s 16M /var/disk && mkfs.ext4 -q /var/disk && mount -o loop /var/disk /var/lib/systemd"
HTTP = "http://127.0.0.1:8460"
OURS = "/opt/gatewayd /usr/bin/gatewayctl /etc/gatewayd /var/lib/gatewayd /run/gatewayd /run/gatewayd-keys /etc/mosquitto/gatewayd"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guest(request, tmp_path_factory):
    here = Guest(tmp_path_factory.mktemp("deb"), image.bare(), memory_mib=4096)
    request.config.stash[CONSOLE] = here.console
    async with here:
        await here.run(DISK)
        yield here


@contextlib.contextmanager
def timed(step):
    began = time.monotonic()
    yield
    print(f"{step}: {time.monotonic() - began:.1f} s")


async def runs(guest):
    """All units do, as who they should be, and the last start was well."""
    assert {*(await guest.run(f"systemctl is-active {UNITS} || true")).split()} == {"active"}, await guest.run(
        f"systemctl status {UNITS} || true"
    )
    assert (await guest.run("stat -c %U /proc/$(systemctl show --value -p MainPID gatewayd)")).strip() == "gatewayd"


async def fetched(guest, path, token=""):
    """What the gateway answers."""
    request = f"urllib.request.Request('{HTTP}{path}', headers={{'Authorization': 'Bearer {token}'}})"
    return await guest.run(f'python3 -c "import urllib.request; print(urllib.request.urlopen({request}).read().decode())"')


async def up(guest):
    """Until the node is."""
    began = time.monotonic()
    while 'gatewayd_node_up{node="press"} 1' not in (said := await fetched(guest, "/metrics")):
        assert time.monotonic() - began < STEP_S, said
    return said


async def test_it_is_installed_and_starts_in_its_sandbox(guest):
    with timed("install"):
        await guest.run(f"dpkg -i {image.OLD}", timeout_s=STEP_S)
    await runs(guest)
    await guest.run("systemd-analyze security --threshold=15 --no-pager gatewayd.service", timeout_s=STEP_S)


async def test_a_node_is_enrolled_and_seen(guest, host_build):
    program = (host_build / "ports" / "posix" / "gateway-node").read_bytes()
    await guest.run("cat >/root/gateway-node; chmod +x /root/gateway-node", program)
    with timed("enrol"):
        assert "█" in await guest.run("cd /root && gatewayctl node add press --broker 127.0.0.1:8883")  # a QR code
    with timed("from its start to seen"):
        node = "--id press --broker 127.0.0.1:8883 --psk /run/gatewayd-keys/psk --flash /root/node.flash"
        await guest.run(f"systemd-run --unit press /root/gateway-node {node}")
        await up(guest)
    token = (await guest.run("gatewayctl token add reader 2>/dev/null")).split()[-1]
    (press,) = json.loads(await fetched(guest, "/api/v1/nodes", token))["items"]
    assert (press["id"], press["up"]) == ("press", True)


@pytest.mark.parametrize(("step", "package"), [("upgrade", image.NEW), ("downgrade", image.OLD)])
async def test_another_version_keeps_what_is_known(guest, step, package):
    await guest.run("echo '# mine' >>/etc/gatewayd/gatewayd.toml")
    with timed(step):
        await guest.run(f"dpkg -i {package}", timeout_s=STEP_S)
    await runs(guest)
    await up(guest)
    assert (await guest.run("tail -n 1 /etc/gatewayd/gatewayd.toml")).strip() == "# mine"
    assert "reader" in await guest.run("gatewayctl token list")


async def test_it_is_removed_and_its_data_stays(guest):
    with timed("remove"):
        await guest.run("dpkg -r gatewayd", timeout_s=STEP_S)
    assert (await guest.run("systemctl is-active mosquitto")).strip() == "active"
    await guest.run(
        "test -e /var/lib/gatewayd/gatewayd.db && test ! -e /usr/lib/systemd/system/gatewayd.service && test ! -e /opt/gatewayd"
    )


async def test_a_purge_leaves_nothing(guest):
    with timed("purge"):
        await guest.run("dpkg -P gatewayd", timeout_s=STEP_S)
    assert not await guest.run(f"ls -d {OURS} /etc/mosquitto/conf.d/*gatewayd* 2>/dev/null || true")
    assert not await guest.run("getent passwd gatewayd; getent group gatewayd; systemctl list-unit-files --no-legend 'gatewayd*' || true")
    assert (await guest.run("systemctl is-active mosquitto")).strip() == "active"
