"""Listen until a signal comes, then finish the requests that have begun."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from clipstill.core.errors import ResourceError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

LOOPBACK = "127.0.0.1"


def listen(host: str, port: int) -> socket.socket:
    """Take a port of this machine; 0 takes any that is free.

    Raises:
        ResourceError: The port is taken or not allowed, or the host is another machine.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise ResourceError(f"--host {host} is no address of this machine ({error}). Try {LOOPBACK}.") from None
    try:
        return socket.create_server(
            address,
            family=family,
            backlog=1024,
            dualstack_ipv6=family == socket.AF_INET6 and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise ResourceError(
            f"cannot listen on port {port} of {host}: {reason}. Choose another --port, or 0 for any that is free."
        ) from None


def run(
    app: ASGIApp,
    listener: socket.socket,
    on_ready: Callable[[], None],
    *,
    finish_seconds: int = 10,
    head_seconds: float = 30,
    log_level: str = "critical",
) -> None:
    """Answer requests until SIGINT, SIGTERM or SIGHUP.

    Args:
        app: ASGI application with a lifespan.
        listener: Socket of ``listen``, which is closed at the end.
        on_ready: Called once requests are answered.
        finish_seconds: Time for the requests that have begun, after the signal.
        head_seconds: Time in which a client must have sent the head of a request.
        log_level: Least level of uvicorn's own messages that is printed.
    """

    class Protocol(_ImpatientProtocol):
        head_s = head_seconds

    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level=log_level,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=finish_seconds,
    )
    # It tells of each malformed form, which the log of requests does already.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    server = _Server(config)
    server.on_ready = on_ready
    with listener:
        asyncio.run(server.serve(sockets=[listener]))


class _Server(uvicorn.Server):
    on_ready: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at a signal. uvicorn would raise it again at the end, and the process would seem to have failed."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self.handle_exit, number, None)
        yield


class _ImpatientProtocol(H11Protocol):
    """Closes connections on which no request begins; uvicorn waits for ever for the rest of a request's head."""

    head_s: float
    _idle_at: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(self.head_s, self._close_if_idle)

    def _close_if_idle(self) -> None:
        """Close where nothing is being answered and no request has begun since the last check; else check again."""
        if self.transport.is_closing():
            return
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.cycle is self._idle_at:
            self.transport.close()
            return
        self._idle_at = self.cycle if idle else self
        self.loop.call_later(self.head_s, self._close_if_idle)
