from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_encoders import tiny_clip, tiny_config, tiny_dino, write_pixel_norm
from torch import Tensor

from ssrseg.data.photos import present_slots
from ssrseg.errors import BackboneError, ConfigError
from ssrseg.loading import _note_usual_pixels
from ssrseg.method.affinity import balance, feature_attention
from ssrseg.method.peers import centre_prior, class_distribution_affinity
from ssrseg.method.sgc import slic_labels
from ssrseg.model import SSR
from ssrseg.networks.clip import USUAL_PIXELS, FrozenCLIP
from ssrseg.networks.decoder import Decoder
from ssrseg.networks.dino import FAMILIES, FrozenDINO
from ssrseg.networks.dino import USUAL_PIXELS as IMAGENET
from ssrseg.trained_parts import identity_alignment, new_alignment

CLASSES = ("cat", "dog", "red car")


@pytest.fixture(scope="module")
def model(clip_dir: Path, dino_dir: Path) -> SSR:
    return SSR.from_config(tiny_config(clip_dir, dino_dir), CLASSES)


def changed(model: SSR, **sections: dict[str, object]) -> SSR:
    config = model.config
    for section, values in sections.items():
        config = replace(config, **{section: replace(getattr(config, section), **values)})
    return model.with_config(config)


def with_heads(model: SSR, **sections: dict[str, object]) -> SSR:
    own = changed(model, cmpa={"init": "random"}, **sections)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        heads = new_alignment(own.config.cmpa, own.text_features)
    return own.with_config(own.config, alignment=heads)


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
    model: SSR, images: Tensor, superpixels: Tensor, mask: str, heads: bool
) -> None:
    own = changed(model, affinity={"mask": mask})
    own = with_heads(own) if heads else own
    both = own(images, PRESENT, superpixels)
    ids = both.pseudo_mask
    for i, present in enumerate((PRESENT[:1], PRESENT[1:, :1])):
        alone = own(images[i : i + 1], present, superpixels[i : i + 1])
        slots = present.shape[1]
        assert (both.initial.cam[i, :slots] - alone.initial.cam[0]).abs().max() < 1e-4
        assert (both.refined_cam[i, :slots] - alone.refined_cam[0]).abs().max() < 1e-4
        if alone.target is not None:
            assert torch.equal(both.target[i, :slots], alone.target[0])
        same = alone.pseudo_mask[0] == ids[i]
        assert same.float().mean() > 0.999
    assert not both.initial.cam[1, 1].any()  # the empty slot
    assert set(ids[0].unique().tolist()) <= {0, 1, 3}
    assert set(ids[1].unique().tolist()) <= {0, 2}


def test_padding_has_no_cam_and_no_class(model: SSR, images: Tensor, superpixels: Tensor) -> None:
    valid = torch.ones(2, 48, 64, dtype=torch.bool)
    valid[:, :, 40:] = False
    padded, ids = images * valid[:, None], superpixels.masked_fill(~valid, -1)
    own = with_heads(model)
    for each in (model, own, changed(own, cam={"readout": "combined"})):
        found = each(padded, PRESENT, ids, valid=valid)
        # the patches of columns 32 .. 47 are half inside, those behind are not
        assert not found.initial.cam[..., 3:].any()
        assert found.initial.cam[..., :3].any()
        mask = found.pseudo_mask
        assert (mask[~valid] == 255).all()
        assert (mask[valid] != 255).all()
        assert (found.regions[~valid] == -1).all()


@pytest.mark.parametrize("axis", ["col", "row", "both"])
@pytest.mark.parametrize("mask", MASKS)
def test_axis_and_mask_against_the_definition(
    model: SSR, images: Tensor, superpixels: Tensor, axis: str, mask: str
) -> None:
    own = changed(model, affinity={"mask": mask}, sgc={"axis": axis})
    found = own(images, PRESENT, superpixels)
    affinity = own.affinity(images, found.initial)
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
    model: SSR,
    images: Tensor,
    superpixels: Tensor,
    kind: str,
    weights: tuple[float, float],
) -> None:
    own = changed(
        model,
        affinity={
            "kind": kind,
            "clip_weight": weights[0],
            "dino_weight": weights[1],
            "mask": "none",
        },
    )
    found = own(images, PRESENT)
    if kind == "none":
        assert torch.equal(found.refined_cam, found.initial.cam)
        return
    affinity = own.affinity(images, found.initial)
    assert affinity.shape == (2, 12, 12)
    assert torch.allclose(affinity, affinity.mT)
    assert affinity.min() >= 0
    assert (affinity.sum(-1) - 1).abs().max() < 0.3
    assert (found.refined_cam - found.initial.cam).abs().max() > 1e-2


def new_decoder(model: SSR) -> Decoder:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Decoder(model.clip.depth - 1, model.clip.width, 3, dropout=0.5)


def test_the_decoder_weighs_clips_attention(model: SSR, images: Tensor) -> None:
    settings = {"clip_weight": 1.0, "dino_weight": 0.0, "mask": "none", "clip_layers": -2}
    plain = changed(model, affinity=settings)
    own = changed(model, affinity={**settings, "rfm_after": 0, "rfm_layers": -3})
    without = own(images, PRESENT)
    assert torch.equal(without.refined_cam, plain(images, PRESENT).refined_cam)

    own = own.with_config(own.config, decoder=new_decoder(own).train())
    own.train()
    assert not own.decoder.training
    found = own(images, PRESENT)
    # without dropout, so that a mask does not depend on who asks for it
    assert torch.equal(found.refined_cam, own(images, PRESENT).refined_cam)
    assert (found.initial.cam - without.initial.cam).abs().max() < 1e-4
    assert found.initial.features.layers == (1, 2, 3)
    blocks = dict(zip((1, 2, 3), found.initial.attention, strict=True))
    with torch.no_grad():
        fused = own.decoder.eval().fusion(found.initial.features.tokens)
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
def test_class_distributions_refine_any_affinity(model: SSR, images: Tensor, kind: str) -> None:
    plain = changed(model, affinity={"kind": kind, "mask": "none"})
    own = changed(plain, affinity={"cda_temperature": 0.003})
    found, before = own(images, PRESENT), plain(images, PRESENT)
    affinity = plain.affinity(images, before.initial)
    shared = class_distribution_affinity(
        affinity, found.initial.patch_features, own.text_features, 0.003
    )
    assert torch.equal(own.affinity(images, found.initial), shared)
    expected = shared @ shared @ found.initial.cam.flatten(2).mT
    assert (found.refined_cam.flatten(2).mT - expected).abs().max() < 1e-5
    assert (found.refined_cam - before.refined_cam).abs().max() > 1e-3


@pytest.mark.parametrize("readout", ["gradcam", "patch", "combined"])
@pytest.mark.parametrize("image_feature", ["project_mean", "mean_projected"])
def test_readouts_of_cmpa(model: SSR, images: Tensor, readout: str, image_feature: str) -> None:
    own = with_heads(model, cam={"readout": readout})
    own = changed(own, cmpa={"image_feature": image_feature})
    own.train()
    features = own.encode(images)
    found = own.initial_cam(features, PRESENT, with_clip=True)
    assert not own.alignment.training  # BatchNorm's own statistics, whoever asks
    assert found.cam.shape == (2, 2, 3, 4)
    assert found.cam.min() == 0
    assert 0.99 < found.cam[0].amax((-2, -1)).min() <= found.cam.max() <= 1
    plain = model.initial_cam(model.encode(images), PRESENT)
    assert (found.clip_cam - plain.cam).abs().max() < 1e-4
    assert (found.cam - plain.cam).abs().max() > 1e-2
    assert not any(parameter.grad is not None for parameter in own.alignment.parameters())


@pytest.mark.parametrize("readout", ["patch", "combined"])
def test_readouts_of_frozen_clip_are_those_of_heads_that_change_nothing(
    model: SSR, images: Tensor, readout: str
) -> None:
    own = changed(model, cam={"clip_readout": readout})
    found = own.initial_cam(own.encode(images), PRESENT)
    heads = identity_alignment(model.clip, 1 / model.clip.logit_scale)
    cmpa = changed(model, cam={"readout": readout, "mode": "cmpa"})
    cmpa = cmpa.with_config(cmpa.config, alignment=heads)
    expected = cmpa.initial_cam(cmpa.encode(images), PRESENT).cam
    assert (found.cam - expected).abs().max() < 1e-4
    assert torch.equal(found.cam, found.clip_cam)
    gradcam = model.initial_cam(model.encode(images), PRESENT).cam
    assert (found.cam - gradcam).abs().max() > 1e-2
    # CMPA's combined map stands on GradCAM, however frozen CLIP is read; the one that pools changes
    aligned = with_heads(own, cam={"readout": "combined"})
    both = aligned.initial_cam(aligned.encode(images), PRESENT, with_clip=True)
    assert torch.equal(both.clip_cam, found.cam)
    plain = changed(aligned, cam={"clip_readout": "gradcam"})
    assert torch.equal(plain.initial_cam(plain.encode(images), PRESENT).cam, both.cam)


def test_the_settings_say_whose_cam(model: SSR, images: Tensor) -> None:
    own = with_heads(model)
    clip = changed(own, cam={"mode": "clip"})
    features = own.encode(images)
    found = clip.initial_cam(features, PRESENT)
    assert torch.equal(found.cam, found.clip_cam)
    literal = changed(own, cam={"readout": "gradcam"})
    assert literal.initial_cam(literal.encode(images), PRESENT).clip_cam is None
    centre = changed(own, cam={"mode": "centre"}).initial_cam(features, PRESENT).cam
    assert torch.equal(centre, centre_prior(PRESENT, features.grid))
    sharper = changed(model, cam={"scale": 1.0})
    other = sharper.initial_cam(sharper.encode(images), PRESENT).cam
    assert (other - model.initial_cam(model.encode(images), PRESENT).cam).abs().max() > 1e-3


def test_normalisation_is_a_setting(model: SSR, images: Tensor) -> None:
    imagenet = changed(model, data={"norm": "imagenet"})
    difference = imagenet.encode(images).tokens[-1] - model.encode(images).tokens[-1]
    assert difference.abs().max() > 1e-2


def test_bf16_blocks_give_nearly_the_same_cam(model: SSR, images: Tensor, clip_dir: Path) -> None:
    half = SSR(
        model.config,
        FrozenCLIP.load(clip_dir, precision="bf16"),
        model.dino,
        model.vocabulary,
    )
    features = half.encode(images)
    assert features.tokens[-1].dtype == torch.float32
    found = half.initial_cam(features, PRESENT).cam
    exact = model.initial_cam(model.encode(images), PRESENT).cam
    assert found.dtype == torch.float32
    assert (found - exact).abs().mean() < 0.1
    assert (found - exact).abs().max() > 0
    unconverted = FrozenCLIP.load(clip_dir)
    unconverted.precision = "bf16"  # autocast converts the weights in every pass
    in_passing = SSR(model.config, unconverted, model.dino, model.vocabulary)
    assert torch.equal(in_passing.encode(images).tokens[-1], features.tokens[-1])


@pytest.mark.parametrize("refine", ["none", "par", "crf"])
def test_refinements_of_the_mask(
    model: SSR, images: Tensor, superpixels: Tensor, refine: str
) -> None:
    own = changed(model, pseudo={"refine": refine, "min_score": 0.6})
    found = own(images, PRESENT, superpixels)
    ids = found.pseudo_mask
    assert ids.shape == (2, 48, 64)
    assert set(ids[1].unique().tolist()) <= {0, 2, 255}  # never the empty slot


def test_no_class_at_all(model: SSR, images: Tensor, superpixels: Tensor) -> None:
    none = torch.full((2, 1), -1)
    found = model(images, none, superpixels)
    assert not found.refined_cam.any()
    assert not found.pseudo_mask.any()


def test_superpixels_are_needed_by_slic(model: SSR, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r'affinity\.mask = "slic" needs superpixels'):
        model(images, PRESENT)


def test_present_slots() -> None:
    assert present_slots([(3, 5), (), (1,)]).tolist() == [[3, 5], [-1, -1], [1, -1]]
    assert present_slots([(), ()]).tolist() == [[-1], [-1]]


@pytest.mark.parametrize(("ours", "theirs"), [(16, 8), (16, 14), (14, 16), (8, 16), (16, 16)])
def test_what_lies_in_a_patch_of_clips_lies_in_that_patch_of_dinos(
    tmp_path: Path, ours: int, theirs: int
) -> None:
    clip = tiny_clip(tmp_path / "clip", patch=ours)
    config = tiny_config(clip, tiny_dino(tmp_path / "dino", patch=theirs))
    own = SSR.from_config(config, CLASSES)
    row, column = 1, 3
    image = torch.zeros(1, 3, 3 * ours, 5 * ours + 2)  # CLIP cuts two columns of pixels off
    image[..., row * ours : (row + 1) * ours, column * ours : (column + 1) * ours] = 1
    image[..., 5 * ours :] = 1
    seen = own._dino_input(image, own.encode(image).grid)
    assert seen.shape == (1, 3, 3 * theirs, 5 * theirs)
    bright = torch.nn.functional.avg_pool2d(seen.mean(1, keepdim=True), theirs)[0, 0]
    expected = torch.zeros(3, 5)
    expected[row, column] = 1
    assert (bright - expected).abs().max() < 0.07  # what bleeds over an edge
    inside = seen[0, 0, row * theirs + 1 : (row + 1) * theirs - 1]
    assert inside[:, column * theirs + 1 : (column + 1) * theirs - 1].min() > 0.99


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["attention", "features"])
def test_dino_of_every_family_is_fused(
    model: SSR, tmp_path: Path, images: Tensor, family: str, kind: str
) -> None:
    dino = FrozenDINO.load(tiny_dino(tmp_path / "dino", family, patch=14))
    own = changed(model, affinity={"clip_weight": 0.0, "mask": "none", "dino_kind": kind})
    own = SSR(own.config, model.clip, dino, model.vocabulary)
    small = torch.nn.functional.interpolate(images, (42, 56), mode="bilinear", antialias=True)
    pixels = torch.stack(
        [(small[:, c] - IMAGENET.mean[c]) / IMAGENET.deviation[c] for c in range(3)], 1
    )
    if kind == "attention":
        expected = dino.attention(pixels, -8)
    else:
        expected = feature_attention(dino.features(pixels), 0.05)
    found = own.affinity(images, own.initial_cam(own.encode(images), PRESENT))
    assert (found - balance(expected)).abs().max() < 1e-6
    assert found.shape == (2, 12, 12)


def test_pixels_are_normalised_as_each_encoder_wants_them(
    tmp_path: Path, model: SSR, images: Tensor
) -> None:
    numbers = ((0.5, 0.4, 0.3), (0.25, 0.5, 1.0))
    for name in ("clip", "dino"):
        tiny_clip(tmp_path / name) if name == "clip" else tiny_dino(tmp_path / name)
        write_pixel_norm(tmp_path / name, *numbers)
    own = SSR.from_config(tiny_config(tmp_path / "clip", tmp_path / "dino"), CLASSES)
    by_hand = torch.stack([(images[:, c] - numbers[0][c]) / numbers[1][c] for c in range(3)], 1)
    for found, expected in zip(
        own.encode(images).tokens, own.clip.encode(by_hand).tokens, strict=True
    ):
        assert (found - expected).abs().max() < 1e-5
    assert (own.encode(images).tokens[0] - model.encode(images).tokens[0]).abs().max() > 1e-2
    found = own._dino_attention(images, (3, 4))
    assert (found - own.dino.attention(by_hand)).abs().max() < 1e-6
    # WeCLIP gives ImageNet's to whatever CLIP
    imagenet = changed(own, data={"norm": "imagenet"})._clip_input(images)
    assert (imagenet[:, 0] - (images[:, 0] - 0.485) / 0.229).abs().max() < 1e-6


def test_an_encoder_without_mean_and_deviation_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folders = [tiny_clip(tmp_path / "clip"), tiny_dino(tmp_path / "dino")]
    SSR.from_config(tiny_config(*folders), CLASSES)
    assert "preprocessor" not in capfd.readouterr().err
    for folder in folders:
        (folder / "preprocessor_config.json").unlink()
    SSR.from_config(tiny_config(*folders), CLASSES)
    said = capfd.readouterr().err
    assert f"{folders[0]} has no preprocessor_config.json: it is given CLIP's mean" in said
    assert f"{folders[1]} has no preprocessor_config.json: it is given ImageNet's mean" in said
    _note_usual_pixels("org/clip", USUAL_PIXELS, "CLIP's")
    said = capfd.readouterr().err
    assert "org/clip has no preprocessor_config.json, or it cannot be fetched now: it is" in said


def test_dino_is_loaded_only_where_it_counts(tmp_path: Path, clip_dir: Path) -> None:
    absent = tmp_path / "absent"
    for override in ("affinity.dino_weight=0", "affinity.kind=kernel", "affinity.kind=none"):
        assert SSR.from_config(tiny_config(clip_dir, absent, override), CLASSES).dino is None
    with pytest.raises(BackboneError, match="absent"):
        SSR.from_config(tiny_config(clip_dir, absent), CLASSES)


def test_layers_that_an_encoder_lacks(clip_dir: Path, dino_dir: Path, images: Tensor) -> None:
    for key in ("clip_layers", "dino_layers"):
        config = tiny_config(clip_dir, dino_dir, f"affinity.{key}=[9]", "affinity.mask=none")
        with pytest.raises(ConfigError, match=rf"affinity\.{key} = \(9,\) .*4 blocks"):
            SSR.from_config(config, CLASSES)(images, PRESENT)
