"""Masks and training on a GPU: images a second, and the share of the two encoder forwards.

Needs a CUDA device. ``--profile`` also prints where the time of a training step goes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from random_encoders import save_encoders, write_photographs
from timing import Ratio, finish, medians

from ssrseg.config import Config, load_config
from ssrseg.data.crops import CropDraws
from ssrseg.data.open import open_labelled
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.losses import online_masks, seg_loss
from ssrseg.model import SSR
from ssrseg.pseudo_masks import make_masks
from ssrseg.trained_parts import new_decoder

DEVICE = "cuda"


def settings(folder: Path, precision: str, batch: int) -> Config:
    return load_config(
        overrides=(
            f"backbones.clip={folder / 'clip'}",
            f"backbones.dino={folder / 'dino'}",
            f"backbones.precision={precision}",
            "cam.mode=clip",
            f"optim.batch={batch}",
            "data.workers=8",
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--photographs", type=int, default=512)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--profile", action="store_true")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        print("left out: no CUDA device")
        sys.exit(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_encoders(folder)
        write_photographs(folder / "photos", chosen.photographs)
        data = open_labelled(folder / "photos")
        config = settings(folder, chosen.precision, chosen.batch)
        cache = SuperpixelCache(folder / "cache", n_segments=200, compactness=10.0)
        make_masks(
            data, folder / "first", config, cache=cache.folder, device=DEVICE
        )  # fills the cache
        timed = make_masks(data, folder / "second", config, cache=cache.folder, device=DEVICE)

        torch.cuda.reset_peak_memory_stats()
        plain = SSR.for_data(config, data, device=DEVICE)
        decoder = new_decoder(config.decoder, plain.clip, plain.n_classes)
        model = plain.with_config(config, decoder=decoder)
        optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-4, fused=True)
        draws = CropDraws(data, config.data, cache, 0)
        host = next(iter(draws.loader(0, chosen.batch, chosen.batch, pin=True)))
        batch = host.to(torch.device(DEVICE))
        mean = torch.rand(1, 3, 1, 1, device=DEVICE)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            features = model.encode(batch.image)
            initial = model.initial_cam(features, batch.present, batch.valid)
            seg_loss(model, features, online_masks(model, batch, initial)).backward()
            optimizer.step()

        def waits() -> int:
            """How often the host waits for the device in a step; should be 0."""
            torch.cuda.set_sync_debug_mode("warn")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                step()
            torch.cuda.set_sync_debug_mode("default")
            for each in caught:
                print(f"waits at {each.filename}:{each.lineno}: {each.message}")
            return len(caught)

        def forwards() -> None:
            model.clip.encode(batch.image - mean)
            model.dino.attention(batch.image - mean)

        def load() -> None:
            for _ in draws.loader(chosen.batch, 3 * chosen.batch, chosen.batch, pin=True):
                pass

        seconds = medians({"step": step, "forwards": forwards, "two batches": load})
        stops = waits()
        if chosen.profile:
            activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
            with torch.profiler.profile(activities=activities) as profile:
                step()
            print(profile.key_averages().table(sort_by="self_cuda_time_total", row_limit=25))
        memory = torch.cuda.max_memory_allocated() / 2**30
    rate = chosen.batch / seconds["step"]
    print(f"masks {len(data) / timed.seconds:.1f} images/s (loading included)")
    loaded = 2 * chosen.batch / seconds["two batches"]
    print(f"training {rate:.1f} images/s, {memory:.1f} GB; loader {loaded:.1f} images/s")
    finish(
        "gpu",
        [
            Ratio("training step", seconds["step"], "the two forwards", seconds["forwards"]),
            Ratio("loading a batch", seconds["two batches"] / 2, "training step", seconds["step"]),
        ],
        masks_per_second=len(data) / timed.seconds,
        training_per_second=rate,
        memory_gb=memory,
        waits=stops,
        batch=chosen.batch,
        precision=chosen.precision,
    )


if __name__ == "__main__":
    main()
