"""How many iterations a decoder wants, by the number of scenes of the demo it learns from.

    python -m benchmarks.measure_iterations OUT

writes OUT/iterations.csv and OUT/cmpa.csv, a line as soon as it is known; a line that is there is
not measured again. No mask is opened in training; scores are those of 100 scenes apart.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path

import torch

from ssrseg.config import load_config
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.demo.run import FIRST_SCENE
from ssrseg.demo.scenes import write_dataset
from ssrseg.evaluation import evaluate
from ssrseg.model import SSR
from ssrseg.photo_masks import pseudo_mask_miou
from ssrseg.prediction import predict
from ssrseg.training import train

SCENES = (60, 10, 200)
DECODER = (
    *(("", iterations) for iterations in (100, 400, 200, 800)),
    *(("optim.warmup=50", iterations) for iterations in (100, 400)),
    *(("optim.batch=16", iterations) for iterations in (100, 200, 400)),
)
CMPA = (0, 50, 100, 200, 500, 1000)
SEEDS = 2
MOST = 200


def subset(data: LabelledImages, scenes: int, seed: int) -> LabelledImages:
    """The scenes of a seed: others for each."""
    return replace(data, samples=data.samples[seed * MOST : seed * MOST + scenes])


def known(file: Path) -> set[tuple[str, ...]]:
    """Settings of the lines that are there."""
    if not file.is_file():
        return set()
    return {tuple(row[:-1]) for row in csv.reader(file.read_text(encoding="utf-8").splitlines())}


def add(file: Path, *cells: object) -> None:
    """One more line."""
    with file.open("a", encoding="utf-8", newline="") as out:
        csv.writer(out).writerow(cells)


def measure_cmpa(root: Path, data: LabelledImages) -> None:
    """Pseudo masks of the training scenes themselves after so many iterations of CMPA."""
    file, cache = root / "cmpa.csv", root / "superpixels"
    for scenes, groups in ((10, 10), (60, 4), (200, 2)):
        for group in range(groups):
            part = replace(data, samples=data.samples[group * scenes : (group + 1) * scenes])
            for iterations in CMPA:
                key = (str(scenes), str(group), str(iterations))
                if key in known(file):
                    continue
                settings = (f"optim.cmpa_iterations={iterations}", f"optim.seed={group}")
                config = load_config("demo", overrides=(*settings, "optim.iterations=0"))
                out = root / "cmpa" / "-".join(key)
                if iterations:
                    train(part, out, config, cache=cache, device="cpu")
                    model = SSR.from_pretrained(out, device="cpu")
                else:
                    model = SSR.for_data(config, part, device="cpu")
                pixels = SuperpixelCache.of(cache, config.sgc)
                add(file, *key, f"{100 * pseudo_mask_miou(model, part, pixels):.2f}")


def measure_decoder(root: Path, data: LabelledImages, val: LabelledImages) -> None:
    """The decoder on scenes apart, without CRF, after so many iterations in all."""
    file = root / "iterations.csv"
    for seed in range(SEEDS):
        for override, iterations in DECODER:
            for scenes in SCENES:
                key = (str(scenes), str(seed), override, str(iterations))
                if key in known(file):
                    continue
                out, cache = root / "decoder" / "-".join(key), root / "superpixels"
                # without CMPA and from cached features, which is many times faster
                settings = [f"optim.iterations={iterations}", f"optim.seed={seed}"]
                settings += ["cam.mode=clip", "optim.features=cached"]
                config = load_config("demo", overrides=[*settings, *filter(None, [override])])
                train(subset(data, scenes, seed), out, config, cache=cache, device="cpu")
                images = {each.name: each.image for each in val.samples}
                predict(images, out / "val", out, crf=False)
                add(file, *key, f"{100 * evaluate(out / 'val', val).scores.miou:.2f}")


def main(out: str) -> None:
    """Draw the scenes, then both measurements."""
    torch.set_num_threads(1)
    root = Path(out)
    if not (root / "scenes" / "labels.csv").is_file():
        first, last = FIRST_SCENE, FIRST_SCENE + SEEDS * MOST
        write_dataset(root / "scenes", train=range(first, last), val=range(last, last + 100))
    data, val = (open_labelled(root / "scenes", split=split) for split in ("train", "val"))
    measure_cmpa(root, data)
    measure_decoder(root, data, val)


if __name__ == "__main__":
    main(sys.argv[1])
