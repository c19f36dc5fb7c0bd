"""What report.html costs: its share of a run of masks with true-size encoders, and its size.

Processor time, so that other work on the machine does not count. Real photographs, as drawn ones
are smaller: ``python benchmarks/measure_report.py PHOTOS`` with a data set's folder.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from random_encoders import save_encoders

import ssrseg
from ssrseg import mask_folder


def main(photos: Path, images: int, size: int) -> None:
    """Make masks of some images with true-size encoders, and a page of more with small ones."""
    data = ssrseg.open_labelled(photos)
    write, spent = mask_folder.write_masks_report, 0.0

    def timed(*arguments: object, **options: object) -> object:
        nonlocal spent
        start = time.process_time()
        page = write(*arguments, **options)
        spent = time.process_time() - start
        return page

    mask_folder.write_masks_report = timed
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_encoders(folder)
        true = [f"backbones.{each}={folder / each}" for each in ("clip", "dino")]
        for which, number, preset, overrides in (
            ("true-size encoders", images, "ssr", true),
            ("small encoders", size, "photos", []),
        ):
            some, out = replace(data, samples=data.samples[:number]), folder / which
            start = time.process_time()
            ssrseg.make_masks(some, out, ssrseg.load_config(preset, overrides=overrides))
            whole = time.process_time() - start
            kilobytes = (out / "report.html").stat().st_size / 1000 / len(some)
            print(
                f"{which}, {len(some)} images: report {1000 * spent / len(some):.0f} ms an image,"
                f" {spent / whole:.1%} of {whole:.0f} s; {kilobytes:.1f} kB an image"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--size", type=int, default=60)
    options = parser.parse_args()
    main(options.photos, options.images, options.size)
