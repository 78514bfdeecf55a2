"""Work that is done ahead in threads."""

import threading
import time

import pytest

from clipstill.core.cores import usable_cores
from clipstill.core.threads import ahead


def test_results_come_in_order_and_only_a_few_ahead() -> None:
    begun: list[int] = []
    threads: set[int] = set()

    def double(number: int) -> int:
        begun.append(number)
        threads.add(threading.get_ident())
        time.sleep(0.002 * (number % 3))
        return 2 * number

    results = ahead(double, range(50))
    assert [next(results) for _ in range(5)] == [0, 2, 4, 6, 8]
    assert len(begun) <= 5 + 2 * min(8, usable_cores()) + 1
    assert list(results) == [2 * number for number in range(5, 50)]
    assert threading.get_ident() not in threads


def test_an_error_is_raised_in_its_place_and_ends_the_work() -> None:
    begun: list[int] = []

    def reciprocal(number: int) -> float:
        begun.append(number)
        return 1 / number

    results = ahead(reciprocal, [1, 2, 0, *range(1, 1000)])
    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert len(begun) < 1000
