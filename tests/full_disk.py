"""Run `train`, `masks` and `predict` on disks that are too small, make room, run them again:
sudo python tests/full_disk.py (Linux; mounts a tmpfs). Prints a table for docs/reliability.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from kills import jobs

SIZES = [(kib, 1000) for kib in (16, 60, 120, 300, 600, 900)]
SIZES += [(4000, inodes) for inodes in (8, 14, 20, 26)]
START = "import sys; sys.argv = {!r}; from ssrseg.cli import main; main()"


def run(words: list[str]) -> tuple[int, str]:
    """Exit code, and what was said on standard error."""
    command = [sys.executable, "-c", START.format(["ssrseg", *words])]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stderr


def mount(disk: Path, options: str) -> None:
    """A tmpfs at ``disk``, or other options of the one that is there."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], check=True)


def main() -> int:
    """Exit code 1 if a full disk was not said in one paragraph, or a run did not go on."""
    wrong = 0
    print("| command | disks | too small | said in one paragraph | leftovers | went on |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder, disk = Path(name), Path(name, "disk")
        disk.mkdir()
        for job in jobs(folder):
            found: Counter[str] = Counter()
            for kib, inodes in SIZES:
                mount(disk, f"size={kib}k,nr_inodes={inodes}")
                words = [*job.words, "--out", str(disk / "out")]
                code, said = run(words)
                if code:
                    found["small"] += 1
                    paragraph = said.rpartition("Error: ")[2].strip()
                    found["said"] += code == 2 and str(disk) in paragraph and "\n" not in paragraph
                    found["left"] += sum(".tmp" in path.name for path in disk.rglob("*"))
                    mount(disk, "remount,size=64m,nr_inodes=10000")
                    found["on"] += run(words)[0] == 0
                subprocess.run(["umount", str(disk)], check=True)
            cells = (found[key] for key in ("small", "said", "left", "on"))
            print(f"| {job.name} | {len(SIZES)} | {' | '.join(map(str, cells))} |", flush=True)
            wrong += found["said"] < found["small"] or found["on"] < found["small"] or found["left"]
    return int(bool(wrong))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
