"""Do pseudo masks of bf16 encoders agree with those of fp32 on real photographs?

``--data FOLDER`` with ``--clip`` and ``--dino`` measures trained encoders on a user's photographs;
by default the demo's encoders look at unseen scenes of their world.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from timing import Ratio, finish

from ssrseg.config import load_config
from ssrseg.data.images import read_image
from ssrseg.data.open import open_labelled
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.demo.run import FIRST_SCENE
from ssrseg.demo.scenes import write_dataset
from ssrseg.model import SSR
from ssrseg.photo_masks import rectify_photo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--split")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--images", type=int, default=50)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = chosen.data
        if root is None:
            root = Path(name) / "scenes"
            first = FIRST_SCENE + 9_000
            write_dataset(root, train=range(first, first + chosen.images), val=range(0))
        data = open_labelled(root, split=chosen.split)
        data = replace(data, samples=data.samples[: chosen.images])
        models = [
            SSR.for_data(
                load_config(chosen.preset, overrides=(*chosen.set, f"backbones.precision={each}")),
                data,
            )
            for each in ("fp32", "bf16")
        ]
        agreeing = pixels = 0
        worst = 1.0
        for sample in data.samples:
            photo = read_image(sample.image)
            cache = SuperpixelCache(None, n_segments=200, compactness=10.0)
            one, other = (
                rectify_photo(each, photo, sample.labels, cache).pseudo_mask for each in models
            )
            same = int(torch.eq(one, other).sum())
            agreeing, pixels = agreeing + same, pixels + one.numel()
            worst = min(worst, same / one.numel())
    shown = "the demo's scenes" if chosen.data is None else f"{len(data)} photographs"
    finish(
        "bf16",
        [
            Ratio(
                f"pseudo masks, bf16 against fp32, {shown}",
                100 * agreeing / pixels, "100 %", 100.0, 0.99, "%", least=True,
            ),
            Ratio("  the photograph that agrees least", 100 * worst, "100 %", 100.0, None, "%"),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
