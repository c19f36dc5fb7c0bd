"""JSON that others wrote: plain values, and one kind of error whatever is wrong with it."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any, NoReturn

from ssrseg.errors import SSRError

_LONGEST = 1 << 32  # bytes of a file; COCO's annotations have 0.4 billion


class JsonError(SSRError):
    """What is wrong with a text that should be JSON, as a clause; who reads it says of which."""


def read_json(path: Path, *, nan: bool = False, unique: bool = False) -> Any:
    """The value in a file; ``nan`` and ``unique`` as for ``parse_json``.

    Raises:
        JsonError: If it cannot be read, or is not JSON as ``parse_json`` takes it.
    """
    try:
        if path.stat().st_size > _LONGEST:
            raise JsonError("it has more than 4 GB")
        return parse_json(path.read_bytes(), nan=nan, unique=unique)
    except OSError as error:
        raise JsonError(f"it cannot be read: {error.strerror}") from error


def parse_json(text: str | bytes, *, nan: bool = False, unique: bool = False) -> Any:
    """The value that a text describes.

    Args:
        nan: Let NaN and Infinity through, for who can name the place where they stand.
        unique: Refuse an object that has a key twice; else the later one counts.

    Raises:
        JsonError: If it is not JSON in UTF-8 (or UTF-16 with a byte order mark), is nested too
            deep, or holds NaN, Infinity or a number of more than 4,300 digits.
    """
    try:
        if isinstance(text, bytes):
            wide = text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            text = text.decode("utf-16" if wide else "utf-8-sig")
        hook = _unique if unique else None
        return json.loads(text, parse_constant=None if nan else _refuse, object_pairs_hook=hook)
    except UnicodeDecodeError as error:
        raise JsonError(f"byte {error.start} is not UTF-8") from error
    except RecursionError as error:
        raise JsonError("its lists and tables lie too deep in each other") from error
    except (ValueError, MemoryError) as error:
        raise JsonError(" ".join(str(error).split()) or type(error).__name__) from error


def _refuse(constant: str) -> NoReturn:
    raise JsonError(f"{constant} is no number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise JsonError(f'"{key[:80]}" is there twice')
        found[key] = value
    return found
