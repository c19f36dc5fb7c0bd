"""Training crops by number: draw k is the same crop in every run and after every resume."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from operator import itemgetter
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import DataLoader

from ssrseg.config import DataConfig
from ssrseg.data.class_ids import read_truth
from ssrseg.data.images import check_size, read_image
from ssrseg.data.photos import present_slots
from ssrseg.data.sample import LabelledImages
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.data.transforms import Crop, limit_side, random_crop
from ssrseg.errors import DataError, SSRError
from ssrseg.interruption import leave_to_parent
from ssrseg.method.pseudo_mask import IGNORE
from ssrseg.processors import processors


@dataclass(frozen=True)
class CropBatch:
    """Crops of one iteration.

    Attributes:
        image: RGB in [0, 1].
        ids: Superpixels (-1 = padding), or class ids under full supervision (255 = ignore).
        valid: False = padding.
        present: Classes of the whole image, -1 = empty slot.
        n_ids: A bound above every id, known before the batch goes to a GPU.
        draws: Numbers of the draws.
        rows: The images of the whole batch, of which this may be a part, by their place in the
            training set.
    """

    image: Float[Tensor, "batch 3 size size"]
    ids: Int[Tensor, "batch size size"]
    valid: Bool[Tensor, "batch size size"]
    present: Int[Tensor, "batch slots"]
    n_ids: int
    draws: tuple[int, ...]
    rows: tuple[int, ...]

    def to(self, device: torch.device) -> CropBatch:
        """Move to a device, without waiting for it."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> CropBatch:
        """For copies to a GPU that nobody waits for; the loader calls this."""
        return self._each(Tensor.pin_memory)

    def split(self, size: int) -> Iterator[CropBatch]:
        """Micro-batches of at most ``size`` crops."""
        for start in range(0, len(self.image), size):
            part = slice(start, start + size)
            yield replace(self._each(itemgetter(part)), draws=self.draws[part])

    def _each(self, change: Callable[[Tensor], Tensor]) -> CropBatch:
        image, ids, valid, present = map(change, (self.image, self.ids, self.valid, self.present))
        return replace(self, image=image, ids=ids, valid=valid, present=present)


def derive_seed(seed: int, number: int, stream: int) -> int:
    """A seed of its own for each number of each stream of random draws."""
    return int(np.random.SeedSequence([seed, number, stream]).generate_state(1)[0])


def loading_processes(workers: int | None, *, pin: bool) -> int:
    """Processes that load batches: none on a CPU; for a GPU (``pin``) at most 8."""
    if workers is not None:
        return workers
    return min(8, processors()) if pin else 0


def refuse_without_masks(data: LabelledImages) -> None:
    """Raise DataError if an image has no true mask, which full supervision learns from."""
    bare = [sample.name for sample in data.samples if sample.truth is None]
    if bare:
        raise DataError(
            f"Full supervision needs a mask for every training image; {len(bare)} have none"
            f" under {data.root} (such as {bare[0]}). Put them into SegmentationClassAug,"
            " or train from labels."
        )


Batch = TypeVar("Batch")


class Draws(ABC, Generic[Batch]):
    """Draw number ``draw`` of a shuffled, endless pass over ``count`` images."""

    def __init__(self, count: int, seed: int, workers: int | None) -> None:
        self.count, self.seed, self.workers = count, seed, workers

    def row(self, draw: int) -> int:
        """Place in the training set of the image that a draw shows."""
        epoch, position = divmod(draw, self.count)
        return int(_shuffled(self.count, derive_seed(self.seed, epoch, 0))[position])

    def generator(self, draw: int) -> torch.Generator:
        """Of what is random in a draw."""
        return torch.Generator().manual_seed(derive_seed(self.seed, draw, 1))

    def loader(
        self,
        start: int,
        stop: int,
        batch: int,
        *,
        pin: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[Batch]:
        """Batches of draws ``start`` .. ``stop`` - 1, in order, loaded ahead by worker processes.

        Args:
            start, stop: Numbers of draws.
            batch: Draws in a batch.
            pin: Put them where copies to a GPU need not be waited for.
            share: (0, 2) loads the first half of every batch, (1, 2) the second, and so on.
        """
        wholes: Any = [  # typed for a Dataset, but any sequence will do
            range(first, min(first + batch, stop)) for first in range(start, stop, batch)
        ]
        for each in DataLoader(
            wholes,
            batch_size=None,
            collate_fn=partial(self._batch, share=share),
            num_workers=loading_processes(self.workers, pin=pin),
            pin_memory=pin,
            worker_init_fn=leave_to_parent,
        ):
            if isinstance(each, SSRError):
                raise each
            yield each

    def _batch(self, whole: range, share: tuple[int, int]) -> Batch | SSRError:
        """Draws as a batch, or a fault: raised in a worker it would come back as a traceback."""
        part, parts = share
        own = whole[part * len(whole) // parts : (part + 1) * len(whole) // parts]
        try:
            return self.join(own, whole)
        except SSRError as error:
            return error

    @abstractmethod
    def join(self, draws: Sequence[int], whole: Sequence[int]) -> Batch:
        """Draws as a batch, or as a part of a ``whole`` one."""


class CropDraws(Draws[CropBatch]):
    """Crop number ``draw`` of a shuffled, endless pass over the images.

    With superpixels, or with masks if ``superpixels`` is None; DataError if an image has none.
    ``patch`` is the side of a patch in pixels: an image has at least one, a crop whole ones.
    """

    def __init__(
        self,
        data: LabelledImages,
        settings: DataConfig,
        superpixels: SuperpixelCache | None,
        seed: int,
        patch: int = 1,
    ) -> None:
        super().__init__(len(data), seed, settings.workers)
        self.data, self.settings, self.superpixels = data, settings, superpixels
        self.patch = patch
        if superpixels is None:
            refuse_without_masks(data)

    def __getitem__(self, draw: int) -> tuple[Crop, tuple[int, ...]]:
        """Crop and image-level labels."""
        sample = self.data.samples[self.row(draw)]
        photo = read_image(sample.image, self.settings.range, self.settings.bands)
        check_size(photo, sample.image, self.patch)
        size = (photo.shape[0], photo.shape[1])
        photo = limit_side(photo, self.settings.max_side)
        if self.superpixels is not None:
            ids, fill = self.superpixels(photo), -1
        else:
            assert sample.truth is not None
            truth = read_truth(sample.truth, size, len(self.data.classes), sample.labels)
            ids, fill = truth.int(), IGNORE
            rows, columns = (
                torch.arange(new) * old // new
                for old, new in zip(ids.shape, photo.shape[:2], strict=True)
            )
            ids = ids[rows][:, columns]
        crop = random_crop(
            photo,
            ids,
            size=max(1, self.settings.crop // self.patch) * self.patch,
            scale=self.settings.scale,
            flip=self.settings.flip,
            fill=fill,
            generator=self.generator(draw),
        )
        return crop, sample.labels

    def join(self, draws: Sequence[int], whole: Sequence[int]) -> CropBatch:
        """Draws as a batch, or as a part of a ``whole`` one, with as many slots as that has."""
        crops, labels = zip(*(self[draw] for draw in draws), strict=True)
        image, ids, valid = (
            torch.stack([getattr(crop, part) for crop in crops])
            for part in ("image", "ids", "valid")
        )
        rows = tuple(map(self.row, whole))
        slots = max(len(self.data.samples[row].labels) for row in rows)
        present = present_slots(list(labels), slots)
        return CropBatch(image, ids, valid, present, int(ids.max()) + 1, tuple(draws), rows)


@lru_cache(maxsize=2)
def _shuffled(count: int, seed: int) -> Int[Tensor, " images"]:
    """Order of a pass; kept, because every draw of the pass asks for it."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
