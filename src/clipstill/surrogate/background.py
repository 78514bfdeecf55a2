"""Writes files on a second thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

# Waiting jobs keep their images in memory; with more than this, a new job waits for the disk.
_MOST_WAITING = 2


@contextmanager
def background_writer() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Yield a function that runs jobs on one thread, in order. The end of the block waits for all jobs.

    The next call, or the end of the block, raises the error of a failed job.
    """
    waiting: deque[Future[Any]] = deque()

    def submit(job: Callable[[], object]) -> None:
        while waiting and (waiting[0].done() or len(waiting) >= _MOST_WAITING):
            waiting.popleft().result()
        waiting.append(pool.submit(job))

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="clipstill-writer") as pool:
        yield submit
    for job in waiting:
        job.result()
