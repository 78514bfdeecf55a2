"""Writes files on a second thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

# Waiting jobs keep their images in memory; with more than this, ``submit`` waits for the disk.
_MOST_WAITING = 2


class BackgroundWriter:
    """Runs jobs on one thread, in order. It is a context manager, whose end waits for all jobs.

    The next ``submit``, or the end of the block, raises the error of a failed job.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clipstill-writer")
        self._waiting: deque[Future[Any]] = deque()

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(wait=True)
        while kind is None and self._waiting:
            self._waiting.popleft().result()

    def submit(self, job: Callable[[], object]) -> None:
        """Run a job soon; waits if too many jobs are waiting already."""
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= _MOST_WAITING):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(job))
