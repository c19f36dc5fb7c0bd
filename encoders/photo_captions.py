"""Captions of photographs for CLIP: their labels in templates, and words for their surroundings.

A caption is right for every photograph that it is true of, so that a batch with forty dogs does not
call thirty-nine of them wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers import CLIPTokenizer

from encoders.captions import TEMPLATES, build_tokenizer
from encoders.clip import CaptionBatch, ClipRecipe, normalise
from encoders.gate import image_features, tag_map
from encoders.photos import Photo, View, cut_view, fingerprint, jitter, sampling_weights
from encoders.surroundings import WORDS
from ssrseg.data.classes import VOC_CLASSES
from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.vocabulary import build_vocabulary

FORGOTTEN, JOINED, JUNK = 0.15, 0.3, 0.02
"""Share of labels left out, of label captions with a word for the surroundings, of any words."""

FEWEST = 5
"""Classes with fewer held-out photographs are left out of the average precision: it is noise there
(unless no class has as many)."""


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
    """Labelled photographs for CLIP; implements :class:`encoders.clip.CaptionSource`."""

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
