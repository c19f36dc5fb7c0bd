"""One class of one photograph under several settings: what Figures 1, 4 and 5 are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

from ssrseg.config import Config
from ssrseg.console import track
from ssrseg.data.class_ids import read_truth
from ssrseg.data.images import check_size, read_image
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
from ssrseg.model import SSR
from ssrseg.paper.image_choice import ShownImage
from ssrseg.photo_masks import rectify_photo

CLIP_CAM, CMPA_CAM = "CLIP CAM", "CMPA CAM"
UNMASKED = "CLIP CAM, CLIP affinity"
PRIOR = "CLIP CAM, CLIP attention, box"
OURS = "SSR"


@dataclass(frozen=True)
class CamComparison:
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


def prior_config(config: Config, mask: Literal["box", "none"] = "box") -> Config:
    """The same settings with CLIP's own CAM along CLIP's attention: CLIP-ES, WeCLIP before its RFM.

    Args:
        config: Settings of SSR; the layers whose attention is read stay theirs.
        mask: Who may send: ``box`` (CLIP-ES's) or ``none``.
    """
    affinity = replace(
        config.affinity,
        mask=mask,
        kind="attention",
        clip_weight=1.0,
        dino_weight=0.0,
        sinkhorn=3,
        power=2,
        cda_temperature=None,
    )
    cam = replace(config.cam, mode="clip", clip_readout="gradcam")
    sgc = replace(config.sgc, axis="col")
    return replace(config, cam=cam, affinity=affinity, sgc=sgc)


def compare_cams(
    model: SSR, shown: Sequence[ShownImage], superpixels: SuperpixelCache
) -> list[CamComparison]:
    """CAMs and masks of CLIP, of CLIP-ES's propagation, and of SSR.

    Raises:
        DataError: If an image cannot be read, or a true mask has another size.
    """
    models = {
        PRIOR: model.with_config(prior_config(model.config)),
        UNMASKED: model.with_config(prior_config(model.config, "none")),
        OURS: model,
    }
    return [_compare(models, each, superpixels) for each in track(shown, "CAMs", len(shown))]


def _compare(
    models: Mapping[str, SSR], shown: ShownImage, superpixels: SuperpixelCache
) -> CamComparison:
    sample, ours = shown.sample, models[OURS]
    classes, class_id = ours.classes, shown.class_index + 1
    photo = read_image(sample.image, ours.config.data.range, ours.config.data.bands)
    check_size(photo, sample.image, ours.patch_size)
    size = (photo.shape[0], photo.shape[1])
    truth = None if sample.truth is None else read_truth(sample.truth, size, len(classes))
    found = {
        name: rectify_photo(each, photo, sample.labels, superpixels)
        for name, each in models.items()
    }
    # everything at the size it is looked at
    small = limit_side(photo, ours.config.data.max_side)
    size = (small.shape[0], small.shape[1])
    slot = sample.labels.index(shown.class_index)
    cams = {
        CLIP_CAM: _resize_cam(found[PRIOR].cam[slot], size),
        CMPA_CAM: _resize_cam(found[OURS].cam[slot], size),
        **{name: _resize_cam(each.refined_cam[slot], size) for name, each in found.items()},
    }
    masks = {name: _resize_ids(each.pseudo_mask, size) for name, each in found.items()}
    target = found[OURS].rectification.target
    if target is not None:
        grid = found[OURS].cam.shape[1:]
        target = _resize_ids(target[0, slot].view(grid).byte().cpu(), size).bool()
    shares, errors = {}, {}
    if truth is not None:
        truth = _resize_ids(truth, size)
        shares = {name: activation_shares(cam, truth, class_id) for name, cam in cams.items()}
        for name, mask in masks.items():
            decided = mask != 255
            matrix = confusion_matrix(mask[decided], truth[decided], len(classes) + 1)
            errors[name] = error_kinds(matrix)
    return CamComparison(
        name=sample.name,
        class_id=class_id,
        class_name=classes[shown.class_index],
        photo=small,
        truth=truth,
        cams=cams,
        shares=shares,
        target=target,
        masks=masks,
        errors=errors,
    )


def _resize_cam(
    cam: Float[Tensor, "grid_h grid_w"], size: tuple[int, int]
) -> Float[Tensor, "height width"]:
    full = functional.interpolate(cam[None, None], size, mode="bilinear")[0]
    return min_max(full)[0].clamp(0, 1)


def _resize_ids(
    ids: UInt8[Tensor, "from_h from_w"], size: tuple[int, int]
) -> UInt8[Tensor, "height width"]:
    return functional.interpolate(ids[None, None], size, mode="nearest")[0, 0]
