"""Work that is done ahead, in threads: photos are decoded while a model looks at those before them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from clipstill.core.cores import usable_cores
from clipstill.core.errors import DataError

# A large picture may take a gigabyte while it is decoded.
_MOST_THREADS = 8
Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(call: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield ``call(item)`` of each item, in order, a few of them ahead, in as many threads as cores, at most eight.

    An error is raised in the place of its result, and ends the work.
    """
    threads = min(_MOST_THREADS, usable_cores())
    begun: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                begun.append(pool.submit(call, item))
                if len(begun) > 2 * threads:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()


def ahead_or_error(read: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result | DataError]:
    """As ``ahead``, but a ``DataError`` takes the place of its result, and the work goes on."""

    def result(item: Item) -> Result | DataError:
        try:
            return read(item)
        except DataError as error:
            return error

    return ahead(result, items)
