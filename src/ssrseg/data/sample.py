"""What every data set comes down to: images and the classes that each of them shows.

Nothing that reads labels imports torch, so that their faults are said within a second.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as brief

import numpy as np
from jaxtyping import Bool

from ssrseg.data.classes import check_background, check_class_names
from ssrseg.data.files import user_path
from ssrseg.data.naming import name_fault
from ssrseg.data.text import quoted
from ssrseg.errors import DataError, LabelsError


@dataclass(frozen=True)
class Sample:
    """One labelled image; nothing is opened yet.

    Attributes:
        name: Unique; path below the data set without suffix, ``/`` between folders. Results are
            written under this name.
        labels: Indices of the classes present, ascending; empty = none of them.
        truth: Map of class ids, if one lies there; for scoring only.

    Raises:
        DataError: If the name is no path below a folder, or image or truth is no path.
        LabelsError: If labels are no indices, or not ascending.
    """

    name: str
    image: Path
    labels: tuple[int, ...]
    truth: Path | None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise DataError(f"the name of a sample is {brief(self.name)}, but text is expected.")
        if fault := name_fault(self.name):
            raise DataError(
                f"the name of a sample, {quoted(self.name)}, {fault}. Results are written under it:"
                ' give a path such as "a" or "folder/a".'
            )
        if not isinstance(self.image, Path):
            object.__setattr__(self, "image", user_path(self.image, f"the image of {self.name}"))
        object.__setattr__(self, "labels", _indices(self.labels, self.name))
        if not isinstance(self.truth, Path | None):
            truth = user_path(self.truth, f"the true mask of {self.name}")
            object.__setattr__(self, "truth", truth)


def _indices(labels: object, name: str) -> tuple[int, ...]:
    """Class indices as plain numbers, ascending, each once."""
    try:
        found = tuple(map(_index, labels if isinstance(labels, Iterable) else [None]))
    except TypeError:
        found = (-1,)
    if any(index < 0 for index in found) or list(found) != sorted(set(found)):
        raise LabelsError(
            f"the labels of sample {quoted(name)} are {brief(labels)}, but indices of classes are"
            " expected: whole numbers from 0, ascending, each once, such as (0, 3)."
        )
    return found


def _index(label: object) -> int:
    if isinstance(label, bool):
        raise TypeError
    return operator.index(label)  # type: ignore[arg-type]  # TypeError is what is asked for


@dataclass(frozen=True)
class LabelledImages:
    """A data set with image-level labels.

    Attributes:
        classes: Names; class index i has id i + 1 in maps of class ids.
        samples: In the order of the split or of the label file.
        prompts: By class name, what CLIP is asked instead of the name; from ``classes.yaml``.
        background: Words for what is no class, instead of the prompt set's; from there too.
        source: What the labels were read from, in words: ``labels.csv``, ``COCO's JSON``.
        notices: What a user should know of how the files were read.

    Raises:
        LabelsError: If classes are faulty, a sample or prompt is of a class that is not there, or
            background words are no texts.
        DataError: If two samples have one name.
    """

    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    prompts: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    background: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", user_path(self.root, "a data set"))
        object.__setattr__(self, "background", check_background(self.background))
        object.__setattr__(self, "classes", check_class_names(self.classes))
        if not isinstance(self.samples, Iterable):
            raise DataError(f"samples = {brief(self.samples)}, but a list of Sample is expected.")
        object.__setattr__(self, "samples", tuple(self.samples))
        names: set[str] = set()
        for sample in self.samples:
            if not isinstance(sample, Sample):
                raise DataError(f"samples hold {brief(sample)}, which is no Sample.")
            if sample.name in names:
                raise DataError(
                    f"two samples are called {quoted(sample.name)}, and results are written under"
                    " that name. Rename or remove one."
                )
            names.add(sample.name)
            if sample.labels and sample.labels[-1] >= len(self.classes):
                raise LabelsError(
                    f"sample {quoted(sample.name)} has the label {sample.labels[-1]}, but the"
                    f" {len(self.classes)} classes have the indices 0 .. {len(self.classes) - 1}."
                    " (In masks, ids are one higher.)"
                )
        if not isinstance(self.prompts, Mapping) or not self.prompts.keys() <= set(self.classes):
            raise LabelsError(
                f"prompts = {brief(self.prompts)}, but texts by the name of a class are expected:"
                f' {{"{self.classes[0]}": "..."}}.'
            )

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def labels(self) -> Bool[np.ndarray, "images classes"]:
        """Multi-hot labels of all images."""
        table = np.zeros((len(self.samples), len(self.classes)), dtype=bool)
        for row, sample in zip(table, self.samples, strict=True):
            row[list(sample.labels)] = True
        return table
