"""Test time: image in, mask out. CLIP and the decoder only; no labels, no DINO, no superpixels."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ssrseg.checkpoint import model_digest
from ssrseg.config import TestConfig
from ssrseg.console import steps
from ssrseg.data.files import user_path, write_text
from ssrseg.data.images import check_size, fits, list_images, read_image, write_class_ids
from ssrseg.errors import CheckpointError, DataError
from ssrseg.loading import model_file
from ssrseg.model import SSR

ImagePaths = str | Path | Sequence[str | Path] | Mapping[str, str | Path]


@dataclass(frozen=True)
class PredictResult:
    """Where the masks are, how many were made now and how many were there already."""

    out: Path
    written: int
    skipped: int
    seconds: float


def predict(
    images: ImagePaths,
    out: str | Path,
    model: str | Path,
    *,
    clip: str | Path | None = None,
    crf: bool | None = None,
    test: TestConfig | None = None,
    overwrite: bool = False,
    device: str = "auto",
) -> PredictResult:
    """Write a mask for every image of a folder; no labels needed.

    Args:
        images: One image, a folder of images, a list of images, or images by name (as
            ``ssrseg.open_images`` gives them).
        out: Gets ``masks/NAME.png`` (indexed), classes.txt and settings.txt.
        model: Run folder, model.safetensors, or hub id.
        clip: Hub id or directory of CLIP, if it is not where it was in training.
        crf: Refine with a DenseCRF; None = as the settings say.
        test: Scales, flip and DenseCRF; None = the run's settings.
        overwrite: Make masks anew that are there already.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        DataError: If there is no image, one cannot be read, or two have the same name; masks
            already written stay.
        CheckpointError: If there is no model, it does not fit the encoder, or ``out`` holds masks
            of another one.
    """
    start, out, run = time.monotonic(), user_path(out, "masks"), model_file(model)
    paths = _by_target(images, out / "masks")
    ssr = SSR.from_pretrained(run, clip=clip, segment_only=True, device=device)
    own = ssr.config.test
    if test is not None:
        ssr = ssr.with_config(replace(ssr.config, test=test))
    wanted = ssr.config.test.crf if crf is None else crf
    todo = {target: path for target, path in paths.items() if overwrite or not fits(target, path)}
    made_by = f"model: {model_digest(run)}\ncrf: {wanted}\n"
    if ssr.config.test != own:
        made_by += f"{ssr.config.test}\n"
    settings = out / "settings.txt"
    earlier = settings.read_text(encoding="utf-8") if settings.is_file() else ""
    if len(todo) < len(paths) and earlier != made_by:
        raise CheckpointError(
            f"{out} holds masks of another model or made with other settings. Use another --out, or"
            " --overwrite."
        )
    if overwrite:  # an interrupted call must not leave masks of two models
        for target in todo:
            target.unlink(missing_ok=True)
    write_text(settings, made_by)
    write_text(out / "classes.txt", "\n".join(ssr.classes) + "\n")
    with steps("Prediction", len(paths), done=len(paths) - len(todo)) as progress:
        for target, path in todo.items():
            photo = read_image(path)
            check_size(photo, path, ssr.patch_size)
            ids, _ = ssr.segment_photo(photo, crf=wanted)
            write_class_ids(target, ids)
            progress.advance(path.name)
    return PredictResult(out, len(todo), len(paths) - len(todo), time.monotonic() - start)


def _by_target(images: ImagePaths, folder: Path) -> dict[Path, Path]:
    """Images by the file that their mask goes into; two that would share one are refused."""
    if isinstance(images, (str, Path)) or not isinstance(images, Iterable):
        root, paths = user_path(images, "images"), list_images(images)
        base = root if root.is_dir() else root.parent
        named = [(path.relative_to(base).with_suffix("").as_posix(), path) for path in paths]
    elif isinstance(images, Mapping):
        named = [(name, user_path(path, "an image")) for name, path in images.items()]
    else:
        paths = [user_path(path, "an image") for path in images]
        named = [(path.stem, path) for path in paths]
    found: dict[Path, Path] = {}
    for name, path in named:
        target = folder / f"{name}.png"
        if found.setdefault(target, path) != path:
            raise DataError(
                f"{found[target]} and {path} have the same name up to the suffix, under which masks"
                " are written. Rename or remove one."
            )
    if not found:
        raise DataError("There is no image to segment: the list is empty. Give at least one.")
    return found
