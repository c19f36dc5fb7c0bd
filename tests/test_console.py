from __future__ import annotations

import re

import pytest

from ssrseg.console import (
    CheckResult,
    echo,
    named,
    note,
    print_table,
    printable,
    printable_lines,
    show,
    silent,
    steps,
    table_text,
    track,
)


class Clock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("rich.console.monotonic", clock.monotonic)
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


def test_the_name_of_a_run_stands_before_its_bars(capsys: pytest.CaptureFixture[str]) -> None:
    with named("ssr"):
        list(track("a", "Training", 1))
    list(track("a", "Training", 1))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" 1/1")[0] for line in lines] == ["ssr: Training", "Training"]


def test_the_last_step_is_always_told(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(iter("abc"), "Scoring", 3)) == ["a", "b", "c"]
    assert capsys.readouterr().err == "Scoring 3/3, 0:00:00 spent, 0:00:00 left\n"
    with steps("None", 0):
        pass
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("COLUMNS", "90"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_bar_in_a_terminal(
    in_a_terminal: None, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with steps("Training [x]", 100, done=90) as counter:
        for text in ("loss 2", "loss [/1]"):
            clock.now += 20
            counter.advance(text)
    shown = plain(capsys.readouterr().err)
    assert "Training [x]" in shown
    assert " 92/100 0:00:40 left 0:02:40 loss [/1]" in shown  # without the 90 done before


def test_an_error_leaves_the_terminal_in_order(
    in_a_terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    with pytest.raises(RuntimeError), steps("Masks", 3):
        raise RuntimeError
    written = capsys.readouterr().err
    assert written.rindex(shown) > written.rindex(hidden)  # the cursor is back


def test_a_note_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    note("class :dog: [red] " + "x" * 200)
    assert capsys.readouterr() == ("", "Note: class :dog: [red] " + "x" * 200 + "\n")


def test_a_table_has_one_line_a_row_outside_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(("class", "IoU"), [("[cat] " + "x" * 200, "4.5"), ("dog", "12.0")], numbers=True)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert [re.split(" {2,}", line) for line in lines] == [
        ["class", "IoU"],
        ["[cat] " + "x" * 200, "4.5"],
        ["dog", "12.0"],
    ]


def test_a_table_as_text(in_a_terminal: None) -> None:
    rows = [("[cat] " + "x" * 100, "4.5", "a [note]"), ("雪", "12.0", "")]
    assert table_text(("class", "IoU", ""), rows).split("\n") == [
        "class" + " " * 103 + " IoU",
        "[cat] " + "x" * 100 + "   4.5  a [note]",
        "雪" + " " * 106 + "12.0",  # two cells wide in a terminal
    ]


def test_problems_are_shown_with_their_cures(capsys: pytest.CaptureFixture[str]) -> None:
    fine = CheckResult("torch", "2.13")
    assert show([fine]) == 0
    assert capsys.readouterr().out.split() == ["ok", "torch", "2.13"]
    assert show([fine, CheckResult("list [a]", "1 missing", "Put it there.")]) == 1
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert re.fullmatch(r"problem +list \[a\] +1 missing", lines[1])
    assert lines[2:] == ["", "list [a]: Put it there."]


HOSTILE = "dog[/b]\x1b]0;owned\x07\x1b[2J\u2028\u202ecat\x85\udcff\u200b\r"
SHOWN = r"dog[/b]\x1b]0;owned\x07\x1b[2J\u2028\u202ecat\x85\udcff\u200b\r"


def test_names_are_shown_as_what_is_in_them() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable("a\n\tb") == r"a\n\tb"
    assert printable_lines("a\n\tb\r\n") == "a\n\\tb\\r\n"
    for word in ("naïve café", "猫", "كلب", "👩‍🚀", "[dog]", ":smile:", "$x^2$", "می‌خواهم"):
        assert printable(word) == word


@pytest.mark.parametrize("terminal", [False, True])
def test_every_way_to_say_something_shows_names_so(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if terminal:
        for name, value in (("FORCE_COLOR", "1"), ("COLUMNS", "250"), ("TERM", "xterm")):
            monkeypatch.setenv(name, value)
    echo(HOSTILE)
    note(HOSTILE)
    print_table((HOSTILE, "n"), [(HOSTILE, "1")], numbers=True)
    with steps(HOSTILE, 1) as counter:
        counter.advance(HOSTILE)
    with named(HOSTILE):
        list(track("a", "t", 1))
    show([CheckResult(HOSTILE, HOSTILE, HOSTILE)])
    said = capsys.readouterr()
    assert said.out.count(SHOWN) == 7 and said.err.count(SHOWN) >= 4
    assert not set(plain(said.out + said.err)) & set("\x07\u2028\u202e\x85\udcff\u200b")
    assert "owned\x07" not in said.out + said.err and "\x1b[2J" not in said.out + said.err
    assert SHOWN in table_text((HOSTILE,), [(HOSTILE,)])


def test_one_process_speaks_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    with silent():
        echo("done")
        note("by the way")
        assert list(track([1, 2], "Reading", 2)) == [1, 2]
    assert capsys.readouterr() == ("", "")
    echo("done")
    assert capsys.readouterr().out == "done\n"
