"""One folder per class, as torchvision, Keras and Hugging Face read them.

    cat/a.jpg        train/cat/a.jpg        cat,dog/c.jpg
    dog/b.jpg        val/dog/b.jpg          none/d.jpg

An image shows several classes if a folder is called by all of them (``cat,dog``), if the folders
within each other are classes that have images of their own (``cat/dog`` beside ``cat`` and
``dog``), or if a copy of it lies in several folders.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from ssrseg.data.classes import class_key
from ssrseg.data.files import content_digest
from ssrseg.data.label_files.lookup import images_below
from ssrseg.data.label_files.rows import SPLITS, LabelRows, Row
from ssrseg.data.naming import IMAGE_FOLDERS
from ssrseg.data.text import quoted
from ssrseg.errors import LabelsError, counted

_NO_CLASSES = frozenset({
    *map(str.casefold, IMAGE_FOLDERS), "imgs", "img", "photos", "pictures", "labels", "masks",
    "annotations", "data", "dataset", "datasets", "raw", *SPLITS,
})  # fmt: skip
_CURE = 'Write labels.csv: the header "image,labels", then a line such as "{},cat;dog" for each.'


def class_folders(root: Path) -> dict[str, tuple[str | None, tuple[str, ...]]] | None:
    """Split and folders by path of the image, if all images of a folder lie in folders of classes.

    None if they do not: some lie beside the folders, there is a single one, or they are called as
    folders of all images are.
    """
    paths = images_below(root)
    folders = {path: path.split("/")[:-1] for path in paths}
    for names in IMAGE_FOLDERS:
        if all(parts[:1] == [names] for parts in folders.values()):
            folders = {path: parts[1:] for path, parts in folders.items()}
    splits: dict[str, str | None] = dict.fromkeys(paths)
    if all(parts and parts[0].casefold() in SPLITS for parts in folders.values()):
        splits = {path: parts[0] for path, parts in folders.items()}
        folders = {path: parts[1:] for path, parts in folders.items()}
    tops = {parts[0] for parts in folders.values() if parts}
    if not all(folders.values()) or len(tops) < 2 or _NO_CLASSES & {*map(str.casefold, tops)}:
        return None
    return {path: (splits[path], tuple(folders[path])) for path in paths}


def read_class_folders(root: Path, known: Collection[str] = ()) -> LabelRows | None:
    """Labels by folder; None where ``class_folders`` finds none.

    Args:
        root: The folder of the data set.
        known: Keys of the classes, if there is a list; their names may hold a separator.

    Raises:
        LabelsError: If a folder lies in another and it cannot be told which one is the class.
    """
    found = class_folders(root)
    if found is None:
        return None
    alone = {class_key(parts[0]) for _, parts in found.values() if len(parts) == 1}
    rows = []
    for path, (split, parts) in found.items():
        if len(parts) > 1 and not {*map(class_key, parts)} <= alone:
            raise LabelsError(
                f"{root}: {quoted(path)} lies in {counted(len(parts), 'folder', 'folders')}, and it"
                f" cannot be told which are classes. Call a folder of images of two classes"
                f' "cat,dog". Or w{_CURE.format(path)[1:]}'
            )
        words = [word for part in parts for word in _words(part, known)]
        rows.append(Row(path, path, tuple(dict.fromkeys(words)), split=split))
    rows, copies = _without_copies(root, rows)
    notices = [f"{root}: one folder per class; labels are the names of the folders."]
    if copies:
        notices.append(
            f"{counted(copies, 'copy', 'copies')} of images in other folders: each image is used"
            " once, under its first name, with the labels of all its folders."
        )
    return LabelRows(root, tuple(rows), notices=tuple(notices))


def _words(folder: str, known: Collection[str]) -> list[str]:
    if class_key(folder) in known:
        return [folder]
    return [word for part in re.split(r"[,;|]", folder) if (word := part.strip())]


def _without_copies(root: Path, rows: Sequence[Row]) -> tuple[list[Row], int]:
    """Each content once, with the words of all its copies; and how many were left out.

    Contents are read only where sizes are the same.
    """
    by_size = defaultdict(list)
    for number, row in enumerate(rows):
        by_size[(root / row.image).stat().st_size].append(number)
    merged = dict(enumerate(rows))
    for numbers in by_size.values():
        first: dict[str, int] = {}
        for number in numbers if numbers[1:] else ():
            at = first.setdefault(content_digest(root / rows[number].image), number)
            if at == number:
                continue
            one, other = merged[at], rows[number]
            words = tuple(dict.fromkeys((*one.words, *other.words)))
            if one.split != other.split:
                raise LabelsError(
                    f"{root}: {quoted(other.image)} is a copy of {quoted(one.image)}, and they are"
                    " in different splits. Remove one."
                )
            merged[at] = Row(one.place, one.image, words, split=one.split)
            del merged[number]
    return [*merged.values()], len(rows) - len(merged)
