"""Which label file a folder holds, by what is in the files; one of them, or it is refused.

| order | what is there |
|---|---|
| 1 | ``labels.csv`` |
| 2 | ``annotations/instances_*.json``: COCO |
| 3 | ``JPEGImages``, ``ImageSets`` and ``Annotations``: VOC |
| 4 | one label file of ``FORMATS`` in the folder, in ``annotations``, or one for each split |
| 5 | one folder per class |

``data.open`` goes through them; 4 is here.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssrseg.console import printable
from ssrseg.data.classes import ClassList, class_key
from ssrseg.data.label_files.cvat import is_cvat, read_cvat
from ssrseg.data.label_files.json_labels import (
    is_json_labels,
    is_json_lines,
    read_json_labels,
    read_json_lines,
)
from ssrseg.data.label_files.label_studio import is_label_studio, read_label_studio
from ssrseg.data.label_files.rows import SPLITS, LabelRows, joined
from ssrseg.data.label_files.table import is_table, read_table
from ssrseg.data.label_files.yolo import is_yolo, read_yolo, read_yolo_files
from ssrseg.data.walk import SUFFIXES as IMAGES
from ssrseg.errors import LabelsError
from ssrseg.safe_json import JsonError, read_json

Reader = Callable[[Path, Collection[str]], LabelRows]

COCO = "COCO's JSON"
FORMATS: dict[str, Reader | None] = {
    "a table": read_table,
    "JSON lines": read_json_lines,
    "JSON": read_json_labels,
    "Label Studio's JSON": read_label_studio,
    "CVAT's XML": read_cvat,
    "YOLO's data.yaml": read_yolo,
    "YOLO's files": read_yolo_files,
    COCO: None,  # by data.coco, which keeps category ids for masks
}
"""Readers by format, in words for messages."""

_TABLES = (".csv", ".tsv", ".tab", ".txt")
_JSON_LINES = (".jsonl", ".ndjson")
SUFFIXES = frozenset({*_TABLES, *_JSON_LINES, ".json", ".xml", ".yaml", ".yml"})
"""Suffixes that files of labels have."""
_HEAD = 1 << 16  # bytes of a file that are looked at first
_LARGE = 1 << 25  # bytes of JSON beyond which its beginning and end must do
_CLASS_FILES = ("classes.txt", "classes.yaml")


@dataclass(frozen=True)
class LabelFiles:
    """A label file, or one for each split, of one format; None = of no split."""

    format: str
    files: dict[str | None, Path]

    def read(self, root: Path, classes: ClassList | None) -> LabelRows:
        """Its rows; COCO's are not read here."""
        reader = FORMATS[self.format]
        assert reader is not None
        known = frozenset(class_key(name) for name in classes.names) if classes else frozenset()
        parts = [(split, reader(path, known)) for split, path in self.files.items()]
        if len(parts) == 1 and parts[0][1].source.parent == root:
            return parts[0][1]
        return joined(root, parts)


def find_label_files(root: Path) -> LabelFiles | None:
    """The one label file of a folder, or those of its splits; None if there is none.

    Raises:
        LabelsError: If there are several, which may say different things.
    """
    found = [*_candidates(root)]
    if not found:
        return None
    formats = {name for name, _ in found}
    if len(formats) == 1:
        by_split = _by_split(root, [path for _, path in found])
        if by_split is not None:
            return LabelFiles(found[0][0], by_split)
    shown = [f"{printable(path.relative_to(root).as_posix())} ({name})" for name, path in found]
    first = found[0][1]
    raise LabelsError(
        f"{root} holds {len(found)} label files, and they may say different things:"
        f" {', '.join(shown[:4])}{', ...' if shown[4:] else ''}. Name the one to be read, as in"
        f" --data {first}, or move the others away."
    )


def label_format(path: Path) -> str | None:
    """The format of a file, by its suffix and what is in it; None if it has no labels."""
    suffix = path.suffix.lower()
    if path.name.startswith(".") or path.name in _CLASS_FILES or not path.is_file():
        return None
    if suffix in (".yaml", ".yml"):
        return "YOLO's data.yaml" if is_yolo(path) else None
    if suffix == ".json":
        return _json_format(path)
    if suffix not in (*_TABLES, *_JSON_LINES, ".xml"):
        return None
    text = _head(path)
    if suffix == ".xml":
        return "CVAT's XML" if is_cvat(text) else None
    if suffix in _JSON_LINES:
        return "JSON lines" if is_json_lines(text) else None
    return "a table" if is_table(path, text) else None


def passed_over(root: Path, chosen: str) -> tuple[str, ...]:
    """A notice of label files in a folder beside what is ``chosen``, whatever they say."""
    files = [path for path in sorted(root.iterdir()) if path.suffix.lower() in SUFFIXES]
    found = [(path, label_format(path)) for path in files if path.name != chosen]
    return tuple(
        f"{printable(path.name)} has labels, too ({name}), and is passed over for {chosen}; --data"
        f" {path} reads it."
        for path, name in found
        if name is not None
    )


def only_table(root: Path) -> Path | None:
    """The only file that could be a table of labels by its suffix, to say what is wrong with it."""
    suffixes = (*_TABLES[:3], *_JSON_LINES)
    found = [path for path in sorted(root.iterdir()) if path.suffix.lower() in suffixes]
    return found[0] if len(found) == 1 and found[0].is_file() else None


def reader_for(path: Path) -> str:
    """The format that a file of unknown content is read as, for the message about it."""
    suffix = path.suffix.lower()
    formats = {".json": "JSON", ".xml": "CVAT's XML", ".yaml": "YOLO's data.yaml"}
    formats |= {".yml": "YOLO's data.yaml"} | dict.fromkeys(_JSON_LINES, "JSON lines")
    return label_format(path) or formats.get(suffix, "a table")


def _candidates(root: Path) -> Iterator[tuple[str, Path]]:
    """Label files and their formats: in the folder, in annotations, in the folders of splits."""
    there = sorted(root.iterdir())
    inner = [path for path in there if path.name.lower() in ("annotations", *SPLITS)]
    found = False
    for folder in (root, *(path for path in inner if path.is_dir())):
        for path in there if folder == root else sorted(folder.iterdir()):
            if path.suffix.lower() in SUFFIXES and (name := label_format(path)):
                yield name, path
                found = True
    classes = root / "classes.txt"
    names = {path.name for path in there}
    if (
        not found
        and classes.name in names
        and ({"images", "labels"} <= names or _are_beside(names))
    ):
        yield "YOLO's files", classes  # as Label Studio or LabelImg writes them


def _are_beside(names: set[str]) -> bool:
    """True if an image has a text of its name."""
    stems = {stem for stem, suffix in map(os.path.splitext, names) if suffix.lower() in IMAGES}
    return any(suffix == ".txt" and stem in stems for stem, suffix in map(os.path.splitext, names))


def _by_split(root: Path, paths: list[Path]) -> dict[str | None, Path] | None:
    """Files by the split that their folder or name says; None if they are not of splits each."""
    if len(paths) == 1:
        folder = paths[0].parent
        is_part = folder != root and folder.name.lower() in SPLITS
        return {folder.name if is_part else None: paths[0]}
    if all(path.parent != root and path.parent.name.lower() in SPLITS for path in paths):
        splits = [path.parent.name for path in paths]
    else:
        splits = [_split_in(path.stem) for path in paths]
    named: dict[str | None, Path] = dict(zip(splits, paths, strict=True))
    return named if len(named) == len(paths) and "" not in named else None


def _split_in(stem: str) -> str:
    """``train`` of train, labels_train or train-labels; or ''."""
    parts = stem.lower().replace("-", "_").split("_")
    found = [part for part in (parts[0], parts[-1]) if part in SPLITS]
    return found[0] if found else ""


def _head(path: Path) -> str:
    """The beginning of a text, without a line that is cut."""
    try:
        with path.open("rb") as file:
            content = file.read(_HEAD)
    except OSError:
        return ""
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if wide else "utf-8-sig", "replace")
    return text.rpartition("\n")[0] if len(content) == _HEAD and "\n" in text else text


def _json_format(path: Path) -> str | None:
    try:
        if path.stat().st_size > _LARGE:
            return COCO if '"annotations"' in _head(path) or '"images"' in _head(path) else None
        value: Any = read_json(path, nan=True)
    except (JsonError, OSError):
        return None
    if isinstance(value, dict) and {"images", "annotations", "categories"} <= value.keys():
        return COCO
    if is_label_studio(value):
        return "Label Studio's JSON"
    return "JSON" if is_json_labels(value) else None
