"""Cases of one reader, one after the other in this process."""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fuzz.readers import Reader, readers
from ssrseg.errors import SSRError

MEMORY = 4 << 30  # bytes that a reader may ask for beyond what the libraries hold
LONGEST = 10_000  # characters of a message
_KEPT = 3  # inputs of one kind of failure


@dataclass
class Outcome:
    """What became of some cases.

    Attributes:
        cases: How many were read, ``refused`` of them with an error of ours.
        foreign: Number of cases by what came out of them that is not ours.
        slowest: Seconds.
    """

    cases: int = 0
    refused: int = 0
    foreign: dict[str, int] = field(default_factory=dict)
    slowest: float = 0.0

    def add(self, other: Outcome) -> None:
        """Count together."""
        self.cases += other.cases
        self.refused += other.refused
        self.slowest = max(self.slowest, other.slowest)
        for what, count in other.foreign.items():
            self.foreign[what] = self.foreign.get(what, 0) + count


def run_cases(
    name: str, reader: Reader, cases: range, seed: int, kept: Path, *, seconds: float = 1e9
) -> Outcome:
    """Read hostile inputs and count what comes out.

    Args:
        cases: Numbers of the cases; a case is the same whenever it is run under its number.
        seed: Of all cases.
        kept: Gets the inputs that anything foreign came out of, and ``NAME.now``, the current one.
        seconds: Stop after that time.
    """
    outcome, start = Outcome(), time.monotonic()
    kept.mkdir(parents=True, exist_ok=True)
    slug = name.replace(" ", "-").strip("-")
    now = kept / f"{slug}.now"
    for number in cases:
        content = reader.make(random.Random(f"{seed} {name} {number}"))
        now.write_bytes(content)
        reader.place.parent.mkdir(parents=True, exist_ok=True)
        reader.place.write_bytes(content)
        begun = time.monotonic()
        foreign = ""
        try:
            reader.read()
        except SSRError as error:
            outcome.refused += 1
            if len(str(error)) > LONGEST:
                foreign = f"a message of over {LONGEST:,} characters"
        except BaseException as error:  # a panic of Rust is no Exception
            if isinstance(error, KeyboardInterrupt | GeneratorExit):
                raise
            foreign = _place(error)
        outcome.cases += 1
        outcome.slowest = max(outcome.slowest, time.monotonic() - begun)
        if foreign:
            seen = outcome.foreign[foreign] = outcome.foreign.get(foreign, 0) + 1
            if seen <= _KEPT:
                (kept / f"{slug}-{number}.input").write_bytes(content)
                (kept / f"{slug}-{number}.txt").write_text(f"{foreign}\n", "utf-8", "replace")
        if time.monotonic() - start > seconds:
            break
    now.unlink()
    return outcome


def _place(error: BaseException) -> str:
    """``TypeError at data/coco.py:12: ...``, the innermost line of the package."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "ssrseg" in f.filename]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:60]}"


def limit_memory() -> None:
    """Let a reader that asks for too much get a MemoryError; where the system can."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        held = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))


def main() -> None:
    """``python -m fuzz.cases NAME FIRST LAST SEED KEPT``: prints the outcome as JSON."""
    name, first, last, seed, kept = sys.argv[1:]
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(dir=_memory_disk()) as folder:
        reader = readers(Path(folder))[name]()
        limit_memory()
        with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
            outcome = run_cases(name, reader, range(int(first), int(last)), int(seed), Path(kept))
    print(json.dumps(asdict(outcome)))


def _memory_disk() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


if __name__ == "__main__":
    main()
