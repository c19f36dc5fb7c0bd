"""Peak memory of masks and of training with true-size encoders; masks over many photographs.

Each job runs in a process of its own. A leak would show with small photographs as well, so the
thousand are of 128 x 96 pixels; ``--images 1000`` makes them all of 500 x 375 (an hour).
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from random_encoders import save_encoders, write_photographs
from timing import Ratio, finish

GB = 2**30


def resident() -> float:
    """Resident memory now, in bytes."""
    fields = Path("/proc/self/statm").read_text(encoding="utf-8").split()
    return int(fields[1]) * resource.getpagesize()


def run_masks(folder: Path, photos: str, images: int) -> None:
    """Masks of all photographs; prints resident memory twenty times, and its peak."""
    from ssrseg import mask_folder as module
    from ssrseg.config import load_config
    from ssrseg.data.open import open_labelled
    from ssrseg.pseudo_masks import make_masks

    data = open_labelled(folder / photos)
    config = load_config(
        overrides=(f"backbones.clip={folder / 'clip'}", f"backbones.dino={folder / 'dino'}")
    )
    write, done, seen = module.write_mask, 0, []

    def noting(path: Path, ids: torch.Tensor, made_for: str, note: str) -> None:
        nonlocal done
        write(path, ids, made_for, note)
        done += 1
        if done % max(1, images // 20) == 0:
            seen.append(resident() / GB)

    module.write_mask = noting
    make_masks(replace(data, samples=data.samples[:images]), folder / f"masks-{photos}", config)
    print(*seen, peak())


def run_training(folder: Path) -> None:
    """A few iterations at batch 16."""
    from ssrseg.config import load_config
    from ssrseg.data.open import open_labelled
    from ssrseg.training import train

    data = open_labelled(folder / "photos")
    config = load_config(
        overrides=(
            f"backbones.clip={folder / 'clip'}",
            f"backbones.dino={folder / 'dino'}",
            "optim.batch=16",
            "optim.iterations=3",
            "optim.cmpa_iterations=2",
            "cmpa.min_patches=0",
        )
    )
    train(replace(data, samples=data.samples[:32]), folder / "run", config)
    print(peak())


def peak() -> float:
    """Largest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB


def job(name: str, folder: Path, images: int) -> list[float]:
    command = [sys.executable, __file__, "--job", name, "--folder", str(folder)]
    done = subprocess.run(
        [*command, "--images", str(images)], capture_output=True, text=True, check=True
    )
    return [float(number) for number in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--job", choices=("photos", "small", "training"))
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    if chosen.job in ("photos", "small"):
        run_masks(chosen.folder, chosen.job, chosen.images)
    elif chosen.job == "training":
        run_training(chosen.folder)
    else:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            save_encoders(folder)
            write_photographs(folder / "photos", max(32, chosen.images))
            *seen, masks_peak = job("photos", folder, chosen.images)
            if chosen.images < 1000:
                write_photographs(folder / "small", 1000, (96, 128))
                *seen, _ = job("small", folder, 1000)
            (training_peak,) = job("training", folder, chosen.images)
        early, late = max(seen[: len(seen) // 2]), max(seen[len(seen) // 2 :])
        finish(
            "memory",
            [
                Ratio(f"masks, 500 x 375, {chosen.images} photographs: peak",
                      masks_peak, "1 GB", 1.0, 1.3, "GB"),
                Ratio("masks, 1,000 photographs: second half",
                      late, "first half", early, 1.02, "GB"),
                Ratio("training, batch 16: peak", training_peak, "1 GB", 1.0, 6.0, "GB"),
            ],
            images=chosen.images,
            resident_gb=seen,
        )  # fmt: skip


if __name__ == "__main__":
    main()
