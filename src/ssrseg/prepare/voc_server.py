"""Masks of VOC's test images, packed as the evaluation server wants them."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

from ssrseg.console import track
from ssrseg.data.class_ids import class_ids_png, read_truth
from ssrseg.data.classes import VOC_CLASSES, read_classes_txt
from ssrseg.data.files import atomic_write, user_path
from ssrseg.data.images import image_size
from ssrseg.data.open import open_images
from ssrseg.errors import DataError
from ssrseg.method.pseudo_mask import IGNORE

INSIDE = "results/VOC2012/Segmentation/comp6_test_cls"
"""Folder inside the archive; comp6 is the competition that allows training data beside VOC's."""

PUBLISHED = 1456
"""Images of VOC's test list."""


@dataclass(frozen=True)
class ServerArchive:
    """What was packed."""

    path: Path
    images: int


def voc_archive(
    masks: str | Path, data: str | Path, out: str | Path, *, split: str = "test"
) -> ServerArchive:
    """Pack the masks of a list for the VOC 2012 server.

    Everything that the server would refuse after hours in its queue is checked before.

    Args:
        masks: Folder written by ``predict``, or any folder of ``NAME.png`` of class ids.
        data: VOC tree with the images and lists; no labels are needed.
        out: ``.tgz`` or ``.tar.gz``; it appears whole or not at all.
        split: The server scores ``test``.

    Raises:
        DataError: If a mask is missing, has another size than its image, undecided pixels (255) or
            other ids than 0 .. 20, or the masks are of other classes.
    """
    masks, out = user_path(masks, "masks"), user_path(out, "an archive")
    if not out.name.endswith((".tgz", ".tar.gz")):
        raise DataError(f"--out {out}: the server takes .tgz or .tar.gz. Name it results.tgz.")
    folder = masks / "masks" if (masks / "masks").is_dir() else masks
    listed = masks / "classes.txt"  # as `predict` writes it
    names = read_classes_txt(listed).names if listed.is_file() else VOC_CLASSES
    if names != VOC_CLASSES:
        raise DataError(
            f"{listed} names {len(names)} classes that are not VOC's 20 in VOC's order; the server"
            " knows no others. Pack masks of a model that was trained on VOC."
        )
    images = open_images(data, split=split)
    if split == "test" and len(images) != PUBLISHED:
        raise DataError(
            f"The list test of {data} names {len(images):,} images, but the server scores"
            f" {PUBLISHED:,}. Copy ImageSets/Segmentation/test.txt from VOC2012test.tar again."
        )
    missing = [name for name in images if not (folder / f"{name}.png").is_file()]
    if missing:
        raise DataError(
            f"{folder} lacks the masks of {len(missing):,} of {len(images):,} images (such as"
            f" {missing[0]}.png). Make them: ssrseg predict --data {data} --split {split} ..."
        )
    with atomic_write(out) as temporary, tarfile.open(temporary, "w:gz") as archive:
        for name, image in track(images.items(), "Packing", len(images)):
            content = _server_png(folder / f"{name}.png", image)
            entry = tarfile.TarInfo(f"{INSIDE}/{name}.png")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return ServerArchive(out, len(images))


def _server_png(path: Path, image: Path) -> bytes:
    """A checked mask, encoded in VOC's palette."""
    ids = read_truth(path, image_size(image), len(VOC_CLASSES))
    if (ids == IGNORE).any():
        raise DataError(
            f"{path} has undecided pixels (255), which the server does not take. Pack masks of"
            " `ssrseg predict`, which decides every pixel."
        )
    return class_ids_png(ids)
