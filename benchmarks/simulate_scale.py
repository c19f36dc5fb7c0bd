"""How long many workers take for images in chunks, when some are slow and some are lost.

    python benchmarks/simulate_scale.py                    # the table and figure of docs/scale.md

Each worker takes the next chunk when it is free. An image takes as long as one that was measured,
drawn anew, times how slow its worker is. A worker that is lost (a spot machine is taken back, a
process is killed) loses the chunk that it is at, which goes to the end of the queue; another worker
comes in its place after some time. Nothing else is modelled: no disk or network that all share.
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

HOUR = 3600.0
RESULTS = Path(__file__).parent / "results"
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "scale.png"


@dataclass(frozen=True)
class Cluster:
    """Machines and what happens to them.

    Attributes:
        workers: At work at the same time.
        slowness: Standard deviation of the logarithm of how slow a worker is; 0 = all are equal.
        losses: Of a worker, per hour; the time to a loss is exponential.
        restart: Seconds until another worker is there in the place of a lost one.
        overhead: Seconds that every chunk takes beside its images.
    """

    workers: int
    slowness: float = 0.0
    losses: float = 0.0
    restart: float = 0.0
    overhead: float = 0.0


@dataclass(frozen=True)
class Course:
    """What became of a run.

    Attributes:
        makespan: Seconds from its begin to its last image.
        lost: Worker seconds that were spent on chunks whose worker was lost.
        losses: How many workers were lost while they were at a chunk.
        ideal: Seconds of all images on one worker of ordinary speed, over the workers.
    """

    makespan: float
    lost: float
    losses: int
    ideal: float

    @property
    def stretch(self) -> float:
        """How many times the ideal."""
        return self.makespan / self.ideal


def simulate(
    seconds: Sequence[float], images: int, chunk: int, cluster: Cluster, seed: int = 0
) -> Course:
    """One run.

    Args:
        seconds: Of measured images, from which those of each image are drawn.
        images: Of the run.
        chunk: Images that a worker takes at once.
    """
    rng = np.random.default_rng(seed)
    sizes = np.full(images // chunk, chunk)
    if images % chunk:
        sizes = np.append(sizes, images % chunk)
    work = _chunk_seconds(np.asarray(seconds, float), sizes, rng)
    speeds = rng.lognormal(-(cluster.slowness**2) / 2, cluster.slowness, cluster.workers)
    until = _next_losses(cluster, rng, cluster.workers)
    queue = list(range(len(work)))[::-1]
    free = [(0.0, worker) for worker in range(cluster.workers)]
    heapq.heapify(free)
    running: list[tuple[float, int, int, float]] = []  # end, worker, chunk or -1 if lost, begin
    lost, losses, end = 0.0, 0, 0.0
    again: list[int] = []
    while queue or again or running:
        # a worker that becomes free before anything ends takes the next chunk
        if free and (queue or again) and (not running or free[0][0] <= running[0][0]):
            now, worker = heapq.heappop(free)
            taken = queue.pop() if queue else again.pop(0)
            while until[worker] <= now:  # it was lost while it waited
                until[worker] += _next_losses(cluster, rng, 1)[0]
            ends = now + work[taken] * speeds[worker] + cluster.overhead
            if until[worker] < ends:
                heapq.heappush(running, (until[worker], worker, -1 - taken, now))
            else:
                heapq.heappush(running, (ends, worker, taken, now))
            continue
        now, worker, taken, began = heapq.heappop(running)
        if taken >= 0:
            end = max(end, now)
            heapq.heappush(free, (now, worker))
            continue
        lost, losses = lost + now - began, losses + 1
        again.append(-1 - taken)
        speeds[worker] = rng.lognormal(-(cluster.slowness**2) / 2, cluster.slowness)
        until[worker] = now + cluster.restart + _next_losses(cluster, rng, 1)[0]
        heapq.heappush(free, (now + cluster.restart, worker))
    ideal = float(np.mean(seconds)) * images / cluster.workers
    return Course(float(end), float(lost), losses, ideal)


def _chunk_seconds(seconds: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Of each chunk; the sum over a large one is drawn as a normal, which it nearly is."""
    if sizes[0] <= 64:
        return np.array([rng.choice(seconds, size).sum() for size in sizes])
    drawn = rng.normal(sizes * seconds.mean(), np.sqrt(sizes) * seconds.std())
    return np.maximum(drawn, sizes * seconds.min())


def _next_losses(cluster: Cluster, rng: np.random.Generator, workers: int) -> np.ndarray:
    if not cluster.losses:
        return np.full(workers, np.inf)
    return rng.exponential(HOUR / cluster.losses, workers)


def mean_course(
    seconds: Sequence[float], images: int, chunk: int, cluster: Cluster, runs: int
) -> dict[str, float]:
    """Mean stretch and lost share of some runs, and the worst stretch."""
    courses = [simulate(seconds, images, chunk, cluster, seed) for seed in range(runs)]
    whole = float(np.mean(seconds)) * images
    return {
        "stretch": float(np.mean([each.stretch for each in courses])),
        "worst": max(each.stretch for each in courses),
        "lost": float(np.mean([each.lost for each in courses])) / whole,
        "losses": float(np.mean([each.losses for each in courses])),
    }


CHUNKS = (1, 4, 16, 64, 256, 1000, 2000)
CASES = {
    "equal workers": Cluster(100, overhead=0.1),
    "unequal workers": Cluster(100, slowness=0.25, overhead=0.1),
    "0.1 lost an hour": Cluster(100, slowness=0.25, losses=0.1, restart=120, overhead=0.1),
    "1 lost an hour": Cluster(100, slowness=0.25, losses=1.0, restart=120, overhead=0.1),
}
"""Workers of one core each. An overhead as a task of Ray has it, with an open manifest."""


def measured_seconds(results: Path) -> list[float]:
    """Seconds of each image that ``measure_scale`` has measured: superpixels, encoders and PAR."""
    table = json.loads(results.read_text(encoding="utf-8"))["each"]
    stages = ("read and decode", "SLIC", "encoders and CAM", "PAR")
    return [sum(each) for each in zip(*(table[stage] for stage in stages), strict=False)]


def draw(table: dict[str, dict[int, dict[str, float]]], chunks: Sequence[int], to: Path) -> None:
    """Stretch and lost work by size of chunks, a line per case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name, rows in table.items():
        left.plot(chunks, [rows[chunk]["stretch"] for chunk in chunks], marker="o", label=name)
        right.plot(chunks, [100 * rows[chunk]["lost"] for chunk in chunks], marker="o", label=name)
    for axes, label in ((left, "makespan / ideal"), (right, "work lost, %")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(chunks, [f"{chunk:,}" for chunk in chunks], fontsize=7)
        axes.set_xlabel("images in a chunk")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    left.set_ylim(0.9, 2.5)
    right.set_yscale("symlog", linthresh=0.1)
    right.set_ylim(bottom=0)
    left.legend()
    to.parent.mkdir(exist_ok=True)
    figure.savefig(to, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=100)
    chosen = parser.parse_args()
    seconds = measured_seconds(RESULTS / "scale.json")
    print(f"{np.mean(seconds):.2f} s an image, deviation {np.std(seconds):.2f}")
    table: dict[str, dict[int, dict[str, float]]] = {}
    for name, case in CASES.items():
        cluster = replace(case, workers=chosen.workers)
        table[name] = {
            chunk: mean_course(seconds, chosen.images, chunk, cluster, chosen.runs)
            for chunk in CHUNKS
        }
        for chunk, row in table[name].items():
            figures = "  ".join(f"{key} {value:.4f}" for key, value in row.items())
            print(f"{name:16} {chunk:5}  {figures}", flush=True)
    draw(table, CHUNKS, FIGURE)


if __name__ == "__main__":
    main()
