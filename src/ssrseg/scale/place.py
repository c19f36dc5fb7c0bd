"""Folders that lie on a disk or in a store behind an address (s3://, gs://, memory://, ...)."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import fsspec

from ssrseg.data.files import user_path, write_text, writing
from ssrseg.errors import DataError, OutputError, PackageError, SSRError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_AT_ONCE = 16  # requests to a store that wait for each other's answers


def is_address(where: object) -> bool:
    """Whether something is no path but an address that fsspec knows."""
    return isinstance(where, str) and _ADDRESS.match(where) is not None


@runtime_checkable
class Place(Protocol):
    """A folder; names of files in it are paths below it, ``/`` between folders.

    Whatever is written appears whole or not at all. OutputError where nothing can be written.
    """

    @property
    def local(self) -> Path | None:
        """The folder, if it is one of this machine."""

    def __str__(self) -> str: ...

    def read_text(self, name: str) -> str | None:
        """Text of a file; None if there is no such file."""

    def write_text(self, name: str, text: str) -> None:
        """Write a file in UTF-8; names of files keep their bytes."""

    def folders(self, below: str) -> list[str]:
        """Names of the folders in a folder, sorted; none if it is not there."""

    def sizes(self, below: str) -> dict[str, int]:
        """Bytes of all files in a folder, by their paths below it; none if it is not there."""

    def move(self, names: Mapping[str, str]) -> Iterator[str]:
        """Move files to new names, which are replaced; each name when it is done."""

    def put(self, folder: Path, below: str) -> None:
        """Write the files of a folder of this machine into a folder here."""

    def remove(self, name: str) -> None:
        """Remove a file or a folder with all that is in it, if it is there."""


def place(where: str | Path) -> Place:
    """The folder at a path or an address.

    Raises:
        DataError: If it is neither.
        PackageError: If the package for this kind of address is not installed.
    """
    if isinstance(where, str) and is_address(where):
        return _Store(where)
    return _Folder(user_path(where, "masks"))


class _Folder:
    """On a disk."""

    def __init__(self, local: Path) -> None:
        self.local = local

    def __str__(self) -> str:
        return str(self.local)

    def read_text(self, name: str) -> str | None:
        try:
            return (self.local / name).read_text("utf-8", "surrogateescape")
        except FileNotFoundError:
            return None

    def write_text(self, name: str, text: str) -> None:
        write_text(self.local / name, text)

    def folders(self, below: str) -> list[str]:
        root = self.local / below
        return sorted(path.name for path in root.glob("*") if path.is_dir())

    def sizes(self, below: str) -> dict[str, int]:
        root, found = self.local / below, {}
        for parent, _, names in os.walk(root):
            for name in names:
                file = Path(parent, name)
                found[file.relative_to(root).as_posix()] = file.stat().st_size
        return found

    def move(self, names: Mapping[str, str]) -> Iterator[str]:
        made: set[Path] = set()
        for name, target in names.items():
            there = self.local / target
            with writing(there):
                if there.parent not in made:
                    there.parent.mkdir(parents=True, exist_ok=True)
                    made.add(there.parent)
                os.replace(self.local / name, there)
            yield name

    def put(self, folder: Path, below: str) -> None:
        with writing(self.local / below):
            shutil.copytree(folder, self.local / below, dirs_exist_ok=True)

    def remove(self, name: str) -> None:
        path = self.local / name
        with writing(path):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


class _Store:
    """Behind an address."""

    local = None

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.fs, root = store_of(self.address)
        self.root = root.rstrip("/")

    def __str__(self) -> str:
        return self.address

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}"

    def read_text(self, name: str) -> str | None:
        with reaching(f"{self}/{name}"):
            try:
                content = self.fs.cat_file(self._at(name))
            except FileNotFoundError:
                return None
        return bytes(content).decode("utf-8", "surrogateescape")

    def write_text(self, name: str, text: str) -> None:
        with reaching(f"{self}/{name}", OutputError):
            self.fs.pipe_file(self._at(name), text.encode("utf-8", "surrogateescape"))

    def folders(self, below: str) -> list[str]:
        with reaching(f"{self}/{below}"):
            self.fs.invalidate_cache()
            try:
                there = self.fs.ls(self._at(below), detail=True)
            except FileNotFoundError:
                return []
        names = (each["name"].rstrip("/") for each in there if each["type"] == "directory")
        return sorted(name.rpartition("/")[2] for name in names)

    def sizes(self, below: str) -> dict[str, int]:
        root = self._at(below)
        with reaching(f"{self}/{below}"):
            return sizes_below(self.fs, root)

    def move(self, names: Mapping[str, str]) -> Iterator[str]:
        def move(pair: tuple[str, str]) -> str:
            with reaching(f"{self}/{pair[1]}", OutputError):
                self.fs.cp_file(self._at(pair[0]), self._at(pair[1]))
                self.fs.rm_file(self._at(pair[0]))
            return pair[0]

        yield from at_once(move, names.items())

    def put(self, folder: Path, below: str) -> None:
        def put(file: Path) -> None:
            name = f"{below}/{file.relative_to(folder).as_posix()}"
            with reaching(f"{self}/{name}", OutputError):
                self.fs.put_file(str(file), self._at(name))

        for _ in at_once(put, (file for file in folder.rglob("*") if file.is_file())):
            pass

    def remove(self, name: str) -> None:
        with reaching(f"{self}/{name}", OutputError):
            if self.fs.exists(self._at(name)):
                self.fs.rm(self._at(name), recursive=True)


def store_of(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it.

    Raises:
        PackageError: If its package is not installed.
        DataError: If there is no such kind of address.
    """
    try:
        return fsspec.url_to_fs(address)
    except ImportError as error:
        raise PackageError(
            f"{address} needs a package that is not installed ({error}). For s3:// install"
            " 'ssrseg[remote]'."
        ) from error
    except ValueError as error:
        raise DataError(
            f"{address} cannot be reached ({error}). Addresses are s3://, gs:// and what else"
            " fsspec knows; give a path for a folder of this machine."
        ) from error


def sizes_below(fs: Any, root: str) -> dict[str, int]:
    """Bytes of all files below a folder of a store, by their paths below it, sorted."""
    fs.invalidate_cache()  # others write there, too
    found = fs.find(root, detail=True)
    return {
        path.removeprefix(root).lstrip("/"): int(about["size"] or 0)
        for path, about in sorted(found.items())
    }


def at_once(work: Any, items: Iterable[Any]) -> Iterator[Any]:
    """What ``work`` makes of each, in order, some at a time."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        waiting: list[Any] = []
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 4 * _AT_ONCE:
                yield waiting.pop(0).result()
        for each in waiting:
            yield each.result()


@contextmanager
def reaching(address: str, error: type[SSRError] = DataError) -> Iterator[None]:
    """Say in one paragraph what a store has answered.

    Raises:
        SSRError: ``error``, for whatever the client of the store raises.
    """
    try:
        yield
    except SSRError:
        raise
    except Exception as fault:  # every client has errors of its own
        reason = " ".join(str(fault).split()) or type(fault).__name__
        raise error(
            f"{address} cannot be reached ({reason}). Check the address, the network and the"
            " credentials; the same command goes on from there."
        ) from fault
