from __future__ import annotations

from pathlib import Path

import pytest
import torch
from make_tiny import tiny_voc
from tiny_encoders import tiny_config
from torch import Tensor

from ssrseg.data.images import read_image
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages, present_slots
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.data.transforms import fit_to_patches, to_unit
from ssrseg.foreground import Pairs, collect_pairs
from ssrseg.learner import build_alignment
from ssrseg.method.cam import min_max
from ssrseg.model import Rectifier, load_rectifier

NO_CACHE = SuperpixelCache(None, n_segments=20, compactness=10.0)


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    return open_labelled(tiny_voc(tmp_path_factory.mktemp("voc") / "tree", n=3))


def pooled_by_hand(rectifier: Rectifier, voc: LabelledImages, source: str) -> Tensor:
    """One row per (image, class), pooled with the CAM that the source names (Eq. 2)."""
    rows = []
    for sample in voc.samples:
        image = to_unit(fit_to_patches(read_image(sample.image), 16))[None]
        present = present_slots([sample.labels])
        initial = rectifier.initial_cam(rectifier.see(image), present, with_clip=True)
        cam = initial.cam if source == "cmpa" else initial.clip_cam
        if source == "refined":
            plain = load_rectifier(rectifier.config, voc.classes)  # without heads: CLIP's CAM
            ids = NO_CACHE(read_image(sample.image), "x")[None]
            cam = min_max(plain.rectify(image, present, ids).refined_cam)
        for slot in range(len(sample.labels)):
            weight = cam[0, slot].flatten()
            rows.append((weight[:, None] * initial.patch_features[0]).sum(0) / weight.sum())
    return torch.stack(rows)


def test_which_cam_pools(voc: LabelledImages, clip_dir: Path, dino_dir: Path) -> None:
    found: dict[str, Pairs] = {}
    for source in ("clip", "refined", "cmpa"):
        config = tiny_config(
            clip_dir,
            dino_dir,
            f"cmpa.cam_source={source}",
            "cmpa.init=random",
            "cmpa.min_patches=0",
        )
        rectifier = load_rectifier(config, voc.classes)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            rectifier.alignment = build_alignment(config, rectifier.text_features, None).eval()
        found[source] = collect_pairs(rectifier, voc, NO_CACHE, aligned=False)
        expected = pooled_by_hand(rectifier, voc, source)
        assert (found[source].pooled - expected).abs().max() < 1e-4
        assert found[source].classes.tolist() == [c for s in voc.samples for c in s.labels]
    assert (found["clip"].pooled - found["refined"].pooled).abs().max() > 1e-3
    assert (found["clip"].pooled - found["cmpa"].pooled).abs().max() > 1e-3
    assert torch.equal(found["clip"].mean, found["cmpa"].mean)
