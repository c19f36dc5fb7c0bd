"""YOLO's segmentation labels: a line with a polygon for each region."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

import numpy as np
import yaml

from ssrseg.errors import DataError
from ssrseg.export.outlines import outlines
from ssrseg.export.output import Output
from ssrseg.export.runs import class_boxes
from ssrseg.export.source import Mask


def write_yolo(
    masks: Iterable[Mask], output: Output, classes: tuple[str, ...], *, tolerance: float
) -> None:
    """Write images/, labels/ and data.yaml.

    Each part of a class is a polygon, holes joined to it by a bridge; parts and holes of fewer than
    ``outlines.SPECK`` pixels are left out. Undecided pixels are background. Photographs are copied.
    ``train`` and ``val`` are the same images: whoever trains makes lists of their own.
    """
    for mask in masks:
        output.copy_photo(mask, "images")
        output.write(f"labels/{mask.name}.txt", "".join(_lines(mask, tolerance)))
    table = {"train": "images", "val": "images", "names": dict(enumerate(classes))}
    output.write("data.yaml", yaml.safe_dump(table, allow_unicode=True, sort_keys=False))


def check_yolo(mask: Mask) -> None:
    """Raise DataError for a name whose labels YOLO's programs would look for elsewhere."""
    if "images" in posixpath.dirname(mask.name).split("/"):
        raise DataError(
            f"{mask.name} is in a folder called images, and YOLO's programs look for labels by"
            " putting labels in the place of the last folder of that name. Rename the folder."
        )


def _lines(mask: Mask, tolerance: float) -> Iterable[str]:
    height, width = mask.ids.shape
    for number, (rows, across) in class_boxes(mask.ids):
        region, corner = mask.ids[rows, across] == number, (across.start, rows.start)
        for polygon in outlines(region, corner, tolerance=tolerance):
            places = polygon / np.array([width, height])
            yield f"{number - 1} {' '.join(f'{place:.6f}' for place in places.ravel())}\n"
