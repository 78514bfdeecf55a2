"""Files are written beside the work, not between its steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

# What waits holds its images in memory; more than this, and the work waits for the disk.
_MOST_WAITING = 2


class BackgroundWriter:
    """Runs writing jobs on one thread, in order; use it as a context manager, whose end waits for all of them.

    A job that fails makes the next call, or the end of the block, raise its error, so that no failure is lost.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clipstill-writer")
        self._waiting: deque[Future[Any]] = deque()

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)
        if error is None:
            while self._waiting:
                self._waiting.popleft().result()

    def submit(self, job: Callable[..., object], *arguments: object) -> None:
        """Write soon; waits where too much is waiting already.

        Raises:
            Exception: what an earlier job raised.
        """
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= _MOST_WAITING):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(job, *arguments))
