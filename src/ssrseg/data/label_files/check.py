"""Hold the rows of a label file against the classes and the images on disk."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssrseg.data.classes import (
    NO_CLASS,
    ClassList,
    check_classes,
    class_fault,
    class_key,
    most_frequent,
    respelled,
    too_many,
)
from ssrseg.data.label_files.lookup import ImagesOf
from ssrseg.data.label_files.rows import LabelRows, Row
from ssrseg.data.naming import sample_name
from ssrseg.data.text import fault_report, nearest, quoted
from ssrseg.errors import LabelsError, counted


@dataclass(frozen=True)
class LabelRow:
    """An image: its path below the data set's folder, as found on disk, ``/`` between folders.

    ``labels`` are class indices, ascending; ``split`` is the part of the data set, if one is named.
    """

    image: str
    labels: tuple[int, ...]
    split: str | None = None


@dataclass(frozen=True)
class LabelFile:
    """The classes, the images, and what a user should know of how the file was read."""

    classes: tuple[str, ...]
    rows: list[LabelRow]
    notices: tuple[str, ...]


_Fault = tuple[int, str]  # number of the row, and what is wrong there


def check_rows(found: LabelRows, root: Path, classes: ClassList | None) -> LabelFile:
    """Check all rows; images are looked up, not opened.

    Labels that differ from a class only in upper and lower case or in what cannot be seen are that
    class.

    Args:
        found: As a format's module read them.
        root: Folder of the data set.
        classes: Those allowed; None = those of the file's own list, or those that occur, sorted.

    Raises:
        LabelsError: With all the faults of the file at once.
    """
    source, rows = found.source, found.rows
    joint = "/" if source.is_dir() else " "
    listed = classes
    if classes is None and found.classes is not None:
        named = [*enumerate(found.classes, 1)]
        names = check_classes(source, named, unit="class", cure="Add its names.")
        listed = ClassList(names, source=f"the list in {source.name}")
    faults = [*found.faults, *_label_faults(rows, listed)]
    lookup = ImagesOf(root)
    images, misplaced = _find_images(lookup, found)
    faults = sorted(faults + misplaced, key=lambda fault: fault[0])
    if faults:
        raise LabelsError(fault_report(source, [text for _, text in faults], joint=joint))
    if not rows:
        raise LabelsError(
            f'{source} names no image. Add lines such as "images/a.jpg,cat;dog".'
            if source.suffix.lower() in (".csv", ".tsv", ".txt")
            else f"{source} labels no image. Label some, and export them again."
        )
    words = Counter(word for row in rows for word in row.words if word != NO_CLASS)
    names = listed.names if listed else most_frequent(words)
    if not names:
        raise LabelsError(
            f'{source} names no class: every label is "{NO_CLASS}". Name the classes of some'
            " images."
        )
    notices = found.notices + respelled(words, names)
    if lookup.by_end:
        notices += (
            f"{counted(lookup.by_end, 'image was', 'images were')} found by the end of the path,"
            f" in another folder below {root} than written.",
        )
    if classes is None and names[1:]:
        follow = "the alphabet" if listed is None else f"the order in {source.name}"
        notices += (
            f"Class ids follow {follow}: {_ids(names)}. A classes.txt beside"
            f" {source.name if source.is_file() else 'it'} fixes another order, and keeps ids as"
            " they are when classes are added.",
        )
    index = {class_key(name): number for number, name in enumerate(names)}
    labels: dict[str, set[int]] = {}
    splits: dict[str, str | None] = {}
    for row, image in zip(rows, images, strict=True):
        present = {index[class_key(word)] for word in row.words if word != NO_CLASS}
        labels.setdefault(image, set()).update(present)
        splits[image] = row.split
    checked = [LabelRow(image, tuple(sorted(labels[image])), splits[image]) for image in labels]
    return LabelFile(names, checked, notices)


def _ids(names: tuple[str, ...]) -> str:
    """``cat = 1, dog = 2`` of the first classes."""
    shown = ", ".join(f"{name} = {number}" for number, name in enumerate(names[:3], 1))
    return f"{shown}, ..." if names[3:] else shown


def _label_faults(rows: Sequence[Row], classes: ClassList | None) -> list[_Fault]:
    """Unknown, missing and contradictory labels; without a list, labels that can be no classes."""
    faults: list[_Fault] = []
    names = classes.names if classes else ()
    known = {class_key(name) for name in names}
    first: dict[str, int] = {}
    for number, row in enumerate(rows):
        if not row.words and not row.shows_none:
            faults.append(
                (
                    number,
                    f"{row.place}: {quoted(row.image)} has no label. Name its classes, remove the"
                    f' line, or write "{NO_CLASS}" if the image shows none of the classes.',
                )
            )
        if NO_CLASS in row.words and set(row.words) != {NO_CLASS}:
            faults.append(
                (
                    number,
                    f'{row.place}: "{NO_CLASS}" stands beside other labels ({";".join(row.words)}).'
                    " Remove one or the other.",
                )
            )
        for word in row.words:
            if word == NO_CLASS or class_key(word) in known:
                continue
            first.setdefault(class_key(word), number)
            # a class may have a comma in its name, if a list says so
            sign = next((sign for sign in ",|" if sign in word), "")
            if sign and not re.fullmatch(r"\[.*\]", word):
                text = f"the label {quoted(word[:80])} contains {quoted(sign)}. Separate labels by"
                text += ' ";".'
            elif classes is not None:
                text = f"class {quoted(word)} is not in {classes.source} ({len(names)} names)."
                text += nearest(word, (*names, NO_CLASS), faults)
            else:
                text = class_fault(word)
            if text:
                faults.append((number, f"{row.place}: {text}"))
    if classes is None:
        faults += [
            (number, f"{rows[number].place}: {text}")
            for number, text in too_many((number, "") for number in first.values())
        ]
    return faults


def _find_images(lookup: ImagesOf, found: LabelRows) -> tuple[list[str], list[_Fault]]:
    """Look up every image; missing and repeated ones are faults."""
    seen: dict[str, tuple[str, Row]] = {}
    images: list[str] = []
    faults: list[_Fault] = []
    for number, row in enumerate(found.rows):
        actual, problem = lookup.find(row, faults)
        if actual is not None:
            images.append(actual)
            name = sample_name(actual)
            first, twin = seen.setdefault(name, (actual, row))
            if first != actual:
                problem = (
                    f"and {quoted(twin.image)} ({twin.place}) have the same name {quoted(name)},"
                    " without suffix, under which results are written. Rename or remove one."
                )
            elif twin is not row and not found.merge:
                problem = f"is already on {twin.place}. Keep one line with all its classes."
        if problem:
            faults.append((number, f'{row.place}: image "{row.image}" {problem}'))
    return images, faults
