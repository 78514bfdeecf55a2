"""Connections of slow clients: how many there may be, and how long they may last.

A client that keeps the server waiting is late: before the head of a request is there, while its body comes, and while
an answer is not read. Who is too late is disconnected; where there are too many connections, the latest are. While the
server works on an answer, its client is not late, so an event stream that its client reads may last for ever.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable

from uvicorn.protocols.http.h11_impl import H11Protocol

# Bytes of an answer that the system takes before the client reads them. Linux would take megabytes.
SEND_BUFFER = 128 << 10
# Of a body: who sends less in a second is late.
_BYTES_PER_SECOND = 20_000
_MOST = 2_000
# Files that may be open for each connection: itself, a file that it asks for or sends, and those not yet closed.
_FILES = 4


def most_connections() -> int:
    """Connections for which this process may open enough files, at most 2,000; its limit is raised where it may be."""
    try:
        import resource
    except ImportError:  # Windows.
        return _MOST
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _MOST * _FILES:
        soft = _MOST * _FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST * _FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return _MOST if soft == resource.RLIM_INFINITY else min(_MOST, soft // _FILES)


class ImpatientProtocol(H11Protocol):
    """A connection that knows how late its client is. uvicorn itself waits for ever."""

    most: int  # Connections of the server.
    _late_since: float  # Time of the event loop.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; where there are too many connections, end others."""
        is_full = len(self.connections) >= self.most
        super().connection_made(transport)
        self._late_since = self.loop.time()
        if is_full:
            self._make_room()

    def _make_room(self) -> None:
        """End the latest connections, some at once, because finding them takes longer than ending them."""
        lateness = [(each.late(), id(each), each) for each in of(self.connections) if each is not self]
        late = [each for seconds, _, each in heapq.nlargest(1 + self.most // 16, lateness) if seconds > 0]
        for each in late or [self]:
            each.drop()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request: a whole head makes up for all lateness, a part of a body for some."""
        cycle = self.cycle
        super().data_received(data)
        now = self.loop.time()
        if self.cycle is not cycle:
            self._late_since = now
        elif not self._is_idle():
            self._late_since = min(now, self._late_since + len(data) / _BYTES_PER_SECOND)

    def pause_writing(self) -> None:
        """Wait from now on until the client has read."""
        self._late_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Go on, since the client has read."""
        self._late_since = self.loop.time()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Wait from now on for the next request."""
        self._late_since = self.loop.time()
        super().on_response_complete()

    def late(self) -> float:
        """Seconds that the client is late; 0 while the server works on its answer."""
        waits = self._is_idle() or self.flow.write_paused or (self.cycle.more_body and not self.flow.read_paused)
        return self.loop.time() - self._late_since if waits else 0.0

    def drop_if_late(self, seconds: float) -> None:
        """End the connection if the client is that late with the head of a request or with reading an answer.

        Bodies are timed by the application, which can say so to the client.
        """
        if (self._is_idle() or self.flow.write_paused) and self.late() > seconds:
            self.drop()

    def drop(self) -> None:
        """End the connection at once, even where the client has not read all that was written."""
        self.connections.discard(self)
        self.transport.abort()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete


def of(connections: Iterable[object]) -> list[ImpatientProtocol]:
    """The connections of this kind among uvicorn's."""
    return [each for each in connections if isinstance(each, ImpatientProtocol)]
