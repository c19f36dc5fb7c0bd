"""Masks of 2,000 small images: memory and open files over time, and the same on Ray with kills.

Drawn scenes of the demo, 128 x 128, with its encoders. First one process makes all masks; then a
Ray cluster of this machine does, while a worker and an actor are killed, each in the middle. Exit 1
if memory or open files grow, or a byte of the masks differs.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from timing import RESULTS

from ssrseg.data.files import write_json
from ssrseg.demo.scenes import write_dataset

matplotlib.use("Agg")
FIRST_SCENE = 2_100_000_000
CHUNK = 100
WORKER, ACTOR = "ray::Map(_read)", "ray::MapWorker(MapBatches(_Maker)).submit"
MB = 2**20


@dataclass(frozen=True)
class Look:
    """A moment of a run; ``process`` is the command itself, without Ray's processes."""

    run: str
    seconds: float
    masks: int
    rss_mb: float
    open_files: int


def masks(data: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    words = ["masks", "--data", data, "--out", out, "--preset", "demo", "--no-report", *more]
    # photographs seen alone, so that other companions change no digit
    words += ["--set", "data.patches=1"]
    log = (out.parent / f"{out.name}.log").open("wb")
    return subprocess.Popen(
        [sys.executable, "-m", "ssrseg", *map(str, words)], stdout=log, stderr=log
    )


def watch(
    run: str, process: subprocess.Popen[bytes], out: Path, act: Callable[[int], None]
) -> list[Look]:
    """A look at the process every second until it ends; ``act`` is told how many masks it made."""
    start, looks = time.monotonic(), []
    while process.poll() is None:
        made = sum(1 for _ in out.rglob("masks/*.png"))
        with suppress(OSError, IndexError):  # it has just ended
            status = Path(f"/proc/{process.pid}/status").read_text()
            rss = int(status.split("VmRSS:")[1].split()[0]) * 1024 / MB
            files = len(os.listdir(f"/proc/{process.pid}/fd"))
            looks.append(Look(run, round(time.monotonic() - start, 1), made, round(rss, 1), files))
        act(made)
        time.sleep(1)
    if process.returncode:
        raise SystemExit((out.parent / f"{out.name}.log").read_text()[-3000:])
    return looks


def below(pid: int) -> Iterator[tuple[int, str]]:
    """Processes below one, by what they say that they do."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            stat = (folder / "stat").read_text()
            titles[int(folder.name)] = (folder / "cmdline").read_text().strip("\0 ")
            parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    for child, title in titles.items():
        above = child
        while above > 1 and above != pid:
            above = parents.get(above, 0)
        if above == pid and child != pid:
            yield child, title


class Killer:
    """Kills a worker when a third of the masks are made, and an actor at two thirds."""

    def __init__(self, pid: int, images: int) -> None:
        self._pid, self._left = pid, [(images // 3, WORKER), (2 * images // 3, ACTOR)]
        self.killed: list[dict[str, object]] = []

    def __call__(self, made: int) -> None:
        """Told how many masks there are."""
        if not self._left or made < self._left[0][0]:
            return
        kind = self._left[0][1]
        end = time.monotonic() + 30
        while time.monotonic() < end:
            for pid, title in below(self._pid):
                if title.startswith(kind):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        self._left.pop(0)
                        self.killed.append({"process": kind, "at_masks": made})
                        return
            time.sleep(0.01)


def contents(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file() and path.name != "merged.json")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def growth(looks: list[Look], images: int) -> dict[str, float]:
    """Memory and files in the second and in the last tenth of the images."""

    def mean(first: float, last: float, of: str) -> float:
        values = [
            getattr(each, of) for each in looks if first * images <= each.masks <= last * images
        ]
        return sum(values) / len(values)

    return {
        f"{of}_{name}": round(mean(first, last, of), 1)
        for of in ("rss_mb", "open_files")
        for name, first, last in (("begin", 0.1, 0.2), ("end", 0.9, 1.0))
    }


def draw(looks: list[Look], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, (memory, files) = plt.subplots(
        2, 1, sharex=True, figsize=(6.4, 4.2), layout="constrained"
    )
    memory.plot([each.masks for each in looks], [each.rss_mb for each in looks])
    files.plot([each.masks for each in looks], [each.open_files for each in looks])
    memory.set(ylabel="resident memory, MB", ylim=(0, None))
    files.set(ylabel="open files", xlabel="masks made", ylim=(0, None))
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--without-ray", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, images = Path(name), options.images
        data = folder / "scenes"
        write_dataset(data, train=range(FIRST_SCENE, FIRST_SCENE + images), val=range(0))
        start = time.monotonic()
        looks = watch("plain", masks(data, folder / "plain"), folder / "plain", lambda _: None)
        found: dict[str, object] = {
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "images": images,
            "seconds": round(time.monotonic() - start),
            **growth(looks, images),
        }
        differing: list[str] = []
        if not options.without_ray:
            start = time.monotonic()
            process = masks(data, folder / "ray", "--ray", "local", "--chunk", str(CHUNK))
            killer = Killer(process.pid, images)
            looks += watch("ray", process, folder / "ray", killer)
            plain, ray = contents(folder / "plain"), contents(folder / "ray")
            differing = sorted(
                key for key in plain.keys() | ray.keys() if plain.get(key) != ray.get(key)
            )
            found |= {
                "ray_seconds": round(time.monotonic() - start), "ray_killed": killer.killed,
                "files": len(plain), "differing": differing[:20],
            }  # fmt: skip
    with (RESULTS / "soak_masks.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(Look.__dataclass_fields__)
        table.writerows(vars(each).values() for each in looks)
    draw([each for each in looks if each.run == "plain"], RESULTS / "soak_masks.png")
    write_json(RESULTS / "soak_masks.json", found)
    print(found)
    flat = found["rss_mb_end"] <= 1.1 * found["rss_mb_begin"] and (
        found["open_files_end"] <= found["open_files_begin"] + 1
    )
    sys.exit(not flat or bool(differing))


if __name__ == "__main__":
    main()
