"""Read an export with the reader of the program that it is for; runs where these are installed.

    python read_back.py READER EXPORT PHOTOS OUT

writes OUT/NAME.npy, the class ids that the program sees, for every image. Classes are numbered as
in EXPORT's own list of them.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np

Found = Iterator[tuple[str, np.ndarray]]


def pycocotools(export: Path, photos: Path) -> Found:
    from pycocotools.coco import COCO

    coco = COCO(export / "annotations" / "instances_default.json")
    for image in coco.loadImgs(coco.getImgIds()):
        ids = np.zeros((image["height"], image["width"]), np.uint8)
        for each in coco.loadAnns(coco.getAnnIds(image["id"], iscrowd=False)):
            inside = coco.annToMask(each) == 1
            assert each["area"] == inside.sum()
            rows, columns = np.nonzero(inside)
            assert each["bbox"] == [
                *(columns.min(), rows.min()),
                *(np.ptp(columns) + 1, np.ptp(rows) + 1),
            ]
            ids[inside] = each["category_id"]
        yield image["file_name"].rpartition(".")[0], ids


def datumaro_coco(export: Path, photos: Path) -> Found:
    return _datumaro(export, "coco_instances", {})


def datumaro_voc(export: Path, photos: Path) -> Found:
    return _datumaro(export, "voc_segmentation", {"background": 0, "ignored": 255})


def datumaro_cvat(export: Path, photos: Path) -> Found:
    folder = export.with_name("cvat-with-images")
    shutil.copytree(photos, folder / "images")
    shutil.copy(export / "annotations.xml", folder / "default.xml")
    return _datumaro(folder, "cvat", {})


def _datumaro(folder: Path, kind: str, known: dict[str, int]) -> Found:
    from datumaro import Dataset
    from datumaro.components.annotation import AnnotationType, Mask

    data = Dataset.import_from(str(folder), kind)
    labels = [each.name for each in data.categories()[AnnotationType.label]]
    order = _class_names(folder) or [name for name in labels if name not in known]
    for item in data:
        ids = np.zeros(item.media.size, np.uint8)
        for each in item.annotations:
            if isinstance(each, Mask):  # COCO's boxes come, too
                number = known.get(labels[each.label])
                ids[each.image.astype(bool)] = (
                    1 + order.index(labels[each.label]) if number is None else number
                )
        yield item.id, ids


def _class_names(folder: Path) -> list[str]:
    listed = folder / "classes.txt"
    return listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []


def supervision(export: Path, photos: Path) -> Found:
    import cv2
    from supervision import DetectionDataset

    # it looks into one folder at a time
    for folder in sorted({path.parent for path in (export / "images").rglob("*.*")}):
        below = folder.relative_to(export / "images")
        data = DetectionDataset.from_yolo(
            str(folder),
            str(export / "labels" / below),
            str(export / "data.yaml"),
            force_masks=True,
        )
        for path, photo, found in data:
            assert photo.shape[:2] == cv2.imread(path).shape[:2]
            ids = np.zeros(photo.shape[:2], np.uint8)
            for number, inside in zip(
                found.class_id, () if found.mask is None else found.mask, strict=True
            ):
                ids[inside] = 1 + number
            yield (below / Path(path).stem).as_posix(), ids


def label_studio(export: Path, photos: Path) -> Found:
    home = importlib.util.find_spec("label_studio_sdk").submodule_search_locations[0]
    # the module alone: its package imports a dozen others that decoding does not need
    spec = importlib.util.spec_from_file_location("brush", f"{home}/converter/brush.py")
    brush = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(brush)
    from lxml import etree

    tree = etree.parse(str(export / "labels.xml"))
    order = [label.get("value") for label in tree.iter("Label")]
    (control,) = tree.iter("BrushLabels")
    (image,) = tree.iter("Image")
    assert image.get("name") == control.get("toName") and image.get("value") == "$image"
    for task in json.loads((export / "tasks.json").read_text(encoding="utf-8")):
        (made,) = task.get("predictions") or task["annotations"]
        results = [each | each["value"] for each in made["result"]]
        ids = None
        for each in results:
            assert (each["from_name"], each["to_name"]) == (control.get("name"), "image")
            ((_, alpha),) = brush.decode_from_annotation("tag", [each]).items()
            ids = np.zeros(alpha.shape, np.uint8) if ids is None else ids
            ids[alpha > 128] = 1 + order.index(each["brushlabels"][0])
        yield task["data"]["name"], np.zeros((0, 0), np.uint8) if ids is None else ids


def labelme(export: Path, photos: Path) -> Found:
    for name in ("onnxruntime", "PyQt5", "PyQt5.QtGui", "PyQt5.QtCore", "PyQt5.QtWidgets"):
        sys.modules[name] = MagicMock()  # its window is not opened
    from labelme import LabelFile, utils

    lines = (export / "labels.txt").read_text(encoding="utf-8").splitlines()
    values = {name: index - 1 for index, name in enumerate(lines)} | {"__ignore__": 255}
    for path in sorted(export.rglob("*.json")):
        file = LabelFile(str(path))  # checks the size against the upright photograph
        photo = utils.img_data_to_arr(file.image_data)
        ids, _ = utils.shapes_to_label(photo.shape, file.shapes, values)
        yield path.relative_to(export).with_suffix("").as_posix(), ids.astype(np.uint8)


READERS = (
    pycocotools, datumaro_coco, datumaro_voc, datumaro_cvat, supervision, label_studio, labelme,
)  # fmt: skip


def main(reader: str, export: str, photos: str, out: str) -> None:
    """Run one reader over all images."""
    read = next(each for each in READERS if each.__name__ == reader)
    for name, ids in read(Path(export), Path(photos)):
        path = Path(out, f"{name}.npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, ids)


if __name__ == "__main__":
    main(*sys.argv[1:])
