"""Ratios measured in one run: candidates take turns, medians are compared with a limit."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers

from ssrseg.data.files import write_json

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Ratio:
    """One line of the table: ``value`` times (or parts of) ``reference``.

    ``limit`` None = reported only; ``least`` turns the limit into a lower bound. ``unit`` is that
    of value and reference, such as "s", "GB" or "%".
    """

    name: str
    measured: float
    reference: str
    reference_value: float
    limit: float | None = None
    unit: str = "s"
    least: bool = False

    @property
    def value(self) -> float:
        """How many times the reference."""
        return self.measured / self.reference_value

    @property
    def verdict(self) -> str:
        """ok, over (under), or a dash where there is no limit."""
        if self.limit is None:
            return "-"
        if self.least:
            return "ok" if self.value >= self.limit else "under"
        return "ok" if self.value <= self.limit else "over"

    def line(self, width: int) -> str:
        """The row of the table."""
        sign = ">=" if self.least else "<="
        limit = "" if self.limit is None else f"{sign} {self.limit:g}"
        return (
            f"{self.name:{width}}  {self.measured:9.3f} {self.unit:4} = {self.value:7.3f} x"
            f" {self.reference:28} ({self.reference_value:.3f})  {limit:8}  {self.verdict}"
        )


def medians(
    candidates: Mapping[str, Callable[[], object]], *, repeats: int = 5
) -> dict[str, float]:
    """Median seconds of each candidate, interleaved so that a drifting machine hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():
        run()  # warm-up
    for _ in range(repeats):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def finish(name: str, ratios: list[Ratio], **more: object) -> None:
    """Print the table, write results/<name>.json, exit 1 where a ratio is over its limit.

    Args:
        name: Of the benchmark.
        ratios: What was measured.
        more: Goes into the file as it is, such as a table.
    """
    width = max((len(ratio.name) for ratio in ratios), default=0)
    for ratio in ratios:
        print(ratio.line(width), flush=True)
    table = {
        **provenance(),
        **more,
        "ratios": [
            {**asdict(ratio), "ratio": ratio.value, "verdict": ratio.verdict} for ratio in ratios
        ],
    }
    write_json(RESULTS / f"{name}.json", table)
    sys.exit(any(ratio.verdict in ("over", "under") for ratio in ratios))


def provenance() -> dict[str, object]:
    """Machine, commit and versions."""
    return {
        "commit": commit(),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load": os.getloadavg()[0],
            "fp32_gflops": matmul_speed(torch.float32),
            "bf16_gflops": matmul_speed(torch.bfloat16),
            "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def commit() -> str:
    """The commit that runs, and whether it was changed."""
    home = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(home), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    # the results of the benchmark before this one are no change of the code
    changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    return git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")


def matmul_speed(dtype: torch.dtype, side: int = 2048) -> float:
    """Billions of multiplications and additions a second in a square product, the best of 5.

    A small product has to do where it shows that the type is emulated: a large one takes minutes.
    """
    small = _product_speed(dtype, 256)
    return round(small if small < 10 else _product_speed(dtype, side), 1 if small < 10 else None)


def _product_speed(dtype: torch.dtype, side: int) -> float:
    left = torch.rand(side, side).to(dtype)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        left @ left
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best / 1e9


def processor() -> str:
    """Name, family and model: a cloud's processors are often called alike."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    facts = dict(line.split("\t: ", 1) for line in lines if "\t: " in line)
    facts = {key.strip(): value for key, value in facts.items()}
    return (
        f"{facts.get('model name')}, family {facts.get('cpu family')}, model {facts.get('model')}"
    )
