"""The HTTP server: uvicorn in the daemon's own loop."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from functools import partial

import anyio.to_thread
import uvicorn

from gatewayd.api.application import application
from gatewayd.api.certificate import certified
from gatewayd.api.connections import Guard, Listener
from gatewayd.api.gateway import Gateway
from gatewayd.config import Http
from gatewayd.errors import ConfigError
from gatewayd.metrics import Metrics

_HEAD_BYTES = 16 << 10
_THREADS = 8  # that may wait for the store at once
_STOP_S = 1


@contextlib.asynccontextmanager
async def serve(gateway: Gateway) -> AsyncIterator[int]:
    """Serve while the block runs; yields the port. Raises ConfigError where it cannot be had, or the certificate is none."""
    settings = gateway.config.http
    names = {"localhost", settings.host.lower(), socket.gethostname().lower()}
    anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
    with _listening(settings, gateway.metrics) as listener:
        async with certified(settings, names) as tls, application(gateway, names) as (app, streams):
            server = _Server(
                uvicorn.Config(
                    app,
                    http=partial(Guard, gateway.metrics),  # type: ignore[arg-type] # whatever makes a protocol
                    ws="none",
                    lifespan="off",
                    log_config=None,
                    log_level="error",
                    access_log=False,
                    proxy_headers=False,  # nobody may say who he is
                    server_header=False,
                    h11_max_incomplete_event_size=_HEAD_BYTES,
                    timeout_graceful_shutdown=_STOP_S,
                    ssl_context_factory=(lambda _config, _default: tls) if tls else None,
                )
            )
            running = asyncio.get_running_loop().create_task(server.serve([listener]), name="http")
            running.add_done_callback(lambda task: None if task.cancelled() else task.result())  # a bug: the loop's exception handler's
            try:
                yield listener.getsockname()[1]
            finally:
                streams.close()
                server.should_exit = True
                await running


class _Server(uvicorn.Server):
    """As uvicorn's, but signals are the daemon's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _listening(settings: Http, metrics: Metrics) -> Iterator[Listener]:
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = Listener(metrics, socket.create_server(address, family=family, backlog=128))
    except OSError as error:
        raise ConfigError(f"http: cannot listen on {settings.host}:{settings.port}: {error}") from error
    with listener:
        yield listener
