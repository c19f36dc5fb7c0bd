"""Images in packed files and in stores; found without any library of tensors."""

from __future__ import annotations

import re
from pathlib import Path

from ssrseg.data.files import user_path
from ssrseg.data.walk import SUFFIXES
from ssrseg.errors import DataError
from ssrseg.scale.place import is_address, reaching, sizes_below, store_of

_PACKED = (".tar", ".tar.gz", ".tgz", ".parquet")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


def is_beyond_a_folder(data: str | Path) -> bool:
    """Whether images lie in a store or in packed files, and have to be brought here first."""
    return is_address(data) or bool(packed_files(str(data)))


def packed_files(data: str) -> tuple[str, ...]:
    """Packed files by their name, braces, or folder; none if it is something else.

    Raises:
        DataError: If a file of this machine is not there.
    """
    if data.endswith(_PACKED):
        found = _spelt_out(data)
        lost = [] if is_address(data) else [each for each in found if not Path(each).exists()]
        if lost:
            rest = f"{len(found) - len(lost)} of the {len(found)} files of {data} are there."
            raise DataError(f"{lost[0]} does not exist. {rest} Check the name.")
        return tuple(found)
    if is_address(data):
        fs, root = store_of(data)
        root = root.rstrip("/")
        with reaching(data):
            there = sizes_below(fs, root)
        names = [name for name in there if not name.rpartition("/")[2].startswith(".")]
        found = [f"{data.rstrip('/')}/{name}" for name in names if name.endswith(_PACKED)]
        others = any(name.lower().endswith(SUFFIXES) or "/" in name for name in names)
    else:
        folder = user_path(data, "images")
        if not folder.is_dir():
            return ()
        there_now = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
        found = [str(path) for path in there_now if path.name.endswith(_PACKED)]
        others = any(path.is_dir() or path.suffix.lower() in SUFFIXES for path in there_now)
    return tuple(found) if not others else ()


def _spelt_out(pattern: str) -> list[str]:
    """Every file of ``part-{000..009}.tar``."""
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    numbers = range(int(found[1]), int(found[2]) + 1)
    filled = (
        pattern[: found.start()] + f"{number:0{len(found[1])}d}" + pattern[found.end() :]
        for number in numbers
    )
    return [file for each in filled for file in _spelt_out(each)]
