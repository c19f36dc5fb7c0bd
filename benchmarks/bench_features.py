"""Cached features: an iteration against an online one, and the cache against a pass of `masks`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

import torch
from random_encoders import vit_b16_clip, vit_s16_dino, write_photographs
from timing import Ratio, finish, medians

from ssrseg.config import load_config
from ssrseg.data.crops import CropDraws
from ssrseg.data.open import open_labelled
from ssrseg.data.photos import photo_batches
from ssrseg.data.stamped_mask import write_mask
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.data.windows import WindowDraws
from ssrseg.feature_cache import (
    cache_bytes,
    feature_files,
    make_features,
    photo_sizes,
    window_features,
)
from ssrseg.losses import online_masks, seg_loss
from ssrseg.model import SSR
from ssrseg.networks.decoder import Decoder
from ssrseg.networks.vocabulary import build_vocabulary
from ssrseg.photo_masks import photo_masks
from ssrseg.trained_parts import new_alignment

BATCH, PHOTOS = 4, 4
COUNTS = (10, 60, 500, 10_582)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name))


def measure(folder: Path) -> None:
    write_photographs(folder / "data", PHOTOS)
    data = open_labelled(folder / "data")
    config = load_config("ssr", overrides=["optim.features=cached"])
    clip, dino = vit_b16_clip(), vit_s16_dino()
    vocabulary = build_vocabulary(data.classes, "voc")
    plain = SSR(config, clip, dino, vocabulary)
    heads = new_alignment(config.cmpa, plain.text_features)
    decoder = Decoder(clip.depth - 1, clip.width, len(data.classes))
    model = plain.with_config(config, alignment=heads, decoder=decoder)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-4, fused=True)

    def cells(where: Path | None) -> SuperpixelCache:
        return SuperpixelCache(where, n_segments=200, compactness=10.0)

    kept = folder / "features"
    make_features(model, data, "labels", kept, cells(folder / "cells"))
    files = list(feature_files(model, data, "labels", kept).values())
    crops = CropDraws(data, config.data, cells(folder / "cells"), 0)
    side = config.data.crop // model.patch_size
    windows = WindowDraws(files, side, model.patch_size, flip=True, seed=0, workers=0)
    numbers = count(step=BATCH)

    def learn(loss: Callable[[list[int]], torch.Tensor]) -> Callable[[], None]:
        def run() -> None:
            first = next(numbers)
            optimizer.zero_grad()
            loss(list(range(first, first + BATCH))).backward()
            optimizer.step()

        return run

    def online(draws: list[int]) -> torch.Tensor:
        batch = crops.join(draws)
        features = model.encode(batch.image)
        initial = model.initial_cam(features, batch.present, batch.valid)
        return seg_loss(model, features, online_masks(model, batch, initial))

    def cached(draws: list[int]) -> torch.Tensor:
        batch = windows.join(draws)
        return seg_loss(model, window_features(batch), batch.mask, batch.inside)

    def masks() -> None:
        one = load_config("ssr", overrides=["data.patches=1"]).data
        for batch in photo_batches(data.samples, one, model.patch_size, cells(None), model.device):
            for index, found in zip(batch.index, photo_masks(model, batch), strict=True):
                write_mask(folder / "masks" / f"{index}.png", found.pseudo_mask, "")

    again = count()

    def cache() -> None:
        make_features(model, data, "labels", folder / f"again-{next(again)}", cells(None))

    image = torch.rand(BATCH, 3, 320, 320)
    seconds = medians(
        {
            "E11 of the batch": lambda: clip.encode(image),
            "iteration, online": learn(online),
            "iteration, cached": learn(cached),
            "masks": masks,
            "cache": cache,
        },
        repeats=3,
    )

    def ratio(name: str, reference: str, limit: float) -> Ratio:
        return Ratio(name, seconds[name], reference, seconds[reference], limit)

    per_photo = cache_bytes(config, model, photo_sizes(data, config)) / PHOTOS
    finish(
        "features",
        [
            ratio("iteration, cached", "iteration, online", 0.45),
            ratio("iteration, cached", "E11 of the batch", 0.45),
            ratio("cache", "masks", 1.3),
        ],
        megabytes_per_photograph=per_photo / 1e6,
        gigabytes={str(photos): photos * per_photo / 1e9 for photos in COUNTS},
    )


if __name__ == "__main__":
    main()
