"""Links, names and versions in the docs, and the form of docs/decisions.md."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import ssrseg
from ssrseg.config import known_keys, load_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
TEXT = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
KEPT, REMOVED = re.split(r"^## Tried and removed\n", TEXT, flags=re.MULTILINE)
REMOVED, SLIPS = re.split(r"(?=^## )", REMOVED, flags=re.MULTILINE)
ENTRIES = re.findall(
    r"^### (\d{4}) \S[^\n]*\n(.*?)(?=^##|\Z)", KEPT + SLIPS, flags=re.MULTILINE | re.DOTALL
)
GONE = re.findall(r"^- \*\*(\d{4})\*\* ", REMOVED, flags=re.MULTILINE)
SPANS = re.findall(r"`([^`\n]+)`", KEPT + SLIPS)
SECTIONS = {key.split(".")[0] for key in known_keys()}


def anchors(page: Path) -> set[str]:
    """Headings of a page as GitHub makes them addresses."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [number for number, _ in ENTRIES] + GONE
    assert sorted(map(int, numbers)) == list(range(1, 46))


@pytest.mark.parametrize(("number", "text"), ENTRIES, ids=[number for number, _ in ENTRIES])
def test_a_decision_has_its_four_parts_in_order(number: str, text: str) -> None:
    parts = re.findall(r"^\*\*(\w+)\.\*\* (?=\S)", text, flags=re.MULTILINE)
    assert parts == ["Choice", "Why", "Evidence", "Undo"]


def test_settings_refer_to_decisions_that_exist() -> None:
    source = Path(ssrseg.__file__).with_name("config.py").read_text(encoding="utf-8")
    named = set(re.findall(r"\[(\d{4})\]", source))
    assert named
    assert named <= {number for number, _ in ENTRIES} | set(GONE)


def test_decisions_name_settings_that_exist() -> None:
    keys = {
        f"{section}.{name}"
        for span in SPANS
        for section, name in re.findall(r"(?<![\w/.-])([a-z]+)\.([a-z][a-z0-9_]*)", span)
        if section in SECTIONS and name not in ("py", "md")
    }
    assert len(keys) > 30
    assert keys <= set(known_keys())


def test_decisions_give_values_that_are_allowed() -> None:
    given = [
        pair
        for span in SPANS
        for pair in re.findall(r"([a-z]+\.[a-z_]+) ?= ?([^ ]+(?: \| [^ ]+)*)", span)
    ]
    assert len(given) > 40
    for key, values in given:
        for value in values.split(" | "):
            with_it = ["cmpa.bg_prototypes=none"] if value == "project_then_pool" else []
            config = load_config(overrides=[f"{key}={value}", *with_it]).to_dict()
            section, name = key.split(".")
            found = config[section][name]
            assert found == yaml.safe_load(value) or found == float(value)  # YAML: 1e-5 is text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_named_in_the_docs_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"(?<![\w/])(docs/[\w./-]+\.md)", text):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"`((?:[\w-]+/)*\w+\.py)`", text):
        assert (ROOT / name).is_file() or any(
            list((ROOT / folder).rglob(name)) for folder in ("src", "tests", "encoders")
        ), name


def test_the_summary_of_the_results_has_the_figures_of_its_tables() -> None:
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    summary, tables = re.split(r"(?=^## Photographs)", text, flags=re.MULTILINE)
    figures = re.findall(r"[-+]?\d+\.\d ± \d\.\d", summary)
    assert len(figures) > 40
    assert [figure for figure in figures if figure not in tables] == []


def test_changelog_has_a_place_for_the_next_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[Unreleased\]$", text, flags=re.MULTILINE)


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["version"] == str(citation["version"]) == ssrseg.__version__
    # the software's own licence first, then those of what it carries
    assert project["license"].split(" AND ")[0] == citation["license"]


def test_the_floors_on_the_page_are_those_that_are_enforced() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = page.split("## Floors")[1].split("```")[1].strip().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (floors,) = (each["layers"] for each in contracts if each["type"] == "layers")
    assert block == floors
