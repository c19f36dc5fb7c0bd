"""Images a second and latency of `ssrseg serve` on this machine, for 1, 4 and 16 clients.

    python benchmarks/measure_serve.py PHOTOS                       # presets demo and photos
    python benchmarks/measure_serve.py PHOTOS --worlds true         # encoders of true size, random

PHOTOS is a folder of photographs of one size, such as VOC's 500 x 375; others are left out. The
decoder is untrained, for what it has learned takes no time, and there is no DenseCRF. The server is
the command in a process of its own with one thread; clients are threads of this one. Each number is
that of the best of some rounds, which take turns: the machine may have other work, which only ever
makes a round slower. Core seconds of the server say what an image costs whatever else goes on.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx2
import numpy as np
from PIL import Image
from random_encoders import save_encoders
from timing import commit, processor

from ssrseg.config import load_config
from ssrseg.data.classes import VOC_CLASSES
from ssrseg.data.files import write_json
from ssrseg.model import SSR
from ssrseg.trained_parts import new_decoder

SIZE = (500, 375)
CLIENTS = (1, 4, 16)
TIMEOUT = 600.0


@dataclass(frozen=True)
class Load:
    """A round of requests; core seconds are those of the server, for an image."""

    world: str
    batch: int
    clients: int
    images_per_second: float
    p50: float
    p95: float
    mean_batch: float
    core_seconds: float


def save_model(world: str, folder: Path) -> Path:
    """A run with an untrained decoder."""
    overrides = []
    if world == "true":
        save_encoders(folder)
        overrides = [f"backbones.clip={folder / 'clip'}", f"backbones.dino={folder / 'dino'}"]
    config = load_config("ssr" if world == "true" else world, overrides=overrides)
    model = SSR.from_config(config, VOC_CLASSES)
    decoder = new_decoder(config.decoder, model.clip, len(VOC_CLASSES))
    run = folder / world
    model.with_config(config, decoder=decoder).save_pretrained(run)
    return run


@contextmanager
def server(run: Path, batch: int) -> Iterator[tuple[str, int]]:
    """The address of a server of this run, and its process."""
    command = [sys.executable, "-m", "ssrseg", "serve", str(run), "--port", "0", "--no-crf"]
    command += ["--batch", str(batch), "--device", "cpu", "--seconds", str(TIMEOUT)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Ready"):
                yield line.split()[1].rstrip("/"), process.pid
                break
        process.terminate()


def load(
    address: str, photos: Sequence[bytes], clients: int, each: int
) -> tuple[float, list[float]]:
    """Seconds of a round, and of each request: every client sends one after the other."""
    seconds: list[float] = []

    def send(first: int) -> None:
        with httpx2.Client(base_url=address, timeout=TIMEOUT) as client:
            for number in range(first, first + each):
                start = time.perf_counter()
                answer = client.post("/v1/segment", content=photos[number % len(photos)])
                answer.raise_for_status()
                seconds.append(time.perf_counter() - start)

    threads = [threading.Thread(target=send, args=(client * each,)) for client in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start, seconds


def core_seconds(process: int) -> float:
    """What a process has taken so far."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def batches(address: str) -> tuple[float, float]:
    """How many photographs the model has seen, and at how many times."""
    text = httpx2.get(f"{address}/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return float(lines["ssrseg_batch_size_sum"]), float(lines["ssrseg_batch_size_count"])


def measure(world: str, run: Path, photos: Sequence[bytes], images: int, rounds: int) -> list[Load]:
    """The best round of each number of clients, without and with batches."""
    best: dict[tuple[int, int], Load] = {}
    with server(run, 1) as alone, server(run, 8) as together:
        for address, _ in (alone, together):
            load(address, photos, 1, 2)  # warm
        for _ in range(rounds):
            for clients in CLIENTS:
                for batch, (address, process) in ((1, alone), (8, together)):
                    seen, times = batches(address)
                    before = core_seconds(process)
                    took, seconds = load(address, photos, clients, max(2, images // clients))
                    after, more = batches(address)
                    cost = (core_seconds(process) - before) / len(seconds)
                    p50, p95 = (float(each) for each in np.percentile(seconds, [50, 95]))
                    mean = (after - seen) / (more - times)
                    found = Load(world, batch, clients, len(seconds) / took, p50, p95, mean, cost)
                    known = best.get((batch, clients))
                    if known is None or found.images_per_second > known.images_per_second:
                        best[batch, clients] = found
    return [best[key] for key in sorted(best)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--worlds", nargs="+", default=["demo", "photos"])
    parser.add_argument("--images", type=int, default=32, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    files = (path for path in sorted(chosen.photos.glob("*.jpg")) if Image.open(path).size == SIZE)
    photos = [path.read_bytes() for path, _ in zip(files, range(32), strict=False)]
    found = []
    with tempfile.TemporaryDirectory() as name:
        for world in chosen.worlds:
            run = save_model(world, Path(name))
            for each in measure(world, run, photos, chosen.images, chosen.rounds):
                found.append(each)
                print(
                    f"{world:7} batch {each.batch}  {each.clients:2} clients "
                    f" {each.images_per_second:6.2f} images/s  p50 {each.p50:6.3f} s  p95"
                    f" {each.p95:6.3f} s  mean batch {each.mean_batch:.1f}  core"
                    f" {each.core_seconds:.3f} s",
                    flush=True,
                )
    table = {
        "commit": commit(),
        "processor": processor(),
        "loads": [asdict(each) for each in found],
    }
    name = "-".join(chosen.worlds)
    write_json(Path(__file__).parent / "results" / f"serve-{name}.json", table)


if __name__ == "__main__":
    main()
