"""A threshold moved: masks made again from kept CAMs, against making everything.

The command line as a user calls it, each time in a process of its own, on encoders of true size.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from random_encoders import save_encoders, write_photographs
from timing import Ratio, finish

IMAGES = 20


def seconds(folder: Path, *settings: str) -> float:
    """Processor time of ``ssrseg masks`` from start to end, whatever else the machine does."""
    command = [sys.executable, "-m", "ssrseg", "masks", "--data", str(folder / "photos")]
    command += ["--clip", str(folder / "clip"), "--dino", str(folder / "dino")]
    command += ["--out", str(folder / "masks")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [*command, *(word for each in settings for word in ("--set", each))],
        check=True,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_encoders(folder)
        write_photographs(folder / "photos", IMAGES)
        whole = seconds(folder)
        size = sum(path.stat().st_size for path in (folder / "masks" / "cams").iterdir())
        again = {
            "pseudo.alpha=2": seconds(folder, "pseudo.alpha=2"),
            "pseudo.min_score=0.6": seconds(folder, "pseudo.min_score=0.6"),
            "pseudo.refine=crf": seconds(folder, "pseudo.refine=crf"),
            "nothing": seconds(folder, "pseudo.refine=crf"),
        }
    rows = [
        Ratio(f"masks of {IMAGES} photographs, {what} changed", took, "everything", whole)
        for what, took in again.items()
    ]
    finish("stages", rows, kilobytes_of_cams=size / IMAGES / 1000)


if __name__ == "__main__":
    main()
