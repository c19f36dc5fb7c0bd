"""Which files of a folder are images, by their names, and which are passed over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ssrseg.data.files import user_path
from ssrseg.errors import DataError, counted, did_you_mean

SUFFIXES = (
    ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jfif", ".jp2", ".jpe",
    ".jpeg", ".jpg", ".jpx", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif",
    ".tiff", ".webp",
)  # fmt: skip
"""Suffixes of photographs, in small letters; files may have them in capitals."""

_OURS = ("masks", "confidence", "report")  # folders with pictures that are results
_TRUTHS = ("SegmentationClass", "SegmentationObject")  # VOC's masks; ...Aug too
_RESULTS = ("manifest.csv", "classes.txt")  # beside the folder ``masks`` of a run


@dataclass(frozen=True)
class ListedImages:
    """What a folder holds.

    Attributes:
        images: Sorted.
        passed_over: Number of other files by suffix; hidden files and folders are not counted.
        masks: Folders of masks, which were not looked into.
    """

    images: list[Path]
    passed_over: Counter[str] = field(default_factory=Counter)
    masks: list[Path] = field(default_factory=list)

    def __str__(self) -> str:
        """What was passed over: ``3 other files (2 .txt, 1 without suffix)``, or nothing."""
        parts = []
        if self.passed_over:
            kinds = [f"{count} {suffix}" for suffix, count in self.passed_over.most_common()]
            shown = ", ".join(kinds[:8]) + (", ..." if len(kinds) > 8 else "")
            files = counted(self.passed_over.total(), "other file", "other files")
            parts.append(f"{files} ({shown})")
        if self.masks:
            folders = counted(len(self.masks), "folder of masks", "folders of masks")
            parts.append(f"{folders} ({'such as ' if self.masks[1:] else ''}{self.masks[0]})")
        return " and ".join(parts)


def list_images(path: Path | str, *, skip: Path | None = None) -> ListedImages:
    """Images at ``path``: the file itself whatever its suffix, or all in the folder.

    Subfolders are searched too, and linked ones once; hidden files and folders are passed over
    (macOS leaves ``._photo.jpg`` beside ``photo.jpg``). So are folders of masks, which are no
    photographs: ``masks``, ``confidence`` and ``report`` in results of ours, and those of VOC.

    Args:
        skip: A folder that is not looked into: results go there.

    Raises:
        DataError: If nothing is there, a folder may not be read, or none of it is an image.
    """
    path = user_path(path, "images")
    if path.is_file():
        return ListedImages([path])
    if not path.is_dir():
        raise DataError(
            f"{path} does not exist.{nearest_sibling(path)} Give an image or a folder of images."
        )
    found = ListedImages([])

    def is_left_out(folder: Path) -> bool:
        if skip is not None and _identity(folder) == _identity(skip):
            return True
        if not any(map(_holds_masks, (folder, Path(_identity(folder))))):
            return False
        found.masks.append(folder)
        return True

    for file in files_below(path, is_left_out):
        if file.name.lower().endswith(SUFFIXES):
            found.images.append(file)
        else:
            found.passed_over[file.suffix.lower() or "without suffix"] += 1
    if not found.images:
        raise DataError(
            f"{path} holds no image{f', but {found}' if str(found) else ''}. Images are known by"
            f" their suffix: {', '.join(SUFFIXES)}."
        )
    return found


def _holds_masks(folder: Path) -> bool:
    ours = folder.name in _OURS and all((folder.parent / each).is_file() for each in _RESULTS)
    return ours or folder.name.startswith(_TRUTHS)


def files_below(
    folder: Path, is_left_out: Callable[[Path], bool] = lambda _: False
) -> Iterator[Path]:
    """Files below a folder, sorted, without hidden ones and what is in hidden folders.

    A linked folder is entered once, under the first name in the alphabet, unless it is reached
    without a link too or holds ``folder`` itself. ``is_left_out`` is asked of every folder below.
    """
    root = Path(_identity(folder))
    seen: set[str] = set()
    found, links = _walk(folder, seen, is_left_out)
    while links:
        link = links.pop(0)
        if root.is_relative_to(_identity(link)):
            continue
        more, inner = _walk(link, seen, is_left_out)
        found += more
        links = sorted([*links, *inner])
    yield from sorted(found, key=lambda file: file.as_posix())


def _walk(
    folder: Path, seen: set[str], is_left_out: Callable[[Path], bool]
) -> tuple[list[Path], list[Path]]:
    """Files and linked folders below; folders in ``seen`` are not entered, others are added."""
    files: list[Path] = []
    links: list[Path] = []
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        if _identity(here) in seen:
            continue
        seen.add(_identity(here))
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(
                f"folder {here} cannot be read ({error.strerror}). Change its permissions, or"
                " move it out of the data."
            ) from error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link to itself: whoever reads it says so
                is_folder = False
            if not is_folder:
                files.append(here / entry.name)
            elif is_left_out(here / entry.name):
                continue
            elif entry.is_symlink():
                links.append(here / entry.name)
            else:
                waiting.append(here / entry.name)
    return files, sorted(links)


def _identity(folder: Path) -> str:
    return os.path.realpath(folder)


def nearest_sibling(path: Path) -> str:
    """What to append to "does not exist": a name like it, or that its folder is not there."""
    if not path.parent.is_dir():
        return f" Nor does its folder {path.parent}."
    return did_you_mean(path.name, os.listdir(path.parent))
