"""How cost grows: with image size, classes and batch, and with the data set; fitted exponents."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from random_encoders import vit_b16_clip, vit_s16_dino, write_photographs
from timing import finish, medians

from ssrseg.config import DataConfig, load_config
from ssrseg.data.classes import VOC_CLASSES
from ssrseg.data.crops import CropDraws
from ssrseg.data.open import open_labelled
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.method.cmpa import image_prototypes
from ssrseg.method.sgc import slic_labels
from ssrseg.model import SSR
from ssrseg.networks.vocabulary import build_vocabulary

Cost = dict[float, float]


def exponent(cost: Cost) -> float:
    """Slope of log cost over log size, by least squares."""
    x = [math.log(size) for size in cost]
    y = [math.log(seconds) for seconds in cost.values()]
    middle, level = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - middle) * (b - level) for a, b in zip(x, y, strict=True))
    return above / sum((a - middle) ** 2 for a in x)


def pseudo_masks(model: SSR, side: int, classes: int, batch: int) -> Callable[[], object]:
    """CAM, correction and pseudo mask of square pictures."""
    coarse = torch.rand(batch, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    superpixels = torch.stack(
        [slic_labels((image.permute(1, 2, 0) * 255).to(torch.uint8)) for image in images]
    )
    present = torch.arange(classes).expand(batch, -1)

    def run() -> object:
        with torch.no_grad():
            return model(images, present, superpixels).pseudo_mask

    return run


def prototypes(pairs: int) -> Callable[[], object]:
    """K-means of 20 classes over features of 256 numbers."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(pairs) % 20
    centres = torch.randn(20, 256, generator=generator)
    features = centres[classes] + 1.5 * torch.randn(pairs, 256, generator=generator)
    return lambda: image_prototypes(features, classes, centres)


def cached_crops(folder: Path) -> tuple[Cost, dict[str, float]]:
    """Seconds of a cached crop by size of the data set; and the cost of its parts."""
    data = open_labelled(folder)
    cache = SuperpixelCache(folder / "cache", n_segments=200, compactness=10.0)
    cost: Cost = {}
    slic = 0.0
    for count in (8, 64):
        part = replace(data, samples=data.samples[:count])
        draws = CropDraws(part, DataConfig(), cache, 0)
        start = time.perf_counter()
        for draw in range(count):
            draws[draw]
        slic = (time.perf_counter() - start) / count  # an eighth of the last 64 were cached
        start = time.perf_counter()
        for draw in range(count, 3 * count):
            draws[draw]
        cost[count] = (time.perf_counter() - start) / (2 * count)
    return cost, {"crop with SLIC": slic, "crop from the cache": cost[64]}


def main() -> None:
    model = SSR(
        load_config("ssr", overrides=("cam.mode=clip",)),
        vit_b16_clip(),
        vit_s16_dino(),
        build_vocabulary(VOC_CLASSES, "voc"),
    )
    tables: dict[str, Cost] = {
        "patches of an image (1 class, batch 1)": {},
        "classes (320 x 320, batch 1)": {},
        "batch (320 x 320, 1 class)": {},
        "pairs in K-means (20 classes)": {},
    }
    sides = (192, 320, 448, 640)
    found = medians({str(s): pseudo_masks(model, s, 1, 1) for s in sides}, repeats=3)
    tables["patches of an image (1 class, batch 1)"] = {(s / 16) ** 2: found[str(s)] for s in sides}
    counts = (1, 2, 4, 8)
    found = medians({str(k): pseudo_masks(model, 320, k, 1) for k in counts}, repeats=3)
    tables["classes (320 x 320, batch 1)"] = {k: found[str(k)] for k in counts}
    found = medians({str(k): pseudo_masks(model, 320, 1, k) for k in counts}, repeats=3)
    tables["batch (320 x 320, 1 class)"] = {k: found[str(k)] for k in counts}
    pairs = (2_000, 8_000, 32_000)
    found = medians({str(n): prototypes(n) for n in pairs}, repeats=3)
    tables["pairs in K-means (20 classes)"] = {n: found[str(n)] for n in pairs}
    with tempfile.TemporaryDirectory() as name:
        write_photographs(Path(name) / "photos", 64)
        crops, parts = cached_crops(Path(name) / "photos")
    tables["photographs in the data set (one cached crop)"] = crops
    for title, cost in tables.items():
        row = ", ".join(f"{size:g}: {seconds:.3f} s" for size, seconds in cost.items())
        print(f"{title:46} ~ size^{exponent(cost):.2f}   {row}")
    for title, seconds in parts.items():
        print(f"{title:46} {1000 * seconds:.1f} ms")
    finish(
        "growth",
        [],
        seconds=tables,
        exponents={title: exponent(cost) for title, cost in tables.items()},
        loader=parts,
    )


if __name__ == "__main__":
    main()
