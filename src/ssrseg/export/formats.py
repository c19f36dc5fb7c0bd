"""The table of formats: who writes each, what it needs, and what to do with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ssrseg.export.areas import write_areas
from ssrseg.export.coco import write_coco
from ssrseg.export.cvat import check_cvat, write_cvat
from ssrseg.export.geo import check_geojson, check_geotiff, write_geojson, write_geotiff
from ssrseg.export.labelme import write_labelme
from ssrseg.export.labelstudio import write_labelstudio
from ssrseg.export.source import Mask
from ssrseg.export.voc import check_voc, write_voc
from ssrseg.export.yolo import check_yolo, write_yolo


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        write: Takes masks, output and classes, and the options by name.
        then: What to do with what was written; ``{out}`` and ``{photos}`` are folders.
        options: Which of ``tolerance`` and ``url_prefix`` it takes, and their defaults; None = the
            folder of the photographs decides.
        photos: Whether the photographs must be there.
        confidence: Whether a confidence beside a mask is read.
        by_score: Whether images to look at first come first; else they are in order of their names.
        check: Raises DataError for a mask that cannot be written in this format.
    """

    write: Callable[..., None]
    then: str
    options: Mapping[str, float | None] = field(default_factory=dict)
    photos: bool = True
    confidence: bool = False
    by_score: bool = False
    check: Callable[[Mask], None] = lambda _: None


FORMATS = {
    "voc": Format(write_voc, "--data {out} opens it here, too.", check=check_voc),
    "coco": Format(
        write_coco,
        "{out}/annotations/instances_default.json; its images are in {out}/images/default.",
    ),
    "yolo": Format(
        write_yolo,
        "yolo segment train data={out}/data.yaml; train and val are the same images: divide them.",
        options={"tolerance": 0.0},
        check=check_yolo,
    ),
    "labelstudio": Format(
        write_labelstudio,
        "Paste {out}/labels.xml as the labelling interface, then import {out}/tasks.json. Local"
        " files: LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={photos.parent}, storage {photos}.",
        options={"url_prefix": None},
        by_score=True,
    ),
    "cvat": Format(
        write_cvat,
        "Paste {out}/labels.json as the task's labels (Raw), upload the photographs below {photos},"
        ' then Upload annotations, "CVAT 1.1": {out}/annotations.xml.',
        check=check_cvat,
    ),
    "labelme": Format(
        write_labelme,
        "labelme {photos} --output {out} --labels {out}/labels.txt. Where photographs lie in"
        " subfolders, export with --out {photos} and leave out --output.",
        options={"tolerance": 1.0},
    ),
    "geotiff": Format(
        write_geotiff, "QGIS and other programs open {out}/NAME.tif in place.", check=check_geotiff
    ),
    "geojson": Format(
        write_geojson,
        "QGIS and other programs open {out}/NAME.geojson in place (WGS 84).",
        check=check_geojson,
    ),
    "csv": Format(write_areas, "Any spreadsheet opens it.", photos=False, confidence=True),
}
