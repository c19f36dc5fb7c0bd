"""Test time: image in, mask out. CLIP and the decoder only; no labels, no DINO, no superpixels."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from ssrseg.checkpoint import model_digest, model_file
from ssrseg.config import TestConfig, load_config
from ssrseg.console import note, steps
from ssrseg.data.files import content_digest, user_path
from ssrseg.data.images import check_size, read_image
from ssrseg.data.large import LargeImage, Tiling, open_large, tiling_of, undecide_absent
from ssrseg.data.sample import Sample
from ssrseg.data.stamped_mask import confidence_rows, mask_rows
from ssrseg.data.walk import list_images
from ssrseg.errors import DataError
from ssrseg.failures import Failure
from ssrseg.interruption import until_stopped
from ssrseg.loaded_once import LoadedOnce
from ssrseg.made_with import MadeWith
from ssrseg.manifest import confidence_path, mask_path
from ssrseg.mask_folder import Making, MaskFolder, open_masks
from ssrseg.model import SSR
from ssrseg.review import Review

ImagePaths = str | Path | Sequence[str | Path] | Mapping[str, str | Path]


@dataclass(frozen=True)
class PredictResult:
    """Where the masks are.

    Attributes:
        out: Folder with masks/, classes.txt and manifest.csv.
        skipped: Masks that were there already, those that a person has corrected included.
        renewed: Masks of an earlier call, made anew because their photograph has changed.
        corrected: Names of the masks that a person has corrected; they were left as they are.
        seconds: Time of this call, loading included.
        reviews: Score and reasons of every mask that no person has corrected, by image, in the
            order in which to look at them.
        failures: Images that could not be used.
    """

    out: Path
    written: int
    skipped: int
    renewed: int
    corrected: tuple[str, ...]
    seconds: float
    reviews: dict[str, Review]
    failures: tuple[Failure, ...]


def predict(
    images: ImagePaths,
    out: str | Path,
    model: str | Path,
    *,
    clip: str | Path | None = None,
    crf: bool | None = None,
    test: TestConfig | None = None,
    value_range: tuple[float, float] | None = None,
    bands: tuple[int, int, int] | None = None,
    tile: str | int | None = None,
    confidence: bool = False,
    device: str = "auto",
    overwrite: bool = False,
    strict: bool = False,
    report: bool = True,
    loaded: LoadedOnce | None = None,
) -> PredictResult:
    """Write a mask for every image of a folder; no labels needed.

    A mask that is there is made again if its photograph has changed or it is damaged; one that a
    person has corrected is kept. An image that cannot be used is left out and listed.

    Args:
        images: One image, a folder of images, a list of images, or images by name (as
            ``ssrseg.open_images`` gives them). ``out`` may lie inside the folder.
        out: Gets ``masks/NAME.png`` (indexed), classes.txt, manifest.csv, settings.txt,
            report.html and, if something fails, failures.csv.
        model: Run folder, model.safetensors, or hub id.
        clip: Hub id or directory of CLIP, if it is not where it was in training.
        crf: Refine with a DenseCRF; None = as the settings say.
        test: Scales, flip and DenseCRF; None = the run's settings.
        value_range: Black and white of photographs of more than 8 bits, see ``data.range``; None =
            the run's settings.
        bands: Which bands of files are red, green and blue, see ``data.bands``; None = the
            run's settings.
        tile: How large images are cut, see ``data.tile``; None = the run's settings.
        confidence: Also write ``confidence/NAME.png``, the probability of the chosen class (grey,
            255 = 1).
        device: ``auto``, ``cpu`` or ``cuda``.
        overwrite: Make all masks anew, also those that a person has corrected.
        strict: Stop at the first image that cannot be used.
        report: Write report.html, a page to look at all of it.
        loaded: A model that several calls share.

    Raises:
        DataError: If there is no image, or two have the same name; in strict mode, if one cannot
            be read. Masks already written stay.
        CheckpointError: If there is no model, or it does not fit the encoder.
        ConfigError: If ``out`` holds masks of another model or made with other settings.
        OutputError: If another process writes into ``out``, or the disk takes nothing.
    """
    start, out, run = time.monotonic(), user_path(out, "masks"), model_file(model)
    samples = samples_of(images, out)
    predictor = load_predictor(
        run,
        clip=clip,
        crf=crf,
        test=test,
        value_range=value_range,
        bands=bands,
        tile=tile,
        device=device,
        loaded=loaded,
    )
    made_with = predictor.made_with
    told = {"model": made_with.model, **made_with.encoders, **made_with.settings}
    text = "".join(f"{key}: {value}\n" for key, value in told.items())
    making = Making(
        "model",
        made_with,
        text,
        places=lambda name: (mask_path(name), confidence_path(name)),
        confidence=confidence,
    )
    with (
        open_masks(
            out, samples, making, overwrite=overwrite, strict=strict, report=report
        ) as masks,
        until_stopped() as stop,
        steps("Prediction", len(samples), done=len(samples) - len(masks.todo)) as progress,
    ):
        for sample in masks.todo:
            try:
                digest = content_digest(sample.image)
                tiling = predictor.tiling(sample.image)
                if tiling is not None:
                    _write_tiled(sample, digest, tiling, predictor, masks)
                else:
                    photo = predictor.read(sample.image)
                    found = predictor.model.segment_photo(photo, crf=predictor.crf)
                    sure = found.confidence if confidence else None
                    ids = predictor.undecide(found.pseudo_mask, sample.image)
                    masks.write(sample, ids, digest, found.review, sure)
            except DataError as error:
                masks.fail(sample, error)
            progress.advance(sample.image.name)
            masks.stop_if_asked(stop)
        masks.finish()
        reviews = masks.reviewed()
    return PredictResult(
        out,
        masks.written,
        masks.done,
        masks.renewed,
        tuple(masks.corrected),
        time.monotonic() - start,
        reviews,
        tuple(masks.failures),
    )


@dataclass(frozen=True)
class Predictor:
    """A trained model that segments photographs, and how it reads them.

    Attributes:
        made_with: All that decides a prediction beside the photograph.
        crf: Whether masks are refined with a DenseCRF.
    """

    model: SSR
    made_with: MadeWith
    crf: bool

    def tiling(self, path: Path) -> Tiling | None:
        """How a photograph is cut; None if the whole is seen."""
        return tiling_of(path, self.model.config.data, self.model.test_side)

    def read(self, path: Path) -> UInt8[Tensor, "height width 3"]:
        """A photograph that is seen as a whole; DataError if it cannot be used."""
        settings = self.model.config.data
        photo = read_image(path, settings.range, settings.bands)
        check_size(photo, path, self.model.patch_size)
        return photo

    def undecide(
        self, ids: UInt8[Tensor, "height width"], path: Path
    ) -> UInt8[Tensor, "height width"]:
        """A mask that is undecided where its photograph, seen as a whole, has no data."""
        return undecide_absent(ids, path, self.model.config.data)

    def open_large(self, path: Path) -> AbstractContextManager[LargeImage]:
        """A photograph that is seen in tiles; DataError if it cannot be read."""
        settings = self.model.config.data
        return open_large(path, settings.range, settings.bands)


def load_predictor(
    model: str | Path,
    *,
    clip: str | Path | None = None,
    crf: bool | None = None,
    test: TestConfig | None = None,
    value_range: tuple[float, float] | None = None,
    bands: tuple[int, int, int] | None = None,
    tile: str | int | None = None,
    device: str = "auto",
    loaded: LoadedOnce | None = None,
) -> Predictor:
    """What ``predict`` segments with; arguments and errors as there."""
    run = model_file(model)
    ssr = (loaded or LoadedOnce()).segmenter(run, clip, device)
    if test is not None:
        ssr = ssr.with_config(replace(ssr.config, test=test))
    given = {"data.range": value_range, "data.bands": bands, "data.tile": tile}
    if chosen := {key: value for key, value in given.items() if value is not None}:
        ssr = ssr.with_config(load_config(base=ssr.config.to_dict(), overrides=chosen))
    wanted = ssr.config.test.crf if crf is None else crf
    return Predictor(ssr, _made_with(ssr, run, crf=wanted), wanted)


def _made_with(model: SSR, run: Path, *, crf: bool) -> MadeWith:
    config = model.config
    settings = {f"test.{key}": value for key, value in config.to_dict()["test"].items()}
    data = config.to_dict()["data"]
    settings |= {"test.crf": crf}
    settings |= {f"data.{key}": data[key] for key in ("range", "bands", "tile", "tile_overlap")}
    clip = {"clip": model.clip.digest}
    return MadeWith(model.classes, settings, encoders=clip, model=model_digest(run))


def _write_tiled(
    sample: Sample, digest: str, tiling: Tiling, predictor: Predictor, masks: MaskFolder
) -> None:
    """Make and write the mask of an image in tiles; DataError if it cannot be read."""
    size, wanted = tiling.size, masks.making.confidence
    with (
        mask_rows(size, masks.out) as mask,
        confidence_rows(size, masks.out) as sure,
        predictor.open_large(sample.image) as image,
    ):
        take = sure.add_shares if wanted else None
        review = predictor.model.segment_tiles(image, tiling, mask.add, take, crf=predictor.crf)
        masks.write(sample, mask, digest, review, sure if wanted else None)


def samples_of(images: ImagePaths, out: Path) -> tuple[Sample, ...]:
    """Images under the names of their masks.

    Args:
        images: As for ``predict``.
        out: Results, which are no images.

    Raises:
        DataError: If there is none, or two have the same name.
    """
    if isinstance(images, (str, Path)) or not isinstance(images, Iterable):
        root = user_path(images, "images")
        results = out / "masks" if out.resolve() == root.resolve() else out
        listed = list_images(root, skip=results)
        base = root if root.is_dir() else root.parent
        named = [
            (path.relative_to(base).with_suffix("").as_posix(), path) for path in listed.images
        ]
        if str(listed):
            note(f"{root}: {listed} passed over.")
    elif isinstance(images, Mapping):
        named = [(name, user_path(path, "an image")) for name, path in images.items()]
    else:
        paths = [user_path(path, "an image") for path in images]
        named = [(path.stem, path) for path in paths]
    found: dict[str, Path] = {}
    for name, path in named:
        if found.setdefault(name, path) != path:
            raise DataError(
                f"{found[name]} and {path} have the same name up to the suffix, under which masks"
                " are written. Rename or remove one."
            )
    if not found:
        raise DataError("There is no image to segment: the list is empty. Give at least one.")
    return tuple(Sample(name, path, (), None) for name, path in found.items())
