"""What it costs to notice JPEGs that end early.

    python benchmarks/measure_jpeg.py FOLDER

Reads the JPEGs of a folder by ``read_image`` and by Pillow alone, best of three in processor time,
and counts those that are refused.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ssrseg.data.images import read_image
from ssrseg.errors import SSRError

TIMED = 200


def seconds(read: Callable[[Path], object], files: list[Path]) -> float:
    """Processor time of reading all, the best of three."""
    times = []
    for _ in range(3):
        start = time.process_time()
        for file in files:
            read(file)
        times.append(time.process_time() - start)
    return min(times)


def refused(file: Path) -> bool:
    """Whether a photograph is taken for damaged; its reason is printed."""
    try:
        read_image(file)
    except SSRError as error:
        print(error)
        return True
    return False


def main() -> None:
    """Print one line."""
    found = sorted(path for path in Path(sys.argv[1]).rglob("*") if path.suffix.lower() == ".jpg")
    whole = [path for path in found if not refused(path)]
    timed = whole[:: max(1, len(whole) // TIMED)]
    plain = seconds(lambda path: np.array(Image.open(path).convert("RGB")), timed)
    checked = seconds(read_image, timed)
    print(f"{len(found)} JPEGs, {len(found) - len(whole)} refused; {checked / plain:.2f} x Pillow")


if __name__ == "__main__":
    main()
