"""Listen until a signal comes, then finish what was begun."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from clipstill.core.errors import ResourceError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_FINISH_S = 10


def listen(host: str, port: int) -> socket.socket:
    """Take a port.

    Args:
        host: a name or an address of this machine.
        port: 0 for any that is free.

    Raises:
        ResourceError: it is taken, not allowed, or not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ResourceError(f"--host {host} is no address of this machine ({error}). Try 127.0.0.1.") from None
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen(1024)
    except OSError as error:
        taken.close()
        raise ResourceError(
            f"cannot listen on port {port} of {host}: {error.strerror or error}. Choose another with --port or --host."
        ) from None
    return taken


def serve(app: ASGIApp, listener: socket.socket, seconds: float, on_ready: Callable[[], None]) -> None:
    """Answer until SIGINT or SIGTERM; requests that have begun are finished, for ten seconds at most.

    Args:
        app: of ``create_app``.
        listener: of ``listen``; closed at the end.
        seconds: in which a client must have sent the head of a request.
        on_ready: called when requests are answered.
    """

    class Protocol(_ImpatientProtocol):
        head_s = seconds

    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_FINISH_S,
    )
    # It tells of each malformed form, which the log of requests does already.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    server = uvicorn.Server(config)
    # uvicorn raises the signal again when it has stopped, which would end this process by it; to stop when told is no
    # failure.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        asyncio.run(_until_stopped(server, listener, on_ready))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        listener.close()


async def _until_stopped(server: uvicorn.Server, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if server.started:
        on_ready()
    await serving


class _ImpatientProtocol(H11Protocol):
    """Closes connections on which no request begins; uvicorn waits for ever for the rest of a request's head."""

    head_s: float
    _idle_at: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(self.head_s, self._look)

    def _look(self) -> None:
        """Every ``head_s``: nothing is answered, and no request has begun since the last look."""
        if self.transport.is_closing():
            return
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.cycle is self._idle_at:
            self.transport.close()
            return
        self._idle_at = self.cycle if idle else self
        self.loop.call_later(self.head_s, self._look)
