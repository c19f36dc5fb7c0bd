"""Training and masks read image-level labels only; the sources name no machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy
import PIL.Image
import pytest
from make_tiny import opened_files, tiny_coco, tiny_voc
from tiny_encoders import tiny_config

from ssrseg.config import Config
from ssrseg.data.open import open_labelled
from ssrseg.prepare.coco import prepare_coco
from ssrseg.pseudo_masks import make_masks
from ssrseg.training import train


@contextmanager
def spied(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every path opened: by the interpreter's audit hook, and as libraries are asked for it."""
    asked: list[str] = []

    def spy(module: object, name: str) -> None:
        original = getattr(module, name)

        def listening(path: object, *arguments: object, **options: object) -> object:
            asked.append(str(path))
            return original(path, *arguments, **options)

        monkeypatch.setattr(module, name, listening)

    with monkeypatch.context(), opened_files() as opened:
        spy(PIL.Image, "open")
        spy(numpy, "load")
        yield asked
        asked.extend(opened)


def mask_files(paths: list[str]) -> list[str]:
    return [path for path in paths if "SegmentationClass" in path]


@pytest.fixture(params=["voc", "coco"])
def tree(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A data set whose masks are there."""
    if request.param == "coco":
        root = tiny_coco(tmp_path / "coco")
        assert prepare_coco(root).complete
        shutil.move(root / "SegmentationClass" / "train2014", root / "SegmentationClassAug")
        return root
    root = tiny_voc(tmp_path / "voc", n=3)
    (root / "SegmentationClassAug").mkdir()
    for file in (root / "SegmentationClass").iterdir():
        (root / "SegmentationClassAug" / file.name).write_bytes(file.read_bytes())
    return root


@pytest.fixture
def config(clip_dir: Path, dino_dir: Path) -> Config:
    return tiny_config(
        clip_dir, dino_dir, "optim.iterations=2", "optim.cmpa_iterations=2", "optim.save_every=1"
    )


def run_train(tree: Path, out: Path, config: Config) -> None:
    train(open_labelled(tree), out, config)


def run_masks(tree: Path, out: Path, config: Config) -> None:
    make_masks(open_labelled(tree), out, config)


@pytest.mark.parametrize("verb", [run_train, run_masks])
def test_no_mask_is_opened(
    tree: Path,
    tmp_path: Path,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    verb: Callable[[Path, Path, Config], None],
) -> None:
    with spied(monkeypatch) as paths:
        verb(tree, tmp_path / "out", config)
    assert sum(path.endswith(".jpg") for path in paths) >= 3  # the spy does see images
    assert mask_files(paths) == []


@pytest.mark.parametrize("verb", [run_train, run_masks])
def test_without_any_mask_the_result_is_the_same(
    tree: Path, tmp_path: Path, config: Config, verb: Callable[[Path, Path, Config], None]
) -> None:
    def results(out: Path) -> dict[str, bytes]:
        kept = (*out.glob("model.safetensors"), *out.glob("masks/**/*.png"))
        return {path.name: path.read_bytes() for path in kept}

    verb(tree, tmp_path / "with", config)
    for folder in ("SegmentationClass", "SegmentationClassAug"):
        for file in (tree / folder).rglob("*.png"):
            file.write_bytes(b"not a mask")
    verb(tree, tmp_path / "without", config)
    assert results(tmp_path / "with")
    assert results(tmp_path / "with") == results(tmp_path / "without")


def test_full_supervision_does_open_them(
    tree: Path, tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with spied(monkeypatch) as paths:
        train(open_labelled(tree), tmp_path / "out", config, supervision="full")
    assert mask_files(paths)


def test_no_source_names_a_machine() -> None:
    root = Path(__file__).resolve().parents[1]
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True
        ).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    suffixes = {".py", ".toml", ".yaml", ".yml", ".md", ".cff", ".txt", ".cfg", ".jinja", ".json"}
    tracked = [root / name for name in listed.split("\0") if name]
    sources = [path for path in tracked if path.suffix in suffixes or path.name == "Makefile"]
    assert len(sources) > 30
    folders = ("home", "root", "work", "data1")
    absolute = re.compile(rf"(?<![\w.>~])/(?:{'|'.join(folders)})/")
    drive = re.compile(r"\b[A-Z]:\\\w")
    assert absolute.search(f"cache = '/{folders[0]}/me'")
    assert drive.search("cache = 'D:" + "\\me'")
    found = [
        f"{path.relative_to(root)}: {line.strip()[:100]}"
        for path in sources
        if path.is_file()
        for line in path.read_text(encoding="utf-8").splitlines()
        if absolute.search(line) or ("tests" not in path.parts and drive.search(line))
    ]
    assert found == []
