"""What is said while work goes on: progress, notes, and tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
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
from rich.table import Table
from rich.text import Text

Item = TypeVar("Item")

_work: ContextVar[str] = ContextVar("work", default="")


def _console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console that prints text as it is: names of files and classes may hold [brackets]."""
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def note(text: str) -> None:
    """One line on standard error that a user should know of, though nothing is wrong."""
    _console(stderr=True).print(f"Note: {text}", soft_wrap=True)


@contextmanager
def named(work: str) -> Iterator[None]:
    """Put a name before every bar in the block, where several runs go on side by side."""
    token = _work.set(work)
    try:
        yield
    finally:
        _work.reset(token)


class Steps:
    """Counts finished steps: a live bar in a terminal, a line now and then in a log file."""

    def __init__(self, title: str, total: int, done: int, every: float) -> None:
        """Use ``steps``."""
        console = _console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not console.is_terminal,  # it counts all the same
        )
        title = f"{_work.get()}: {title}" if _work.get() else title
        self.bar.add_task(title, total=total, completed=done, note="")
        (self._task,) = self.bar.tasks
        self._first, self._every, self._told = done, every, 0.0

    def advance(self, note: str = "") -> None:
        """One step is done; ``note`` is shown behind the time, such as the loss."""
        task = self._task
        self.bar.update(task.id, advance=1, note=note)
        spent = task.elapsed or 0.0
        last = task.completed >= (task.total or 0)
        if not self.bar.disable or not (last or spent - self._told >= self._every):
            return
        self._told = spent
        left = spent / (task.completed - self._first) * ((task.total or 0) - task.completed)
        spent_text, left_text = (timedelta(seconds=round(each)) for each in (spent, left))
        text = f"{task.description} {task.completed:.0f}/{task.total:.0f}, {spent_text} spent,"
        self.bar.console.print(f"{text} {left_text} left {note}".rstrip(), soft_wrap=True)


@contextmanager
def steps(title: str, total: int, *, done: int = 0, every: float = 15.0) -> Iterator[Steps]:
    """Show progress on standard error.

    Args:
        done: Steps of an earlier run; the time left is estimated without them.
        every: Seconds between lines where standard error is not a terminal.
    """
    counter = Steps(title, total, done, every)
    with counter.bar:
        yield counter


def track(items: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """Yield the items and show how many are through."""
    with steps(title, total) as counter:
        for item in items:
            yield item
            counter.advance()


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, numbers: bool = False
) -> None:
    """Print a table on standard output; ``numbers`` puts all columns but the first to the right."""
    console = _console()
    if not console.is_terminal:  # one row a line, for grep
        console = _console(width=10_000)
    console.print(_table(columns, rows, numbers))


def table_text(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The same with numbers as plain text, one row a line."""
    console = Console(color_system=None, width=10_000, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(_table(columns, rows, numbers=True))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], numbers: bool) -> Table:
    """A column without a heading holds notes, which stay on the left."""
    table = Table(box=None, show_header=bool(columns), pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if numbers and index and column else "left")
    for row in rows:
        table.add_row(*row)
    return table


@dataclass(frozen=True)
class CheckResult:
    """One line of a report on a machine or a data set; ``cure`` is empty where all is well."""

    what: str
    found: str
    cure: str = ""


def show(results: Sequence[CheckResult]) -> int:
    """Print results, then the cure of every problem; the exit code, 1 if there is one."""
    marks = {True: Text("problem", "red"), False: Text("ok", "green")}
    print_table((), [(marks[bool(each.cure)], each.what, each.found) for each in results])
    faults = [each for each in results if each.cure]
    for each in faults:
        print(f"\n{each.what}: {each.cure}", flush=True)
    return 1 if faults else 0
