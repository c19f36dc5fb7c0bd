from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from ssrseg import console as progress
from ssrseg.console import Steps, steps, track


class Clock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_lines_now_and_then_with_time_to_go(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with steps("Masks", 100, every=15.0) as counter:
        for _ in range(40):
            clock.now += 5
            counter.advance("a [b] c")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 13
    assert lines[0].startswith("Masks 3/100, 0:00:15 spent, 0:08:05 left a [b] c")


def test_time_to_go_counts_this_call_only(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with steps("Masks", 100, done=90, every=15.0) as counter:
        clock.now += 20
        counter.advance()
    assert capsys.readouterr().err == "Masks 91/100, 0:00:20 spent, 0:03:00 left\n"


def test_the_last_step_is_always_told(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(iter("abc"), "Scoring", 3)) == ["a", "b", "c"]
    assert capsys.readouterr().err == "Scoring 3/3, 0:00:00 spent, 0:00:00 left\n"
    with steps("None", 0):
        pass
    assert capsys.readouterr() == ("", "")


def test_a_bar_in_a_terminal() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=90, color_system=None)
    counter = Steps("Training", 4, 1, console, 15.0)
    for note in ("loss 2", "loss [/1]"):
        counter.advance(note)
    counter.stop()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "3/4" in plain
    assert "loss [/1]" in plain


def test_an_error_leaves_the_terminal_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = []
    monkeypatch.setattr(Steps, "stop", lambda self: stopped.append(self))
    with pytest.raises(RuntimeError), steps("Masks", 3):
        raise RuntimeError
    assert len(stopped) == 1
