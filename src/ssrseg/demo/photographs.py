"""Photographs that come with the package, and their masks by preset ``photos``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssrseg.config import load_config
from ssrseg.data.class_ids import read_class_ids
from ssrseg.data.images import read_image
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import Sample
from ssrseg.errors import counted
from ssrseg.kept_cams import cams_path, read_cams
from ssrseg.manifest import mask_path
from ssrseg.method.pseudo_mask import IGNORE
from ssrseg.overlay import heat_overlay, ids_overlay, mask_palette, upsample
from ssrseg.packaged import PACKAGED, unpacked
from ssrseg.pseudo_masks import make_masks
from ssrseg.report.page import Picture, PictureRow, Section
from ssrseg.safe_yaml import read_yaml

SAMPLE = f"{PACKAGED}photos/sample"
"""Tagged photographs that are free to show, of things that preset ``photos`` knows."""

SHOWN = 4
_SAID = ("author", "licence", "terms", "source")


def read_credits() -> dict[str, dict[str, str]]:
    """By name: ``title``, ``author``, ``licence`` with its ``terms``, ``source`` and ``from``.

    What is in the public domain has no terms.
    """
    found: dict[str, dict[str, str]] = read_yaml(Path(unpacked(SAMPLE), "credits.yaml"))
    return found


def photograph_sections(folder: Path, device: str) -> tuple[Section, Section]:
    """Make masks of the sample, without training: some to show, and the others to fold away.

    Args:
        folder: Gets what ``make_masks`` writes, always anew: it takes seconds.
        device: ``cpu`` or ``cuda``.
    """
    photographs, owners = open_labelled(SAMPLE), read_credits()
    make_masks(photographs, folder, load_config("photos"), device=device, overwrite=True)
    found = [_masked(each, folder, owners[each.name]) for each in photographs.samples]
    rows, shown = tuple(row for row, _ in found), set().union(*(ids for _, ids in found))
    names, colours = photographs.classes, mask_palette()
    legend = tuple(
        (names[value - 1], tuple(colours[value].tolist())) for value in sorted(shown - {0, IGNORE})
    )
    first = Section(
        "Photographs",
        f"{counted(len(rows), 'photograph', 'photographs')} that come with the package, in the"
        " order of the alphabet, however well they turned out. Preset photos has encoders that were"
        " not trained on them; nothing else is trained, and labels are all it is told."
        "\n\n"
        "The folder photographs beside this page has the masks, with a report of their own. The"
        f" same in one command: ssrseg masks --preset photos --data {SAMPLE} --out masks",
        (*legend, ("undecided", None)),
        rows[:SHOWN],
    )
    sources = tuple(
        (name, ", ".join([*(each[key] for key in _SAID if key in each), "made smaller"]))
        for name, each in owners.items()
    )
    more = Section("More photographs, and whose they are", "", first.legend, rows[SHOWN:])
    return first, replace(more, terms=sources, folded=True)


def _masked(sample: Sample, folder: Path, owner: Mapping[str, str]) -> tuple[PictureRow, set[int]]:
    """A photograph with the CAMs of its first class and its mask, and the ids in the mask."""
    photo = read_image(sample.image).numpy()
    mask = read_class_ids(folder / mask_path(sample.name)).numpy()
    cams = read_cams(folder / cams_path(sample.name))
    assert cams is not None  # written a moment ago
    size, label = photo.shape[:2], cams.classes[0]
    initial, refined = (
        heat_overlay(photo, upsample(maps[0].numpy(), size))
        for maps in (cams.cam, cams.refined_cam)
    )
    pictures = (
        Picture(f"{owner['title']}, {owner['author']}, {owner['licence']}", photo),
        Picture(f"CLIP's CAM: {label}", initial),
        Picture(f"refined CAM: {label}", refined),
        Picture("pseudo mask", ids_overlay(photo, mask)),
    )
    return PictureRow(", ".join(cams.classes), pictures), set(np.unique(mask).tolist())
