"""The certificate of the HTTP server: read at the start, and again when its files are others."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

from cryptography import x509

from gatewayd.config import Http
from gatewayd.errors import ConfigError
from gatewayd.journal import Kind

_LOOK_S = 60.0
_log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def certified(settings: Http, names: set[str]) -> AsyncIterator[ssl.SSLContext | None]:
    """What to present to whoever connects, if there is TLS. The names in the certificate are among `names`, in lower case, while the
    block runs. Raises ConfigError where the files are none.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        yield None
        return
    certificate = _Certificate(settings.tls_certificate, settings.tls_key, names)
    following = asyncio.get_running_loop().create_task(certificate.follow(), name="certificate")
    following.add_done_callback(lambda task: None if task.cancelled() else task.result())  # a bug goes to the loop's exception handler
    try:
        yield certificate.context
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


class _Certificate:
    def __init__(self, certificate: Path, key: Path, names: set[str]) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._files = certificate, key
        self._ours, self._names = frozenset(names), names
        self._load()

    async def follow(self) -> None:
        """Take what replaces it, without end; connections that are open keep what they have."""
        seen = self._state()
        while True:
            await asyncio.sleep(_LOOK_S)
            if (now := self._state()) == seen:
                continue
            seen = now
            try:
                self._load()
            except ConfigError as error:
                _log.warning("the new certificate cannot be used, the old one stays: %s", error, extra=Kind.CERTIFICATE_REFUSED())
            else:
                _log.info("the HTTP server has a new certificate", extra=Kind.CERTIFICATE_RENEWED())

    def _state(self) -> list[tuple[int, int]] | None:
        try:
            return [(stat.st_mtime_ns, stat.st_ino) for stat in map(Path.stat, self._files)]
        except OSError:  # it is just being replaced
            return None

    def _load(self) -> None:
        certificate, key = self._files
        try:
            found = x509.load_pem_x509_certificate(certificate.read_bytes()).extensions.get_extension_for_class(x509.SubjectAlternativeName)
            # Not into the context in use at once: a certificate without its key would spoil that.
            for context in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self.context):
                context.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ValueError, x509.ExtensionNotFound) as error:  # ssl.SSLError is an OSError
            raise ConfigError(f"http.tls_certificate, http.tls_key: {error}") from error
        self._names.clear()
        self._names.update(self._ours, map(str.lower, found.value.get_values_for_type(x509.DNSName)))


def _no_password() -> str:
    raise ValueError("the key is encrypted: a service cannot ask for its passphrase")
