"""Pseudo masks for labelled images, in two stages: CAMs by the encoders, and masks from them.

The CAMs are kept, so that masks under other settings ``pseudo.*`` are made in seconds: this module
imports neither the model nor the library of the encoders before a CAM is missing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ssrseg.cam_source import CamSource, TiledCams, Unusable
from ssrseg.checkpoint import model_file
from ssrseg.config import Config, config_of
from ssrseg.console import steps
from ssrseg.data.files import user_path
from ssrseg.data.large import Tiling, open_large, undecide_absent
from ssrseg.data.open import labelled_images
from ssrseg.data.sample import LabelledImages
from ssrseg.data.stamped_mask import confidence_rows, mask_rows
from ssrseg.device import pick_device, settled_precision
from ssrseg.errors import DataError
from ssrseg.failures import Failure
from ssrseg.interruption import until_stopped
from ssrseg.kept_cams import cams_path
from ssrseg.loaded_once import LoadedOnce
from ssrseg.made_with import folder_made_with
from ssrseg.manifest import confidence_path, mask_path, with_corrected_labels
from ssrseg.mask_folder import Making, MaskFolder, open_masks
from ssrseg.method.evidence import pixel_confidence
from ssrseg.pixel_scores import enlarged, enlarged_ids, mask_of_cam
from ssrseg.review import Review, review_mask
from ssrseg.tiled import blocks_of_cam, labelled_choice, paint, undecided_where_absent


@dataclass(frozen=True)
class MasksResult:
    """Where the masks are.

    Attributes:
        out: Folder with masks/, cams/ and manifest.csv.
        skipped: Masks that were there already, those that a person has corrected included.
        renewed: Masks of an earlier call, made anew because their photograph or labels changed.
        from_kept_cams: How many of those written were made from the CAMs of an earlier call.
        corrected: Names of the masks that a person has corrected or accepted; they were left as
            they are.
        seconds: Time of this call, loading included.
        absent: Names of the classes that an image is labelled with and its mask lacks, by image;
            only images that lack some.
        reviews: Score, reasons and doubtful labels of every mask that no person has corrected, by
            image, in the order in which to look at them.
        failures: Images that could not be used.
    """

    out: Path
    written: int
    skipped: int
    renewed: int
    from_kept_cams: int
    corrected: tuple[str, ...]
    seconds: float
    absent: dict[str, tuple[str, ...]]
    reviews: dict[str, Review]
    failures: tuple[Failure, ...]


def make_masks(
    data: LabelledImages | str | Path,
    out: str | Path,
    config: Config | str = "ssr",
    *,
    model: str | Path | None = None,
    confidence: bool = False,
    cache: str | Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
    strict: bool = False,
    report: bool = True,
    loaded: LoadedOnce | None = None,
) -> MasksResult:
    """Write a pseudo mask for every labelled image; skip those an earlier call has written.

    A mask is made again if its photograph, labels or their prompts have changed or it is damaged;
    one that a person has corrected or accepted is kept, and so are labels that were corrected in
    review. Other settings ``pseudo.*`` make all masks again from
    the kept CAMs, without an encoder. An image that cannot be used is left out and listed.

    Args:
        data: Images with their labels, or their folder. No mask of theirs is opened.
        config: Settings, or the name of a preset.
        out: Gets ``masks/NAME.png`` (indexed, 255 = ignore), ``cams/NAME.npz`` (``classes``,
            ``cam``, ``refined_cam`` in [0, 1] on the patch grid, ``made_for``), classes.txt (line 1
            = id 1), manifest.csv, config.yaml, report.html and, if something fails, failures.csv.
        model: Run folder, checkpoint or hub id whose CMPA heads, or decoder for RFM, are used;
            None = training-free.
        confidence: Also write ``confidence/NAME.png``, the share of the best score among all scores
            of each pixel (grey, 255 = 1).
        cache: Folder of superpixels, to be shared between runs; by default inside ``out``.
        device: ``auto``, ``cpu`` or ``cuda``.
        overwrite: Make all CAMs and masks anew, also masks that a person has corrected or accepted.
        strict: Stop at the first image that cannot be used.
        report: Write report.html, a page to look at all of it.
        loaded: Encoders that several calls share.

    Raises:
        ConfigError: If ``out`` holds masks made with other settings than ``pseudo.*``.
        CheckpointError: If the model is of other classes or the settings use nothing of it.
        DataError: In strict mode, if an image cannot be read; masks already written stay.
        OutputError: If another process writes into ``out``, or the disk takes nothing.
    """
    start, out, device = time.monotonic(), user_path(out, "masks"), pick_device(device)
    data = with_corrected_labels(labelled_images(data), out)
    config = _settled(config_of(config), out, device)
    source = CamSource(
        data,
        out,
        config,
        None if model is None else model_file(model),
        superpixels=out / "superpixels" if cache is None else user_path(cache, "superpixels"),
        device=device,
        anew=overwrite,
        loaded=loaded,
    )
    making = Making(
        "labels",
        source.made_with,
        config.to_yaml(),
        has_rest=source.has,
        places=lambda name: (mask_path(name), cams_path(name), confidence_path(name)),
        confidence=confidence,
    )
    from_kept_cams = 0
    with (
        open_masks(
            out, data.samples, making, overwrite=overwrite, strict=strict, report=report
        ) as masks,
        until_stopped() as stop,
        steps("Pseudo masks", len(data), done=len(data) - len(masks.todo)) as progress,
    ):
        for each in source.of(masks.todo, masks.behind):
            if isinstance(each, Unusable):
                masks.fail(each.sample, each.error)
            elif isinstance(each, TiledCams):
                try:
                    _write_tiled(each, masks, config, data.classes, device)
                except DataError as error:
                    masks.fail(each.sample, error)
                else:
                    from_kept_cams += each.kept and each.sample.name not in masks.corrected
            else:
                sample, cams = each.sample, each.cams
                ids, scores = mask_of_cam(
                    cams.refined_cam, sample.labels, each.photo, config.pseudo
                )
                pair = cams.cam, cams.refined_cam
                review = review_mask(scores, ids, pair, sample.labels, cams.evidence, data.classes)
                sure = enlarged(pixel_confidence(scores), each.size) if confidence else None
                whole = enlarged_ids(ids.cpu(), each.size)
                whole = undecide_absent(whole, sample.image, config.data)
                masks.write(sample, whole, each.digest, review, sure)
                from_kept_cams += each.kept and sample.name not in masks.corrected
            progress.advance(each.sample.name)
            masks.stop_if_asked(stop)
        masks.finish()
        absent, reviews = masks.manifest.absent(data.samples), masks.reviewed()
    return MasksResult(
        out,
        masks.written,
        masks.done,
        masks.renewed,
        from_kept_cams,
        tuple(masks.corrected),
        time.monotonic() - start,
        absent,
        reviews,
        tuple(masks.failures),
    )


def _write_tiled(
    found: TiledCams, masks: MaskFolder, config: Config, classes: tuple[str, ...], device: str
) -> None:
    """Make and write the mask of a photograph in windows, which need not be the tiles of its CAMs.

    Raises:
        DataError: If the photograph cannot be read.
    """
    sample, cams, settings, size = found.sample, found.cams, config.data, found.tiling.size
    windows = Tiling.of(size, settings.max_side, settings.tile_overlap)
    wanted = masks.making.confidence
    with (
        mask_rows(size, masks.out) as mask,
        confidence_rows(size, masks.out) as sure,
        open_large(sample.image, settings.range, settings.bands) as image,
    ):
        blocks = blocks_of_cam(
            image, cams.refined_cam, sample.labels, windows, config.pseudo, torch.device(device)
        )
        choose = labelled_choice(sample.labels, config.pseudo)
        take = sure.add_shares if wanted else None
        take_ids = undecided_where_absent(image, mask.add)
        scores, ids = paint(blocks, size, choose, take_ids, take)
        shown, pair = mask.shown.tolist(), (cams.cam, cams.refined_cam)
        review = review_mask(scores, ids, pair, sample.labels, cams.evidence, classes, shown)
        masks.write(sample, mask, found.digest, review, sure if wanted else None)


def _settled(config: Config, out: Path, device: str) -> Config:
    """The settings with the arithmetic that the masks in ``out`` began with, or a choice."""
    earlier = folder_made_with(out, "labels")
    if config.backbones.precision == "auto" and earlier is not None:
        begun: Any = earlier.settings.get("backbones.precision", "auto")
        config = replace(config, backbones=replace(config.backbones, precision=begun))
    return settled_precision(config, device)
