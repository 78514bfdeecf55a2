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

from clipstill.core.errors import ResourceError
from clipstill.web.connections import SEND_BUFFER, ImpatientProtocol, most_connections, of

if TYPE_CHECKING:
    from starlette.types import ASGIApp

LOOPBACK = "127.0.0.1"
# Connections that the system keeps until they are taken, some at once; between these, the others are looked at.
_WAITING = 1024
_TAKEN_AT_ONCE = 32


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
        listener = socket.create_server(
            address,
            family=family,
            backlog=_WAITING,
            dualstack_ipv6=family == socket.AF_INET6 and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise ResourceError(
            f"cannot listen on port {port} of {host}: {reason}. Choose another --port, or 0 for any that is free."
        ) from None
    # Its connections inherit it.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    return listener


def run(
    app: ASGIApp,
    listener: socket.socket,
    on_ready: Callable[[], None],
    *,
    finish_seconds: int = 10,
    patience: float = 30,
    log_level: str = "critical",
) -> None:
    """Answer requests until SIGINT, SIGTERM or SIGHUP.

    Args:
        app: ASGI application with a lifespan.
        listener: Socket of ``listen``, which is closed at the end.
        on_ready: Called once requests are answered.
        finish_seconds: Time for the requests that have begun, after the signal.
        patience: Seconds in which a client must send the head of a request, and in which it must read a part of an
            answer, some hundred kilobytes.
        log_level: Least level of uvicorn's own messages that is printed.
    """

    class Protocol(ImpatientProtocol):
        most = most_connections()

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
        backlog=_TAKEN_AT_ONCE,
    )
    # It tells of each malformed form, which the log of requests does already.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    server = _Server(config)
    server.on_ready, server.patience = on_ready, patience
    with listener:
        asyncio.run(server.serve(sockets=[listener]))


class _Server(uvicorn.Server):
    on_ready: Callable[[], None]
    patience: float

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or ():
            each.listen(_WAITING)  # uvicorn has set it to those taken at once.
        self.on_ready()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        if counter % 5 == 0:
            for each in of(self.server_state.connections):
                each.drop_if_late(self.patience)
        return await super().on_tick(counter)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at a signal. uvicorn would raise it again at the end, and the process would seem to have failed."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self.handle_exit, number, None)
        yield
