"""Where a figure comes from."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from make_tiny import tiny_folder

import ssrseg
import ssrseg.paper.provenance as module
from ssrseg.config import load_config
from ssrseg.data.open import open_labelled
from ssrseg.paper.provenance import git_commit, provenance, save_facts


def git(folder: Path, *arguments: str) -> str:
    own = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    done = subprocess.run(
        ["git", "-C", str(folder), *own, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in which a package lies whose module calls itself ours."""
    if shutil.which("git") is None:
        pytest.skip("no git here")
    package = tmp_path / "package"
    (package / "paper").mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(package / "paper" / "provenance.py"))
    (package / "__init__.py").write_text("")
    (package / "paper" / "provenance.py").write_text("x = 1\n")
    (tmp_path / "other.txt").write_text("a\n")
    git(tmp_path, "init")
    return package


def commit() -> str | None:
    git_commit.cache_clear()
    return git_commit()


def test_the_commit_of_a_checkout(checkout: Path) -> None:
    assert commit() is None  # nothing is tracked yet
    git(checkout.parent, "add", "other.txt")
    git(checkout.parent, "commit", "-m", "others only")
    assert commit() is None  # the package only lies in somebody's repository
    git(checkout.parent, "add", ".")
    git(checkout.parent, "commit", "-m", "all")
    name = git(checkout.parent, "rev-parse", "HEAD")[:12]
    assert commit() == name
    (checkout.parent / "figure.png").write_text("not tracked")
    assert commit() == name
    (checkout / "paper" / "provenance.py").write_text("x = 2\n")
    assert commit() == f"{name}+dirty"
    git_commit.cache_clear()


def test_no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert commit() is None
    git_commit.cache_clear()


def test_digests_follow_settings_and_data(tmp_path: Path) -> None:
    data = open_labelled(tiny_folder(tmp_path / "a"))
    fewer = open_labelled(tiny_folder(tmp_path / "b", n=4))
    config, other = load_config("ssr"), load_config("paper")
    found = provenance("ssrseg figure 5", config, data, model=None, seed=3)
    assert (found["command"], found["seed"], found["model"]) == ("ssrseg figure 5", 3, None)
    assert (found["version"], found["torch"]) == (ssrseg.__version__, torch.__version__)
    assert found["config"]["affinity"]["dino_weight"] == 0.6
    again = provenance("", config, data, model=None, seed=3)
    assert (again["settings"], again["data"]) == (found["settings"], found["data"])
    changed = provenance("", other, data, model=None, seed=3)
    assert changed["settings"] != found["settings"]
    assert provenance("", config, fewer, model=None, seed=3)["data"] != found["data"]


def test_facts_are_plain_json(tmp_path: Path) -> None:
    data = open_labelled(tiny_folder(tmp_path / "a"))
    made = provenance("", load_config("ssr"), data, model=None, seed=0)
    facts = {"a": (1, 1 / 3, math.nan), "b": {"ü": None, 3: [True, "x"]}}
    save_facts(tmp_path / "out" / "f.json", [made], facts)
    text = (tmp_path / "out" / "f.json").read_text(encoding="utf-8")
    saved = json.loads(text)
    assert saved["a"] == [1, 0.333333, None]
    assert saved["b"] == {"ü": None, "3": [True, "x"]}
    assert saved["made"][0]["settings"] == made["settings"]
