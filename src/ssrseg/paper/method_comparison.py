"""Masks of several methods for the same photographs: what Figure 3 shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from ssrseg.console import steps
from ssrseg.data.class_ids import read_truth
from ssrseg.data.images import check_size, read_image
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.errors import DataError
from ssrseg.method.metrics import confusion_matrix, scores, undecided_pixels
from ssrseg.model import SSR
from ssrseg.paper.image_choice import ImageChoice

IMAGE, OURS, TRUTH = "image", "SSR", "ground truth"


@dataclass(frozen=True)
class ComparedSet:
    """A data set in the figure: its images that are shown, and the model that segments them."""

    data: LabelledImages
    choice: ImageChoice
    model: SSR


@dataclass(frozen=True)
class MethodComparison:
    """One photograph with the masks of every method.

    Attributes:
        name: Of the image.
        class_names: Of the data set; class index i has id i + 1.
        labels: Indices of the classes that the image is labelled with.
        photo: RGB.
        masks: Class ids by method, our own under ``SSR``; None where a method has no mask for any
            image of the data set.
        truth: Class ids; None where there is no true mask.
        miou: By method, over the classes of the true mask, in [0, 1]; empty without one.
    """

    name: str
    class_names: tuple[str, ...]
    labels: tuple[int, ...]
    photo: UInt8[Tensor, "height width 3"]
    masks: dict[str, UInt8[Tensor, "height width"] | None]
    truth: UInt8[Tensor, "height width"] | None
    miou: dict[str, float]


def compare_methods(
    sets: Sequence[ComparedSet], rows: Mapping[str, Sequence[Path]]
) -> list[list[MethodComparison]]:
    """Segment the images of each data set, and find their masks by other methods.

    Args:
        sets: Data sets; the labels of their images are not used.
        rows: By name of a method, folders of indexed PNGs named like the images.

    Returns:
        The images of each data set.

    Raises:
        DataError: If a row lacks masks, or one is of another size or holds unknown class ids.
    """
    files = {
        name: [_masks_of(name, folders, each.choice) for each in sets]
        for name, folders in rows.items()
    }
    for name, found in files.items():
        if not any(file for each in found for file in each):
            wanted = f"{sets[0].choice.names[0]}.png"
            raise DataError(
                f"--row {name}: {_listed(rows[name])} holds the mask of no image shown (such as"
                f" {wanted}). Masks are indexed PNGs named like the images."
            )
    groups: list[list[MethodComparison]] = []
    with steps("Segmentations", sum(len(each.choice.shown) for each in sets)) as progress:
        for number, each in enumerate(sets):
            groups.append([])
            for index, shown in enumerate(each.choice.shown):
                own = {name: found[number][index] for name, found in files.items()}
                groups[-1].append(_compare(each, shown.sample, own))
                progress.advance(shown.sample.name)
    return groups


def parse_rows(given: Sequence[str]) -> dict[str, list[Path]]:
    """``NAME=FOLDER`` options by name; a name given twice has two folders.

    Raises:
        DataError: If an option has another form, takes one of our names, or the folder is missing.
    """
    rows: dict[str, list[Path]] = {}
    for option in given:
        name, sign, folder = (part.strip() for part in option.partition("="))
        if not (name and sign and folder):
            raise DataError(f"--row {option}: expected NAME=FOLDER, such as SeCo=results/seco.")
        if name in (IMAGE, OURS, TRUTH):
            raise DataError(f'--row {option}: the figure has a row "{name}" of its own.')
        path = Path(folder)
        if not path.is_dir():
            raise DataError(f"--row {option}: there is no folder {path}. Name one of indexed PNGs.")
        inner = path / "masks"
        rows.setdefault(name, []).append(inner if inner.is_dir() else path)
    return rows


def _masks_of(name: str, folders: Sequence[Path], choice: ImageChoice) -> list[Path | None]:
    """A file for each image, or none for any of them."""
    found = []
    for image in choice.names:
        files = (folder / f"{image}.png" for folder in folders)
        found.append(next((file for file in files if file.is_file()), None))
    missing = [image for image, file in zip(choice.names, found, strict=True) if file is None]
    if missing and len(missing) < len(found):
        raise DataError(
            f"--row {name}: {_listed(folders)} lacks {', '.join(missing)} (as .png), {len(missing)}"
            f" of the {len(found)} images shown. Add them, or name with --images what every row"
            " has."
        )
    return found


def _listed(folders: Sequence[Path]) -> str:
    return " or ".join(map(str, folders))


def _compare(
    where: ComparedSet, sample: Sample, files: Mapping[str, Path | None]
) -> MethodComparison:
    classes, settings = where.data.classes, where.model.config.data
    photo = read_image(sample.image, settings.range, settings.bands)
    check_size(photo, sample.image, where.model.patch_size)

    def mask(file: Path | None) -> UInt8[Tensor, "height width"] | None:
        size = (photo.shape[0], photo.shape[1])
        return None if file is None else read_truth(file, size, len(classes))

    masks = {name: mask(file) for name, file in files.items()}
    masks[OURS] = where.model.segment_photo(photo).pseudo_mask
    truth, miou = mask(sample.truth), {}
    for name, ids in masks.items():
        if ids is not None and truth is not None:
            decided = ids != 255
            matrix = confusion_matrix(ids[decided], truth[decided], len(classes) + 1)
            miou[name] = scores(matrix, undecided_pixels(ids, truth, len(classes) + 1)).miou
    return MethodComparison(sample.name, classes, sample.labels, photo, masks, truth, miou)
