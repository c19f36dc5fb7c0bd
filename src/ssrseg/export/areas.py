"""A table of areas: a line for each class of each image."""

from __future__ import annotations

from collections.abc import Iterable

from ssrseg.data.class_ids import pixel_counts
from ssrseg.data.csv_lines import csv_line
from ssrseg.export.output import Output
from ssrseg.export.source import Mask
from ssrseg.method.pseudo_mask import IGNORE

COLUMNS = ("image", "class", "pixels", "share", "undecided", "width", "height", "score")


def write_areas(
    masks: Iterable[Mask], output: Output, classes: tuple[str, ...], *, file: str = "areas.csv"
) -> None:
    """Write the table ``file``.

    Classes that an image does not show have a line with 0, and so does the background. ``share`` is
    that of the decided pixels, in [0, 1], and ``undecided`` the number of the others.
    """
    with output.text(file) as table:
        table.write(csv_line(COLUMNS))
        for mask in masks:
            pixels = pixel_counts(mask.ids)
            undecided = int(pixels[IGNORE])
            decided = mask.ids.size - undecided
            height, width = mask.ids.shape
            score = "" if mask.score is None else f"{mask.score:.3f}"
            for number, name in enumerate(("background", *classes)):
                share = f"{pixels[number] / decided:.6f}" if decided else ""
                cells = (pixels[number], share, undecided, width, height, score)
                table.write(csv_line((mask.file, name, *cells)))
