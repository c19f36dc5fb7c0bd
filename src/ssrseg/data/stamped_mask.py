"""Masks that say what they were made for, so that nobody takes one for that of another photograph.

A mask carries a stamp, a text chunk of its PNG: a digest of what it was made for (content of the
photograph, labels, settings, weights), and one of its own pixels. One whose pixels do not fit the
stamp, or that has none, was made or changed by a person.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ssrseg.data.class_ids import class_ids_png, pixel_counts, voc_palette
from ssrseg.data.decode import QUIET, UNREADABLE
from ssrseg.data.files import atomic_write
from ssrseg.data.png import open_png
from ssrseg.data.png_rows import PngRows, RowsPng
from ssrseg.errors import DataError

KEY = "ssrseg"
"""Name of the text chunk."""


_NOTE = "ssrseg-note"
_OURS = b"tEXtssrseg\0"
_BEGINNING = 120  # bytes in which the stamp begins
_END = b"IEND\xaeB`\x82"
_LARGE, _SAMPLE = 1 << 24, 2048  # pixels, and those a side of a sample


class MaskState(Enum):
    """What lies where a mask is wanted."""

    ABSENT = auto()
    DAMAGED = auto()
    """Cut short or no image."""
    STALE = auto()
    """Ours, made for another photograph, other labels, settings or weights."""
    DONE = auto()
    """Ours, and just what would be made now."""
    CORRECTED = auto()
    """A person's."""


def digest_of(*parts: str) -> str:
    """One name for several texts: 16 hexadecimal digits."""
    encoded = (part.encode("utf-8", "surrogateescape") for part in parts)
    return hashlib.sha256(b"".join(b"%d:" % len(text) + text for text in encoded)).hexdigest()[:16]


def write_mask(
    path: Path, ids: UInt8[Tensor, "height width"] | RowsPng, made_for: str, note: str = ""
) -> None:
    """Write class ids as an indexed PNG in VOC's colours, stamped, whole or not at all.

    Args:
        ids: They, or ``mask_rows`` that has got them row by row.
        note: Text that ``mask_note`` finds again.

    Raises:
        OutputError: If it cannot be written.
    """
    if isinstance(ids, RowsPng):
        texts = {KEY: f"{made_for} {ids.digest[:16]}"}
        ids.save(path, texts | ({_NOTE: note} if note else {}))
        return
    with atomic_write(path) as temporary:
        temporary.write_bytes(mask_png(ids, made_for, note))


def mask_png(ids: UInt8[Tensor, "height width"], made_for: str, note: str = "") -> bytes:
    """The file that ``write_mask`` writes."""
    texts = {KEY: f"{made_for} {_pixels(ids.cpu().numpy())}"}
    return class_ids_png(ids, texts | ({_NOTE: note} if note else {}))


def mask_note(path: Path) -> str:
    """The note in a mask; empty if there is none, or the file cannot be read."""
    return _text(path, _NOTE)


def mask_made_for(path: Path) -> str:
    """What a mask says that it was made for; empty if it says nothing, or cannot be read."""
    return _text(path, KEY).partition(" ")[0]


def mask_rows(size: tuple[int, int], folder: Path) -> RowsPng:
    """A mask to which rows of class ids are added in ``folder``, for ``write_mask``."""
    return RowsPng(size, folder, voc_palette())


def confidence_rows(size: tuple[int, int], folder: Path) -> RowsPng:
    """A confidence to which rows are added in ``folder``, for ``write_confidence``."""
    return RowsPng(size, folder)


def write_confidence(
    path: Path, confidence: Float[Tensor, "height width"] | RowsPng, made_for: str
) -> None:
    """Write a confidence in [0, 1] as a grey PNG, 255 = 1, stamped with what it was made for.

    Args:
        confidence: It, or a grey PNG that has got it row by row.

    Raises:
        OutputError: If it cannot be written.
    """
    if isinstance(confidence, RowsPng):
        confidence.save(path, {KEY: made_for})
        return
    chunks = PngInfo()
    chunks.add_text(KEY, made_for)
    grey = Image.fromarray((confidence.clamp(0, 1) * 255).round().byte().cpu().numpy())
    with atomic_write(path) as temporary:
        grey.save(temporary, format="PNG", pnginfo=chunks)


def has_confidence(path: Path, made_for: str) -> bool:
    """Whether the confidence that is wanted is there."""
    return _text(path, KEY) == made_for


def read_confidence(path: Path, mask: Path) -> UInt8[np.ndarray, "height width"] | None:
    """A confidence, 255 = 1, if it was made for just what its mask was; else None."""
    made_for = mask_made_for(mask)
    if not made_for or not has_confidence(path, made_for):
        return None
    with QUIET, path.open("rb") as file, open_png(file) as image:
        return np.array(image.convert("L"))


def _text(path: Path, keyword: str) -> str:
    """A text chunk before the pixels of a PNG that is whole, else nothing."""
    try:
        with path.open("rb") as file, QUIET:
            file.seek(-len(_END), os.SEEK_END)
            if file.read() != _END:
                return ""
            file.seek(0)
            with open_png(file) as image:
                return str(image.info.get(keyword, ""))
    except (Image.DecompressionBombError, *UNREADABLE):
        return ""


@dataclass(frozen=True)
class MaskSample:
    """A large mask of ours, of which only some rows were in memory.

    Attributes:
        size: Height and width.
        pixels: How many pixels have each id.
        ids: Of every n-th pixel.
    """

    state: MaskState
    size: tuple[int, int]
    pixels: Int[np.ndarray, " 256"]
    ids: UInt8[np.ndarray, "_ _"]


def sample_mask(path: Path, made_for: str = "") -> MaskSample | None:
    """Look through a large mask row by row; None if it is not large, or not as ssrseg wrote it."""
    try:
        rows = PngRows(path)
        stamp = rows.texts.get(KEY, "").split()
        if not rows.indexed or len(stamp) != 2 or math.prod(rows.size) <= _LARGE:
            return None
        digest, pixels = hashlib.sha256(str(rows.size).encode()), np.zeros(256, np.int64)
        step, top, some = -(-max(rows.size) // _SAMPLE), 0, []
        for each in rows:
            digest.update(np.ascontiguousarray(each).data)
            pixels += pixel_counts(each)
            some.append(each[-top % step :: step, ::step].copy())
            top += len(each)
    except (OSError, ValueError):
        return None
    if stamp[1] != digest.hexdigest()[:16]:
        return None
    state = MaskState.DONE if stamp[0] == made_for else MaskState.STALE
    return MaskSample(state, rows.size, pixels, np.concatenate(some))


def mask_ids(path: Path, made_for: str) -> tuple[MaskState, UInt8[Tensor, "1 _"] | None]:
    """As ``mask_state``, but with each id that the mask shows once.

    Raises:
        DataError: If it cannot be read, and may be a person's.
    """
    if (sample := sample_mask(path, made_for)) is not None:
        return sample.state, torch.from_numpy(sample.pixels.nonzero()[0].astype(np.uint8))[None]
    state, ids = mask_state(path, made_for)
    return state, None if ids is None else ids.unique()[None]


def mask_state(path: Path, made_for: str) -> tuple[MaskState, UInt8[Tensor, "height width"] | None]:
    """Find out whether a mask is there, whose it is, and whether it is the one that is wanted.

    Its ids come with it if it is ours and whole.

    Raises:
        DataError: If it cannot be read, and may be a person's.
    """
    if not path.is_file():
        return MaskState.ABSENT, None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"mask {path} cannot be read ({error.strerror or error}).") from error
    try:
        with QUIET, open_png(io.BytesIO(content)) as image:
            stamp = str(image.info.get(KEY, "")).split()
            ids = np.array(image)
    except (Image.DecompressionBombError, *UNREADABLE) as error:
        if len(content) < _BEGINNING or _OURS in content[:_BEGINNING]:
            return MaskState.DAMAGED, None
        raise DataError(
            f"mask {path} is damaged ({error}), and not as ssrseg writes it: somebody may want it"
            " back. Mend it, or move it away to have it made anew."
        ) from error
    if len(stamp) != 2 or image.mode != "P" or stamp[1] != _pixels(ids):
        return MaskState.CORRECTED, None
    if not content.endswith(_END):  # its pixels are there, but other programs may refuse it
        return MaskState.DAMAGED, None
    state = MaskState.DONE if stamp[0] == made_for else MaskState.STALE
    return state, torch.from_numpy(ids)


def _pixels(ids: np.ndarray) -> str:
    digest = hashlib.sha256(str(ids.shape).encode())
    digest.update(np.ascontiguousarray(ids).data)
    return digest.hexdigest()[:16]
