from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from make_tiny import tiny_voc
from tiny_encoders import tiny_config
from torch import Tensor

from ssrseg import foreground as module
from ssrseg.data.images import read_image
from ssrseg.data.open import open_labelled
from ssrseg.data.photos import present_slots
from ssrseg.data.sample import LabelledImages
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.data.transforms import fit_to_patches, to_unit
from ssrseg.foreground import ForegroundFeatures, collect_foreground, frozen_foreground
from ssrseg.method.cam import min_max
from ssrseg.model import SSR
from ssrseg.trained_parts import new_alignment

NO_CACHE = SuperpixelCache(None, n_segments=20, compactness=10.0)


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    return open_labelled(tiny_voc(tmp_path_factory.mktemp("voc") / "tree", n=3))


def pooled_by_hand(model: SSR, voc: LabelledImages, source: str) -> Tensor:
    """One row per (image, class), pooled with the CAM that the source names (Eq. 2)."""
    rows = []
    for sample in voc.samples:
        image = to_unit(fit_to_patches(read_image(sample.image), 16))[None]
        present = present_slots([sample.labels])
        initial = model.initial_cam(model.encode(image), present, with_clip=True)
        cam = initial.cam if source == "cmpa" else initial.clip_cam
        if source == "refined":
            plain = SSR.from_config(model.config, voc.classes)  # without heads: CLIP's CAM
            ids = NO_CACHE(read_image(sample.image))[None]
            cam = min_max(plain(image, present, ids).refined_cam)
        for slot in range(len(sample.labels)):
            weight = cam[0, slot].flatten()
            rows.append((weight[:, None] * initial.patch_features[0]).sum(0) / weight.sum())
    return torch.stack(rows)


def test_which_cam_pools(voc: LabelledImages, clip_dir: Path, dino_dir: Path) -> None:
    found: dict[str, ForegroundFeatures] = {}
    for source in ("clip", "refined", "cmpa"):
        config = tiny_config(
            clip_dir,
            dino_dir,
            f"cmpa.cam_source={source}",
            "cmpa.init=random",
            "cmpa.min_patches=0",
        )
        model = SSR.from_config(config, voc.classes)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            heads = new_alignment(config.cmpa, model.text_features)
        model = model.with_config(config, alignment=heads)
        found[source] = collect_foreground(model, voc, NO_CACHE, aligned=False)
        expected = pooled_by_hand(model, voc, source)
        assert (found[source].pooled - expected).abs().max() < 1e-4
        assert found[source].classes.tolist() == [c for s in voc.samples for c in s.labels]
    assert (found["clip"].pooled - found["refined"].pooled).abs().max() > 1e-3
    assert (found["clip"].pooled - found["cmpa"].pooled).abs().max() > 1e-3
    assert torch.equal(found["clip"].mean, found["cmpa"].mean)


def test_frozen_features_are_pooled_once_for_all_seeds_and_heads(
    voc: LabelledImages,
    clip_dir: Path,
    dino_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def model(*overrides: str) -> SSR:
        overrides = ("cmpa.min_patches=0", *overrides)
        return SSR.from_config(tiny_config(clip_dir, dino_dir, *overrides), voc.classes)

    passes = []

    def counted(*args: object, **kwargs: object) -> ForegroundFeatures:
        passes.append(args)
        return collect_foreground(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "collect_foreground", counted)
    first = frozen_foreground(model(), voc, NO_CACHE, tmp_path)
    same = ("optim.seed=7", "cmpa.loss=feature", "cmpa.depth=2", "cam.readout=patch")
    for each in (*same, "affinity.power=2", "optim.iterations=3"):
        again = frozen_foreground(model(each), voc, NO_CACHE, tmp_path)
        assert torch.equal(again.pooled, first.pooled) and torch.equal(again.mean, first.mean)
    assert len(passes) == 1
    # whatever decides them is another file
    for each in ("cmpa.cam_source=refined", "cam.clip_readout=patch", "data.max_side=48"):
        frozen_foreground(model(each), voc, NO_CACHE, tmp_path)
    assert len(passes) == 4 and len(list(tmp_path.iterdir())) == 4
    fewer = replace(voc, samples=voc.samples[:2])
    assert len(frozen_foreground(model(), fewer, NO_CACHE, tmp_path).background) == 2
    # a damaged file is made anew
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    assert torch.equal(frozen_foreground(model(), voc, NO_CACHE, tmp_path).pooled, first.pooled)
    assert len(passes) == 6


def test_backgrounds_become_pairs_of_their_nearest_word() -> None:
    generator = torch.Generator().manual_seed(0)
    pooled, background, text = (torch.randn(rows, 8, generator=generator) for rows in (5, 3, 6))
    text = text / text.norm(dim=1, keepdim=True)
    classes = torch.tensor([0, 1, 1, 0, 1])
    found = ForegroundFeatures(pooled, torch.arange(5), classes, background, background)
    features, owners = found.with_backgrounds(text, 2)
    assert torch.equal(features, torch.cat([pooled, background]))
    words = [max(range(2, 6), key=lambda word: float(text[word] @ row)) for row in background]
    assert owners.tolist() == [*classes.tolist(), *words]
    # without background words there is nothing that backgrounds could be pairs of
    alone = found.with_backgrounds(text[:2], 2)
    assert torch.equal(alone[0], pooled) and torch.equal(alone[1], classes)
