"""`gatewayctl watch`: the site's traffic, decoded, one line a message."""

import asyncio
import contextlib
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiomqtt
from rich.console import Console
from rich.markup import escape

from gatewayd.config import Config, Mqtt
from gatewayd.core import wire
from gatewayd.core.types import GatewayState, Verdict
from gatewayd.errors import DecodeError, TransportError
from gatewayd.transports.mqtt import ROOT
from gatewayd.transports.replay import write_frame

_UP_LEVELS = 5  # nodelink/1/up/<node>/<tail>
_STYLE = {"event": "bold cyan", "verdict": "bold green", "state": "yellow"}


def watch_broker(config: Config, *, record: Path | None, seconds: float | None) -> None:
    """Print what passes the broker until Ctrl-C or for `seconds`. Raises TransportError."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_watch(config, record, seconds))


async def _watch(config: Config, record: Path | None, seconds: float | None) -> None:
    console = Console(soft_wrap=True)
    mqtt = config.mqtt
    began = time.monotonic()
    with ExitStack() as stack:
        file = stack.enter_context(record.open("wb")) if record else None
        try:
            async with broker_client(mqtt) as client, asyncio.timeout(seconds):
                await client.subscribe(f"{ROOT}/#", qos=0)
                async for message in client.messages:
                    topic = message.topic.value.split("/")
                    payload = bytes(message.payload)
                    if file and topic[2:3] == ["up"] and len(topic) == _UP_LEVELS:
                        write_frame(file, round((time.monotonic() - began) * 1_000), topic[3], topic[4], payload)
                    console.print(describe(topic[2:], payload), highlight=False)
        except TimeoutError:
            return
        except aiomqtt.MqttError as error:
            raise TransportError(f"MQTT broker {mqtt.host}:{mqtt.port}: {error}") from error


def broker_client(mqtt: Mqtt, identifier: str | None = None) -> aiomqtt.Client:
    """A connection to the site's broker, with the gateway's login. Raises ConfigError."""
    tls = aiomqtt.TLSParameters(ca_certs=str(mqtt.ca_file)) if mqtt.ca_file else None
    return aiomqtt.Client(mqtt.host, mqtt.port, username=mqtt.username, password=mqtt.secret(), identifier=identifier, tls_params=tls)


def describe(topic: list[str], payload: bytes) -> str:
    """One line of markup for the message under `topic` (without its root)."""
    direction, who, tail = (*topic, "", "", "")[:3]
    arrow = {"up": "→", "down": "←"}.get(direction, "·")
    head = f"{time.strftime('%H:%M:%S')} {arrow} [bold]{escape(who)}[/] [{_STYLE.get(tail, 'dim')}]{escape(tail)}[/] "
    try:
        if direction == "up":
            text = _fields(wire.decode(tail, payload))
        elif tail == "verdict":
            text = _fields(wire.decode_as(Verdict, payload))
        elif direction == "gateway":
            text = _fields(wire.decode_as(GatewayState, payload))
        else:
            text = f"{len(payload)} bytes"
    except DecodeError as error:
        return f"{head}[red]{escape(str(error))}[/]"
    return head + escape(text)


def _fields(message: Any) -> str:
    return " ".join(f"{name}={_plain(value)}" for name, value in message._asdict().items() if value is not None and value != ())


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex() if len(value) <= 32 else f"{len(value)}B"  # noqa: PLR2004 -- a SHA-256 is worth showing
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, tuple):
        inner = _fields(value) if hasattr(value, "_asdict") else " ".join(_plain(item) for item in value)
        return f"({inner})"
    return str(value)
