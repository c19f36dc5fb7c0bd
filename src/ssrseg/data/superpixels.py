"""Superpixels on disk, so that SLIC runs once per image and not once per epoch."""

from __future__ import annotations

import hashlib
import io
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import numpy as np
import skimage
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from ssrseg.config import SgcConfig
from ssrseg.data.files import atomic_write
from ssrseg.data.transforms import resize
from ssrseg.method.sgc import slic_labels


@dataclass(frozen=True)
class SuperpixelCache:
    """SLIC superpixels (Eq. 7), computed once per image content and setting.

    A file is named after a hash of the image's pixels, the settings and the library version, so
    that a changed image or setting is computed anew, never served stale.

    Attributes:
        folder: Where the ``.npy`` files (uint16) lie; None = store nothing.
        n_segments: Wanted number of superpixels, at most 65,535.
        compactness: Weight of position against colour.
        zoom: Share of the image's sides at which SLIC looks; ids are enlarged by nearest neighbour.
    """

    folder: str | Path | None
    _: KW_ONLY
    n_segments: int
    compactness: float
    zoom: float = 1.0

    @classmethod
    def of(cls, folder: str | Path | None, settings: SgcConfig) -> SuperpixelCache:
        """A cache with the segments that the settings ask for."""
        return cls(
            folder,
            n_segments=settings.n_segments,
            compactness=settings.compactness,
            zoom=settings.slic_zoom,
        )

    def __call__(self, image: UInt8[Tensor, "height width 3"]) -> Int[Tensor, "height width"]:
        """Superpixel ids from 0, int32; ValueError if there are more than uint16 can number."""
        if self.folder is None:
            return self._labels(image).int()
        path = self.path(image)
        stored = _read(path, (image.shape[0], image.shape[1]))
        if stored is not None:
            return torch.from_numpy(stored.astype(np.int32))
        labels = self._labels(image)
        if int(labels.max()) > np.iinfo(np.uint16).max:
            raise ValueError(
                f"{int(labels.max()) + 1} superpixels, but the cache stores at most 65,536;"
                f" n_segments={self.n_segments} is too large"
            )
        with atomic_write(path) as temporary:
            np.save(temporary, labels.numpy().astype(np.uint16))
        return labels.int()

    def _labels(self, image: UInt8[Tensor, "height width 3"]) -> Int[Tensor, "height width"]:
        size = (image.shape[0], image.shape[1])
        height, width = (max(1, round(side * self.zoom)) for side in size)
        smaller = resize(image, (height, width), bicubic=False)
        labels = slic_labels(smaller, self.n_segments, self.compactness)
        if labels.shape == size:
            return labels
        rows, columns = (
            torch.arange(new) * old // new for new, old in zip(size, labels.shape, strict=True)
        )
        return labels[rows][:, columns]

    def path(self, image: UInt8[Tensor, "height width 3"]) -> Path:
        """Where the superpixels of ``image`` are stored; ValueError if the cache has no folder."""
        if self.folder is None:
            raise ValueError("this SuperpixelCache has no folder, so it stores nothing")
        settings: tuple[object, ...] = (
            tuple(image.shape),
            self.n_segments,
            float(self.compactness),
        )
        settings += () if self.zoom == 1 else (self.zoom,)
        version = skimage.__version__  # type: ignore[attr-defined]  # its stub leaves it out
        key = hashlib.blake2b(repr((settings, version)).encode(), digest_size=8)
        key.update(image.cpu().numpy().tobytes())
        name = key.hexdigest()
        return Path(self.folder) / name[:2] / f"{name}.npy"


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The stored array, or None if it is absent or not what we would have written."""
    wanted = io.BytesIO()
    np.save(wanted, np.zeros(shape, np.uint16))
    size = 2 * shape[0] * shape[1]
    head = wanted.getvalue()[:-size]
    try:
        content = path.read_bytes()
    except OSError:
        return None
    # held against ours byte by byte, because numpy would run what it finds there
    if len(content) != len(head) + size or not content.startswith(head):
        return None
    return np.frombuffer(content, np.uint16, offset=len(head)).reshape(shape)
