"""CAM seeds: CAMs against true masks, the background exponent swept (Tables 2-4, spec §11)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from ssrseg.config import Config
from ssrseg.console import Steps, steps
from ssrseg.data.files import atomic_write
from ssrseg.data.images import read_mask
from ssrseg.data.photos import PhotoBatch, photo_batches
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.data.transforms import to_unit
from ssrseg.errors import DataError
from ssrseg.initial_cam import InitialCam
from ssrseg.method.cam import min_max
from ssrseg.method.metrics import Scores, confusion_matrix, scores
from ssrseg.method.pseudo_mask import IGNORE
from ssrseg.model import Rectifier

ALPHAS = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 14.0)
"""Exponents of the background score for CAMs that were not propagated; CLIP-ES sweeps 1 .. 10."""

REFINED_ALPHAS = (0.5, 1.0, 2.0)
"""Exponents for propagated CAMs, which are wider; CLIP-ES tries 1 and 2."""

CHUNK = 128
"""Images after which counts are kept."""

_IMAGES, _DONE = "images of each class", "images done"


@dataclass(frozen=True)
class SeedScores:
    """Scores of one kind of seed at its best exponent.

    Attributes:
        alpha: The exponent that won.
        scores: There.
        matrix: Pixels there, rows = truth, columns = seed.
        images: Images that show each class, by the true masks; background first.
        by_alpha: mIoU in [0, 1] at every exponent tried.
    """

    alpha: float
    scores: Scores
    matrix: Int[Tensor, "classes classes"]
    images: Int[Tensor, " classes"]
    by_alpha: Mapping[float, float]


def exponents(config: Config) -> tuple[float, ...]:
    """Exponents that are tried for the CAMs of a setting (spec §11)."""
    propagated = config.affinity.kind != "none" and config.affinity.power > 0
    return REFINED_ALPHAS if propagated else ALPHAS


def score_seeds(
    rectifiers: Mapping[str, Rectifier],
    data: LabelledImages,
    superpixels: SuperpixelCache,
    *,
    alphas: tuple[float, ...] | None = None,
    keep: Path | None = None,
) -> dict[str, SeedScores]:
    """Scores of the (refined) CAMs of several settings on the same images.

    A setting's CAM counts as its ``affinity`` leaves it (``kind: none`` and ``mask: none`` score
    the initial CAM), refined as its ``pseudo.refine`` says. Exponents are swept before refinement,
    which costs seconds an image and follows in a second pass: PAR at the exponent that won without
    it (swept too, where ``alphas`` are given), the DenseCRF at ``pseudo.alpha`` [CLIP-ES: 1].

    Args:
        rectifiers: By name, all with the same encoders and ``data``.
        data: Images with labels and true masks; the masks are opened here, for scoring only.
        superpixels: Where superpixels are kept.
        alphas: Exponents to try; None = :func:`exponents`.
        keep: Folder of counts so far, from which a stopped call goes on; the names of
            ``rectifiers`` have to stand for their settings and for the images.

    Raises:
        DataError: If no image has a true mask, or a mask is of another size or data set.
    """
    swept, late, at = {}, {}, {}
    for name, each in rectifiers.items():
        refine = each.config.pseudo.refine
        if refine == "crf":
            late[name], at[name] = each, (each.config.pseudo.alpha,)
        elif refine == "par" and alphas is None:
            late[name], swept[name] = each, copy(each)
            pseudo = replace(each.config.pseudo, refine="none")
            swept[name].config = replace(each.config, pseudo=pseudo)
        else:
            swept[name] = each
    tried = {name: alphas or exponents(each.config) for name, each in swept.items()}
    found = _score(swept, data, superpixels, tried, keep) if swept else {}
    if late:
        at |= {name: (found[name].alpha,) for name in late if name not in at}
        found |= _score(late, data, superpixels, at, keep)
    return {name: found[name] for name in rectifiers}


def _score(
    rectifiers: Mapping[str, Rectifier],
    data: LabelledImages,
    superpixels: SuperpixelCache,
    alphas: Mapping[str, tuple[float, ...]],
    keep: Path | None,
) -> dict[str, SeedScores]:
    """One pass over the images for all settings, going on where an earlier call was stopped."""
    known = [sample for sample in data.samples if sample.truth is not None]
    if not known:
        raise DataError(
            f"No image of {data.root} has a true mask to score CAMs against. Put indexed PNGs"
            " (0 = background, 1 = first class, ..., 255 = ignore) into SegmentationClass/."
        )
    n_classes = len(data.classes) + 1
    counts = {
        name: torch.zeros(len(alphas[name]), n_classes, n_classes, dtype=torch.long)
        for name in rectifiers
    }
    counts |= {_IMAGES: torch.zeros(n_classes, dtype=torch.long), _DONE: torch.tensor(0)}
    file = None
    if keep is not None:
        refined = [(key, each.config.pseudo.refine) for key, each in sorted(rectifiers.items())]
        facts = (sorted(alphas.items()), refined, len(known))
        name = hashlib.sha256(repr(facts).encode()).hexdigest()
        file = keep / f"seeds-{name[:16]}.safetensors"
        counts |= load_file(file) if file.is_file() else {}
    done = int(counts[_DONE])
    with steps("CAM seeds", len(known), done=done) as progress:
        for start in range(done, len(known), CHUNK):
            chunk = known[start : start + CHUNK]
            _count(rectifiers, chunk, superpixels, alphas, counts, progress)
            counts[_DONE] += len(chunk)
            if file is not None:
                with atomic_write(file) as temporary:
                    save_file(counts, temporary)
    return {name: _best(counts[name], alphas[name], counts[_IMAGES]) for name in rectifiers}


def _count(
    rectifiers: Mapping[str, Rectifier],
    known: list[Sample],
    superpixels: SuperpixelCache,
    alphas: Mapping[str, tuple[float, ...]],
    counts: Mapping[str, Tensor],
    progress: Steps,
) -> None:
    """Add the pixels of some images to the confusion matrices of every setting and exponent."""
    n_classes = len(counts[_IMAGES])
    one = next(iter(rectifiers.values()))
    wanted = superpixels if any(x.wants_superpixels for x in rectifiers.values()) else None
    for batch in photo_batches(known, one.config.data, one.clip.patch_size, wanted, one.device):
        originals = batch.originals
        truths = [
            read_mask(path, (original.shape[0], original.shape[1]), n_classes - 1)
            for index, original in zip(batch.index, originals, strict=True)
            if (path := known[index].truth) is not None
        ]
        for truth in truths:
            counts[_IMAGES][truth[truth != IGNORE].unique().long()] += 1
        refined = _refined_cams(rectifiers, batch)
        for rows in _equal_sizes(originals):
            photo = torch.stack([to_unit(originals[row]) for row in rows]).to(one.device)
            truth = torch.stack([truths[row] for row in rows])
            present = batch.present[rows]
            for name, rectifier in rectifiers.items():
                cam = refined[name][rows]
                counts[name].add_(
                    sweep(rectifier, cam, photo, present, truth, alphas[name], n_classes)
                )
        for _ in batch.index:
            progress.advance()


def _refined_cams(
    rectifiers: Mapping[str, Rectifier], batch: PhotoBatch
) -> dict[str, Float[Tensor, "batch slots grid_h grid_w"]]:
    """The corrected CAM of every setting; what settings have in common is computed once."""
    cams: dict[object, InitialCam] = {}
    regions: dict[object, Tensor] = {}
    affinities: dict[object, Tensor] = {}
    refined = {}
    for name, rectifier in rectifiers.items():
        key = _what_decides_the_cam(rectifier)
        if key not in cams:
            cams[key] = rectifier.initial_cam(rectifier.see(batch.image), batch.present)
        k = rectifier.config.sgc.k_colour
        if rectifier.wants_superpixels and k not in regions:
            regions[k] = rectifier.regions(batch.image, batch.superpixels, batch.n_superpixels)
        sends = _what_decides_the_affinity(rectifier)
        if sends is not None and sends not in affinities:
            affinities[sends] = rectifier.affinity(batch.image, cams[key].view)
        refined[name] = rectifier.rectify(
            batch.image,
            batch.present,
            initial=cams[key],
            regions=regions.get(k),
            n_superpixels=batch.n_superpixels,
            affinity=affinities.get(sends),
        ).refined_cam
    return refined


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
    maps = torch.cat([backgrounds, cam], 1)
    for index in range(len(maps)):  # one by one: PAR holds dozens of copies of an image
        one = slice(index, index + 1)
        maps[one] = rectifier.refine_scores(maps[one], photo[one], present[one])
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


def _what_decides_the_affinity(rectifier: Rectifier) -> object:
    """None where nothing is propagated; what sends and how often comes after the affinity."""
    affinity = rectifier.config.affinity
    if affinity.kind == "none" or affinity.power == 0:
        return None
    shared = replace(affinity, mask="none", power=1, cda_temperature=None)
    return rectifier.config.backbones, shared, id(rectifier.decoder)


def _equal_sizes(originals: Sequence[Tensor]) -> list[list[int]]:
    """Rows of a batch by the size of the original: limited sizes may agree where these do not."""
    rows: dict[torch.Size, list[int]] = {}
    for row, original in enumerate(originals):
        rows.setdefault(original.shape, []).append(row)
    return list(rows.values())


def _best(
    matrices: Int[Tensor, "alphas classes classes"],
    alphas: Sequence[float],
    images: Int[Tensor, " classes"],
) -> SeedScores:
    found = [scores(matrix) for matrix in matrices]
    best = max(range(len(alphas)), key=lambda index: found[index].miou)
    by_alpha = {alpha: each.miou for alpha, each in zip(alphas, found, strict=True)}
    return SeedScores(alphas[best], found[best], matrices[best], images, by_alpha)
