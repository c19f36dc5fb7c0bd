"""Training crops by number: draw k is the same crop in every run and after every resume."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssrseg.config import DataConfig
from ssrseg.data.images import check_size, read_image, read_mask
from ssrseg.data.sample import LabelledImages, present_slots
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.data.transforms import Crop, limit_side, random_crop
from ssrseg.errors import DataError, SSRError
from ssrseg.method.pseudo_mask import IGNORE


@dataclass(frozen=True)
class CropBatch:
    """Crops of one iteration.

    Attributes:
        image: RGB in [0, 1].
        ids: Superpixels (-1 = padding), or class ids under full supervision (255 = ignore).
        valid: False = padding.
        present: Classes of the whole image, -1 = empty slot.
        n_ids: A bound above every id, known before the batch goes to a GPU.
    """

    image: Float[Tensor, "batch 3 size size"]
    ids: Int[Tensor, "batch size size"]
    valid: Bool[Tensor, "batch size size"]
    present: Int[Tensor, "batch slots"]
    n_ids: int

    def to(self, device: torch.device) -> CropBatch:
        """Move to a device, without waiting for it."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> CropBatch:
        """For copies to a GPU that nobody waits for; the loader calls this."""
        return self._each(Tensor.pin_memory)

    def split(self, size: int) -> Iterator[CropBatch]:
        """Micro-batches of at most ``size`` crops."""
        for start in range(0, len(self.image), size):
            yield self._each(itemgetter(slice(start, start + size)))

    def _each(self, change: Callable[[Tensor], Tensor]) -> CropBatch:
        image, ids, valid, present = map(change, (self.image, self.ids, self.valid, self.present))
        return CropBatch(image, ids, valid, present, self.n_ids)


def derive_seed(seed: int, number: int, stream: int) -> int:
    """A seed of its own for each number of each stream of random draws."""
    return int(np.random.SeedSequence([seed, number, stream]).generate_state(1)[0])


class CropDraws(Dataset[tuple[Crop, tuple[int, ...]]]):
    """Crop number ``draw`` of a shuffled, endless pass over the images."""

    def __init__(
        self,
        data: LabelledImages,
        settings: DataConfig,
        superpixels: SuperpixelCache | None,
        seed: int,
        min_side: int = 1,
    ) -> None:
        """Draw crops with superpixels, or with masks if ``superpixels`` is None.

        Args:
            data: Training images.
            settings: Size and scale of the crops.
            superpixels: Where superpixels are kept.
            seed: Of the draws.
            min_side: Least height and width of an image in pixels: one patch.

        Raises:
            DataError: If masks are wanted and an image has none.
        """
        self.data, self.settings, self.superpixels, self.seed = data, settings, superpixels, seed
        self.min_side = min_side
        if superpixels is None:
            bare = [sample.name for sample in data.samples if sample.truth is None]
            if bare:
                raise DataError(
                    f"Full supervision needs a mask for every training image; {len(bare)} have none"
                    f" under {data.root} (such as {bare[0]}). Put them into SegmentationClassAug,"
                    " or train from labels."
                )

    def __getitem__(self, draw: int) -> tuple[Crop, tuple[int, ...]]:
        """Crop and image-level labels."""
        epoch, position = divmod(draw, len(self.data))
        sample = self.data.samples[
            int(_shuffled(len(self.data), derive_seed(self.seed, epoch, 0))[position])
        ]
        photo = read_image(sample.image)
        check_size(photo, sample.image, self.min_side)
        size = (photo.shape[0], photo.shape[1])
        photo = limit_side(photo, self.settings.max_side)
        if self.superpixels is not None:
            ids, fill = self.superpixels(photo, sample.name), -1
        else:
            assert sample.truth is not None
            truth = read_mask(sample.truth, size, len(self.data.classes))
            ids, fill = truth.int(), IGNORE
            rows, columns = (
                torch.arange(new) * old // new
                for old, new in zip(ids.shape, photo.shape[:2], strict=True)
            )
            ids = ids[rows][:, columns]
        crop = random_crop(
            photo,
            ids,
            size=self.settings.crop,
            scale=self.settings.scale,
            flip=self.settings.flip,
            fill=fill,
            generator=torch.Generator().manual_seed(derive_seed(self.seed, draw, 1)),
        )
        return crop, sample.labels

    def loader(
        self, start: int, stop: int, batch: int, *, pin: bool = False
    ) -> Iterator[CropBatch]:
        """Batches of draws ``start`` .. ``stop``, in order, loaded ahead by worker processes.

        Args:
            start: First draw.
            stop: One behind the last.
            batch: Crops of a batch.
            pin: Put batches where copies to a GPU need not be waited for.
        """
        loaded = DataLoader(
            _Draws(self),
            batch_size=batch,
            sampler=range(start, stop),
            num_workers=self.settings.workers,
            collate_fn=_collate,
            pin_memory=pin,
        )
        for each in loaded:
            if isinstance(each, SSRError):
                raise each
            yield each


class _Draws(Dataset["tuple[Crop, tuple[int, ...]] | SSRError"]):
    """Hands faults over as values: raised in a worker they would come back as a traceback."""

    def __init__(self, draws: CropDraws) -> None:
        self.draws = draws

    def __getitem__(self, draw: int) -> tuple[Crop, tuple[int, ...]] | SSRError:
        try:
            return self.draws[draw]
        except SSRError as error:
            return error


@lru_cache(maxsize=2)
def _shuffled(count: int, seed: int) -> Int[Tensor, " images"]:
    """Order of a pass; kept, because every draw of the pass asks for it."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def _collate(found: list[tuple[Crop, tuple[int, ...]] | SSRError]) -> CropBatch | SSRError:
    drawn = []
    for each in found:
        if isinstance(each, SSRError):
            return each
        drawn.append(each)
    crops = [crop for crop, _ in drawn]
    ids = torch.stack([crop.ids for crop in crops])
    return CropBatch(
        torch.stack([crop.image for crop in crops]),
        ids,
        torch.stack([crop.valid for crop in crops]),
        present_slots([labels for _, labels in drawn]),
        int(ids.max()) + 1,
    )
