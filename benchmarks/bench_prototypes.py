"""K-means in the aligned space against CLIP's own: what the projection saves, and costs."""

from __future__ import annotations

from functools import partial

import torch
from timing import Ratio, finish, medians
from torch.nn import functional

from ssrseg.method.cmpa import Projector
from ssrseg.method.kmeans import kmeans

PAIRS, CLASSES, CLIP, ALIGNED = 15_900, 20, 512, 256
"""About the (image, class) pairs of VOC's 10,582 training images, and ViT-B/16's space."""
LLOYD = 5
"""Iterations of K-means; how many it needs depends on the features, not on their length."""


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    features = functional.normalize(torch.randn(PAIRS, CLIP, generator=generator), dim=-1)
    torch.manual_seed(0)
    head = Projector(CLIP, ALIGNED).eval().requires_grad_(False)
    aligned = head(features)
    valid = torch.ones(1, PAIRS, dtype=torch.bool)
    seconds = medians(
        {
            name: partial(kmeans, points[None], points[None, :CLASSES], valid, iterations=LLOYD)
            for name, points in (("CLIP's space", features), ("aligned space", aligned))
        }
        | {"projection": lambda: head(features)}
    )
    for name, points in (("CLIP's space", features), ("aligned space", aligned)):
        print(f"{name}: {points.numel() * 4 / 2**20:.1f} MB of features")
    reference = "K-means in CLIP's space"
    finish(
        "prototypes",
        [
            Ratio(f"{name}, {PAIRS} pairs", seconds[key], reference, seconds["CLIP's space"])
            for name, key in (
                ("K-means in the aligned space", "aligned space"),
                ("projection", "projection"),
            )
        ],
    )


if __name__ == "__main__":
    main()
