"""A folder of masks as `ssrseg masks` leaves it, with all that is awkward about masks and names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

from ssrseg.data.csv_lines import csv_line
from ssrseg.data.files import content_digest
from ssrseg.data.stamped_mask import write_mask
from ssrseg.manifest import COLUMNS

CLASSES = ("dog", "traffic light", 'K&N <"best">', "Ähre", "犬")

TOUCHING = np.ones((3, 3))
"""Pixels that meet at a corner belong together, as in ssrseg's outlines."""

PHOTOS = {  # size of the upright photograph (height, width)
    "plain.jpg": (60, 80),
    "day 1/a b.jpg": (48, 64),
    "day 1/größe.png": (33, 47),
    "turned.jpg": (70, 40),
    "one class.jpeg": (40, 40),
    "empty.JPG": (30, 50),
    "undecided.png": (31, 29),
}


def write_masks(root: Path, *, undecided: bool = True) -> dict[str, np.ndarray]:
    """Write photos/images and masks/; returns class ids by file name of the photograph.

    ``turned.jpg`` is stored lying on its side, with an EXIF orientation. ``undecided``: some masks
    hold 255.
    """
    out = root / "masks"
    ids = {file: _ids(file, size, undecided) for file, size in PHOTOS.items()}
    rows = [csv_line(COLUMNS)]
    out.mkdir(parents=True)
    for number, (file, size) in enumerate(PHOTOS.items()):
        photo = root / "photos" / "images" / file
        write_photo(photo, size, turned=file == "turned.jpg")
        name = file.rpartition(".")[0]
        write_mask(out / "masks" / f"{name}.png", torch.from_numpy(ids[file]), "made")
        values = {
            "name": name,
            "mask": f"masks/{name}.png",
            "image": f"../photos/images/{file}",
            "photo": content_digest(photo),
            "made_by": "ssrseg",
            "score": f"{0.9 - number / 10:.3f}",
        }
        rows.append(csv_line(values.get(column, "") for column in COLUMNS))
    (out / "manifest.csv").write_text("".join(rows), encoding="utf-8")
    (out / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES), encoding="utf-8")
    return ids


def write_photo(path: Path, size: tuple[int, int], *, turned: bool = False) -> None:
    """A photograph that is dark at the top and red on the right."""
    height, width = size
    rows, columns = np.indices(size)
    grey = 40 + 200 * rows / height
    photo = np.stack([np.where(columns > width / 2, 250, grey), grey, grey], -1)
    image, exif = Image.fromarray(photo.astype(np.uint8)), Image.Exif()
    if turned:
        exif[0x0112] = 6  # to be shown turned clockwise
        image = image.transpose(Image.Transpose.ROTATE_90)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif, **({} if path.suffix == ".png" else {"quality": 95}))


def blobs(
    rng: np.random.Generator, size: tuple[int, int], most: int = len(CLASSES), *, rough: float = 2.0
) -> np.ndarray:
    """Regions of 0 .. ``most`` with holes, islands in holes, and parts at the border."""
    fields = np.stack(
        [ndimage.gaussian_filter(rng.random(size), rough) * 1.0 for _ in range(1 + most)]
    )
    fields[0] += fields.std()
    return fields.argmax(0).astype(np.uint8)


def _ids(file: str, size: tuple[int, int], undecided: bool) -> np.ndarray:
    rng = np.random.default_rng(sum(map(ord, file)))
    ids = blobs(rng, size)
    if file == "one class.jpeg":
        ids[:] = 2
    if file == "empty.JPG":
        ids[:] = 0
    if file == "plain.jpg":
        ids[10:40, 10:50], ids[15:30, 20:40], ids[20:24, 26:30] = 1, 0, 5  # an island in a hole
        ids[0, 0] = 3
    if undecided and file in ("undecided.png", "plain.jpg"):
        ids[-9:, -14:] = 255
    return ids


def filled(polygons: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """What Pillow makes of polygons; it cuts off decimals and draws the outline, too."""
    together = np.zeros(shape, bool)
    for polygon in polygons:
        image = Image.new("1", shape[::-1])
        ImageDraw.Draw(image).polygon([tuple(each) for each in polygon], fill=1, outline=1)
        together |= np.asarray(image)
    return together


def despeckled(region: np.ndarray, speck: int) -> np.ndarray:
    """The parts that are kept, without their small holes."""
    parts, n = ndimage.label(region, TOUCHING)
    sizes = np.bincount(parts.ravel(), minlength=n + 1)[1:]
    kept = np.zeros_like(region)
    for part in range(1, n + 1):
        if sizes[part - 1] >= speck or part == 1 + sizes.argmax():
            kept |= _without_small_holes(parts == part, speck)
    return kept


def _without_small_holes(part: np.ndarray, speck: int) -> np.ndarray:
    outside, n = ndimage.label(~np.pad(part, 1))
    beyond = outside[0, 0]
    for hole in range(1, n + 1):
        # a hole is as large as what lies within its border, islands of other parts included; one
        # that meets the border at a corner is of this part
        whole = ndimage.binary_fill_holes(outside == hole, TOUCHING)
        if hole != beyond and whole.sum() < speck:
            outside[outside == hole] = 0
    return outside[1:-1, 1:-1] == 0
