"""Masks and training on a GPU: images a second, share of the two encoder forwards, waits, memory.

    python benchmarks/bench_gpu.py --batch 16 128

``--device cpu`` goes the same way without a GPU, to see that it works (waits and memory are then
not measured); ``--profile`` also prints where the time of a training step goes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from random_encoders import save_encoders, write_photographs
from timing import Ratio, finish, medians

from ssrseg.config import Config, load_config
from ssrseg.data.crops import CropBatch, CropDraws
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.losses import online_masks, seg_loss
from ssrseg.model import SSR
from ssrseg.pseudo_masks import make_masks
from ssrseg.trained_parts import new_decoder


@dataclass(frozen=True)
class Step:
    """What was measured of training at one batch size.

    Attributes:
        seconds: Of a step, of the two encoders' forward passes, and of loading a batch.
        waits: How often the host waits for the device in a step; should be 0.
        memory_gb: Most that was allocated on the device.
    """

    batch: int
    seconds: dict[str, float]
    waits: int | None
    memory_gb: float | None


def settings(
    encoders: Path, precision: str, batch: int, workers: int, more: Sequence[str]
) -> Config:
    return load_config(
        overrides=(
            f"backbones.clip={encoders / 'clip'}",
            f"backbones.dino={encoders / 'dino'}",
            f"backbones.precision={precision}",
            "cam.mode=clip",
            f"optim.batch={batch}",
            f"data.workers={workers}",
            *more,
        )
    )


def masks_per_second(data: LabelledImages, folder: Path, config: Config, device: str) -> float:
    """Images a second, loading of the encoders included; superpixels are there."""
    cache = folder / "cache"
    make_masks(data, folder / "first", config, cache=cache, device=device)
    timed = make_masks(data, folder / "second", config, cache=cache, device=device)
    return len(data) / timed.seconds


def measure_step(
    data: LabelledImages, cache: SuperpixelCache, config: Config, device: str, *, profile: bool
) -> Step:
    """A training step on online crops."""
    batch, cuda = config.optim.batch, device != "cpu"
    plain = SSR.for_data(config, data, device=device)
    decoder = new_decoder(config.decoder, plain.clip, plain.n_classes)
    model = plain.with_config(config, decoder=decoder)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-4, fused=True)
    draws = CropDraws(data, config.data, cache, 0)
    host = next(iter(draws.loader(0, batch, batch, pin=cuda)))
    crops = host.to(model.device)
    mean = torch.rand(1, 3, 1, 1, device=model.device)
    if cuda:
        torch.cuda.reset_peak_memory_stats()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        _step_loss(model, crops).backward()
        optimizer.step()

    def forwards() -> None:
        model.clip.encode(crops.image - mean)
        model.dino.attention(crops.image - mean)

    def load() -> None:
        for _ in draws.loader(batch, 3 * batch, batch, pin=cuda):
            pass

    seconds = medians({"step": step, "forwards": forwards, "load": load})
    seconds["load"] /= 2
    waits = memory = None
    if cuda:
        with _warned_of_waits() as caught:
            step()
        waits, memory = len(caught), torch.cuda.max_memory_allocated() / 2**30
        for each in caught:
            print(f"waits at {each.filename}:{each.lineno}: {each.message}")
    if profile:
        activities = [torch.profiler.ProfilerActivity.CPU]
        activities += [torch.profiler.ProfilerActivity.CUDA] if cuda else []
        with torch.profiler.profile(activities=activities) as found:
            step()
        key = "self_cuda_time_total" if cuda else "self_cpu_time_total"
        print(found.key_averages().table(sort_by=key, row_limit=25))
    return Step(batch, seconds, waits, memory)


def _step_loss(model: SSR, crops: CropBatch) -> torch.Tensor:
    features = model.encode(crops.image)
    initial = model.initial_cam(features, crops.present, crops.valid)
    return seg_loss(model, features, online_masks(model, crops, initial))


@contextmanager
def _warned_of_waits() -> Iterator[list[warnings.WarningMessage]]:
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield caught
    finally:
        torch.cuda.set_sync_debug_mode("default")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--photographs", type=int, default=512)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--encoders", type=Path, help="clip and dino; default: true size, random")
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    parser.add_argument("--profile", action="store_true")
    chosen = parser.parse_args()
    if chosen.device != "cpu" and not torch.cuda.is_available():
        print("left out: no CUDA device")
        sys.exit(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoders = chosen.encoders or folder
        if chosen.encoders is None:
            save_encoders(folder)
        write_photographs(folder / "photos", chosen.photographs)
        data = open_labelled(folder / "photos")
        configs = [
            settings(encoders, chosen.precision, batch, chosen.workers, chosen.set)
            for batch in chosen.batch
        ]
        cache = SuperpixelCache.of(folder / "cache", configs[0].sgc)
        rate = masks_per_second(data, folder, configs[0], chosen.device)
        steps = [
            measure_step(data, cache, config, chosen.device, profile=chosen.profile)
            for config in configs
        ]
    print(f"masks {rate:.1f} images/s (loading included)")
    ratios = []
    for each in steps:
        took, name = each.seconds, f"batch {each.batch}"
        held = "" if each.memory_gb is None else f", {each.memory_gb:.1f} GB, {each.waits} waits"
        print(
            f"{name}: {1 / took['step']:.2f} iterations/s, {each.batch / took['step']:.1f}"
            f" images/s{held}; loader {each.batch / took['load']:.1f} images/s"
        )
        ratios += [
            Ratio(f"training step, {name}", took["step"], "the two forwards", took["forwards"]),
            Ratio(f"loading, {name}", took["load"], "training step", took["step"]),
        ]
    finish(
        "gpu",
        ratios,
        masks_per_second=rate,
        steps=[vars(each) for each in steps],
        precision=chosen.precision,
        device=chosen.device,
    )


if __name__ == "__main__":
    main()
