"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        # some writers (safetensors) make files that only their owner may read
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
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
