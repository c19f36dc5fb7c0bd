"""``masks`` over a folder against its encoders alone: reading, SLIC, PAR and writing come on top.

    python benchmarks/bench_folder.py --photographs 200

True-size encoders with random weights, photographs of 500 x 375. Every photograph passes E11, the
last block and DINO once by themselves, and ``masks`` runs with and without a reading thread; the
three take turns, folder by folder, so that a drifting machine hits all alike.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from random_encoders import save_encoders, write_photographs
from timing import Ratio, finish

from ssrseg.config import load_config
from ssrseg.data.images import read_image
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import Sample
from ssrseg.data.transforms import fit_to_patches, to_unit
from ssrseg.model import SSR
from ssrseg.pseudo_masks import make_masks

PARTS = 5
LIMIT = 1.15
"""What two cores can reach is in docs/performance.md."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=int, default=20)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_encoders(folder)
        write_photographs(folder / "photos", chosen.photographs + 1)
        data = open_labelled(folder / "photos")
        base = load_config(
            overrides=(f"backbones.clip={folder / 'clip'}", f"backbones.dino={folder / 'dino'}")
        )
        model = SSR.for_data(base, data)
        first, *rest = data.samples  # the first one warms up, and is taken off as loading

        number = itertools.count()

        images = {
            sample.name: to_unit(fit_to_patches(read_image(sample.image), model.patch_size))[None]
            for sample in data.samples
        }

        def encoders(part: list[Sample]) -> None:
            for sample in part:
                image = images[sample.name]
                features = model.encode(image)
                model.clip.trace_last_block(features)
                assert model.dino is not None
                model.dino.model(image, interpolate_pos_encoding=True)

        def masks(workers: int) -> Callable[[list[Sample]], None]:
            config = replace(base, data=replace(base.data, workers=workers))

            def run(part: list[Sample]) -> None:
                out = folder / f"masks-{next(number)}"
                make_masks(replace(data, samples=tuple(part)), out, config, report=False)

            return run

        ways = {"encoders": encoders, "masks, no thread": masks(0), "masks": masks(1)}
        loading: dict[str, list[float]] = {each: [] for each in ways}
        parts = [rest[start::PARTS] for start in range(PARTS)]
        spent: dict[str, list[float]] = {each: [] for each in ways}
        for part in parts:
            for each, run in ways.items():
                # one photograph alone, then with the others: the difference is free of loading
                loading[each].append(_seconds(run, [first]))
                spent[each].append(_seconds(run, [first, *part]))
    took = {
        each: statistics.median(
            (whole - alone) / len(part)
            for whole, alone, part in zip(spent[each], loading[each], parts, strict=True)
        )
        for each in ways
    }
    start = statistics.median(loading["masks"]) - took["masks"]
    reference = "E11 + block 12 + DINO"
    finish(
        "folder",
        [
            Ratio("masks of a photograph", took["masks"], reference, took["encoders"], LIMIT),
            Ratio("the same, no thread", took["masks, no thread"], reference, took["encoders"]),
            Ratio("loading both encoders", start, "masks of a photograph", took["masks"]),
        ],
        photographs=chosen.photographs,
    )


def _seconds(run: Callable[[list[Sample]], None], part: list[Sample]) -> float:
    start = time.perf_counter()
    run(part)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
