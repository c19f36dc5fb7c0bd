"""Miniature data sets in the real formats, for tests."""

from __future__ import annotations

import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

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
