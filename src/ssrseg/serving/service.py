"""From the bytes of an image to its mask: read in worker threads, seen by one model thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ssrseg.data.decode import UNREADABLE
from ssrseg.data.files import content_digest, scratch_folder
from ssrseg.data.large import Tiling, read_header
from ssrseg.data.sample import Sample
from ssrseg.data.transforms import limited_size
from ssrseg.errors import DataError
from ssrseg.model import PhotoSegments
from ssrseg.prediction import Predictor
from ssrseg.serving.answers import FORMS, Segmented
from ssrseg.serving.limits import Limits
from ssrseg.serving.metrics import Metrics
from ssrseg.serving.model_thread import ModelThread
from ssrseg.tiled import HeldRows

_READERS = 4  # threads that decode and encode: more would only hold more photographs in memory


class Refused(Exception):
    """A request that gets no mask.

    Attributes:
        status: Of HTTP.
        kind: One word, for the metrics.
        retry: Seconds after which another try makes sense; 0 = none does.
    """

    def __init__(self, status: int, kind: str, text: str, retry: int = 0) -> None:
        super().__init__(text)
        self.status, self.kind, self.retry = status, kind, retry


@dataclass(frozen=True)
class _Read:
    """A photograph that waits for the model.

    Attributes:
        path: Its file.
        photo: It; empty if it is seen in tiles.
        made_for: Stamp of its mask.
    """

    path: Path
    photo: UInt8[Tensor, "height width 3"]
    tiling: Tiling | None
    made_for: str


class Service:
    """Segments images for many clients; use it in a ``with`` block.

    Attributes:
        predictor: None until the model is loaded.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.predictor: Predictor | None = None
        self._model: ModelThread[_Read, PhotoSegments] = ModelThread(
            self._see, limits.batch, limits.wait_ms / 1000
        )
        self._readers = ThreadPoolExecutor(_READERS, "reader")
        self._folder = scratch_folder()
        self._count = self._busy = 0
        self._seconds_each = 1.0  # of the model, for the photographs it saw last
        self.metrics = Metrics(lambda: len(self._model))

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self._model.close(self.limits.seconds)
        self._readers.shutdown(cancel_futures=True)
        self._folder.cleanup()

    @property
    def ready(self) -> bool:
        """Whether images are segmented."""
        return self.predictor is not None and self._model.alive

    def enter(self) -> None:
        """Take a place in the queue, until ``leave``.

        Raises:
            Refused: If the model is not loaded, or all places are taken.
        """
        if not self.ready:
            raise Refused(503, "loading", "The model is being loaded.", retry=5)
        if self._busy >= self.limits.queue:
            retry = max(1, round(self._busy * self._seconds_each))
            raise Refused(
                503,
                "busy",
                f"{self._busy} requests are worked on or wait, as many as this server takes"
                f" (--queue). Come again in {retry} s.",
                retry=retry,
            )
        self._busy += 1

    def leave(self) -> None:
        """Give the place back."""
        self._busy -= 1

    async def answer(self, content: bytes, form: str) -> bytes:
        """The mask of an image in one of ``FORMS``.

        Raises:
            Refused: If it is too large, or no image.
            SSRError: If it cannot be used.
        """
        loop = asyncio.get_running_loop()
        self._count += 1
        path = Path(self._folder.name) / f"image-{self._count}"
        reading = self._readers.submit(self._read, path, content)
        try:
            read = await asyncio.wrap_future(reading)
            key = read.path if read.tiling else self._size_seen(read.photo)
            found = await asyncio.wrap_future(self._model.submit(read, key))
            return await loop.run_in_executor(self._readers, self._encode, read, found, form)
        except DataError as error:
            other = isinstance(error.__cause__, UnidentifiedImageError)
            status, kind = (415, "no_image") if other else (422, "unusable")
            text = str(error)
            for name in (f"image {path}", str(path)):
                text = text.replace(name, "the image that was sent")
            raise Refused(status, kind, text[:1].upper() + text[1:]) from error
        finally:
            # at once, or when the reader of a client that has gone has written it
            reading.add_done_callback(lambda _: path.unlink(missing_ok=True))

    def _read(self, path: Path, content: bytes) -> _Read:
        """Write an image to a file, from which it is read as ``predict`` reads it."""
        predictor = self.predictor
        assert predictor is not None
        path.write_bytes(content)
        try:
            size = read_header(path).size
        except Image.DecompressionBombError as error:
            raise self._too_large("The image") from error
        except UNREADABLE:
            size = (0, 0)  # whoever reads it says what is wrong
        self._check_pixels(size)
        made_for = predictor.made_with.mask_of(
            Sample(path.name, path, (), None), content_digest(path)
        )
        tiling = predictor.tiling(path)
        if tiling is not None:
            return _Read(path, torch.empty(0, 0, 3, dtype=torch.uint8), tiling, made_for)
        photo = predictor.read(path)
        self._check_pixels((photo.shape[0], photo.shape[1]))
        return _Read(path, photo, None, made_for)

    def _check_pixels(self, size: tuple[int, int]) -> None:
        if size[0] * size[1] > self.limits.most_pixels:
            raise self._too_large(f"The image has {size[1]:,} x {size[0]:,} pixels. That")

    def _too_large(self, what: str) -> Refused:
        most = f"{self.limits.megapixels:g} megapixels"
        return Refused(
            413,
            "too_large",
            f"{what} is more than the {most} that this server takes (--megapixels). Scale it down,"
            " or use `ssrseg predict`.",
        )

    def _size_seen(self, photo: UInt8[Tensor, "height width 3"]) -> tuple[int, int]:
        assert self.predictor is not None
        return limited_size((photo.shape[0], photo.shape[1]), self.predictor.model.test_side)

    def _see(self, together: Sequence[_Read]) -> list[PhotoSegments]:
        """The model's turn: photographs that are seen at one size, or one in tiles."""
        predictor = self.predictor
        assert predictor is not None
        start = time.monotonic()
        if together[0].tiling is not None:
            found = [_in_tiles(predictor, together[0].path, together[0].tiling)]
        else:
            photos = [each.photo for each in together]
            found = predictor.model.segment_photos(photos, crf=predictor.crf)
        seconds = time.monotonic() - start
        self.metrics.batches.observe(len(together))
        self.metrics.model_seconds.observe(seconds)
        self._seconds_each = seconds / len(together)
        return found

    def _encode(self, read: _Read, found: PhotoSegments, form: str) -> bytes:
        predictor = self.predictor
        assert predictor is not None
        if read.tiling is None:
            ids = predictor.undecide(found.pseudo_mask, read.path)
            found = replace(found, pseudo_mask=ids)
        return FORMS[form].encode(Segmented(found, predictor.model.classes, read.made_for))


def _in_tiles(predictor: Predictor, path: Path, tiling: Tiling) -> PhotoSegments:
    ids, sure = HeldRows(tiling.size, np.uint8), HeldRows(tiling.size, np.float32)
    with predictor.open_large(path) as image:
        review = predictor.model.segment_tiles(image, tiling, ids.add, sure.add, crf=predictor.crf)
    return PhotoSegments(torch.from_numpy(ids.values), torch.from_numpy(sure.values), review)
