"""Sessions of browsers: in memory only, so that a restart ends them. Each is bound to the token and the address that opened it."""

import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from gatewayd.tokens import Token

IDLE_S = 2 * 3_600.0
LONGEST_S = 24 * 3_600.0
MOST = 256


class Session(NamedTuple):
    """What a cookie stands for."""

    token: Token
    address: str
    csrf: str
    opened_s: float
    used_s: float


class Sessions:
    """The table. `now` is a monotonic clock in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()  # a stream's session is looked at in a thread
        self._open: dict[bytes, Session] = {}  # by the cookie's hash, the one used last at the end

    def open(self, token: Token, address: str) -> tuple[str, Session]:
        """A new session with its cookie; where there are too many, the one that was idle longest ends."""
        cookie, now_s = secrets.token_urlsafe(32), self._now()
        session = Session(token, address, secrets.token_urlsafe(32), now_s, now_s)
        with self._lock:
            while len(self._open) >= MOST:
                del self._open[next(iter(self._open))]
            self._open[_key(cookie)] = session
        return cookie, session

    def use(self, cookie: str) -> Session | None:
        """The session of a cookie, unless it has ended."""
        key, now_s = _key(cookie), self._now()
        with self._lock:
            session = self._open.pop(key, None)
            if session is None or now_s - session.used_s > IDLE_S or now_s - session.opened_s > LONGEST_S:
                return None
            self._open[key] = session._replace(used_s=now_s)
        return session

    def close(self, cookie: str) -> None:
        """End a session."""
        with self._lock:
            self._open.pop(_key(cookie), None)


def _key(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode()).digest()
