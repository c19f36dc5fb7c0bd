"""Memory of masks over the size of an image: no more than some rows of it may be there at once.

A scene of fields with boats on none of them is written as a tiled TIFF and as a PNG, and
``make_masks`` makes its mask in a process of its own, which notes its resident memory ten times a
second. ``python benchmarks/measure_large.py --sides 2500 5000 10000 20000``
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

MB = 2**20
SETTINGS = ["data.tile=2048", "pseudo.par_iterations=1", "pseudo.par_dilations=[1]"]
"""Larger tiles, which take more memory, and less of PAR, which takes time."""


def resident() -> tuple[float, float]:
    """Resident memory of this process, now and at its peak, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return tuple(int(found[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


def write_scene(path: Path, side: int) -> None:
    """A TIFF or PNG of noise on fields, written a few rows at a time."""
    import rasterio

    rng = np.random.default_rng(0)
    fields = rng.integers(60, 200, (3, 40, 40)).astype(np.uint8)
    form = {"driver": "GTiff", "height": side, "width": side, "count": 3, "dtype": "uint8"}
    place = rasterio.transform.Affine(0.5, 0, 500_000, 0, -0.5, 4_600_000)
    form |= {"tiled": True, "compress": "deflate", "photometric": "rgb", "crs": "EPSG:32633"}
    tif = path.with_suffix(".tif")
    columns = np.arange(side) * 40 // side
    with rasterio.Env(GDAL_CACHEMAX=64), rasterio.open(tif, "w", transform=place, **form) as file:
        for top in range(0, side, 256):
            rows = np.arange(top, min(side, top + 256)) * 40 // side
            noise = rng.integers(0, 8, (1, len(rows), side)).astype(np.uint8)
            window = ((top, top + len(rows)), (0, side))
            file.write(fields[:, rows][:, :, columns] + noise, window=window)
    if path.suffix == ".png":
        import rasterio.shutil

        rasterio.shutil.copy(tif, path, driver="PNG")
        tif.unlink()


def one_mask(folder: Path, settings: list[str]) -> None:
    """Make the mask; print time, resident memory over time, and the peak."""
    from ssrseg.config import load_config
    from ssrseg.pseudo_masks import make_masks

    curve, ended, start = [], threading.Event(), time.monotonic()

    def watch() -> None:
        while not ended.wait(0.1):
            curve.append(resident()[0])

    # the encoders and the libraries are there before the first image
    config = load_config("photos", overrides=settings)
    watcher = threading.Thread(target=watch)
    watcher.start()
    make_masks(folder, folder / "masks", config, device="cpu")
    ended.set()
    watcher.join()
    parts = [max(part) for part in np.array_split(curve, min(20, len(curve)))]
    mask = (folder / "masks" / "masks" / "scene.png").stat().st_size
    print(json.dumps([time.monotonic() - start, parts, resident()[1], mask]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[2500, 5000, 10_000])
    parser.add_argument("--kinds", nargs="+", default=["tif"], choices=["tif", "png"])
    parser.add_argument("--set", nargs="*", default=SETTINGS, dest="settings")
    parser.add_argument("--only", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.only:
        one_mask(chosen.only, chosen.settings)
        return
    print("side, kind, seconds, peak MB, of 1 byte a pixel MB, mask file MB, curve MB")
    for kind in chosen.kinds:
        for side in chosen.sides:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                write_scene(folder / f"scene.{kind}", side)
                labels = f"image,labels\nscene.{kind},boat;person\n"
                (folder / "labels.csv").write_text(labels, encoding="utf-8")
                command = [sys.executable, __file__, "--only", name, "--set", *chosen.settings]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                seconds, curve, peak, mask = json.loads(done.stdout.splitlines()[-1])
                line = f"{side:,}, {kind}, {seconds:.0f}, {peak:.0f}, {side**2 / MB:.0f}"
                print(f"{line}, {mask / MB:.2f}, {[round(each) for each in curve]}", flush=True)


if __name__ == "__main__":
    main()
