"""Cases of one reader, one after the other in this process."""

from __future__ import annotations

import random
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.readers import Reader

from ssrseg.errors import SSRError

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
    name: str,
    reader: Reader,
    cases: range,
    seed: int,
    kept: Path,
    *,
    seconds: float = 1e9,
    now: Path | None = None,
) -> Outcome:
    """Read hostile inputs and count what comes out.

    Args:
        cases: Numbers of the cases; a case is the same whenever it is run under its number.
        seed: Of all cases.
        kept: Gets the inputs that anything foreign came out of.
        seconds: Stop after that time.
        now: Has the number of the current case, for whoever watches.
    """
    outcome, start = Outcome(), time.monotonic()
    kept.mkdir(parents=True, exist_ok=True)
    slug = short(name)
    for number in cases:
        content = make_case(name, reader, number, seed)
        if now is not None:
            now.write_text(str(number))
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
    return outcome


def make_case(name: str, reader: Reader, number: int, seed: int) -> bytes:
    """The content of a case."""
    return reader.make(random.Random(f"{seed} {name} {number}"))


def short(name: str) -> str:
    """A reader's name in names of files."""
    return name.replace(" ", "-").strip("-")


def _place(error: BaseException) -> str:
    """``TypeError at data/coco.py:12: ...``, the innermost line of the package."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "ssrseg" in f.filename]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:60]}"
