"""SBD, the masks that turn VOC's 1,464 training images into 10,582 (``train_aug``)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from ssrseg.errors import DataError

SBD_FOLDERS = (
    "SBD",
    "benchmark_RELEASE/dataset",
    "../benchmark_RELEASE/dataset",
    "../VOCaug/dataset",
)
"""Where an unpacked SBD is looked for, from the VOC tree; the first is where we unpack it."""

_MOST = 20  # VOC's classes


def find_sbd(root: Path) -> Path | None:
    """The folder with SBD's ``train.txt``, ``val.txt`` and ``cls``, if a VOC tree has one."""
    folders = (root / folder for folder in SBD_FOLDERS)
    parts = ("train.txt", "val.txt", "cls")
    return next((each for each in folders if all((each / part).exists() for part in parts)), None)


def train_aug(voc_train: Iterable[str], voc_val: Iterable[str], sbd: Iterable[str]) -> list[str]:
    """Sorted names of the augmented training list: VOC train and all of SBD, without VOC val.

    SBD splits VOC's images in its own way, so both its lists hold images of VOC val. For the
    official lists the result has 10,582 names.
    """
    return sorted({*voc_train, *sbd} - set(voc_val))


def read_sbd(path: Path) -> UInt8[Tensor, "height width"]:
    """Class ids of an SBD mask ``cls/NAME.mat``: 0 background, 1 .. 20; no ignore.

    DataError if it cannot be read or is no SBD mask.
    """
    try:
        ids = _segmentation(path.read_bytes())
        if ids.size == 0:
            raise ValueError("GTcls.Segmentation is empty")
        if ids.min() < 0 or ids.max() > _MOST:
            raise ValueError(f"class ids from {ids.min()} to {ids.max()}, not 0 .. {_MOST}")
    except (OSError, ValueError, LookupError, struct.error, zlib.error) as error:
        raise DataError(
            f"{path} is no mask of SBD ({type(error).__name__}: {error}). Unpack benchmark.tgz"
            " again."
        ) from error
    return torch.from_numpy(ids.astype(np.uint8))


# MATLAB's format, version 5, as far as these masks need it: scipy's reader ends the whole process
# on some damaged files. Elements are a kind, a size and bytes; a matrix is made of elements.
_COMPRESSED, _MATRIX = 15, 14
_STRUCT = 2
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 12: "i8", 13: "u8"}
_LARGEST = 1 << 28  # bytes unpacked; SBD's masks have below a million


def _segmentation(content: bytes) -> np.ndarray:
    """GTcls.Segmentation of a file."""
    order = {b"IM": "<", b"MI": ">"}[content[126:128]]
    for kind, element in _elements(content[128:], order):
        if kind == _COMPRESSED:
            unpacked = zlib.decompressobj().decompress(element, _LARGEST)
            kind, element = next(_elements(unpacked, order), (0, b""))
        if kind == _MATRIX:
            flags, _, name, *parts = _elements(element, order)
            if name[1] == b"GTcls" and _class_of(flags, order) == _STRUCT:
                fields = _fields(parts, order)
                return _numbers(fields["Segmentation"], order)
    raise ValueError("it holds no GTcls")


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Kind and bytes of the elements one after the other."""
    at = 0
    while at < len(content):
        kind, size = struct.unpack_from(f"{order}2I", content, at)
        small = kind >> 16  # up to four bytes stand where others have their size
        start, size = (at + 4, small) if small else (at + 8, size)
        if start + size > len(content):
            raise ValueError("it is cut short")
        yield kind & 0xFFFF, content[start : start + size]
        at = at + 8 if small else start + size + (0 if kind == _COMPRESSED else -size % 8)


def _class_of(flags: tuple[int, bytes], order: str) -> int:
    (found,) = struct.unpack_from(f"{order}I", flags[1])
    return int(found) & 0xFF


def _fields(parts: list[tuple[int, bytes]], order: str) -> dict[str, bytes]:
    """The matrices of a struct by name."""
    (length,) = struct.unpack_from(f"{order}I", parts[0][1])
    names = parts[1][1]
    if not length:
        raise ValueError("its fields have no names")
    known = [names[at : at + length].rstrip(b"\0") for at in range(0, len(names), length)]
    return {name.decode("latin-1"): each for name, (_, each) in zip(known, parts[2:], strict=False)}


def _numbers(matrix: bytes, order: str) -> np.ndarray:
    """A matrix of integers, height x width."""
    _, (_, dims), _, (kind, values) = _elements(matrix, order)
    shape = np.frombuffer(dims, f"{order}i4")
    if len(shape) != 2 or (shape < 0).any() or kind not in _NUMBERS:
        raise ValueError("GTcls.Segmentation is no table of integers")
    return np.frombuffer(values, order + _NUMBERS[kind]).reshape(shape.tolist(), order="F")
