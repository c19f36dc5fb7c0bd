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
from types import FrameType, TracebackType
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
    ends the others. None of them dies of it: the executor would signal the rest a second time, and
    what they are saving would be lost.
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
        work: Any = partial(_unless_stopped, function)
        if not hasattr(signal, "pthread_sigmask"):  # Windows
            return super().submit(work, *args, **kwargs)
        # a new process inherits the mask, so that not even its imports are interrupted
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
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


class _Worker:
    """What a process of a pool knows of itself."""

    stopped = False  # takes up nothing more
    busy = False


def _unless_stopped(function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
    """Call it in a process that nobody has stopped."""
    if _Worker.stopped:
        raise KeyboardInterrupt
    _Worker.busy = True
    try:
        return function(*args, **kwargs)
    except KeyboardInterrupt:  # also from work that has heeded the signal itself
        _Worker.stopped = True
        raise
    finally:
        _Worker.busy = False


def _stop(_signum: int, _frame: FrameType | None) -> None:
    _Worker.stopped = True
    if _Worker.busy:
        raise KeyboardInterrupt


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it could not be blocked
    signal.signal(signal.SIGTERM, _stop)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    os.environ["TTY_COMPATIBLE"] = "0"  # several live progress bars would overwrite each other
