"""Ratios measured in one run: candidates take turns, medians are compared with a limit."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Ratio:
    """One line of the table; ``limit`` None = reported only."""

    name: str
    seconds: float
    reference: str
    reference_seconds: float
    limit: float | None = None

    @property
    def value(self) -> float:
        """How many times the reference."""
        return self.seconds / self.reference_seconds

    @property
    def verdict(self) -> str:
        """ok, over, or a dash where there is no limit."""
        if self.limit is None:
            return "-"
        return "ok" if self.value <= self.limit else "over"


def medians(candidates: dict[str, Callable[[], object]], *, repeats: int = 5) -> dict[str, float]:
    """Median seconds of each candidate, interleaved so that a drifting machine hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():
        run()  # warm-up
    for _ in range(repeats):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def finish(name: str, ratios: list[Ratio]) -> None:
    """Print the table, write results/<name>.json, exit 1 where a ratio is over its limit."""
    width = max(len(ratio.name) for ratio in ratios)
    for ratio in ratios:
        limit = "" if ratio.limit is None else f"limit {ratio.limit:.2f}"
        print(
            f"{ratio.name:{width}}  {ratio.seconds:8.3f} s = {ratio.value:6.3f} x"
            f" {ratio.reference} ({ratio.reference_seconds:.3f} s)  {limit:10}  {ratio.verdict}"
        )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    RESULTS.mkdir(exist_ok=True)
    table = {
        "commit": commit,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ratios": [
            {**asdict(ratio), "ratio": ratio.value, "verdict": ratio.verdict} for ratio in ratios
        ],
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    sys.exit(any(ratio.verdict == "over" for ratio in ratios))
