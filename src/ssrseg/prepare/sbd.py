"""SBD, the masks that turn VOC's 1,464 training images into 10,582 (``train_aug``)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from scipy.io import loadmat
from torch import Tensor

from ssrseg.errors import DataError

SBD_FOLDERS = (
    "SBD",
    "benchmark_RELEASE/dataset",
    "../benchmark_RELEASE/dataset",
    "../VOCaug/dataset",
)
"""Where an unpacked SBD is looked for, from the VOC tree; the first is where we unpack it."""

_MOST = 20  # VOC's classes


def find_sbd(root: Path) -> Path | None:
    """The folder with SBD's ``train.txt``, ``val.txt`` and ``cls``, if a VOC tree has one."""
    folders = (root / folder for folder in SBD_FOLDERS)
    parts = ("train.txt", "val.txt", "cls")
    return next((each for each in folders if all((each / part).exists() for part in parts)), None)


def train_aug(voc_train: Iterable[str], voc_val: Iterable[str], sbd: Iterable[str]) -> list[str]:
    """Sorted names of the augmented training list: VOC train and all of SBD, without VOC val.

    SBD splits VOC's images in its own way, so both its lists hold images of VOC val. For the
    official lists the result has 10,582 names.
    """
    return sorted({*voc_train, *sbd} - set(voc_val))


def read_sbd(path: Path) -> UInt8[Tensor, "height width"]:
    """Class ids of an SBD mask ``cls/NAME.mat``: 0 background, 1 .. 20; no ignore.

    DataError if it cannot be read or is no SBD mask.
    """
    try:
        found = loadmat(path, variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0]
        ids = np.asarray(found)
        if ids.ndim != 2 or ids.dtype.kind not in "iu" or ids.size == 0:
            raise TypeError(f"GTcls.Segmentation is {ids.dtype} of shape {ids.shape}")
        if ids.min() < 0 or ids.max() > _MOST:
            raise ValueError(f"class ids from {ids.min()} to {ids.max()}, not 0 .. {_MOST}")
    except Exception as error:  # whatever the library makes of damaged files
        raise DataError(
            f"{path} is no mask of SBD ({type(error).__name__}: {error}). Unpack benchmark.tgz"
            " again."
        ) from error
    return torch.from_numpy(ids.astype(np.uint8))
