"""No dead option: changing any setting of the method or of training changes a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from make_tiny import tiny_voc
from PIL import Image
from safetensors.torch import load_file
from tiny_encoders import tiny_config, tiny_dino

from ssrseg.config import known_keys
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages
from ssrseg.training import train

BASE = (
    "optim.cmpa_iterations=3", "optim.iterations=3", "optim.warmup=1", "cmpa.update_every=2",
    "optim.pairs=3", "pseudo.par_iterations=1", "cam.readout=combined",
)  # fmt: skip

OTHER: dict[str, tuple[str, ...]] = {
    # value that differs from the base, then what has to be on for the setting to matter
    "data.crop": ("48",),
    "data.scale": ("[1.0, 1.0]",),
    "data.flip": ("false",),
    "data.norm": ("imagenet",),
    "data.max_side": ("48",),
    "data.range": ("[0, 20000]",),
    "backbones.pos_interpolation": ("bicubic",),
    "backbones.precision": ("bf16",),
    "prompts.set": ("coco",),
    "cam.mode": ("clip",),
    "cam.readout": ("patch",),
    "cam.clip_readout": ("patch",),
    "cam.scale": ("1.0",),
    "cmpa.loss": ("in_modal",),
    "cmpa.symmetric": ("false",),
    "cmpa.pos": ("cluster", "cmpa.init=random"),
    "cmpa.proto": ("kmeans", "cmpa.init=random"),
    "cmpa.update_every": ("3",),
    "cmpa.bg_negatives": ("false", "cmpa.bg_prototypes=none"),
    "cmpa.bg_pairs": ("0.5",),
    "cmpa.bg_prototypes": ("none",),
    "cmpa.text_gradient": ("true",),
    "cmpa.trained": ("tsa",),
    "cmpa.cam_source": ("refined",),
    "cmpa.map_order": ("project_then_pool", "cmpa.bg_prototypes=none"),
    "cmpa.image_feature": ("mean_projected", "cam.readout=gradcam", "cmpa.init=random"),
    "cmpa.min_patches": ("16",),
    "cmpa.init": ("random",),
    "cmpa.depth": ("3",),
    "cmpa.hidden": ("8", "cmpa.depth=2"),
    "cmpa.out": ("16",),
    "cmpa.temperature": ("0.1",),
    "cmpa.learnable_temperature": ("false",),
    "affinity.kind": ("kernel",),
    "affinity.clip_layers": ("-1",),
    "affinity.dino_layers": ("-1",),
    "affinity.dino_kind": ("features",),
    "affinity.dino_temperature": ("0.3", "affinity.dino_kind=features"),
    "affinity.clip_weight": ("2.0",),
    "affinity.dino_weight": ("0.0",),
    "affinity.sinkhorn": ("0",),
    "affinity.power": ("1",),
    "affinity.mask": ("box",),
    "affinity.rfm_after": ("0",),
    "affinity.rfm_layers": ("-1", "affinity.rfm_after=0"),
    "affinity.cda_temperature": ("0.001",),
    "sgc.n_segments": ("9",),
    "sgc.compactness": ("0.1",),
    "sgc.slic_zoom": ("0.5",),
    "sgc.k_colour": ("2",),
    "sgc.high": ("0.9",),
    "sgc.min_ratio": ("0.99",),
    "sgc.ratio": ("image",),
    "sgc.per_class": ("false",),
    "sgc.axis": ("both",),
    "pseudo.alpha": ("3.0",),
    "pseudo.refine": ("none",),
    "pseudo.par_iterations": ("3",),
    "pseudo.par_dilations": ("[4]",),
    "pseudo.crf": ("[1.0, 0.0, 67.0, 3.0, 0.5]", "pseudo.refine=crf"),
    "pseudo.min_score": ("0.7",),
    "decoder.layers": ("2",),
    "decoder.dropout": ("0.5",),
    "optim.schedule": ("joint",),
    "optim.cmpa_iterations": ("2",),
    "optim.iterations": ("2",),
    "optim.batch": ("1",),
    "optim.micro_batch": ("1",),
    "optim.pairs": ("2",),
    "optim.cmpa_lr": ("1e-3",),
    "optim.decoder_lr": ("1e-3",),
    "optim.weight_decay": ("0.5",),
    "optim.warmup": ("2",),
    "optim.power": ("2.0",),
    "optim.seg_weight": ("10.0", "optim.schedule=joint"),
    "optim.affinity_weight": ("0.5",),
    "optim.affinity_radius": ("0", "optim.affinity_weight=0.5"),
    "optim.features": ("cached",),
    "optim.views": ("[1.0]", "optim.features=cached"),
    "optim.seed": ("1",),
}
ELSEWHERE = {
    "data.workers",  # change nothing but time: test_crops.py
    "data.patches",
    "data.bands",  # of files with more than three: test_tiff.py
    "data.tile",  # of masks and predictions: test_tiled.py
    "data.tile_overlap",
    "backbones.clip",  # other weights
    "backbones.dino",
    "optim.features_gb",  # decides optim.features where that is auto: test_feature_cache.py
    "optim.save_every",  # changes no weight: test_train.py
}


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    root = tiny_voc(tmp_path_factory.mktemp("voc") / "tree", n=4)
    photo = root / "JPEGImages" / "2007_000001.jpg"  # of 16 bits, for data.range
    grey = np.asarray(Image.open(photo).convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(photo.with_suffix(".png"))
    photo.unlink()
    return open_labelled(root)


@pytest.fixture(scope="module")
def tall_dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_dino(tmp_path_factory.mktemp("dino"))


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[str, ...], tuple[dict[str, torch.Tensor], bytes]]:
    """What runs already made ended with, by their overrides."""
    return {}


def test_every_setting_is_looked_at() -> None:
    elsewhere = {key for key in known_keys() if key.startswith("test.")} | ELSEWHERE
    assert set(OTHER) == set(known_keys()) - elsewhere


@pytest.mark.parametrize("key", OTHER)
def test_a_setting_matters(
    voc: LabelledImages,
    tmp_path: Path,
    clip_dir: Path,
    tall_dino: Path,
    outcomes: dict[tuple[str, ...], tuple[dict[str, torch.Tensor], bytes]],
    key: str,
) -> None:
    def outcome(*overrides: str) -> tuple[dict[str, torch.Tensor], bytes]:
        if overrides not in outcomes:
            config = tiny_config(clip_dir, tall_dino, *BASE, *overrides)
            run = train(voc, tmp_path / str(len(outcomes)), config).run
            outcomes[overrides] = (
                load_file(run / "model.safetensors"),
                (run / "log.csv").read_bytes(),
            )
        return outcomes[overrides]

    value, *needs = OTHER[key]
    plain, other = outcome(*needs), outcome(*needs, f"{key}={value}")
    assert plain[1] != other[1]  # what was logged
    same = plain[0].keys() == other[0].keys() and all(
        torch.equal(tensor, other[0][name]) for name, tensor in plain[0].items()
    )
    assert not same  # what was learned
