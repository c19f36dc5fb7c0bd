"""docs/decisions.md: 22 findings about the paper, each with keys, values, decision and test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ssrseg.config import known_keys, load_config

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
FINDINGS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if re.match(r"\| \d", line)
]
ENTRIES = dict(
    re.findall(r"^### (\d{4}) [^\n]*\n(.*?)(?=^##|\Z)", TEXT, flags=re.MULTILINE | re.DOTALL)
)
MATTERS = (ROOT / "tests" / "test_settings.py").read_text(encoding="utf-8")
"""Has another value for every setting, and shows that it changes what comes out."""
TESTS = {
    name
    for file in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE)
}


def keys(cell: str) -> list[str]:
    return re.findall(r"`([a-z]+\.[a-z_]+)`", cell)


def test_all_22_findings_are_there() -> None:
    assert [int(row[0]) for row in FINDINGS] == list(range(1, 23))
    assert all(len(row) == 7 for row in FINDINGS)


@pytest.mark.parametrize("row", FINDINGS, ids=lambda row: f"{row[0]} {row[1]}")
def test_a_finding_has_keys_values_decision_and_test(row: list[str]) -> None:
    _, _, key_cell, ssr, paper, decision_cell, test_cell = row
    named = keys(key_cell)
    assert set(named) <= set(known_keys())
    for preset, cell in (("ssr", ssr), ("paper", paper)):
        config = load_config(preset)
        values = [getattr(getattr(config, key.split(".")[0]), key.split(".")[1]) for key in named]
        shown = [] if cell == "-" else [yaml.safe_load(word) for word in cell.split(", ")]
        assert shown == values
    decisions = re.findall(r"\[(\d{4})\]\(#\1-", decision_cell)
    assert decisions
    text = "".join(ENTRIES[number] for number in decisions)
    for key in named:
        assert f"`{key}" in text, key  # with or without a value behind it
        assert re.search(rf'^    "{re.escape(key)}": ', MATTERS, flags=re.MULTILINE), key
    if test_cell == "-":  # nothing that code could decide
        assert not named
        return
    assert test_cell.strip("`") in TESTS


def test_peers_parts_are_off() -> None:
    (line,) = re.findall(r"^Off in every preset of SSR: (.+)$", TEXT, flags=re.MULTILINE)
    switches = keys(line)
    assert len(switches) == 3
    for preset in ("ssr", "paper"):
        config = load_config(preset)
        for switch in switches:
            group, name = switch.split(".")
            assert not getattr(getattr(config, group), name), switch


def test_the_arithmetic_of_the_slips() -> None:
    rows = re.findall(
        r"(\d\d\.\d) where \w+(?: P and R)? \((\d\d\.\d), (\d\d\.\d)\) impl\w+ (\d\d\.\d)",
        " ".join(ENTRIES["0029"].split()),
    )
    assert len(rows) == 2
    for claimed, precision, recall, implied in rows:
        p, r = float(precision) / 100, float(recall) / 100
        assert round(100 / (1 / p + 1 / r - 1), 1) == float(implied)
        assert abs(float(claimed) - float(implied)) > 1.9
    epochs = re.search(r"(\d+) epochs", FINDINGS[12][1])
    assert epochs is not None
    paper = load_config("paper").optim
    assert round(paper.batch * paper.iterations / 10_582) == int(epochs[1])
