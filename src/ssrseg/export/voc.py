"""A tree in the layout of VOC 2012, which ``ssrseg`` itself opens, too."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ssrseg.data.class_ids import class_ids_png, voc_palette
from ssrseg.data.csv_lines import csv_line
from ssrseg.export.output import Output
from ssrseg.export.runs import class_boxes
from ssrseg.export.source import Mask

_LIST = "ImageSets/Segmentation/train.txt"


def write_voc(masks: Iterable[Mask], output: Output, classes: tuple[str, ...]) -> None:
    """Write JPEGImages, SegmentationClass, one list of all, labels.csv, classes.txt, labelmap.txt.

    255 stays 255, VOC's "void". Photographs are copied.
    """
    with output.text(_LIST) as names, output.text("labels.csv") as labels:
        labels.write(csv_line(("image", "labels")))
        for mask in masks:
            output.copy_photo(mask, "JPEGImages")
            png = class_ids_png(torch.from_numpy(mask.ids))
            output.write(f"SegmentationClass/{mask.name}.png", png)
            names.write(f"{mask.name}\n")
            shown = [classes[number - 1] for number, _ in class_boxes(mask.ids)]
            labels.write(csv_line((f"JPEGImages/{mask.file}", ";".join(shown) or "none")))
    output.write("classes.txt", "".join(f"{name}\n" for name in classes))
    colours = voc_palette().tolist()
    rows = zip(("background", *classes), colours, strict=False)  # there are more colours
    lines = (f"{name}:{red},{green},{blue}::\n" for name, (red, green, blue) in rows)
    output.write("labelmap.txt", "# label:color_rgb:parts:actions\n" + "".join(lines))
