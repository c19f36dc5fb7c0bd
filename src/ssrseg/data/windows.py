"""Windows of cached features: draw k is the same window in every run and after every resume."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float16, UInt8
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ssrseg.data.crops import Draws
from ssrseg.data.files import atomic_write
from ssrseg.data.kept_tensors import UNREADABLE
from ssrseg.errors import DataError
from ssrseg.method.pseudo_mask import IGNORE

Views = Sequence[Float16[Tensor, "_ _ blocks dim"]]


def is_mirrored(view: int, *, flip: bool) -> bool:
    """Whether a view of an image is one of its mirror image: every second, from the second on."""
    return flip and view % 2 == 1


def save_views(
    path: Path, views: Views, mask: UInt8[Tensor, "height width"], made_for: str
) -> None:
    """Write an image's views and its mask, whole or not at all.

    Args:
        views: CLIP's tokens of each block without CLS.
        mask: Class ids at the pixels of the whole image (not mirrored).
        made_for: A name for all that decides what is in the file.
    """
    tensors = {f"view.{index}": view.contiguous() for index, view in enumerate(views)}
    tensors["mask"] = mask.contiguous()
    facts = {"made_for": made_for, "sum": _sum(tensors)}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata=facts)


def has_views(path: Path, made_for: str) -> bool:
    """Whether a file is there, undamaged, and made for the same; reads all of it."""
    try:
        with safe_open(path, framework="pt") as reader:
            facts = reader.metadata() or {}
            if facts.get("made_for") != made_for:
                return False
            tensors = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
        return facts.get("sum") == _sum(tensors)
    except UNREADABLE:
        return False


def _sum(tensors: dict[str, Tensor]) -> str:
    """A checksum of the numbers, by name."""
    parts = (
        f"{name} {tuple(value.shape)} {zlib.crc32(value.view(torch.uint8).numpy().data)}"
        for name, value in sorted(tensors.items())
    )
    return f"{zlib.crc32(' '.join(parts).encode()):08x}"


@dataclass(frozen=True)
class WindowBatch:
    """Windows of one iteration.

    Attributes:
        tokens: CLIP's of each patch and block. Padding repeats the patch at the edge, so that
            nothing of it is seen when logits are enlarged.
        mask: Class ids; 255 where padded.
        inside: False = padding; None = there is none.
        side: Patches in a row and in a column.
        draws: Numbers of the draws.
        rows: The images of the whole batch, of which this may be a part, by their place in the
            training set.
    """

    tokens: Float16[Tensor, "batch patches blocks dim"]
    mask: UInt8[Tensor, "batch size size"]
    inside: Bool[Tensor, "batch patches"] | None
    side: int
    draws: tuple[int, ...]
    rows: tuple[int, ...]

    def to(self, device: torch.device) -> WindowBatch:
        """Move to a device, without waiting for it."""
        tokens, mask = (each.to(device, non_blocking=True) for each in (self.tokens, self.mask))
        inside = None if self.inside is None else self.inside.to(device, non_blocking=True)
        return replace(self, tokens=tokens, mask=mask, inside=inside)

    def pin_memory(self) -> WindowBatch:
        """For copies to a GPU that nobody waits for; the loader calls this."""
        inside = None if self.inside is None else self.inside.pin_memory()
        return replace(
            self, tokens=self.tokens.pin_memory(), mask=self.mask.pin_memory(), inside=inside
        )

    def split(self, size: int) -> Iterator[WindowBatch]:
        """Micro-batches of at most ``size`` windows."""
        for start in range(0, len(self.tokens), size):
            part = slice(start, start + size)
            inside = None if self.inside is None else self.inside[part]
            yield replace(
                self,
                tokens=self.tokens[part],
                mask=self.mask[part],
                inside=inside,
                draws=self.draws[part],
            )


class WindowDraws(Draws[WindowBatch]):
    """Window number ``draw`` of a shuffled, endless pass over the files of ``save_views``.

    Args:
        files: Of each image.
        side: Patches in a row and in a column of a window.
        patch: Side of a patch in pixels.
        flip: Whether every second view is mirrored.
        seed: Of the draws.
        workers: Processes that load; None = by the device.
    """

    def __init__(
        self,
        files: Sequence[Path],
        side: int,
        patch: int,
        *,
        flip: bool,
        seed: int,
        workers: int | None,
    ) -> None:
        super().__init__(len(files), seed, workers)
        self.files, self.side, self.patch, self.flip = files, side, patch, flip

    def __getitem__(
        self, draw: int
    ) -> tuple[
        Float16[Tensor, "patches blocks dim"],
        UInt8[Tensor, "size size"],
        Bool[Tensor, " patches"],
    ]:
        """Tokens, mask and which patches are inside, of a random window of a random view."""
        path = self.files[self.row(draw)]
        which, down, right = torch.rand(3, generator=self.generator(draw)).tolist()
        side, patch = self.side, self.patch
        try:
            with safe_open(path, framework="pt") as reader:
                view = int(which * (len(list(reader.keys())) - 1))
                stored = reader.get_slice(f"view.{view}")
                grid_h, grid_w = stored.get_shape()[:2]
                # what the view has of the window: rows x columns patches from (top, left) on
                rows, columns = min(side, grid_h), min(side, grid_w)
                top, left = int(down * (grid_h - rows + 1)), int(right * (grid_w - columns + 1))
                tokens = stored[top : top + rows, left : left + columns]
                mask = reader.get_tensor("mask")
        except UNREADABLE as error:
            raise DataError(
                f"{path}, cached features, cannot be read any more ({error}). The same command"
                " makes them anew and goes on."
            ) from error
        # pixels of the window in the mask of the whole image, by nearest neighbour
        height, width = mask.shape
        y = (torch.arange(rows * patch) + top * patch) * height // (grid_h * patch)
        x = (torch.arange(columns * patch) + left * patch) * width // (grid_w * patch)
        if is_mirrored(view, flip=self.flip):
            x = width - 1 - x
        canvas = torch.full((side * patch, side * patch), IGNORE, dtype=torch.uint8)
        canvas[: rows * patch, : columns * patch] = mask[y][:, x]
        # padding: below and to the right
        steps = torch.arange(side)
        padded = tokens[steps.clamp(max=rows - 1)][:, steps.clamp(max=columns - 1)]
        inside = (steps < rows)[:, None] & (steps < columns)
        return padded.flatten(0, 1), canvas, inside.flatten()

    def join(self, draws: Sequence[int], whole: Sequence[int]) -> WindowBatch:
        """Draws as a batch, or as a part of a ``whole`` one."""
        tokens, mask, inside = map(torch.stack, zip(*(self[draw] for draw in draws), strict=True))
        return WindowBatch(
            tokens,
            mask,
            None if inside.all() else inside,
            self.side,
            tuple(draws),
            tuple(map(self.row, whole)),
        )
