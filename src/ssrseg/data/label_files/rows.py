"""What every format of labels comes down to: an image and the words for it, row by row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

SPLITS = ("train", "training", "val", "valid", "validation", "dev", "test", "testing")
"""What folders and files of parts of a data set are called."""


@dataclass(frozen=True)
class Row:
    """An image and its labels, as they are written.

    Attributes:
        place: Where it stands in its file, such as ``line 3``; rows of one place follow each other.
        image: Its path as written.
        words: Labels; empty where there is none, which is a slip unless ``shows_none``.
        also: Paths that it may have on disk instead, the likeliest first.
        folder: Folder below the data set's that the path begins in.
        split: The part of the data set that the image belongs to.
        loose: The path is of another machine: folders before its end do not count.
    """

    place: str
    image: str
    words: tuple[str, ...] = ()
    shows_none: bool = False
    also: tuple[str, ...] = ()
    folder: str = ""
    split: str | None = None
    loose: bool = False


@dataclass(frozen=True)
class LabelRows:
    """The rows of a file, or of several.

    Attributes:
        source: The file, or the folder of several.
        rows: In their order.
        faults: What is wrong, after the number of the row before which it stands.
        classes: Where the format has a list of its own: the names in its order.
        merge: An image may have many rows, as where each is a box.
        notices: What a user should know of how it was read.
    """

    source: Path
    rows: tuple[Row, ...]
    faults: tuple[tuple[int, str], ...] = ()
    classes: tuple[str, ...] | None = None
    merge: bool = False
    notices: tuple[str, ...] = ()


def joined(root: Path, parts: Iterable[tuple[str | None, LabelRows]]) -> LabelRows:
    """Several files as one; places begin with the file, and paths in the folder of the file."""
    rows: list[Row] = []
    faults: list[tuple[int, str]] = []
    classes: dict[str, None] = {}
    notices: dict[str, None] = {}
    merge = False
    for split, part in parts:
        file = part.source.relative_to(root).as_posix()
        folder = part.source.parent.relative_to(root).as_posix()
        faults += [(len(rows) + before, f"{file} {text}") for before, text in part.faults]
        rows += [
            replace(
                row,
                place=f"{file} {row.place}",
                folder="" if folder == "." else folder,
                split=split or row.split,
            )
            for row in part.rows
        ]
        classes |= dict.fromkeys(part.classes or ())
        notices |= dict.fromkeys(part.notices)
        merge = merge or part.merge
    return LabelRows(root, tuple(rows), tuple(faults), tuple(classes) or None, merge, (*notices,))
