from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ssrseg.learner import build_alignment
from tiny_encoders import tiny_config, tiny_dino
from torch import Tensor

from ssrseg.data.sample import present_slots
from ssrseg.errors import BackboneError, ConfigError
from ssrseg.method.affinity import balance
from ssrseg.method.peers import centre_prior, class_distribution_affinity
from ssrseg.method.sgc import slic_labels
from ssrseg.model import Rectifier, load_rectifier
from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.decoder import Decoder
from ssrseg.networks.dino import FrozenDINO

CLASSES = ("cat", "dog", "red car")


@pytest.fixture(scope="module")
def rectifier(clip_dir: Path, dino_dir: Path) -> Rectifier:
    return load_rectifier(tiny_config(clip_dir, dino_dir), CLASSES)


def changed(rectifier: Rectifier, **sections: dict[str, object]) -> Rectifier:
    config = rectifier.config
    for section, values in sections.items():
        config = replace(config, **{section: replace(getattr(config, section), **values)})
    return Rectifier(
        config, rectifier.clip, rectifier.dino, rectifier.vocabulary, rectifier.alignment
    )


def with_heads(rectifier: Rectifier, **sections: dict[str, object]) -> Rectifier:
    own = changed(rectifier, cmpa={"init": "random"}, **sections)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        own.alignment = build_alignment(own.config, own.text_features, None).eval()
    return own


@pytest.fixture(scope="module")
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 6, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, (48, 64), mode="bilinear")


@pytest.fixture(scope="module")
def superpixels(images: Tensor) -> Tensor:
    pixels = (images * 255).to(torch.uint8).permute(0, 2, 3, 1)
    return torch.stack([slic_labels(image, 20) for image in pixels])


PRESENT = torch.tensor([[0, 2], [1, -1]])
MASKS = ["none", "box", "slic", "box_and_slic"]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("heads", [False, True])
def test_a_batch_is_its_images_one_by_one(
    rectifier: Rectifier, images: Tensor, superpixels: Tensor, mask: str, heads: bool
) -> None:
    own = changed(rectifier, affinity={"mask": mask})
    own = with_heads(own) if heads else own
    both = own.rectify(images, PRESENT, superpixels)
    ids = own.pseudo_mask(both, images)
    for i, present in enumerate((PRESENT[:1], PRESENT[1:, :1])):
        alone = own.rectify(images[i : i + 1], present, superpixels[i : i + 1])
        slots = present.shape[1]
        assert (both.initial.cam[i, :slots] - alone.initial.cam[0]).abs().max() < 1e-4
        assert (both.refined_cam[i, :slots] - alone.refined_cam[0]).abs().max() < 1e-4
        if alone.target is not None:
            assert torch.equal(both.target[i, :slots], alone.target[0])
        same = own.pseudo_mask(alone, images[i : i + 1])[0] == ids[i]
        assert same.float().mean() > 0.999
    assert not both.initial.cam[1, 1].any()  # the empty slot
    assert set(ids[0].unique().tolist()) <= {0, 1, 3}
    assert set(ids[1].unique().tolist()) <= {0, 2}


def test_padding_has_no_cam_and_no_class(
    rectifier: Rectifier, images: Tensor, superpixels: Tensor
) -> None:
    valid = torch.ones(2, 48, 64, dtype=torch.bool)
    valid[:, :, 40:] = False
    padded, ids = images * valid[:, None], superpixels.masked_fill(~valid, -1)
    own = with_heads(rectifier)
    for each in (rectifier, own, changed(own, cam={"readout": "combined"})):
        found = each.rectify(padded, PRESENT, ids, valid)
        # the patches of columns 32 .. 47 are half inside, those behind are not
        assert not found.initial.cam[..., 3:].any()
        assert found.initial.cam[..., :3].any()
        mask = each.pseudo_mask(found, padded, valid)
        assert (mask[~valid] == 255).all()
        assert (mask[valid] != 255).all()
        assert (found.regions[~valid] == -1).all()


@pytest.mark.parametrize("axis", ["col", "row", "both"])
@pytest.mark.parametrize("mask", MASKS)
def test_axis_and_mask_against_the_definition(
    rectifier: Rectifier, images: Tensor, superpixels: Tensor, axis: str, mask: str
) -> None:
    own = changed(rectifier, affinity={"mask": mask}, sgc={"axis": axis})
    found = own.rectify(images, PRESENT, superpixels)
    affinity = own.affinity(images, found.initial.view)
    squared = affinity @ affinity
    patches = squared.shape[-1]
    for i in range(2):
        for c in range(2):
            allowed = torch.ones(patches)
            if mask != "none":
                allowed = found.target[i, c].float()
            matrix = squared[i].clone()
            if axis in ("col", "both"):
                matrix = matrix * allowed[None, :]
            if axis in ("row", "both"):
                matrix = matrix * allowed[:, None]
            expected = matrix @ found.initial.cam[i, c].flatten()
            assert (found.refined_cam[i, c].flatten() - expected).abs().max() < 1e-5
    assert (found.target is None) == (mask == "none")


@pytest.mark.parametrize("kind", ["attention", "kernel", "none"])
@pytest.mark.parametrize("weights", [(0.4, 0.6), (1.0, 0.0), (0.0, 1.0)])
def test_kinds_of_affinity(
    rectifier: Rectifier,
    images: Tensor,
    superpixels: Tensor,
    kind: str,
    weights: tuple[float, float],
) -> None:
    own = changed(
        rectifier,
        affinity={
            "kind": kind,
            "clip_weight": weights[0],
            "dino_weight": weights[1],
            "mask": "none",
        },
    )
    found = own.rectify(images, PRESENT)
    if kind == "none":
        assert torch.equal(found.refined_cam, found.initial.cam)
        return
    affinity = own.affinity(images, found.initial.view)
    assert affinity.shape == (2, 12, 12)
    assert torch.allclose(affinity, affinity.mT)
    assert affinity.min() >= 0
    assert (affinity.sum(-1) - 1).abs().max() < 0.3
    assert (found.refined_cam - found.initial.cam).abs().max() > 1e-2


def new_decoder(rectifier: Rectifier) -> Decoder:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Decoder(rectifier.clip.depth - 1, rectifier.clip.width, 3, dropout=0.5)


def test_the_decoder_weighs_clips_attention(rectifier: Rectifier, images: Tensor) -> None:
    settings = {"clip_weight": 1.0, "dino_weight": 0.0, "mask": "none", "clip_layers": -2}
    plain = changed(rectifier, affinity=settings)
    own = changed(rectifier, affinity={**settings, "rfm_after": 0, "rfm_layers": -3})
    without = own.rectify(images, PRESENT)
    assert torch.equal(without.refined_cam, plain.rectify(images, PRESENT).refined_cam)

    own.decoder = new_decoder(own).train()
    found = own.rectify(images, PRESENT)
    assert own.decoder.training  # left as it was found
    # without dropout, so that a mask does not depend on who asks for it
    assert torch.equal(found.refined_cam, own.rectify(images, PRESENT).refined_cam)
    assert (found.initial.cam - without.initial.cam).abs().max() < 1e-4
    blocks = found.initial.view.attention
    assert sorted(blocks) == [1, 2, 3]
    with torch.no_grad():
        fused = own.decoder.eval().fusion(found.initial.view.tokens)
    for i in range(2):
        alike = (fused[i] @ fused[i].T).sigmoid().double()
        maps = [blocks[block][i].double() for block in (1, 2, 3)]
        doubt = [float((alike - each).sum()) for each in maps]
        kept = [each for each, d in zip(maps, doubt, strict=True) if d <= sum(doubt) / 3]
        assert len(kept) < 3
        gated = (sum(kept) / len(kept) * alike).float()
        affinity = balance(gated[None])[0]
        expected = affinity @ affinity @ found.initial.cam[i].flatten(1).T
        assert (found.refined_cam[i].flatten(1).T - expected).abs().max() < 1e-5
    assert (found.refined_cam - without.refined_cam).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["attention", "kernel"])
def test_class_distributions_refine_any_affinity(
    rectifier: Rectifier, images: Tensor, kind: str
) -> None:
    plain = changed(rectifier, affinity={"kind": kind, "mask": "none"})
    own = changed(plain, affinity={"cda_temperature": 0.003})
    found, before = own.rectify(images, PRESENT), plain.rectify(images, PRESENT)
    affinity = own.affinity(images, found.initial.view)
    assert torch.equal(affinity, plain.affinity(images, before.initial.view))
    shared = class_distribution_affinity(
        affinity, found.initial.patch_features, own.text_features, 0.003
    )
    expected = shared @ shared @ found.initial.cam.flatten(2).mT
    assert (found.refined_cam.flatten(2).mT - expected).abs().max() < 1e-5
    assert (found.refined_cam - before.refined_cam).abs().max() > 1e-3


@pytest.mark.parametrize("readout", ["gradcam", "patch", "combined"])
@pytest.mark.parametrize("image_feature", ["project_mean", "mean_projected"])
def test_readouts_of_cmpa(
    rectifier: Rectifier, images: Tensor, readout: str, image_feature: str
) -> None:
    own = with_heads(rectifier, cam={"readout": readout})
    own = changed(own, cmpa={"image_feature": image_feature})
    own.alignment.train()
    view = own.see(images)
    found = own.initial_cam(view, PRESENT, with_clip=True)
    assert own.alignment.training  # left as it was found
    assert found.cam.shape == (2, 2, 3, 4)
    assert found.cam.min() == 0
    assert 0.99 < found.cam[0].amax((-2, -1)).min() <= found.cam.max() <= 1
    plain = rectifier.initial_cam(rectifier.see(images), PRESENT)
    assert (found.clip_cam - plain.cam).abs().max() < 1e-4
    assert (found.cam - plain.cam).abs().max() > 1e-2
    assert not any(parameter.grad is not None for parameter in own.alignment.parameters())


def test_the_settings_say_whose_cam(rectifier: Rectifier, images: Tensor) -> None:
    own = with_heads(rectifier)
    clip = changed(own, cam={"mode": "clip"})
    clip.alignment = own.alignment
    view = own.see(images)
    found = clip.initial_cam(view, PRESENT)
    assert torch.equal(found.cam, found.clip_cam)
    literal = changed(own, cam={"readout": "gradcam"})
    literal.alignment = own.alignment
    assert literal.initial_cam(literal.see(images), PRESENT).clip_cam is None
    centre = changed(own, cam={"mode": "centre"}).initial_cam(view, PRESENT).cam
    assert torch.equal(centre, centre_prior(PRESENT, view.grid))
    sharper = changed(rectifier, cam={"scale": 1.0})
    other = sharper.initial_cam(sharper.see(images), PRESENT).cam
    assert (other - rectifier.initial_cam(rectifier.see(images), PRESENT).cam).abs().max() > 1e-3


def test_normalisation_is_a_setting(rectifier: Rectifier, images: Tensor) -> None:
    imagenet = changed(rectifier, data={"norm": "imagenet"})
    difference = imagenet.see(images).tokens[-1] - rectifier.see(images).tokens[-1]
    assert difference.abs().max() > 1e-2


def test_bf16_blocks_give_nearly_the_same_cam(
    rectifier: Rectifier, images: Tensor, clip_dir: Path
) -> None:
    half = Rectifier(
        rectifier.config,
        FrozenCLIP.load(clip_dir, precision="bf16"),
        rectifier.dino,
        rectifier.vocabulary,
    )
    view = half.see(images)
    assert view.tokens[-1].dtype == torch.float32
    found = half.initial_cam(view, PRESENT).cam
    exact = rectifier.initial_cam(rectifier.see(images), PRESENT).cam
    assert found.dtype == torch.float32
    assert (found - exact).abs().mean() < 0.1
    assert (found - exact).abs().max() > 0
    unconverted = FrozenCLIP.load(clip_dir)
    unconverted.precision = "bf16"  # autocast converts the weights in every pass
    in_passing = Rectifier(rectifier.config, unconverted, rectifier.dino, rectifier.vocabulary)
    assert torch.equal(in_passing.see(images).tokens[-1], view.tokens[-1])


@pytest.mark.parametrize("refine", ["none", "par", "crf"])
def test_refinements_of_the_mask(
    rectifier: Rectifier, images: Tensor, superpixels: Tensor, refine: str
) -> None:
    own = changed(rectifier, pseudo={"refine": refine, "min_score": 0.6})
    found = own.rectify(images, PRESENT, superpixels)
    ids = own.pseudo_mask(found, images)
    assert ids.shape == (2, 48, 64)
    assert set(ids[1].unique().tolist()) <= {0, 2, 255}  # never the empty slot


def test_no_class_at_all(rectifier: Rectifier, images: Tensor, superpixels: Tensor) -> None:
    none = torch.full((2, 1), -1)
    found = rectifier.rectify(images, none, superpixels)
    assert not found.refined_cam.any()
    assert not rectifier.pseudo_mask(found, images).any()


def test_superpixels_are_needed_by_slic(rectifier: Rectifier, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r'affinity\.mask = "slic" needs superpixels'):
        rectifier.rectify(images, PRESENT)


def test_present_slots() -> None:
    assert present_slots([(3, 5), (), (1,)]).tolist() == [[3, 5], [-1, -1], [1, -1]]
    assert present_slots([(), ()]).tolist() == [[-1], [-1]]


def test_encoders_of_two_patch_sizes(
    rectifier: Rectifier, tmp_path: Path, clip_dir: Path, dino_dir: Path
) -> None:
    dino = FrozenDINO.load(tiny_dino(tmp_path / "eight", patch=8))
    with pytest.raises(BackboneError, match=r"patches of 16 pixels and backbones\.dino of 8"):
        Rectifier(rectifier.config, rectifier.clip, dino, rectifier.vocabulary)


def test_dino_is_loaded_only_where_it_counts(tmp_path: Path, clip_dir: Path) -> None:
    absent = tmp_path / "absent"
    for override in ("affinity.dino_weight=0", "affinity.kind=kernel", "affinity.kind=none"):
        assert load_rectifier(tiny_config(clip_dir, absent, override), CLASSES).dino is None
    with pytest.raises(BackboneError, match="absent"):
        load_rectifier(tiny_config(clip_dir, absent), CLASSES)


def test_layers_that_an_encoder_lacks(clip_dir: Path, dino_dir: Path, images: Tensor) -> None:
    for key in ("clip_layers", "dino_layers"):
        config = tiny_config(clip_dir, dino_dir, f"affinity.{key}=[9]", "affinity.mask=none")
        with pytest.raises(ConfigError, match=rf"affinity\.{key} = \(9,\) .*4 blocks"):
            load_rectifier(config, CLASSES).rectify(images, PRESENT)
