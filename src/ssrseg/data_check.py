"""What is wrong, or worth a look, in labelled images before anything is computed from them."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ssrseg.config import Config
from ssrseg.console import CheckResult, printable, track
from ssrseg.data.describe import class_counts, doubtful_names
from ssrseg.data.images import check_size, read_image
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.text import quoted
from ssrseg.data.transforms import limited_size, patch_grid
from ssrseg.data.walk import list_images
from ssrseg.errors import BackboneError, ConfigError, SSRError, counted
from ssrseg.networks.frozen import read_names
from ssrseg.networks.vocabulary import (
    Vocabulary,
    build_vocabulary,
    describe_unlearnt,
    refuse_lone_texts,
)

FEW_PATCHES = 49
"""Patches of an image below which its CAM says little: a quarter of the 14 x 14 that CLIP knows."""

HUGE = 4
"""An image is huge if its longer side is more than so many times ``data.max_side``."""

IMBALANCE = 10
"""Ratio of the most frequent class to the rarest that is worth a look."""

RARE = 5
"""Images that show a class, below which little can be learned of it."""

_NAMED = 5  # in one line


@dataclass(frozen=True)
class ImageFacts:
    """One image after it has been read.

    Attributes:
        size: Height and width as a viewer shows it; (0, 0) if it cannot be read.
        content: Digest of its pixels, whatever the format of the file; empty likewise.
        fault: Why it cannot be used; empty if it can.
    """

    sample: Sample
    size: tuple[int, int] = (0, 0)
    content: str = ""
    fault: str = ""


@dataclass(frozen=True)
class DataCheck:
    """Everything that was found in a data set.

    Attributes:
        counts: Images that show each class.
        images: What was read, in the order of the samples.
        duplicates: Groups of images with the same pixels and labels.
        contradictions: Groups of images with the same pixels and different labels.
        unlabelled: Images in the folder that no label names.
        questions: On names that look like slips.
        listed: A file of the data set lists the classes, so that their names are meant.
        vocabulary: What CLIP is asked; None where ``fault`` says why nothing can be asked.
        patch: Side of a patch in pixels.
        max_side: ``data.max_side``.
        fault: Of the prompts.
        unlearnt: What CLIP would be asked without having learnt it, in words.
    """

    data: LabelledImages
    counts: dict[str, int]
    images: tuple[ImageFacts, ...]
    duplicates: tuple[tuple[Sample, ...], ...]
    contradictions: tuple[tuple[Sample, ...], ...]
    unlabelled: tuple[Path, ...]
    questions: tuple[str, ...]
    listed: bool
    vocabulary: Vocabulary | None
    patch: int
    max_side: int
    fault: str = ""
    unlearnt: str = ""

    @property
    def usable(self) -> tuple[ImageFacts, ...]:
        """Images that masks can be made of."""
        return tuple(each for each in self.images if not each.fault)

    @property
    def broken(self) -> tuple[ImageFacts, ...]:
        """Images that cannot be used, those smaller than a patch included."""
        return tuple(each for each in self.images if each.fault)

    @property
    def small(self) -> tuple[ImageFacts, ...]:
        """Usable images of fewer than ``FEW_PATCHES`` patches."""
        return tuple(
            each
            for each in self.usable
            if patches_of(each.size, self.max_side, self.patch) < FEW_PATCHES
        )

    @property
    def huge(self) -> tuple[ImageFacts, ...]:
        """Images of which much is lost when they are shrunk to ``data.max_side``."""
        return tuple(each for each in self.usable if max(each.size) > HUGE * self.max_side)

    @property
    def unseen(self) -> tuple[str, ...]:
        """Listed classes that no image shows."""
        return tuple(name for name, count in self.counts.items() if not count)

    @property
    def without_class(self) -> int:
        """Number of images that show none of the classes."""
        return sum(not sample.labels for sample in self.data.samples)


def patches_of(size: tuple[int, int], max_side: int, patch: int) -> int:
    """Patches that CLIP sees of an image when CAMs are made."""
    return math.prod(patch_grid(limited_size(size, max_side), patch))


def check_data(
    data: LabelledImages, config: Config, patch: int, *, everything: LabelledImages | None = None
) -> DataCheck:
    """Read every image, and look for what is wrong or worth a look.

    Args:
        patch: Side of a patch of the encoders in pixels.
        everything: All images of the folder that have labels, where ``data`` are a split of it.

    Raises:
        DataError: If a folder below the data cannot be read.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        read = pool.map(lambda sample: _look(sample, config, patch), data.samples)
        images = tuple(track(read, "Reading images", len(data)))
    same: dict[str, list[Sample]] = {}
    for each in images:
        if each.content:
            same.setdefault(each.content, []).append(each.sample)
    groups = [tuple(group) for group in same.values() if group[1:]]
    at_odds = [group for group in groups if len({each.labels for each in group}) > 1]
    vocabulary, fault, unlearnt = None, "", ""
    try:
        vocabulary = build_vocabulary(
            data.classes, config.prompts.set, data.prompts, data.background
        )
        if config.cam.mode != "centre":
            refuse_lone_texts(vocabulary, {each.name: each.labels for each in data.samples})
        if names := read_names(config.backbones.clip):
            unlearnt = describe_unlearnt(vocabulary, names)
    except (ConfigError, BackboneError) as error:
        fault = str(error)
    return DataCheck(
        data,
        class_counts(data),
        images,
        tuple(group for group in groups if group not in at_odds),
        tuple(at_odds),
        _unlabelled(everything or data),
        tuple(doubtful_names(data)),
        any((data.root / name).is_file() for name in ("classes.txt", "classes.yaml")),
        vocabulary,
        patch,
        config.data.max_side,
        fault,
        unlearnt,
    )


def _look(sample: Sample, config: Config, patch: int) -> ImageFacts:
    try:
        photo = read_image(sample.image, config.data.range)
        content = hashlib.blake2b(photo.numpy().tobytes(), digest_size=16)
        content.update(repr(tuple(photo.shape)).encode())
        size = (photo.shape[0], photo.shape[1])
        check_size(photo, sample.image, patch)
    except SSRError as error:
        return ImageFacts(sample, fault=str(error))
    return ImageFacts(sample, size, content.hexdigest())


def _unlabelled(data: LabelledImages) -> tuple[Path, ...]:
    labelled = {os.path.realpath(sample.image) for sample in data.samples}
    found = list_images(data.root).images
    return tuple(image for image in found if os.path.realpath(image) not in labelled)


def findings(check: DataCheck) -> list[CheckResult]:
    """What a person should know, a line each; those with a cure want mending."""
    root = check.data.root
    return [
        *_of_images(check, root),
        *_of_labels(check, root),
        *_of_texts(check),
    ]


def _of_images(check: DataCheck, root: Path) -> list[CheckResult]:
    sizes = sorted(each.size for each in check.usable)
    by_area = sorted(sizes, key=lambda size: size[0] * size[1])
    read = f"{len(check.usable):,} of {counted(len(check.images), 'image', 'images')} can be used"
    if sizes:
        (low, high), (tall, wide) = by_area[0], by_area[-1]
        spread = f"{high} x {low}" + (f" to {wide} x {tall}" if by_area[0] != by_area[-1] else "")
        read += f", {spread} pixels"
    cure = "".join(f"\n  {each.fault}" for each in check.broken[:_NAMED])
    if more := len(check.broken) - _NAMED:
        cure += f"\n  ... and {more} more." if more > 0 else ""
    found = [CheckResult("images", read, f"these are left out:{cure}" if check.broken else "")]
    if check.contradictions:
        first = check.contradictions[0]
        shown = "; ".join(
            f"{_below(root, each.image)} ({_labels(check.data, each)})" for each in first[:3]
        )
        found.append(
            CheckResult(
                "contradictions",
                f"{_groups(check.contradictions)}, and their labels differ",
                f"{shown}{_more(check.contradictions)}. Keep one image of each group, with all its"
                " classes.",
            )
        )
    if check.duplicates:
        same = " = ".join(_below(root, each.image) for each in check.duplicates[0][:3])
        found.append(
            CheckResult(
                "duplicates",
                f"{_groups(check.duplicates)}: {same}{_more(check.duplicates)}",
                grave=False,
            )
        )
    if check.small:
        least = check.patch**2 * FEW_PATCHES
        side = round(least**0.5)
        found.append(
            CheckResult(
                "small",
                f"{_listed(root, check.small)}: of fewer than {FEW_PATCHES} patches (such as {side}"
                f" x {side} pixels), whose masks are coarse",
                grave=False,
            )
        )
    if check.huge:
        covers = max(max(each.size) for each in check.huge) / check.max_side * check.patch
        found.append(
            CheckResult(
                "huge",
                f"{_listed(root, check.huge)}: shrunk to {check.max_side} pixels (data.max_side),"
                f" so that a patch covers up to {covers:.0f}; what is smaller is not found. Cut"
                " them into parts if it matters",
                grave=False,
            )
        )
    if check.unlabelled:
        found.append(
            CheckResult(
                "without labels",
                f"{_paths(root, check.unlabelled)}: named by no label, so not used",
                grave=False,
            )
        )
    return found


def _of_labels(check: DataCheck, root: Path) -> list[CheckResult]:
    shown = {name: count for name, count in check.counts.items() if count}
    text = f"{counted(len(shown), 'class', 'classes')} of {len(check.counts):,} are shown"
    text = counted(len(shown), "class", "classes") if len(shown) == len(check.counts) else text
    found = [CheckResult("classes", text)]
    if check.questions:
        cure = " If the names are meant as they are, list them in classes.txt."
        lines = " ".join(check.questions)
        words = counted(len(check.questions), "question", "questions")
        if check.listed:
            found.append(CheckResult("names", lines, grave=False))
        else:
            found.append(CheckResult("names", f"{words} on class names", lines + cure))
    if check.unseen:
        named = ", ".join(map(quoted, check.unseen[:_NAMED]))
        more = f" and {len(check.unseen) - _NAMED} more" if check.unseen[_NAMED:] else ""
        found.append(CheckResult("never seen", f"no image shows {named}{more}", grave=False))
    if shown and max(shown.values()) > IMBALANCE * min(shown.values()):
        most, least = (pick(shown, key=lambda name: shown[name]) for pick in (max, min))
        ratio = shown[most] / shown[least]
        found.append(
            CheckResult(
                "imbalance",
                f"{quoted(most)} is in {shown[most]:,} images, {quoted(least)} in {shown[least]:,}:"
                f" {ratio:.0f} to 1",
                grave=False,
            )
        )
    rare = [name for name, count in shown.items() if count < RARE]
    if rare:
        named = ", ".join(f"{quoted(name)} {shown[name]}" for name in rare[:_NAMED])
        more = f" and {len(rare) - _NAMED} more" if rare[_NAMED:] else ""
        found.append(
            CheckResult(
                "rare",
                f"{named}{more}: from fewer than {RARE} images a model learns little",
                grave=False,
            )
        )
    everywhere = [name for name, count in shown.items() if count == len(check.data) > 1]
    if everywhere and len(shown) > 1:
        named = ", ".join(map(quoted, everywhere[:_NAMED]))
        found.append(CheckResult("in every image", named, grave=False))
    return found


def _of_texts(check: DataCheck) -> list[CheckResult]:
    if check.fault:
        return [CheckResult("prompts", "CLIP cannot be asked", check.fault)]
    assert check.vocabulary is not None
    vocabulary = check.vocabulary
    found = []
    if check.unlearnt:
        found.append(CheckResult("prompts", "not all are known", check.unlearnt))
    if vocabulary.dropped:
        pairs = zip(vocabulary.dropped, vocabulary.dropped_for, strict=True)
        left_out = ", ".join(f"{quoted(word)} ({quoted(name)})" for word, name in pairs)
        found.append(
            CheckResult(
                "background words", f"left out, as they mean a class: {left_out}", grave=False
            )
        )
    return found


def _groups(groups: Sequence[Sequence[Sample]]) -> str:
    copies = sum(len(group) for group in groups)
    return f"{copies:,} images are {counted(len(groups), 'picture', 'pictures')}"


def _labels(data: LabelledImages, sample: Sample) -> str:
    return printable(";".join(data.classes[index] for index in sample.labels)) or "none"


def _listed(root: Path, images: Iterable[ImageFacts]) -> str:
    return _paths(root, [each.sample.image for each in images])


def _paths(root: Path, paths: Sequence[Path]) -> str:
    """``3 images (a.jpg, b.jpg, ...)``."""
    shown = ", ".join(_below(root, path) for path in paths[:3]) + (", ..." if paths[3:] else "")
    return f"{counted(len(paths), 'image', 'images')} ({shown})"


def _more(groups: Sequence[object]) -> str:
    return f"; and {len(groups) - 1} more" if groups[1:] else ""


def _below(root: Path, path: Path) -> str:
    return printable(path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path))
