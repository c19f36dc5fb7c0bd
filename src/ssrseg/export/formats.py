"""The table of formats: who writes each, what it needs, and what to do with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ssrseg.export.areas import write_areas
from ssrseg.export.coco import write_coco
from ssrseg.export.cvat import check_cvat, write_cvat
from ssrseg.export.labelme import write_labelme
from ssrseg.export.labelstudio import write_labelstudio
from ssrseg.export.source import Mask
from ssrseg.export.voc import write_voc
from ssrseg.export.yolo import check_yolo, write_yolo


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        write: Takes masks, output and classes, and the options by name.
        then: What to do with what was written; ``{out}`` and ``{photos}`` are folders.
        options: Which of ``tolerance`` and ``url_prefix`` it takes.
        photos: Whether the photographs must be there.
        by_score: Whether images to look at first come first; else they are in order of their names.
        check: Raises DataError for a mask that cannot be written in this format.
    """

    write: Callable[..., None]
    then: str
    options: frozenset[str] = frozenset()
    photos: bool = True
    by_score: bool = False
    check: Callable[[Mask], None] = lambda _: None


FORMATS = {
    "voc": Format(write_voc, "It opens with `ssrseg train --data {out}`, too."),
    "coco": Format(
        write_coco,
        "{out}/annotations/instances_default.json; its images are in {out}/images/default.",
    ),
    "yolo": Format(
        write_yolo,
        "yolo segment train data={out}/data.yaml; train and val are the same images: divide them.",
        options=frozenset({"tolerance"}),
        check=lambda mask: check_yolo(mask.name),
    ),
    "labelstudio": Format(
        write_labelstudio,
        "Paste {out}/labels.xml as the project's labelling interface, then import {out}/tasks.json."
        " Photographs are served from {photos}: docs/export.md says how.",
        options=frozenset({"url_prefix"}),
        by_score=True,
    ),
    "cvat": Format(
        write_cvat,
        "Paste {out}/labels.json as the task's labels (Raw), upload the photographs below {photos},"
        ' then Upload annotations, "CVAT 1.1": {out}/annotations.xml.',
        check=lambda mask: check_cvat(mask.place),
    ),
    "labelme": Format(
        write_labelme,
        "labelme {photos} --output {out} --labels {out}/labels.txt",
        options=frozenset({"tolerance"}),
    ),
    "csv": Format(write_areas, "Any spreadsheet opens it.", photos=False),
}
