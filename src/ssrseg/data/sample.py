"""What every data set comes down to: images and the classes that each of them shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One labelled image; nothing is opened yet.

    Attributes:
        name: Unique; path below the image folder without suffix, ``/`` between folders. Results
            are written under this name.
        labels: Indices of the classes present, ascending; empty = none of them.
        truth: Map of class ids, if one lies there; for scoring only.
    """

    name: str
    image: Path
    labels: tuple[int, ...]
    truth: Path | None


@dataclass(frozen=True)
class LabelledImages:
    """A data set with image-level labels.

    Attributes:
        classes: Names; class index i has id i + 1 in maps of class ids.
        samples: In the order of the split or of the label file.
        prompts: By class name, what CLIP is asked instead of the name; from ``classes.yaml``.
    """

    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    prompts: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def labels(self) -> Bool[Tensor, "images classes"]:
        """Multi-hot labels of all images."""
        table = torch.zeros(len(self.samples), len(self.classes), dtype=torch.bool)
        for row, sample in zip(table, self.samples, strict=True):
            row[list(sample.labels)] = True
        return table


def present_slots(labels: list[tuple[int, ...]]) -> Int[Tensor, "batch slots"]:
    """Class ids of each image, padded with -1 to the longest list (at least one slot)."""
    slots = max([1, *map(len, labels)])
    return torch.tensor([list(ids) + [-1] * (slots - len(ids)) for ids in labels])
