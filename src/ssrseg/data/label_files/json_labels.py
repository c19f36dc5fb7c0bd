"""Labels in JSON: an object by image, a list of objects, or an object per line.

    {"a.jpg": ["cat", "dog"],        {"file_name": "a.jpg", "labels": ["cat", "dog"]}
     "b.jpg": ["none"]}              {"file_name": "b.jpg", "labels": ["none"]}

Keys of objects mean what the headings of a table mean.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ssrseg.console import printable
from ssrseg.data.label_files.cells import listed
from ssrseg.data.label_files.columns import Line, has_image, may_be_labels, rows_of_table
from ssrseg.data.label_files.rows import LabelRows
from ssrseg.data.text import fault_report, read_text, split_lines
from ssrseg.data.walk import SUFFIXES
from ssrseg.errors import LabelsError
from ssrseg.safe_json import JsonError, parse_json, read_json

_FORMS = 'Write {"a.jpg": ["cat", "dog"], ...} or [{"image": "a.jpg", "labels": ["cat"]}, ...].'
_MOST_KEYS = 1000


def is_json_labels(value: Any) -> bool:
    """True if a value from JSON looks like labels by image."""
    if isinstance(value, dict):
        images = sum(key.strip().lower().endswith(SUFFIXES) for key in value)
        return 2 * images >= len(value) > 0
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    flat = _flat(value[0])
    return may_be_labels([*flat], [[*flat.values()]])


def is_json_lines(text: str) -> bool:
    """True if the beginning of a file looks like an object per line, with labels in each."""
    first = next((line for line in split_lines(text) if line.strip()), "")
    try:
        return is_json_labels([parse_json(first)])
    except JsonError:
        return False


def read_json_labels(path: Path, known: Collection[str] = ()) -> LabelRows:
    """Labels by image in a JSON file.

    Args:
        path: The file.
        known: Keys of the classes, if there is a list.

    Raises:
        LabelsError: If it is no JSON or of another form, or an image is there twice.
    """
    try:
        value = read_json(path, unique=True)
    except JsonError as error:
        raise LabelsError(f"{path} is no JSON ({printable(str(error)[:120])}). Mend it.") from error
    if isinstance(value, dict) and value:
        found = [(f'"{printable(key)[:80]}"', _entry(key, each)) for key, each in value.items()]
    elif isinstance(value, list) and value:
        found = [(f"entry {number}", each) for number, each in enumerate(value, 1)]
    else:
        raise LabelsError(f"{path} names no image. {_FORMS}")
    return _rows(path, found, known)


def read_json_lines(path: Path, known: Collection[str] = ()) -> LabelRows:
    """Labels by image in a file of a JSON object per line.

    Args:
        path: The file.
        known: Keys of the classes, if there is a list.

    Raises:
        LabelsError: If a line is no JSON, or its object is of another form.
    """
    found, faults = [], []
    for number, line in enumerate(split_lines(read_text(path)), 1):
        if line.strip():
            try:
                found.append((f"line {number}", parse_json(line, unique=True)))
            except JsonError as error:
                faults.append(f"line {number}: no JSON ({printable(str(error)[:120])}). Mend it.")
    if faults:
        raise LabelsError(fault_report(path, faults))
    return _rows(path, found, known)


def _entry(image: str, value: Any) -> dict[str, Any]:
    """An image's own object, or its labels as one."""
    if isinstance(value, dict) and listed(value) is None:
        return {"image": image} | value
    return {"image": image, "labels": value}


def _rows(path: Path, found: Sequence[tuple[str, Any]], known: Collection[str]) -> LabelRows:
    wrong = [f"{place}: no object with an image. {_FORMS}" for place, each in found
             if not isinstance(each, dict)]  # fmt: skip
    if wrong:
        raise LabelsError(fault_report(path, wrong))
    objects = [(place, _flat(each)) for place, each in found]
    heads = [*dict.fromkeys(key for _, each in objects for key in each)]
    if len(heads) > _MOST_KEYS or not has_image(heads):
        raise LabelsError(f"{path}: its objects do not say which image they are of. {_FORMS}")
    lines = [Line(place, [each.get(head) for head in heads]) for place, each in objects]
    try:
        return rows_of_table(path, heads, lines, known=known)
    except LabelsError as error:
        raise LabelsError(f"{path} {error}") from error


def _flat(entry: dict[str, Any]) -> dict[str, Any]:
    """Hugging Face's ``objects: {"categories": [...], "bbox": [...]}`` as keys of the whole."""
    flat: dict[str, Any] = {}
    for key, value in entry.items():
        inner = value if isinstance(value, dict) and key == "objects" else None
        flat |= {key: value} if inner is None else {f"{key}.{k}": v for k, v in inner.items()}
    return flat
