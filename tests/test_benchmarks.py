"""The benchmark that this project's machines cannot run goes its whole way on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_gpu_benchmark_on_a_cpu(tmp_path: Path, clip_dir: Path, dino_dir: Path) -> None:
    (tmp_path / "clip").symlink_to(clip_dir)
    (tmp_path / "dino").symlink_to(dino_dir)
    # a copy, as results are written beside the script
    for name in ("bench_gpu.py", "random_encoders.py", "timing.py"):
        (tmp_path / name).write_text((HOME / name).read_text("utf-8"), "utf-8")
    command = [sys.executable, str(tmp_path / "bench_gpu.py"), "--device", "cpu", "--workers", "0"]
    command += ["--batch", "1", "3", "--photographs", "3", "--precision", "fp32"]
    for setting in ("data.crop=64", "data.max_side=64", "pseudo.par_iterations=1"):
        command += ["--set", setting]
    done = subprocess.run(
        [*command, "--encoders", str(tmp_path), "--profile"],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results" / "gpu.json").read_text("utf-8"))
    assert [each["batch"] for each in found["steps"]] == [1, 3]
    assert all(each["waits"] is None for each in found["steps"])  # nothing of a GPU is claimed
    names = [ratio["name"] for ratio in found["ratios"]]
    assert names == [
        f"{what}, batch {size}" for size in (1, 3) for what in ("training step", "loading")
    ]
    # a step holds both forwards, the CAM, the refinement and the gradient
    assert all(each["ratio"] > 1 for each in found["ratios"] if "step" in each["name"])
    assert found["masks_per_second"] > 0 and "self cpu" in done.stdout.lower()
