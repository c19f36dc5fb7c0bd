"""Label Studio: tasks with brush strokes, and the labelling interface they fit."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import Bool

from ssrseg.export.output import Output
from ssrseg.export.runs import class_boxes, run_lengths
from ssrseg.export.source import Mask
from ssrseg.overlay import hex_colours

LOCAL = "/data/local-files/?d="
"""Where Label Studio serves local files, by their path below its document root."""

_SIZES = np.array([3, 4, 8, 16])  # bits of a length
_MOST = 1 << 16


def write_labelstudio(
    masks: Iterable[Mask], output: Output, classes: tuple[str, ...], *, url_prefix: str
) -> None:
    """Write tasks.json and labels.xml.

    Masks are predictions, with their score; those made by hand are annotations. Undecided pixels
    are in no region.
    """
    with output.text("tasks.json") as file:
        file.write("[")
        for index, mask in enumerate(masks):
            file.write(",\n" if index else "\n")
            file.write(json.dumps(_task(mask, classes, url_prefix)))
        file.write("\n]\n")
    labels = "".join(
        f"    <Label value={quoteattr(name)} background={quoteattr(colour)}/>\n"
        for name, colour in zip(classes, hex_colours(len(classes)), strict=True)
    )
    output.write(
        "labels.xml",
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <BrushLabels name="tag" toName="image">\n{labels}  </BrushLabels>\n</View>\n',
    )


def _task(mask: Mask, classes: tuple[str, ...], url_prefix: str) -> dict[str, Any]:
    height, width = mask.ids.shape
    flat = mask.ids.ravel()
    result = [
        {
            "id": f"class-{number}",
            "type": "brushlabels",
            "from_name": "tag",
            "to_name": "image",
            "image_rotation": 0,
            "original_width": width,
            "original_height": height,
            "value": {
                "format": "rle",
                "rle": brush_code(flat == number),
                "brushlabels": [classes[number - 1]],
            },
        }
        for number, _ in class_boxes(mask.ids)
    ]
    image = url_prefix + quote(mask.place, errors="surrogateescape")
    task: dict[str, Any] = {"data": {"image": image, "name": mask.name}}
    if mask.by_hand:
        return task | {"annotations": [{"result": result}]}
    score = {} if mask.score is None else {"score": mask.score}
    return task | {"predictions": [{"model_version": "ssrseg", "result": result, **score}]}


def brush_code(inside: Bool[np.ndarray, " pixels"]) -> list[int]:
    """A region in Label Studio's run lengths (thi.ng's rle-pack) of RGBA, 255 inside.

    A head of 53 bits: number of values (32), bits of a value less 1 (5), bits of the four kinds of
    lengths less 1 (4 each). Then for each run 1, its kind (2), its length less 1, its value (8).
    """
    lengths = 4 * run_lengths(inside)
    values = np.where(np.arange(len(lengths)) % 2, 255, 0)
    pieces = -(-lengths // _MOST)  # a run of 0 has none
    starts = np.cumsum(pieces) - pieces
    pieces_of = np.repeat(np.arange(len(lengths)), pieces)
    done = (np.arange(len(pieces_of)) - starts[pieces_of]) * _MOST
    length = np.minimum(lengths[pieces_of] - done, _MOST)
    kind = np.searchsorted(1 << _SIZES, length)
    size = _SIZES[kind]
    codes = ((4 + kind) << size | (length - 1)) << 8 | values[pieces_of]
    bits = _bits(codes, 11 + size)
    head = [(4 * len(inside), 32), (7, 5), *((each - 1, 4) for each in _SIZES.tolist())]
    first = np.concatenate([_bits(np.array([code]), np.array([many])) for code, many in head])
    return np.packbits(np.concatenate([first, bits])).tolist()


def _bits(codes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The last ``sizes`` bits of each number, one after the other."""
    most = int(sizes.max(initial=0))
    shifts = np.arange(most - 1, -1, -1)
    table = (codes[:, None] >> shifts & 1).astype(np.uint8)
    return table[shifts < sizes[:, None]]
