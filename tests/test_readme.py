from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from make_tiny import tiny_folder
from PIL import Image
from tiny_encoders import tiny_config

import ssrseg
from ssrseg.cli import app
from ssrseg.config import known_keys, load_config, preset_names

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "use.md")
README, USE = (page.read_text(encoding="utf-8") for page in PAGES)
TEXT = README + USE
FENCES = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)
LINES = [line.split("#")[0].strip() for _, body in FENCES for line in body.splitlines()]
SPANS = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```$", "", TEXT, flags=re.M | re.S))
COMMANDS = sorted(
    {" ".join(line.split()) for line in [*LINES, *SPANS] if re.match(r"ssrseg [a-z]+", line)}
)


def test_the_verbs_are_shown() -> None:
    shown = {command.split()[1] for command in COMMANDS}
    assert shown >= {"masks", "train", "predict", "evaluate", "doctor", "config"}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    function, bound, *_ = app.parse_args(
        shlex.split(command)[1:], exit_on_error=False, print_error=False
    )
    assert function.__name__ == command.split()[1]
    bound.apply_defaults()


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named = {
        name
        for code in [*(body for _, body in FENCES), *SPANS]
        for name in re.findall(r"\bmake ([a-z-]+)", code)
    }
    assert named >= {"demo", "test"}
    assert named <= targets
    assert targets == set(re.findall(r"[a-z-]+", makefile.split(".PHONY:")[1].splitlines()[0]))


def test_ci_runs_the_commands_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert {"make check", "make test"} <= set(script)
    assert "set -euo pipefail" in script
    if os.name == "posix":  # Windows has no such bit
        assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_readme_is_short() -> None:
    assert len(re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S).split()) < 650


def test_presets_and_settings_exist() -> None:
    named = re.search(r"`--preset ssr`.*?\n\n", USE, flags=re.DOTALL)
    assert named is not None
    for name in preset_names():
        assert f"`{name}`" in named[0] or f"--preset {name}`" in named[0], name
    overrides = re.findall(r"--set (\S+?)[`\s]", TEXT)
    assert overrides
    load_config(overrides=overrides)
    keys = {span for span in SPANS if re.fullmatch(r"[a-z]+\.[a-z_]+", span)}
    sections = {key.split(".")[0] for key in known_keys()}
    assert {key for key in keys if key.split(".")[0] in sections} <= set(known_keys())


def test_the_example_of_the_api_runs(
    tmp_path: Path, clip_dir: Path, dino_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = (body for language, body in FENCES if language == "python")
    tiny = tiny_config(clip_dir, dino_dir, "optim.cmpa_iterations=2", "optim.iterations=2")
    monkeypatch.setattr("ssrseg.loading.load_config", lambda preset, overrides: tiny)
    monkeypatch.chdir(tmp_path)
    ssrseg.train(ssrseg.open_labelled(tiny_folder(tmp_path / "photos")), Path("run"), tiny)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    for name in ("photo.jpg", "new.jpg"):
        Image.fromarray(pixels).save(name)
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    ids = names["ids"]
    assert isinstance(ids, np.ndarray)
    assert (ids.shape, ids.dtype) == ((40, 56), np.uint8)
    assert ids.max() <= 3


def test_names_of_the_api_exist() -> None:
    names = set(re.findall(r"\bssrseg\.([A-Za-z_]+)\b(?!/)", "".join(body for _, body in FENCES)))
    assert names
    assert names <= set(ssrseg.__all__)


def test_the_labels_that_the_readme_shows_open(tmp_path: Path) -> None:
    shown = next(body for _, body in FENCES if body.strip().startswith("image,labels"))
    rows = shown.strip().splitlines()
    for row in rows[1:]:
        image = tmp_path / row.split(",")[0]
        image.parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32)).save(image)
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    data = ssrseg.open_labelled(tmp_path)
    assert data.classes == ("cat", "dog", "person")
    assert [sample.labels for sample in data.samples] == [(1, 2), (0,)]
