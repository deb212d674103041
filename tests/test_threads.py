"""Work in threads: results in order, bounded, and as without threads."""

from __future__ import annotations

import threading
import time

import pytest

from sdc.threads import ahead, cpus


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(threads) -> None:
    def late(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number * number

    assert list(ahead(late, range(20), threads)) == [n * n for n in range(20)]


def test_items_are_computed_side_by_side_but_not_too_many() -> None:
    together = threading.Barrier(2, timeout=30)  # a thread alone would wait here for ever
    begun: list[int] = []

    def meet(number: int) -> int:
        begun.append(number)
        together.wait()
        return number

    made = ahead(meet, range(100), 2)
    assert next(made) == 0
    assert len(begun) <= 4
    together.abort()
    made.close()


def test_a_failure_is_raised_in_its_place_and_ends_the_work() -> None:
    begun: list[int] = []

    def fail(number: int) -> int:
        begun.append(number)
        if number == 2:
            raise ValueError("two")
        return number

    seen: list[int] = []
    with pytest.raises(ValueError, match="two"):
        seen.extend(ahead(fail, range(1000), 2))
    assert max(begun) < 10


def test_there_is_a_processor() -> None:
    assert cpus() >= 1
