"""A folder of masks made by tiny encoders, to be reviewed."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

from make_tiny import tiny_folder
from tiny_encoders import tiny_config

from ssrseg.config import Config
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages
from ssrseg.pseudo_masks import make_masks

LABELS = {"photo_0": "cat", "photo_1": "dog", "photo_2": "dog;red car", "photo_3": ""}


def made(root: Path, clip: Path, dino: Path) -> Path:
    """Four photographs in ``data`` and their masks in ``masks``."""
    tiny_folder(root / "data", n=4)
    make_masks(root / "data", root / "masks", config(clip, dino))
    return root


def config(clip: Path, dino: Path) -> Config:
    return tiny_config(clip, dino, "cam.mode=clip")


def copied(root: Path, to: Path) -> Path:
    """The folder of masks, to be changed."""
    shutil.copytree(root, to, dirs_exist_ok=True)
    return to / "masks"


def data(masks: Path) -> LabelledImages:
    return open_labelled(masks.parent / "data")


def relabelled(data: LabelledImages, labels: dict[str, tuple[int, ...]]) -> LabelledImages:
    """The data with other labels of some images."""
    samples = (replace(each, labels=labels.get(each.name, each.labels)) for each in data.samples)
    return replace(data, samples=tuple(samples))


def with_alpha(settings: Config, alpha: float) -> Config:
    return replace(settings, pseudo=replace(settings.pseudo, alpha=alpha))


def rows(masks: Path) -> dict[str, dict[str, str]]:
    """Lines of the manifest by name; the later line of a name counts."""
    with (masks / "manifest.csv").open() as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def contents(masks: Path, *folders: str) -> dict[str, bytes]:
    """Files of some folders."""
    return {
        path.relative_to(masks).as_posix(): path.read_bytes()
        for folder in folders or ("masks", "cams")
        for path in sorted((masks / folder).rglob("*.*"))
    }
