"""Batches of photographs and captions for :mod:`.pretrain_clip`, and figures on held-out ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTokenizer

from encoders.captions import TEMPLATES, build_tokenizer
from encoders.clip_recipe import PretrainConfig
from encoders.gate import normalise, tag_map
from encoders.pairs import Pairs
from encoders.photos import Photo, View, cut_view, fingerprint, jitter, sampling_weights
from ssrseg.data.classes import VOC_CLASSES
from ssrseg.demo.surroundings import WORDS
from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.vocabulary import build_vocabulary

FORGOTTEN, JOINED, JUNK = 0.15, 0.3, 0.02
"""Share of labels left out, of label captions with a word for the surroundings, of any words."""

FEWEST = 5
"""Classes with fewer held-out photographs are left out of the average precision: it is noise there
(unless no class has as many)."""


class Said(NamedTuple):
    """A caption and what it claims.

    Attributes:
        text: The caption.
        labels: Classes that it names.
        kinds: Surroundings that it names.
    """

    text: str
    labels: frozenset[str]
    kinds: frozenset[str]


def kinds_in(photo: Photo, view: View) -> frozenset[str]:
    """Surroundings whose corner of the photograph the view shows."""
    top, left, bottom, right = view.box
    return frozenset(
        corner.kind
        for corner in photo.corners
        if top <= corner.y <= bottom and left <= corner.x <= right
    )


class PhotoPairs:
    """Labelled photographs; implements :class:`encoders.pairs.PairSource`."""

    def __init__(
        self, config: PretrainConfig, photos: Sequence[Photo], held_out: Sequence[Photo]
    ) -> None:
        """Keep what a batch is drawn from; ``held_out`` is evaluated on only."""
        self._config, self.photos, self.held_out = config, photos, held_out
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

    def pairs(self, step: int) -> Pairs:
        """Views of photographs; for each a caption of its labels, and one of its surroundings."""
        config = self._config
        rng = np.random.default_rng([config.seed, step])
        side = config.window(step)
        chosen = rng.choice(len(self.photos), config.batch, p=self._weights)
        photos = [self.photos[k] for k in chosen]
        views = [cut_view(photo.image, side * config.patch, rng) for photo in photos]
        kinds = [kinds_in(photo, view) for photo, view in zip(photos, views, strict=True)]
        said = []
        for number, (photo, around) in enumerate(zip(photos, kinds, strict=True)):
            said += [(number, text) for text in self._say(photo.labels, sorted(around), rng)]
        right = torch.tensor(
            [
                [own == k or _true(text, photos[k].labels, kinds[k]) for own, text in said]
                for k in range(len(photos))
            ]
        )
        images = torch.from_numpy(np.stack([view.image for view in views]))
        pixels = normalise(jitter(images.permute(0, 3, 1, 2).float() / 255, rng))
        places = torch.from_numpy(np.stack([self._places(view, side) for view in views]))
        return Pairs(pixels, places, [text.text for _, text in said], right)

    def _places(self, view: View, side: int) -> np.ndarray:
        """Rows of the position table nearest to where the patches lie in the photograph."""
        top, left, bottom, right = view.box
        if view.flipped:
            left, right = 1 - right, 1 - left
        grid = self._config.grid
        along = (np.arange(side) + 0.5) / side
        rows = np.minimum((top + along * (bottom - top)) * grid, grid - 1).astype(int)
        columns = np.minimum((left + along * (right - left)) * grid, grid - 1).astype(int)
        return (rows[:, None] * grid + columns).ravel()

    def _say(
        self, labels: tuple[str, ...], kinds: list[str], rng: np.random.Generator
    ) -> list[Said]:
        """Captions of a view: its labels, then its surroundings where there are any."""
        template = TEMPLATES[rng.integers(len(TEMPLATES))]
        if rng.random() < JUNK:
            every = (*self.phrases.values(), *self.backgrounds)
            text = template.format(every[rng.integers(len(every))])
            return [Said(text, frozenset({text}), frozenset())]  # true of nothing else
        named = [label for label in labels if rng.random() >= FORGOTTEN] or list(labels[:1])
        rng.shuffle(named)
        words = [self.phrases[n] if rng.random() < 0.7 else n for n in named]
        around = [kinds[k] for k in rng.permutation(len(kinds))[: 1 + int(rng.random() < 0.3)]]
        joined = around[:1] if not words or rng.random() < JOINED else []
        own = " and ".join([*words, *(self._word(kind, rng) for kind in joined)])
        said = [Said(template.format(own), frozenset(named), frozenset(joined))] if own else []
        if around:
            template = TEMPLATES[rng.integers(len(TEMPLATES))]
            text = template.format(" and ".join(self._word(kind, rng) for kind in around))
            said.append(Said(text, frozenset(), frozenset(around)))
        return said or [Said(template.format("scene"), frozenset({"scene"}), frozenset())]

    @staticmethod
    def _word(kind: str, rng: np.random.Generator) -> str:
        return WORDS[kind][rng.integers(len(WORDS[kind]))]

    def evaluate(self, clip: FrozenCLIP) -> dict[str, float]:
        """Average precision of the classes on the held-out photographs, made square.

        Returns:
            ``tag_map`` with the mean patch, ``tag_map_cls`` with the CLS token.
        """
        side = self._config.grid * self._config.patch
        size = (side, side)
        images = [Image.fromarray(photo.image).resize(size) for photo in self.held_out]
        pixels = normalise(
            torch.from_numpy(np.stack([np.asarray(image) for image in images]))
            .permute(0, 3, 1, 2)
            .float()
            / 255
        )
        texts = clip.text_features(tuple(map(TEMPLATES[0].format, self.phrases.values())))
        patches, cls = [], []
        with torch.no_grad():
            for part in pixels.split(50):
                view = clip.view(part)
                patches.append(clip.last_block(view, clip.normed(view)).mean(1))
                cls.append(clip.model.get_image_features(part).pooler_output)
        present = self._present()
        counts = present.sum(0)
        kept = counts >= min(FEWEST, int(counts.max()))
        figures = {}
        for name, features in (("tag_map", patches), ("tag_map_cls", cls)):
            similarity = functional.normalize(torch.cat(features), dim=-1) @ texts.T
            figures[name] = tag_map(similarity[:, kept], present[:, kept])
        return figures

    def _present(self) -> Bool[Tensor, "photos classes"]:
        return torch.tensor(
            [[name in photo.labels for name in self.classes] for photo in self.held_out]
        )


def _true(said: Said, labels: tuple[str, ...], kinds: frozenset[str]) -> bool:
    return said.labels <= set(labels) and said.kinds <= kinds
