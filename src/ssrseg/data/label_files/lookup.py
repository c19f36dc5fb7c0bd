"""Which image on disk a row of a label file means."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection
from itertools import takewhile
from pathlib import Path, PurePosixPath, PureWindowsPath

from ssrseg.data.find_images import ImageFinder
from ssrseg.data.label_files.rows import Row
from ssrseg.data.naming import IMAGE_FOLDERS, name_fault
from ssrseg.data.text import nearest, quoted
from ssrseg.data.walk import SUFFIXES, list_images
from ssrseg.errors import DataError

_UPLOAD = "/data/upload/"


def images_below(root: Path) -> list[str]:
    """Paths of the images below a folder, sorted; without those in results of ours."""
    try:
        files = list_images(root).images
    except DataError:  # none
        return []
    results: dict[Path, bool] = {root: False}

    def is_result(folder: Path) -> bool:
        if folder not in results:
            holds = all((folder / each).is_file() for each in ("manifest.csv", "classes.txt"))
            results[folder] = holds or is_result(folder.parent)
        return results[folder]

    return [file.relative_to(root).as_posix() for file in files if not is_result(file.parent)]


class ImagesOf:
    """The images below a folder that rows name by their paths, or by the ends of them."""

    def __init__(self, root: Path) -> None:
        """Nothing is listed yet."""
        self._root = root
        self._finder = ImageFinder(root)
        self._by_end: dict[str, list[str]] | None = None
        self.by_end = 0  # how many were found so, addresses aside

    def find(self, row: Row, faults: Collection[object] = ()) -> tuple[str | None, str]:
        """The path below the root as it is on disk, and what is wrong if there is none.

        ``faults`` came before: after many, no near name is searched for.
        """
        problems = []
        for image in row.also or (row.image,):
            found, wrong = self._find(image, row, faults)
            if found is not None:
                return found, ""
            problems.append(wrong)
        return None, next((each for each in problems if each.startswith("may")), problems[0])

    def _find(self, written: str, row: Row, faults: Collection[object]) -> tuple[str | None, str]:
        image = PurePosixPath(PureWindowsPath(written).as_posix())
        if row.loose:
            image = PurePosixPath(*(part for part in image.parts if part not in ("/", "..", ".")))
        fault = name_fault(image.as_posix() if image.name else "", in_text=True)
        if not row.loose and (PureWindowsPath(written).anchor or ".." in image.parts):
            return None, f"is not below {self._root}. Write paths relative to that folder."
        if fault:
            return None, f"cannot be: the path {fault}. Write it anew."
        places = self._at(image, row.folder)
        if len(places) > 1:
            return None, _may_be(places, self._root)
        found = places[0] if places else None
        # Label Studio uploads "a (1).jpg" as "a_1.jpg", which may be another image here
        others = self._ending(image, loose=True) if found and _UPLOAD in row.image else []
        if len(others) > 1:
            return None, _may_be(others, self._root)
        if found is not None:
            return found, ""
        if "\\" in written and self._at(PurePosixPath(written), row.folder):
            return None, (
                'has "\\" in its name on disk, which separates folders here. Rename the file.'
            )
        ends = self._ending(image, loose=row.loose)
        if len(ends) == 1:
            self.by_end += not row.loose
            return ends[0], ""
        if ends:
            return None, _may_be(ends, self._root)
        folder = PurePosixPath(row.folder, image.parent)
        near = nearest(image.name, self._finder.names(folder.as_posix()), faults)
        return None, f"does not exist in {self._root}.{near}"

    def _at(self, image: PurePosixPath, folder: str) -> list[str]:
        """At that path, or else below the folders that images usually lie in."""
        for base in dict.fromkeys((folder, "")):
            here = self._file(PurePosixPath(base, image))
            inner = (self._file(PurePosixPath(base, each, image)) for each in IMAGE_FOLDERS)
            if found := [here] if here else [each for each in inner if each]:
                return found
        return []

    def _file(self, path: PurePosixPath) -> str | None:
        found = self._finder.find(path.as_posix())
        is_folder = path.suffix.lower() not in SUFFIXES and found and (self._root / found).is_dir()
        return None if is_folder else found

    def _ending(self, image: PurePosixPath, *, loose: bool) -> list[str]:
        """Images anywhere below the root whose paths end alike; the suffix may be left out."""
        if self._by_end is None:
            self._by_end = defaultdict(list)
            for path in images_below(self._root):
                name = path.rpartition("/")[2]
                for key in dict.fromkeys((_alike(name), _alike(_stem(path)), as_uploaded(name))):
                    self._by_end[key].append(path)
        key = as_uploaded(image.name) if loose else _alike(image.name)
        found = self._by_end.get(key, [])
        folders = [_alike(part) for part in image.parent.parts]
        common = {path: _common_end(folders, path) for path in found}
        if not loose:
            return [path for path in found if common[path] == min(len(folders), path.count("/"))]
        return [path for path in found if common[path] == max(common.values())]


def _may_be(paths: list[str], root: Path) -> str:
    return f"may be {quoted(paths[0])} or {quoted(paths[1])}. Write the path below {root}."


def _common_end(folders: list[str], path: str) -> int:
    """How many folders before the name are the same."""
    there = [_alike(part) for part in path.split("/")[:-1]]
    pairs = zip(reversed(folders), reversed(there), strict=False)
    return len([*takewhile(lambda pair: pair[0] == pair[1], pairs)])


def as_uploaded(name: str) -> str:
    """A name as Label Studio keeps it: no blanks, and few signs."""
    return "\0" + re.sub(r"[^-\w.]", "", _alike(name).strip().replace(" ", "_"))


def _stem(path: str) -> str:
    return os.path.splitext(path.rpartition("/")[2])[0]


def _alike(name: str) -> str:
    """The same for names that differ in the form of accents or the case of the suffix alone."""
    stem, suffix = os.path.splitext(unicodedata.normalize("NFC", name))
    return stem + (suffix.lower() if suffix.lower() in SUFFIXES else suffix)
