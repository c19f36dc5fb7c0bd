"""Hostile inputs for every reader: only errors of our own may come out.

    python tests/fuzz/run.py --cases 100000

Each reader runs in processes of its own with bounded memory. One that dies or hangs loses one case,
whose input is kept, and goes on behind it. Inputs that failed lie in ``--keep``, with what came out
of them beside; ``--only NAME --cases 1 --first NUMBER`` runs one of them again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import asdict
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "src")]
os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}

import torch  # noqa: E402
from fuzz.cases import Outcome, make_case, run_cases, short  # noqa: E402
from fuzz.readers import readers  # noqa: E402

MEMORY = 4 << 30  # bytes that a reader may ask for beyond what the libraries hold
_CHUNK = 2000  # cases of one process
_PATIENCE = 60.0  # seconds for one case


def fuzz(name: str, cases: range, seed: int, keep: Path) -> Outcome:
    """All cases of a reader, in processes that may die."""
    total, first = Outcome(), cases.start
    while first < cases.stop:
        chunk = range(first, min(first + _CHUNK, cases.stop))
        with tempfile.TemporaryDirectory(dir=_memory_disk()) as folder:
            found, died, at = _in_process(name, chunk, seed, keep, Path(folder))
            if died:
                reader = readers(Path(folder) / "again")[name]()
                content = make_case(name, reader, at, seed)
                (keep / f"{short(name)}-{at}.input").write_bytes(content)
                found = Outcome(cases=at + 1 - first, foreign={f"{died} (case {at})": 1})
        total.add(found)
        first = at + 1 if died else chunk.stop
    return total


def _in_process(
    name: str, cases: range, seed: int, keep: Path, folder: Path
) -> tuple[Outcome, str, int]:
    """What became of the cases; or how the process died, and in which case."""
    result, now = folder / "outcome.json", folder / "now.txt"
    sys.stdout.flush()
    child = os.fork()
    if not child:
        try:
            warnings.simplefilter("ignore")
            reader = readers(folder)[name]()
            _limit_memory()
            no = os.open(os.devnull, os.O_WRONLY)
            os.dup2(no, 1)
            os.dup2(no, 2)  # libraries in C write there, too
            found = run_cases(name, reader, cases, seed, keep, now=now)
            result.write_text(json.dumps(asdict(found)))
        except BaseException:  # noqa: BLE001  # of the harness
            traceback.print_exc()
        os._exit(0)
    begun, hung = time.time(), False
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        changed = now.stat().st_mtime if now.exists() else begun
        if time.time() - max(begun, changed) > _PATIENCE:
            hung = True
            os.kill(child, signal.SIGKILL)
        time.sleep(0.05)
    if result.exists():
        return Outcome(**json.loads(result.read_text())), "", cases.start
    at = int(now.read_text() or cases.start) if now.exists() else cases.start
    died = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "a fault"
    return Outcome(), "it hangs" if hung else f"ended by {died}", at


def _limit_memory() -> None:
    """A reader that asks for too much gets a MemoryError, where the system can."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        held = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))


def _memory_disk() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main() -> int:
    """Run the readers one after the other and print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=100_000, help="of each reader")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", help="a reader; may be given many times")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    given = parser.parse_args()
    torch.set_num_threads(1)  # processes are forked
    given.keep.mkdir(parents=True, exist_ok=True)
    failed = 0
    print(
        f"{'reader':18}{'cases':>9}{'refused':>9}{'cases/s':>9}{'slowest':>9}  foreign", flush=True
    )
    for name in given.only or readers(Path("unused")):
        start = time.monotonic()
        cases = range(given.first, given.first + given.cases)
        found = fuzz(name, cases, given.seed, given.keep)
        speed = found.cases / (time.monotonic() - start)
        foreign = sum(found.foreign.values())
        print(
            f"{name:18}{found.cases:9,}{found.refused:9,}{speed:9.0f}{found.slowest:8.1f}s"
            f"  {foreign or '-'}",
            flush=True,
        )
        for what, count in sorted(found.foreign.items(), key=lambda each: -each[1]):
            print(f"    {count:7,}  {what}", flush=True)
        failed += foreign
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
