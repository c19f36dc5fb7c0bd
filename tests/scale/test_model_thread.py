from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError

import pytest

from ssrseg.serving.model_thread import ModelThread

WAIT = 30


class Recorder:
    """Doubles numbers, and keeps which it got together; it begins when it is told."""

    def __init__(self) -> None:
        self.together: list[list[int]] = []
        self.begin = threading.Event()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        assert self.begin.wait(WAIT)
        self.together.append(list(numbers))
        if 13 in numbers:
            raise ValueError("thirteen")
        return [2 * number for number in numbers]


def test_what_is_alike_runs_together_in_order() -> None:
    run = Recorder()
    thread: ModelThread[int, int] = ModelThread(run, batch=3, wait=0.0)
    first = thread.submit(0, "alone")
    while len(thread):  # it is being done
        pass
    futures = [thread.submit(number, number % 2) for number in range(1, 9)]
    assert len(thread) == 8
    run.begin.set()
    assert [each.result(WAIT) for each in (first, *futures)] == [2 * n for n in range(9)]
    assert run.together == [[0], [1, 3, 5], [2, 4, 6], [7], [8]]
    thread.close(float(WAIT))
    assert not thread.alive


def test_work_waits_for_others_of_its_kind() -> None:
    run = Recorder()
    run.begin.set()
    thread: ModelThread[int, int] = ModelThread(run, batch=2, wait=float(WAIT))
    futures = [thread.submit(number, number == 2) for number in (1, 2, 3)]
    assert [futures[0].result(WAIT), futures[2].result(WAIT)] == [2, 6]
    assert run.together == [[1, 3]] and not futures[1].done()
    thread.close(float(WAIT))  # nobody comes any more
    assert futures[1].result(0) == 4


def test_one_that_fails_spoils_no_other() -> None:
    run = Recorder()
    thread: ModelThread[int, int] = ModelThread(run, batch=3, wait=0.0)
    thread.submit(0, "alone")
    futures = [thread.submit(number, "like") for number in (12, 13, 14)]
    run.begin.set()
    assert futures[0].result(WAIT) == 24 and futures[2].result(WAIT) == 28
    with pytest.raises(ValueError, match="thirteen"):
        futures[1].result(WAIT)
    assert thread.alive
    thread.close(float(WAIT))


def test_nothing_is_kept_of_those_who_have_gone() -> None:
    run = Recorder()
    thread: ModelThread[int, int] = ModelThread(run, batch=3, wait=0.0)
    thread.submit(0, "alone")
    while len(thread):
        pass
    futures = [thread.submit(number, "like") for number in range(1, 51)]
    assert len(thread) == 50
    for each in futures[:49]:
        each.cancel()
    assert len(thread) == 1
    run.begin.set()
    assert futures[49].result(WAIT) == 100 and run.together == [[0], [50]]
    thread.close(float(WAIT))


def test_who_has_gone_is_left_out() -> None:
    run = Recorder()
    thread: ModelThread[int, int] = ModelThread(run, batch=3, wait=0.0)
    thread.submit(0, "alone")
    while len(thread):
        pass
    futures = [thread.submit(number, "like") for number in (1, 2)]
    assert futures[0].cancel()
    run.begin.set()
    assert futures[1].result(WAIT) == 4
    with pytest.raises(CancelledError):
        futures[0].result(0)
    assert run.together == [[0], [2]]
    thread.close(float(WAIT))
