"""A board that is told the name of its broker finds it: the address, the name server and the way there come by DHCP.

QEMU's network asks the host's name server, so all of it runs in network and mount namespaces of its own.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from live import until
from machine import Machine

from gatewayd import provisioning
from gatewayd.core.types import Provisioning, Security
from gatewayd.demo import site

ROOT = os.geteuid() == 0
NAMESPACES = ("unshare", "--net", "--mount", *(() if ROOT else ("--map-root-user",)))
USER = () if ROOT else ("--user", "--preserve-credentials")
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
NETWORK = "user,net=10.7.0.0/24,dhcpstart=10.7.0.80"  # this machine is .2, its name server .3
CONFIG = "listener 8883\npsk_file PSK\npsk_hint site\nuse_identity_as_username true\nuser root\n"
KEY = bytes(16)


def allowed():
    return subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not allowed(), reason="the kernel does not allow network and mount namespaces here")
async def test_a_broker_with_a_name(tmp_path):
    node = Provisioning("kitchen", "broker.site", 8883, Security.PSK, (), KEY)
    board = Machine(tmp_path / "board", provisioning.flash_image(node), network=NETWORK)
    (tmp_path / "psk").write_text(f"kitchen:{KEY.hex()}\n")
    (tmp_path / "mosquitto.conf").write_text(CONFIG.replace("PSK", str(tmp_path / "psk")))
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    log, broker_log = tmp_path / "dns.log", tmp_path / "broker.log"
    dns = [*NAMESPACES, sys.executable, "-u", Path(__file__).with_name("dns.py"), "broker.site", "10.7.0.2", tmp_path / "resolv.conf"]
    async with site.process(dns, log) as server:
        await until(lambda: "ready" in log.read_text(), log.read_text)
        inside = ("nsenter", f"--target={server.pid}", "--net", "--mount", f"--wd={board.folder}", *USER)
        async with site.process([*inside, MOSQUITTO, "-c", tmp_path / "mosquitto.conf"], broker_log):
            await until(lambda: "running" in broker_log.read_text(), broker_log.read_text)
            await board.start(*inside)
            try:
                await board.until_said("online")
            finally:
                await board.kill()
    assert "network: 10.7.0.80" in board.said()
    assert "asked" in log.read_text()
    assert "as kitchen (" in broker_log.read_text()
