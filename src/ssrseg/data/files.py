"""Files appear whole or not at all, and a folder that results go into has one writer."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from ssrseg.errors import DataError, OutputError, SSRError
from ssrseg.safe_json import JsonError, read_json

_UMASK = os.umask(0)  # once: to ask is to set it, for all threads
os.umask(_UMASK)

_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp(\..*)?")
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_SCRATCH = re.compile(rf"(ssrseg-{_HOST}-(\d+)-[0-9a-f]{{8}})-.+")
_mine: set[str] = set()  # temporary files and folders that threads of this process use
_LOCK, _WRITER = ".lock", ".writer"
_ORPHANS = 30.0  # seconds in which the loaders of a killed run notice that it is gone
_STALE = 3600.0  # seconds after which a temporary file of another machine belongs to nobody


def user_path(path: object, what: str, error: type[SSRError] = DataError) -> Path:
    """A path as somebody gave it, with ``~`` for their home.

    Raises:
        SSRError: ``error``, if it is empty, or no path at all; ``what`` says of what it should be.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise error(f"the path of {what} is {path!r}, but text or a pathlib.Path is expected.")
    if not str(path).strip():
        raise error(f'the path of {what} is empty (""). Name a file or a folder.')
    if "\0" in str(path):
        raise error(f"the path of {what} is {str(path)!r}, which holds a zero byte. Mend it.")
    return Path(os.path.expanduser(path))


def has_content(path: Path) -> bool:
    """True for a file that is there and not empty; a link that leads nowhere is none."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def content_digest(path: Path) -> str:
    """A name for what is in a file, whatever its own name: 16 hexadecimal digits of SHA-256.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except FileNotFoundError as error:
        cure = "Check the path, or copy the file there."
        raise DataError(f"{path} does not exist. {cure}") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}). Copy it again, or remove it from"
            " the data."
        ) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say what is wrong with the disk, in one paragraph and with the path.

    Raises:
        OutputError: For every OSError of the block, those of numpy and safetensors included, which
            have no number.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(
            f"{path} cannot be written ({reason}). Make room or permission there, or choose another"
            " folder. What was written before is whole; the same command goes on from there."
        ) from error


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` and rename it to ``path`` if the block succeeds.

    The folder is made, and the suffix is the same. The data are on the disk before the name is.

    Raises:
        OutputError: If the disk does not take it.
    """
    # a name of its own: that of ``path`` may be as long as a name can be
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    writer = f"{_HOST}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".{name}.{writer}.tmp{path.suffix[:32]}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _mine.add(temporary.name)
        try:
            yield temporary
            # some writers (safetensors) make files that only their owner may read
            temporary.chmod(0o666 & ~_UMASK)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            _mine.discard(temporary.name)


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8, whole or not at all; names of files keep their bytes."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")


def write_json(path: Path, table: Any) -> None:
    """Write ``table`` as indented JSON, whole or not at all.

    ValueError if a number is nan or infinite, which JSON does not have.
    """
    text = json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # the bytes of a name that is not UTF-8, as JSON can hold them
    write_text(path, re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text))


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Make the folder, let nobody else write into it, and sweep what killed writers have left.

    The operating system frees the lock when its holder ends, however it ends. Where the file system
    knows no locks, the file itself is the lock.

    Raises:
        OutputError: If another process or thread writes there; it says which, and since when.
    """
    lock, writer = FileLock(folder / _LOCK, timeout=0), folder / _WRITER
    if not folder.is_dir() and os.path.lexists(folder):
        raise OutputError(
            f"{folder} is no folder, but one is expected here. Choose another one (--out), or move"
            " away what is there."
        )
    with writing(folder / _LOCK):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            holder = _holder(writer)
            here = holder.get("host") == socket.gethostname()
            try:
                lock.acquire(timeout=_ORPHANS if here and not _is_alive(holder["pid"]) else 0)
            except Timeout:
                said = "another process"
                if holder:
                    said = "process {pid} on {host} since {since} ({command})".format(**holder)
                raise OutputError(
                    f"{folder} is being written by {said}. Wait until it has finished, stop it, or"
                    " choose another folder (--out)."
                ) from None
    try:
        with writing(writer):
            sweep(folder)
            command = " ".join(["ssrseg", *sys.argv[1:]]) if sys.argv else ""
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
            writer.write_text(json.dumps(holder | {"command": command[:200]}), encoding="utf-8")
        yield
    finally:
        for file in (writer, folder / _LOCK):  # whoever waits for the latter opens it anew
            with suppress(OSError):
                file.unlink(missing_ok=True)
        lock.release()


def sweep(folder: Path) -> None:
    """Remove temporary files of runs that were killed; those of runs that go on stay."""
    for parent, _, names in os.walk(folder):
        for name in names:
            found = _TEMPORARY.fullmatch(name)
            if found is not None:
                file = Path(parent, name)
                with suppress(OSError):
                    if not _is_written(found[1], int(found[2]), name) or _age(file) > _STALE:
                        file.unlink()


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A temporary folder; those of processes of this machine that were killed are removed.

    On Windows, where nobody tells whether a process lives, they stay.
    """
    for folder in Path(tempfile.gettempdir()).iterdir():
        found = _SCRATCH.fullmatch(folder.name)
        if found is not None and not _is_written(_HOST, int(found[2]), found[1]):
            shutil.rmtree(folder, ignore_errors=True)
    name = f"ssrseg-{_HOST}-{os.getpid()}-{secrets.token_hex(4)}"
    _mine.add(name)
    return tempfile.TemporaryDirectory(prefix=f"{name}-")


def _is_written(host: str, pid: int, name: str) -> bool:
    """Whether a temporary file may still have its writer."""
    if host == _HOST and pid == os.getpid():  # or a process of that number before us
        return name in _mine
    return host != _HOST or _is_alive(pid)


def _age(file: Path) -> float:
    return time.time() - file.stat().st_mtime


def _holder(writer: Path) -> dict[str, Any]:
    """Who has said that it writes into a folder; empty if nothing says it."""
    try:
        found = read_json(writer)
    except JsonError:
        return {}
    keys = {"pid", "host", "since", "command"}
    return found if isinstance(found, dict) and keys <= found.keys() else {}


def _is_alive(pid: object) -> bool:
    """True for a process of this machine, and where it cannot be known."""
    if os.name == "nt" or type(pid) is not int or pid <= 0:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
