"""The broker's half of nodes' keys: at rest encrypted by systemd, in the clear only in memory, where mosquitto reads them.

The credential is the truth: what mosquitto reads is made of it, at boot (systemd/gatewayd-keys.service) and after every change.
So a power cut leaves the table before a change or the one after it. mosquitto looks at a node's key when a connection begins, at
its access list for each message: a node without a key has no entry there either.
"""

import fcntl
import json
import os
import re
import secrets
import signal
import stat
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from gatewayd.config import Enrolment
from gatewayd.errors import ConfigError, TransportError

_PSK_BYTES = 32
_SALT_BYTES, _NONCE_BYTES = 16, 12
_SCRYPT_N = 1 << 16  # 64 MB and half a second of a Raspberry Pi
_NAME = "node-keys"  # of the credential, which is good under no other
_TIMEOUT_S = 30.0  # a TPM thinks for seconds
_LOOK_S = 0.05
_USER = re.compile(r"^user\s+(\S+)", re.MULTILINE)


def new_key() -> bytes:
    """A key for a node."""
    return secrets.token_bytes(_PSK_BYTES)


class NodeKeys:
    """Which node has which key. Whoever changes it has the files to himself; mosquitto knows of it after reload()."""

    def __init__(self, settings: Enrolment) -> None:
        self._credential = settings.credential
        self._folder = settings.broker_dir
        self._acl = settings.acl_file
        self._pid = settings.broker_pid_file

    def nodes(self) -> frozenset[str]:
        """Those that have a key. Raises ConfigError."""
        with self._locked():
            return frozenset(self._load())

    def add(self, node: str, psk: bytes) -> None:
        """A node's first key. Raises ConfigError, also where it has one."""
        with self._changing() as table:
            if node.startswith("gatewayd") or node in _USER.findall(self._head()):
                raise ConfigError(f"{node!r} is no name for a node: it would have the rights of a program of that name")
            if node in table:
                raise ConfigError(f"{node} has a key already; a new one: gatewayctl node rotate {node}")
            table[node] = psk.hex()

    def replace(self, node: str, psk: bytes) -> None:
        """Another key instead of the one that it has. Raises ConfigError, also where it has none."""
        with self._changing() as table:
            if node not in table:
                raise ConfigError(f"{node} has no key; a first one: gatewayctl node add {node}")
            table[node] = psk.hex()

    def remove(self, node: str) -> bool:
        """Take its key away. Returns whether it had one. Raises ConfigError."""
        with self._changing() as table:
            return table.pop(node, None) is not None

    def seal(self, passphrase: str) -> bytes:
        """All keys, for a machine that cannot decrypt this one's credential; empty where there are none. Raises ConfigError."""
        with self._locked():
            table = self._load()
        salt, nonce = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_NONCE_BYTES)
        sealed = _cipher(passphrase, salt).encrypt(nonce, json.dumps(table).encode(), _NAME.encode())
        return salt + nonce + sealed if table else b""

    def take(self, table: Mapping[str, str]) -> None:
        """Have these keys and no others. Raises ConfigError."""
        self._credential.unlink(missing_ok=True)
        with self._changing() as own:
            own.update(table)

    def publish(self) -> None:
        """Make what mosquitto reads. Raises ConfigError."""
        with self._changing():
            pass

    def reload(self) -> None:
        """Let mosquitto read it, which disturbs nobody. Raises TransportError where it does not run."""
        try:
            pid = int(self._pid.read_text())
            if Path(f"/proc/{pid}/comm").read_text() != "mosquitto\n":
                raise ProcessLookupError(f"process {pid} is not mosquitto")
            os.kill(pid, signal.SIGHUP)
        except (OSError, ValueError) as error:
            raise TransportError(f"mosquitto was not told, and reads the keys when it starts: {self._pid}: {error}") from error

    @contextmanager
    def _changing(self) -> Iterator[dict[str, str]]:
        """The table, which is kept and published as the block leaves it; unchanged where it raises."""
        with self._locked():
            if not self._folder.is_dir():
                raise ConfigError(f"{self._folder} is not there: systemctl enable --now gatewayd-keys.service")
            head, table = self._head(), self._load()
            before = dict(table)
            yield table
            psk_file = "".join(f"{node}:{key}\n" for node, key in table.items()).encode()
            if table != before:
                replace(self._credential, _systemd_creds("encrypt", "-", "-", data=psk_file), 0o600, self._credential.parent)
            replace(self._folder / "acl", access_list(head, table), 0o640, self._folder)
            replace(self._folder / "psk", psk_file, 0o640, self._folder)

    def _load(self) -> dict[str, str]:
        if not self._credential.exists():
            return {}
        lines = _systemd_creds("decrypt", str(self._credential), "-").decode().splitlines()
        return dict(line.split(":", 1) for line in lines)

    def _head(self) -> str:
        try:
            return self._acl.read_text()
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self._acl}: {error}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with locked(self._credential.parent):
                yield
        except OSError as error:
            raise ConfigError(f"keys of nodes: {error}") from error


def unseal(sealed: bytes, passphrase: str) -> dict[str, str]:
    """What seal() sealed. Raises ConfigError where that is not the passphrase."""
    salt, nonce, rest = sealed[:_SALT_BYTES], sealed[_SALT_BYTES : _SALT_BYTES + _NONCE_BYTES], sealed[_SALT_BYTES + _NONCE_BYTES :]
    try:
        table: dict[str, str] = json.loads(_cipher(passphrase, salt).decrypt(nonce, rest, _NAME.encode()))
    except (InvalidTag, ValueError) as error:
        raise ConfigError("that is not the passphrase of the nodes' keys") from error
    return table


def _cipher(passphrase: str, salt: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(Scrypt(salt, length=32, n=_SCRYPT_N, r=8, p=1).derive(passphrase.encode()))


def access_list(head: str, nodes: Iterable[str]) -> bytes:
    """The acl_file for mosquitto: `head`, and for each node what it may say and hear."""
    entry = "\nuser {0}\ntopic write nodelink/1/up/{0}/#\ntopic read nodelink/1/down/{0}/#\ntopic read nodelink/1/gateway/+/state\n"
    return (head.rstrip("\n") + "\n" + "".join(entry.format(node) for node in nodes)).encode()


def set_psk(path: Path, node: str, psk: bytes) -> None:
    """Give `node` this key in a psk_file that somebody else keeps. Other lines stay as they are. Raises OSError."""
    path = path.resolve(strict=True)
    prefix = node.encode() + b":"
    with locked(path.parent):
        others = b"".join(line for line in path.read_bytes().splitlines(keepends=True) if not line.startswith(prefix))
        end = b"" if others.endswith(b"\n") or not others else b"\n"
        replace(path, others + end + prefix + psk.hex().encode() + b"\n", stat.S_IMODE(path.stat().st_mode), path)


def replace(path: Path, data: bytes, mode: int, like: Path) -> None:
    """Write a file whole, for the owner and the group of `like`: a reader, and a power cut, see it before or after. Raises OSError."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)  # of a run that was killed
    owner = like.stat()
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            os.fchown(stream.fileno(), owner.st_uid, owner.st_gid)
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One at a time; the lock ends with the process that has it. Raises OSError, also where one has it too long: the daemon has its state
    folder for ever.
    """
    descriptor, until_s = os.open(folder, os.O_RDONLY | os.O_DIRECTORY), time.monotonic() + _TIMEOUT_S
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > until_s:
                    raise TimeoutError(f"another process has {folder} to itself") from error
                time.sleep(_LOOK_S)
        yield
    finally:
        os.close(descriptor)


def _systemd_creds(verb: str, source: str, target: str, data: bytes = b"") -> bytes:
    """What it prints. Secrets go in and out by pipes."""
    try:
        done = subprocess.run(  # noqa: S603
            ["systemd-creds", verb, f"--name={_NAME}", source, target],  # noqa: S607
            input=data,
            capture_output=True,
            check=False,
            timeout=_TIMEOUT_S,
        )
    except FileNotFoundError as error:
        raise ConfigError(
            "systemd-creds, of systemd 250 or newer, is not there; without it: gatewayctl node flash-image --psk-file"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"systemd-creds {verb}: no answer within {_TIMEOUT_S:.0f} s") from error
    if done.returncode:
        raise ConfigError(f"systemd-creds {verb}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
