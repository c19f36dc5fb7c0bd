"""Which classes a data set has, and in which order."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from reprlib import repr as brief
from typing import Any

import yaml

from ssrseg.data.sample import LabelledImages
from ssrseg.data.text import fault_report, read_lines, read_text
from ssrseg.errors import LabelsError, counted, did_you_mean

NO_CLASS = "none"
"""Label of an image that shows none of the classes; an empty label is taken for a slip."""

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip

COCO_CLASSES = (
    "person", "bicycle", "car", "motorbike", "aeroplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "sofa", "pottedplant",
    "bed", "diningtable", "toilet", "tvmonitor", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase",
    "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""COCO's 80 categories by ascending id, six of them spelled as VOC spells them [CLIP-ES]."""

_MOST = 254  # ids 1 .. 254 of an 8-bit map; 0 is background and 255 is ignore


def class_faults(
    named: Iterable[tuple[int, str]], *, unit: str = "line", repeats: bool = False
) -> list[tuple[int, str]]:
    """What is wrong with class names, each numbered by line or another ``unit``; as faults.

    With ``repeats`` the same name may come again, as labels do.
    """
    faults = []
    first: dict[str, tuple[int, str]] = {}
    for number, name in named:
        at, spelling = first.setdefault(name.casefold(), (number, name))
        if name != spelling or (at != number and not repeats):
            text = f'class "{name}" is already there, as "{spelling}" ({unit} {at}).'
            text += " Name each class in one spelling, and once in a list."
        elif name.casefold() == "background":
            text = f'"{name}" is no class; it is always there, with id 0. Remove it.'
        elif name.casefold() == NO_CLASS:
            text = f'"{name}" cannot be a class; in labels.csv, "{NO_CLASS}" marks an image'
            text += " that shows no class. Rename or respell it."
        elif not name:
            text = "a class name is empty. Write the name, or remove its place."
        elif ";" in name:
            text = f'"{name}" cannot be a class name; ";" stands between labels. Rename it.'
        elif len(name.splitlines()) > 1:
            text = f"{name!r} cannot be a class name; lists have one name per line. Rename it."
        else:
            continue
        faults.append((number, text))
    if len(first) > _MOST:
        text = f"there are {len(first)} classes; maps of class ids have 8 bits and hold {_MOST},"
        text += " which end before this one. Merge or split the classes."
        faults.append(([*first.values()][_MOST][0], text))
    return faults


def check_classes(
    path: Path,
    named: list[tuple[int, str]],
    *,
    unit: str = "line",
    cure: str = "Write one name per line.",
) -> tuple[str, ...]:
    """The names of a class list, if ``class_faults`` finds nothing; LabelsError otherwise.

    ``cure`` is for a list without names.
    """
    if faults := class_faults(named, unit=unit):
        lines = [f"{unit} {number}: {text}" for number, text in faults]
        raise LabelsError(fault_report(path, lines))
    if not named:
        raise LabelsError(f"{path} names no class. {cure}")
    return tuple(name for _, name in named)


def read_classes(root: Path) -> tuple[tuple[str, ...], dict[str, str]] | None:
    """Class names in order, and the prompts that come with them.

    They are in ``classes.txt`` (one name per line, ``#`` begins a comment) or ``classes.yaml``
    (name: prompt text, a list of synonyms, or nothing) of the folder ``root``.

    Returns:
        Names and prompt by name (synonyms joined by ", "; names without a prompt are absent), or
        None if there is neither file.

    Raises:
        LabelsError: If both files are there, or one is empty or has faults; all of them at once.
    """
    text_file, yaml_file = root / "classes.txt", root / "classes.yaml"
    if text_file.exists() and yaml_file.exists():
        raise LabelsError(
            f"{root} holds both classes.txt and classes.yaml, and they may disagree. Keep one."
        )
    if text_file.exists():
        lines = [(line, text.split("#")[0].strip()) for line, text in read_lines(text_file)]
        return check_classes(text_file, [(line, name) for line, name in lines if name]), {}
    if yaml_file.exists():
        return _read_yaml(yaml_file)
    return None


def _read_yaml(path: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    # Nodes, not values: they keep line numbers, repeated keys, and names like "no" as they are.
    try:
        table = yaml.compose(read_text(path), yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise LabelsError(f"{path} is not valid YAML ({' '.join(str(error).split())}).") from error
    shape = 'Write one line per class, as "dog: puppy, hound" or "dog: [puppy, hound]".'
    if not isinstance(table, yaml.MappingNode):
        raise LabelsError(f"{path} is no list of classes and prompts. {shape}")
    numbered, prompts = [], {}
    for key, value in table.value:
        line = key.start_mark.line + 1
        words = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if not all(isinstance(word, yaml.ScalarNode) for word in [key, *words]):
            raise LabelsError(f"{path} line {line}: no class with its prompt. {shape}")
        name = key.value.strip()
        prompt = ", ".join(word.value.strip() for word in words if word.value.strip())
        numbered.append((line, name))
        if prompt and value.tag != "tag:yaml.org,2002:null":
            prompts[name] = prompt
    return check_classes(path, numbered), prompts


def check_class_names(classes: object) -> tuple[str, ...]:
    """The names as plain text without blanks around them, if they can be the classes of a model.

    Raises:
        LabelsError: If they cannot, or are in no order: ids follow it.
    """
    cure = 'Give a list of names, such as ["dog", "cat"].'
    if isinstance(classes, str):
        raise LabelsError(f'classes = "{classes}" is one text; give a list: ["{classes}"].')
    if isinstance(classes, (set, frozenset)):
        raise LabelsError(
            f"classes = {brief(classes)} has no order, which the ids in masks need. {cure}"
        )
    if isinstance(classes, Mapping):
        raise LabelsError(
            f"classes = {brief(classes)} is no list; what CLIP is asked is prompts. {cure}"
        )
    given, names = _as_list(classes), []
    if given is None:
        raise LabelsError(f"classes = {brief(classes)} is no list. {cure}")
    for number, name in enumerate(given, 1):
        if not isinstance(name, str):
            raise LabelsError(f"classes item {number} is {brief(name)}, which is no text. {cure}")
        names.append((number, str.strip(name)))  # of a numpy text too, this makes a plain one
    return check_classes(Path("classes"), names, unit="item", cure=cure)


def label_indices(labels: object, classes: tuple[str, ...]) -> tuple[int, ...]:
    """Indices of class names, each once; a single name may stand by itself.

    The order is that of the labels, and of a set that of the classes.

    Raises:
        LabelsError: If there is none, or one is no class.
    """
    names = [labels] if isinstance(labels, str) else _as_list(labels)
    if names is None:
        raise LabelsError(
            f"labels = {brief(labels)}: labels must be names of classes that the image shows, such"
            f' as ["{classes[0]}"]; segment(image) needs none.'
        )
    if not names:
        raise LabelsError(
            "labels is empty: name the classes that the image shows, or use segment(image), which"
            " needs no labels."
        )
    found = []
    for name in names:
        plain = str.strip(name) if isinstance(name, str) else None
        if plain not in classes:
            known = ", ".join(classes[:8]) + (", ..." if classes[8:] else ".")
            raise LabelsError(
                f"{name!r} is no class of this model.{did_you_mean(str(name), classes)} It has"
                f" {len(classes)}: {known}"
            )
        found.append(classes.index(plain))
    return tuple(dict.fromkeys(sorted(found) if isinstance(labels, (set, frozenset)) else found))


def _as_list(values: Any) -> list[Any] | None:
    """The values of anything that can be gone through; None if it cannot."""
    try:
        return list(values)
    except TypeError:
        return None


def describe_labels(data: LabelledImages) -> list[str]:
    """How many images show each class, listed ones that none shows, labels that look like slips.

    Where no file lists the classes, a misspelt label has become one.
    """
    counts = dict.fromkeys(data.classes, 0)
    for sample in data.samples:
        for label in sample.labels:
            counts[data.classes[label]] += 1
    shown = [f"{name} {count}" for name, count in counts.items() if count]
    images, classes = counted(len(data), "image", "images"), counted(len(shown), "class", "classes")
    lines = [f"{images}, {classes}: {', '.join(shown)}"]
    unseen = [name for name, count in counts.items() if not count]
    if unseen:
        more = f" and {len(unseen) - 5} more" if unseen[5:] else ""
        lines.append(f"No image shows {', '.join(unseen[:5])}{more}.")
    for name, count in counts.items():
        others = [other for other in data.classes if other != name]
        parts = [part for part in re.split(r"[|/+&\s]+", name) if part in others]
        near = difflib.get_close_matches(name, others, n=1, cutoff=0.8)
        near += [other for other in others if sorted(other) == sorted(name)]  # dgo for dog
        if count and parts:
            example = ";".join(parts)
            lines.append(f'Is "{name}" one class? Labels are separated by ";", as in "{example}".')
        elif count == 1 and near and counts[near[0]] > 1:
            lines.append(f'Is "{name}" (1 image) another class than "{near[0]}"?')
    return lines
