"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssrseg.errors import DataError, SSRError

_UMASK = os.umask(0)  # once: to ask is to set it, for all threads
os.umask(_UMASK)


def user_path(path: object, what: str, error: type[SSRError] = DataError) -> Path:
    """A path as somebody gave it, with ``~`` for their home.

    Raises:
        SSRError: ``error``, if it is empty, or no path at all; ``what`` says of what it should be.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise error(f"the path of {what} is text or a pathlib.Path, not {path!r}. Give it as such.")
    if not str(path).strip():
        raise error(f'the path of {what} is empty (""). Name a file or a folder.')
    return Path(os.path.expanduser(path))


def has_content(path: Path) -> bool:
    """True for a file that is there and not empty; a link that leads nowhere is none."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` and rename it to ``path`` if the block succeeds.

    The folder is made, and the suffix is the same.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f"{os.getpid()}-{threading.get_ident()}"
    temporary = path.with_name(f".{path.stem}.{writer}.tmp{path.suffix}")
    try:
        yield temporary
        # some writers (safetensors) make files that only their owner may read
        temporary.chmod(0o666 & ~_UMASK)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, table: Any) -> None:
    """Write ``table`` as indented JSON, whole or not at all.

    ValueError if a number is nan or infinite, which JSON does not have.
    """
    write_text(path, json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
