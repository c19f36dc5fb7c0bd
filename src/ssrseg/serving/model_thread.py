"""The one thread that computes: work of all clients in a queue, equal work put together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Work = TypeVar("Work")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class _Waiting(Generic[Work, Result]):
    work: Work
    key: Hashable
    result: Future[Result] = field(default_factory=Future)


class ModelThread(Generic[Work, Result]):
    """Runs work in the order in which it comes, some of one kind at once.

    Who has cancelled the future of their work is left out. Work that fails with others is tried
    again alone, so that nobody fails for another's image.
    """

    def __init__(
        self, run: Callable[[Sequence[Work]], Sequence[Result]], batch: int, wait: float
    ) -> None:
        """Start the thread.

        Args:
            run: Gets work of one kind, at most ``batch`` of it, and returns as many results.
            wait: Seconds in which more of its kind may join the oldest work.
        """
        self._run, self._batch, self._wait = run, batch, wait
        self._waiting: deque[_Waiting[Work, Result]] = deque()
        self._changed = threading.Condition()
        self._ends = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def submit(self, work: Work, key: Hashable) -> Future[Result]:
        """Put work into the queue; that of one key may run together."""
        entry: _Waiting[Work, Result] = _Waiting(work, key)
        with self._changed:
            self._waiting.append(entry)
            self._changed.notify()
        entry.result.add_done_callback(lambda result: self._drop(entry, result))
        return entry.result

    def _drop(self, entry: _Waiting[Work, Result], result: Future[Result]) -> None:
        """Keep nothing of work that nobody waits for any more."""
        if result.cancelled():
            with self._changed, suppress(ValueError):  # it may have been taken out just now
                self._waiting.remove(entry)
                self._changed.notify()

    def __len__(self) -> int:
        """How much waits."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether work is done."""
        return self._thread.is_alive()

    def close(self, patience: float) -> None:
        """Do what waits, and end; give up after ``patience`` seconds."""
        with self._changed:
            self._ends = True
            self._changed.notify()
        self._thread.join(patience)

    def _work(self) -> None:
        while together := self._next():
            chosen = [each for each in together if each.result.set_running_or_notify_cancel()]
            if chosen:
                self._answer(chosen)

    def _next(self) -> list[_Waiting[Work, Result]]:
        """The oldest work and what is like it; empty when all is done and no more comes."""
        with self._changed:
            while True:
                while not self._waiting:
                    if self._ends:
                        return []
                    self._changed.wait()
                until = time.monotonic() + self._wait
                while self._waiting:  # all may go while others are waited for
                    key = self._waiting[0].key
                    alike = [each for each in self._waiting if each.key == key][: self._batch]
                    left = until - time.monotonic()
                    if len(alike) == self._batch or left <= 0 or self._ends:
                        for each in alike:
                            self._waiting.remove(each)
                        return alike
                    self._changed.wait(left)

    def _answer(self, together: list[_Waiting[Work, Result]]) -> None:
        try:
            results = self._run([each.work for each in together])
        except Exception as error:  # noqa: BLE001  # it is the client's, who says what it is
            if len(together) == 1:
                together[0].result.set_exception(error)
                return
            for each in together:
                self._answer([each])
            return
        for each, result in zip(together, results, strict=True):
            each.result.set_result(result)
