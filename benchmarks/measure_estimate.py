"""What ``ssrseg check`` predicts for masks and training, and what they really take.

    python benchmarks/measure_estimate.py OUT DATA PRESET section.key=value ...

Everything is measured in CPU seconds of one thread: on a machine that is shared with other work
the clock says nothing. Each job runs in a process of its own. Disk is what lies in the folder at
the end; cached features, which are removed then, are counted while they are there.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch


def run(job: str, out: str, data: str, preset: str, *overrides: str) -> dict[str, float]:
    """Seconds, peak of resident memory in bytes, and bytes on the disk, of one job."""
    torch.set_num_threads(1)
    time.perf_counter = time.process_time  # the clock of ssrseg.estimate
    from ssrseg import training
    from ssrseg.config import load_config
    from ssrseg.data.open import open_labelled
    from ssrseg.estimate import estimate
    from ssrseg.feature_cache import make_features, photo_sizes
    from ssrseg.pseudo_masks import make_masks

    config, images = load_config(preset, overrides=overrides), open_labelled(data)
    folder = Path(out, job)
    shutil.rmtree(folder, ignore_errors=True)
    start, most = time.process_time(), 0.0
    if job == "check":
        found = estimate(images, photo_sizes(images, config), config, Path(out))
        costs = {"masks": found.masks, "train": found.train}
        keys = ("seconds", "memory", "disk")
        return {f"{name}.{key}": getattr(costs[name], key) for name in costs for key in keys}
    if job == "masks":
        make_masks(images, folder, config)
    else:

        def watched(*arguments: object) -> None:
            nonlocal most
            make_features(*arguments)  # type: ignore[arg-type]
            most = size(folder)

        training.make_features = watched  # type: ignore[attr-defined]
        training.train(images, folder, config)
    seconds = time.process_time() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        f"{job}.seconds": seconds,
        f"{job}.memory": memory,
        f"{job}.disk": max(most, size(folder)),
    }


def size(folder: Path) -> float:
    """Bytes of the files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main(*arguments: str) -> None:
    """All three jobs, then a table."""
    found = {}
    for job in ("check", "masks", "train"):
        command = [sys.executable, __file__, "--job", job, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[job] = json.loads(done.stdout.splitlines()[-1])
    for key, predicted in found["check"].items():
        real = found[key.split(".")[0]][key]
        unit = 1.0 if key.endswith("seconds") else 1e6
        print(f"{key:14} {predicted / unit:9.2f} {real / unit:9.2f} {predicted / real - 1:+.0%}")


if __name__ == "__main__":
    if sys.argv[1] == "--job":
        print(json.dumps(run(*sys.argv[2:])))
    else:
        main(*sys.argv[1:])
