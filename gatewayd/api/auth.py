"""Who asks, and what they may: a token in `Authorization`, or a browser's session cookie."""

import asyncio
import hmac
import logging
from collections.abc import Callable
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Depends, HTTPException, Request, Response, Security
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer

from gatewayd import audit
from gatewayd.api import schemas
from gatewayd.api.gateway import Daemon, Gateway
from gatewayd.api.limits import SAFE, Buckets
from gatewayd.api.sessions import Sessions
from gatewayd.errors import StoreError
from gatewayd.journal import Kind
from gatewayd.store import Store
from gatewayd.tokens import Token, Tokens

COOKIE = "gatewayd_session"
WRONG_RATE, WRONG_BURST = 0.2, 10.0  # wrong tokens a second of one client, and at once
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="gatewayd"'}
_log = logging.getLogger(__name__)
router = APIRouter(prefix="/session", tags=["session"])


class Door:
    """What lets clients in: the tokens, the open sessions, and how many wrong tokens each client has tried."""

    def __init__(self, store: Store) -> None:
        self.tokens = Tokens(store)
        self.sessions = Sessions()
        self._wrong = Buckets(WRONG_RATE, WRONG_BURST)

    async def admit(self, gateway: Gateway, secret: str, address: str) -> Token:
        """Whose token it is. Raises HTTPException."""
        if wait_s := self._wrong.wait_s(address):
            gateway.metrics.http.refused.labels("tokens").inc()
            raise HTTPException(429, "too many wrong tokens", {"Retry-After": str(int(wait_s) + 1)})
        token = await asyncio.to_thread(self.tokens.of, secret)
        if token is None:
            self._wrong.take(address)
            gateway.metrics.http.refused.labels("token").inc()
            _log.warning("%s has shown a token that is none", address, extra=Kind.TOKEN_REFUSED(ADDRESS=address))
            raise HTTPException(401, "this is no token of this gateway, or it was revoked", _CHALLENGE)
        return token


class Caller(NamedTuple):
    """Who asks."""

    token: Token
    address: str
    csrf: str = ""  # of a browser's session

    async def record(self, gateway: Gateway, what: str, target: str, detail: str = "") -> None:
        """Write to the audit log what was changed."""
        await asyncio.to_thread(audit.record, gateway.store, self.token.name, what, target, detail, self.address)


async def _caller(
    request: Request,
    gateway: Daemon,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
    cookie: Annotated[str | None, Depends(APIKeyCookie(name=COOKIE, auto_error=False))],
) -> Caller:
    door: Door = request.app.state.door
    address = address_of(request)
    if bearer is not None:
        return Caller(await door.admit(gateway, bearer.credentials, address), address)
    if cookie is None:
        raise HTTPException(401, "a token is needed; `gatewayctl token add` makes one", _CHALLENGE)
    session = door.sessions.use(cookie)
    if session is None or await asyncio.to_thread(door.tokens.find, session.token.sha256) is None:
        door.sessions.close(cookie)
        raise HTTPException(401, "the session has ended", _CHALLENGE)
    if session.address != address:
        door.sessions.close(cookie)
        await _stolen(gateway, session.token, address)
        raise HTTPException(401, "the session has ended: it was opened from another address", _CHALLENGE)
    if request.method not in SAFE and not hmac.compare_digest(session.csrf.encode(), request.headers.get("x-csrf-token", "").encode()):
        gateway.metrics.http.refused.labels("csrf").inc()
        raise HTTPException(403, "X-CSRF-Token is not that of this session")
    return Caller(session.token, address, session.csrf)


async def _stolen(gateway: Gateway, token: Token, address: str) -> None:
    gateway.metrics.http.refused.labels("session").inc()
    _log.warning(
        "a session of %r was used from %s, where it was not opened: it has ended",
        token.name,
        address,
        extra=Kind.SESSION_REFUSED(ADDRESS=address),
    )
    try:
        await asyncio.to_thread(audit.record, gateway.store, token.name, "session.refused", token.name, "opened elsewhere", address)
    except StoreError as error:
        _log.warning("not in the audit log: %s", error)


def still_admitted(request: Request, caller: Caller) -> Callable[[], bool]:
    """Says, later and again, whether the token and the session of a stream still count. Blocks; raises StoreError."""
    door: Door = request.app.state.door
    cookie = request.cookies.get(COOKIE, "") if caller.csrf else None

    def admitted() -> bool:
        return (cookie is None or door.sessions.use(cookie) is not None) and door.tokens.find(caller.token.sha256) is not None

    return admitted


def address_of(request: Request) -> str:
    """Of the client; nobody else may say it."""
    return request.client.host if request.client else ""


Reader = Annotated[Caller, Depends(_caller)]


async def _operator(gateway: Daemon, caller: Reader) -> Caller:
    if caller.token.scope != "operate":
        gateway.metrics.http.refused.labels("scope").inc()
        raise HTTPException(403, f"token {caller.token.name!r} may read only")
    return caller


Operator = Annotated[Caller, Depends(_operator)]
READ, OPERATE = Security(_caller), Security(_operator)


@router.post("", status_code=201)
async def open_session(request: Request, response: Response, gateway: Daemon, credentials: schemas.Credentials) -> schemas.Session:
    """A token becomes a cookie, for browsers; what they change carries `csrf` in the header X-CSRF-Token."""
    door: Door = request.app.state.door
    address = address_of(request)
    token = await door.admit(gateway, credentials.token, address)
    cookie, session = door.sessions.open(token, address)
    response.set_cookie(COOKIE, cookie, httponly=True, samesite="strict", secure=gateway.config.http.tls, path="/")
    await Caller(token, address).record(gateway, "session.open", token.name)
    return schemas.Session(name=token.name, scope=token.scope, csrf=session.csrf)


@router.get("")
async def whose_session(caller: Reader) -> schemas.Session:
    """Whose the cookie or the token is."""
    return schemas.Session(name=caller.token.name, scope=caller.token.scope, csrf=caller.csrf)


@router.delete("", status_code=204)
async def close_session(request: Request, response: Response, gateway: Daemon, caller: Reader) -> None:
    """Log out."""
    door: Door = request.app.state.door
    door.sessions.close(request.cookies.get(COOKIE, ""))
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=gateway.config.http.tls, path="/")
    await caller.record(gateway, "session.close", caller.token.name)
