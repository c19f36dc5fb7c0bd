"""Miniature data sets in the real formats, for tests."""

from __future__ import annotations

import json
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_array

VOC_NAMES = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
]
SIZES = ((61, 75), (80, 64), (96, 51), (67, 67), (49, 90), (73, 58))


def tiny_voc(
    root: Path, n: int = 6, classes: tuple[str, ...] = ("bird", "cat", "dog"), seed: int = 0
) -> Path:
    """Write a VOC 2012 tree of ``n`` images; image i shows class i, every third one two.

    Blobs have the colour of their class. Two thirds are split ``train``, the rest
    ``val``. ``classes.txt`` is written if a class is not VOC's.
    """
    rng = np.random.default_rng(seed)
    order = list(classes) if set(classes) - set(VOC_NAMES) else VOC_NAMES
    if order is not VOC_NAMES:
        root.mkdir(parents=True, exist_ok=True)
        (root / "classes.txt").write_text("\n".join(classes) + "\n")
    for folder in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    names = [f"2007_{i:06d}" for i in range(n)]
    for i, name in enumerate(names):
        shown = [classes[i % len(classes)]]
        if i % 3 == 2 and len(classes) > 1:
            shown.append(classes[(i + 1) % len(classes)])
        photo, ids, boxes = _scene(rng, SIZES[i % len(SIZES)], [order.index(c) for c in shown])
        Image.fromarray(photo).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        truth = Image.fromarray(ids)
        truth.putpalette(_palette())
        truth.save(root / "SegmentationClass" / f"{name}.png")
        _write_xml(
            root / "Annotations" / f"{name}.xml", photo.shape, dict(zip(shown, boxes, strict=True))
        )
    cut = (2 * n + 2) // 3
    for split, members in (("train", names[:cut]), ("val", names[cut:]), ("trainval", names)):
        text = "".join(f"{name}\n" for name in members)
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(text)
    return root


def tiny_voc_sbd(root: Path, sbd: Path) -> Path:
    """Write a VOC tree whose lists hold six of its nine images, and SBD's folder for the others.

    Images 0-2 are VOC ``train``, 3-5 ``val``, 6-8 have masks in SBD alone. SBD's own lists split
    them otherwise (1, 3, 6, 7 and 4, 8), and its masks of VOC's images are empty, so that they are
    told from VOC's own.
    """
    tiny_voc(root, n=9)
    names = [f"2007_{i:06d}" for i in range(9)]
    lists = root / "ImageSets" / "Segmentation"
    for split, members in (("train", names[:3]), ("val", names[3:6]), ("trainval", names[:6])):
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in members))
    (sbd / "cls").mkdir(parents=True)
    for split, members in (("train", (1, 3, 6, 7)), ("val", (4, 8))):
        (sbd / f"{split}.txt").write_text("".join(f"{names[i]}\n" for i in members))
        for i in members:
            truth = root / "SegmentationClass" / f"{names[i]}.png"
            with Image.open(truth) as image:
                ids = np.array(image)
            if i < 6:
                ids[:] = 0
            else:
                ids[ids == 255] = 0
                truth.unlink()
            write_sbd_mask(sbd / "cls" / f"{names[i]}.mat", ids)
    return root


def write_sbd_mask(path: Path, ids: np.ndarray) -> None:
    """Write class ids as SBD does: a struct of boundaries per class, mask and present classes."""
    boundaries = np.empty((20, 1), object)
    for k in range(20):
        inside = ids == k + 1
        boundaries[k, 0] = csc_array(inside & ~np.roll(inside, 1, 0), dtype=np.float64)
    present = np.setdiff1d(np.unique(ids), [0]).astype(np.uint8)[:, None]
    truth = {"Boundaries": boundaries, "Segmentation": ids, "CategoriesPresent": present}
    savemat(path, {"GTcls": truth}, do_compression=True)


COCO_CATEGORIES = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train",
    8: "truck", 9: "boat", 10: "traffic light", 11: "fire hydrant", 13: "stop sign",
    14: "parking meter", 15: "bench", 16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep",
    21: "cow", 22: "elephant", 23: "bear", 24: "zebra", 25: "giraffe", 27: "backpack",
    28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase", 34: "frisbee", 35: "skis",
    36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat", 40: "baseball glove",
    41: "skateboard", 42: "surfboard", 43: "tennis racket", 44: "bottle", 46: "wine glass",
    47: "cup", 48: "fork", 49: "knife", 50: "spoon", 51: "bowl", 52: "banana", 53: "apple",
    54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot", 58: "hot dog", 59: "pizza",
    60: "donut", 61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed",
    67: "dining table", 70: "toilet", 72: "tv", 73: "laptop", 74: "mouse", 75: "remote",
    76: "keyboard", 77: "cell phone", 78: "microwave", 79: "oven", 80: "toaster", 81: "sink",
    82: "refrigerator", 84: "book", 85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear",
    89: "hair drier", 90: "toothbrush",
}  # fmt: skip
TINY_COCO = {  # image id: (category id, row, column, height, width, is a crowd) of each instance
    "train": {
        9: [(1, 10, 8, 30, 30, 0), (90, 20, 20, 10, 12, 0)],  # a toothbrush before a person
        25: [(72, 5, 5, 40, 40, 0)],
        30: [],
        34: [(13, 30, 6, 20, 20, 0), (1, 4, 4, 16, 60, 1)],  # a crowd, the only people there
    },
    "val": {
        42: [(63, 8, 8, 40, 50, 0), (17, 20, 20, 12, 12, 0)],
        73: [],
        74: [(17, 10, 10, 24, 24, 0), (17, 30, 40, 12, 14, 0)],
    },
}


def tiny_coco(root: Path, images: str = "{}2014") -> Path:
    """Write COCO 2014 in its real format: polygons, run lengths, category ids with gaps.

    Two images of each split show one class or more, and one of each, by ``TINY_COCO``, nothing.

    Args:
        root: The tree.
        images: Where the images of a split lie.
    """
    rng = np.random.default_rng(0)
    order = sorted(COCO_CATEGORIES)
    (root / "annotations").mkdir(parents=True)
    for split, content in TINY_COCO.items():
        folder = root / images.format(split)
        folder.mkdir(parents=True)
        listed: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        for number, (image_id, instances) in enumerate(content.items()):
            height, width = SIZES[number]
            photo = np.full((height, width, 3), 128.0) + rng.normal(0, 6, (height, width, 3))
            name = f"COCO_{split}2014_{image_id:012d}.jpg"
            listed.append(
                {"license": 1, "file_name": name, "height": height, "width": width, "id": image_id}
            )
            for category, top, left, rows, columns, crowd in instances:
                box = (slice(top, top + rows), slice(left, left + columns))
                photo[box] = colour_of(order.index(category)) + rng.normal(0, 6, (1, 1, 3))
                inside = np.zeros((height, width), bool)
                inside[box] = True
                right, bottom = left + columns, top + rows
                annotations.append(
                    {
                        "segmentation": {"counts": run_lengths(inside), "size": [height, width]}
                        if crowd
                        else [[left, top, right, top, right, bottom, left, bottom]],
                        "area": int(inside.sum()),
                        "iscrowd": crowd,
                        "image_id": image_id,
                        "bbox": [left, top, columns, rows],
                        "category_id": category,
                        "id": 100 * image_id + len(annotations),
                    }
                )
            Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(folder / name, quality=95)
        table = {
            "info": {"year": 2014},
            "images": listed,
            "licenses": [{"id": 1}],
            "annotations": annotations,
            "categories": [
                {"supercategory": "thing", "id": number, "name": name}
                for number, name in COCO_CATEGORIES.items()
            ],
        }
        (root / "annotations" / f"instances_{split}2014.json").write_text(json.dumps(table))
    return root


def run_lengths(inside: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths: columns first, beginning with pixels outside."""
    flat = inside.T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, flat.size]).tolist()
    return [0, *counts] if flat[0] else counts


def tiny_folder(root: Path, n: int = 6, seed: int = 0) -> Path:
    """Write a user's folder: ``images/photo_<i>.jpg`` and ``labels.csv``; the last shows none."""
    rng = np.random.default_rng(seed)
    classes = ("cat", "dog", "red car")
    (root / "images").mkdir(parents=True)
    lines = ["image,labels"]
    for i in range(n):
        shown = [] if i == n - 1 else sorted({i % 3, (i * i) % 3})
        photo, _, _ = _scene(rng, SIZES[i % len(SIZES)], shown)
        Image.fromarray(photo).save(root / "images" / f"photo_{i}.jpg", quality=95)
        labels = ";".join(classes[c] for c in shown) or "none"
        lines.append(f"images/photo_{i}.jpg,{labels}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """Collect the path of every file this thread opens through Python, whatever the library."""
    paths: list[str] = []
    listener = (threading.get_ident(), paths)
    _listeners.append(listener)
    try:
        yield paths
    finally:
        _listeners.remove(listener)


_listeners: list[tuple[int, list[str]]] = []


def _on_event(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _listeners and isinstance(arguments[0], str | bytes | Path):
        for thread, paths in _listeners:
            if thread == threading.get_ident():
                path = arguments[0]
                paths.append(path.decode() if isinstance(path, bytes) else str(path))


# Unlike a patched open(), an audit hook also sees files opened by os.open and from C.
sys.addaudithook(_on_event)


def _scene(
    rng: np.random.Generator, size: tuple[int, int], class_indices: list[int]
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int, int, int]]]:
    height, width = size
    photo = np.full((height, width, 3), 128.0) + rng.normal(0, 6, (height, width, 3))
    ids = np.zeros((height, width), np.uint8)
    rows, columns = np.mgrid[:height, :width]
    boxes = []
    for k, index in enumerate(class_indices):
        centre = (height / 2, width * (k + 1) / (len(class_indices) + 1))
        radii = (height * rng.uniform(0.2, 0.35), width * rng.uniform(0.12, 0.2))
        distance = np.hypot((rows - centre[0]) / radii[0], (columns - centre[1]) / radii[1])
        inside = distance < 1
        photo[inside] = colour_of(index) + rng.normal(0, 6, (int(inside.sum()), 3))
        ids[inside] = index + 1
        ids[(distance >= 1) & (distance < 1.15)] = 255
        top, left = np.argwhere(inside).min(0) + 1
        bottom, right = np.argwhere(inside).max(0) + 1
        boxes.append((int(left), int(top), int(right), int(bottom)))
    return photo.clip(0, 255).astype(np.uint8), ids, boxes


def colour_of(class_index: int) -> np.ndarray:
    """RGB of a class's blobs, 20 .. 235."""
    return 20 + 215 * np.array([class_index * step % 7 / 6 for step in (1, 3, 5)])


def _write_xml(
    path: Path, shape: tuple[int, ...], objects: dict[str, tuple[int, int, int, int]]
) -> None:
    top = ElementTree.Element("annotation")
    ElementTree.SubElement(top, "folder").text = "VOC2012"
    ElementTree.SubElement(top, "filename").text = f"{path.stem}.jpg"
    size = ElementTree.SubElement(top, "size")
    for tag, value in zip(("height", "width", "depth"), shape, strict=True):
        ElementTree.SubElement(size, tag).text = str(value)
    ElementTree.SubElement(top, "segmented").text = "1"
    for name, box in objects.items():
        entry = ElementTree.SubElement(top, "object")
        ElementTree.SubElement(entry, "name").text = name
        ElementTree.SubElement(entry, "pose").text = "Unspecified"
        ElementTree.SubElement(entry, "truncated").text = "0"
        ElementTree.SubElement(entry, "difficult").text = "1"
        _write_box(entry, box)
        part = ElementTree.SubElement(entry, "part")  # VOC's people have heads, hands and feet
        ElementTree.SubElement(part, "name").text = "head"
        _write_box(part, box)
    ElementTree.indent(top)
    ElementTree.ElementTree(top).write(path)


def _write_box(parent: ElementTree.Element, box: tuple[int, int, int, int]) -> None:
    element = ElementTree.SubElement(parent, "bndbox")
    for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
        ElementTree.SubElement(element, tag).text = str(value)


def _palette() -> list[int]:
    colours = []
    for label in range(256):
        red = green = blue = 0
        for bit in range(8):
            red |= (label >> 3 * bit & 1) << 7 - bit
            green |= (label >> 3 * bit + 1 & 1) << 7 - bit
            blue |= (label >> 3 * bit + 2 & 1) << 7 - bit
        colours += [red, green, blue]
    return colours
