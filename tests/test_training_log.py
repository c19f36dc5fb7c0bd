from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from ssrseg.errors import DataError
from ssrseg.training_log import EVERY, FIELDS, Log


class Stopped(Exception):
    pass


def fault(iteration: int, checked: Sequence[float], images: Sequence[int]) -> Stopped:
    return Stopped(iteration, list(checked), list(images))


def open_log(path: Path, first: int) -> Log:
    return Log(path, first, fault)


def add(log: Log, iteration: int, *checked: float) -> None:
    log.add(row(iteration), torch.tensor(checked or (1.0, 2.0)), (iteration, 0))


def row(iteration: int) -> dict[str, float | torch.Tensor]:
    return {name: torch.tensor(iteration + 0.25) for name in FIELDS} | {
        "iteration": float(iteration)
    }


def test_rows_are_written_together_and_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    with pytest.raises(KeyError), open_log(path, 0) as log:
        for iteration in range(1, EVERY):
            add(log, iteration)
        assert path.read_text() == ",".join(FIELDS) + "\n"
        add(log, EVERY)
        assert len(path.read_text().splitlines()) == 1 + EVERY
        add(log, EVERY + 1)
        raise KeyError
    assert path.read_text().splitlines()[-1] == "11" + ",11.25" * (len(FIELDS) - 1)
    assert log.last == {name: 11.25 for name in FIELDS} | {"iteration": 11}


def test_a_run_that_goes_on_drops_later_rows_and_one_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    with open_log(path, 0) as log:
        for iteration in range(1, 4):
            add(log, iteration)
    whole = path.read_text()
    for cut in ("4", "4,4.2", "4" + ",4.2" * (len(FIELDS) - 1)):
        path.write_text(whole + cut)
        assert open_log(path, 9).last["iteration"] == 3
        assert path.read_text() == whole
    assert open_log(path, 2).last["loss"] == 2.25
    assert path.read_text() == whole[: whole.index("3,")]
    assert open_log(path, 0).last == {}


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("checked", [(NAN, 1.0), (1.0, INF), (-INF, NAN)])
def test_the_first_row_that_is_not_finite_is_named_and_the_last_one_written(
    tmp_path: Path, checked: tuple[float, float]
) -> None:
    path = tmp_path / "log.csv"
    with pytest.raises(Stopped) as caught, open_log(path, 0) as log:
        for iteration in range(1, EVERY + 1):  # nobody waits for the device before row ten
            add(log, iteration, *(checked if iteration in (4, 6) else ()))
    assert repr(caught.value.args) == repr((4, list(checked), [4, 0]))
    assert [line.split(",")[0] for line in path.read_text().splitlines()[1:]] == list("1234")


def test_another_fault_is_not_hidden_by_numbers_that_are_not_finite(tmp_path: Path) -> None:
    with pytest.raises(KeyError), open_log(tmp_path / "log.csv", 0) as log:
        add(log, 1, NAN)
        raise KeyError


def written(path: Path, rows: int) -> str:
    with open_log(path, 0) as log:
        for iteration in range(1, rows + 1):
            add(log, iteration)
    return path.read_text()


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole.replace("\n2,2.25", "\n2,2.2z5"),
        lambda whole: whole.replace("\n2,", "\n\0\0\0,"),
        lambda whole: whole.replace("2,2.25,", "2,"),
        lambda whole: whole.replace("\n2,", "\nnan,"),
        lambda whole: whole.replace("\n2,", "\n-2,"),
        lambda whole: whole.replace("\n2,", "\n1,"),
        lambda whole: whole.replace("\n2,2", "\n2,\N{LINE SEPARATOR}"),
        lambda whole: whole.replace("\n2,", "\n\n2,").replace("2,2.25", "2;2.25"),
    ],
)
def test_damaged_rows_are_left_out_with_a_note(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: Callable[[str], str]
) -> None:
    path = tmp_path / "log.csv"
    whole = written(path, 3)
    path.write_text(damage(whole), encoding="utf-8")
    open_log(path, 3)
    kept = [line for line in whole.splitlines() if not line.startswith("2,")]
    assert path.read_text().splitlines() == kept
    assert "log.csv: " in (said := capfd.readouterr().err)
    assert "left out" in said


@pytest.mark.parametrize("content", [b"", b"\0" * 300, b"\0" * 5 + b"\n1,2"])
def test_what_a_power_cut_leaves(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    assert open_log(path, 3).last == {}
    assert path.read_text() == ",".join(FIELDS) + "\n"


def test_a_spreadsheets_line_breaks_and_mark(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    whole = written(path, 3)
    path.write_bytes(b"\xef\xbb\xbf" + whole.replace("\n", "\r\n").encode())
    assert open_log(path, 3).last["loss"] == 3.25
    assert path.read_text() == whole


@pytest.mark.parametrize(
    "content",
    [b"step,loss\n1,2\n", b"iteration;loss\n", b"\xff\xfei\x00t\x00", b"notes of mine", b"\x89PNG"],
)
def test_the_log_of_another_program_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"log\.csv is not as ssrseg writes it.* Move it out"):
        open_log(path, 0)
    assert path.read_bytes() == content
