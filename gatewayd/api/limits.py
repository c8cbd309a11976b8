"""What one client may take, and what every answer carries: the ASGI layer around the application.

Whoever is too fast, too large or too slow is refused and counted before anything of the application runs. Names in `Host` are compared,
so that a foreign page cannot reach us by a name of its own (DNS rebinding); `Origin` and `Sec-Fetch-Site`, so that it changes nothing here.
"""

import asyncio
import ipaddress
import re
import time
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

from fastapi import HTTPException
from fastapi.responses import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gatewayd.api.problems import problem
from gatewayd.metrics import OTHER, Metrics

BODY_BYTES = 64 << 10
BODY_S = 10.0  # for a request to be there whole
RATE, BURST = 50.0, 250.0  # requests a second of one client, and at once
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_CLIENTS = 4_096  # that are remembered
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?", re.ASCII)
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Buckets:
    """A token bucket for each client (an address, or a /64 of IPv6); who was longest away is forgotten first, and is a stranger again."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._levels: dict[str, tuple[float, float]] = {}  # client -> (level, when)

    def wait_s(self, address: str) -> float:
        """How long it is to wait before it may take one; 0 where it need not."""
        level, _ = self._level(address)
        return max(0.0, (1 - level) / self._rate)

    def take(self, address: str) -> None:
        """One was taken."""
        level, client = self._level(address)
        self._levels.pop(client, None)
        self._levels[client] = level - 1, time.monotonic()
        if len(self._levels) > _CLIENTS:
            del self._levels[next(iter(self._levels))]

    def _level(self, address: str) -> tuple[float, str]:
        client = _client(address)
        level, at_s = self._levels.get(client, (self._burst, 0.0))
        return min(self._burst, level + self._rate * (time.monotonic() - at_s)), client


def _client(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address  # noqa: PLR2004


class Limits:
    """The outermost layer. `names`, in lower case, are those by which this gateway may be called, now; addresses always may. `room`
    is how many bytes a request's body may have.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, names: Collection[str], room: Callable[[Scope], int]) -> None:
        self._app = app
        self._metrics = metrics
        self._names = names
        self._room = room
        self._buckets = Buckets(RATE, BURST)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand on; and count how it ended."""
        status = 499  # the client had gone before there was an answer

        async def sends(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _protect(scope, MutableHeaders(scope=message))
            await send(message)

        room = self._room(scope)
        answer = self._refusal(scope, room) or self._app
        try:
            await answer(scope, self._bounded(receive, room), sends)
        finally:
            route = scope.get("route")
            self._metrics.http.requests.labels(getattr(route, "path", OTHER), str(status)).inc()

    def _refusal(self, scope: Scope, room: int) -> Response | None:
        headers, address = Headers(scope=scope), scope["client"][0] if scope["client"] else ""  # None: it has gone already
        if wait_s := self._buckets.wait_s(address):
            return self._no("rate", 429, "too many requests", {"Retry-After": str(int(wait_s) + 1)})
        self._buckets.take(address)
        host, length = headers.get("host"), headers.get("content-length", "0")
        if host is not None and not self._named(host):  # HTTP/1.0 has none, and no browser speaks it
            return self._no("host", 421, "this gateway has another name")
        if scope["method"] not in SAFE and not _own(scope, headers):
            return self._no("origin", 403, "another site asks for a change")
        if int(length) > room:
            return self._no("body", 413, f"more than {room} bytes")
        return None

    def _no(self, reason: str, status: int, detail: str, headers: Mapping[str, str] = MappingProxyType({})) -> Response:
        self._count(reason)
        return problem(status, detail, {"Connection": "close", **headers})

    def _count(self, reason: str) -> None:
        self._metrics.http.refused.labels(reason).inc()

    def _named(self, host: str) -> bool:
        parts = _HOST.fullmatch(host)
        if parts is None:
            return False
        try:
            ipaddress.ip_address(parts[1].strip("[]"))
        except ValueError:
            return parts[1].lower() in self._names
        return True

    def _bounded(self, receive: Receive, room: int) -> Receive:
        """A `receive` that takes no more than that of a client, and waits for it no longer than is fair."""
        got, whole = 0, False
        deadline = asyncio.get_running_loop().time() + BODY_S * max(1, room / (1 << 20))

        async def received() -> Message:
            nonlocal got, whole
            if whole:
                return await receive()  # tells when the client has gone
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                self._count("slow_body")
                raise HTTPException(408, headers={"Connection": "close"}) from None
            got += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if got > room:
                self._count("body")
                raise HTTPException(413, f"more than {room} bytes", {"Connection": "close"})
            return message

        return received


def _protect(scope: Scope, headers: MutableHeaders) -> None:
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
    if scope["path"].startswith("/api/"):
        headers.setdefault("Cache-Control", "no-store")


def _own(scope: Scope, headers: Headers) -> bool:
    """Whether a change is asked for by a page of ours, or by no page at all."""
    origin, host = headers.get("origin"), headers.get("host", "")
    if origin is not None and origin.lower() != f"{scope['scheme']}://{host}".lower():
        return False
    return headers.get("sec-fetch-site", "none") in ("same-origin", "none")
