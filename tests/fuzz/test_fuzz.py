"""A short form of ``make fuzz``: the first cases of every reader."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.cases import run_cases
from fuzz.readers import readers

CASES, SECONDS = 300, 0.4


@pytest.mark.parametrize("name", [*readers(Path("unused"))])
@pytest.mark.filterwarnings("ignore")
def test_only_our_own_errors_come_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    reader = readers(tmp_path)[name]()
    found = run_cases(name, reader, range(CASES), 0, tmp_path / "kept", seconds=SECONDS)
    assert found.foreign == {}
    assert found.cases > 0


def test_a_case_is_the_same_whenever_it_is_run(tmp_path: Path) -> None:
    made = []
    for folder in ("a", "b"):
        reader = readers(tmp_path / folder)["settings"]()
        kept = tmp_path / folder / "kept"
        run_cases("settings", reader, range(7, 8), 3, kept)
        made.append(reader.place.read_bytes())
    assert made[0] == made[1]


def test_what_is_foreign_is_counted_and_kept(tmp_path: Path) -> None:
    from dataclasses import replace

    def fail() -> None:
        raise TypeError("not ours")

    reader = replace(readers(tmp_path)["settings"](), read=fail)
    found = run_cases("settings", reader, range(5), 0, tmp_path / "kept")
    assert (found.cases, found.refused) == (5, 0)
    assert [*found.foreign.values()] == [5]
    assert len([*(tmp_path / "kept").glob("settings-*.input")]) == 3
