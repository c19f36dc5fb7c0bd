"""Pseudo masks for labelled images: training-free, or with a trained CMPA."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from ssrseg.checkpoint import STATE_FILE, model_digest
from ssrseg.config import Config, config_of
from ssrseg.console import steps
from ssrseg.data.files import atomic_write, user_path, write_text
from ssrseg.data.images import fits, read_image, read_truth, write_class_ids
from ssrseg.data.open import labelled_images
from ssrseg.data.photos import Photo, PhotoBatch, join_photos, photo_batches
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.data.transforms import limit_side
from ssrseg.device import pick_device
from ssrseg.errors import ConfigError
from ssrseg.loading import model_file
from ssrseg.manifest import Manifest
from ssrseg.method.cam import min_max
from ssrseg.method.metrics import confusion_matrix, scores
from ssrseg.model import SSR, Rectification
from ssrseg.networks.vocabulary import build_vocabulary


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
        skipped: Masks that an earlier call had made.
        seconds: Time of this call, loading included.
        absent: Names of the classes that an image is labelled with and its mask lacks, by image;
            only images that lack some.
    """

    out: Path
    written: int
    skipped: int
    seconds: float
    absent: dict[str, tuple[str, ...]]


def rectify_photo(
    model: SSR,
    photo: UInt8[Tensor, "height width 3"],
    labels: tuple[int, ...],
    superpixels: SuperpixelCache,
    name: str = "photo",
) -> PhotoMask:
    """CAMs and pseudo mask of one photograph with the classes in it; ``name`` is for the cache."""
    small = limit_side(photo, model.config.data.max_side)
    ids = superpixels(small, name) if model.wants_superpixels else None
    whole = Photo(0, photo, small, ids)
    return photo_masks(model, join_photos([whole], [labels], model.patch_size, model.device))[0]


def photo_masks(model: SSR, batch: PhotoBatch) -> list[PhotoMask]:
    """CAMs and pseudo masks of photographs of one size."""
    way = model.rectify_batch(batch)
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
) -> MasksResult:
    """Write a pseudo mask for every labelled image; skip those an earlier call has written.

    A mask is made again if the labels of its image change, or the image is of another size.

    Args:
        data: Images with their labels, or their folder. No mask of theirs is opened.
        config: Settings, or the name of a preset.
        out: Gets ``masks/NAME.png`` (indexed, 255 = ignore), classes.txt (line 1 = id 1),
            manifest.csv and config.yaml.
        model: Run folder, checkpoint or hub id whose CMPA heads, or decoder for RFM, are used;
            None = training-free.
        save_cams: Also write ``cams/NAME.npz`` with ``classes``, ``cam`` and ``refined_cam``.
        cache: Folder of superpixels, to be shared between runs; by default inside ``out``.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: If ``out`` holds masks made with other settings.
        CheckpointError: If the model is of other classes or the settings use nothing of it.
        DataError: If an image cannot be read, or manifest.csv is no longer ours; masks already
            written stay.
    """
    start, out, device = time.monotonic(), user_path(out, "masks"), pick_device(device)
    data, config = labelled_images(data), config_of(config)
    run = None if model is None else model_file(model)
    texts = build_vocabulary(data.classes, config.prompts.set, data.prompts).texts
    settings, path = _settings(config, data.classes, texts, run), out / "config.yaml"
    if (out / STATE_FILE).is_file():
        raise ConfigError(
            f"{out} holds a training run, not masks. Choose another folder (--out) for the masks."
        )
    if path.is_file() and path.read_text(encoding="utf-8") != settings:
        raise ConfigError(
            f"{out} holds masks made with other settings, classes, prompts or another model (see"
            f" {path}). Use the same ones to go on, or another --out to begin anew."
        )
    ssr = SSR.for_data(config, data, run, device=device)
    write_text(path, settings)
    write_text(out / "classes.txt", "".join(f"{name}\n" for name in data.classes))
    folder, sgc = cache or out / "superpixels", config.sgc
    superpixels = SuperpixelCache(folder, n_segments=sgc.n_segments, compactness=sgc.compactness)
    manifest = Manifest(out / "manifest.csv", data.classes)
    todo = [sample for sample in data.samples if not _is_done(sample, out, manifest, save_cams)]
    skipped = len(data) - len(todo)
    with steps("Pseudo masks", len(data), done=skipped) as progress:
        wanted = superpixels if ssr.wants_superpixels else None
        for batch in photo_batches(todo, config.data, ssr.patch_size, wanted, ssr.device):
            for index, found in zip(batch.index, photo_masks(ssr, batch), strict=True):
                sample = todo[index]
                if save_cams:
                    _write_cams(out / "cams" / f"{sample.name}.npz", found, data.classes)
                write_class_ids(out / "masks" / f"{sample.name}.png", found.pseudo_mask)
                manifest.add(sample, found.pseudo_mask)
                progress.advance(sample.name)
            del found  # and the batch's tokens with it, before the next ones are made
    if todo:
        manifest.write()
    absent = manifest.absent(data.samples)
    return MasksResult(out, len(todo), skipped, time.monotonic() - start, absent)


def pseudo_mask_miou(model: SSR, data: LabelledImages, superpixels: SuperpixelCache) -> float:
    """MIoU of the pseudo masks of images whose true masks are known, for monitoring."""
    n_classes = len(data.classes) + 1
    matrix = torch.zeros(n_classes, n_classes, dtype=torch.long)
    for sample in data.samples:
        if sample.truth is not None:
            photo = read_image(sample.image)
            ids = rectify_photo(model, photo, sample.labels, superpixels, sample.name).pseudo_mask
            truth, decided = read_truth(sample.truth), ids != 255
            matrix += confusion_matrix(ids[decided], truth[decided], n_classes)
    return scores(matrix).miou


def _write_cams(path: Path, found: PhotoMask, classes: tuple[str, ...]) -> None:
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            classes=np.array([classes[index] for index in found.labels], dtype=str),
            cam=found.cam.numpy(),
            refined_cam=found.refined_cam.numpy(),
        )


def _settings(
    config: Config, classes: tuple[str, ...], texts: tuple[str, ...], run: Path | None
) -> str:
    """All that decides a mask beside the image and its labels, and nothing else."""
    made_by = f"# model: {model_digest(run)}\n" if run else ""
    lasting = replace(config, data=replace(config.data, workers=0, patches=None))
    return f"{lasting.to_yaml()}# classes: {'; '.join(classes)}\n# texts: {texts}\n{made_by}"


def _is_done(sample: Sample, out: Path, manifest: Manifest, save_cams: bool) -> bool:
    return (
        manifest.has(sample)
        and fits(out / "masks" / f"{sample.name}.png", sample.image)
        and (not save_cams or (out / "cams" / f"{sample.name}.npz").is_file())
    )
