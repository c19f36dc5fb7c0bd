"""Photographs with image-level labels, and a stem's features of random views of them.

The stem is frozen, so that every view passes it once and is kept: features of a view take 150 kB.
No mask is opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel

from encoders.lite0 import PIXEL_MEAN, PIXEL_STD, load_lite0
from encoders.words import SAME_TAG, TAGS
from ssrseg.data.files import content_digest, write_text
from ssrseg.data.images import read_image
from ssrseg.data.open import open_labelled
from ssrseg.networks.stem import Stem, find_stem, with_stem

SIDE = 320
"""Views are square, of this many pixels: 20 x 20 patches of 16."""
GRID, TOP_GRID = SIDE // 16, SIDE // 32
MID, TOP = 112, 320
"""Channels of the stem at stride 16, and at stride 32."""

AREA = (0.3, 1.0)
"""Share of the photograph that a view shows; the labels are of the whole, so not too little."""


@dataclass(frozen=True)
class Photo:
    """A photograph and its tags.

    Attributes:
        path: The image file.
        present: Tags of ``encoders.words.TAGS`` that are said to be in it.
        known: Tags that somebody has looked for; the others may be there or not.
    """

    path: Path
    present: frozenset[str]
    known: frozenset[str]


class Box(NamedTuple):
    """The part of a photograph that a view shows, as shares of the whole; and if it is mirrored."""

    top: float
    left: float
    bottom: float
    right: float
    mirrored: float


def open_photos(folders: Sequence[str]) -> tuple[Photo, ...]:
    """Photographs and their labels; masks beside them are left alone.

    A folder is one that ``ssrseg.data.open.open_labelled`` takes. Behind it ``:split`` takes a
    part, ``:even`` and ``:odd`` every second photograph, from the first and from the second. Known
    are the folder's classes: where no background is one, nobody looked for backgrounds.
    """
    photos = []
    for folder in folders:
        root, _, split = (folder, "", "") if Path(folder).exists() else folder.rpartition(":")
        halves = {"even": slice(0, None, 2), "odd": slice(1, None, 2)}
        data = open_labelled(Path(root), split=None if split in halves else split or None)
        tags = [SAME_TAG.get(name, name) for name in data.classes]
        known = frozenset(TAGS.keys() & tags)
        for sample in data.samples[halves.get(split, slice(None))]:
            present = TAGS.keys() & {tags[k] for k in sample.labels}
            if "face" in present:
                present |= {"person"}
            photos.append(Photo(sample.image, frozenset(present), known))
    return tuple(photos)


def fingerprint(photos: Sequence[Photo]) -> str:
    """Short name of a set of photographs: their number, and a hash of pictures and labels."""
    text = "\n".join(
        f"{content_digest(photo.path)},{sorted(photo.present)},{sorted(photo.known)}"
        for photo in photos
    )
    return f"{len(photos)} photographs {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def sampling_weights(photos: Sequence[Photo]) -> Float[np.ndarray, " photos"]:
    """How often each photograph is drawn: by 1 / sqrt(frequency) of its rarest tag; sums to 1.

    Photographs whose backgrounds are known are few, and drawn 1.5 times as often.
    """
    names = [tag for photo in photos for tag in photo.present]
    counts = {name: names.count(name) for name in set(names)}
    rare = [min((counts[tag] for tag in photo.present), default=500) for photo in photos]
    weights = np.maximum(rare, 30).astype(np.float64) ** -0.5
    weights *= [1.5 if "sky" in photo.known else 1.0 for photo in photos]
    return weights / weights.sum()


def cut_view(
    photo: UInt8[np.ndarray, "height width 3"], rng: np.random.Generator, *, whole: bool
) -> tuple[UInt8[np.ndarray, "side side 3"], Box]:
    """Random part of a photograph, of a random shape near a square, resized and maybe mirrored.

    ``whole`` takes all of it.
    """
    height, width, _ = photo.shape
    tall = wide = 1.0
    if not whole:
        edge, shape = np.sqrt(rng.uniform(*AREA) * height * width), np.exp(rng.uniform(-0.3, 0.3))
        tall, wide = min(1.0, edge / shape / height), min(1.0, edge * shape / width)
    top, left = (rng.uniform(0, 1 - share) if share < 1 else 0.0 for share in (tall, wide))
    mirrored = bool(rng.random() < 0.5)
    box = (left * width, top * height, (left + wide) * width, (top + tall) * height)
    image = Image.fromarray(photo).resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box)
    view = np.asarray(image)[:, :: -1 if mirrored else 1]
    return view, Box(top, left, top + tall, left + wide, mirrored)


def jitter(
    image: Float[np.ndarray, "height width 3"], rng: np.random.Generator
) -> Float[np.ndarray, "height width 3"]:
    """Change saturation, contrast, brightness and cast of RGB in [0, 1]; a tenth becomes grey."""
    grey = (image * (0.299, 0.587, 0.114)).sum(2, keepdims=True)
    image = grey + rng.uniform(0.5, 1.4) * (rng.random() > 0.1) * (image - grey)
    image = image.mean() + rng.uniform(0.7, 1.3) * (image - image.mean())
    image = image * rng.uniform(0.75, 1.25) * rng.uniform(0.93, 1.07, 3) + rng.uniform(-0.06, 0.06)
    return image.clip(0, 1)


def draw_view(
    photo: Photo, view: int, index: int, seed: int
) -> tuple[Float[Tensor, "3 side side"], Box]:
    """Normalised pixels of a view, by its number and that of the photograph; 0 shows all of it."""
    rng = np.random.default_rng([view, index, seed])
    image, box = cut_view(read_image(photo.path).numpy(), rng, whole=view == 0)
    pixels = (jitter(image / 255, rng) - PIXEL_MEAN) / PIXEL_STD
    return torch.from_numpy(pixels).float().permute(2, 0, 1), box


def frozen_stem() -> Stem:
    """EfficientNet-Lite0's blocks; their projection hands the channels on as they are."""
    stem = Stem(MID + TOP, 16)
    weights = load_lite0()
    weights["projection.weight"] = torch.eye(MID + TOP)[:, :, None, None]
    weights["projection.bias"] = torch.zeros(MID + TOP)
    stem.load_state_dict({name: weights[name] for name in stem.state_dict()})
    return stem.requires_grad_(False).eval()


def fold_stem(
    model: PreTrainedModel,
    config: PretrainedConfig,
    place: str,
    mean: Float[Tensor, "channels 1 1"],
    deviation: Float[Tensor, "channels 1 1"],
) -> PreTrainedModel:
    """The same ViT on pixels: its patch embedding of whitened channels becomes a stem.

    Args:
        config: That of ``model``, with ``stem`` and ``stem_blocks``.
        place: Name of the patch embedding, a 1 x 1 convolution, among the model's modules.
        mean: That the channels were whitened by.
        deviation: The same.
    """
    trained = model.state_dict()
    weight, bias = trained.pop(f"{place}.weight"), trained.pop(f"{place}.bias")
    weight = weight / deviation
    projection = {"weight": weight, "bias": bias - (weight * mean).sum((1, 2, 3))}
    options = {} if config.model_type == "clip" else {"add_pooling_layer": False}
    whole = with_stem(type(model))(config, **options)
    frozen = frozen_stem().state_dict()
    stem = {
        name: frozen[name] for name in find_stem(whole).state_dict() if "projection" not in name
    }
    stem |= {f"projection.{name}": value for name, value in projection.items()}
    whole.load_state_dict(trained | {f"{place}.{name}": value for name, value in stem.items()})
    return whole


class Features(NamedTuple):
    """A stem's features of a batch of views, and where in their photographs they lie."""

    mid: Float[Tensor, "views mid grid grid"]
    top: Float[Tensor, "views top half half"]
    boxes: Float[np.ndarray, "views 5"]


class StemViews:
    """Random views of photographs, as the stem's features in three files of a folder.

    The first view of each shows all of it.

    Attributes:
        photos: In the order of the files.
        count: Views of each.
    """

    def __init__(self, folder: Path, photos: Sequence[Photo], count: int, seed: int) -> None:
        """Open the files, and fill in what is missing: a view takes 0.04 s of two cores.

        Files of other photographs, of another count or seed are written anew.
        """
        self.photos, self.count = photos, count
        name = {"photos": fingerprint(photos), "views": count, "seed": seed}
        told = folder / "views.json"
        done = json.loads(told.read_text()) if told.is_file() else {}
        folder.mkdir(parents=True, exist_ok=True)
        if {key: done.get(key) for key in name} != name:
            done = name | {"done": 0}
            write_text(told, json.dumps(done))  # the files of other views are about to go
        shapes = ((MID, GRID, GRID), (TOP, TOP_GRID, TOP_GRID), (len(Box._fields),))
        files = [
            np.lib.format.open_memmap(
                folder / f"{part}.npy",
                mode="r+" if done["done"] else "w+",
                dtype=np.float32 if part == "boxes" else np.float16,
                shape=(count, len(photos), *shape),
            )
            for part, shape in zip(Features._fields, shapes, strict=True)
        ]
        self._mid, self._top, self._boxes = files
        stem = frozen_stem()
        for view in range(done["done"], count):
            for index in range(len(photos)):
                self._fill(stem, view, index, seed)
            for file in files:
                file.flush()
            write_text(told, json.dumps(name | {"done": view + 1}))

    @torch.inference_mode()
    def _fill(self, stem: Stem, view: int, index: int, seed: int) -> None:
        pixels, box = draw_view(self.photos[index], view, index, seed)
        mid, top = stem.features(pixels[None])
        self._mid[view, index], self._top[view, index] = mid[0].numpy(), top[0].numpy()
        self._boxes[view, index] = box

    def __getitem__(self, chosen: tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]) -> Features:
        """Features of some views; ``chosen`` = numbers of views and of photographs."""
        mid, top = (torch.from_numpy(file[chosen]).float() for file in (self._mid, self._top))
        return Features(mid, top, self._boxes[chosen])

    def chosen(self, seed: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Numbers of the first view of 600 photographs, and of these."""
        rng, count = np.random.default_rng(seed), len(self.photos)
        chosen = np.sort(rng.choice(count, min(600, count), replace=False))
        return np.zeros_like(chosen), chosen

    def some(self, seed: int) -> Features:
        """The first view of 600 photographs."""
        return self[self.chosen(seed)]

    def moments(
        self, seed: int
    ) -> tuple[Float[Tensor, "channels 1 1"], Float[Tensor, "channels 1 1"]]:
        """Mean and deviation of the joined channels, over ``some``."""
        channels = join(self.some(seed))
        mean, deviation = channels.mean((0, 2, 3)), channels.std((0, 2, 3))
        return mean[:, None, None], deviation[:, None, None]


def join(features: Features) -> Float[Tensor, "views channels grid grid"]:
    """What the stem's projection sees: the channels at stride 32 resized behind those at 16."""
    grid = features.mid.shape[2:]
    top = functional.interpolate(features.top, size=grid, mode="bilinear", align_corners=False)
    return torch.cat([features.mid, top], 1)


def places(
    boxes: Float[np.ndarray, "views 5"], side: int, grid: int
) -> Int[Tensor, "views side side"]:
    """Rows of a position table of ``grid`` x ``grid`` for the patches of views.

    The table spans the photograph; a patch of the view, which has ``side`` x ``side`` of them, gets
    the row of the cell in which its centre lies.
    """
    top, left, bottom, right, mirrored = boxes.T[:, :, None]
    left, right = np.where(mirrored, right, left), np.where(mirrored, left, right)
    along = (np.arange(side) + 0.5) / side
    rows = np.minimum((top + along * (bottom - top)) * grid, grid - 1).astype(int)
    columns = np.minimum((left + along * (right - left)) * grid, grid - 1).astype(int)
    return torch.from_numpy(rows[:, :, None] * grid + columns[:, None, :])
