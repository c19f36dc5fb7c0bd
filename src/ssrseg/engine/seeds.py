"""CAM seeds: CAMs against true masks, the background exponent swept (Tables 2-4, spec §11)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ssrseg.data.cache import SuperpixelCache
from ssrseg.data.images import check_size, read_image, read_truth
from ssrseg.data.sample import LabelledImages
from ssrseg.data.transforms import fit_to_patches, limit_side, to_unit
from ssrseg.engine.progress import track
from ssrseg.engine.rectify import Rectifier, present_slots
from ssrseg.method.metrics import Scores, confusion_matrix, scores
from ssrseg.method.pseudo_mask import class_ids, class_scores

ALPHAS = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 14.0)
"""Exponents of the background score; CLIP-ES sweeps 1 .. 10."""


@dataclass(frozen=True)
class SeedScores:
    """Scores of one kind of seed at its best exponent.

    Attributes:
        alpha: The exponent that won.
        scores: There.
    """

    alpha: float
    scores: Scores


def score_seeds(
    rectifiers: Mapping[str, Rectifier],
    data: LabelledImages,
    superpixels: SuperpixelCache,
    *,
    alphas: tuple[float, ...] = ALPHAS,
) -> dict[str, SeedScores]:
    """MIoU of the (refined) CAMs of several settings on the same images.

    A setting's CAM counts as its ``affinity`` leaves it (``kind: none`` and ``mask: none``
    score the initial CAM). Its ``pseudo.refine`` is applied at every exponent.

    Args:
        rectifiers: By name; they may share encoders.
        data: Images with labels and true masks; the masks are opened here, for scoring only.
        superpixels: Where superpixels are kept.
        alphas: Exponents to try.
    """
    n_classes = len(data.classes) + 1
    matrices = {
        name: torch.zeros(len(alphas), n_classes, n_classes, dtype=torch.long)
        for name in rectifiers
    }
    known = [sample for sample in data.samples if sample.truth is not None]
    for sample in track(known, "CAM seeds", len(known)):
        assert sample.truth is not None
        photo, truth = read_image(sample.image), read_truth(sample.truth)
        for name, rectifier in rectifiers.items():
            check_size(photo, sample.image, rectifier.clip.patch_size)
            small = limit_side(photo, rectifier.config.data.max_side)
            image = to_unit(fit_to_patches(small, rectifier.clip.patch_size))[None]
            present = present_slots([sample.labels]).to(rectifier.device)
            needs = rectifier.config.affinity.mask in ("slic", "box_and_slic")
            ids = superpixels(small, sample.name)[None].to(rectifier.device) if needs else None
            rectified = rectifier.rectify(image.to(rectifier.device), present, ids)
            for index, alpha in enumerate(alphas):
                found = _ids(rectifier, rectified.refined_cam, present, photo, alpha)
                matrices[name][index] += confusion_matrix(found, truth, n_classes)
    return {name: _best(found, alphas) for name, found in matrices.items()}


def _ids(
    rectifier: Rectifier, refined_cam: Tensor, present: Tensor, photo: Tensor, alpha: float
) -> Tensor:
    maps = class_scores(refined_cam, (photo.shape[0], photo.shape[1]), alpha=alpha)
    maps = rectifier.refine_scores(maps, to_unit(photo)[None].to(rectifier.device), present)
    return class_ids(maps, present)[0].cpu()


def _best(matrices: Tensor, alphas: tuple[float, ...]) -> SeedScores:
    found = [scores(matrix) for matrix in matrices]
    best = max(range(len(alphas)), key=lambda index: found[index].miou)
    return SeedScores(alphas[best], found[best])
