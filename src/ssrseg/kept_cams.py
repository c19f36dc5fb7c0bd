"""CAMs that are kept beside the masks, from which these can be made again without an encoder."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ssrseg.data.files import atomic_write

_LARGEST = 1 << 31  # bytes of all arrays: fifty classes on the grid of 20,000 x 20,000 pixels


@dataclass(frozen=True)
class KeptCams:
    """The CAMs of one photograph, in [0, 1].

    Attributes:
        classes: Names of the classes, in the order of the maps.
        cam: Initial CAMs.
        refined_cam: Corrected CAMs, min-max normalised.
        evidence: By class name, how much the photograph looks like each class that the data set had
            when the CAMs were made (``method.evidence``), in [0, 1].
    """

    classes: tuple[str, ...]
    cam: Float[Tensor, "slots grid_h grid_w"]
    refined_cam: Float[Tensor, "slots grid_h grid_w"]
    evidence: Mapping[str, float]


def cams_path(name: str) -> str:
    """Where the CAMs of a sample lie in a folder of masks."""
    return f"cams/{name}.npz"


def write_cams(path: Path, cams: KeptCams, made_for: str) -> None:
    """Write CAMs with the digest of what they were made for, whole or not at all.

    The refined CAM is kept in float32, so that a mask made from it has every pixel of one made
    without the file; the initial CAM and the evidence, from which no mask is made, in float16.

    Raises:
        OutputError: If the file cannot be written.
    """
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            classes=np.array(cams.classes, dtype=str),
            cam=cams.cam.numpy().astype(np.float16),
            refined_cam=cams.refined_cam.numpy(),
            evidence=np.array(list(cams.evidence.values()), dtype=np.float16),
            evidence_of=np.array(list(cams.evidence), dtype=str),
            made_for=np.array(made_for),
        )


def read_cams(path: Path, made_for: str | None = None) -> KeptCams | None:
    """CAMs that were made for this; None if they are absent, damaged, or of something else.

    Args:
        made_for: The digest that they have to have; None = whatever they were made for.
    """
    with suppress(Exception):  # whatever numpy makes of a damaged file
        with zipfile.ZipFile(path) as archive:
            small = sum(member.file_size for member in archive.infolist()) <= _LARGEST
        if small:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                if made_for in (None, str(found["made_for"])):
                    classes = tuple(map(str, found["classes"].tolist()))
                    known = tuple(map(str, found["evidence_of"].tolist()))
                    maps = (found["cam"], found["refined_cam"])
                    return _checked(classes, *maps, known, found["evidence"])
    return None


def _checked(
    classes: tuple[str, ...],
    cam: np.ndarray,
    refined_cam: np.ndarray,
    known: tuple[str, ...],
    evidence: np.ndarray,
) -> KeptCams | None:
    """CAMs, if they are as ``write_cams`` writes them."""
    wanted = (len(classes), *cam.shape[1:])
    for maps, kind in ((cam, np.float16), (refined_cam, np.float32)):
        # the comparison is False for nan, too
        if maps.dtype != kind or maps.ndim != 3 or maps.shape != wanted or 0 in maps.shape[1:]:
            return None
        if not bool(((maps >= 0) & (maps <= 1)).all()):
            return None
    if evidence.dtype != np.float16 or evidence.shape != (len(known),):
        return None
    if not set(classes) <= set(known) or not bool(((evidence >= 0) & (evidence <= 1)).all()):
        return None
    return KeptCams(
        classes,
        torch.from_numpy(cam.astype(np.float32)),
        torch.from_numpy(refined_cam),
        dict(zip(known, map(float, evidence), strict=True)),
    )
