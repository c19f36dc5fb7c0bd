from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssrseg.training_log import EVERY, FIELDS, Log


def row(iteration: int) -> dict[str, float | torch.Tensor]:
    return {name: torch.tensor(iteration + 0.25) for name in FIELDS} | {
        "iteration": float(iteration)
    }


def test_rows_are_written_together_and_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    with pytest.raises(KeyError), Log(path, 0) as log:
        for iteration in range(1, EVERY):
            log.add(row(iteration))
        assert path.read_text() == ",".join(FIELDS) + "\n"
        log.add(row(EVERY))
        assert len(path.read_text().splitlines()) == 1 + EVERY
        log.add(row(EVERY + 1))
        raise KeyError
    assert path.read_text().splitlines()[-1] == "11" + ",11.25" * (len(FIELDS) - 1)
    assert log.last == {name: 11.25 for name in FIELDS} | {"iteration": 11}


def test_a_run_that_goes_on_drops_later_rows_and_one_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    with Log(path, 0) as log:
        for iteration in range(1, 4):
            log.add(row(iteration))
    whole = path.read_text()
    for cut in ("4", "4,4.2", "4" + ",4.2" * (len(FIELDS) - 1)):
        path.write_text(whole + cut)
        assert Log(path, 9).last["iteration"] == 3
        assert path.read_text() == whole
    assert Log(path, 2).last["loss"] == 2.25
    assert path.read_text() == whole[: whole.index("3,")]
    assert Log(path, 0).last == {}
