"""A decoder trained on cached features against one on online crops: mIoU on unseen images.

    python benchmarks/measure_features.py demo OUT
    python benchmarks/measure_features.py photos OUT --train DATA:train_aug --val DATA:val
    python benchmarks/measure_features.py tokens --val DATA:val

The last compares CLIP's tokens of a patch in the whole photograph with those in the middle two
thirds of it, seen as a picture of their own, as a crop is: mean cosine of each block.

Prints a Markdown table, seed by seed; finished runs in OUT are not run again. The scenes are those
of `ssrseg demo`.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from torch.nn import functional

from ssrseg.config import load_config
from ssrseg.data.images import read_image
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages
from ssrseg.data.transforms import fit_to_patches, limit_side, to_unit
from ssrseg.demo.run import FIRST_SCENE, TRAIN_SCENES, VAL_SCENES
from ssrseg.demo.scenes import write_dataset
from ssrseg.evaluation import evaluate
from ssrseg.networks.clip import FrozenCLIP
from ssrseg.prediction import predict
from ssrseg.training import train


def scenes(out: Path, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Those of a seed of the demo, to learn from and unseen."""
    root, first = out / f"scenes-{seed}", FIRST_SCENE + seed * 10_000
    last = first + TRAIN_SCENES
    if not (root / "labels.csv").is_file():
        write_dataset(root, train=range(first, last), val=range(last, last + VAL_SCENES))
    return open_labelled(root, split="train"), open_labelled(root, split="val")


def opened(source: str) -> LabelledImages:
    """DIR or DIR:SPLIT."""
    folder, _, split = source.partition(":")
    return open_labelled(folder, split=split or None)


def compare_tokens(val: LabelledImages) -> list[float]:
    """Mean cosine by block; then of a patch and its neighbour in the whole photograph."""
    config = load_config("photos")
    clip = FrozenCLIP.load(config.backbones.clip)
    patch = clip.patch_size
    mean, deviation = (torch.tensor(each)[:, None, None] for each in clip.pixels.numbers)
    rows = []
    for sample in val.samples[:50]:
        photo = fit_to_patches(limit_side(read_image(sample.image), config.data.max_side), patch)
        image = ((to_unit(photo) - mean) / deviation)[None]
        whole = clip.encode(image)
        height, width = (side * 2 // 3 for side in whole.grid)
        top, left = ((side - side * 2 // 3) // 2 for side in whole.grid)
        down = slice(patch * top, patch * (top + height))
        right = slice(patch * left, patch * (left + width))
        crop = clip.encode(image[:, :, down, right])
        there = [block[0, 1:].unflatten(0, whole.grid) for block in whole.tokens]
        inside = slice(top, top + height), slice(left, left + width)
        pairs = [
            (block[inside].flatten(0, 1), own[0, 1:])
            for block, own in zip(there, crop.tokens, strict=True)
        ]
        shifted = there[-1].roll(1, 1)[inside].flatten(0, 1)
        pairs.append((there[-1][inside].flatten(0, 1), shifted))
        rows.append([functional.cosine_similarity(*pair, dim=-1).mean().item() for pair in pairs])
    return torch.tensor(rows).mean(0).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("world", choices=("demo", "photos", "tokens"))
    parser.add_argument("out", type=Path, nargs="?", default=Path("features-compared"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", help="photographs with labels, DIR:SPLIT")
    parser.add_argument("--val", help="photographs with masks, DIR:SPLIT")
    parser.add_argument("--set", action="append", default=[], help="for all runs")
    parser.add_argument("--way", action="append", help="settings of a way, KEY=VALUE KEY=VALUE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.world == "tokens":
        *blocks, neighbour = compare_tokens(opened(options.val))
        found = ", ".join(f"{value:.3f}" for value in blocks)
        print(f"blocks {found}; neighbouring patches {neighbour:.3f}")
        return
    ways = options.way or ["optim.features=online", "optim.features=cached"]
    scores: dict[str, list[float]] = {way: [] for way in ways}
    for seed in range(options.seeds):
        common = [f"optim.seed={seed}", *options.set]
        if options.world == "demo":
            data, val = scenes(options.out, seed)
        else:
            data, val = opened(options.train), opened(options.val)
        unseen = {sample.name: sample.image for sample in val.samples}
        for way in ways:
            run = options.out / f"{way.replace(' ', ' and ')} {seed}"
            config = load_config(options.world, overrides=[*common, *way.split()])
            train(data, run, config)
            predict(unseen, run / "unseen", run, crf=False)
            scores[way].append(100 * evaluate(run / "unseen", val).scores.miou)
            print(f"seed {seed}, {way}: {scores[way][-1]:.1f}", flush=True)
    print(f"\n| {options.world} | {' | '.join(f'seed {n}' for n in range(options.seeds))} | mean |")
    print("|---" * (options.seeds + 2) + "|")
    for way, values in scores.items():
        spread = f" ± {statistics.stdev(values):.1f}" if values[1:] else ""
        cells = [f"{value:.1f}" for value in values] + [f"{statistics.mean(values):.1f}{spread}"]
        print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
