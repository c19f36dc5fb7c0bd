"""Photographs ahead of the encoders: read and resized by threads, batched where sizes agree."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from ssrseg.config import DataConfig
from ssrseg.console import track
from ssrseg.data.class_ids import read_truth
from ssrseg.data.files import content_digest
from ssrseg.data.images import check_size, read_image
from ssrseg.data.levels import Range
from ssrseg.data.pixels import Bands
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.data.text import fault_report
from ssrseg.data.transforms import fit_to_patches, limit_side, patch_grid
from ssrseg.errors import DataError, SSRError
from ssrseg.processes import ALONE, Group
from ssrseg.processors import processors

PATCHES, MOST_PATCHES = 1024, 65536
"""Patches seen together on a CPU, where more gain nothing and cost memory; on a GPU, at most."""

PATCH_BYTES = 500_000
"""Memory of a patch on its way to a mask: twice what ViT-B/16 and DINO ViT-S/16 take on a CPU, 0.18
MB in photographs of 768 patches and 0.25 MB in those of 1,600. Nobody has measured it on a GPU."""

MOST_PHOTOS, MOST_BYTES = 128, 2**31
"""Photographs in a batch, and bytes of photographs that wait for company."""


@dataclass(frozen=True)
class Photo:
    """One photograph as the encoders and the refinement want it; ``index`` is that of its sample.

    ``small`` has at most ``data.max_side`` pixels a side, and superpixels where they are needed.
    """

    index: int
    original: UInt8[Tensor, "_ _ 3"]
    small: UInt8[Tensor, "height width 3"]
    superpixels: Int[Tensor, "height width"] | None
    digest: str = ""
    """Of the content of its file, from before it was read."""


@dataclass(frozen=True)
class PhotoBatch:
    """Photographs of one (limited) size.

    Attributes:
        index: Of their samples.
        originals: At their own sizes, on the CPU.
        small: RGB in [0, 1] at the limited size.
        image: The same with sides of whole patches, for the encoders.
        n_superpixels: A bound above every id.
        present: Classes of each, -1 = empty slot.
        digests: Of the contents of the files.
    """

    index: tuple[int, ...]
    originals: tuple[UInt8[Tensor, "_ _ 3"], ...]
    small: Float[Tensor, "batch 3 height width"]
    image: Float[Tensor, "batch 3 fitted_h fitted_w"]
    superpixels: Int[Tensor, "batch height width"] | None
    n_superpixels: int | None
    present: Int[Tensor, "batch slots"]
    digests: tuple[str, ...]


@dataclass(frozen=True)
class UnreadablePhoto:
    """A photograph that cannot be used, and why; ``index`` is that of its sample."""

    index: int
    error: SSRError


def _read(
    numbered: tuple[int, Sample],
    max_side: int,
    levels: tuple[Range | None, Bands | None],
    patch: int,
    superpixels: SuperpixelCache | None,
) -> Photo | UnreadablePhoto:
    index, sample = numbered
    try:
        digest = content_digest(sample.image)
        photo = read_image(sample.image, *levels)
        check_size(photo, sample.image, patch)
        small = limit_side(photo, max_side)
        ids = None if superpixels is None else superpixels(small)
    except SSRError as error:  # raised in a worker it would come back as a traceback
        return UnreadablePhoto(index, error)
    return Photo(index, photo, small, ids, digest)


def usable_photos(
    data: LabelledImages,
    settings: DataConfig,
    patch: int,
    *,
    truth: bool = False,
    group: Group = ALONE,
) -> tuple[LabelledImages, list[tuple[Sample, SSRError]]]:
    """Read every photograph once, before anything is computed from them.

    Args:
        settings: ``range`` and ``bands`` are used.
        patch: Side of a patch in pixels; smaller photographs cannot be used.
        truth: Read the true masks, too.
        group: Each process reads its share.

    Returns:
        The data without those that cannot be read, and these with the reason.
    """

    def fault(sample: Sample) -> SSRError | None:
        try:
            photo = read_image(sample.image, settings.range, settings.bands)
            check_size(photo, sample.image, patch)
            if truth and sample.truth is not None:
                size = (photo.shape[0], photo.shape[1])
                read_truth(sample.truth, size, len(data.classes), sample.labels)
        except SSRError as error:
            return error
        return None

    mine = group.share(data.samples)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = list(track(pool.map(fault, mine), "Reading images", len(mine)))
    faults = group.gathered(found)
    both = list(zip(data.samples, faults, strict=True))
    usable = tuple(sample for sample, error in both if error is None)
    return replace(data, samples=usable), [(sample, error) for sample, error in both if error]


def refuse_unusable(data: LabelledImages, settings: DataConfig) -> None:
    """Raise DataError with all photographs and true masks that cannot be read.

    Args:
        settings: ``range`` and ``bands`` are used.
    """
    _, faults = usable_photos(data, settings, 1, truth=True)
    if faults:
        raise all_faults(data.root, faults)


def all_faults(root: Path, faults: Sequence[tuple[Sample, SSRError]]) -> DataError:
    """One error that names all (at least one) that ``usable_photos`` has found."""
    reasons = [str(error) for _, error in faults]
    return DataError(fault_report(root, reasons) if reasons[1:] else reasons[0])


def patches_at_once(settings: DataConfig, device: torch.device) -> int:
    """``data.patches``, or what the device takes.

    Of a GPU half of what is free, or is kept by PyTorch and unused: a power of two, as the last
    digits of a CAM depend on its company, and should not on a few megabytes.
    """
    if settings.patches is not None:
        return settings.patches
    if device.type != "cuda":
        return PATCHES
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    fitting = max(PATCHES, free // 2 // PATCH_BYTES)
    return min(MOST_PATCHES, 1 << (fitting.bit_length() - 1))


def photo_batches(
    samples: Sequence[Sample],
    settings: DataConfig,
    patch: int,
    superpixels: SuperpixelCache | None,
    device: torch.device,
) -> Iterator[PhotoBatch]:
    """``read_photos`` for work that needs every photograph.

    Raises:
        SSRError: For the first one that cannot be read.
    """
    for batch in read_photos(samples, settings, patch, superpixels, device):
        if isinstance(batch, UnreadablePhoto):
            raise batch.error
        yield batch


def read_photos(
    samples: Sequence[Sample],
    settings: DataConfig,
    patch: int,
    superpixels: SuperpixelCache | None,
    device: torch.device,
) -> Iterator[PhotoBatch | UnreadablePhoto]:
    """Photographs in batches of equal size, in about the order of the samples.

    One that cannot be read comes as an ``UnreadablePhoto`` as soon as it is found.

    Args:
        settings: ``max_side``, ``range``, ``bands``, ``workers`` and ``patches`` are used.
        patch: Side of a patch in pixels.
        superpixels: None = not needed.
    """
    most = patches_at_once(settings, device)
    read = partial(
        _read,
        max_side=settings.max_side,
        levels=(settings.range, settings.bands),
        patch=patch,
        superpixels=superpixels,
    )
    waiting: dict[tuple[int, int], list[Photo]] = {}

    def batch_of(size: tuple[int, int]) -> PhotoBatch:
        photos = waiting.pop(size)
        labels = [samples[photo.index].labels for photo in photos]
        return join_photos(photos, labels, patch, device)

    for photo in _ahead(read, enumerate(samples), reading_threads(settings, device)):
        if isinstance(photo, UnreadablePhoto):
            yield photo
            continue
        size = (photo.small.shape[0], photo.small.shape[1])
        waiting.setdefault(size, []).append(photo)
        full = min(MOST_PHOTOS, max(1, most // math.prod(patch_grid(size, patch))))
        everyone = [each for photos in waiting.values() for each in photos]
        held = sum(each.original.numel() for each in everyone)
        if len(waiting[size]) >= full:
            yield batch_of(size)
        elif len(everyone) > 4 * full or held > MOST_BYTES:  # many odd sizes, or huge ones
            yield batch_of(max(waiting, key=lambda each: len(waiting[each])))
    for size in list(waiting):
        yield batch_of(size)


def _ahead(
    read: Callable[[tuple[int, Sample]], Photo | UnreadablePhoto],
    numbered: Iterable[tuple[int, Sample]],
    threads: int,
) -> Iterator[Photo | UnreadablePhoto]:
    """What is read, in order; each thread is at most two photographs ahead."""
    if not threads:
        yield from map(read, numbered)
        return
    with ThreadPoolExecutor(threads) as pool:
        begun: deque[Future[Photo | UnreadablePhoto]] = deque()
        try:
            for each in numbered:
                begun.append(pool.submit(read, each))
                if len(begun) > 2 * threads:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def reading_threads(settings: DataConfig, device: torch.device) -> int:
    """Threads that read photographs beside the encoders; all that is slow in them frees Python."""
    if settings.workers is not None:
        return settings.workers
    return min(8, processors()) if device.type == "cuda" else int(processors() > 1)


def present_slots(labels: list[tuple[int, ...]], slots: int = 1) -> Int[Tensor, "batch slots"]:
    """Class ids of each image, padded with -1 to the longest list, and to at least ``slots``."""
    slots = max([1, slots, *map(len, labels)])
    return torch.tensor([list(ids) + [-1] * (slots - len(ids)) for ids in labels])


def join_photos(
    photos: Sequence[Photo], labels: Sequence[tuple[int, ...]], patch: int, device: torch.device
) -> PhotoBatch:
    """Photographs of one limited size, all with superpixels or none, as a batch on a device."""
    ids = [photo.superpixels for photo in photos if photo.superpixels is not None]
    superpixels = torch.stack(ids) if ids else None
    small = torch.stack([photo.small for photo in photos]).permute(0, 3, 1, 2)
    fitted = torch.stack([fit_to_patches(photo.small, patch) for photo in photos])
    return PhotoBatch(
        tuple(photo.index for photo in photos),
        tuple(photo.original for photo in photos),
        small.to(device, non_blocking=True).float() / 255,
        fitted.permute(0, 3, 1, 2).to(device, non_blocking=True).float() / 255,
        None if superpixels is None else superpixels.to(device, non_blocking=True),
        None if superpixels is None else int(superpixels.max()) + 1,
        present_slots(list(labels)).to(device),
        tuple(photo.digest for photo in photos),
    )
