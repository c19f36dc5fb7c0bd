"""CAM seeds: CAMs against true masks, the background exponent swept (Tables 2 to 4)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from ssrseg.config import Config
from ssrseg.console import Steps, steps
from ssrseg.data.class_ids import read_truth
from ssrseg.data.files import atomic_write
from ssrseg.data.kept_tensors import kept_tensors
from ssrseg.data.photos import PhotoBatch, photo_batches
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.data.transforms import to_unit
from ssrseg.errors import DataError
from ssrseg.method.cam import min_max
from ssrseg.method.metrics import Scores, confusion_matrix, scores
from ssrseg.method.pseudo_mask import IGNORE
from ssrseg.model import SSR, InitialCam

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
    """Exponents that are tried for the CAMs of a setting."""
    propagated = config.affinity.kind != "none" and config.affinity.power > 0
    return REFINED_ALPHAS if propagated else ALPHAS


def score_seeds(
    models: Mapping[str, SSR],
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
        models: By name, all with the same encoders and ``data``.
        data: Images with labels and true masks; the masks are opened here, for scoring only.
        superpixels: Where superpixels are kept.
        alphas: Exponents to try; None = ``exponents``.
        keep: Folder of counts so far, from which a stopped call goes on; the names of
            ``models`` have to stand for their settings and for the images.

    Raises:
        DataError: If no image has a true mask, or a mask is of another size or data set.
    """
    swept, late, at = {}, {}, {}
    for name, model in models.items():
        pseudo = model.config.pseudo
        if pseudo.refine == "crf":
            late[name], at[name] = model, (pseudo.alpha,)
        elif pseudo.refine == "par" and alphas is None:
            plain = replace(model.config, pseudo=replace(pseudo, refine="none"))
            late[name], swept[name] = model, model.with_config(plain)
        else:
            swept[name] = model
    tried = {name: alphas or exponents(model.config) for name, model in swept.items()}
    found = _score(swept, data, superpixels, tried, keep) if swept else {}
    if late:
        at |= {name: (found[name].alpha,) for name in late if name not in at}
        found |= _score(late, data, superpixels, at, keep)
    return {name: found[name] for name in models}


def _score(
    models: Mapping[str, SSR],
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
    n = len(data.classes) + 1
    counts = {name: torch.zeros(len(alphas[name]), n, n, dtype=torch.long) for name in models}
    counts |= {_IMAGES: torch.zeros(n, dtype=torch.long), _DONE: torch.tensor(0)}
    file = None
    if keep is not None:
        refined = [(name, model.config.pseudo.refine) for name, model in sorted(models.items())]
        facts = (sorted(alphas.items()), refined, len(known))
        digest = hashlib.sha256(repr(facts).encode()).hexdigest()
        file = keep / f"seeds-{digest[:16]}.safetensors"
        counts |= _counts_so_far(kept_tensors(file), counts, len(known))
    done = int(counts[_DONE])
    with steps("CAM seeds", len(known), done=done) as progress:
        for start in range(done, len(known), CHUNK):
            chunk = known[start : start + CHUNK]
            _count(models, chunk, superpixels, alphas, counts, progress)
            counts[_DONE] += len(chunk)
            if file is not None:
                with atomic_write(file) as temporary:
                    save_file(counts, temporary)
    return {name: _best(counts[name], alphas[name], counts[_IMAGES]) for name in models}


def _counts_so_far(
    kept: dict[str, Tensor], empty: Mapping[str, Tensor], images: int
) -> dict[str, Tensor]:
    """What an earlier call has counted; nothing if it has another form."""
    same = {name: (each.shape, each.dtype) for name, each in kept.items()} == {
        name: (each.shape, each.dtype) for name, each in empty.items()
    }
    whole = same and all(int(each.min()) >= 0 for each in kept.values())
    return kept if whole and int(kept[_DONE]) <= images else {}


def _count(
    models: Mapping[str, SSR],
    known: list[Sample],
    superpixels: SuperpixelCache,
    alphas: Mapping[str, tuple[float, ...]],
    counts: Mapping[str, Tensor],
    progress: Steps,
) -> None:
    """Add the pixels of some images to the confusion matrices of every setting and exponent."""
    one = next(iter(models.values()))
    wanted = superpixels if any(x.wants_superpixels for x in models.values()) else None
    for batch in photo_batches(known, one.config.data, one.patch_size, wanted, one.device):
        truths = []
        for index, original in zip(batch.index, batch.originals, strict=True):
            path, size = known[index].truth, (original.shape[0], original.shape[1])
            assert path is not None
            truths.append(read_truth(path, size, one.n_classes, known[index].labels))
            counts[_IMAGES][truths[-1][truths[-1] != IGNORE].unique().long()] += 1
        refined = _refined_cams(models, batch)
        for rows in _equal_sizes(batch.originals):
            photo = torch.stack([to_unit(batch.originals[row]) for row in rows]).to(one.device)
            truth, present = torch.stack([truths[row] for row in rows]), batch.present[rows]
            for name, model in models.items():
                cam = refined[name][rows]
                counts[name].add_(sweep(model, cam, photo, present, truth, alphas[name]))
        for _ in batch.index:
            progress.advance()


def _refined_cams(
    models: Mapping[str, SSR], batch: PhotoBatch
) -> dict[str, Float[Tensor, "batch slots grid_h grid_w"]]:
    """The corrected CAM of every setting; what settings have in common is computed once."""
    shared: dict[object, Any] = {}

    def once(key: object, compute: Callable[..., Any], *arguments: object) -> Any:
        if key not in shared:
            shared[key] = compute(*arguments)
        return shared[key]

    refined = {}
    for name, model in models.items():
        config = model.config
        seen = (config.cam, config.cmpa.image_feature, config.backbones, model.clip_layers)
        cam = ("cam", id(model.alignment), seen)
        initial = once(cam, _initial_cam, model, batch)
        colours = ("regions", model.wants_superpixels, config.sgc.k_colour)
        regions = once(
            colours, model.colour_regions, batch.image, batch.superpixels, batch.n_superpixels
        )
        # what sends, and how often, comes after the affinity
        spread = replace(config.affinity, mask="none", power=min(config.affinity.power, 1))
        along = ("affinity", config.backbones, spread, id(model.decoder))
        affinity = once(along, model.affinity, batch.image, initial)
        target = model.target_regions(initial.cam, regions)
        refined[name] = model.refined_cam(initial.cam, affinity, target)
    return refined


def _initial_cam(model: SSR, batch: PhotoBatch) -> InitialCam:
    return model.initial_cam(model.encode(batch.image), batch.present)


@torch.no_grad()
def sweep(
    model: SSR,
    refined_cam: Float[Tensor, "batch slots grid_h grid_w"],
    photo: Float[Tensor, "batch 3 height width"],
    present: Int[Tensor, "batch slots"],
    truth: UInt8[Tensor, "batch height width"],
    alphas: Sequence[float],
) -> Int[Tensor, "alphas classes classes"]:
    """Confusion matrix at every exponent.

    A pixel with the largest CAM m is background iff (1 - m)^α >= m, that is α <= log m /
    log(1 - m): one count of (truth, class, that bound) serves all exponents. PAR has to see each
    background by itself; as it treats every map alike, all go through it together with one set of
    CAMs.
    """
    n = model.n_classes + 1
    # CAMs of the pixels, the strongest and its class: (batch, slots, height, width), (batch, ...)
    size = (photo.shape[2], photo.shape[3])
    cam = functional.interpolate(min_max(refined_cam), size, mode="bilinear").clamp(0, 1)
    empty = (present < 0)[:, :, None, None]
    strongest, slot = cam.masked_fill(empty, -1).max(1)
    strongest = strongest.clamp(min=0)
    if model.config.pseudo.refine == "none":
        # inf where the CAM is 0, 0 where it is 1; 1 - m would round tiny CAMs away
        bound = strongest.log() / (-strongest).log1p()
        # how many exponents call the pixel background
        level = torch.bucketize(bound, torch.tensor(alphas, device=bound.device), right=True).cpu()
        counted = truth != IGNORE
        pairs = truth[counted].long() * n + _ids(present, slot).cpu()[counted]
        cells = pairs * (len(alphas) + 1) + level[counted]
        counts = torch.bincount(cells, minlength=n**2 * (len(alphas) + 1)).view(n, n, -1)
        # level <= index: the class wins; else background, column 0
        chosen = counts.cumsum(-1)[..., :-1].permute(2, 0, 1)
        chosen[:, :, 0] += counts.sum((1, 2)) - chosen.sum(2)
        return chosen
    # backgrounds of all exponents and the CAMs, refined: (batch, alphas + slots, height, width)
    backgrounds = torch.stack([(1 - strongest) ** alpha for alpha in alphas], 1)
    maps = torch.cat([backgrounds, cam], 1)
    for index in range(len(maps)):  # one by one: PAR holds dozens of copies of an image
        one = slice(index, index + 1)
        maps[one] = model.sharpen_scores(maps[one], present[one], photo[one])
    backgrounds, cam = maps.split([len(alphas), cam.shape[1]], 1)
    best, slot = cam.masked_fill(empty, -torch.inf).max(1)
    masks = torch.where(backgrounds >= best[:, None], 0, _ids(present, slot)[:, None]).cpu()
    return torch.stack([confusion_matrix(mask, truth, n) for mask in masks.unbind(1)])


def _ids(
    present: Int[Tensor, "batch slots"], slot: Int[Tensor, "batch height width"]
) -> Int[Tensor, "batch height width"]:
    """Class ids in masks of the slots that won."""
    return (present + 1).gather(1, slot.flatten(1)).view_as(slot)


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
