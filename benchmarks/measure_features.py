"""A decoder trained on cached features against one on online crops: mIoU on unseen images.

    python benchmarks/measure_features.py demo OUT
    python benchmarks/measure_features.py photos OUT --train DATA:train_aug --val DATA:val

Prints a Markdown table, seed by seed; finished runs in OUT are not run again. The scenes are those
of `ssrseg demo`, the photographs' encoders those in benchmarks/photo-encoders.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch

from ssrseg.config import load_config
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages
from ssrseg.demo.run import FIRST_SCENE, TRAIN_SCENES, VAL_SCENES
from ssrseg.demo.scenes import write_dataset
from ssrseg.evaluation import evaluate
from ssrseg.prediction import predict
from ssrseg.training import train

ENCODERS = Path(__file__).parent / "photo-encoders"


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("world", choices=("demo", "photos"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", help="photographs with labels, DIR:SPLIT")
    parser.add_argument("--val", help="photographs with masks, DIR:SPLIT")
    parser.add_argument("--set", action="append", default=[], help="for all runs")
    parser.add_argument("--way", action="append", help="settings of a way, KEY=VALUE KEY=VALUE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ways = options.way or ["optim.features=online", "optim.features=cached"]
    found: dict[str, list[float]] = {way: [] for way in ways}
    for seed in range(options.seeds):
        common = [f"optim.seed={seed}", *options.set]
        if options.world == "demo":
            data, val = scenes(options.out, seed)
        else:
            data, val = opened(options.train), opened(options.val)
            common += [f"backbones.{name}={ENCODERS / name}" for name in ("clip", "dino")]
        unseen = {sample.name: sample.image for sample in val.samples}
        for way in ways:
            run = options.out / f"{way.replace(' ', ' and ')} {seed}"
            config = load_config(options.world, overrides=[*common, *way.split()])
            train(data, run, config)
            predict(unseen, run / "unseen", run, crf=False)
            found[way].append(100 * evaluate(run / "unseen", val).scores.miou)
            print(f"seed {seed}, {way}: {found[way][-1]:.1f}", flush=True)
    print(f"\n| {options.world} | {' | '.join(f'seed {n}' for n in range(options.seeds))} | mean |")
    print("|---" * (options.seeds + 2) + "|")
    for way, values in found.items():
        spread = f" ± {statistics.stdev(values):.1f}" if values[1:] else ""
        cells = [f"{value:.1f}" for value in values] + [f"{statistics.mean(values):.1f}{spread}"]
        print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
