"""The initial CAM in frozen CLIP's space or in CMPA's (spec §5, §6.6)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from ssrseg.config import Config
from ssrseg.method.cam import allowed_words, gradcam, min_max, patch_cam, word_probability
from ssrseg.method.cmpa import Alignment
from ssrseg.method.gradcam_closed_form import BlockTrace, gradcam_closed_form
from ssrseg.method.peers import centre_prior
from ssrseg.networks.clip import ClipView, FrozenCLIP


@dataclass(frozen=True)
class InitialCam:
    """Spec §5.

    Attributes:
        view: Tokens and attention of the frozen image tower.
        patch_features: V, CLIP's patch features, not normalised.
        clip_cam: GradCAM of frozen CLIP, in [0, 1]; None where only CMPA's was asked for.
        cam: The CAM that the settings ask for, in [0, 1].
    """

    view: ClipView
    patch_features: Float[Tensor, "batch patches dim1"]
    clip_cam: Float[Tensor, "batch slots grid_h grid_w"] | None
    cam: Float[Tensor, "batch slots grid_h grid_w"]


def initial_cam(
    view: ClipView,
    present: Int[Tensor, "batch slots"],
    clip: FrozenCLIP,
    text_features: Float[Tensor, "words dim1"],
    config: Config,
    alignment: Alignment | None,
    *,
    n_classes: int,
    valid: Bool[Tensor, "batch height width"] | None = None,
    with_clip: bool = False,
) -> InitialCam:
    """CAM of the present classes, read out as the settings say.

    Args:
        view: What CLIP saw before its last block.
        present: Class ids, -1 = empty slot.
        clip: The tower that saw it.
        text_features: Of all texts, the classes first.
        config: ``cam`` and ``cmpa.image_feature`` are used.
        alignment: CMPA's heads; None = CLIP's own features.
        n_classes: Foreground texts.
        valid: False = padding, where the CAM is 0.
        with_clip: Compute CLIP's CAM even where the settings ask for CMPA's only.
    """
    allowed = allowed_words(present, n_classes, len(text_features))
    cmpa = alignment if config.cam.mode == "cmpa" else None
    trace = clip.trace_last_block(view)
    clip_cam = None
    if cmpa is None or with_clip or config.cam.readout == "combined":
        scale = config.cam.scale or clip.logit_scale
        clip_cam = gradcam_closed_form(
            clip.last_block_weights,
            trace,
            clip.normed(view),
            lambda v: word_probability(v, text_features, scale, allowed),
            present,
            view.grid,
        )
    if config.cam.mode == "centre":
        cam = centre_prior(present, view.grid)
    elif cmpa is not None:
        was_training = cmpa.training
        cmpa.eval()
        cam = _cmpa_cam(view, trace, present, clip, text_features, config, cmpa, allowed, clip_cam)
        cmpa.train(was_training)
    else:
        assert clip_cam is not None
        cam = clip_cam
    if valid is not None:
        inside = functional.adaptive_avg_pool2d(valid[:, None].float(), view.grid) >= 0.5
        cam = cam * inside
        clip_cam = None if clip_cam is None else clip_cam * inside
    return InitialCam(view, trace.patch_features, clip_cam, cam)


def _cmpa_cam(
    view: ClipView,
    trace: BlockTrace,
    present: Int[Tensor, "batch slots"],
    clip: FrozenCLIP,
    text_features: Float[Tensor, "words dim1"],
    config: Config,
    cmpa: Alignment,
    allowed: Bool[Tensor, "batch words"],
    clip_cam: Float[Tensor, "batch slots grid_h grid_w"] | None,
) -> Float[Tensor, "batch slots grid_h grid_w"]:
    """The CAM in the aligned space, by one of the three read-outs (spec §6.6)."""
    with torch.no_grad():
        text, scale = cmpa.tsa(text_features), 1 / cmpa.temperature
    if config.cam.readout != "gradcam":
        with torch.no_grad():
            aligned = cmpa.isa(trace.patch_features)
        cam = patch_cam(aligned, text, scale, allowed, present, view.grid)
        if config.cam.readout == "patch":
            return cam
        assert clip_cam is not None
        return min_max((cam * clip_cam).sqrt())

    def probability(v: Tensor) -> Tensor:
        return word_probability(cmpa.isa(v), text, scale, allowed)

    normed = clip.normed(view)
    if config.cmpa.image_feature == "project_mean":
        return gradcam_closed_form(
            clip.last_block_weights, trace, normed, probability, present, view.grid
        )
    # ISA differs from patch to patch, so nothing is shared between them
    return gradcam(
        lambda activations: cmpa.isa(clip.last_block(view, activations)),
        normed,
        lambda v: word_probability(v, text, scale, allowed),
        present,
        view.grid,
    )
