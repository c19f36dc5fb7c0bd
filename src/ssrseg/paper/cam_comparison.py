"""One class of one photograph under several settings: what Figures 1, 4 and 5 are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

from ssrseg.config import Config
from ssrseg.console import track
from ssrseg.data.images import check_size, read_image, read_mask
from ssrseg.data.sample import Sample
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.data.transforms import limit_side
from ssrseg.method.cam import min_max
from ssrseg.method.metrics import (
    ActivationShares,
    ErrorKinds,
    activation_shares,
    confusion_matrix,
    error_kinds,
)
from ssrseg.model import Rectifier
from ssrseg.paper.image_choice import Shown
from ssrseg.pseudo_masks import PhotoMask, rectify_photo

CLIP_ATTENTION: Mapping[str, Any] = {
    "kind": "attention", "clip_weight": 1.0, "dino_weight": 0.0, "sinkhorn": 3, "power": 2,
    "cda_temperature": None,
}  # fmt: skip
"""CLIP's own attention as CLIP-ES and WeCLIP propagate along it; the layers stay the settings'."""

CLIP_CAM, CMPA_CAM = "CLIP CAM", "CMPA CAM"
UNMASKED = "CLIP CAM, CLIP affinity"
PRIOR = "CLIP CAM, CLIP attention, box"
SSR = "SSR"


@dataclass(frozen=True)
class Closeup:
    """One class of one photograph, at the size it is shown at.

    Attributes:
        name: Of the image.
        class_id: Whose CAMs these are, by its id in masks.
        class_name: Its name.
        photo: RGB, its longer side at most ``data.max_side``.
        truth: Class ids; None where there is no true mask.
        cams: Maps in [0, 1] by the name of what made them.
        shares: By the same names, where the activation lies; empty without a true mask.
        target: Target patches of SGC as pixels; None where the settings have no mask.
        masks: Pseudo masks by what made them.
        errors: By the same names, what the pixels of the mask are; empty without a true mask.
    """

    name: str
    class_id: int
    class_name: str
    photo: UInt8[Tensor, "height width 3"]
    truth: UInt8[Tensor, "height width"] | None
    cams: dict[str, Float[Tensor, "height width"]]
    shares: dict[str, ActivationShares]
    target: Bool[Tensor, "height width"] | None
    masks: dict[str, UInt8[Tensor, "height width"]]
    errors: dict[str, ErrorKinds]


def prior_config(config: Config, mask: str = "box") -> Config:
    """The same settings with CLIP's own CAM along CLIP's attention: CLIP-ES, WeCLIP before its RFM.

    Args:
        config: Settings of SSR.
        mask: Who may send: ``box`` (theirs) or ``none``.
    """
    return replace(
        config,
        cam=replace(config.cam, mode="clip"),
        affinity=replace(config.affinity, mask=mask, **CLIP_ATTENTION),
        sgc=replace(config.sgc, axis="col"),
    )


def under(rectifier: Rectifier, config: Config) -> Rectifier:
    """The same encoders and heads under other settings."""
    return Rectifier(
        config, rectifier.clip, rectifier.dino, rectifier.vocabulary, rectifier.alignment
    )


def closeups(
    rectifier: Rectifier, shown: Sequence[Shown], superpixels: SuperpixelCache
) -> list[Closeup]:
    """CAMs and masks of CLIP, of CLIP-ES's propagation, and of SSR.

    Args:
        rectifier: SSR: encoders, settings, and CMPA's heads where there are.
        shown: Images, and the class of each.
        superpixels: Where superpixels are kept.

    Raises:
        DataError: If an image cannot be read, or a true mask has another size.
    """
    config = rectifier.config
    settings = {
        PRIOR: under(rectifier, prior_config(config)),
        UNMASKED: under(rectifier, prior_config(config, "none")),
        SSR: rectifier,
    }
    return [
        _closeup(settings, each, superpixels)
        for each in track(shown, "Close-ups", len(shown))
    ]  # fmt: skip


def _closeup(
    settings: Mapping[str, Rectifier], shown: Shown, superpixels: SuperpixelCache
) -> Closeup:
    sample, rectifier = shown.sample, settings[SSR]
    photo = read_image(sample.image)
    check_size(photo, sample.image, rectifier.clip.patch_size)
    truth = true_mask(sample, photo, rectifier.vocabulary.classes)
    found = {
        name: rectify_photo(each, photo, sample.labels, superpixels, sample.name)
        for name, each in settings.items()
    }
    small = limit_side(photo, rectifier.config.data.max_side)
    size = (small.shape[0], small.shape[1])
    slot = sample.labels.index(shown.class_index)
    cams = {
        CLIP_CAM: _map(found[PRIOR].cam, slot, size),
        CMPA_CAM: _map(found[SSR].cam, slot, size),
        **{name: _map(each.refined_cam, slot, size) for name, each in found.items()},
    }
    masks = {name: _shrink(each.pseudo_mask, size) for name, each in found.items()}
    n_classes = rectifier.n_classes + 1
    if truth is not None:
        truth = _shrink(truth, size)
    return Closeup(
        sample.name,
        shown.class_index + 1,
        rectifier.vocabulary.classes[shown.class_index],
        small,
        truth,
        cams,
        {}
        if truth is None
        else {
            name: activation_shares(cam, truth, shown.class_index + 1) for name, cam in cams.items()
        },
        _target(found[SSR], slot, size),
        masks,
        {} if truth is None else {name: _kinds(m, truth, n_classes) for name, m in masks.items()},
    )


def true_mask(
    sample: Sample, photo: UInt8[Tensor, "height width 3"], classes: tuple[str, ...]
) -> UInt8[Tensor, "height width"] | None:
    """The true mask of an image, if there is one.

    Raises:
        DataError: If its size is not the photograph's, or it holds unknown class ids.
    """
    size = (photo.shape[0], photo.shape[1])
    return None if sample.truth is None else read_mask(sample.truth, size, len(classes))


def _kinds(mask: Tensor, truth: Tensor, n_classes: int) -> ErrorKinds:
    decided = mask != 255
    return error_kinds(confusion_matrix(mask[decided], truth[decided], n_classes))


def _map(cam: Tensor, slot: int, size: tuple[int, int]) -> Float[Tensor, "height width"]:
    full = functional.interpolate(cam[None, slot : slot + 1], size, mode="bilinear")[0]
    return min_max(full)[0].clamp(0, 1)


def _target(found: PhotoMask, slot: int, size: tuple[int, int]) -> Tensor | None:
    target = found.rectified.target
    if target is None:
        return None
    grid = found.cam.shape[1:]
    return _shrink(target[0, slot].view(grid).to(torch.uint8).cpu(), size).bool()


def _shrink(ids: Tensor, size: tuple[int, int]) -> UInt8[Tensor, "height width"]:
    """Nearest neighbour: ids at another size, larger ones too."""
    return functional.interpolate(ids[None, None], size, mode="nearest")[0, 0]
