"""Tensors kept from an earlier call, which can be made again."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

UNREADABLE = (OSError, SafetensorError, ValueError, LookupError, RuntimeError, MemoryError)
"""What safetensors raises on files that are absent or damaged."""


def kept_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a file by name; none if it is absent, damaged, or not all finite."""
    try:
        found = load_file(path)
        return found if all(bool(each.isfinite().all()) for each in found.values()) else {}
    except UNREADABLE:
        return {}
