"""`gatewayctl support-bundle`: what somebody who helps wants to see, in one file, and no secret.

Configuration and rows are taken field by field, so what is secret is left out. What others have written, like the log, is searched for
secrets that are known, for what looks like one, and for digits as long as a key; those of a SHA-256 keep their beginning.
"""

import importlib.metadata
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import typer
from pydantic import SecretStr

from gatewayd import __version__, config, database
from gatewayd.cli import records, rollouts
from gatewayd.cli.doctor import findings
from gatewayd.cli.options import load_config
from gatewayd.cli.progress import bar
from gatewayd.config import Config
from gatewayd.errors import ConfigError, GatewaydError
from gatewayd.ledger import Ledger
from gatewayd.store import Store

_LINES = 5_000  # of the log, the newest
_TIMEOUT_S = 30
_LEFT_OUT = "[left out]"
_LOOKS_SECRET = re.compile(
    r"(?P<keep>(?:\w*(?:passw|passphrase|passkey|secret|token(?!iz)|psk|api_?key|authorization|cookie)\w*[\"']?\s*[:=]\s*(?:bearer\s+|basic\s+)?)"
    r"|\bbearer\s+)(?:(?P<quote>[\"']).*?(?P=quote)|[^\s,;&\"']+)",
    re.IGNORECASE,
)
_IN_A_URL = re.compile(r"(?P<keep>://[^\s:/@]*:)[^\s@/]+(?=@)")
_A_TOKEN = re.compile(r"\bgwd_[\w-]{16,}")
_DIGITS = re.compile(r"\b(?P<keep>[0-9a-f]{8})[0-9a-f]{24,}\b", re.IGNORECASE)


def make_bundle(path: Path | None, overrides: list[str] | None, file: Path | None) -> None:
    """Write the bundle, for its owner's eyes. Raises ConfigError where it cannot be written."""
    about = _About(path, overrides)
    now = time.time()
    target = file or Path(f"gatewayd-support-{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}.tar.gz")
    try:
        with (
            os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream,
            tarfile.open(fileobj=stream, mode="w:gz") as tar,
            bar({"part": "looks"}) as progress,
        ):
            for done, (name, part) in enumerate(about.parts.items()):
                progress("part", done, len(about.parts))
                text = about.without_secrets(_whatever(part)).encode()
                member = tarfile.TarInfo(f"gatewayd-support/{name}")
                member.size, member.mtime, member.mode = len(text), int(now), 0o600
                tar.addfile(member, io.BytesIO(text))
            progress("part", len(about.parts), len(about.parts))
    except OSError as error:
        raise ConfigError(f"support bundle: {error}") from error
    typer.echo(f"{target}: look through it before you send it to somebody")


class _About:
    """What is looked at. What cannot be seen is said instead: who needs help has something that does not work."""

    def __init__(self, path: Path | None, overrides: list[str] | None) -> None:
        self._path = path
        self._overrides = overrides
        self.parts: dict[str, Callable[[], str]] = {
            "versions.json": _versions,
            "configuration.json": lambda: _pretty(plain(self._config().model_dump())),
            "doctor.txt": self._doctor,
            "metrics.txt": self._metrics,
            "store.json": self._store,
            "nodes.jsonl": self._nodes,
            "rollouts.jsonl": self._rollouts,
            "folders.txt": self._folders,
            "journal.txt": _journal,
        }

    def _config(self) -> Config:
        settings: Config = load_config(self._path, self._overrides)
        return settings

    def without_secrets(self, text: str) -> str:
        """`text`, and instead of what is or looks secret that it was left out."""
        for secret in self._known():
            text = text.replace(secret, _LEFT_OUT)
        text = _LOOKS_SECRET.sub(lambda found: f"{found['keep']}{found['quote'] or ''}{_LEFT_OUT}{found['quote'] or ''}", text)
        for pattern, instead in ((_IN_A_URL, rf"\g<keep>{_LEFT_OUT}"), (_A_TOKEN, _LEFT_OUT), (_DIGITS, r"\g<keep>…")):
            text = pattern.sub(instead, text)
        return text

    def _known(self) -> Iterator[str]:
        yield from (value for name, value in os.environ.items() if name.startswith(config.PREFIX) and "PASSWORD" in name and value)
        try:
            settings = self._config()
            if secret := settings.mqtt.secret():
                yield secret
            if password := sa.make_url(settings.store_url).password:
                yield str(password)
        except (GatewaydError, sa.exc.ArgumentError):
            return  # it could not be read, so it is nowhere

    def _doctor(self) -> str:
        return "".join(
            f"{'ok ' if one.ok else 'BAD'} {one.what}{one.advice and f': {one.advice}'}\n" for one in findings(self._path, self._overrides)
        )

    def _metrics(self) -> str:
        http = self._config().http
        with urllib.request.urlopen(f"http://{http.host}:{http.port}/metrics", timeout=_TIMEOUT_S) as answer:
            text: str = answer.read().decode()
        return text

    def _store(self) -> str:
        settings = self._config()
        with Store(settings.store, settings.store_url) as store:
            counts = store.counts()
            with store.reading() as connection:
                backend = connection.dialect.name, ".".join(map(str, connection.dialect.server_version_info or ()))
        return _pretty({"backend": backend, "schema_version": database.VERSION, "counts": counts._asdict()})

    def _nodes(self) -> str:
        settings = self._config()
        with Store(settings.store, settings.store_url) as store:
            return "".join(json.dumps(records.facts(node)) + "\n" for node in store.nodes())

    def _rollouts(self) -> str:
        settings = self._config()
        with Store(settings.store, settings.store_url) as store:
            return "".join(json.dumps(rollouts.facts(stored)) + "\n" for stored in Ledger(store).rollouts())

    def _folders(self) -> str:
        settings = self._config()
        folder = settings.gateway.state_dir
        usage = shutil.disk_usage(folder)
        lines = [f"{folder}: {usage.free:,} of {usage.total:,} bytes free"]
        for path in sorted({folder, config.where(self._path).parent, *folder.rglob("*")}):
            about = path.lstat()
            lines.append(f"{about.st_mode:o} {about.st_uid}:{about.st_gid} {about.st_size:>12,} {path}")
        return "\n".join(lines) + "\n"


def plain(value: Any) -> Any:
    """A configuration's values for JSON: a secret is only said to be there, a URL has no password."""
    if isinstance(value, SecretStr):
        return _LEFT_OUT
    if isinstance(value, Mapping):
        return {key: _without_password(each) if key == "url" else plain(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _without_password(url: str) -> str:
    try:
        return sa.make_url(url).set(query={}).render_as_string(hide_password=True) if url else ""
    except sa.exc.ArgumentError:
        return _LEFT_OUT


def _whatever(part: Callable[[], str]) -> str:
    try:
        return part()
    except Exception as error:  # noqa: BLE001 -- whatever is broken is what we are here for
        return f"cannot be seen: {type(error).__name__}: {error}\n"


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=1, default=str) + "\n"


def _versions() -> str:
    packages = {package.name: package.version for package in importlib.metadata.distributions()}
    about = {"gatewayd": __version__, "python": sys.version, "machine": platform.uname()._asdict(), "os": platform.freedesktop_os_release()}
    return _pretty({**about, "time": time.strftime("%Y-%m-%d %H:%M:%S %z"), "packages": dict(sorted(packages.items()))})


def _journal() -> str:
    command = ["journalctl", "--unit=gatewayd", f"--lines={_LINES}", "--output=short-iso", "--no-pager", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=_TIMEOUT_S)  # noqa: S603
    return done.stdout or done.stderr or "nothing\n"
