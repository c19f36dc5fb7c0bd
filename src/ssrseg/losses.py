"""The two losses of Eq. 12 as functions of a model and a batch: L_proto and L_seg."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from ssrseg.data.crops import CropBatch
from ssrseg.foreground import ForegroundFeatures
from ssrseg.method.cmpa import (
    alignment_loss,
    background_loss,
    background_words,
    pool_foreground,
    positive_index,
    usable_pairs,
)
from ssrseg.method.objective import Counts, all_there, segmentation_loss
from ssrseg.method.peers import affinity_loss, feature_affinity
from ssrseg.model import SSR, InitialCam
from ssrseg.networks.clip import ClipFeatures

Head = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PooledPairs:
    """Pairs (image, class) whose CLIP features are pooled already: Eq. 2, then Eq. 1 (our default).

    Attributes:
        pooled: MAP(CAM_c, V) of each pair.
        clip_background: MAP(1 - max CAM, V) of their images; 0 rows if ``cmpa.bg_pairs`` is 0.
        classes: Class of each pair.
        labels: Classes present in its image.
        rows: The images, by their place in the training set.
    """

    pooled: Float[Tensor, "pairs dim1"]
    clip_background: Float[Tensor, "images dim1"]
    classes: Int[Tensor, " pairs"]
    labels: Bool[Tensor, "pairs classes"]
    rows: tuple[int, ...]

    def align(self, isa: Head) -> tuple[Tensor, Tensor]:
        """Aligned foreground and background features; BatchNorm sees both."""
        sizes = [len(self.pooled), len(self.clip_background)]
        both = torch.cat([self.pooled, self.clip_background])
        foreground, background = isa(both).split(sizes)
        return foreground, background


@dataclass(frozen=True)
class CropPairs:
    """Pairs of a batch of crops whose every patch is aligned first: Eq. 1, then Eq. 2, as printed.

    Attributes:
        patch_features: V.
        cam: Weights of Eq. 2.
        inside: False = padding, which stays out of BatchNorm and of the means.
        usable: Slots with a large enough CAM.
        clip_background: MAP(1 - max CAM, V) of the crops; 0 rows if ``cmpa.bg_pairs`` is 0.
        present: Class of each slot, -1 = empty.
        image_labels: Classes present in each crop's image.
    """

    patch_features: Float[Tensor, "batch patches dim1"]
    cam: Float[Tensor, "batch slots grid_h grid_w"]
    inside: Bool[Tensor, "batch patches"]
    usable: Bool[Tensor, "batch slots"]
    clip_background: Float[Tensor, "images dim1"]
    present: Int[Tensor, "batch slots"]
    image_labels: Bool[Tensor, "batch classes"]

    @property
    def classes(self) -> Int[Tensor, " pairs"]:
        """Class of each usable slot."""
        return self.present[self.usable]

    @property
    def labels(self) -> Bool[Tensor, "pairs classes"]:
        """Classes present in the image of each usable slot."""
        return self.image_labels[self.usable.nonzero()[:, 0]]

    def each(self, change: Callable[[Tensor], Tensor]) -> CropPairs:
        """The same with every tensor changed, such as joined with those of other processes."""
        return CropPairs(*(change(getattr(self, entry.name)) for entry in fields(self)))

    def align(self, isa: Head) -> tuple[Tensor, Tensor]:
        """Aligned foreground and background features."""
        inside = isa(self.patch_features[self.inside])  # (inside patches, dim2)
        aligned = inside.new_zeros(*self.inside.shape, inside.shape[-1])
        aligned[self.inside] = inside
        pooled, background = pool_foreground(aligned, self.cam, self.inside)
        used = len(self.clip_background) > 0
        return pooled[self.usable], background if used else background[:0]


def draw_pairs(
    model: SSR, found: ForegroundFeatures, labels: Bool[Tensor, "images classes"], seed: int
) -> PooledPairs:
    """``optim.pairs`` pairs of the training set at random, on the model's device.

    Args:
        model: Its settings are used.
        found: Features of the whole training set.
        labels: Image-level labels of the training set.
        seed: Of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(found.classes), generator=generator)[: model.config.optim.pairs]
    rows = found.image_index[chosen]
    background_rows = rows.unique() if model.config.cmpa.bg_pairs else rows[:0]
    return PooledPairs(
        found.pooled[chosen].to(model.device),
        found.background[background_rows].to(model.device),
        found.classes[chosen].to(model.device),
        labels[rows].to(model.device),
        tuple(rows.unique().tolist()),
    )


def crop_pairs(model: SSR, initial: InitialCam, crops: CropBatch) -> CropPairs:
    """The pairs in a batch of crops; there may be none."""
    config = model.config.cmpa
    cam = initial.cam if config.cam_source == "cmpa" else initial.clip_cam
    assert cam is not None
    inside = functional.adaptive_avg_pool2d(crops.valid[:, None].float(), initial.features.grid)
    inside = inside.flatten(1) >= 0.5
    usable = usable_pairs(cam.flatten(2), crops.present, min_patches=config.min_patches)
    _, background = pool_foreground(initial.patch_features, cam, inside)
    # multi-hot labels of each crop's image: (batch, classes)
    labels = torch.zeros(len(cam), model.n_classes + 1, dtype=torch.bool, device=cam.device)
    labels = labels.scatter_(1, crops.present + 1, True)[:, 1:]  # column 0: empty slots
    return CropPairs(
        initial.patch_features,
        cam,
        inside,
        usable,
        background if config.bg_pairs else background[:0],
        crops.present,
        labels,
    )


def proto_loss(
    model: SSR, pairs: PooledPairs | CropPairs, prototypes: Float[Tensor, "proto dim2"]
) -> Float[Tensor, ""]:
    """L_proto of a batch of pairs (Eq. 1-6), with backgrounds where the settings ask for them.

    Args:
        model: With heads, which get the gradient.
        pairs: A batch.
        prototypes: P_I, one row per class; or per text, as ``cmpa.bg_prototypes`` says.
    """
    assert model.alignment is not None
    config = model.config.cmpa
    with training_mode(model.alignment):
        # Eq. 1, 2: f_image (pairs, dim2), background features (images, dim2), T' (words, dim2)
        f_image, background = pairs.align(model.alignment.isa)
        text = model.alignment.tsa(model.text_features)
        temperature = model.alignment.temperature
        # Eq. 3-6
        positive = positive_index(
            f_image.detach(),
            prototypes[: model.n_classes],
            pairs.classes,
            pairs.labels,
            config.pos,
        )
        loss = alignment_loss(
            config.loss,
            f_image,
            pairs.classes,
            positive,
            text,
            prototypes,
            temperature,
            symmetric=config.symmetric,
            bg_negatives=config.bg_negatives,
            text_gradient=config.text_gradient,
        )
        # ours: a background feature belongs to the background text that CLIP finds nearest
        if len(background) and len(text) > model.n_classes:
            pulled = config.bg_prototypes == "pull" and config.symmetric
            loss = loss + config.bg_pairs * background_loss(
                background,
                background_words(pairs.clip_background, model.text_features, model.n_classes),
                text,
                temperature,
                image_prototypes=prototypes if pulled else None,
                text_gradient=config.text_gradient,
            )
    return loss


@torch.no_grad()
def online_masks(
    model: SSR, crops: CropBatch, initial: InitialCam
) -> UInt8[Tensor, "batch size size"]:
    """Pseudo masks of a batch of crops, 255 where padded: what the decoder learns from."""
    return model(
        crops.image,
        crops.present,
        superpixels=crops.ids,
        valid=crops.valid,
        n_superpixels=crops.n_ids,
        initial=initial,
    ).pseudo_mask


def seg_loss(
    model: SSR,
    features: ClipFeatures,
    pseudo_mask: UInt8[Tensor, "batch height width"],
    inside: Bool[Tensor, "batch patches"] | None = None,
    *,
    seeds: Sequence[int] = (),
    whole: Counts = all_there,
) -> Float[Tensor, ""]:
    """L_seg of a batch of crops, and WeCLIP's affinity loss beside it if the settings ask for it.

    Args:
        model: With a decoder, which gets the gradient.
        features: CLIP's of the crops.
        pseudo_mask: Class ids (or true masks under full supervision); 255 does not count.
        inside: False = padding of cached windows, which the decoder does not see.
        seeds: Of each crop, for the channels that it loses; empty = no dropout.
        whole: As for ``segmentation_loss``.
    """
    assert model.decoder is not None
    optim = model.config.optim
    with training_mode(model.decoder):
        # F (batch, patches, width) -> logits on the grid -> L_seg at the masks' size
        kept = model.decoder.kept_channels(seeds) if seeds else None
        fused = model.decoder.fusion(features.tokens, kept)
        logits = model.decoder.segment(fused, features.grid, inside)
        loss = segmentation_loss(logits, pseudo_mask, whole=whole)
        if optim.affinity_weight:
            affinity_term = affinity_loss(
                feature_affinity(fused),
                pseudo_mask,
                features.grid,
                radius=optim.affinity_radius,
                whole=whole,
            )
            loss = loss + optim.affinity_weight * affinity_term
    return loss


@contextmanager
def training_mode(part: nn.Module) -> Iterator[None]:
    """BatchNorm as in training for the part that a loss trains; then eval again."""
    part.train()
    try:
        yield
    finally:
        part.eval()
