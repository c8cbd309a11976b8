"""What happens, for systemd's journal: each kind of event has a message id, by which it is found, and explained (systemd/gatewayd.catalog).

A log call says which kind it is, and of what, by `extra=Kind.NODE_LOST(NODE=node.id)`. docs/journal.md lists them all.
"""

import logging
from collections.abc import Iterator
from enum import Enum
from typing import Any

from logging_journald import JournaldTransport

_PRIORITY = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class Kind(Enum):
    """The kinds of events. An id that was ever released keeps its meaning."""

    STARTED = "5943237ed7424deb93c84052bd3b907d"
    STOPPED = "7f194aef35d145b2915e94327c88b2c2"
    NODE_APPEARED = "d9ad482d506a40718ece32a1653e35e7"
    NODE_ENROLLED = "d5728532608d49238bea707e6d64ffa2"
    NODE_DISMISSED = "c21efda95cf44c3889cab3c919ebd1e4"
    NODE_LOST = "bfbd7af09f1d42d286bd65a90fe8d90b"
    NODE_BACK = "a6b16991e44f45f39d8a7f1bbb963296"
    NODE_CRASHED = "c70247b86280448db890f95fac551d55"
    NODE_ROUTE = "e5c56408936243128b2df1992cf4bce0"
    NODE_PAIRED = "2db3460daf9d4dfa85b831fbdd07d15e"
    PAIRING_FAILED = "d370f09d3f1b4a449e57d2bc2671b042"
    PAIRING_BROKEN = "e380eef71a2e4b95a6b9e9c9e325e1e0"
    BROKER_CONNECTED = "2e655f372a7a4ae0a8e26afee47abe62"
    LINK_LOST = "7f06533d8a1449d38c48c0b9927175c0"
    SCANNER_RESTARTED = "e857f5c979b340ee8ec958593ff2cde1"
    STORE_REFUSES = "c9b2d71eb3e24d8697a0f50ada7b40b6"
    RESTORED = "87ee2357be3e477583e35ff7d7b0c90a"
    MODEL_REPLACED = "06555a281c2049759aa16af661ec0ab6"
    WORKER_REPLACED = "cc5ab6eed0f7462ca445fb469d421958"
    WORKER_FAILS = "92f14c55599843c9a3db5c7cfd082757"
    ROLLOUT_MOVED = "99087d8c3afc41508c08807905221829"
    ROLLOUT_HALTED = "44bfa34471a544de8def1f7e9d25c7c6"
    UPDATE_FAILED = "308be802339e4d6ba71352dd6c40e54f"
    BUNDLE_REFUSED = "7c273118935445b180b91a0ff4e4e394"
    TOKEN_REFUSED = "c163877781fb4bcb9a60ffa6dcad561a"  # noqa: S105 -- no password
    SESSION_REFUSED = "ebc3f4e5a4fb4c7d8f4be20cbb0d4d4e"
    CERTIFICATE_RENEWED = "6c90a634b9c2a90558f41f2d51e38361"
    CERTIFICATE_REFUSED = "7f346201ccead4a215c94b6443d6ffd6"
    CLOCK_SET = "973a9275452342e28ef43021d00c9072"

    def __call__(self, **fields: object) -> dict[str, Any]:
        """For `extra` of a log call: that it is of this kind, with the journal's fields, like NODE, CASCADE and ROLLOUT."""
        return {"journal": {"MESSAGE_ID": self.value, "KIND": self.name, **fields}}


class JournalHandler(logging.StreamHandler[Any]):
    """Hands records to journald with their fields; to stderr where it does not take them."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter())
        self._journald = JournaldTransport(connected=False)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            self._journald.send(self._fields(record))
        except OSError:
            super().emit(record)

    def _fields(self, record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
        yield "MESSAGE", self.format(record)
        yield "PRIORITY", _PRIORITY.get(record.levelno, 6)
        yield "SYSLOG_IDENTIFIER", "gatewayd"
        yield "LOGGER", record.name
        yield "CODE_FILE", record.pathname
        yield "CODE_LINE", record.lineno
        yield "CODE_FUNC", record.funcName
        yield from ((name, str(value)) for name, value in getattr(record, "journal", {}).items())
