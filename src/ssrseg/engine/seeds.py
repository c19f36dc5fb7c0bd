"""CAM seeds: CAMs against true masks, the background exponent swept (Tables 2-4, spec §11)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from ssrseg.data.cache import SuperpixelCache
from ssrseg.data.images import check_size, read_image, read_truth
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.transforms import fit_to_patches, limit_side, to_unit
from ssrseg.engine.initial_cam import InitialCam
from ssrseg.engine.progress import steps
from ssrseg.engine.rectify import Rectifier, present_slots
from ssrseg.method.cam import min_max
from ssrseg.method.metrics import Scores, confusion_matrix, scores
from ssrseg.method.pseudo_mask import IGNORE

ALPHAS = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 14.0)
"""Exponents of the background score; CLIP-ES sweeps 1 .. 10."""

BATCH = 16
"""Images of one size that are looked at together."""


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
    """Scores of the (refined) CAMs of several settings on the same images.

    A setting's CAM counts as its ``affinity`` leaves it (``kind: none`` and ``mask: none`` score
    the initial CAM). Its ``pseudo.refine`` may be ``none`` or ``par``.

    Args:
        rectifiers: By name, all with the same encoders and ``data.max_side``.
        data: Images with labels and true masks; the masks are opened here, for scoring only.
        superpixels: Where superpixels are kept.
        alphas: Exponents to try.

    Raises:
        ValueError: If a setting refines by DenseCRF, which is no sweep over exponents.
    """
    if any(each.config.pseudo.refine == "crf" for each in rectifiers.values()):
        raise ValueError("score_seeds sweeps exponents without DenseCRF: pseudo.refine none or par")
    n_classes = len(data.classes) + 1
    matrices = {
        name: torch.zeros(len(alphas), n_classes, n_classes, dtype=torch.long)
        for name in rectifiers
    }
    known = [sample for sample in data.samples if sample.truth is not None]
    one = next(iter(rectifiers.values()))
    wants_ids = any("slic" in each.config.affinity.mask for each in rectifiers.values())
    with steps("CAM seeds", len(known)) as progress:
        for batch in _same_size(known, one.clip.patch_size):
            small = [limit_side(photo, one.config.data.max_side) for photo, _, _ in batch]
            image = torch.stack([to_unit(fit_to_patches(x, one.clip.patch_size)) for x in small])
            image = image.to(one.device)
            photo = torch.stack([to_unit(photo) for photo, _, _ in batch]).to(one.device)
            present = present_slots([sample.labels for _, _, sample in batch]).to(one.device)
            ids = None
            if wants_ids:
                named = zip(small, batch, strict=True)
                ids = torch.stack([superpixels(x, each[2].name) for x, each in named])
                ids = ids.to(one.device)
            truth = torch.stack([truth for _, truth, _ in batch])
            cams: dict[object, InitialCam] = {}
            regions: dict[object, Tensor] = {}
            for name, rectifier in rectifiers.items():
                key = _what_decides_the_cam(rectifier)
                if key not in cams:
                    cams[key] = rectifier.initial_cam(rectifier.see(image), present)
                k = (rectifier.config.sgc.k_colour, rectifier.config.sgc.connected)
                if ids is not None and k not in regions:
                    regions[k] = rectifier.regions(image, ids)
                rectified = rectifier.rectify(
                    image, present, ids, initial=cams[key], regions=regions.get(k)
                )
                matrices[name] += sweep(
                    rectifier, rectified.refined_cam, photo, present, truth, alphas, n_classes
                )
            for _ in batch:
                progress.advance()
    return {name: _best(found, alphas) for name, found in matrices.items()}


@torch.no_grad()
def sweep(
    rectifier: Rectifier,
    refined_cam: Float[Tensor, "batch slots grid_h grid_w"],
    photo: Float[Tensor, "batch 3 height width"],
    present: Int[Tensor, "batch slots"],
    truth: UInt8[Tensor, "batch height width"],
    alphas: Sequence[float],
    n_classes: int,
) -> Int[Tensor, "alphas classes classes"]:
    """Confusion matrix at every exponent.

    A pixel with the largest CAM m is background iff (1 - m)^α >= m, that is α <= log m /
    log(1 - m): one count of (truth, class, that bound) serves all exponents. PAR has to see each
    background by itself; as it treats every map alike, all go through it together with one set of
    CAMs.
    """
    size = (photo.shape[2], photo.shape[3])
    cam = functional.interpolate(min_max(refined_cam), size, mode="bilinear").clamp(0, 1)
    empty = (present < 0)[:, :, None, None]
    strongest, slot = cam.masked_fill(empty, -1).max(1)
    strongest = strongest.clamp(min=0)
    ids = (present + 1).gather(1, slot.flatten(1)).view_as(slot)
    if rectifier.config.pseudo.refine == "none":
        # inf where the CAM is 0, 0 where it is 1; 1 - m would round tiny CAMs away
        bound = strongest.log() / (-strongest).log1p()
        # how many exponents call the pixel background
        level = torch.bucketize(bound, torch.tensor(alphas, device=bound.device), right=True).cpu()
        counted = truth != IGNORE
        cells = (truth[counted].long() * n_classes + ids.cpu()[counted]) * (len(alphas) + 1)
        counts = torch.bincount(
            cells + level[counted], minlength=n_classes**2 * (len(alphas) + 1)
        ).view(n_classes, n_classes, len(alphas) + 1)
        chosen = counts.cumsum(-1)[..., :-1].permute(2, 0, 1)  # level <= index: the class wins
        lost = counts.sum((1, 2)) - chosen.sum(2)
        chosen[:, :, 0] += lost
        return chosen
    backgrounds = torch.stack([(1 - strongest) ** alpha for alpha in alphas], 1)
    maps = rectifier.refine_scores(torch.cat([backgrounds, cam], 1), photo, present)
    backgrounds, cam = maps.split([len(alphas), cam.shape[1]], 1)
    best, slot = cam.masked_fill(empty, -torch.inf).max(1)
    ids = (present + 1).gather(1, slot.flatten(1)).view_as(slot)
    return torch.stack(
        [
            confusion_matrix(torch.where(background >= best, 0, ids).cpu(), truth, n_classes)
            for background in backgrounds.unbind(1)
        ]
    )


def _what_decides_the_cam(rectifier: Rectifier) -> object:
    config = rectifier.config
    return (
        id(rectifier.alignment),
        config.cam,
        config.cmpa.image_feature,
        config.backbones,
        rectifier.clip_layers,
    )


def _same_size(samples: list[Sample], patch: int) -> Iterator[list[tuple[Tensor, Tensor, Sample]]]:
    """(photo, truth, sample) in batches of neighbours that have the same size."""
    batch: list[tuple[Tensor, Tensor, Sample]] = []
    for sample in samples:
        assert sample.truth is not None
        photo = read_image(sample.image)
        check_size(photo, sample.image, patch)
        if batch and (len(batch) == BATCH or photo.shape != batch[0][0].shape):
            yield batch
            batch = []
        batch.append((photo, read_truth(sample.truth), sample))
    if batch:
        yield batch


def _best(matrices: Int[Tensor, "alphas classes classes"], alphas: Sequence[float]) -> SeedScores:
    found = [scores(matrix) for matrix in matrices]
    best = max(range(len(alphas)), key=lambda index: found[index].miou)
    return SeedScores(alphas[best], found[best])
