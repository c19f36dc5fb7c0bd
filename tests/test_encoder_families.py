"""Every kind of encoder that is documented makes masks and trains a model, from its folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from make_tiny import tiny_voc
from PIL import Image
from safetensors.torch import load_file
from tiny_encoders import tiny_clip, tiny_config, tiny_dino

from ssrseg.config import Config, load_config
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages
from ssrseg.doctor import examine
from ssrseg.errors import CheckpointError, SSRError
from ssrseg.model import SSR
from ssrseg.networks.dino import FAMILIES
from ssrseg.pseudo_masks import make_masks
from ssrseg.training import train

SHORT = ("optim.cmpa_iterations=2", "optim.iterations=2", "optim.warmup=1")
CLIPS = {
    # what each maker's files have; old ones name another token at the end of texts
    "openai-b16": {"act": "quick_gelu", "patch": 16, "old_eos": True},
    "openai-b32": {"act": "quick_gelu", "patch": 32, "old_eos": True},
    "laion-b16": {"act": "gelu", "patch": 16},
    "laion-l14": {"act": "gelu", "patch": 14, "depth": 6, "width": 96},
}


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    return open_labelled(tiny_voc(tmp_path_factory.mktemp("voc") / "tree", n=3))


def run_both(data: LabelledImages, folder: Path, config: Config) -> Path:
    """Masks and a training; returns the folder of the run."""
    assert make_masks(data, folder / "masks", config).written == 3
    ids = [np.asarray(Image.open(each)) for each in sorted((folder / "masks/masks").glob("*.png"))]
    with Image.open(data.samples[0].image) as photo:
        assert ids[0].shape == (photo.height, photo.width)
    assert len({int(each) for mask in ids for each in np.unique(mask)}) > 1  # not all one class
    done = train(data, folder / "run", config)
    assert done.finished
    weights = load_file(done.run / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values() if value.ndim)
    segmented = SSR.from_pretrained(done.run).segment(data.samples[0].image)
    assert segmented.mask.shape == ids[0].shape
    return done.run


@pytest.mark.parametrize("name", CLIPS)
def test_clips_of_every_maker(
    voc: LabelledImages, tmp_path: Path, dino_dir: Path, name: str
) -> None:
    clip = tiny_clip(tmp_path / "clip", **CLIPS[name])
    run_both(voc, tmp_path, tiny_config(clip, dino_dir, *SHORT))


@pytest.mark.parametrize("family", FAMILIES)
def test_dinos_of_every_family(
    voc: LabelledImages, tmp_path: Path, clip_dir: Path, family: str
) -> None:
    dino = tiny_dino(tmp_path / "dino", family, patch=16 if family == "dinov3_vit" else 14)
    config = tiny_config(clip_dir, dino, *SHORT, "affinity.clip_weight=0")
    run_both(voc, tmp_path, config)
    # the likeness of its features is another affinity, and no mask of the first stays
    other = tiny_config(
        clip_dir, dino, *SHORT, "affinity.clip_weight=0", "affinity.dino_kind=features"
    )
    said = r'dino_kind = "attention" there, "features" now'
    with pytest.raises(SSRError, match=said):
        make_masks(voc, tmp_path / "masks", other)
    assert make_masks(voc, tmp_path / "features/masks", other).written == 3
    first, second = (
        [np.load(each)["refined_cam"] for each in sorted(folder.rglob("*.npz"))]
        for folder in (tmp_path / "masks/cams", tmp_path / "features/masks/cams")
    )
    assert len(first) == len(second) == 3
    assert max(np.abs(a - b).max() for a, b in zip(first, second, strict=True)) > 0.05


def test_cached_features_of_patches_of_14(voc: LabelledImages, tmp_path: Path) -> None:
    clip = tiny_clip(tmp_path / "clip", patch=14, act="gelu")
    dino = tiny_dino(tmp_path / "dino", "dinov2_with_registers", patch=14)
    run_both(voc, tmp_path, tiny_config(clip, dino, *SHORT, "optim.features=cached"))


@pytest.mark.parametrize("features", ["online", "cached"])
def test_encoders_on_a_stem(voc: LabelledImages, tmp_path: Path, features: str) -> None:
    clip = tiny_clip(tmp_path / "clip", stem_blocks=16)
    dino = tiny_dino(tmp_path / "dino", stem_blocks=11)
    bf16 = "backbones.precision=bf16"
    config = tiny_config(clip, dino, *SHORT, bf16, f"optim.features={features}")
    run_both(voc, tmp_path, config)
    said = {each.what: each for each in examine(config)}
    assert "patch embedding by EfficientNet-Lite0 (16 blocks), " in said["CLIP"].found
    assert "patch embedding by EfficientNet-Lite0 (11 blocks), " in said["DINO"].found
    assert not said["CLIP"].cure + said["DINO"].cure


def test_other_mean_and_deviation_are_another_encoder(
    voc: LabelledImages, tmp_path: Path, dino_dir: Path
) -> None:
    clip = tiny_clip(tmp_path / "clip")
    config = tiny_config(clip, dino_dir, *SHORT)
    run = run_both(voc, tmp_path, config)
    file = clip / "preprocessor_config.json"
    file.write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}')
    with pytest.raises(CheckpointError, match=r"clip"):
        SSR.from_pretrained(run)
    with pytest.raises(SSRError, match=r"another clip \(digest "):
        make_masks(voc, tmp_path / "masks", config)


@pytest.mark.parametrize("family", ["dinov2_with_registers", "dinov3_vit"])
def test_preset_ssr_plus(voc: LabelledImages, tmp_path: Path, clip_dir: Path, family: str) -> None:
    dino = tiny_dino(tmp_path / "dino", family, patch=14)
    config = tiny_config(clip_dir, dino, *SHORT, preset="ssr-plus")
    run_both(voc, tmp_path, config)
    # what it adds counts: each of both, and DINO's features beside CLIP's attention
    model = SSR.from_config(config, voc.classes)
    photo, labels = voc.samples[0].image, [voc.classes[each] for each in voc.samples[0].labels]
    plus = model.rectify(photo, labels).refined_cam[labels[0]]
    for change in ("affinity.dino_kind=attention", "affinity.cda_temperature=null"):
        other = model.with_config(load_config(base=config.to_dict(), overrides=[change]))
        assert np.abs(other.rectify(photo, labels).refined_cam[labels[0]] - plus).max() > 1e-3
