"""How many iterations SLIC (Eq. 7) needs, and at which size: time, edges found, pseudo masks kept.

    python benchmarks/measure_slic.py --data VOC2012 --split val --preset photos

Boundary recall: the share of the true masks' boundary pixels with a superpixel's boundary at most
two pixels away, as SLIC's authors have it. Pseudo masks are held against those of ten iterations.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from skimage.segmentation import find_boundaries, slic
from torch.nn import functional

from ssrseg.config import SgcConfig, load_config
from ssrseg.data.class_ids import read_class_ids
from ssrseg.data.images import read_image
from ssrseg.data.open import open_labelled
from ssrseg.data.photos import Photo, join_photos
from ssrseg.data.transforms import limit_side, resize
from ssrseg.model import SSR

VARIANTS = {
    "10 iterations": (10, 1.0),
    "5 iterations": (5, 1.0),
    "3 iterations": (3, 1.0),
    "10 iterations, half size": (10, 0.5),
    "5 iterations, half size": (5, 0.5),
}
NEAR = 2


@dataclass
class Sums:
    """Over all photographs."""

    seconds: float = 0.0
    hits: int = 0
    edges: int = 0
    equal: int = 0
    pixels: int = 0
    cells: int = 0


def cells_of(small: torch.Tensor, settings: SgcConfig, iterations: int, scale: float) -> np.ndarray:
    """Superpixels of a photograph, at its own size."""
    size = small.shape[:2]
    if scale < 1:
        small = resize(small, (round(size[0] * scale), round(size[1] * scale)), bicubic=False)
    found = slic(
        small.numpy(), n_segments=settings.n_segments, compactness=settings.compactness,
        max_num_iter=iterations,
        sigma=0, convert2lab=True, enforce_connectivity=True, start_label=0,
    )  # fmt: skip
    if scale == 1:
        return found
    ids = torch.from_numpy(found).float()[None, None]
    return functional.interpolate(ids, size, mode="nearest")[0, 0].long().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split")
    parser.add_argument("--preset", default="photos")
    parser.add_argument("--images", type=int, default=50)
    chosen = parser.parse_args()
    config = load_config(chosen.preset)
    data = open_labelled(chosen.data, split=chosen.split)
    model = SSR.for_data(config, data)
    sums = {name: Sums() for name in VARIANTS}
    for sample in data.samples[: chosen.images]:
        photo = read_image(sample.image)
        small = limit_side(photo, config.data.max_side)
        edges = None
        if sample.truth is not None:
            truth = resize_ids(read_class_ids(sample.truth), small.shape[:2])
            edges = find_boundaries(truth.numpy(), mode="inner") & (truth.numpy() != 255)
        first = None
        for name, how in VARIANTS.items():
            found = sums[name]
            start = time.perf_counter()
            ids = cells_of(small, config.sgc, *how)
            found.seconds += time.perf_counter() - start
            found.cells += len(np.unique(ids))
            if edges is not None:
                near = ndimage.binary_dilation(find_boundaries(ids), iterations=NEAR)
                found.hits, found.edges = (
                    found.hits + int((near & edges).sum()),
                    found.edges + int(edges.sum()),
                )
            one = [Photo(0, photo, small, torch.from_numpy(ids.astype(np.int32)))]
            batch = join_photos(one, [sample.labels], model.patch_size, model.device)
            mask = model.rectify_batch(batch).pseudo_mask[0]
            first = mask if first is None else first
            found.equal, found.pixels = (
                found.equal + int((mask == first).sum()),
                found.pixels + mask.numel(),
            )
    n = min(chosen.images, len(data))
    for name, found in sums.items():
        recall, equal = found.hits / max(1, found.edges), found.equal / found.pixels
        print(
            f"{name:26} {1e3 * found.seconds / n:6.0f} ms  {found.cells / n:5.0f} superpixels"
            f"  recall {100 * recall:5.1f} %  equal pixels {100 * equal:6.2f} %"
        )


def resize_ids(ids: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Class ids at another size, by nearest neighbour."""
    larger = functional.interpolate(ids[None, None].float(), tuple(size), mode="nearest")
    return larger[0, 0].to(torch.uint8)


if __name__ == "__main__":
    main()
