"""Pseudo masks for labelled images: training-free, or with a trained CMPA."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from ssrseg.checkpoint import model_digest
from ssrseg.config import Config, config_of, deciding_settings
from ssrseg.console import steps
from ssrseg.data.class_ids import read_truth
from ssrseg.data.files import atomic_write, sweep, user_path
from ssrseg.data.images import read_image
from ssrseg.data.open import labelled_images
from ssrseg.data.photos import Photo, PhotoBatch, UnreadablePhoto, join_photos, read_photos
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.stamped_mask import digest_of
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.data.transforms import limit_side
from ssrseg.device import pick_device
from ssrseg.errors import BackboneError
from ssrseg.failures import Failure
from ssrseg.interruption import until_stopped
from ssrseg.loading import model_file
from ssrseg.mask_folder import open_masks
from ssrseg.method.cam import min_max
from ssrseg.method.metrics import confusion_matrix, scores, undecided_pixels
from ssrseg.model import SSR, Rectification


@dataclass(frozen=True)
class PhotoMask:
    """What ``rectify_photo`` finds in one photograph.

    Attributes:
        labels: Class indices, in the order of the maps.
        cam: Initial CAMs in [0, 1], one per class.
        refined_cam: Corrected CAMs, min-max normalised.
        pseudo_mask: Class ids at the photograph's own size.
        rectification: Everything in between, of the whole batch.
    """

    labels: tuple[int, ...]
    cam: Float[Tensor, "slots grid_h grid_w"]
    refined_cam: Float[Tensor, "slots grid_h grid_w"]
    pseudo_mask: UInt8[Tensor, "height width"]
    rectification: Rectification


@dataclass(frozen=True)
class MasksResult:
    """Where the masks are.

    Attributes:
        out: Folder with masks/, manifest.csv and, if asked for, cams/.
        skipped: Masks that were there already, those that a person has corrected included.
        renewed: Masks of an earlier call, made anew because their photograph or labels changed.
        corrected: Names of the masks that a person has corrected; they were left as they are.
        seconds: Time of this call, loading included.
        absent: Names of the classes that an image is labelled with and its mask lacks, by image;
            only images that lack some.
        failures: Images that could not be used.
    """

    out: Path
    written: int
    skipped: int
    renewed: int
    corrected: tuple[str, ...]
    seconds: float
    absent: dict[str, tuple[str, ...]]
    failures: tuple[Failure, ...]


def rectify_photo(
    model: SSR,
    photo: UInt8[Tensor, "height width 3"],
    labels: tuple[int, ...],
    superpixels: SuperpixelCache,
) -> PhotoMask:
    """CAMs and pseudo mask of one photograph with the classes in it."""
    small = limit_side(photo, model.config.data.max_side)
    ids = superpixels(small) if model.wants_superpixels else None
    whole = Photo(0, photo, small, ids)
    return photo_masks(model, join_photos([whole], [labels], model.patch_size, model.device))[0]


def photo_masks(model: SSR, batch: PhotoBatch) -> list[PhotoMask]:
    """CAMs and pseudo masks of photographs of one size; BackboneError if they are not finite."""
    way = model.rectify_batch(batch)
    if not torch.isfinite(way.refined_cam).all():
        raise BackboneError(
            f"{model.config.backbones.clip} or {model.config.backbones.dino} gives CAMs that are"
            " nan or infinite: its weights are damaged, or too large. Copy it again, or choose"
            " another one."
        )
    ids, cam, refined = (each.cpu() for each in (way.pseudo_mask, way.initial.cam, way.refined_cam))
    found = []
    for row, slots in enumerate(batch.present.tolist()):
        labels = tuple(index for index in slots if index >= 0)
        size, n = batch.originals[row].shape[:2], len(labels)
        enlarged = functional.interpolate(ids[row][None, None], size, mode="nearest")[0, 0]
        found.append(PhotoMask(labels, cam[row, :n], min_max(refined[row, :n]), enlarged, way))
    return found


def make_masks(
    data: LabelledImages | str | Path,
    out: str | Path,
    config: Config | str = "ssr",
    *,
    model: str | Path | None = None,
    save_cams: bool = False,
    cache: str | Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
    strict: bool = False,
    report: bool = True,
) -> MasksResult:
    """Write a pseudo mask for every labelled image; skip those an earlier call has written.

    A mask is made again if its photograph or labels have changed or it is damaged; one that a
    person has corrected is kept. An image that cannot be used is left out and listed.

    Args:
        data: Images with their labels, or their folder. No mask of theirs is opened.
        config: Settings, or the name of a preset.
        out: Gets ``masks/NAME.png`` (indexed, 255 = ignore), classes.txt (line 1 = id 1),
            manifest.csv, config.yaml, report.html and, if something fails, failures.csv.
        model: Run folder, checkpoint or hub id whose CMPA heads, or decoder for RFM, are used;
            None = training-free.
        save_cams: Also write ``cams/NAME.npz`` with ``classes``, ``cam``, ``refined_cam`` and
            ``made_for``, the digest in the stamp of its mask.
        cache: Folder of superpixels, to be shared between runs; by default inside ``out``.
        device: ``auto``, ``cpu`` or ``cuda``.
        overwrite: Make all masks anew, also those that a person has corrected.
        strict: Stop at the first image that cannot be used.
        report: Write report.html, a page to look at all of it.

    Raises:
        ConfigError: If ``out`` holds masks made with other settings.
        CheckpointError: If the model is of other classes or the settings use nothing of it.
        DataError: In strict mode, if an image cannot be read; masks already written stay.
        OutputError: If another process writes into ``out``, or the disk takes nothing.
    """
    start, out, device = time.monotonic(), user_path(out, "masks"), pick_device(device)
    data, config = labelled_images(data), config_of(config)
    run = None if model is None else model_file(model)
    ssr = SSR.for_data(config, data, run, device=device)
    sgc = config.sgc
    folder = user_path(cache, "superpixels") if cache is not None else out / "superpixels"
    superpixels = SuperpixelCache(folder, n_segments=sgc.n_segments, compactness=sgc.compactness)
    with (
        open_masks(
            out,
            data.samples,
            data.classes,
            _settings(config, ssr, run),
            _identity(config, ssr, run),
            made_from="labels",
            overwrite=overwrite,
            strict=strict,
            report=report,
            has_rest=partial(_has_cams, out) if save_cams else None,
        ) as masks,
        until_stopped() as stop,
        steps("Pseudo masks", len(data), done=len(data) - len(masks.todo)) as progress,
    ):
        todo = masks.todo
        sweep(folder)
        wanted = superpixels if ssr.wants_superpixels else None
        for batch in read_photos(todo, config.data, ssr.patch_size, wanted, ssr.device):
            if isinstance(batch, UnreadablePhoto):
                masks.fail(todo[batch.index], batch.error)
                progress.advance(todo[batch.index].name)
                continue
            made = zip(batch.index, batch.digests, photo_masks(ssr, batch), strict=True)
            for index, photo, found in made:
                sample = todo[index]
                made_for = masks.write(sample, found.pseudo_mask, photo)
                if save_cams:
                    _write_cams(_cams(out, sample), found, data.classes, made_for)
                progress.advance(sample.name)
            del made, found  # and the batch's tokens with it, before the next ones are made
            masks.stop_if_asked(stop)
        absent = masks.manifest.absent(data.samples)
    return MasksResult(
        out,
        masks.written,
        masks.done,
        masks.renewed,
        tuple(masks.corrected),
        time.monotonic() - start,
        absent,
        tuple(masks.failures),
    )


def pseudo_mask_miou(model: SSR, data: LabelledImages, superpixels: SuperpixelCache) -> float:
    """MIoU of the pseudo masks of images whose true masks are known, for monitoring."""
    n_classes = len(data.classes) + 1
    matrix = torch.zeros(n_classes, n_classes, dtype=torch.long)
    undecided = torch.zeros(n_classes, dtype=torch.long)
    for sample in data.samples:
        if sample.truth is not None:
            photo = read_image(sample.image, model.config.data.range)
            ids = rectify_photo(model, photo, sample.labels, superpixels).pseudo_mask
            size = (photo.shape[0], photo.shape[1])
            truth = read_truth(sample.truth, size, len(data.classes), sample.labels)
            decided = ids != 255
            matrix += confusion_matrix(ids[decided], truth[decided], n_classes)
            undecided += undecided_pixels(ids, truth, n_classes)
    return scores(matrix, undecided).miou


def _cams(out: Path, sample: Sample) -> Path:
    return out / "cams" / f"{sample.name}.npz"


def _write_cams(path: Path, found: PhotoMask, classes: tuple[str, ...], made_for: str) -> None:
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            classes=np.array([classes[index] for index in found.labels], dtype=str),
            cam=found.cam.numpy(),
            refined_cam=found.refined_cam.numpy(),
            made_for=made_for,
        )


def _has_cams(out: Path, sample: Sample, made_for: str) -> bool:
    with (
        suppress(Exception),  # whatever numpy makes of a damaged file: it is made again
        _cams(out, sample).open("rb") as file,
        np.load(file) as found,
    ):
        return str(found["made_for"]) == made_for and "refined_cam" in found
    return False


def _settings(config: Config, model: SSR, run: Path | None) -> str:
    """Settings, classes, texts and weights, for people and for ``--config``."""
    facts: dict[str, object] = {
        "classes": "; ".join(model.vocabulary.classes),
        "texts": model.vocabulary.texts,
        **model.encoders,
    }
    facts |= {} if run is None else {"model": model_digest(run)}
    return config.to_yaml() + "".join(f"# {name}: {value}\n" for name, value in facts.items())


def _identity(config: Config, model: SSR, run: Path | None) -> str:
    """A name for all that decides a mask beside the image and its labels, and nothing else."""
    settings = deciding_settings(config, ("decoder", "optim", "test"))
    weights = model.encoders, "" if run is None else model_digest(run)
    return digest_of(repr((settings, model.vocabulary.classes, model.vocabulary.texts, weights)))
