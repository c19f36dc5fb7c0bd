from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import ssrseg
from ssrseg.config import known_keys, load_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
CODE = re.compile(r"`([^`\n]+)`")
SECTIONS = {key.split(".")[0] for key in known_keys()}


def spans(page: Path) -> list[str]:
    return CODE.findall(page.read_text(encoding="utf-8"))


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [re.fullmatch(r"(\d{4})-[a-z0-9-]+\.md", page.name) for page in PAGES]
    assert all(numbers), [page.name for page in PAGES]
    assert [int(match[1]) for match in numbers if match] == list(range(1, len(PAGES) + 1))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_decision_has_its_four_parts_in_order(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.match(rf"# {page.name[:4]}\. \S", text)
    parts = re.findall(r"^\*\*(\w+)\.\*\* (?=\S)", text, flags=re.MULTILINE)
    assert parts == ["Context", "Decision", "Evidence", "Undo"]


def test_settings_refer_to_decisions_that_exist() -> None:
    source = Path(ssrseg.__file__).with_name("config.py").read_text(encoding="utf-8")
    named = set(re.findall(r"\[(\d{4})\]", source))
    assert named
    assert named <= {page.name[:4] for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_decisions_name_settings_that_exist(page: Path) -> None:
    keys = [
        f"{section}.{name}"
        for span in spans(page)
        for section, name in re.findall(r"(?<![\w/.-])([a-z]+)\.([a-z][a-z0-9_]*)", span)
        if section in SECTIONS and name not in ("py", "md")
    ]
    assert set(keys) <= set(known_keys())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_decisions_give_values_that_are_allowed(page: Path) -> None:
    for span in spans(page):
        given = re.findall(r"([a-z]+\.[a-z_]+) ?= ?([^ ]+(?: \| [^ ]+)*)", span)
        for key, values in given:
            for value in values.split(" | "):
                config = load_config(overrides=[f"{key}={value}"]).to_dict()
                section, name = key.split(".")
                found = config[section][name]
                assert found == yaml.safe_load(value) or found == float(value)  # YAML: 1e-5 is text


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_files_named_in_the_docs_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"(?<![\w/])(docs/[\w./-]+\.md)", text):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"`((?:\w+/)*\w+\.py)`", text):
        homes = (ROOT / "src" / "ssrseg" / name, ROOT / name)
        found = any(home.is_file() for home in homes) or list((ROOT / "src").rglob(name))
        assert found or list((ROOT / "tests").rglob(name)), name


def test_changelog_has_a_place_for_the_next_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[Unreleased\]$", text, flags=re.MULTILINE)


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["version"] == str(citation["version"]) == ssrseg.__version__
    assert project["license"] == citation["license"]
