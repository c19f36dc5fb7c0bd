"""Photographs with image-level labels: with captions for CLIP, without for DINO; no mask is opened.

A caption holds labels in a template, or words for surroundings. It is right for every photograph
that it is true of, so that a batch with forty dogs does not call thirty-nine of them wrong.
"""

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
from transformers import CLIPTokenizer

from encoders.captions import TEMPLATES, build_tokenizer
from encoders.clip import CaptionBatch, ClipRecipe, normalise
from encoders.dino import DinoRecipe
from encoders.gate import image_features, tag_map
from encoders.surroundings import WORDS, Corner, guess_surroundings
from ssrseg.data.classes import VOC_CLASSES
from ssrseg.data.images import read_image
from ssrseg.data.open import open_labelled
from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.vocabulary import build_vocabulary

LONG_SIDE = 192
"""Photographs are kept at this size in memory, about 80 kB each."""

AREA = (0.25, 1.0)
"""Share of the photograph that a view shows; the labels are of the whole, so not too little."""

FORGOTTEN, JOINED, JUNK = 0.15, 0.3, 0.02
"""Share of labels left out, of label captions with a word for the surroundings, of any words."""

FEWEST = 5
"""Classes with fewer held-out photographs are left out of the average precision: it is noise there
(unless no class has as many)."""


@dataclass(frozen=True)
class Photo:
    """A photograph in memory: RGB, the names of its classes, and its guessed surroundings."""

    name: str
    image: UInt8[np.ndarray, "height width 3"]
    labels: tuple[str, ...]
    corners: tuple[Corner, ...]


class View(NamedTuple):
    """A part of a photograph; ``box`` = (top, left, bottom, right) as shares of the whole."""

    image: UInt8[np.ndarray, "side side 3"]
    box: tuple[float, float, float, float]
    flipped: bool


def open_photos(folders: Sequence[str]) -> tuple[Photo, ...]:
    """Read photographs and their labels; masks beside them are left alone.

    A folder is one that ``ssrseg.data.open.open_labelled`` takes, ``:split`` behind it for a part.
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
    """Square parts of photographs for DINO; implements ``encoders.dino.PictureSource``."""

    def __init__(self, photos: Sequence[Photo], recipe: DinoRecipe) -> None:
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
    """Change contrast, saturation, brightness and cast of RGB in [0, 1]; a tenth becomes grey."""
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


class PhotoCaption(NamedTuple):
    """A caption, the classes that it names, and the kinds of surroundings that it names."""

    text: str
    labels: frozenset[str]
    kinds: frozenset[str]

    def is_true(self, labels: tuple[str, ...], kinds: frozenset[str]) -> bool:
        """Whether it names nothing else than a view of a photograph shows."""
        return self.labels <= set(labels) and self.kinds <= kinds


def kinds_in(photo: Photo, view: View) -> frozenset[str]:
    """Surroundings whose corner of the photograph the view shows."""
    top, left, bottom, right = view.box
    corners = photo.corners
    return frozenset(c.kind for c in corners if top <= c.y <= bottom and left <= c.x <= right)


class CaptionedPhotos:
    """Labelled photographs for CLIP; implements ``encoders.clip.CaptionSource``."""

    def __init__(
        self, recipe: ClipRecipe, photos: Sequence[Photo], held_out: Sequence[Photo]
    ) -> None:
        """Keep what a batch is drawn from; ``held_out`` is evaluated on only."""
        self._recipe, self.photos, self.held_out = recipe, photos, held_out
        self.name = fingerprint(photos)
        self._weights = sampling_weights(photos)
        extra = {label for photo in (*photos, *held_out) for label in photo.labels}
        self.classes = (*VOC_CLASSES, *sorted(extra - set(VOC_CLASSES)))
        vocabulary = build_vocabulary(self.classes, "voc")
        before, _, after = TEMPLATES[0].partition("{}")
        phrases = [text.removeprefix(before).removesuffix(after) for text in vocabulary.texts]
        self.phrases = dict(zip(self.classes, phrases, strict=False))
        self.backgrounds = tuple(phrases[len(self.classes) :])

    def tokenizer(self) -> CLIPTokenizer:
        """One token for each word of VOC's prompts, of the labels and of the templates."""
        texts = (*self.classes, *self.phrases.values(), *self.backgrounds)
        words = {word for text in texts for word in text.replace(",", " ").split()}
        return build_tokenizer(words, longest=40)

    def batch(self, step: int) -> CaptionBatch:
        """Views of photographs; for each a caption of its labels, and one of its surroundings."""
        recipe = self._recipe
        rng = np.random.default_rng([recipe.seed, step])
        side = recipe.window(step)
        chosen = rng.choice(len(self.photos), recipe.batch, p=self._weights)
        photos = [self.photos[k] for k in chosen]
        views = [cut_view(photo.image, side * recipe.patch, rng) for photo in photos]
        kinds = [kinds_in(photo, view) for photo, view in zip(photos, views, strict=True)]
        own, captions = [], []  # a caption and the number of its view
        for number, (photo, around) in enumerate(zip(photos, kinds, strict=True)):
            said = self.captions(photo.labels, sorted(around), rng)
            captions += said
            own += [number] * len(said)
        right = torch.tensor(
            [
                [
                    number == k or text.is_true(photos[k].labels, kinds[k])
                    for number, text in zip(own, captions, strict=True)
                ]
                for k in range(len(photos))
            ]
        )
        images = torch.from_numpy(np.stack([view.image for view in views]))
        pixels = normalise(jitter(images.permute(0, 3, 1, 2).float() / 255, rng))
        places = torch.from_numpy(np.stack([self._places(view, side) for view in views]))
        return CaptionBatch(pixels, places, [text.text for text in captions], right)

    def _places(self, view: View, side: int) -> np.ndarray:
        """Rows of the position table nearest to where the patches lie in the photograph."""
        top, left, bottom, right = view.box
        if view.flipped:
            left, right = 1 - right, 1 - left
        grid = self._recipe.grid
        along = (np.arange(side) + 0.5) / side
        rows = np.minimum((top + along * (bottom - top)) * grid, grid - 1).astype(int)
        columns = np.minimum((left + along * (right - left)) * grid, grid - 1).astype(int)
        return (rows[:, None] * grid + columns).ravel()

    def captions(
        self, labels: tuple[str, ...], kinds: list[str], rng: np.random.Generator
    ) -> list[PhotoCaption]:
        """Captions of a view: its labels, then its surroundings where there are any."""
        template = TEMPLATES[rng.integers(len(TEMPLATES))]
        if rng.random() < JUNK:
            every = (*self.phrases.values(), *self.backgrounds)
            text = template.format(every[rng.integers(len(every))])
            return [PhotoCaption(text, frozenset({text}), frozenset())]  # true of nothing else
        named = [label for label in labels if rng.random() >= FORGOTTEN] or list(labels[:1])
        rng.shuffle(named)
        words = [self.phrases[n] if rng.random() < 0.7 else n for n in named]
        around = [kinds[k] for k in rng.permutation(len(kinds))[: 1 + int(rng.random() < 0.3)]]
        joined = around[:1] if not words or rng.random() < JOINED else []
        text = " and ".join([*words, *(_word(kind, rng) for kind in joined)])
        found = []
        if text:
            found.append(PhotoCaption(template.format(text), frozenset(named), frozenset(joined)))
        if around:
            template = TEMPLATES[rng.integers(len(TEMPLATES))]
            text = template.format(" and ".join(_word(kind, rng) for kind in around))
            found.append(PhotoCaption(text, frozenset(), frozenset(around)))
        scene = PhotoCaption(template.format("scene"), frozenset({"scene"}), frozenset())
        return found or [scene]

    def evaluate(self, clip: FrozenCLIP) -> dict[str, float]:
        """The gate's ``tag_map`` and ``tag_map_cls`` on held-out photographs, made square."""
        size = (self._recipe.side, self._recipe.side)
        images = [Image.fromarray(photo.image).resize(size) for photo in self.held_out]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
        texts = clip.text_features(tuple(map(TEMPLATES[0].format, self.phrases.values())))
        patches, cls = image_features(clip, normalise(pixels.permute(0, 3, 1, 2).float() / 255))
        present = torch.tensor(
            [[name in photo.labels for name in self.classes] for photo in self.held_out]
        )
        counts = present.sum(0)
        kept = counts >= min(FEWEST, int(counts.max()))
        return {
            "tag_map": tag_map(patches.mean(1), texts[kept], present[:, kept]),
            "tag_map_cls": tag_map(cls, texts[kept], present[:, kept]),
        }


def _word(kind: str, rng: np.random.Generator) -> str:
    return WORDS[kind][rng.integers(len(WORDS[kind]))]
