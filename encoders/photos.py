"""Photographs with image-level labels, and random parts of them; no mask is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from encoders.dino import DinoRecipe
from encoders.surroundings import Corner, guess_surroundings
from ssrseg.data.images import read_image
from ssrseg.data.open import open_labelled

LONG_SIDE = 192
"""Photographs are kept at this size in memory, about 80 kB each."""

AREA = (0.25, 1.0)
"""Share of the photograph that a view shows; the labels are of the whole, so not too little."""


@dataclass(frozen=True)
class Photo:
    """A photograph in memory.

    Attributes:
        name: Of its file.
        image: RGB, at most ``LONG_SIDE`` pixels on the long side.
        labels: Names of the classes that it shows.
        corners: Guessed surroundings.
    """

    name: str
    image: UInt8[np.ndarray, "height width 3"]
    labels: tuple[str, ...]
    corners: tuple[Corner, ...]


class View(NamedTuple):
    """A part of a photograph.

    Attributes:
        image: RGB.
        box: Top, left, bottom, right, as shares of the photograph.
        flipped: Whether left and right are exchanged.
    """

    image: UInt8[np.ndarray, "side side 3"]
    box: tuple[float, float, float, float]
    flipped: bool


def open_photos(folders: Sequence[str]) -> tuple[Photo, ...]:
    """Read photographs and their labels; masks beside them are left alone.

    Args:
        folders: Each a data folder as :func:`ssrseg.data.open.open_labelled` takes it, with
            ``:split`` behind it for a part.

    Raises:
        DataError: If a folder or an image is faulty.
        LabelsError: If the labels are.
    """
    photos = []
    for folder in folders:
        root, _, split = folder.partition(":")
        data = open_labelled(Path(root), split=split or None)
        for sample in data.samples:
            whole = Image.fromarray(read_image(sample.image).numpy())
            whole.thumbnail((LONG_SIDE, LONG_SIDE))
            image = np.asarray(whole)
            labels = tuple(data.classes[k] for k in sample.labels)
            photos.append(Photo(sample.name, image, labels, guess_surroundings(image)))
    return tuple(photos)


def split_off(photos: Sequence[Photo]) -> tuple[tuple[Photo, ...], tuple[Photo, ...]]:
    """Hold out every twentieth photograph."""
    kept = tuple(photo for number, photo in enumerate(photos) if number % 20 != 19)
    return kept, tuple(photos[19::20])


def fingerprint(photos: Sequence[Photo]) -> str:
    """Short name of a set of photographs: their number, and a hash of names and labels."""
    text = "\n".join(f"{photo.name},{';'.join(photo.labels)}" for photo in photos)
    return f"{len(photos)} photographs {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def sampling_weights(photos: Sequence[Photo]) -> Float[np.ndarray, " photos"]:
    """How often each photograph is drawn: by 1 / sqrt(frequency) of its rarest label; sums to 1."""
    names = [label for photo in photos for label in photo.labels]
    counts = {name: names.count(name) for name in set(names)}
    rare = [min((counts[label] for label in photo.labels), default=len(photos)) for photo in photos]
    weights = np.maximum(rare, 25).astype(np.float64) ** -0.5
    return weights / weights.sum()


class PhotoPictures:
    """Square parts of photographs for DINO; implements :class:`encoders.dino.PictureSource`."""

    def __init__(self, photos: Sequence[Photo], recipe: DinoRecipe) -> None:
        """Keep the photographs."""
        self.name = fingerprint(photos)
        self._photos, self._side = photos, recipe.side

    def draw(
        self, step: int, count: int, generator: torch.Generator
    ) -> UInt8[Tensor, "batch 3 side side"]:
        """Draw ``count`` parts, each 0.6 to 1.0 of the short side, with replacement."""
        chosen = torch.randint(len(self._photos), (count,), generator=generator).tolist()
        places = torch.rand(count, 3, generator=generator).tolist()
        parts = []
        for index, (size, down, across) in zip(chosen, places, strict=True):
            image = self._photos[index].image
            edge = (0.6 + 0.4 * size) * min(image.shape[:2])
            top, left = down * (image.shape[0] - edge), across * (image.shape[1] - edge)
            parts.append(_resized(image, self._side, (left, top, left + edge, top + edge)))
        return torch.from_numpy(np.stack(parts)).permute(0, 3, 1, 2).contiguous()


def _resized(
    image: UInt8[np.ndarray, "h w 3"], side: int, box: tuple[float, float, float, float]
) -> UInt8[np.ndarray, "side side 3"]:
    whole = Image.fromarray(image)
    return np.asarray(whole.resize((side, side), Image.Resampling.BILINEAR, box=box))


def cut_view(photo: UInt8[np.ndarray, "h w 3"], side: int, rng: np.random.Generator) -> View:
    """Random part of a photograph, of a random shape near a square, resized and maybe flipped."""
    height, width, _ = photo.shape
    area, shape = rng.uniform(*AREA), np.exp(rng.uniform(-0.3, 0.3))
    edge = np.sqrt(area * height * width)
    tall, wide = min(1.0, edge / shape / height), min(1.0, edge * shape / width)
    top, left = rng.uniform(0, 1 - tall), rng.uniform(0, 1 - wide)
    box = (left * width, top * height, (left + wide) * width, (top + tall) * height)
    image = _resized(photo, side, box)
    flipped = bool(rng.random() < 0.5)
    return View(
        np.ascontiguousarray(image[:, ::-1] if flipped else image),
        (float(top), float(left), float(top + tall), float(left + wide)),
        flipped,
    )


def jitter(
    images: Float[Tensor, "batch 3 height width"], rng: np.random.Generator
) -> Float[Tensor, "batch 3 height width"]:
    """Change contrast, saturation, brightness and colour cast; a tenth becomes grey.

    Args:
        images: RGB in [0, 1].
        rng: Source of the changes.
    """
    count = len(images)

    def draw(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (count, channels, 1, 1))).float()

    saturation = draw(0.5, 1.4) * (draw(0.0, 1.0) > 0.1)
    weights = torch.tensor((0.299, 0.587, 0.114))[:, None, None]
    grey = (images * weights).sum(1, keepdim=True)
    images = grey + saturation * (images - grey)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + draw(0.7, 1.3) * (images - mean)
    return (images * draw(0.75, 1.25) * draw(0.93, 1.07, 3) + draw(-0.06, 0.06)).clamp(0, 1)
