"""One function on many items, in several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import torch

from ssrseg.console import steps
from ssrseg.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")
P = ParamSpec("P")

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
    try:
        with WorkerPool(workers) as pool:
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


class WorkerPool(ProcessPoolExecutor):
    """Processes that end at once, with all that waits for them, when the ``with`` block fails.

    Ctrl-C reaches every process of a terminal: here it interrupts the main process alone, which
    ends the others.
    """

    def __init__(self, workers: int, *, threads: int = 1) -> None:
        """Start nothing yet; ``threads`` is the number of torch's threads in each process."""
        # fork would copy the locks of torch's threads as they happen to be
        context = multiprocessing.get_context("spawn")
        super().__init__(workers, context, _begin, (threads,))
        self._others = set(multiprocessing.active_children())

    def submit(
        self, function: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[Result]:
        """Like that of every executor; a process that is started here never sees Ctrl-C."""
        work: Any = partial(_to_the_end, function)
        if not hasattr(signal, "pthread_sigmask"):  # Windows
            return super().submit(work, *args, **kwargs)
        # a new process inherits the mask, so that not even its imports are interrupted
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(work, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for the processes, or end them if there is an error."""
        if kind is not None:
            for process in set(multiprocessing.active_children()) - self._others:
                process.terminate()
        self.shutdown(cancel_futures=True)


def _to_the_end(function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
    """Call it; a process that was stopped and has saved its work takes up nothing more."""
    try:
        return function(*args, **kwargs)
    except KeyboardInterrupt:
        os._exit(1)


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it could not be blocked
    os.environ["TTY_COMPATIBLE"] = "0"  # several live progress bars would overwrite each other
