"""Foreground features of the whole training set: what CMPA's prototypes are made of (Eq. 2)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssrseg.console import steps
from ssrseg.data.files import atomic_write
from ssrseg.data.photos import photo_batches
from ssrseg.data.sample import LabelledImages
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.initial_cam import InitialCam
from ssrseg.method.cam import min_max
from ssrseg.method.cmpa import pool_foreground, usable_pairs
from ssrseg.model import Rectifier


@dataclass(frozen=True)
class Pairs:
    """One row per (image, present class), and one per image for its background.

    Attributes:
        pooled: MAP(CAM_c, V): CLIP's features (or ISA's, where every patch is aligned first).
        image: Row of the training set that a pair belongs to.
        classes: Class of a pair.
        background: MAP(1 - max CAM, V) of each image.
        mean: Mean of V of each image.
    """

    pooled: Float[Tensor, "pairs dim"]
    image: Int[Tensor, " pairs"]
    classes: Int[Tensor, " pairs"]
    background: Float[Tensor, "images dim"]
    mean: Float[Tensor, "images dim1"]

    def save(self, path: Path) -> None:
        """Write atomically."""
        tensors = {entry.name: getattr(self, entry.name).contiguous() for entry in fields(self)}
        with atomic_write(path) as temporary:
            save_file(tensors, temporary)

    @classmethod
    def load(cls, path: Path) -> Pairs:
        """Read what :meth:`save` wrote."""
        return cls(**load_file(path))


def collect_pairs(
    rectifier: Rectifier, data: LabelledImages, superpixels: SuperpixelCache, *, aligned: bool
) -> Pairs:
    """One pass over the training images, each at its own size; the heads are left in eval mode.

    Args:
        rectifier: Encoders, settings, and CMPA's heads as they are now.
        data: Training images; only image-level labels are read.
        superpixels: Needed where the pooling CAM is the corrected one.
        aligned: Align every patch by ISA before pooling (Eq. 2, literally).
    """
    config = rectifier.config
    source = config.cmpa.cam_source
    device = rectifier.device
    rows: dict[str, list[Tensor]] = {entry.name: [] for entry in fields(Pairs)}
    order: list[int] = []
    wanted = superpixels if source == "refined" and rectifier.wants_superpixels else None
    with steps("Foreground features", len(data)) as progress:
        for batch in photo_batches(
            data.samples, config.data, rectifier.clip.patch_size, wanted, device
        ):
            view = rectifier.see(batch.image)
            initial = rectifier.initial_cam(view, batch.present, with_clip=True)
            cam = initial.cam if source == "cmpa" else initial.clip_cam
            assert cam is not None
            if source == "refined":
                from_clip = InitialCam(initial.view, initial.patch_features, cam, cam)
                refined = rectifier.rectify(
                    batch.image,
                    batch.present,
                    batch.superpixels,
                    initial=from_clip,
                    n_superpixels=batch.n_superpixels,
                )
                cam = min_max(refined.refined_cam)
            features = initial.patch_features
            if aligned:
                assert rectifier.alignment is not None
                with torch.no_grad():
                    features = rectifier.alignment.eval().isa(features)
            pooled, background = pool_foreground(features, cam)
            usable = usable_pairs(
                cam.flatten(2), batch.present, min_patches=config.cmpa.min_patches
            )
            image = torch.tensor(batch.index, device=device)[:, None].expand_as(batch.present)
            rows["pooled"].append(pooled[usable].cpu())
            rows["classes"].append(batch.present[usable].cpu())
            rows["image"].append(image[usable].cpu())
            rows["background"].append(background.cpu())
            rows["mean"].append(initial.patch_features.mean(1).cpu())
            order += batch.index
            for _ in batch.index:
                progress.advance()
    found = {name: torch.cat(parts) for name, parts in rows.items()}
    # back to the order of the samples, whatever was batched with what
    by_pair, by_image = found["image"].argsort(stable=True), torch.tensor(order).argsort()
    return Pairs(
        pooled=found["pooled"][by_pair],
        image=found["image"][by_pair],
        classes=found["classes"][by_pair],
        background=found["background"][by_image],
        mean=found["mean"][by_image],
    )
