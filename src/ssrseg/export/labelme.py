"""labelme: a JSON file with polygons for each photograph."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ssrseg.export.outlines import outlines
from ssrseg.export.output import Output
from ssrseg.export.runs import class_boxes
from ssrseg.export.source import Mask
from ssrseg.method.pseudo_mask import IGNORE

_UNDECIDED = "__ignore__"  # labelme's own word, of which labelme2voc makes 255


def write_labelme(
    masks: Iterable[Mask], output: Output, classes: tuple[str, ...], *, tolerance: float
) -> None:
    """Write NAME.json, which points at the photograph where it is, and labels.txt.

    Each part of a class is a polygon, holes joined to it by a bridge; parts and holes of fewer than
    ``outlines.SPECK`` pixels are left out. So it is with undecided pixels, as ``__ignore__``.
    """
    names = dict(enumerate(classes, 1)) | {IGNORE: _UNDECIDED}
    for mask in masks:
        place = f"{mask.name}.json"
        file = output.folder / place
        there = os.path.relpath(mask.photo or "", os.path.realpath(file.parent))
        table = {
            "version": "5.0.0",
            "flags": {},
            "shapes": _shapes(mask, names, tolerance),
            "imagePath": Path(there).as_posix(),
            "imageData": None,
            "imageHeight": mask.ids.shape[0],
            "imageWidth": mask.ids.shape[1],
        }
        output.write(place, json.dumps(table, ensure_ascii=True, indent=1) + "\n")
    lines = (_UNDECIDED, "_background_", *classes)
    output.write("labels.txt", "".join(f"{name}\n" for name in lines))


def _shapes(mask: Mask, names: dict[int, str], tolerance: float) -> list[dict[str, object]]:
    regions = [*class_boxes(mask.ids)]
    whole = (slice(0, mask.ids.shape[0]), slice(0, mask.ids.shape[1]))
    if (mask.ids == IGNORE).any():
        regions.append((IGNORE, whole))
    return [
        {
            "label": names[number],
            "points": np.round(polygon, 2).tolist(),
            "group_id": None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
        }
        for number, (rows, across) in regions
        for polygon in outlines(
            mask.ids[rows, across] == number, (across.start, rows.start), tolerance=tolerance
        )
    ]
