"""Stopping on purpose: Ctrl-C, SIGTERM (a scheduler) and SIGHUP (a closed terminal).

The first signal asks, and what is going on is brought to an end and saved; the second one stops at
once. Signals that the caller ignores, such as SIGHUP under nohup, stay ignored.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGHUP": "SIGHUP"}
"""What stops a run, as a person knows it; Windows has no SIGHUP."""

_SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


class Interrupted(KeyboardInterrupt):
    """Work that was stopped by a signal.

    Attributes:
        signum: Number of the signal; a command ends with exit code 128 + signum.
        message: What was saved, for the person who stopped it.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(signum, message)
        self.signum, self.message = signum, message

    def __str__(self) -> str:
        return self.message


class Stop:
    """Whether somebody wants the work in a ``with until_stopped()`` to end."""

    def __init__(self, *, patient: bool = False) -> None:
        self.signum = 0
        self._at_once, self._patient = False, patient

    @property
    def requested(self) -> bool:
        """True from the first signal on."""
        return self.signum != 0

    def ask(self, signum: int) -> None:
        """As if this signal had come: another process of the work got it."""
        self.signum = signum

    def error(self, saved: str) -> Interrupted:
        """What to raise when all is saved; ``saved`` says what and where."""
        name = NAMES[signal.Signals(self.signum).name]
        return Interrupted(self.signum, f"Stopped by {name}: {saved}")

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A block in which already the first signal interrupts: nothing of it needs saving."""
        self._at_once = True
        try:
            if self.requested:
                raise self.error("nothing was begun.")
            yield
        finally:
            self._at_once = False

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        second, self.signum = self.requested and not self._patient, signum
        if second or self._at_once:
            raise self.error("at once; what was saved before is still there.")


@contextmanager
def until_stopped(*, patient: bool = False) -> Iterator[Stop]:
    """Ask ``stop.requested`` between two steps of some work, save, and raise ``stop.error(...)``.

    Args:
        patient: A second signal stops nothing at once: launchers of several processes send two,
            and a third that cannot be handled.

    Raises:
        Interrupted: At the second signal, wherever the work is. Outside the main thread no signal
            arrives and nothing is ever requested.
    """
    stop = Stop(patient=patient)
    with _handled(stop):
        yield stop


@contextmanager
def interruptible() -> Iterator[None]:
    """A block that any signal ends as Ctrl-C does, with ``Interrupted``: files are closed."""
    stop = Stop()
    with _handled(stop), stop.at_once():
        yield


@contextmanager
def _handled(stop: Stop) -> Iterator[None]:
    earlier = {}
    if threading.current_thread() is threading.main_thread():
        for each in _SIGNALS:
            handler = signal.getsignal(each)
            if handler is not None and handler is not signal.SIG_IGN:  # None: set outside Python
                earlier[each] = handler
                signal.signal(each, stop._handle)
    try:
        yield
    finally:
        for each, handler in earlier.items():
            signal.signal(each, handler)


def leave_to_parent(_worker: int = 0) -> None:
    """For processes that load data: a terminal signals them too, but their parent decides."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
