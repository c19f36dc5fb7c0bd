"""A folder of masks, and the photographs that they are of."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from ssrseg.data.class_ids import check_class_ids, read_class_ids
from ssrseg.data.classes import read_classes_txt
from ssrseg.data.csv_lines import rows_by_name
from ssrseg.data.files import content_digest, user_path
from ssrseg.data.find_images import images_like
from ssrseg.data.find_masks import find_masks
from ssrseg.data.large import upright_size
from ssrseg.data.stamped_mask import MaskState, mask_ids, read_confidence
from ssrseg.errors import DataError
from ssrseg.export.trained import holds_run
from ssrseg.failures import Failure, read_failures
from ssrseg.manifest import ACCEPTED, REJECTED, confidence_path, decision_on
from ssrseg.manifest import FILE as MANIFEST

Only = Literal["accepted", "not-rejected"]
"""Which masks are exported, by what a person has decided on them."""

_MOVED = "If the photographs have moved, name their folder (--images)."


@dataclass(frozen=True)
class MaskFile:
    """A mask that is to be exported, not opened yet.

    Attributes:
        name: Path below the folder of masks without suffix, ``/`` between folders.
        photo: Absolute path of the photograph; None if nothing says it.
        score: Expected quality in [0, 1], if the manifest says it.
        digest: Of the photograph that the mask was made for, if the manifest says it.
        accepted: Whether a person has accepted just this mask.
    """

    name: str
    mask: Path
    photo: Path | None
    score: float | None = None
    digest: str = ""
    accepted: bool = False

    @property
    def file(self) -> str:
        """The name with the photograph's suffix, for copies of it."""
        return self.name + (self.photo.suffix if self.photo else "")


@dataclass(frozen=True)
class MasksToExport:
    """What is in a folder of masks.

    Attributes:
        root: Where classes.txt lies.
        masks: Where the masks lie.
        classes: Class index i has id i + 1 in the masks.
        files: By name.
        photos: The folder of the photographs, below which their paths are given.
        failures: What cannot be exported, by the folder's own list.
    """

    root: Path
    masks: Path
    classes: tuple[str, ...]
    files: tuple[MaskFile, ...]
    photos: Path
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class Mask:
    """A mask, read and checked.

    Attributes:
        file: Name with the photograph's suffix, ``/`` between folders, for copies of it.
        place: The photograph's path below the folder of all photographs.
        photo: None where it is not needed and not known.
        ids: 0 background, 1 + class index, 255 undecided; at the size of the upright photograph.
        score: Expected quality in [0, 1], if known.
        by_hand: Accepted, corrected or made by a person, or by another program.
        photo_changed: The photograph's content is not what the mask was made for.
        confidence: Of the class of each pixel, 255 = 1; None where it is not wanted, not there, or
            not of this mask.
    """

    name: str
    file: str
    place: str
    photo: Path | None
    ids: UInt8[np.ndarray, "height width"]
    score: float | None
    by_hand: bool
    photo_changed: bool = False
    confidence: UInt8[np.ndarray, "height width"] | None = None


def find_masks_to_export(
    folder: Path, images: Path | None, *, photos: bool, only: Only | None = None
) -> MasksToExport:
    """Look up masks, classes and photographs; nothing but small tables is opened.

    Args:
        folder: Written by ``masks`` or ``predict``, or with masks and classes.txt of one's own.
        images: Where the photographs are, if not where the manifest says.
        photos: Whether they are needed.
        only: Masks that a person has accepted, or all but those that they have rejected.

    Raises:
        DataError: If there are no masks of that kind, or photographs are needed and none is known.
        LabelsError: If classes.txt is faulty.
    """
    folder = user_path(folder, "masks")
    masks = folder / "masks" if (folder / "masks").is_dir() else folder
    if not masks.is_dir():
        raise DataError(f"{folder}: there is no such folder of masks.")
    if holds_run(folder) and not (folder / "classes.txt").is_file():
        raise DataError(
            f"{folder} holds a model and no masks. Make masks first (ssrseg predict --model"
            f" {folder.name} --images FOLDER --out masks) and give their folder; the model itself"
            " goes to onnx or to the hub (--to onnx, --to hub)."
        )
    root = folder if (folder / "classes.txt").is_file() else Path(os.path.abspath(masks)).parent
    if not (root / "classes.txt").is_file():
        raise DataError(
            f"{folder} has no classes.txt, which names the ids in its masks: one name a line, the"
            " n-th has id n. Give a folder that `masks` or `predict` has written, or write it."
        )
    found = find_masks(masks)
    rows = rows_by_name(root / MANIFEST)
    failures = read_failures(root)
    names = sorted(found.keys() - {each.name for each in failures})
    if not names:
        raise DataError(f"{masks} holds no mask that could be exported. Finish the run first.")
    decisions = {name: decision_on(found[name], rows.get(name, {})) for name in names}
    if only is not None:
        failures += _changed_since(names, decisions, rows, found)
        names = [name for name in names if _is_wanted(decisions[name], only)]
    if not names:
        raise DataError(
            f"{root / MANIFEST} says of no mask in {masks} that it was accepted (--only {only})."
            f" Look at them first: `ssrseg review {folder}`."
        )
    where = images_like(names, images, skip=masks) if images is not None else _listed(rows, root)
    if photos and not where.keys() & set(names):
        raise DataError(
            f"Nothing says which photographs the masks in {masks} are of"
            + (f": none in {images} is called like them." if images is not None else ".")
            + " Name the folder of the photographs (--images); they are called like the masks."
        )
    files = tuple(
        MaskFile(
            name,
            found[name],
            where.get(name),
            _score(rows.get(name, {}).get("score", "")),
            rows.get(name, {}).get("photo", ""),
            decisions[name] == ACCEPTED,
        )
        for name in names
    )
    classes = read_classes_txt(root / "classes.txt").names
    return MasksToExport(root, masks, classes, files, _common_folder(files), failures)


def read_mask(
    each: MaskFile, source: MasksToExport, *, photo: bool, confidence: bool = False
) -> Mask:
    """Open a mask, and hold it against its photograph if that is needed.

    Args:
        photo: Whether the photograph is needed.
        confidence: Whether the confidence is wanted, if there is one.

    Raises:
        DataError: If one of the two is not readable or missing, or they do not fit each other.
    """
    ids = read_class_ids(each.mask, len(source.classes))
    check_class_ids(each.mask, ids, len(source.classes))
    corrected = mask_ids(each.mask, "")[0] is MaskState.CORRECTED
    changed = False
    if photo:
        if each.photo is None:
            raise DataError(f"Nothing says which photograph {each.mask} is of. {_MOVED}")
        if not each.photo.exists():
            raise DataError(f"{each.photo}, of which {each.mask} is, does not exist. {_MOVED}")
        size = upright_size(each.photo)
        if tuple(ids.shape) != size:
            raise DataError(
                f"{each.mask} is {ids.shape[1]} x {ids.shape[0]} pixels, its photograph"
                f" {each.photo} {size[1]} x {size[0]} (upright). Make the mask anew, or name the"
                " folder of the photographs that it was made from (--images)."
            )
        changed = bool(each.digest) and content_digest(each.photo) != each.digest
    place = each.file
    if each.photo is not None:
        place = Path(os.path.relpath(each.photo, source.photos)).as_posix()
    sure = None
    if confidence and not corrected:
        sure = read_confidence(source.root / confidence_path(each.name), each.mask)
        sure = sure if sure is not None and sure.shape == tuple(ids.shape) else None
    return Mask(
        each.name, each.file, place, each.photo, ids.numpy(), each.score,
        by_hand=each.accepted or corrected, photo_changed=changed, confidence=sure,
    )  # fmt: skip


def _is_wanted(decision: str, only: Only) -> bool:
    return decision == ACCEPTED if only == "accepted" else decision != REJECTED


def _changed_since(
    names: Iterable[str],
    decisions: Mapping[str, str],
    rows: Mapping[str, Mapping[str, str]],
    masks: Mapping[str, Path],
) -> tuple[Failure, ...]:
    """Masks that are no longer what a person has accepted."""
    return tuple(
        Failure(name, masks[name], "was accepted, and has changed since. Look at it again.")
        for name in names
        if rows.get(name, {}).get("decision") == ACCEPTED and decisions[name] != ACCEPTED
    )


def _listed(rows: dict[str, dict[str, str]], root: Path) -> dict[str, Path]:
    """Photographs by name, where the manifest says that they are."""
    here = os.path.realpath(root)
    images = {name: row.get("image", "") for name, row in rows.items()}
    return {
        name: Path(os.path.normpath(os.path.join(here, image)))
        for name, image in images.items()
        if image and "\0" not in image
    }


def _common_folder(files: Iterable[MaskFile]) -> Path:
    """The folder below which all photographs are called like their masks, or else one of all."""
    roots = set()
    for each in files:
        if each.photo is not None:
            path, tail = each.photo.as_posix(), f"/{each.file}"
            whole = path.endswith(tail)
            roots.add(path.removesuffix(tail) or "/" if whole else each.photo.parent.as_posix())
    return Path(os.path.commonpath(roots)) if roots else Path()


def _score(text: str) -> float | None:
    try:
        score = float(text)
    except ValueError:
        return None
    return score if 0 <= score <= 1 else None
