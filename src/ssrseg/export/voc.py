"""A tree in the layout of VOC 2012, which ``ssrseg`` itself opens, too."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ssrseg.console import note
from ssrseg.data.class_ids import class_ids_png, voc_palette
from ssrseg.data.csv_lines import csv_line
from ssrseg.data.naming import name_fault
from ssrseg.data.text import quoted
from ssrseg.errors import DataError
from ssrseg.export.output import Output
from ssrseg.export.runs import class_boxes
from ssrseg.export.source import Mask
from ssrseg.method.pseudo_mask import IGNORE

_LIST = "ImageSets/Segmentation/train.txt"


def write_voc(masks: Iterable[Mask], output: Output, classes: tuple[str, ...]) -> None:
    """Write JPEGImages, SegmentationClass, one list of all, labels.csv, classes.txt, labelmap.txt.

    255 stays 255, VOC's "void". Photographs are copied.
    """
    with output.text(_LIST) as listed, output.text("labels.csv") as labels:
        labels.write(csv_line(("image", "labels")))
        for mask in masks:
            output.copy_photo(mask, "JPEGImages")
            png = class_ids_png(torch.from_numpy(mask.ids))
            output.write(f"SegmentationClass/{mask.name}.png", png)
            listed.write(f"{mask.name}\n")
            shown = [classes[number - 1] for number, _ in class_boxes(mask.ids)]
            labels.write(csv_line((f"JPEGImages/{mask.file}", ";".join(shown) or "none")))
    output.write("classes.txt", "".join(f"{name}\n" for name in classes))
    if ":" in "".join(classes):
        note("labelmap.txt, which CVAT wants, is left out: a class has a colon in its name.")
        return
    colours, names = voc_palette().tolist(), ("background", *classes)
    rows = [*zip(names, colours, strict=False), ("ignored", colours[IGNORE])]
    lines = (f"{name}:{red},{green},{blue}::\n" for name, (red, green, blue) in rows)
    output.write("labelmap.txt", "# label:color_rgb:parts:actions\n" + "".join(lines))


def check_voc(mask: Mask) -> None:
    """Raise DataError for a name that cannot stand in a list of names."""
    if mask.name != mask.name.strip() or name_fault(mask.name, in_text=True):
        raise DataError(
            f"{quoted(mask.name)} holds a control character, or a blank at its end, and cannot"
            " stand in VOC's lists of names. Rename the photograph, and make its mask anew."
        )
