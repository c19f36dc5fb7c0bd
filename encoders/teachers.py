"""What teaches the photo CLIP's patches: Lite0's own classifier, and one for tags on its features.

A ViT that learns from the tags of whole images alone mixes its patches and loses the place of
things. Both teachers speak of every place.
"""

from __future__ import annotations

from collections.abc import Sequence

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


class NameTeacher:
    """Lite0's head and classifier: which of ImageNet's names a place shows."""

    def __init__(self) -> None:
        weights = load_lite0()
        self._head = weights["head.weight"].flatten(1), weights["head.bias"]
        self._classes = weights["fc.weight"], weights["fc.bias"]

    def __call__(
        self, top: Float[Tensor, "views channels rows columns"]
    ) -> tuple[Float[Tensor, "views names"], Float[Tensor, "views places names"]]:
        """Probabilities of the names for each view as a whole, and at each of its places."""
        wide = functional.relu6(functional.linear(top.flatten(2).mT, *self._head))
        whole = functional.linear(wide.mean(1), *self._classes).softmax(1)
        return whole, functional.linear(wide, *self._classes).softmax(2)


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
