"""COCO's instances: one annotation for each class of an image, as run lengths."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ssrseg.export.output import Output
from ssrseg.export.runs import class_boxes, packed, run_lengths
from ssrseg.export.source import Mask

_FILE = "annotations/instances_default.json"


def write_coco(masks: Iterable[Mask], output: Output, classes: tuple[str, ...]) -> None:
    """Write annotations/instances_default.json and images/default/.

    A mask of classes does not know which of its regions are one object, so all of a class are one
    annotation. It is no crowd (``iscrowd`` 0), because most programs leave crowds out. Undecided
    pixels belong to no annotation. Photographs are copied.
    """
    images = []
    with output.text(_FILE) as file:
        file.write('{"annotations": [')
        written = 0
        for number, mask in enumerate(masks, 1):
            output.copy_photo(mask, "images/default")
            height, width = mask.ids.shape
            size = {"file_name": mask.file, "height": height, "width": width}
            images.append({"id": number, **size})
            for annotation in class_annotations(mask.ids):
                file.write(",\n" if written else "\n")
                written += 1
                file.write(json.dumps({"id": written, "image_id": number, **annotation}))
        categories = [
            {"id": number, "name": name, "supercategory": ""}
            for number, name in enumerate(classes, 1)
        ]
        rest = {"images": images, "categories": categories, "info": {}, "licenses": []}
        file.write("\n],\n" + json.dumps(rest)[1:] + "\n")


def class_annotations(ids: UInt8[np.ndarray, "height width"]) -> Iterator[dict[str, Any]]:
    """What an annotation says of each class of a mask, ascending; its numbers are the writer's."""
    columns = np.ascontiguousarray(ids.T).ravel()  # COCO counts down the columns
    for number, (rows, across) in class_boxes(ids):
        runs = run_lengths(columns == number)
        box = (across.start, rows.start, across.stop - across.start, rows.stop - rows.start)
        yield {
            "category_id": number,
            "segmentation": {"size": list(ids.shape), "counts": packed(runs)},
            "area": int(runs[1::2].sum()),
            "bbox": list(box),
            "iscrowd": 0,
        }
