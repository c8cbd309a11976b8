"""deploy/ and systemd/: what an operator installs, tried with the programs that read it."""

import asyncio
import configparser
import json
import os
import re
import shutil
import socket
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gatewayd import config
from gatewayd.nodekeys import access_list, set_psk

ROOT = Path(__file__).parents[1]
MOSQUITTO = ROOT / "deploy" / "mosquitto"
UNIT = ROOT / "systemd" / "gatewayd.service"
UNITS = [UNIT, UNIT.with_name("gatewayd-keys.service")]
KITCHEN, CELLAR = "0123456789abcdef0123456789abcdef", "f" * 32
KEYS = {"kitchen": KITCHEN, "cellar": CELLAR}
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def needs(program):
    return pytest.mark.skipif(not shutil.which(program, path=PATH), reason=f"needs {program}")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


# ---- mosquitto


class Broker:
    """A running mosquitto."""

    def __init__(self, port, tls_port=0):
        self.port = port
        self.tls_port = tls_port

    async def client(self, program, *arguments, login=(), stdin=None, timeout_s=15):
        """Run mosquitto_pub or mosquitto_sub. Returns exit status and all that it printed."""
        command = (program, "-h", "127.0.0.1", *login, *arguments)
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        out, _ = await asyncio.wait_for(process.communicate(), timeout_s)
        return process.returncode, out.decode()

    def node(self, name, key):
        return ("-p", str(self.tls_port), "--psk-identity", name, "--psk", key, "-i", name, "-V", "mqttv311")

    def gateway(self, password="secret"):
        return ("-p", str(self.port), "-u", "gatewayd", "-P", password)

    async def heard(self, topic, login, publish):
        """The topics that arrive under `topic` while `publish()` runs. It ends with a marker on the same subscription."""
        command = (
            "stdbuf",
            "-oL",
            "mosquitto_sub",
            "-h",
            "127.0.0.1",
            *login,
            "-q",
            "1",
            "-t",
            topic,
            "-t",
            "nodelink/1/gateway/+/state",
            "-d",
            "-F",
            "%t",
        )
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
        try:
            async with asyncio.timeout(15):
                async for line in process.stdout:
                    if b"Subscribed" in line:
                        break
                await publish()
                await self.client("mosquitto_pub", "-t", "nodelink/1/gateway/end/state", "-m", "end", "-q", "1", login=self.gateway())
                topics = []
                async for line in process.stdout:
                    if line.startswith(b"nodelink/"):
                        topics.append(line.decode().strip())
                        if topics[-1].endswith("end/state"):
                            return topics[:-1]
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


@asynccontextmanager
async def running(folder, text, port, tls_port=0):
    """mosquitto with `text` as its configuration."""
    (folder / "data").mkdir(exist_ok=True)
    (folder / "mosquitto.conf").write_text(text)
    if os.geteuid() == 0:  # it drops root, and must reach its files then
        for above in (folder, *folder.parents):
            if above.name.startswith(("pytest-", "test_")):
                above.chmod(0o755)
        for path in (folder / "data", *folder.glob("secrets"), *folder.glob("secrets/*")):
            shutil.chown(path, "mosquitto", "mosquitto")
    log = folder / "log"
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            shutil.which("mosquitto", path=PATH), "-c", folder / "mosquitto.conf", stdout=output, stderr=output
        )
    try:
        async with asyncio.timeout(15):
            while process.returncode is None:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    break
        assert process.returncode is None, log.read_text()
        assert "Error" not in log.read_text()
        yield Broker(port, tls_port)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@asynccontextmanager
async def site(folder, keys=KEYS):
    """The production configuration as its header says to install it, on free ports and with its files in `folder`."""
    conf_d, secrets = folder / "conf.d", folder / "secrets"
    conf_d.mkdir()
    secrets.mkdir()
    port, tls_port = free_port(), free_port()
    for file in (*MOSQUITTO.glob("shared/*.conf"), *MOSQUITTO.glob("site/*.conf")):
        text = file.read_text().replace("/etc/mosquitto/gatewayd", str(secrets)).replace("/run/gatewayd-keys", str(secrets))
        text = re.sub(r"^listener 1883\b", f"listener {port}", text, flags=re.MULTILINE)
        text = re.sub(r"^listener 8883\b.*", f"listener {tls_port} 127.0.0.1", text, flags=re.MULTILINE)
        (conf_d / file.name).write_text(text)
    (secrets / "acl").write_bytes(access_list((MOSQUITTO / "site" / "acl").read_text(), keys))
    (secrets / "psk").touch()
    for name, key in keys.items():
        set_psk(secrets / "psk", name, bytes.fromhex(key))
    hashing = await asyncio.create_subprocess_exec("mosquitto_passwd", "-c", "-b", secrets / "passwords", "gatewayd", "secret")
    assert await hashing.wait() == 0
    debian = f"persistence true\npersistence_location {folder}/data/\nlog_dest stderr\npid_file {folder}/data/pid\ninclude_dir {conf_d}\n"
    async with running(folder, debian, port, tls_port) as broker:
        yield broker


@needs("mosquitto")
@needs("mosquitto_pub")
async def test_a_node_speaks_with_its_key_and_only_for_itself(tmp_path):
    async with site(tmp_path) as broker:
        kitchen, cellar = broker.node("kitchen", KITCHEN), broker.node("cellar", CELLAR)

        async def publish(topic, login, *more):
            return await broker.client("mosquitto_pub", "-t", topic, "-m", "x", "-q", "1", *more, login=login)

        async def up():
            assert await publish("nodelink/1/up/kitchen/event", kitchen) == (0, "")
            await publish("nodelink/1/up/cellar/event", kitchen)  # not its own
            await publish("nodelink/1/up/cellar/event", kitchen, "-i", "cellar", "-u", "cellar")  # nor under a false name
            await publish("nodelink/1/down/kitchen/verdict", kitchen)
            await publish("nodelink/1/gateway/x/state", kitchen)
            assert await publish("nodelink/1/up/cellar/state", cellar) == (0, "")

        assert await broker.heard("nodelink/1/#", broker.gateway(), up) == ["nodelink/1/up/kitchen/event", "nodelink/1/up/cellar/state"]

        async def down():
            for node in ("cellar", "kitchen"):
                assert await publish(f"nodelink/1/down/{node}/verdict", broker.gateway()) == (0, "")
            assert await publish("nodelink/1/up/cellar/event", cellar) == (0, "")

        assert await broker.heard("#", kitchen, down) == ["nodelink/1/down/kitchen/verdict"]


@needs("mosquitto")
@needs("mosquitto_pub")
async def test_who_has_no_key_stays_outside(tmp_path):
    async with site(tmp_path) as broker:
        publish = ("mosquitto_pub", "-t", "nodelink/1/up/kitchen/event", "-m", "x", "-q", "1")
        for login in (
            broker.node("kitchen", CELLAR),
            broker.node("stranger", KITCHEN),
            ("-p", str(broker.tls_port)),
            ("-p", str(broker.port)),
            ("-p", str(broker.port), "-u", "kitchen"),
            broker.gateway("wrong"),
        ):
            status, _ = await broker.client(*publish, login=login)
            assert status != 0, login
        assert (await broker.client(*publish, login=broker.gateway()))[0] == 0


@needs("mosquitto")
@needs("mosquitto_pub")
async def test_only_the_gateway_announces_to_home_assistant(tmp_path):
    topics = [f"homeassistant/device/{name}/config" for name in ("forged", "real")]
    async with site(tmp_path) as broker:
        for topic, login in zip(topics, (broker.node("kitchen", KITCHEN), broker.gateway()), strict=True):
            assert (await broker.client("mosquitto_pub", "-t", topic, "-m", topic, "-q", "1", "-r", login=login))[0] == 0
        asked = [part for topic in topics for part in ("-t", topic)]  # what is retained comes in this order
        assert await broker.client("mosquitto_sub", *asked, "-C", "1", login=broker.gateway()) == (0, f"{topics[1]}\n")


@needs("mosquitto")
@needs("mosquitto_pub")
async def test_an_allowed_payload_passes_and_a_huge_one_does_not(tmp_path):
    async with site(tmp_path) as broker:
        sizes = (98_304, 98_305, 110_000, 1_000_000)
        for size in sizes:
            (tmp_path / str(size)).write_bytes(bytes(size))

        async def publish():
            for size in sizes:
                file = str(tmp_path / str(size))
                topic = f"nodelink/1/up/kitchen/{size}"
                await broker.client("mosquitto_pub", "-t", topic, "-f", file, "-q", "1", login=broker.node("kitchen", KITCHEN))

        topics = await broker.heard("nodelink/1/up/+/+", broker.gateway(), publish)
    assert topics == ["nodelink/1/up/kitchen/98304", "nodelink/1/up/kitchen/98305"]


@needs("mosquitto")
@needs("mosquitto_pub")
async def test_what_waits_for_the_gateway_survives_a_restart_of_the_broker(tmp_path):
    away = ("-i", "gatewayd-x", "-c", "-q", "1", "-t", "nodelink/1/up/+/+")
    async with site(tmp_path) as broker:
        text = (tmp_path / "mosquitto.conf").read_text()
        assert (await broker.client("mosquitto_sub", *away, "-E", login=broker.gateway()))[0] == 0
        events = ("mosquitto_pub", "-t", "nodelink/1/up/kitchen/event", "-q", "1", "--repeat", "2000", "-m", "x")
        assert (await broker.client(*events, login=broker.node("kitchen", KITCHEN)))[0] == 0
    async with running(tmp_path, text, broker.port, broker.tls_port):
        status, out = await broker.client("mosquitto_sub", *away, "-C", "2000", login=broker.gateway(), timeout_s=30)
    assert (status, out.count("x")) == (0, 2_000)


@needs("mosquitto")
@needs("mosquitto_pub")
async def test_the_demo_is_open_on_the_loopback(tmp_path):
    port = free_port()
    text = (MOSQUITTO / "demo.conf").read_text()
    filled = text.replace("@PORT@", str(port)).replace("@STATE@", str(tmp_path / "data")).replace("@FOLDER@", str(MOSQUITTO))
    assert "@" not in "".join(line for line in filled.splitlines() if not line.startswith("#"))
    async with running(tmp_path, filled, port) as broker:
        assert await broker.client("mosquitto_pub", "-t", "nodelink/1/up/kitchen/state", "-m", "x", "-r", login=("-p", str(port))) == (
            0,
            "",
        )
        got = await broker.client("mosquitto_sub", "-t", "nodelink/1/up/+/state", "-C", "1", login=("-p", str(port)))
        assert got == (0, "x\n")


# ---- systemd


@pytest.fixture(scope="module")
def unit():
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(UNIT)
    return parser


@needs("systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_sandbox_is_tight(unit):
    command = ["systemd-analyze", "security", "--offline=yes", "--json=short", "--no-pager", "--threshold=15", unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # the threshold is in tenths: 1.5
    assert json.loads(done.stdout)


@needs("systemd-analyze")
@pytest.mark.parametrize("source", UNITS, ids=lambda unit: unit.stem)
def test_systemd_understands_the_unit(tmp_path, source):
    unit = tmp_path / source.name
    unit.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={shutil.which('true')}", source.read_text(), flags=re.MULTILINE))
    done = subprocess.run(["systemd-analyze", "verify", "--recursive-errors=no", unit], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@needs("systemd-sysusers")
def test_systemd_understands_the_user(unit):
    command = ["systemd-sysusers", "--dry-run", ROOT / "systemd" / "sysusers.d" / "gatewayd.conf"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert "Failed" not in said
    assert f"Creating user '{unit['Service']['User']}'" in said or not said  # nothing to do where gatewayd is installed


def test_unit_and_configuration_agree(unit):
    service = unit["Service"]
    assert Path("/var/lib") / service["StateDirectory"] == config.Gateway().state_dir
    assert Path("/etc") / service["ConfigurationDirectory"] == config.DEFAULT_PATH.parent
    assert service["Type"] == "notify"
    assert service["NotifyAccess"] == "main"
    assert service["KillMode"] == "mixed"
    keys = UNITS[1].read_text()
    assert f"RuntimeDirectory={config.Enrolment().broker_dir.name}\n" in keys
    assert config.Enrolment().broker_dir.parent == Path("/run")


# ---- Prometheus


@needs("promtool")
def test_prometheus_understands_the_scrape_job():
    file = ROOT / "deploy" / "prometheus" / "prometheus.yml"
    done = subprocess.run(["promtool", "check", "config", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f'"{config.Http().host}:{config.Http().port}"' in file.read_text()


@needs("promtool")
def test_the_alerts_fire_when_they_must_and_not_before():
    done = subprocess.run(
        ["promtool", "test", "rules", ROOT / "tests" / "prometheus_rules.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
