"""One class of one photograph under several settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from make_tiny import tiny_voc
from PIL import Image
from tiny_encoders import tiny_config
from torch.nn import functional

from ssrseg.config import Config
from ssrseg.data.class_ids import read_class_ids
from ssrseg.data.images import read_image
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.errors import DataError
from ssrseg.method.cam import min_max
from ssrseg.method.metrics import confusion_matrix, error_kinds
from ssrseg.method.peers import box_patches
from ssrseg.model import SSR
from ssrseg.paper.cam_comparison import (
    CLIP_CAM,
    CMPA_CAM,
    OURS,
    PRIOR,
    UNMASKED,
    compare_cams,
    prior_config,
)
from ssrseg.paper.image_choice import ShownImage
from ssrseg.photo_masks import rectify_photo

NO_CACHE = SuperpixelCache(None, n_segments=20, compactness=10.0)
CLASSES = ("cat", "dog", "red car")


@pytest.fixture
def data(tmp_path: Path) -> LabelledImages:
    return open_labelled(tiny_voc(tmp_path / "voc", n=3, classes=CLASSES))


@pytest.fixture(scope="module")
def config(clip_dir: Path, dino_dir: Path) -> Config:
    return tiny_config(clip_dir, dino_dir)


@pytest.fixture(scope="module")
def model(config: Config) -> SSR:
    return SSR.from_config(config, CLASSES)


def test_prior_is_clips_cam_along_clips_attention(config: Config) -> None:
    prior = prior_config(config)
    assert (prior.cam.mode, prior.affinity.mask) == ("clip", "box")
    weights = (prior.affinity.clip_weight, prior.affinity.dino_weight)
    assert (weights, prior.affinity.power, prior.affinity.sinkhorn) == ((1.0, 0.0), 2, 3)
    assert prior.affinity.clip_layers == config.affinity.clip_layers
    assert replace(prior, cam=config.cam, affinity=config.affinity) == config
    assert prior_config(config, "none").affinity.mask == "none"


def test_maps_are_those_of_each_setting(data: LabelledImages, config: Config, model: SSR) -> None:
    sample = data.samples[2]  # a red car and a cat
    assert sample.labels == (0, 2)
    (found,) = compare_cams(model, [ShownImage(sample, 2)], NO_CACHE)
    assert (found.name, found.class_name, found.class_id) == (sample.name, "red car", 3)
    photo = read_image(sample.image)
    assert torch.equal(found.photo, photo)
    assert set(found.cams) == {CLIP_CAM, CMPA_CAM, PRIOR, UNMASKED, OURS}
    size = tuple(photo.shape[:2])
    alone = {
        OURS: rectify_photo(model, photo, sample.labels, NO_CACHE),
        PRIOR: rectify_photo(
            model.with_config(prior_config(config)), photo, sample.labels, NO_CACHE
        ),
    }
    for name, each in alone.items():
        full = functional.interpolate(each.refined_cam[None, 1:2], size, mode="bilinear")[0, 0]
        torch.testing.assert_close(found.cams[name], min_max(full).clamp(0, 1))
        assert torch.equal(found.masks[name], each.pseudo_mask)
    assert all((cam.min() >= 0) and (cam.max() > 0.99) for cam in found.cams.values())
    # without trained heads CMPA's CAM is CLIP's
    assert torch.equal(found.cams[CMPA_CAM], found.cams[CLIP_CAM])
    assert not torch.allclose(found.cams[PRIOR], found.cams[UNMASKED])
    target = alone[OURS].rectification.target
    assert target is not None and found.target is not None
    grid = alone[OURS].cam.shape[1:]
    rows = torch.arange(size[0]) * grid[0] // size[0]
    columns = torch.arange(size[1]) * grid[1] // size[1]
    assert torch.equal(found.target, target[0, 1].view(grid)[rows][:, columns])
    # the prior's mask is CLIP-ES's box, not SGC's target
    boxes = alone[PRIOR].rectification.target
    assert torch.equal(boxes, box_patches(alone[PRIOR].rectification.initial.cam, high=0.4))


def test_shares_and_errors_against_the_truth(data: LabelledImages, model: SSR) -> None:
    sample = data.samples[2]
    (found,) = compare_cams(model, [ShownImage(sample, 0)], NO_CACHE)
    assert sample.truth is not None
    truth = read_class_ids(sample.truth)
    assert found.truth is not None and torch.equal(found.truth, truth)
    counted = truth != 255
    for name, cam in found.cams.items():
        share = found.shares[name]
        total = float(cam[counted].double().sum())
        assert share.own_class == pytest.approx(float(cam[truth == 1].double().sum()) / total)
        assert share.background == pytest.approx(float(cam[truth == 0].double().sum()) / total)
        assert share.own_class + share.other_classes + share.background == pytest.approx(1)
    for name, mask in found.masks.items():
        assert found.errors[name] == error_kinds(confusion_matrix(mask, truth, 4))


def test_without_a_true_mask_there_are_no_shares(data: LabelledImages, model: SSR) -> None:
    sample = replace(data.samples[0], truth=None)
    (found,) = compare_cams(model, [ShownImage(sample, 0)], NO_CACHE)
    assert (found.truth, found.shares, found.errors) == (None, {}, {})


def test_without_a_mask_there_is_no_target(data: LabelledImages, model: SSR) -> None:
    config = model.config
    bare = model.with_config(replace(config, affinity=replace(config.affinity, mask="none")))
    (found,) = compare_cams(bare, [ShownImage(data.samples[0], 0)], NO_CACHE)
    assert found.target is None


def test_a_large_photograph_is_shown_at_the_size_it_is_looked_at(
    data: LabelledImages, model: SSR
) -> None:
    config = model.config
    small = model.with_config(replace(config, data=replace(config.data, max_side=40)))
    (found,) = compare_cams(small, [ShownImage(data.samples[0], 0)], NO_CACHE)
    size = (33, 40)  # 61 x 75
    assert tuple(found.photo.shape[:2]) == size
    assert found.truth is not None and found.target is not None
    shapes = {*(x.shape for x in found.cams.values()), *(x.shape for x in found.masks.values())}
    assert shapes == {size} == {found.truth.shape, found.target.shape}


def test_a_true_mask_of_another_size_or_another_data_set(data: LabelledImages, model: SSR) -> None:
    sample = data.samples[0]
    assert sample.truth is not None
    Image.new("L", (20, 30)).save(sample.truth)
    said = rf"{sample.name}\.png is 20 x 30 pixels, its image 75 x 61"
    with pytest.raises(DataError, match=said):
        compare_cams(model, [ShownImage(sample, 0)], NO_CACHE)
    Image.new("L", (75, 61), 4).save(sample.truth)
    with pytest.raises(DataError, match="class id 4, but the data have 3 classes"):
        compare_cams(model, [ShownImage(sample, 0)], NO_CACHE)
