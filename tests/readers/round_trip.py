"""What other programs see in our exports: mean IoU for each reader.

    python tests/readers/round_trip.py MASKS [IMAGES]

exports the masks of a folder in each format to a temporary folder and reads them back with the
program that each is for; these are installed in .venv-readers (`make readers`).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from ssrseg.console import print_table
from ssrseg.data.class_ids import read_class_ids
from ssrseg.export.run import export_masks

PYTHON = Path(__file__).resolve().parents[2] / ".venv-readers" / "bin" / "python"

TRIPS = (
    ("voc", "datumaro_voc", None),
    ("coco", "pycocotools", None),
    ("coco", "datumaro_coco", None),
    ("cvat", "datumaro_cvat", None),
    ("labelstudio", "label_studio", None),
    ("yolo", "supervision", 0.0),
    ("yolo", "supervision", 1.0),
    ("labelme", "labelme", 0.0),
    ("labelme", "labelme", 1.0),
    ("labelme", "labelme", 2.0),
)
"""Format, reader, tolerance."""

KEEPS_UNDECIDED = {"voc", "labelme"}


def read_back(reader: str, export: Path, photos: Path, out: Path) -> dict[str, np.ndarray]:
    """Class ids by name of the image, as a program sees them."""
    script = Path(__file__).with_name("read_back.py")
    words = [PYTHON, script, reader, export, photos, out]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {
        path.relative_to(out).with_suffix("").as_posix(): np.load(path)
        for path in out.rglob("*.npy")
    }


def main(masks: str, images: str | None = None) -> None:
    """Print the table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (to, reader, tolerance) in enumerate(TRIPS):
            out = Path(folder, str(number))
            result = export_masks(masks, to, out / "export", images=images, tolerance=tolerance)
            found = read_back(reader, out / "export", result.photos, out / "read")
            rows.append((to, reader, str(tolerance or 0), *_figures(Path(masks), found, to)))
    print_table(("format", "reader", "tolerance", "mIoU", "lowest IoU", "same pixels"), rows)


def _figures(masks: Path, found: dict[str, np.ndarray], to: str) -> tuple[str, str, str]:
    """MIoU over classes and images; lowest IoU of a class in an image; share of equal pixels."""
    both, either, lowest, same, total = np.zeros(256), np.zeros(256), 1.0, 0, 0
    for name, seen in found.items():
        ids = read_class_ids(masks / "masks" / f"{name}.png").numpy()
        if to not in KEEPS_UNDECIDED:
            ids = np.where(ids == 255, 0, ids)
        seen = seen if seen.size else np.zeros_like(ids)
        same, total = same + int((ids == seen).sum()), total + ids.size
        for each in np.unique(ids):
            joint, union = (
                ((ids == each) & (seen == each)).sum(),
                ((ids == each) | (seen == each)).sum(),
            )
            both[each], either[each] = both[each] + joint, either[each] + union
            lowest = min(lowest, joint / union)
    known = either > 0
    miou = (both[known] / either[known]).mean()
    return f"{miou:.4f}", f"{lowest:.3f}", f"{100 * same / total:.3f} %"


if __name__ == "__main__":
    main(*sys.argv[1:])
