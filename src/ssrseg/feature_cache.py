"""CLIP's features and pseudo masks of the training images on disk, for the decoder to learn from.

Once the heads are trained (or there are none) nothing that the decoder learns from changes any
more. So some views of each image are encoded once, and the decoder sees windows of them.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Float16, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ssrseg.checkpoint import known_digest
from ssrseg.config import Config, deciding_settings, uses_decoder
from ssrseg.console import steps, track
from ssrseg.data.class_ids import read_truth
from ssrseg.data.decode import QUIET, UNREADABLE
from ssrseg.data.files import writing
from ssrseg.data.images import read_image
from ssrseg.data.photos import PhotoBatch, photo_batches
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.stamped_mask import digest_of
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.data.transforms import limited_size, patch_grid
from ssrseg.data.windows import WindowBatch, has_views, is_mirrored, save_views
from ssrseg.errors import BackboneError, ConfigError, DataError, OutputError, counted
from ssrseg.model import SSR
from ssrseg.networks.clip import ClipFeatures
from ssrseg.networks.frozen import weights_digest
from ssrseg.processes import ALONE, Group

Size = tuple[int, int]

WORTH_IT = 4
"""Crops of each image from which on the views are made faster than the crops would be: two views
of a photograph of VOC take as long as two or three crops of 320 pixels [0038]."""


@dataclass(frozen=True)
class Choice:
    """Where features come from, and why."""

    features: Literal["cached", "online"]
    why: str


def choose_features(
    config: Config, model: SSR, data: LabelledImages, supervision: str, folder: Path
) -> Choice:
    """What ``optim.features`` comes to for these images on this machine.

    Args:
        config: ``schedule.resolved``.
        model: Its CLIP, patch size and device count.
        data: Training images.
        supervision: ``labels`` or ``full``.
        folder: Where the cache is going to lie.

    Raises:
        ConfigError: If ``cached`` is asked for where it cannot be, or is larger than
            ``optim.features_gb``.
    """
    optim = config.optim
    if optim.features == "online":
        return Choice("online", "as optim.features says.")
    if problem := _obstacle(config, supervision):
        if optim.features == "cached":
            raise ConfigError(
                f"optim.features = cached cannot be: {problem[0]}. Set {problem[1]}, or"
                " optim.features=online."
            )
        return Choice("online", f"because {problem[0]}.")
    assert optim.iterations is not None
    often = optim.iterations * optim.batch / max(1, len(data))
    if optim.features == "auto" and model.device.type != "cpu":
        return Choice("online", "as nobody has measured optim.features=cached on a GPU.")
    if optim.features == "auto" and often < WORTH_IT:
        return Choice("online", f"as each image is seen {often:.1f} times only.")
    needed = cache_bytes(config, model, photo_sizes(data, config))
    if needed > optim.features_gb * 1e9:
        over = (
            f"{counted(len(data), 'image', 'images')} would take {in_gb(needed)} of disk, more than"
            f" optim.features_gb = {optim.features_gb:g}"
        )
        if optim.features == "cached":
            raise ConfigError(
                f"optim.features = cached: {over}. Set it higher (optim.features_gb="
                f"{needed / 1e9 * 1.05:.2g}), fewer optim.views, or optim.features=online."
            )
        return Choice("online", f"as {over}.")
    free = free_bytes(folder)
    if optim.features == "auto" and needed > free:
        return Choice(
            "online",
            f"as they would take {in_gb(needed)} and {in_gb(free)} are free at {folder} (--cache).",
        )
    return Choice(
        "cached",
        f"{in_gb(needed)} in {folder}, made when the decoder begins to learn, as each image is seen"
        f" about {often:.0f} times (optim.features=online makes them anew for every crop).",
    )


def _obstacle(config: Config, supervision: str) -> tuple[str, str] | None:
    """Why features and masks do not stay the same while the decoder learns, and the cure."""
    if supervision == "full":
        return None
    if config.cam.mode == "cmpa" and config.optim.schedule == "joint":
        return (
            "with optim.schedule = joint the heads, and with them the pseudo masks, change in every"
            " iteration",
            "optim.schedule=staged",
        )
    if uses_decoder(config):
        return (
            f"from affinity.rfm_after = {config.affinity.rfm_after} iterations on the decoder"
            " changes the pseudo masks that it learns from",
            "affinity.rfm_after=null",
        )
    return None


# ---- sizes


def view_grids(config: Config, patch: int, size: Size) -> list[Size]:
    """Patch rows and columns of each view of a photograph of ``size`` (height, width) in pixels."""
    rows, columns = patch_grid(limited_size(size, config.data.max_side), patch)
    return [
        (max(1, round(rows * zoom)), max(1, round(columns * zoom))) for zoom in config.optim.views
    ]


def cache_bytes(config: Config, model: SSR, sizes: Iterable[Size]) -> int:
    """Bytes that the cached features and masks of photographs take on the disk.

    Args:
        config: ``optim.views`` and ``data.max_side`` are used.
        model: Its CLIP counts: 16.9 kB per patch for ViT-B.
        sizes: (height, width) of each photograph in pixels, as ``photo_sizes`` finds them.
    """
    per_patch = 2 * (model.clip.depth - 1) * model.clip.width
    total = 0
    for size in sizes:
        grids = view_grids(config, model.patch_size, size)
        mask = grids[0][0] * grids[0][1] * model.patch_size**2
        total += sum(rows * columns for rows, columns in grids) * per_patch + mask
    return total


def cache_passes(config: Config) -> float:
    """Forward passes of CLIP over a whole photograph that the views take, the first being 1.

    The first has what ``ssrseg masks`` has as well: CAM, DINO, refinement. The others have CLIP's
    blocks but the last.
    """
    first, *others = config.optim.views
    return 1.0 + sum((zoom / first) ** 2 for zoom in others)


def photo_sizes(data: LabelledImages, config: Config) -> list[Size]:
    """(height, width) of each photograph in pixels, from the head of its file where that says it.

    Turned by EXIF or not, it has as many patches.
    """

    def size(sample: Sample) -> Size:
        try:
            with QUIET, Image.open(sample.image) as found:
                return found.height, found.width
        except (*UNREADABLE, Image.DecompressionBombError):  # to Pillow; our own reader knows more
            photo = read_image(sample.image, config.data.range, config.data.bands)
            return photo.shape[0], photo.shape[1]

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(size, data.samples))


def free_bytes(folder: Path) -> int:
    """Bytes that may be written below a folder that may not be there yet; a tenth stays free."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    with writing(folder):
        return int(shutil.disk_usage(there).free * 0.9)


def in_gb(count: int) -> str:
    """``0.97 GB``, or MB where that is less than a hundredth."""
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB"


# ---- files


def feature_files(
    model: SSR, data: LabelledImages, supervision: str, folder: Path, group: Group = ALONE
) -> dict[str, Path]:
    """Where the features of each image lie or will lie, by its name.

    A file is named after all that decides what is in it: photograph, labels (or true mask),
    settings, texts, encoders, heads. Each process of the ``group`` reads its share of photographs.
    """
    config, full = model.config, supervision == "full"
    heads = {} if model.alignment is None or full else model.alignment.state_dict()
    # of the data only what enters a view counts
    ignored = ["decoder", "optim", "test", "data.crop", "data.scale"]
    decides = (
        deciding_settings(config, ignored),
        config.optim.views,
        supervision,
        model.vocabulary.classes,
        model.vocabulary.texts,
        model.encoders,
        group.first(lambda: weights_digest(heads)),  # those of another may differ by rounding
        model.device.type,
        [version(each) for each in ("ssrseg", "torch", "transformers")],
    )
    common = digest_of(repr(decides))
    mine = []
    for sample in group.share(data.samples):
        truth = known_digest(sample.truth) if full else ""
        name = digest_of(f"{common} {known_digest(sample.image)} {sample.labels} {truth}")
        mine.append(folder / name[:2] / f"{name}.safetensors")
    names = [sample.name for sample in data.samples]
    return dict(zip(names, group.gathered(mine), strict=True))


def make_features(
    model: SSR,
    data: LabelledImages,
    supervision: str,
    folder: Path,
    superpixels: SuperpixelCache,
    group: Group = ALONE,
) -> None:
    """Write the features of all images that are not there yet; each process those of its share.

    One photograph at a time, so that what is made does not depend on what was there before.

    Raises:
        BackboneError: If a number is not finite, or larger than half precision holds.
        DataError: If an image cannot be read, or has changed since the run has begun.
        OutputError: If the disk has no room, or the processes see other folders.
    """
    config, files = model.config, feature_files(model, data, supervision, folder, group)
    mine = group.share(data.samples)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        paths = [files[sample.name] for sample in mine]
        whole = pool.map(lambda path: has_views(path, path.stem), paths)
        there = list(track(whole, "Cached features", len(paths)))
    missing = [each for each, found in zip(mine, there, strict=True) if not found]
    sizes = photo_sizes(replace(data, samples=tuple(missing)), config)
    each = group.all((len(missing), cache_bytes(config, model, sizes), free_bytes(folder)))
    count, needed = (sum(column) for column in list(zip(*each, strict=True))[:2])
    if not count:
        _refuse_unseen(files.values(), group)
        return
    free = min(free for _, _, free in each)
    if needed > free:
        raise OutputError(
            f"{folder} needs {in_gb(needed)} for the features of"
            f" {counted(count, 'image', 'images')}, and {in_gb(free)} are free. Make room,"
            " or name a folder on another disk (--cache). What was learned is saved; the same"
            " command goes on from there."
        )
    labels = supervision == "labels"
    one = replace(config.data, patches=1)
    wanted = superpixels if labels and model.wants_superpixels else None
    with steps("Features", len(mine), done=len(mine) - len(missing)) as progress:
        for batch in photo_batches(missing, one, model.patch_size, wanted, model.device):
            sample = missing[batch.index[0]]
            if batch.digests[0] != known_digest(sample.image):
                raise DataError(
                    f"{sample.image} has changed since the run has begun. Begin anew in another"
                    " folder (--out)."
                )
            truth = None if labels else _truth(model, sample, batch)
            path = files[sample.name]
            save_views(path, *_views(model, batch, truth), path.stem)
            progress.advance(sample.name)
    group.most(0)  # until all are through
    _refuse_unseen(files.values(), group)


def _refuse_unseen(paths: Iterable[Path], group: Group) -> None:
    """Raise OutputError if a file that another process has made is not there for this one."""
    unseen = next((path for path in paths if not _appears(path, group)), None)
    if unseen is not None:
        raise OutputError(
            f"{unseen}, made by another process, is not there for this one. Name a folder for"
            " cached features that all machines share (--cache), or set optim.features=online."
        )


def _appears(path: Path, group: Group) -> bool:
    """Whether a file is there; one of another machine may be seen a minute late (NFS)."""
    end = time.monotonic() + (60 if group.size > 1 else 0)
    while not path.is_file():
        if time.monotonic() >= end:
            return False
        time.sleep(1)
    return True


@torch.no_grad()
def _views(
    model: SSR, batch: PhotoBatch, truth: UInt8[Tensor, "height width"] | None
) -> tuple[list[Float16[Tensor, "_ _ blocks dim"]], UInt8[Tensor, "height width"]]:
    """Tokens of each view, and the true or pseudo mask at the size of the first."""
    config, patch = model.config, model.patch_size
    size = (batch.originals[0].shape[0], batch.originals[0].shape[1])
    views, mask = [], truth
    for index, (rows, columns) in enumerate(view_grids(config, patch, size)):
        image = batch.image
        if tuple(image.shape[2:]) != (rows * patch, columns * patch):
            image = functional.interpolate(
                image, (rows * patch, columns * patch), mode="bilinear", antialias=True
            )
        if is_mirrored(index, flip=config.data.flip):
            image = image.flip(-1)
        features = model.encode(image, attention=mask is None)
        if mask is None:
            initial = model.initial_cam(features, batch.present)
            way = model(
                image,
                batch.present,
                batch.superpixels,
                n_superpixels=batch.n_superpixels,
                initial=initial,
            )
            model.refuse_not_finite(way)
            mask = way.pseudo_mask[0].cpu()
        # (patches, blocks, dim) -> (rows, columns, blocks, dim)
        tokens = torch.stack([block[0, 1:] for block in features.tokens], 1).half()
        if not torch.isfinite(tokens).all():
            raise BackboneError(
                f"{config.backbones.clip} gives features that are not finite, or larger than"
                " half precision holds, so they cannot be cached. Set optim.features=online."
            )
        views.append(tokens.unflatten(0, (rows, columns)).cpu())
    assert mask is not None
    return views, mask


def _truth(model: SSR, sample: Sample, batch: PhotoBatch) -> UInt8[Tensor, "height width"]:
    """The true mask at the size of the first view, by nearest neighbour."""
    assert sample.truth is not None
    size = (batch.originals[0].shape[0], batch.originals[0].shape[1])
    ids = read_truth(sample.truth, size, model.n_classes, sample.labels).to(torch.uint8)
    grid = view_grids(model.config, model.patch_size, size)[0]
    y, x = (
        torch.arange(new * model.patch_size) * old // (new * model.patch_size)
        for new, old in zip(grid, size, strict=True)
    )
    return ids[y][:, x]


def window_features(windows: WindowBatch) -> ClipFeatures:
    """Tokens as the decoder takes them; CLS, which it leaves out, is 0."""
    batch, patches, blocks, dim = windows.tokens.shape
    tokens: list[Float[Tensor, "batch tokens dim"]] = []
    for index in range(blocks):
        block = torch.zeros(batch, 1 + patches, dim, device=windows.tokens.device)
        block[:, 1:] = windows.tokens[:, :, index]
        tokens.append(block)
    return ClipFeatures(tuple(tokens), (windows.side, windows.side), (), ())
