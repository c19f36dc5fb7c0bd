from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssrseg.errors import DataError
from ssrseg.interruption import until_stopped
from ssrseg.prepare.workers import WorkerPool, in_processes


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


def begin_and_sleep(file: Path) -> None:
    file.touch()
    time.sleep(600)


def interrupted(files: list[Path], begun: int) -> None:
    """Ctrl-C, as a terminal sends it to the whole process group, when so many have begun."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # some shells have it ignored
    with WorkerPool(2) as pool:
        futures = [pool.submit(begin_and_sleep, file) for file in files]
        while sum(file.exists() for file in files) < begun:
            time.sleep(0.05)
        os.killpg(0, signal.SIGINT)
        futures[0].result()


def begin_and_save(file: Path) -> None:
    with until_stopped() as stop:
        file.touch()  # only now would a signal be heeded
        while not stop.requested:
            time.sleep(0.05)
        file.write_text("saved")
        raise stop.error("saved.")


def test_work_that_can_be_saved_is_saved_and_nothing_more_begun(tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(6)]
    with pytest.raises(KeyError), WorkerPool(2) as pool:
        for file in files:
            pool.submit(begin_and_save, file)
        while sum(file.exists() for file in files) < 2:
            time.sleep(0.05)
        raise KeyError
    assert [file.read_text() for file in files if file.exists()] == ["saved", "saved"]


@pytest.mark.parametrize("begun", [0, 2], ids=["while they start", "while they work"])
def test_ctrl_c_ends_the_processes_and_starts_nothing_more(tmp_path: Path, begun: int) -> None:
    files = [tmp_path / str(number) for number in range(6)]
    code = (
        "import sys; from pathlib import Path; import test_workers;"
        "test_workers.interrupted([Path(file) for file in sys.argv[2:]], int(sys.argv[1]))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(begun), *map(str, files)],
        cwd=Path(__file__).parent,
        start_new_session=True,
        stderr=subprocess.PIPE,  # read to its end, which the last process closes
        text=True,
        timeout=300,
    )
    assert sum(file.exists() for file in files) == begun
    assert found.stderr.count("Traceback") == 1
    assert found.stderr.rstrip().endswith("KeyboardInterrupt")
