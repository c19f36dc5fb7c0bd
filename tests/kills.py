"""Kill `train`, `masks` and `predict` again and again, start them again, and compare with a run
that nobody disturbed: python tests/kills.py --kills 120

Half of the kills hit a moment of the run (SIGKILL after a random time), half a step of its writing:
just before the n-th file is opened for writing, renamed or removed. A few are Ctrl-C and SIGTERM.
What is compared is every byte of every file, but for machine.yaml, which counts the starts, and for
the line of report.html on the last call.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from make_tiny import tiny_folder
from tiny_encoders import tiny_clip, tiny_dino

from ssrseg.cli import main

VOLATILE = ("machine.yaml",)  # an entry for every start of a run
LAST_CALL = rb"<div><dt>last call</dt>.*?</div>"
SETTINGS = (
    "optim.cmpa_iterations=5", "optim.iterations=5", "optim.batch=2", "optim.pairs=8",
    "optim.warmup=1", "optim.save_every=2", "data.crop=64", "cmpa.out=16", "cmpa.hidden=32",
    "cmpa.update_every=3", "cmpa.min_patches=1", "test.long_side=64", "sgc.n_segments=40",
    "affinity.clip_layers=-2", "affinity.dino_layers=-2", "decoder.layers=1",
)  # fmt: skip


@dataclass
class Job:
    """One command that is killed, and what came of it; ``first`` is run in its folder before."""

    name: str
    words: list[str]
    share: float
    first: list[str] = field(default_factory=list)
    kills: int = 0
    stops: int = 0
    starts: int = 0
    differences: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)


def run(job: Job, out: Path, kill_at: float | int | None, signum: int = signal.SIGKILL) -> int:
    """Run in a process of its own; ``kill_at`` is a time in seconds, or a step of its writing.

    Returns:
        Exit code, negative if a signal ended it.
    """
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        code = 130  # of a Ctrl-C before the command has begun
        try:
            code = _run_here(job, out, kill_at if isinstance(kill_at, int) else 0, signum)
        finally:
            os._exit(code)
    if isinstance(kill_at, float):
        end = time.monotonic() + kill_at
        while time.monotonic() < end:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                break
            time.sleep(0.002)
        else:
            os.kill(pid, signum)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _run_here(job: Job, out: Path, kill_at: int, signum: int) -> int:
    os.dup2(os.open(out.parent / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    os.dup2(1, 2)
    steps = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal steps
        writes = event in ("os.rename", "os.remove") or (
            event == "open" and isinstance(arguments[1], str) and set("wax+") & set(arguments[1])
        )
        if writes and str(out) in str(arguments[0]):
            steps += 1
            if steps == kill_at:
                os.kill(os.getpid(), signum)

    sys.addaudithook(count)
    try:
        with patch.object(sys, "argv", ["ssrseg", *job.words, "--out", str(out)]):
            main()
    except SystemExit as ended:
        (out.parent / "steps").write_text(str(steps))
        return int(ended.code or 0)
    return 1


def files(folder: Path) -> dict[str, bytes]:
    """Every file by its path below ``folder``."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name not in VOLATILE)
    contents = {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
    if "report.html" in contents:
        contents["report.html"] = re.sub(LAST_CALL, b"", contents["report.html"])
    return contents


def prepare(job: Job, out: Path) -> None:
    """Make the folder that a job begins with."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if job.first:
        assert run(Job(job.name, job.first, 0), out, None) == 0, (
            out.parent / "log.txt"
        ).read_text()


def rounds(job: Job, kills: int, folder: Path, draw: random.Random) -> Iterator[None]:
    """Kill a job so often, each time until it has once come to its end; a step per kill."""
    prepare(job, folder / "straight" / "out")
    start = time.monotonic()
    assert run(job, folder / "straight" / "out", None) == 0, (
        folder / "straight/log.txt"
    ).read_text()
    seconds = time.monotonic() - start
    expected, steps = (
        files(folder / "straight" / "out"),
        int((folder / "straight/steps").read_text()),
    )
    tries = 0
    while job.kills + job.stops < kills:
        tries += 1
        out = folder / f"try-{tries}" / "out"
        prepare(job, out)
        for _ in range(40):
            job.starts += 1
            late = draw.random()
            at = draw.randint(1, steps) if draw.random() < 0.5 else late * seconds
            signum = draw.choice([signal.SIGKILL] * 8 + [signal.SIGTERM, signal.SIGINT])
            code = run(job, out, at, signum)
            if code == 0:
                break
            job.kills += code == -signal.SIGKILL
            job.stops += code in (130, 143, -signal.SIGTERM, -signal.SIGINT)
            assert code in (-9, 130, 143, -15, -2), (out.parent / "log.txt").read_text()[-2000:]
            yield
            if job.kills + job.stops >= kills:
                break
        if code != 0:
            assert run(job, out, None) == 0, (out.parent / "log.txt").read_text()[-2000:]
        found = files(out)
        job.leftovers += [f"{out}/{name}" for name in found.keys() - expected.keys()]
        for name, content in expected.items():
            if found.get(name) != content:
                job.differences.append(f"{out}/{name}")


def jobs(folder: Path) -> list[Job]:
    """The commands, on random encoders and a few drawn images."""
    data = tiny_folder(folder / "data", n=6)
    encoders = ["--clip", str(tiny_clip(folder / "clip"))]
    dino = ["--dino", str(tiny_dino(folder / "dino"))]
    settings = [word for each in SETTINGS for word in ("--set", each)]
    train = ["train", "--data", str(data), *encoders, *dino, *settings]
    masks = ["masks", "--data", str(data), *encoders, *dino, *settings]
    model = folder / "model"
    predict = ["predict", "--images", str(data / "images"), "--model", str(model)]
    code = run(Job("model", train, 0), model, None)
    assert code == 0, (folder / "log.txt").read_text()
    loaders = [*train, "--set", "data.workers=2"]
    return [
        Job("train", train, 0.4),
        Job("train, 2 loaders", loaders, 0.06),
        Job("train, cached features", [*train, "--set", "optim.features=cached"], 0.1),
        Job("masks", masks, 0.17),
        Job("masks, other alpha", [*masks, "--set", "pseudo.alpha=3.0"], 0.1, first=masks),
        Job("predict", predict, 0.27),
    ]


def report(done: list[Job], seed: int, seconds: float) -> str:
    """The figures as Markdown."""
    lines = [
        "| command | starts | killed (SIGKILL) | stopped (Ctrl-C, SIGTERM) | files that differ |"
        " leftovers |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {job.name} | {job.starts} | {job.kills} | {job.stops} | {len(job.differences)} |"
        f" {len(job.leftovers)} |"
        for job in done
    ]
    total = sum(job.kills for job in done)
    lines.append(f"\n{total} kills, seed {seed}, {seconds:.0f} s.")
    return "\n".join(lines)


def harness(kills: int, seed: int) -> list[Job]:
    """All commands, killed ``kills`` times altogether."""
    with tempfile.TemporaryDirectory() as name:
        folder, done = Path(name), []
        for job in jobs(folder):
            place = folder / job.name.replace(", ", "-").replace(" ", "-")
            (place / "straight").mkdir(parents=True)
            draw = random.Random(f"{seed} {job.name}")
            for _ in rounds(job, max(1, round(job.share * kills)), place, draw):
                print(f"{job.name}: {job.kills + job.stops}", end="\r", flush=True)
            done.append(job)
        return done


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    begin = time.monotonic()
    results = harness(options.kills, options.seed)
    text = report(results, options.seed, time.monotonic() - begin)
    print(text)
    for result in results:
        print("\n".join(result.differences[:5] + result.leftovers[:5]))
    if options.report:
        options.report.write_text(text + "\n", encoding="utf-8")
    sys.exit(any(result.differences or result.leftovers for result in results))
