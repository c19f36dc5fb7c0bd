"""Masks of a folder, by name; none is opened."""

from __future__ import annotations

from pathlib import Path

from ssrseg.data.walk import files_below
from ssrseg.errors import DataError

MASK_SUFFIXES = (".bmp", ".gif", ".png", ".tif", ".tiff", ".webp")
_LOSSY_SUFFIXES = (".jpeg", ".jpg")


def find_masks(folder: Path) -> dict[str, Path]:
    """Masks below a folder, which need not exist, by path without suffix (``/`` between folders).

    Suffixes may be in capitals. A JPEG counts where no other file has its name, so that whoever
    reads it learns why it cannot be a mask.

    Raises:
        DataError: If two masks have the same name up to the suffix.
    """
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    files = list(files_below(folder))
    for suffixes in (MASK_SUFFIXES, _LOSSY_SUFFIXES):
        before = set(found)
        for file in files:
            name = file.relative_to(folder).with_suffix("").as_posix()
            if not file.name.lower().endswith(suffixes) or name in before:
                continue
            if found.setdefault(name, file) != file:
                raise DataError(
                    f"{folder} holds both {found[name].name} and {file.name}, masks of the same"
                    " name up to the suffix. Remove one."
                )
    return found
