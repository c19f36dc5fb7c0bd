"""What is said while work goes on: progress, notes, and tables."""

from __future__ import annotations

import re
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
_unseen: ContextVar[bool] = ContextVar("unseen", default=False)

# controls (terminal escapes among them), line and paragraph separators, marks that turn the
# direction of what follows, marks without width, halves of surrogate pairs (names not in UTF-8)
_UNPRINTABLE = re.compile(
    "[\0-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Text in one line that shows what is in it: a name may hold ``\x1b``, which is shown so."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_lines(text: str) -> str:
    """The same for text of several lines, which are kept."""
    return "\n".join(map(printable, text.split("\n")))


class _Said:
    """Whether this process says nothing, in all of its threads: they do not inherit variables."""

    unheard = False


def echo(text: str) -> None:
    """Print on standard output at once, so that a log file is never behind."""
    if not _Said.unheard:
        print(printable_lines(text), flush=True)


def _console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console that takes no [brackets] in names for markup."""
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def note(text: str) -> None:
    """One line on standard error that a user should know of, though nothing is wrong."""
    if not _Said.unheard:
        _console(stderr=True).print(f"Note: {printable(text)}", soft_wrap=True)


@contextmanager
def named(work: str) -> Iterator[None]:
    """Put a name before every bar in the block, where several runs go on side by side."""
    token = _work.set(work)
    try:
        yield
    finally:
        _work.reset(token)


@contextmanager
def without_bars() -> Iterator[None]:
    """Show no progress in the block, of work that is tried out."""
    token = _unseen.set(True)
    try:
        yield
    finally:
        _unseen.reset(token)


@contextmanager
def silent() -> Iterator[None]:
    """Say nothing in the block, neither notes nor progress: another process says the same."""
    before, _Said.unheard = _Said.unheard, True
    try:
        with without_bars():
            yield
    finally:
        _Said.unheard = before


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
            disable=_unseen.get() or not console.is_terminal,  # it counts all the same
        )
        title = f"{_work.get()}: {title}" if _work.get() else title
        self.bar.add_task(printable(title), total=total, completed=done, note="")
        (self._task,) = self.bar.tasks
        self._first, self._told = done, 0.0
        self._every = float("inf") if _unseen.get() else every

    def advance(self, note: str = "") -> None:
        """One step is done; ``note`` is shown behind the time, such as the loss."""
        task, note = self._task, printable(note)
        self.bar.update(task.id, advance=1, note=note)
        spent = task.elapsed or 0.0
        last = task.completed >= (task.total or 0) and self._every < float("inf")
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
    console = Console(color_system=None, width=10_000)
    with console.capture() as capture:
        console.print(_table(columns, rows, numbers=True))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], numbers: bool) -> Table:
    """A column without a heading holds notes, which stay on the left."""
    table = Table(box=None, show_header=bool(columns), pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(_cell(column), justify="right" if numbers and index and column else "left")
    for row in rows:
        table.add_row(*map(_cell, row))
    return table


def _cell(text: str | Text) -> Text:
    return text if isinstance(text, Text) else Text(printable(text))


@dataclass(frozen=True)
class CheckResult:
    """One line of a report on a machine or a data set.

    Attributes:
        what: What was looked at.
        found: What was found.
        cure: How to mend it; empty where nothing has to be.
        grave: False = worth a look, though nothing has to be mended.
    """

    what: str
    found: str
    cure: str = ""
    grave: bool = True


def show(results: Sequence[CheckResult]) -> int:
    """Print results, then the cure of every problem; the exit code, 1 if there is one."""
    print_table((), [(_mark(each), each.what, each.found) for each in results])
    faults = [each for each in results if each.cure]
    for each in faults:
        echo(f"\n{each.what}: {each.cure}")
    return 1 if faults else 0


def _mark(result: CheckResult) -> Text:
    if result.cure:
        return Text("problem", "red")
    return Text("ok", "green") if result.grave else Text("look", "yellow")
