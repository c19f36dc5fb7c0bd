"""One function on many items, in several processes."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

import torch

from ssrseg.console import steps
from ssrseg.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 4  # items per process that wait in the queue: enough to keep it busy, few to hold


def run_all(
    function: Callable[[Item], str],
    items: Iterable[Item],
    workers: int,
    title: str,
    total: int,
    done: int = 0,
) -> None:
    """Call ``in_processes`` to the end and show progress, with the names it returns."""
    with steps(title, total, done=done) as counter:
        for name in in_processes(function, items, workers):
            counter.advance(name)


def in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """Results of ``function`` in the order in which they are ready.

    It must be one that can be pickled: a function of a module, or a partial of one. Items are taken
    as they are needed; one worker is this process.

    Raises:
        DataError: If a process is killed from outside, most often for want of memory.
    """
    if workers == 1:
        yield from map(function, items)
        return
    # fork would copy the locks of torch's threads as they happen to be
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)
    try:
        waiting = iter(items)
        running: set[Future[Result]] = set()
        while True:
            fresh = islice(waiting, _AHEAD * workers - len(running))
            running |= {pool.submit(function, item) for item in fresh}
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "A worker process was ended from outside, most often because memory ran out. What is"
            " done is kept: run the same command again with fewer --workers."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process stops the others
