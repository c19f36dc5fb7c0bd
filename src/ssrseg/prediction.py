"""Test time: image in, mask out. CLIP and the decoder only; no labels, no DINO, no superpixels."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ssrseg.checkpoint import model_digest
from ssrseg.config import TestConfig
from ssrseg.console import steps
from ssrseg.data.files import atomic_write
from ssrseg.data.images import check_size, fits, list_images, read_image, write_class_ids
from ssrseg.errors import CheckpointError, DataError
from ssrseg.model import SSR


@dataclass(frozen=True)
class PredictResult:
    """Where the masks are, how many were made now and how many were there already."""

    out: Path
    written: int
    skipped: int
    seconds: float


def predict(
    images: Path | Sequence[Path] | Mapping[str, Path],
    out: Path,
    model: Path,
    *,
    clip: str | None = None,
    crf: bool | None = None,
    test: TestConfig | None = None,
    overwrite: bool = False,
    device: str = "cpu",
) -> PredictResult:
    """Write a mask for every image of a folder; no labels needed.

    Args:
        images: One image, a folder of images, a list of images in one folder, or images by name
            (as ``ssrseg.open_images`` gives them).
        out: Gets masks/<name>.png (indexed), classes.txt and settings.txt.
        model: Run folder or model.safetensors.
        clip: Hub id or directory of CLIP, if it is not where it was in training.
        crf: Refine with a DenseCRF; None = as the settings say.
        test: Scales, flip and DenseCRF; None = the run's settings.
        overwrite: Make masks anew that are there already.
        device: ``cpu`` or ``cuda``.

    Raises:
        DataError: If there is no image or one cannot be read; masks already written stay.
        CheckpointError: If there is no model, it does not fit the encoder, or ``out`` holds masks
            of another one.
    """
    start = time.monotonic()
    ssr = SSR.from_pretrained(model, clip=clip, segment_only=True, device=device)
    own = ssr.config.test
    if test is not None:
        ssr = ssr.with_config(replace(ssr.config, test=test))
    wanted = ssr.config.test.crf if crf is None else crf
    paths, names = _named(images)
    targets = _targets(paths, names, out)
    todo = [
        (path, target)
        for path, target in zip(paths, targets, strict=True)
        if overwrite or not fits(target, path)
    ]
    made_by = f"model: {model_digest(model)}\ncrf: {wanted}\n"
    if ssr.config.test != own:
        made_by += f"{ssr.config.test}\n"
    settings = out / "settings.txt"
    if len(todo) < len(paths) and not (settings.is_file() and settings.read_text() == made_by):
        raise CheckpointError(
            f"{out} holds masks of another model or made with other settings. Use another --out, or"
            " --overwrite."
        )
    if overwrite:  # an interrupted call must not leave masks of two models
        for _, target in todo:
            target.unlink(missing_ok=True)
    for path, text in (
        (settings, made_by),
        (out / "classes.txt", "\n".join(ssr.classes) + "\n"),
    ):
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    with steps("Prediction", len(paths), done=len(paths) - len(todo)) as progress:
        for path, target in todo:
            photo = read_image(path)
            check_size(photo, path, ssr.patch_size)
            ids, _ = ssr.segment_photo(photo, crf=wanted)
            write_class_ids(target, ids)
            progress.advance(path.name)
    return PredictResult(out, len(todo), len(paths) - len(todo), time.monotonic() - start)


def _targets(paths: Sequence[Path], names: Sequence[str], out: Path) -> list[Path]:
    """Where the masks go; two images that would share one are refused."""
    targets = [out / "masks" / f"{name}.png" for name in names]
    first: dict[Path, Path] = {}
    for path, target in zip(paths, targets, strict=True):
        if first.setdefault(target, path) != path:
            raise DataError(
                f"{first[target]} and {path} have the same name up to the suffix, under which masks"
                " are written. Rename or remove one."
            )
    return targets


def _named(images: Path | Sequence[Path] | Mapping[str, Path]) -> tuple[list[Path], list[str]]:
    """Paths, and the names that masks are written under."""
    if isinstance(images, Mapping):
        return list(images.values()), list(images)
    paths = list_images(images) if isinstance(images, Path) else list(images)
    root = images if isinstance(images, Path) and images.is_dir() else paths[0].parent
    return paths, [path.relative_to(root).with_suffix("").as_posix() for path in paths]
