"""The tables of docs/scale.md: hours, money and bytes from what an image takes.

    python benchmarks/plan_scale.py --cpu-hour 0.04 --gpu-hour 3.00

Seconds and bytes of an image are those of benchmarks/results/scale.json. Prices are examples. No
GPU was measured: its lines are operations that were counted, at a share of a peak that is assumed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ssrseg.schedule import iterations_for

RESULTS = Path(__file__).parent / "results" / "scale.json"
SETS = {"VOC": 10_582, "COCO": 82_081, "10 million": 10**7, "1 billion": 10**9}

MASKS = (
    "content",
    "read and decode",
    "SLIC",
    "encoders and CAM",
    "PAR",
    "write mask",
    "write CAMs",
)
PREDICT = ("content", "read and decode", "predict", "write mask")
ON_CPU = ("content", "read and decode", "SLIC", "write mask", "write CAMs")
"""Stages of masks that stay on processors beside a GPU."""
CROP = 1.65
"""Core seconds of a crop in training, online, fp32: docs/performance.md has 3.3 s for 4 crops on
two cores."""
CACHED = 0.12
"""Of it, on cached features: the same page."""
BATCH = 16


@dataclass(frozen=True)
class Gpu:
    """What is assumed of a GPU, and of the machine around it.

    Attributes:
        peak: Operations a second.
        share: Of the peak that is reached.
        cores: Of the processor, for each GPU.
    """

    peak: float = 495e12
    share: float = 0.3
    cores: int = 16

    def seconds(self, operations: float) -> float:
        """Of so many operations."""
        return operations / (self.peak * self.share)


def vit_operations(tokens: int, width: int, blocks: int) -> float:
    """Multiplications and additions of the blocks of a ViT: products with weights, attention."""
    return blocks * (24.0 * tokens * width**2 + 4.0 * tokens**2 * width)


def mask_operations(tokens: int = 769, classes: float = 1.5) -> float:
    """Of CLIP ViT-B/16 with its last block's gradient, and DINO ViT-S/16, at 512 x 384.

    The last block: its forward pass, 3.6 GFLOP that classes share and 5.4 GFLOP for each.
    """
    clip = vit_operations(tokens, 768, 12)
    return clip + 3.6e9 + classes * 5.4e9 + vit_operations(tokens, 384, 12)


def predict_operations() -> float:
    """Of CLIP's eleven blocks at 512 x 384 and 384 x 288, each with its mirror image."""
    return 2 * (vit_operations(769, 768, 11) + vit_operations(433, 768, 11))


def core_hours(seconds: Mapping[str, float], stages: Iterable[str], images: int) -> float:
    """Of one core, for all images."""
    return sum(seconds[stage] for stage in stages) * images / 3600


def gpu_hours(gpu: Gpu, operations: float, on_cpu: float, images: int) -> float:
    """Of one GPU, which waits for its processors where these are slower."""
    return max(gpu.seconds(operations), on_cpu / gpu.cores) * images / 3600


def rounded(number: float) -> str:
    """Two digits, with thousands."""
    return f"{float(f'{number:.2g}'):,.10g}"


def bytes_text(number: float) -> str:
    """With a unit."""
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if number < 1000 or unit == "PB":
            return f"{rounded(number)} {unit}"
        number /= 1000
    raise AssertionError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpu-hour", type=float, default=0.04, help="price of a core's hour")
    parser.add_argument("--gpu-hour", type=float, default=3.0, help="price of a GPU's hour")
    chosen = parser.parse_args()
    measured = json.loads(RESULTS.read_text(encoding="utf-8"))
    seconds = {name: each["mean"] for name, each in measured["seconds"].items()}
    gpu = Gpu()
    on_cpu = sum(seconds[stage] for stage in ON_CPU)
    print(f"masks: {sum(seconds[stage] for stage in MASKS):.2f} core seconds an image")
    print(f"predict: {sum(seconds[stage] for stage in PREDICT):.2f} core seconds an image")
    for name, operations in (("masks", mask_operations()), ("predict", predict_operations())):
        milliseconds = gpu.seconds(operations) * 1e3
        print(f"{name}: {operations / 1e9:.0f} GFLOP, {milliseconds:.1f} ms of a GPU (assumed)")
    print(f"beside a GPU that makes masks: {on_cpu:.3f} core seconds an image")
    for name, images in SETS.items():
        masks = core_hours(seconds, MASKS, images)
        cards = gpu_hours(gpu, mask_operations(), on_cpu, images)
        without = gpu_hours(gpu, mask_operations(), on_cpu - seconds["SLIC"], images)
        crops = iterations_for(images) * BATCH
        train = crops * CROP / 3600
        rows = {
            "masks, core hours": rounded(masks),
            "price": rounded(masks * chosen.cpu_hour),
            "days on 1,000 cores": rounded(masks / 24_000),
            "GPU hours (assumed)": rounded(cards),
            "price (assumed)": rounded(cards * chosen.gpu_hour),
            "the same without SLIC": rounded(without),
            "predict, core hours": rounded(core_hours(seconds, PREDICT, images)),
            "with DenseCRF": rounded(
                core_hours(seconds, (*PREDICT, "predict: DenseCRF of all classes"), images)
            ),
            "training, iterations": f"{iterations_for(images):,}",
            "training, core hours online": rounded(train),
            "passes over the images": rounded(crops / images),
            "look through what is done, core hours": rounded(
                core_hours(seconds, ("look whether it is done",), images)
            ),
            "manifest in memory": bytes_text(measured["manifest line"]["memory"] * images),
            "manifest read and written, hours": rounded(
                measured["manifest line"]["read and write"] * images / 3600
            ),
        }
        rows |= {kind: bytes_text(each * images) for kind, each in measured["bytes"].items()}
        rows["manifest"] = bytes_text(measured["manifest line"]["bytes"] * images)
        print(f"\n{name}: {images:,}")
        for row, value in rows.items():
            print(f"  {row:40} {value}")


if __name__ == "__main__":
    main()
