"""The processes of a small site on loopback ports of its own: broker, gateway, nodes. Each ends when its block ends, by its id."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from gatewayd import config
from gatewayd.errors import ConfigError
from gatewayd.store import Store
from gatewayd.tokens import Tokens

START_TIMEOUT_S = 30.0
_HEALTH_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 15.0
_ROOT = Path(__file__).resolve().parents[2]
BROKER_FILES = _ROOT / "deploy" / "mosquitto"
NODE_PROGRAM = _ROOT / "build" / "host" / "ports" / "posix" / "gateway-node"


def free_port() -> int:
    """A loopback TCP port that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def process(
    command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `command` while the block runs, its output in `log`; SIGTERM at the end, SIGKILL if that is not enough."""
    with log.open("ab") as file:
        running = await asyncio.create_subprocess_exec(
            *map(str, command), stdin=asyncio.subprocess.DEVNULL, stdout=file, stderr=file, env={**os.environ, **(env or {})}
        )
    try:
        yield running
    finally:
        await end(running)


async def end(running: asyncio.subprocess.Process, number: int = signal.SIGTERM) -> int:
    """End a process with a signal; its exit status."""
    if running.returncode is None:
        running.send_signal(number)
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                await running.wait()
        except TimeoutError:
            running.kill()
    return await running.wait()


async def listening(port: int, running: asyncio.subprocess.Process, log: Path) -> None:
    """Wait until `running` listens on `port`. Raises ConfigError with its log where it does not."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_TIMEOUT_S):
            while running.returncode is None:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return
    said = await asyncio.to_thread(log.read_text, errors="replace")
    raise ConfigError(f"process {running.pid} does not listen on port {port}:\n{said[-2000:]}")


@contextlib.asynccontextmanager
async def broker(folder: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A private MQTT broker: mosquitto with the demo's configuration, or iotcore where mosquitto is not installed."""
    log = folder / "broker.log"
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    command: list[str | Path] = [sys.executable, "-m", "gatewayd.demo.iotcore", str(port)]
    if program:
        command = [program, "-c", _mosquitto_config(folder, port)]
    async with process(command, log) as running:
        await listening(port, running, log)
        yield running


def _mosquitto_config(folder: Path, port: int) -> Path:
    """The demo's overlay with this site's port and folder filled in."""
    data = folder / "mosquitto"
    data.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        shutil.chown(folder, group="mosquitto")
        shutil.chown(data, "mosquitto", "mosquitto")
    text = (BROKER_FILES / "demo.conf").read_text()
    text = text.replace("@PORT@", str(port)).replace("@STATE@", str(data)).replace("@FOLDER@", str(BROKER_FILES))
    path = folder / "mosquitto.conf"
    path.write_text(text)
    return path


@contextlib.asynccontextmanager
async def gateway(folder: Path, mqtt_port: int, http_port: int, settings: str = "") -> AsyncIterator[asyncio.subprocess.Process]:
    """A gateway with its state in `folder`; `settings` is more TOML."""
    path = write_config(folder, mqtt_port, http_port, settings)
    log = folder / "gateway.log"
    async with process([sys.executable, "-m", "gatewayd.cli", "run", "-c", path], log) as running:
        await listening(http_port, running, log)
        yield running


async def fetch(url: str) -> str:
    """What our own gateway on the loopback answers. Raises OSError."""

    def get() -> str:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 -- see above
            text: str = answer.read().decode()
            return text

    return await asyncio.to_thread(get)


async def healthy(address: str) -> None:
    """Wait until the gateway says that it is whole. Raises TimeoutError."""
    async with asyncio.timeout(_HEALTH_TIMEOUT_S):
        while True:
            with contextlib.suppress(OSError):  # 503 is one too
                await fetch(f"{address}/healthz")
                return
            await asyncio.sleep(0.2)


def page(folder: Path, address: str) -> str:
    """Where the fleet page of the site in `folder` is, and a token that opens it, for whoever looks on."""
    settings = config.load(folder / "gatewayd.toml")
    with Store(settings.store, settings.store_url) as store:
        return f"the fleet page is at {address}, and this token opens it: {Tokens(store).add('demo', 'operate')}"


def write_config(folder: Path, mqtt_port: int, http_port: int, settings: str = "") -> Path:
    """The configuration of `gateway`."""
    state = folder / "state"
    state.mkdir(exist_ok=True)
    path = folder / "gatewayd.toml"
    path.write_text(
        f"[mqtt]\nport = {mqtt_port}\n[http]\nport = {http_port}\n{settings}\n"
        f'[gateway]\nid = "demo"\nenroll = ["*"]\nstate_dir = "{state}"\n'
    )
    return path


def node_command(
    folder: Path, node: str, links: int | Sequence[str], images: Sequence[Path], inputs: Sequence[str], *more: str
) -> list[str | Path]:
    """The command that runs one node of the C firmware; `links` are its options, or its broker's port. Raises ConfigError where it is not
    built.
    """
    if not NODE_PROGRAM.is_file():
        raise ConfigError(f"{NODE_PROGRAM} is not built: run `make node`")
    command: list[str | Path] = [NODE_PROGRAM, "--id", node, "--flash", folder / f"{node}.flash"]
    command += ("--broker", f"127.0.0.1:{links}") if isinstance(links, int) else links
    for image in images:
        command += ["--image", image]
    for spec in inputs:
        command += ["--input", spec]
    return [*command, *more]
