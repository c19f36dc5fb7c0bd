"""Which images a figure shows: those the user names, or a rule that anybody can repeat.

Each raises DataError where the data have no such image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.errors import DataError, did_you_mean

CONFUSABLE = (
    ("sofa", "chair"), ("diningtable", "bottle"), ("diningtable", "chair"), ("tvmonitor", "sofa"),
    ("sheep", "cow"), ("horse", "cow"), ("cat", "dog"), ("bus", "car"), ("bicycle", "motorbike"),
    ("table", "bottle"), ("chair", "table"), ("tv", "table"), ("car", "bus"),
)  # fmt: skip
"""Classes that are often seen together and taken for each other: VOC's and the demo world's names.

Source: sofa/chair and dining table/bottle by the paper (Figures 4, 6); the others are our choice.
"""


@dataclass(frozen=True)
class ShownImage:
    """An image in a figure, and the class whose CAMs it shows there."""

    sample: Sample
    class_index: int


@dataclass(frozen=True)
class ImageChoice:
    """Images in the order of the figure, and how they were chosen, in words."""

    shown: tuple[ShownImage, ...]
    rule: str

    @property
    def names(self) -> list[str]:
        """Names of the images."""
        return [each.sample.name for each in self.shown]


def named(data: LabelledImages, wanted: str) -> ImageChoice:
    """The images that a user lists.

    Args:
        data: Images to choose from.
        wanted: Names with commas between them; ``name:class`` also says whose CAM is shown, by
            default that of the image's first class.

    Raises:
        DataError: If an image or class is unknown, or an image shows no class.
    """
    known = {sample.name: sample for sample in data.samples}
    shown = []
    for entry in filter(None, (part.strip() for part in wanted.split(","))):
        name, _, word = (entry, "", "") if entry in known else entry.rpartition(":")
        if name not in known:
            name = name or entry
            raise DataError(
                f'--images: there is no image "{name}" among the {len(data)} of {data.root}.'
                f"{did_you_mean(name, known)} Names are paths below the image folder without"
                " suffix, with commas between them."
            )
        sample = known[name]
        present = [data.classes[index] for index in sample.labels]
        if not present or (word and word not in present):
            cure = f', not "{word}". Name one of these classes.' if present else ". Leave it away."
            shows = ", ".join(present) or "with no class"
            raise DataError(f"--images {entry}: {name} is labelled {shows}{cure}")
        shown.append(ShownImage(sample, data.classes.index(word) if word else sample.labels[0]))
    if not shown:
        raise DataError(f'--images "{wanted}" names no image.')
    return ImageChoice(tuple(shown), "named on the command line")


def one_per_class(data: LabelledImages, count: int) -> ImageChoice:
    """For each class the first image that was not yet taken for another, then further images.

    Images with a true mask come first.
    """
    ordered = _with_truth_first(data)
    classes: dict[int, ShownImage] = {}
    for sample in ordered:
        new = next((index for index in sample.labels if index not in classes), None)
        if new is not None:
            classes[new] = ShownImage(sample, new)
    names = {each.sample.name for each in classes.values()}
    rest = (ShownImage(sample, sample.labels[0]) for sample in ordered if sample.name not in names)
    return ImageChoice(
        (*classes.values(), *rest)[:count],
        f"the first image of each class, up to {count}, in the order of the split",
    )


def confusable(data: LabelledImages, count: int) -> ImageChoice:
    """One image for each pair of classes that are taken for each other, the pair's first shown.

    Where the pairs do not fill the figure, images with several classes follow, then the rest.
    """
    ordered = _with_truth_first(data)
    chosen: dict[str, ShownImage] = {}
    index = {name: number for number, name in enumerate(data.classes)}
    for pair in CONFUSABLE:
        both = {index[name] for name in pair if name in index}
        fits = (s for s in ordered if s.name not in chosen and both <= set(s.labels))
        first = next(fits, None) if len(both) == 2 else None
        if first is not None:
            chosen[first.name] = ShownImage(first, index[pair[0]])
    for sample in sorted(ordered, key=lambda sample: len(sample.labels) < 2):
        chosen.setdefault(sample.name, ShownImage(sample, sample.labels[0]))
    return ImageChoice(
        tuple(chosen.values())[:count],
        "the first image of each pair of classes that are taken for each other (sofa and chair,"
        f" dining table and bottle, ...), then of several classes, up to {count}",
    )


def first_of_several(data: LabelledImages) -> ImageChoice:
    """The first image with several classes and a true mask, else the first with a true mask."""
    known = [sample for sample in data.samples if sample.labels and sample.truth is not None]
    if not known:
        raise _without_truth(f"No labelled image of {data.root}")
    first = next((sample for sample in known if len(sample.labels) > 1), known[0])
    rule = "the first image of the split with several classes"
    return ImageChoice((ShownImage(first, first.labels[0]),), rule)


def named_with_truth(data: LabelledImages, wanted: str) -> ImageChoice:
    """The first image of ``named``, which must have a true mask."""
    choice = named(data, wanted)
    if choice.shown[0].sample.truth is None:
        raise _without_truth(f"--images: {choice.names[0]} of {data.root} is no image that")
    return replace(choice, shown=choice.shown[:1])


def _without_truth(who: str) -> DataError:
    return DataError(
        f"{who} has a true mask, against which this figure holds its masks. Put indexed PNGs (0 ="
        " background, 1 = first class, ...) into SegmentationClass/, named like the images, or name"
        " other images with --images or --split."
    )


def _with_truth_first(data: LabelledImages) -> list[Sample]:
    labelled = [sample for sample in data.samples if sample.labels]
    ordered = sorted(labelled, key=lambda sample: sample.truth is None)
    if not ordered:
        raise DataError(f"No image of {data.root} shows a class: there is no CAM to draw.")
    return ordered
