"""The peers' own numbers: CLIP-ES's CAMs and WeCLIP's pseudo mask, through the command line."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command import exit_code
from PIL import Image

from ssrseg.data.class_ids import read_class_ids
from ssrseg.data.classes import VOC_CLASSES
from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.dino import PIXEL_MEAN, PIXEL_STD
from ssrseg.networks.vocabulary import build_vocabulary

NAME = "2007_000001"


@pytest.fixture(scope="session")
def golden_clip(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random ViT-B/16 that the vectors were made with, 600 MB."""
    folder = tmp_path_factory.mktemp("golden")
    golden, weights = shared / "golden", folder / "weights.pt"
    run_script(golden / "make_weights.py", "--out", weights)
    tokenizer = shared / "data" / "clip-tokenizer"
    run_script(
        golden / "to_hf.py", "--weights", weights, "--tokenizer", tokenizer, "--out", folder / "hf"
    )
    weights.unlink()
    return folder / "hf"


def run_script(script: Path, *arguments: object) -> None:
    before, sys.argv = sys.argv, [str(script), *map(str, arguments)]
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = before


def run_masks(data: Path, out: Path, clip: Path, preset: str) -> None:
    arguments = ["masks", "--preset", preset, "--device", "cpu"]
    arguments += ["--data", str(data), "--out", str(out), "--clip", str(clip)]
    assert exit_code(*arguments) == 0


def one_image_folder(folder: Path, labels: list[int]) -> Path:
    names = ";".join(VOC_CLASSES[index] for index in labels)
    folder.mkdir(exist_ok=True)
    (folder / "labels.csv").write_text(f"image,labels\nimages/{NAME}.png,{names}\n")
    (folder / "classes.txt").write_text("\n".join(VOC_CLASSES))
    (folder / "images").mkdir()
    return folder / "images" / f"{NAME}.png"


def min_max(maps: np.ndarray, eps: float = 0) -> np.ndarray:
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    return (maps - low) / (high - low + eps)


def check_refined(found: np.ndarray, golden: np.ndarray) -> None:
    assert np.abs(found - min_max(golden)).max() < 1e-2
    # with random weights a map spans as little as 1e-5: most of the error is the 1e-7 of peers
    assert np.abs(found - min_max(golden, 1e-7)).max() < 1e-3


def test_text_features_of_the_golden_prompts(shared: Path, golden_clip: Path) -> None:
    texts = build_vocabulary(VOC_CLASSES, "voc").texts
    assert len(texts) == 45
    found = FrozenCLIP.load(golden_clip).text_features(tuple(texts))
    expected = [np.load(shared / "golden" / f"text_{kind}.npy") for kind in ("fg", "bg")]
    assert np.abs(found.numpy() - np.concatenate(expected)).max() < 1e-4


@pytest.mark.parametrize("case", ["clipes_1", "clipes_2"])
def test_clip_es(shared: Path, golden_clip: Path, tmp_path: Path, case: str) -> None:
    golden = {
        what: np.load(shared / "golden" / case / f"{NAME}_{what}.npy")
        for what in ("keys", "cam", "refined", "pseudo")
    }
    image = one_image_folder(tmp_path / "data", golden["keys"].tolist())
    with Image.open(shared / "golden" / "JPEGImages" / f"{NAME}.jpg") as photo:
        photo.convert("RGB").save(image)
    run_masks(tmp_path / "data", tmp_path / "out", golden_clip, "clip-es")

    with np.load(tmp_path / "out" / "cams" / f"{NAME}.npz") as found:
        assert found["classes"].tolist() == [VOC_CLASSES[key] for key in golden["keys"]]
        assert found["cam"].shape == found["refined_cam"].shape == golden["cam"].shape
        assert np.abs(found["cam"] - golden["cam"]).max() < 1e-3
        check_refined(found["refined_cam"], golden["refined"])
    pseudo = read_class_ids(tmp_path / "out" / "masks" / f"{NAME}.png").numpy()
    assert pseudo.shape == golden["pseudo"].shape
    # Not equal by design: CLIP-ES's CRF sees the photograph as BGR less a mean, wrapped to uint8.
    assert (pseudo == golden["pseudo"]).mean() > 0.98


def test_weclip(shared: Path, golden_clip: Path, tmp_path: Path) -> None:
    golden = shared / "golden" / "weclip_2"
    scale = 255 * torch.tensor([PIXEL_MEAN, PIXEL_STD]).double().numpy()[:, :, None, None]
    exact = np.load(golden / "input.npy").astype(np.float64) * scale[1] + scale[0]
    pixels = exact.round()
    assert np.abs(exact - pixels).max() < 1e-4  # the file holds what CLIP was fed
    image = one_image_folder(tmp_path / "data", [7, 8])
    Image.fromarray(pixels.astype(np.uint8).transpose(1, 2, 0)).save(image)
    run_masks(tmp_path / "data", tmp_path / "out", golden_clip, "weclip")
    with np.load(tmp_path / "out" / "cams" / f"{NAME}.npz") as found:
        assert found["classes"].tolist() == [VOC_CLASSES[7], VOC_CLASSES[8]] == ["cat", "chair"]
        assert np.abs(found["cam"] - np.load(golden / "cam.npy")).max() < 1e-3
        check_refined(found["refined_cam"], np.load(golden / "refined.npy"))
    pseudo = read_class_ids(tmp_path / "out" / "masks" / f"{NAME}.png").numpy()
    assert (pseudo == np.load(golden / "pseudo.npy")).mean() >= 0.999
