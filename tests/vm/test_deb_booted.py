"""The Debian package in a booted guest: installed, a node enrolled and seen on the page and in Prometheus, upgraded, downgraded, removed,
purged; how long each takes."""

import contextlib
import re
import time

import image
import pytest
import pytest_asyncio
from guest import CONSOLE, Guest

from gatewayd.demo import site

pytest.importorskip("playwright", reason="needs playwright: scripts/setup.sh dev")
from page_site import CHROMIUM, chromium, tab
from playwright.async_api import expect

pytestmark = [
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium"),
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(1800),
]

STEP_S = 600  # each, on an emulated processor that others use too
UNITS = "gatewayd.service gatewayd-keys.service mosquitto.service"
OFFLINE = "rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*"  # apt would look for each again and again
# systemd keeps its key for credentials on no file system that it knows to be in memory, as all of the guest's is.
DISK = "truncate -s 16M /var/disk && mkfs.ext4 -q /var/disk && mount -o loop /var/disk /var/lib/systemd"
QUERIES = 'up{job="gatewayd"} == 1', 'gatewayd_node_up{node="press"} == 1', "queue:gatewayd_fill:ratio"  # the last is of our rules
# From the port that is reached from outside to the gateway's on the loopback, as `ssh -L` does it.
TUNNEL = (
    "systemctl start systemd-networkd && /lib/systemd/systemd-networkd-wait-online"
    " && systemd-run --socket-property=ListenStream=80 /lib/systemd/systemd-socket-proxyd 127.0.0.1:8460"
)
OURS = "/opt/gatewayd /usr/bin/gatewayctl /etc/gatewayd /var/lib/gatewayd /run/gatewayd /run/gatewayd-keys /etc/mosquitto/gatewayd"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guest(request, tmp_path_factory):
    here = Guest(tmp_path_factory.mktemp("deb"), image.bare(), memory_mib=4096, port=site.free_port())
    request.config.stash[CONSOLE] = here.console
    async with here:
        await here.run(f"{OFFLINE} && {DISK}")
        await here.run(TUNNEL)
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


async def up(guest):
    """Until the node is."""
    began = time.monotonic()
    fetch = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8460/metrics').read().decode())"
    while 'gatewayd_node_up{node="press"} 1' not in (said := await guest.run(f'python3 -c "{fetch}"')):
        assert time.monotonic() - began < STEP_S, said


async def test_it_is_installed_and_starts_in_its_sandbox(guest):
    with timed("install, with Prometheus"):
        await guest.run(f"sh {image.INSTALL} --prometheus {image.OLD} {image.PROMETHEUS}/*.deb", timeout_s=STEP_S)
    await runs(guest)
    await guest.run("systemd-analyze security --threshold=15 --no-pager gatewayd.service", timeout_s=STEP_S)


async def test_a_node_is_enrolled_and_up(guest, host_build):
    program = (host_build / "ports" / "posix" / "gateway-node").read_bytes()
    await guest.run("cat >/root/gateway-node; chmod +x /root/gateway-node", program)
    with timed("enrol"):
        assert "█" in await guest.run("cd /root && gatewayctl node add press --broker 127.0.0.1:8883")  # a QR code, beside the file
    with timed("from its start to up"):
        await guest.run("systemd-run --unit press /root/gateway-node --flash /root/press.flash")
        await up(guest)


async def test_it_is_on_the_page(guest):
    token = (await guest.run("gatewayctl token add reader 2>/dev/null")).split()[-1]
    async with chromium() as browser, tab(browser, guest) as seen:
        seen.page.set_default_timeout(STEP_S * 1000)
        with timed("from its address to the node on the page"):
            await seen.log_in(token)
            await seen.settled()
            row = seen.page.get_by_role("table", name="Nodes").get_by_role("row").filter(has_text="press")
            await expect(row.locator(".badge")).to_have_text("up", timeout=STEP_S * 1000)
        await row.get_by_role("link", name="press", exact=True).click()
        await seen.settled()
        await expect(seen.page.locator(".heading")).to_have_text(re.compile(r"press\s*up"), timeout=STEP_S * 1000)
        assert seen.complaints == []


async def test_it_is_in_prometheus(guest):
    with timed("until Prometheus knows it"):
        for query in QUERIES:
            began = time.monotonic()
            while "=> " not in await guest.run(f"promtool query instant http://127.0.0.1:9090 '{query}'"):
                assert time.monotonic() - began < STEP_S, query


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
