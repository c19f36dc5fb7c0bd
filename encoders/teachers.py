"""What teaches the photo CLIP's patches: Lite0's own classifier, and one for tags on its features.

A ViT that learns from the tags of whole images alone mixes its patches and loses the place of
things. Both teachers speak of every place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from encoders.lite0 import load_lite0
from encoders.photos import Photo, StemViews, join
from encoders.words import TAGS

STEPS, LEARNING_RATE, WEIGHT_DECAY = 500, 3e-3, 0.3
BATCH = (40, 24)
"""Photographs of a step: whose backgrounds nobody looked for, and whose somebody did."""

STEP, MOST_STEPS, CONVINCED = 4.0, 6, 0.8
"""Of what is imagined: length and greatest number of steps, probability at which they end."""


class NameLesson(NamedTuple):
    """What Lite0 says of views, as a whole and at each of their places."""

    whole: Float[Tensor, "views names"]
    places: Float[Tensor, "views places names"]
    """Probabilities."""
    whole_feature: Float[Tensor, "views dim"]
    place_features: Float[Tensor, "views places dim"]
    """Their cosine with ``NameTeacher.texts`` orders the names as Lite0 does, but for its biases,
    the lengths of its rows and the directions that are left out."""


class NameTeacher:
    """Lite0's head and classifier: which of ImageNet's names a place shows.

    Attributes:
        texts: A vector for each name, (names, dim), unit norm: the classifier's rows, reduced to
            their first ``dim`` singular directions.
    """

    def __init__(self, dim: int, places: Float[Tensor, "some channels"]) -> None:
        """Reduce the classifier; ``places`` are features of real places, as many as there are."""
        weights = load_lite0()
        self._head = weights["head.weight"].flatten(1), weights["head.bias"]
        self._classes = weights["fc.weight"], weights["fc.bias"]
        # what all rows share does not tell names apart
        rows = self._classes[0] - self._classes[0].mean(0)
        left, values, right = torch.linalg.svd(rows, full_matrices=False)
        self.texts = functional.normalize(left[:, :dim] * values[:dim], dim=1)
        self._directions = right[:dim]
        self._covariance = places.T.cov()

    def __call__(self, top: Float[Tensor, "views channels rows columns"]) -> NameLesson:
        """Ask it about views."""
        wide = self._wide(top.flatten(2).mT)
        whole, each = (
            functional.linear(x, *self._classes).softmax(-1) for x in (wide.mean(1), wide)
        )
        features = wide @ self._directions.T
        return NameLesson(whole, each, features.mean(1), features)

    def _wide(self, top: Float[Tensor, "*n channels"]) -> Float[Tensor, "*n wide"]:
        return functional.relu6(functional.linear(top, *self._head))

    def imagine(
        self, top: Float[Tensor, "views channels rows columns"], rng: np.random.Generator
    ) -> Float[Tensor, "views channels rows columns"]:
        """Let a rectangle of every second view look like a random name, as far as Lite0 can see.

        A few thousand photographs show few of the names; of the others nothing would be learned.
        The features of each place go up the gradient of the name's log-probability, in steps of
        ``STEP`` standard deviations of real places (natural gradient), until it is ``CONVINCED``.
        """
        changed, (rows, columns) = top.clone(), top.shape[2:]
        inside = torch.zeros(len(top), rows, columns, dtype=torch.bool)
        names = torch.zeros(len(top), rows, columns, dtype=torch.long)
        for view in range(0, len(top), 2):
            height, width = rng.integers(2, 6, size=2)
            row, column = rng.integers(0, (rows - height + 1, columns - width + 1))
            part = (view, slice(row, row + height), slice(column, column + width))
            inside[part], names[part] = True, int(rng.integers(len(self.texts)))
        places, wanted = changed.permute(0, 2, 3, 1)[inside], names[inside]
        for _ in range(int(rng.integers(2, MOST_STEPS + 1))):
            with torch.enable_grad():
                places.requires_grad_()
                logits = functional.linear(self._wide(places), *self._classes).log_softmax(1)
                chosen = logits.gather(1, wanted[:, None])
                (gradient,) = torch.autograd.grad(chosen.sum(), places)
            uphill = gradient @ self._covariance
            length = (uphill * gradient).sum(1, keepdim=True).clamp_min(1e-12).sqrt()
            doubtful = chosen.detach() < math.log(CONVINCED)
            places = places.detach() + STEP * doubtful * uphill / length
        changed.permute(0, 2, 3, 1)[inside] = places
        return changed


def tag_truth(
    photos: Sequence[Photo],
) -> tuple[Float[Tensor, "photos tags"], Float[Tensor, "photos tags"]]:
    """1 where a tag is present, and 1 where it is known if it is."""
    present = [[tag in photo.present for tag in TAGS] for photo in photos]
    known = [[tag in photo.known for tag in TAGS] for photo in photos]
    return torch.tensor(present).float(), torch.tensor(known).float()


class TagTeacher:
    """A linear classifier of places, learned from tags of whole photographs (MIL).

    Attributes:
        mean: Of the stem's channels.
        deviation: Of the stem's channels.
    """

    def __init__(self, views: StemViews, seed: int) -> None:
        """Learn it: the log-mean-exp of its scores over a view is the score of the photograph."""
        rng = np.random.default_rng(seed)
        self.mean, self.deviation = views.moments(seed)
        present, known = tag_truth(views.photos)
        around = known[:, list(TAGS).index("sky")] > 0
        groups = [np.flatnonzero(~around), np.flatnonzero(around)]
        self._weight = torch.zeros(len(self.mean), len(TAGS), requires_grad=True)
        self._bias = torch.full((len(TAGS),), -3.0, requires_grad=True)
        optimizer = torch.optim.AdamW([self._weight, self._bias], weight_decay=WEIGHT_DECAY)
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / STEPS)
            drawn = (
                rng.choice(group, min(count, len(group)), replace=False)
                for group, count in zip(groups, BATCH, strict=True)
            )
            index = np.concatenate(list(drawn))
            view = np.full_like(index, step % min(2, views.count))
            scores = self.scores(self.whiten(join(views[view, index])))
            whole = scores.logsumexp(1) - np.log(scores.shape[1])
            losses = functional.binary_cross_entropy_with_logits(
                whole, present[index], reduction="none"
            )
            loss = (losses * known[index]).sum() / known[index].sum()
            optimizer.zero_grad()
            (loss * len(TAGS) / 8).backward()
            optimizer.step()
        self._weight, self._bias = self._weight.detach(), self._bias.detach()

    def whiten(
        self, channels: Float[Tensor, "views channels rows columns"]
    ) -> Float[Tensor, "views channels rows columns"]:
        """Channels of mean 0 and deviation 1 over photographs."""
        return (channels - self.mean) / self.deviation

    def scores(
        self, whitened: Float[Tensor, "views channels rows columns"]
    ) -> Float[Tensor, "views places tags"]:
        """Logits of the tags at every place."""
        return whitened.flatten(2).mT @ self._weight + self._bias
