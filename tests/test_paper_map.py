"""docs/paper-map.md cannot rot: its names are imported, its equations and files looked up."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "paper-map.md"


def rows(heading: str) -> list[list[str]]:
    """Cells of the table rows of a section, without the header."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] not in ("Eq.", "what", "paper")]


def links(text: str) -> list[Path]:
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    return [(PAGE.parent / target).resolve() for target in targets]


def span(numbers: str) -> set[int]:
    first, _, last = numbers.partition("-")
    return set(range(int(first), int(last or first) + 1))


def equations_in(text: str) -> set[int]:
    """Numbers named as "Eq. 8" or covered by a range such as "Eq. 10-11"."""
    found = re.findall(r"Eq\. (\d+(?:-\d+)?)", text)
    return set().union(*map(span, found))


def named_object(cell: str) -> tuple[Path, object]:
    module_name, name = cell.strip("`").split(".")
    module = importlib.import_module(f"ssrseg.method.{module_name}")
    return Path(str(module.__file__)).resolve(), getattr(module, name)


NUMBERED = [row for row in rows("Equations") if len(row) == 5]
OTHERS = [row for row in rows("Equations") if len(row) == 4]


def test_every_equation_is_on_the_page_once_or_in_parts():
    assert set().union(*(span(row[0]) for row in NUMBERED)) == set(range(1, 13))
    assert len(NUMBERED) == 11
    assert len(OTHERS) >= 8


@pytest.mark.parametrize("row", NUMBERED, ids=lambda row: f"Eq. {row[0]} {row[2]}")
def test_a_numbered_function_names_its_equation(row):
    _, found = named_object(row[2])
    assert span(row[0]) <= equations_in(found.__doc__ or "")


@pytest.mark.parametrize("row", NUMBERED + OTHERS, ids=lambda row: row[-3])
def test_functions_live_where_the_page_says_and_are_tested_there(row):
    file, found = named_object(row[-3])
    assert links(row[-2]) == [file]
    (test,) = links(row[-1])
    assert test.is_file()
    assert re.search(rf"\b{found.__name__}\b", test.read_text(encoding="utf-8"))


def test_the_literal_tests_cover_every_equation():
    text = (ROOT / "tests" / "method" / "test_literal_equations.py").read_text(encoding="utf-8")
    covered = set()
    for first, last in re.findall(r"^def test_eq_(\d+)(?:_(?:to|and)_(\d+))?_", text, re.MULTILINE):
        covered |= span(f"{first}-{last or first}")
    assert covered == set(range(1, 13))


@pytest.mark.parametrize("row", rows("Symbols"), ids=lambda row: row[0])
def test_symbols_are_spelt_as_in_the_code(row):
    source = "".join(file.read_text(encoding="utf-8") for file in links(row[2]))
    names = re.findall(r"`(\w+)`", row[1])
    assert names
    for name in names:
        assert re.search(rf"\b{name}\b", source), name


def test_every_linked_file_exists():
    targets = links(PAGE.read_text(encoding="utf-8"))
    assert len(targets) > 60
    assert [str(target) for target in targets if not target.exists()] == []


def test_every_method_file_is_on_the_page():
    named = set(links(PAGE.read_text(encoding="utf-8")))
    files = set((ROOT / "src" / "ssrseg" / "method").glob("*.py"))
    missing = {file.name for file in files - named} - {"__init__.py"}
    assert missing == set()
