"""docs/decisions/README.md: 22 findings about the paper, each with key, value, page and test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ssrseg.config import known_keys, load_config

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "decisions"
TEXT = (FOLDER / "README.md").read_text(encoding="utf-8")
LINES = [line for line in TEXT.splitlines() if line.startswith("| ")]
CELLS = [[cell.strip() for cell in line.strip("|").split("|")] for line in LINES]
FINDINGS = [row for row in CELLS if row[0].isdigit()]
MATTERS = (FOLDER.parents[1] / "tests" / "test_settings.py").read_text(encoding="utf-8")
"""Has another value for every setting, and shows that it changes what comes out."""
ENTRIES = [row for row in CELLS if row[0].startswith("[")]


def links(cell: str) -> list[Path]:
    return [(FOLDER / target).resolve() for target in re.findall(r"\]\(([^)]+)\)", cell)]


def keys(cell: str) -> list[str]:
    return re.findall(r"`([a-z]+\.[a-z_]+)`", cell)


def test_all_22_findings_are_there() -> None:
    assert [int(row[0]) for row in FINDINGS] == list(range(1, 23))
    assert all(len(row) == 7 for row in FINDINGS)


@pytest.mark.parametrize("row", FINDINGS, ids=lambda row: f"{row[0]} {row[1]}")
def test_a_finding_has_key_value_page_and_test(row: list[str]) -> None:
    _, _, key_cell, ssr, paper, page_cell, test_cell = row
    named = keys(key_cell)
    assert set(named) <= set(known_keys())
    for preset, cell in (("ssr", ssr), ("paper", paper)):
        config = load_config(preset)
        values = [getattr(getattr(config, key.split(".")[0]), key.split(".")[1]) for key in named]
        shown = [] if cell == "-" else [yaml.safe_load(word) for word in cell.split(", ")]
        assert shown == values
    pages = links(page_cell)
    assert pages
    text = ""
    for page in pages:
        assert page.is_file(), page
        text += page.read_text(encoding="utf-8")
    for key in named:
        assert f"`{key}" in text, key  # with or without a value behind it
        assert re.search(rf'^    "{re.escape(key)}": ', MATTERS, flags=re.MULTILINE), key
    if test_cell == "-":  # nothing that code could decide
        assert not named
        return
    (file,) = links(test_cell)
    (name,) = re.findall(r"`(test_\w+)`", test_cell)
    assert re.search(rf"^def {name}\(", file.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_every_page_is_on_the_list_with_keys_that_exist() -> None:
    listed = {page for row in FINDINGS for page in links(row[5])}
    listed |= {page for row in ENTRIES for page in links(row[0])}
    assert set(FOLDER.glob("0*.md")) <= listed
    for row in ENTRIES:
        assert all(page.is_file() for page in links(row[0]))
        assert set(keys(row[1])) <= set(known_keys())


def test_options_beyond_the_paper_are_off() -> None:
    section = TEXT.split("## Options beyond the paper")[1]
    rows = [line for line in section.splitlines() if line.startswith("| [")]
    switches = [keys(row)[0] for row in rows]
    assert len(switches) >= 6
    for preset in ("ssr", "paper"):
        config = load_config(preset)
        for switch in switches:
            group, name = switch.split(".")
            assert not getattr(getattr(config, group), name), switch


def test_the_arithmetic_of_the_slips() -> None:
    page = (FOLDER / "0029-slips-of-the-paper.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"(\d\d\.\d) where \w+(?: P and R)? \((\d\d\.\d), (\d\d\.\d)\) impl\w+ (\d\d\.\d)", page
    )
    assert len(rows) == 2
    for claimed, precision, recall, implied in rows:
        p, r = float(precision) / 100, float(recall) / 100
        assert round(100 / (1 / p + 1 / r - 1), 1) == float(implied)
        assert abs(float(claimed) - float(implied)) > 1.9
    epochs = re.search(r"(\d+) epochs", TEXT)
    assert epochs is not None
    paper = load_config("paper").optim
    assert round(paper.batch * paper.iterations / 10_582) == int(epochs[1])
