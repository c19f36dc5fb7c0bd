"""Test time: image in, mask out. CLIP and the decoder only; no labels, no DINO, no superpixels."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from ssrseg.checkpoint import load_checkpoint, load_decoder, model_digest
from ssrseg.config import Config, TestConfig
from ssrseg.console import steps
from ssrseg.data.files import atomic_write
from ssrseg.data.images import check_size, fits, list_images, read_image, write_class_ids
from ssrseg.data.transforms import limit_side, resize, to_unit
from ssrseg.errors import CheckpointError, DataError
from ssrseg.method.crf import dense_crf
from ssrseg.networks import clip as clip_tower
from ssrseg.networks import dino as dino_tower
from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.decoder import Decoder


@dataclass(frozen=True)
class Prediction:
    """The mask of one image.

    Attributes:
        ids: 0 = background, 1 + class index.
        confidence: Probability of the chosen class, in [0, 1].
    """

    ids: UInt8[Tensor, "height width"]
    confidence: Float[Tensor, "height width"]


@dataclass(frozen=True)
class PredictResult:
    """Where the masks are, how many were made now and how many were there already."""

    out: Path
    written: int
    skipped: int
    seconds: float


@dataclass(frozen=True)
class Segmenter:
    """A trained model, ready to segment; :func:`load_segmenter` loads one."""

    clip: FrozenCLIP
    decoder: Decoder
    classes: tuple[str, ...]
    config: Config

    @torch.no_grad()
    def probabilities(
        self, photo: UInt8[Tensor, "height width 3"]
    ) -> Float[Tensor, "channels height width"]:
        """Class probabilities at the photograph's size, background first.

        Logits of all scales and of the mirror image are averaged [WeCLIP].
        """
        test, patch = self.config.test, self.clip.patch_size
        size = (photo.shape[0], photo.shape[1])
        device = next(self.decoder.parameters()).device
        tower = clip_tower if self.config.data.norm == "clip" else dino_tower
        mean = torch.tensor(tower.PIXEL_MEAN, device=device).view(3, 1, 1)
        deviation = torch.tensor(tower.PIXEL_STD, device=device).view(3, 1, 1)
        total = torch.zeros(len(self.classes) + 1, *size, device=device)
        for scale in test.scales:
            factor = test.long_side * scale / max(size)
            sides = tuple(max(patch, round(side * factor / patch) * patch) for side in size)
            image = to_unit(resize(photo, (sides[0], sides[1]), bicubic=False)).to(device)
            image = (image - mean) / deviation
            batch = torch.stack([image, image.flip(-1)]) if test.flip else image[None]
            view = self.clip.view(batch)
            logits = self.decoder(view.tokens, view.grid)
            if test.flip:
                logits = (logits[:1] + logits[1:].flip(-1)) / 2
            total += functional.interpolate(logits, size, mode="bilinear", align_corners=False)[0]
        return (total / len(test.scales)).softmax(0)

    def predict(
        self, photo: UInt8[Tensor, "height width 3"], *, crf: bool | None = None
    ) -> Prediction:
        """Segment one photograph.

        Args:
            photo: RGB; one larger than ``data.max_side`` is segmented at that size.
            crf: Refine with a DenseCRF; None = as the run's settings say.
        """
        small = limit_side(photo, max(self.config.data.max_side, self.config.test.long_side))
        probabilities = self.probabilities(small)
        if self.config.test.crf if crf is None else crf:
            probabilities = refine_with_crf(small, probabilities, self.config.test)
        confidence, ids = probabilities.max(0)
        size = (photo.shape[0], photo.shape[1])
        return Prediction(
            functional.interpolate(ids[None, None].to(torch.uint8), size, mode="nearest")[
                0, 0
            ].cpu(),
            functional.interpolate(confidence[None, None], size, mode="bilinear")[0, 0].cpu(),
        )


def refine_with_crf(
    photo: UInt8[Tensor, "height width 3"],
    probabilities: Float[Tensor, "channels height width"],
    test: TestConfig,
) -> Float[Tensor, "channels height width"]:
    """DenseCRF with the settings of test time."""
    xy, weight, bilateral_xy, bilateral_rgb, bilateral_weight = test.crf_parameters
    return dense_crf(
        photo,
        probabilities.cpu(),
        iterations=test.crf_iterations,
        gaussian_xy=xy,
        gaussian_weight=weight,
        bilateral_xy=bilateral_xy,
        bilateral_rgb=bilateral_rgb,
        bilateral_weight=bilateral_weight,
    )


def load_segmenter(model: Path | str, *, clip: str | None = None, device: str = "cpu") -> Segmenter:
    """Load a trained model with its encoder.

    Args:
        model: Run folder or model.safetensors.
        clip: Hub id or directory of CLIP, if it is not where it was in training.
        device: ``cpu`` or ``cuda``.

    Raises:
        CheckpointError: If there is no model, or it does not fit the encoder.
        BackboneError: If CLIP cannot be loaded.
    """
    model = Path(model)
    checkpoint = load_checkpoint(model)
    backbones = checkpoint.config.backbones
    tower = FrozenCLIP.load(
        clip or backbones.clip,
        pos_interpolation=backbones.pos_interpolation,
        precision=backbones.precision,
        texts=(),  # the decoder knows its classes
    ).to(device)
    decoder = load_decoder(checkpoint, tower, model)
    return Segmenter(tower, decoder, checkpoint.classes, checkpoint.config)


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
            (as :func:`ssrseg.open_images` gives them).
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
    segmenter = load_segmenter(model, clip=clip, device=device)
    own = segmenter.config.test
    if test is not None:
        segmenter = replace(segmenter, config=replace(segmenter.config, test=test))
    wanted = segmenter.config.test.crf if crf is None else crf
    paths, names = _named(images)
    targets = _targets(paths, names, out)
    todo = [
        (path, target)
        for path, target in zip(paths, targets, strict=True)
        if overwrite or not fits(target, path)
    ]
    made_by = f"model: {model_digest(model)}\ncrf: {wanted}\n"
    if segmenter.config.test != own:
        made_by += f"{segmenter.config.test}\n"
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
        (out / "classes.txt", "\n".join(segmenter.classes) + "\n"),
    ):
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    with steps("Prediction", len(paths), done=len(paths) - len(todo)) as progress:
        for path, target in todo:
            photo = read_image(path)
            check_size(photo, path, segmenter.clip.patch_size)
            write_class_ids(target, segmenter.predict(photo, crf=wanted).ids)
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
