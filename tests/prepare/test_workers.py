from __future__ import annotations

import math
import os
from collections.abc import Iterator

import pytest

from ssrseg.errors import DataError
from ssrseg.prepare.workers import in_processes


def test_one_process_is_this_one() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(5):
            taken.append(number)
            yield number

    results = in_processes(lambda number: (number, os.getpid()), items(), 1)
    assert next(results) == (0, os.getpid())
    assert taken == [0]
    assert [number for number, _ in results] == [1, 2, 3, 4]


def test_several_processes_give_every_result_and_hold_few_items() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(40):
            taken.append(number)
            yield number

    results = in_processes(math.factorial, items(), 2)
    first = next(results)
    assert len(taken) <= 8
    assert sorted([first, *results]) == [math.factorial(number) for number in range(40)]


def test_a_fault_comes_through_and_ends_the_work() -> None:
    taken: list[float] = []

    def items() -> Iterator[float]:
        for number in (1.0, 4.0, -1.0, *[9.0] * 1000):
            taken.append(number)
            yield number

    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        list(in_processes(math.sqrt, items(), 2))
    assert len(taken) < 500


def test_a_process_that_is_ended_from_outside() -> None:
    with pytest.raises(DataError, match=r"ended from outside.*fewer --workers"):
        list(in_processes(os._exit, [1, 1], 2))
