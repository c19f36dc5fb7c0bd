"""In how many pixels do masks change if the kept CAMs are rounded?

``--data FOLDER`` with ``--preset`` and ``--set`` measures other encoders on a user's photographs;
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
from ssrseg.data.open import open_labelled
from ssrseg.data.photos import photo_batches
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.demo.run import FIRST_SCENE
from ssrseg.demo.scenes import write_dataset
from ssrseg.method.cam import min_max
from ssrseg.model import SSR

KINDS = {"float32": torch.float32, "float16": torch.float16}


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
        config = load_config(chosen.preset, overrides=chosen.set)
        model = SSR.for_data(config, data)
        cache = SuperpixelCache(None, n_segments=200, compactness=10.0)
        pixels, equal = 0, dict.fromkeys(KINDS, 0)
        settings = replace(config.data, patches=1)
        for batch in photo_batches(data.samples, settings, model.patch_size, cache, model.device):
            way = model.rectify_batch(batch)
            pixels += way.pseudo_mask.numel()
            for kind, dtype in KINDS.items():
                kept = min_max(way.refined_cam).to(dtype).float()
                ids = model.pseudo_mask(
                    model.mask_scores(kept, way.present, batch.small), way.present
                )
                equal[kind] += int((ids == way.pseudo_mask).sum())
    shown = "scenes of the demo" if chosen.data is None else "photographs"
    finish(
        "rounding",
        [
            Ratio(
                f"equal pixels, {len(data)} {shown}, refined CAM kept in {kind}",
                100 * equal[kind] / pixels, "100 %", 100.0, None, "%", least=True,
            )
            for kind in KINDS
        ],
        changed={kind: 1 - equal[kind] / pixels for kind in KINDS},
    )  # fmt: skip


if __name__ == "__main__":
    main()
