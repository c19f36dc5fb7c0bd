"""CVAT for images 1.1: XML with a mask for each class of an image."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from xml.sax.saxutils import escape, quoteattr

from ssrseg.data.text import quoted
from ssrseg.errors import DataError
from ssrseg.export.output import Output
from ssrseg.export.runs import class_boxes, run_lengths
from ssrseg.export.source import Mask
from ssrseg.overlay import hex_colours

_NO_XML = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def write_cvat(masks: Iterable[Mask], output: Output, classes: tuple[str, ...]) -> None:
    """Write annotations.xml and labels.json, the list of labels for CVAT's constructor.

    Undecided pixels belong to no mask.
    """
    labels = [
        {"name": name, "color": colour, "type": "mask", "attributes": []}
        for name, colour in zip(classes, hex_colours(len(classes)), strict=True)
    ]
    output.write("labels.json", json.dumps(labels, indent=2, ensure_ascii=False) + "\n")
    with output.text("annotations.xml") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n')
        file.write("<version>1.1</version>\n<meta><task><labels>\n")
        for label in labels:
            name, colour = escape(str(label["name"])), label["color"]
            file.write(f"<label><name>{name}</name><color>{colour}</color><type>mask</type>")
            file.write("<attributes></attributes></label>\n")
        file.write("</labels></task></meta>\n")
        for number, mask in enumerate(masks):
            file.write(_image(number, mask, classes))
        file.write("</annotations>\n")


def check_cvat(mask: Mask) -> None:
    """Raise DataError for a name that XML cannot hold."""
    if _NO_XML.search(mask.place):
        raise DataError(
            f"{quoted(mask.place)} has a control character or a damaged letter in its name, which"
            " XML cannot hold. Rename the photograph, and make its mask anew."
        )


def _image(number: int, mask: Mask, classes: tuple[str, ...]) -> str:
    height, width = mask.ids.shape
    name = quoteattr(mask.place, {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})
    lines = [f'<image id="{number}" name={name} width="{width}" height="{height}">']
    for index, (rows, across) in class_boxes(mask.ids):
        runs = run_lengths((mask.ids[rows, across] == index).ravel())
        lines.append(
            f'<mask label={quoteattr(classes[index - 1])} source="auto" occluded="0"'
            f' rle="{", ".join(map(str, runs.tolist()))}" left="{across.start}" top="{rows.start}"'
            f' width="{across.stop - across.start}" height="{rows.stop - rows.start}" z_order="0">'
            "</mask>"
        )
    return "\n".join([*lines, "</image>\n"])
