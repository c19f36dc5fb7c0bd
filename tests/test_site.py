"""What the site and the hooks of a contributor take for granted."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import ssrseg

ROOT = Path(__file__).resolve().parents[1]
PAGES = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
DOCUMENTED = re.findall(r"^::: (\S+)", PAGES, flags=re.MULTILINE)
PINNED = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if "==" in line
)


def read_yaml(name: str) -> dict:
    text = (ROOT / name).read_text(encoding="utf-8")
    return yaml.safe_load(text)


def test_every_public_name_is_in_the_reference_once() -> None:
    public = sorted(f"ssrseg.{name}" for name in ssrseg.__all__ if name != "__version__")
    assert sorted(name for name in DOCUMENTED if name.count(".") == 1) == public


def test_every_equation_is_in_the_reference() -> None:
    for file in (ROOT / "src" / "ssrseg" / "method").glob("[a-z]*.py"):
        assert f"ssrseg.method.{file.stem}" in DOCUMENTED, file.name


def test_every_page_is_in_the_navigation() -> None:
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    docs = ROOT / "docs"
    pages = [page for suffix in ("md", "ipynb") for page in docs.rglob(f"*.{suffix}")]
    listed = {page.relative_to(docs).as_posix() for page in pages}
    assert listed == set(re.findall(r": (\S+\.(?:md|ipynb))$", config, flags=re.MULTILINE))


def test_hooks_use_the_pinned_versions() -> None:
    hooks = {
        repo["repo"].split("/")[-1]: repo["rev"]
        for repo in read_yaml(".pre-commit-config.yaml")["repos"]
    }
    assert hooks["ruff-pre-commit"].lstrip("v") == PINNED["ruff"]


def test_ci_runs_what_the_package_promises() -> None:
    workflow = read_yaml(".github/workflows/ci.yml")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert f">={versions[0]}" == project["requires-python"]
    targets = (ROOT / "Makefile").read_text(encoding="utf-8").split(".PHONY:")[1].splitlines()[0]
    named = re.findall(r"\bmake ([a-z]+)", str(workflow))
    assert set(named) == {"check", "docs", "test"}
    assert set(named) <= set(targets.split())


@pytest.mark.parametrize("form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")))
def test_issue_forms_ask_something(form: Path) -> None:
    fields = yaml.safe_load(form.read_text(encoding="utf-8"))["body"]
    assert any(field.get("validations", {}).get("required") for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)


def test_docstrings_have_no_sphinx_roles() -> None:
    role = re.compile(r":(?:class|func|meth|attr|mod|data|obj):`")
    files = (ROOT / "src").rglob("*.py")
    assert [file.name for file in files if role.search(file.read_text(encoding="utf-8"))] == []
