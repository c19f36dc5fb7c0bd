"""Names of samples: what each is called, and which mask or which line of a list means it.

A name is made of the image's own path alone, so that it stays when other images are added.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

IMAGE_FOLDERS = ("JPEGImages", "images")
"""Folders of a data set that names begin below."""

_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")
_UNPRINTABLE = re.compile("[\x01-\x1f\x7f-\x9f\u2028\u2029]")
# \udc80 .. \udcff are bytes of a file name that is not UTF-8
_NO_FILE_HAS = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")
_COCO_STEM = re.compile(r"(?:COCO_([a-z]+)[0-9]{4}_)?([0-9]{12})", re.ASCII)
_COCO_FOLDER = re.compile(r"(train|val|test)20[0-9]{2}", re.ASCII)


def sample_name(image: str) -> str:
    """Name of an image, by its path below the data set's folder, ``/`` between folders.

    The suffix is left out, and so is ``JPEGImages`` or ``images`` at the beginning.
    """
    folder, _, below = image.partition("/")
    return os.path.splitext(below if below and folder in IMAGE_FOLDERS else image)[0]


def name_fault(name: str, *, in_text: bool = False) -> str:
    """Why results cannot be written under a name, or why it is no path below a folder; or ''.

    ``in_text``: it stands in a text file, where a line break or a terminal's escape is a slip,
    although files may be called so.
    """
    if not name.strip():
        return "is empty"
    if _NO_FILE_HAS.search(name) or (in_text and _UNPRINTABLE.search(name)):
        return "holds a line break or another control character"
    if _ABSOLUTE.match(name):
        return "is an absolute path"
    if any(part in ("..", ".", "") for part in name.split("/")):
        return 'has an empty part, "." or ".." in it'
    return ""


def coco_number(stem: str) -> tuple[str, str] | None:
    """Twelve digits and split of a name that COCO gave: COCO_train2014_000000000009, or digits."""
    found = _COCO_STEM.fullmatch(stem)
    return (found[2], found[1] or "") if found else None


class Names:
    """Names, and which of them a shorter or longer path means."""

    def __init__(self, names: Iterable[str]) -> None:
        """Index ``names`` by their last part."""
        self.exact = set(names)
        self._by_last: dict[str, list[str]] = defaultdict(list)
        for name in sorted(self.exact):
            self._by_last[_last(name)].append(name)

    def like(self, path: str) -> list[str]:
        """Names that end like ``path``, or the other way round; the very name if it is there.

        ``a`` and ``train/a`` end alike, ``val/a`` and ``train/a`` do not. COCO's images may bear
        their number alone, and their folders the split without the year.
        """
        if path in self.exact:
            return [path]
        return [name for name in self._by_last.get(_last(path), ()) if _end_alike(name, path)]


def _last(path: str) -> str:
    stem = path.rpartition("/")[2]
    number = coco_number(stem)
    return number[0] if number else stem


def _end_alike(one: str, other: str) -> bool:
    *folders, stem = one.split("/")
    *other_folders, other_stem = other.split("/")
    number, other_number = coco_number(stem), coco_number(other_stem)
    if number and other_number:  # the same digits; a split that both name must be the same
        if number[1] and other_number[1] and number != other_number:
            return False
    elif stem != other_stem:
        return False
    pairs = zip(reversed(folders), reversed(other_folders), strict=False)
    return all(_COCO_FOLDER.sub(r"\1", a) == _COCO_FOLDER.sub(r"\1", b) for a, b in pairs)


def match_masks(
    names: Iterable[str], masks: Mapping[str, Path], everyone: Callable[[], Iterable[str]]
) -> tuple[dict[str, Path], list[str]]:
    """The mask of each name, and names for which it cannot be told which mask is theirs.

    A mask is called like its image, or ends alike where no other mask and no other image does.

    Args:
        names: Names of the images wanted.
        masks: Masks by name, as ``find_masks`` returns them.
        everyone: Gives the names of all images of the data set; asked only where it matters.
    """
    wanted = set(names)
    found = {name: masks[name] for name in wanted if name in masks}
    others = Names(name for name in masks if name not in wanted)
    rest = [name for name in sorted(wanted - found.keys()) if others.like(name)]
    if not rest:
        return found, []
    images = Names(everyone())
    others = Names(name for name in masks if name not in images.exact)
    ambiguous = []
    for name in rest:
        near = others.like(name)
        if len(near) == 1 and images.like(near[0]) == [name]:
            found[name] = masks[near[0]]
        elif near:
            ambiguous.append(name)
    return found, ambiguous
