"""Where an export goes: nothing that is not its own is replaced, and nothing of it stays behind."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from PIL import Image, ImageOps

from ssrseg.console import printable
from ssrseg.data.decode import QUIET, UNREADABLE, orientation_of
from ssrseg.data.files import atomic_write, content_digest, write_text, writing
from ssrseg.errors import DataError, OutputError, counted
from ssrseg.export.source import Mask
from ssrseg.safe_json import JsonError, parse_json

_TURNED = ("JPEG", "MPO", "PNG", "WEBP")
"""Formats whose orientation some programs honour and others do not."""


class Output:
    """A folder that files are written into, which a hidden table lists with their digests.

    A file of the same name that is not in the table, or was changed since, is somebody's: it is
    neither replaced nor removed.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        """Look at what an earlier export of this kind has left in the folder.

        Raises:
            OutputError: If somebody has changed a file of it.
        """
        self.folder = folder
        self._table = folder / f".ssrseg-export-{kind}"
        self._earlier = _read_table(self._table)
        self._written: dict[str, str] = {}
        self.turned = 0
        changed = [place for place in self._earlier if self._is_changed(place)]
        if changed:
            files = counted(len(changed), "file", "files")
            raise OutputError(
                f"{files} of an earlier export in {folder} were changed since, such as"
                f" {printable(changed[0])}. They were left as they are: choose another folder"
                " (--out), or move them away."
            )

    @contextmanager
    def file(self, place: str) -> Iterator[Path]:
        """Give a temporary path for a file of this folder, which appears whole or not at all.

        Raises:
            OutputError: If a file of that name is there and is not ours.
        """
        path = self.folder / place
        if os.path.lexists(path) and place not in self._earlier and place not in self._written:
            raise OutputError(
                f"{path} is there already and was not written by this export. Choose another folder"
                " (--out), or move it away."
            )
        with atomic_write(path) as temporary:
            yield temporary
            digest = content_digest(temporary)
            # before the file appears: a run that is killed here must know it again
            with writing(self._table), self._table.open("a", encoding="utf-8") as table:
                table.write(_line(digest, place))
            self._written[place] = digest

    @contextmanager
    def text(self, place: str) -> Iterator[TextIO]:
        """The same as a text file in UTF-8, written piece by piece."""
        with (
            self.file(place) as path,
            path.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file,
        ):
            yield file

    def write(self, place: str, content: str | bytes) -> None:
        """Write a whole file."""
        content = (
            content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
        )
        with self.file(place) as path:
            path.write_bytes(content)

    def copy_photo(self, mask: Mask, folder: str) -> None:
        """Copy the photograph of a mask byte by byte; a turned one is saved upright instead.

        Some programs honour the orientation in EXIF data and some do not; masks are of the upright
        photograph.

        Raises:
            DataError: If it cannot be turned.
        """
        assert mask.photo is not None
        upright = _turned(mask.photo)
        with self.file(f"{folder}/{mask.file}") as path:
            if upright is not None:
                path.write_bytes(upright)
                self.turned += 1
            else:
                shutil.copyfile(mask.photo, path)

    def finish(self) -> None:
        """Remove what only the earlier export has written, and list what there is now."""
        for place in self._earlier.keys() - self._written.keys():
            path = self.folder / place
            with suppress(OSError):
                path.unlink(missing_ok=True)
                for parent in path.parents:
                    if parent == self.folder:
                        break
                    parent.rmdir()  # OSError if it is not empty
        lines = (_line(digest, place) for place, digest in sorted(self._written.items()))
        write_text(self._table, "".join(lines))

    def _is_changed(self, place: str) -> bool:
        path = self.folder / place
        return os.path.lexists(path) and (
            not path.is_file() or content_digest(path) not in self._earlier[place]
        )


def _line(digest: str, place: str) -> str:
    return json.dumps([digest, place]) + "\n"


def _read_table(path: Path) -> dict[str, set[str]]:
    """Digests that each file was written with, the later ones by runs that were stopped."""
    found: dict[str, set[str]] = defaultdict(set)
    with suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(JsonError, ValueError, TypeError):  # a line cut short by a kill
                digest, place = parse_json(line)
                if ".." not in Path(place).parts and not os.path.isabs(place):
                    found[place].add(digest)
    return dict(found)


def _turned(photo: Path) -> bytes | None:
    """An upright copy, encoded; None for a photograph that is upright."""
    try:
        with QUIET, Image.open(photo) as image:
            if image.format not in _TURNED or orientation_of(image) == 1:
                return None
            upright, encoded = ImageOps.exif_transpose(image), io.BytesIO()
            kind = "JPEG" if image.format == "MPO" else image.format
            keep = {"icc_profile": image.info.get("icc_profile"), "exif": upright.getexif()}
            lossless = {"lossless": True} if kind == "WEBP" else {"quality": 95, "subsampling": 0}
            upright.save(encoded, kind, **keep, **({} if kind == "PNG" else lossless))
            return encoded.getvalue()
    except UNREADABLE as error:
        raise DataError(
            f"{photo} cannot be turned upright ({error}). Save it upright, and make its mask anew."
        ) from error
