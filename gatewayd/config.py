"""What an operator may set: a TOML file, overridden by the environment, overridden by the command line."""

import contextlib
import difflib
import ipaddress
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, Strict, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from gatewayd.errors import ConfigError

DEFAULT_PATH = Path("/etc/gatewayd/gatewayd.toml")
PREFIX = "GATEWAYD_"
_PATH_VARIABLE = "GATEWAYD_CONFIG"

Folder = Annotated[Path, Strict(strict=False)]  # strict pydantic takes no text for a path,
Texts = Annotated[tuple[str, ...], Strict(strict=False)]  # and no TOML array for a tuple
Paths = Annotated[tuple[Folder, ...], Strict(strict=False)]
Port = Annotated[int, Field(ge=1, le=65535)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Every part of the configuration: frozen, of exact types, and without unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)


class Gateway(Section):
    """Who this gateway is, and which nodes it trusts."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,30}$")] = "gateway"
    """Its name in topics and metrics; one name, one gateway."""
    state_dir: Folder = Path("/var/lib/gatewayd")
    """Folder of the database and of the bundles."""
    enroll: Texts = ()
    """Patterns of the node ids that are enrolled at sight, like "kitchen-*"; ["*"] enrolls all, [] leaves it to the operator."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe message that is logged."""

    def enrolls(self, node: str) -> bool:
        """Whether policy enrolls `node` at sight."""
        return any(fnmatchcase(node, pattern) for pattern in self.enroll)


class Mqtt(Section):
    """The broker."""

    host: str = "127.0.0.1"
    """Name or address of the broker."""
    port: Port = 1883
    """Its TCP port."""
    username: str | None = None
    """User name; without one the gateway logs in anonymously."""
    password: SecretStr | None = None
    """Password; better in a file of its own, see password_file."""
    password_file: Folder | None = None
    """File whose first line is the password."""
    ca_file: Folder | None = None
    """CA certificate of the broker; with it the link is TLS."""
    keepalive_s: Annotated[int, Field(ge=5, le=3600)] = 30
    """Silence after which the broker calls the gateway offline."""

    def secret(self) -> str | None:
        """The password from wherever it is. Raises ConfigError where its file cannot be read."""
        if self.password_file is None:
            return self.password.get_secret_value() if self.password else None
        try:
            return self.password_file.read_text().split("\n", 1)[0]
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"mqtt.password_file: {exc}") from exc


class Ble(Section):
    """Bluetooth Low Energy; off unless an adapter is named."""

    adapters: Texts = ()
    """Adapters of BlueZ, like ["hci0"]."""
    hci: str = ""
    """A controller that is not BlueZ's but package bumble's, like "serial:/dev/ttyACM0,1000000", "usb:0" or "tcp-client:127.0.0.1:9000"."""
    connections: Annotated[int, Field(ge=1, le=32)] = 5
    """Connections that an adapter may have at once; most controllers take five to seven."""
    idle_s: Annotated[float, Field(ge=1, le=3600)] = 10.0
    """Silence after which a connection is given up."""
    pairing: Literal["open", "required"] = "open"
    """Whether a node has to have paired, with a passkey or a comparison, before anything is said to it or heard from it."""

    @property
    def on(self) -> bool:
        """Whether there is an adapter."""
        return bool(self.adapters or self.hci)


class Http(Section):
    """Where the fleet page, the API, /metrics and /healthz are served."""

    host: str = "127.0.0.1"
    """Address to listen on; another than the loopback needs a certificate."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8460
    """TCP port; 0 takes a free one."""
    tls_certificate: Folder | None = None
    """Certificate (PEM, with those that it depends on), for the names by which browsers find this gateway."""
    tls_key: Folder | None = None
    """Its private key (PEM)."""

    @model_validator(mode="after")
    def _encrypted_beyond_this_machine(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise PydanticCustomError("tls", "tls_certificate and tls_key go together")
        if not self.tls and not self.loopback:
            raise PydanticCustomError("tls", "a host that is not the loopback needs tls_certificate and tls_key")
        return self

    @property
    def tls(self) -> bool:
        """Whether there is TLS."""
        return self.tls_certificate is not None

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return self.host == "localhost"


class Store(Section):
    """What is remembered, and for how long."""

    url: str = ""
    """SQLAlchemy URL, for PostgreSQL "postgresql+psycopg://..."; empty: gatewayd.db in gateway.state_dir."""
    commit_ms: Annotated[float, Field(ge=0, le=1000)] = 20.0
    """Shortest time between two commits; events that arrive in between share one."""
    queue_size: Count = 20_000
    """Events that may wait for the disk; beyond it they are refused and the broker keeps them."""
    events_days: Count = 365
    """Days that the record of an event is kept."""
    events_max_rows: Count = 5_000_000
    """Most records that are kept."""
    clips_days: Annotated[int, Field(ge=0)] = 7
    """Days that the raw window of an event is kept; 0 never stores one."""
    clips_max_bytes: Annotated[int, Field(ge=0)] = 1_000_000_000
    """Most bytes of raw windows that are kept."""


class Escalation(Section):
    """How larger models are asked."""

    queue_size: Count = 64
    """Events that may wait for a larger model; beyond it the node's own opinion stands."""
    workers: Annotated[int, Field(ge=1, le=16)] = 1
    """Worker processes for each cascade."""


class Cascades(Section):
    """Which cascades are loaded, and whose bundles may replace them."""

    folders: Paths = ()
    """One folder a cascade; empty: those that came with gatewayd. A bundle that was rolled out takes the place of its folder."""
    keys: Paths = ()
    """Public keys (PEM) of which one must have signed a bundle; without any, no bundle is taken. `gatewayctl keys make` makes one."""


class Enrolment(Section):
    """Where `gatewayctl node add` puts the keys of nodes, and what it tells nodes."""

    broker: Annotated[str, Field(pattern=r"^$|^[A-Za-z0-9._-]{1,63}:\d{1,5}$")] = ""
    """Where nodes find the broker, like "192.0.2.7:8883": a name or an IPv4 address, and a port."""
    credential: Folder = Path("/etc/gatewayd/node-keys.cred")
    """The keys of all nodes, encrypted by systemd-creds for this machine alone."""
    broker_dir: Folder = Path("/run/gatewayd-keys")
    """Folder in memory with mosquitto's psk_file "psk" and acl_file "acl", which are made of the credential and of acl_file."""
    acl_file: Folder = Path("/etc/mosquitto/gatewayd/acl")
    """Access list of the broker's other users, to which an entry for each node with a key is added."""
    broker_pid_file: Folder = Path("/run/mosquitto/mosquitto.pid")
    """mosquitto's pid_file: who is told to read its files again."""


class HomeAssistant(Section):
    """Nodes as devices of Home Assistant, by its MQTT discovery on the same broker."""

    enabled: bool = False
    """Whether it is told."""
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] = "homeassistant"
    """Its discovery prefix, as in its MQTT settings."""


class Config(Section):
    """The whole configuration. `load()` makes one."""

    gateway: Gateway = Gateway()
    mqtt: Mqtt = Mqtt()
    ble: Ble = Ble()
    http: Http = Http()
    store: Store = Store()
    escalation: Escalation = Escalation()
    cascades: Cascades = Cascades()
    enrolment: Enrolment = Enrolment()
    homeassistant: HomeAssistant = HomeAssistant()

    @property
    def store_url(self) -> str:
        """SQLAlchemy URL of the database."""
        return self.store.url or f"sqlite:///{self.gateway.state_dir / 'gatewayd.db'}"

    @property
    def bundles(self) -> Path:
        """Folder of the bundles."""
        return self.gateway.state_dir / "bundles"


def load(path: Path | None = None, flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """Read the configuration from `path` (else GATEWAYD_CONFIG, else DEFAULT_PATH, which need not exist), the environment
    (GATEWAYD_MQTT__HOST) and `flags` ({"mqtt.host": ...}). Raises ConfigError, one line for each thing that is wrong.
    """
    file = where(path, environ)
    tree = _read(file, must_exist=path is not None or _PATH_VARIABLE in environ)
    origin: dict[tuple[str, ...], str] = {(): str(file)}  # key path -> who said so
    for name, value in environ.items():
        if name.startswith(PREFIX) and name != _PATH_VARIABLE:
            _put(tree, origin, tuple(name.removeprefix(PREFIX).lower().split("__")), value, name)
    for dotted, value in (flags or {}).items():
        _put(tree, origin, tuple(dotted.split(".")), value, "command line")
    try:
        return Config.model_validate(tree)
    except ValidationError as exc:
        raise ConfigError("\n".join(_explain(exc, origin))) from None  # pydantic's trace would repeat secrets


def where(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """The configuration's file: `path`, else GATEWAYD_CONFIG, else DEFAULT_PATH."""
    return path or Path(environ.get(_PATH_VARIABLE, DEFAULT_PATH))


def assignment(text: str) -> tuple[str, str]:
    """Key and value of `mqtt.host=broker`, for `flags` of load(). Raises ConfigError."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{text!r} is not KEY=VALUE")
    return key.strip(), value.strip()


def _read(path: Path, *, must_exist: bool) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        if must_exist:
            raise ConfigError(f"{path}: there is no such file") from None
        return {}
    except PermissionError:
        raise ConfigError(f"{path} is not for this user: run this as root, or as user gatewayd") from None
    except (OSError, ValueError) as exc:  # ValueError: not TOML, or not UTF-8
        raise ConfigError(f"{path}: {exc}") from exc


def _put(tree: dict[str, Any], origin: dict[tuple[str, ...], str], keys: tuple[str, ...], value: Any, source: str) -> None:
    """Set one key of `tree` from outside the file. Text becomes what its field wants; what cannot is left for validation to refuse."""
    annotation = _annotation(keys)
    if isinstance(value, str) and annotation is not None:
        with contextlib.suppress(ValueError):
            value = TypeAdapter(annotation).validate_python(json.loads(value) if value.startswith("[") else value)
    origin[keys] = source
    for key in keys[:-1]:
        below = tree.setdefault(key, {})
        if not isinstance(below, dict):
            return  # the file has a value where a section belongs: that is the error to report
        tree = below
    tree[keys[-1]] = value


def _annotation(keys: tuple[str, ...]) -> Any:
    """The type of the field at `keys`; None where there is none."""
    annotation: Any = Config
    for key in keys:
        fields = getattr(annotation, "model_fields", {})
        if key not in fields:
            return None
        annotation = fields[key].annotation
    return annotation


def known_keys(section: type[BaseModel] = Config, above: str = "") -> Iterator[str]:
    """Every key and section, dotted."""
    for name, field in section.model_fields.items():
        yield above + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from known_keys(field.annotation, f"{above}{name}.")


def _explain(exc: ValidationError, origin: Mapping[tuple[str, ...], str]) -> Iterator[str]:
    """One line for each error: who said it, the key, and what to do."""
    for error in exc.errors(include_input=False, include_url=False, include_context=False):
        keys = tuple(str(part) for part in error["loc"])
        source = next(origin[keys[:length]] for length in range(len(keys), -1, -1) if keys[:length] in origin)
        dotted = ".".join(keys)
        if error["type"] == "extra_forbidden":
            nearest = difflib.get_close_matches(dotted, known_keys(), n=1, cutoff=0.0)[0]
            yield f"{source}: unknown key {dotted!r}; did you mean {nearest!r}?"
        elif error["type"] == "model_type":
            yield f"{source}: {dotted!r} is a section, not a value"
        else:
            yield f"{source}: {dotted}: {error['msg'][:1].lower()}{error['msg'][1:]}"
