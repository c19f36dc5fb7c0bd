"""Look up listed images on disk, by one listing per folder and no look at each image."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ssrseg.data.files import user_path
from ssrseg.data.naming import coco_number, match_masks, sample_name
from ssrseg.data.walk import SUFFIXES, list_images
from ssrseg.errors import DataError

_DEEPEST = 100  # folders


class ImageFinder:
    """Finds files below a folder although their names are spelled a little differently there."""

    def __init__(self, root: Path) -> None:
        """Nothing is listed yet."""
        self._root = root
        self._listings: dict[str, _Listing | None] = {}

    def find(self, path: str, *, numbered: bool = False) -> str | None:
        """The path below the root as it is on disk, or None; ``/`` between folders.

        The very name wins. Else one may differ in the form of its accents (macOS writes "ä" as two
        characters) or in upper and lower case of the suffix, if no other file does so too; with
        ``numbered`` COCO's number alone is enough.
        """
        folder, _, name = path.rpartition("/")
        found = self._folder(folder)
        listing = None if found is None else self._listing(found)
        actual = listing.find(name, numbered) if listing else None
        return f"{found}/{actual}" if actual and found else actual

    def names(self, folder: str) -> set[str]:
        """What lies in a folder below the root."""
        listing = self._listing(folder)
        return listing.names if listing else set()

    def _folder(self, folder: str) -> str | None:
        """The folder as it is on disk, perhaps with other accents."""
        if not folder or self._listing(folder) is not None:
            return folder
        return self.find(folder) if folder.count("/") < _DEEPEST else None

    def _listing(self, folder: str) -> _Listing | None:
        if folder not in self._listings:
            try:
                self._listings[folder] = _Listing(os.listdir(self._root / folder))
            except (OSError, ValueError):
                self._listings[folder] = None
        return self._listings[folder]


class _Listing:
    """The names in one folder."""

    def __init__(self, names: list[str]) -> None:
        self.names = set(names)
        self._alike: dict[str, list[str]] = defaultdict(list)
        self._numbers: dict[str, list[str]] = defaultdict(list)
        for name in names:
            self._alike[_alike(name)].append(name)
            number = coco_number(os.path.splitext(name)[0])
            if number and name.lower().endswith(SUFFIXES):
                self._numbers[number[0]].append(name)

    def find(self, name: str, numbered: bool) -> str | None:
        if name in self.names:
            return name
        near = self._alike.get(_alike(name), [])
        number = coco_number(os.path.splitext(name)[0])
        if not near and numbered and number:
            near = [
                other
                for other in self._numbers.get(number[0], ())
                if not (number[1] and (coco_number(os.path.splitext(other)[0]) or ("", ""))[1])
            ]
        return near[0] if len(near) == 1 else None


def _alike(name: str) -> str:
    stem, suffix = os.path.splitext(unicodedata.normalize("NFC", name))
    return stem + suffix.lower()


def images_like(names: Iterable[str], images: Path, *, skip: Path) -> dict[str, Path]:
    """Photographs below a folder, by the name of the mask that is theirs.

    Args:
        skip: Folder of the masks, which is not looked into.

    Raises:
        DataError: If two photographs have the same name up to the suffix, or there is none.
    """
    images = user_path(images, "photographs")
    listed = list_images(images, skip=skip).images
    here = Path(os.path.abspath(images))
    folder = here if here.is_dir() else here.parent
    by_name: dict[str, Path] = {}
    for each in (Path(os.path.abspath(path)) for path in listed):
        name = sample_name(each.relative_to(folder).as_posix())
        if by_name.setdefault(name, each) != each:
            raise DataError(
                f"{folder} holds both {by_name[name].name} and {each.name}, photographs of the"
                " same name up to the suffix. Remove one."
            )
    found, _ = match_masks(names, by_name, lambda: names)
    return found
