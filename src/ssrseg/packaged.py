"""Folders inside this package, by a name that holds on every machine."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

PACKAGED = "ssrseg:"
"""Marks such a name: ``ssrseg:photos/sample``."""


def unpacked(source: str | Path) -> str:
    """A path with the places that ``ssrseg:`` and ``~`` stand for."""
    if str(source).startswith(PACKAGED):
        source = str(files("ssrseg") / str(source).removeprefix(PACKAGED))
    return os.path.expanduser(str(source))
