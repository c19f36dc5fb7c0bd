"""Masks that were corrected in Label Studio, from its JSON export, taken over as accepted ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool

from ssrseg.console import printable
from ssrseg.data.text import quoted
from ssrseg.errors import DataError, SSRError
from ssrseg.failures import Failure
from ssrseg.manifest import ACCEPTED
from ssrseg.method.pseudo_mask import IGNORE
from ssrseg.reviewing.folder import Ids, ReviewFolder
from ssrseg.safe_json import JsonError, read_json

_INSIDE = 128
"""Opacity, of 255, from which a pixel of a brush's soft edge belongs to the region."""


@dataclass(frozen=True)
class TakenOver:
    """What came from Label Studio.

    Attributes:
        accepted: Names of the masks.
        failures: Tasks that could not be used.
    """

    accepted: tuple[str, ...]
    failures: tuple[Failure, ...]


def take_over(folder: ReviewFolder, export: str | Path) -> TakenOver:
    """Write the annotated masks of a project that began with ``ssrseg export --to labelstudio``.

    Of a task the last annotation counts that was not cancelled. Pixels in no region are background,
    or undecided where they are undecided in the mask that is there. Tasks without an annotation are
    passed over.

    Args:
        export: Label Studio's export in the format JSON.

    Raises:
        DataError: If it is no such export, or no task is of a mask of this folder.
        OutputError: If the disk takes nothing.
    """
    path = Path(export)
    try:
        tasks = read_json(path)
    except JsonError as error:
        raise DataError(f"{path} is no JSON ({printable(str(error)[:120])}).") from error
    places = {name: index for index, name in enumerate(folder.names)}
    accepted: list[str] = []
    failures: list[Failure] = []
    known = 0
    for task in tasks if isinstance(tasks, list) else []:
        name = _name(task)
        if name not in places:
            continue
        known += 1
        try:
            regions = _regions(task)
            if regions is not None:
                _write(folder, places[name], regions)
                accepted.append(name)
        except SSRError as error:
            failures.append(Failure(name, path, str(error)))
    if not known:
        raise DataError(
            f"{path} holds no task of a mask in {folder.folder}: `ssrseg export --to labelstudio`"
            " writes the tasks (data.name), and Label Studio exports them as JSON (not JSON-MIN)."
        )
    return TakenOver(tuple(accepted), tuple(failures))


def _name(task: object) -> str:
    data = task.get("data") if isinstance(task, dict) else None
    name = data.get("name") if isinstance(data, dict) else None
    return name if isinstance(name, str) else ""


def _regions(task: dict[str, Any]) -> list[Any] | None:
    """What the last annotation marks; None if nobody has made one."""
    found = [
        each.get("result")
        for each in task.get("annotations") or ()
        if isinstance(each, dict) and not each.get("was_cancelled")
    ]
    return found[-1] if found and isinstance(found[-1], list) else None


def _write(folder: ReviewFolder, index: int, regions: Sequence[Any]) -> None:
    """Write a mask and accept it."""
    detail, earlier = folder.detail(index), folder.ids(index)
    ids = torch.where(earlier == IGNORE, earlier, torch.zeros_like(earlier))
    for each in regions:
        _paint(ids, each, folder.classes)
    folder.write(index, ids, detail["version"])
    folder.decide(index, ACCEPTED, folder.detail(index)["version"])


def _paint(ids: Ids, region: Any, classes: tuple[str, ...]) -> None:
    """Set the pixels of a region; DataError for one that is none of a brush."""
    try:
        value = region["value"]
        (label,) = value["brushlabels"]
        code = [int(each) for each in value["rle"]]
        size = int(region["original_height"]), int(region["original_width"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError("a region was not made with a brush of one label.") from error
    if label not in classes:
        raise DataError(f"{quoted(str(label))} is no class of this folder.")
    if size != tuple(ids.shape):
        raise DataError(
            f"its region is of {size[1]} x {size[0]} pixels, its mask of {ids.shape[1]} x"
            f" {ids.shape[0]}."
        )
    inside = torch.from_numpy(brush_region(code, ids.numel()).reshape(ids.shape))
    ids[inside] = classes.index(label) + 1


def brush_region(code: Sequence[int], pixels: int) -> Bool[np.ndarray, " pixels"]:
    """A region from Label Studio's run lengths, see ``export.labelstudio.brush_code``.

    A run repeats a value, or is as many values one after the other: its first bit says which.

    Raises:
        DataError: If it is no such code of an image of so many pixels.
    """
    try:
        bits = (np.unpackbits(np.array(code, np.uint8)) + ord("0")).tobytes().decode("ascii")
        at = 53
        if int(bits[:32], 2) != 4 * pixels or int(bits[32:37], 2) != 7:
            raise ValueError
        sizes = [int(bits[start : start + 4], 2) + 1 for start in range(37, at, 4)]
        values = np.empty(4 * pixels, np.uint8)
        done = 0
        while done < len(values):
            repeats, size = bits[at] == "1", sizes[int(bits[at + 1 : at + 3], 2)]
            at += 3
            count = int(bits[at : at + size], 2) + 1
            at += size
            words = 1 if repeats else count
            found = [int(bits[at + 8 * k : at + 8 * k + 8], 2) for k in range(words)]
            at += 8 * words
            values[done : done + count] = found if repeats else found[: len(values) - done]
            done += count
    except (ValueError, IndexError, OverflowError) as error:
        raise DataError("a region's run lengths (rle) are damaged, or of another image.") from error
    inside: np.ndarray = values[3::4] >= _INSIDE
    return inside
