"""The tokens of the HTTP API: whose they are and what they may do. The store has their hashes, and nobody but their owners the tokens."""

import hashlib
import secrets
import time
from typing import Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy import select

from gatewayd.database import tokens
from gatewayd.store import Store, count_change

Scope = Literal["read", "operate"]  # operate includes read
PREFIX = "gwd_"  # by which who looks for lost secrets finds one
_BYTES = 32


class Token(NamedTuple):
    """All that is kept of one."""

    name: str
    sha256: bytes
    scope: Scope
    created_s: float


class Tokens:
    """Those in an open store. Every call blocks and raises StoreError."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, name: str, scope: Scope) -> str | None:
        """A new token, which is in no other place than in what is returned; None where the name is taken."""
        secret = PREFIX + secrets.token_urlsafe(_BYTES)
        row = Token(name, _sha256(secret), scope, time.time())
        with self._store.writing() as connection:
            if connection.scalar(select(tokens.c.name).where(tokens.c.name == name)) is not None:
                return None
            connection.execute(sa.insert(tokens).values(row._asdict()))
        return secret

    def all(self) -> list[Token]:
        """Every one, by name."""
        with self._store.reading() as connection:
            return [Token(*row) for row in connection.execute(select(tokens).order_by(tokens.c.name))]

    def revoke(self, name: str) -> bool:
        """End a token, and within a second whatever was opened with it; whether there was one."""
        with self._store.writing() as connection:
            count_change(connection)
            return connection.execute(sa.delete(tokens).where(tokens.c.name == name)).rowcount == 1

    def of(self, secret: str) -> Token | None:
        """Whose token this is. It is found by its hash: how long that takes tells nothing of another's."""
        return self.find(_sha256(secret))

    def find(self, sha256: bytes) -> Token | None:
        """The token with this hash, if it still counts."""
        with self._store.reading() as connection:
            row = connection.execute(select(tokens).where(tokens.c.sha256 == sha256)).one_or_none()
        return None if row is None else Token(*row)


def _sha256(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
