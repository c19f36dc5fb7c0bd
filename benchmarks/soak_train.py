"""500 iterations of training by two processes: memory and open files of each over time.

Drawn scenes of the demo with its encoders: crops are loaded, masked and learned from in every
iteration of the decoder, and a checkpoint is saved, and masks are scored, every 50. Exit 1 if
memory or open files grow from the second tenth of the decoder's iterations to the last.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from timing import RESULTS, provenance

from ssrseg.data.files import write_json
from ssrseg.demo.scenes import write_dataset

matplotlib.use("Agg")
FIRST_SCENE = 2_200_000_000
FIGURE = Path(__file__).resolve().parents[1] / "docs" / "figures" / "soak_train.png"
MB = 2**20


@dataclass(frozen=True)
class Look:
    """A moment of a process."""

    seconds: float
    iteration: int
    rank: int
    rss_mb: float
    open_files: int


def train(data: Path, out: Path, processes: int, iterations: int) -> subprocess.Popen[bytes]:
    """A fifth of the iterations are CMPA's."""
    align = iterations // 5
    settings = {
        "data.workers": 1, "optim.features": "online", "optim.batch": 4, "optim.save_every": 50,
        "optim.cmpa_iterations": align, "optim.iterations": iterations - align,
        "cmpa.update_every": 25,
    }  # fmt: skip
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    words += ["-m", "--", "ssrseg", "train", "--data", data, "--split", "train", "--out", out]
    words += ["--preset", "demo", "--device", "cpu", "--monitor", 4]
    words += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    log = (out.parent / "log.txt").open("wb")
    return subprocess.Popen([sys.executable, *map(str, words)], stdout=log, stderr=log)


def ranks(launcher: int) -> dict[int, int]:
    """Process numbers of the ranks; their loaders are not among the launcher's children."""
    found = {}
    with suppress(OSError):
        children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
        for pid in map(int, children):
            for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                if entry.startswith(b"RANK="):
                    found[int(entry[5:])] = pid
    return found


def watch(process: subprocess.Popen[bytes], log: Path, every: float) -> list[Look]:
    """A look at each rank every few seconds until training ends."""
    start, looks = time.monotonic(), []
    while process.poll() is None:
        iteration = 0
        with suppress(OSError):
            iteration = max(0, log.read_text().count("\n") - 1)
        for rank, pid in ranks(process.pid).items():
            with suppress(OSError, ValueError, IndexError):
                status = Path(f"/proc/{pid}/status").read_text()
                rss = int(status.split("VmRSS:")[1].split()[0]) * 1024 / MB
                files = len(os.listdir(f"/proc/{pid}/fd"))
                seconds = round(time.monotonic() - start, 1)
                looks.append(Look(seconds, iteration, rank, round(rss, 1), files))
        time.sleep(every)
    return looks


def growth(looks: list[Look], iterations: int) -> dict[str, float]:
    """The most memory and files of a rank in the second and the last tenth of the decoder's time.

    After the last iteration the report is made, which is no training any more.
    """
    found, align = {}, iterations // 5
    length = iterations - align
    for rank in sorted({each.rank for each in looks}):
        for name, first, last in (("begin", 0.1, 0.2), ("end", 0.9, 1.0)):
            here = [
                each
                for each in looks
                if each.rank == rank
                and align + first * length <= each.iteration < align + last * length
            ]
            for of in ("rss_mb", "open_files"):
                found[f"rank_{rank}_{of}_{name}"] = max(getattr(each, of) for each in here)
    return found


def is_flat(found: dict[str, float]) -> bool:
    """Whether memory is at most 3 % more at the end, and files are at most one more."""
    ends = [name for name in found if name.endswith("_end")]
    allowed = {"rss_mb": (1.03, 0), "open_files": (1, 1)}
    return all(
        found[name] <= found[name.replace("_end", "_begin")] * factor + more
        for name in ends
        for of, (factor, more) in allowed.items()
        if of in name
    )


def draw(looks: list[Look], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, (memory, files) = plt.subplots(
        2, 1, sharex=True, figsize=(6.4, 4.2), layout="constrained"
    )
    for rank in sorted({each.rank for each in looks}):
        own = [each for each in looks if each.rank == rank and each.iteration]
        iterations = [each.iteration for each in own]
        memory.plot(iterations, [each.rss_mb for each in own], label=f"process {rank}")
        files.plot(iterations, [each.open_files for each in own], label=f"process {rank}")
    memory.set(ylabel="resident memory, MB", ylim=(0, None))
    files.set(ylabel="open files", xlabel="iterations", ylim=(0, None))
    memory.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--every", type=float, default=3.0, help="seconds between looks")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        data, out = Path(name, "scenes"), Path(name, "run")
        write_dataset(data, train=range(FIRST_SCENE, FIRST_SCENE + 60), val=range(0))
        start = time.monotonic()
        process = train(data, out, options.processes, options.iterations)
        looks = watch(process, out / "log.csv", options.every)
        if process.returncode:
            raise SystemExit(Path(name, "log.txt").read_text()[-3000:])
        seconds = round(time.monotonic() - start)
    found = growth(looks, options.iterations)
    with (RESULTS / "soak_train.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(Look.__dataclass_fields__)
        table.writerows(vars(each).values() for each in looks)
    draw(looks, FIGURE)
    report = {**provenance(), "iterations": options.iterations, "seconds": seconds, **found}
    write_json(RESULTS / "soak_train.json", report)
    print(report)
    sys.exit(not is_flat(found))


if __name__ == "__main__":
    main()
