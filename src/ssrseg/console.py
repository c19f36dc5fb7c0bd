"""Progress with a time to go: a live bar in a terminal, a line now and then in a log file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Item = TypeVar("Item")


class Steps:
    """Counts finished steps and shows them."""

    def __init__(self, title: str, total: int, done: int, console: Console, every: float) -> None:
        """Start counting; use :func:`steps`."""
        self._title, self._total, self._done, self._first = title, total, done, done
        self._console, self._every = console, every
        self._start = self._last = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=console,
            )
            self._task = self._bar.add_task(title, total=total, completed=done, note="")
            self._bar.start()

    def advance(self, note: str = "") -> None:
        """One step is done.

        Args:
            note: Shown behind the time, such as the loss.
        """
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, advance=1, note=note)
            return
        now = time.monotonic()
        if now - self._last < self._every and self._done < self._total:
            return
        self._last = now
        spent = now - self._start
        left = spent / (self._done - self._first) * (self._total - self._done)
        self._console.print(
            f"{self._title} {self._done}/{self._total}, {_clock(spent)} spent, {_clock(left)} left"
            f" {note}".rstrip(),
            markup=False,  # file names may hold brackets
            emoji=False,  # or name:dog:
            highlight=False,
            soft_wrap=True,
        )

    def stop(self) -> None:
        """Leave the terminal in order."""
        if self._bar is not None:
            self._bar.stop()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


@contextmanager
def steps(title: str, total: int, *, done: int = 0, every: float = 15.0) -> Iterator[Steps]:
    """Show progress on standard error.

    Args:
        title: What is being done.
        total: All steps.
        done: Steps of an earlier run.
        every: Seconds between lines where standard error is not a terminal.
    """
    counter = Steps(title, total, done, Console(stderr=True), every)
    try:
        yield counter
    finally:
        counter.stop()


def track(items: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """Yield the items and show how many are through."""
    with steps(title, total) as counter:
        for item in items:
            yield item
            counter.advance()


def notice(text: str) -> None:
    """One line on standard error that a user should know of, though nothing is wrong.

    Args:
        text: A sentence.
    """
    Console(stderr=True).print(f"Note: {text}", markup=False, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class CheckResult:
    """One line of a report on a machine or a data set; ``cure`` is empty where all is well."""

    what: str
    found: str
    cure: str = ""
