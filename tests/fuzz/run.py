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
import signal
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "src")]
os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

from fuzz.cases import Outcome  # noqa: E402
from fuzz.readers import readers  # noqa: E402

_CHUNK = 2000  # cases of one process
_PATIENCE = 60.0  # seconds for one case


def fuzz(name: str, cases: range, seed: int, keep: Path) -> Outcome:
    """All cases of a reader."""
    total, first = Outcome(), cases.start
    while first < cases.stop:
        last = min(first + _CHUNK, cases.stop)
        outcome, died = _in_process(name, first, last, seed, keep)
        while died:  # find the case: every one before it can be run again
            at = next((n for n in range(first, last) if _dies(name, n, seed, keep)), None)
            what = f"{died} in case {at}"
            total.add(Outcome(cases=1, foreign={what: 1}))
            if at is None or at + 1 >= last:
                break
            before, _ = _in_process(name, first, at, seed, keep)
            total.add(before)
            first = at + 1
            outcome, died = _in_process(name, first, last, seed, keep)
        total.add(outcome)
        first = last
    return total


def _dies(name: str, number: int, seed: int, keep: Path) -> bool:
    return bool(_in_process(name, number, number + 1, seed, keep)[1])


def _in_process(name: str, first: int, last: int, seed: int, keep: Path) -> tuple[Outcome, str]:
    """What became of the cases, or how the process died."""
    words = [sys.executable, "-m", "fuzz.cases", name, first, last, seed, keep]
    now = keep / f"{name.replace(' ', '-').strip('-')}.now"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path[:2])}
    child = subprocess.Popen(
        [*map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    begun, hung = time.time(), False
    while True:
        try:
            out, err = child.communicate(timeout=1)
            break
        except subprocess.TimeoutExpired:
            changed = now.stat().st_mtime if now.exists() else begun
            if time.time() - max(changed, begun) > _PATIENCE:
                hung = True
                child.kill()
    if child.returncode == 0:
        return Outcome(**json.loads(out.splitlines()[-1])), ""
    if now.exists():
        now.replace(now.with_suffix(f".died-{first}.input"))
    code = child.returncode
    died = "hung" if hung else signal.Signals(-code).name if code < 0 else f"exit {code}"
    return Outcome(), died if code < 0 else f"{died}: {err.decode(errors='replace')[-300:]}"


def main() -> int:
    """Run the readers one after the other and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000, help="of each reader")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", help="a reader; may be given many times")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    given = parser.parse_args()
    failed = 0
    print(f"{'reader':18}{'cases':>9}{'refused':>9}{'cases/s':>9}{'slowest':>9}  foreign", flush=True)
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
