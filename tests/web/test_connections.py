"""Slow clients of a server in this process, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from clipstill.web.connections import ImpatientProtocol, most_connections, of

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body, then answers."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def events(scope: Any, receive: Any, send: Any) -> None:
    """A stream of small events, half a second long."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(10):
        await send({"type": "http.response.body", "body": b"event\n", "more_body": True})
        await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": b"end"})


async def flood(scope: Any, receive: Any, send: Any) -> None:
    """An answer of 64 MB."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(1000):
        await send({"type": "http.response.body", "body": bytes(64_000), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


class Server:
    """Connections that are dropped once they are ``patience`` seconds late, if it is given."""

    def __init__(self, state: ServerState, port: int) -> None:
        self.state, self.port = state, port

    async def connect(self, sent: bytes = b"") -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1000)
        writer.write(sent)
        await asyncio.sleep(0.02)
        return reader, writer

    def drop_late(self, seconds: float) -> None:
        for each in of(self.state.connections):
            each.drop_if_late(seconds)


@asynccontextmanager
async def serving(app: Any, most: int = 100) -> AsyncIterator[Server]:
    class Protocol(ImpatientProtocol):
        pass

    Protocol.most = most
    state, config = ServerState(), uvicorn.Config(app, ws="none", log_config=None, log_level="critical")
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: Protocol(config, state, {}), "127.0.0.1", 0)
    try:
        yield Server(state, listener.sockets[0].getsockname()[1])
    finally:
        listener.close()
        for each in of(state.connections):
            each.drop()
        for task in list(state.tasks):
            task.cancel()
        await asyncio.sleep(0)


async def is_closed(client: Client) -> bool:
    try:
        await asyncio.wait_for(client[0].read(), 0.05)
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


def in_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """A test that is a coroutine."""

    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 10))

    run.__name__ = test.__name__
    return run


@in_loop
async def test_half_heads_make_room_for_newcomers_and_a_quick_upload_stays() -> None:
    async with serving(echo, most=4) as server:
        upload = await server.connect(HEAD)
        half = [await server.connect(b"POST / HTTP/1.1\r\n") for _ in range(3)]
        upload[1].write(bytes(400_000))
        await asyncio.sleep(0.02)
        new = await server.connect(b"POST / HTTP/1.1\r\n")
        assert [await is_closed(each) for each in half] == [True, False, False]
        upload[1].write(bytes(600_000))
        assert (await upload[0].readline()).startswith(b"HTTP/1.1 200")
        assert not await is_closed(new)


@in_loop
async def test_slow_body_loses_before_a_quick_one_that_began_earlier() -> None:
    async with serving(echo, most=2) as server:
        quick = await server.connect(HEAD)
        slow = await server.connect(HEAD + b"a")
        for _ in range(5):
            await asyncio.sleep(0.05)
            quick[1].write(bytes(20_000))
            slow[1].write(b"a")
        await asyncio.sleep(0.02)
        await server.connect()
        assert await is_closed(slow)
        assert not await is_closed(quick)


@in_loop
async def test_where_all_are_being_answered_the_newcomer_is_refused() -> None:
    async with serving(events, most=2) as server:
        streams = [await server.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(2)]
        assert await is_closed(await server.connect())
        for reader, _ in streams:
            assert (await reader.readuntil(b"end")).count(b"event") == 10


@in_loop
async def test_event_stream_that_is_read_outlasts_all_patience() -> None:
    async with serving(events) as server:
        reader, writer = await server.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(20):
            await asyncio.sleep(0.02)
            server.drop_late(0.01)
        assert (await reader.readuntil(b"end")).count(b"event") == 10
        writer.close()


@in_loop
async def test_answer_that_nobody_reads_is_given_up() -> None:
    async with serving(flood) as server:
        _, writer = await server.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        writer.transport.pause_reading()
        await asyncio.sleep(0.3)
        server.drop_late(10)
        assert len(server.state.connections) == 1
        server.drop_late(0.1)
        assert not server.state.connections


@in_loop
async def test_answer_that_is_read_in_pieces_is_finished() -> None:
    async with serving(flood) as server:
        reader, _ = await server.connect(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        size = 0
        while piece := await reader.read(1 << 20):
            size += len(piece)
            server.drop_late(0.5)
        assert size > 64_000_000


@in_loop
async def test_late_head_is_dropped_and_a_body_is_left_to_the_application() -> None:
    async with serving(echo) as server:
        head = await server.connect(b"POST / HTTP/1.1\r\nHost:")
        body = await server.connect(HEAD)
        for _ in range(10):
            await asyncio.sleep(0.02)
            head[1].write(b"x")
        server.drop_late(0.1)
        assert await is_closed(head)
        assert not await is_closed(body)


def test_there_are_connections_for_a_fraction_of_the_files_that_may_be_open() -> None:
    resource = pytest.importorskip("resource")
    most = most_connections()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert 1 <= most <= 2000
    assert soft == resource.RLIM_INFINITY or 4 * most <= soft
