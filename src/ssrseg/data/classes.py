"""Which classes a data set has, and in which order."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from ssrseg.data.sample import LabelledImages
from ssrseg.data.text import fault_report, read_lines, read_text
from ssrseg.errors import LabelsError

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


def read_classes(root: Path) -> tuple[tuple[str, ...], dict[str, str]] | None:
    """Class names in order, and the prompts that come with them.

    Args:
        root: Folder that may hold ``classes.txt`` (one name per line, ``#`` begins a comment) or
            ``classes.yaml`` (name: prompt text, a list of synonyms, or nothing).

    Returns:
        Names and prompt by name (synonyms joined by ", "; names without a prompt are absent), or
        None if there is neither file.

    Raises:
        LabelsError: If both files are there, or one is empty or names a class twice.
    """
    text_file, yaml_file = root / "classes.txt", root / "classes.yaml"
    if text_file.exists() and yaml_file.exists():
        raise LabelsError(
            f"{root} holds both classes.txt and classes.yaml, and they may disagree. Keep one."
        )
    if text_file.exists():
        lines = [(line, text.split("#")[0].strip()) for line, text in read_lines(text_file)]
        return _checked(text_file, [(line, name) for line, name in lines if name]), {}
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
    return _checked(path, numbered), prompts


def _checked(path: Path, numbered: list[tuple[int, str]]) -> tuple[str, ...]:
    faults: list[str] = []
    seen: dict[str, tuple[int, str]] = {}
    for line, name in numbered:
        first, spelling = seen.setdefault(name.casefold(), (line, name))
        if first != line:
            faults.append(
                f'line {line}: class "{name}" is already on line {first}, as "{spelling}".'
                " Remove one of the two."
            )
        elif name.casefold() == "background":
            faults.append(
                f'line {line}: "{name}" is no class here; it is always there, with id 0.'
                " Remove the line."
            )
        elif name.casefold() == NO_CLASS:
            faults.append(
                f'line {line}: "{name}" cannot be a class; in labels.csv it marks an image that'
                " shows no class. Rename it."
            )
        elif not name or ";" in name:
            faults.append(
                f'line {line}: "{name}" cannot be a class name; ";" stands between labels. One'
                " name per line, please."
            )
    if faults:
        raise LabelsError(fault_report(path, faults))
    if not numbered:
        raise LabelsError(f"{path} names no class. Write one name per line.")
    if len(numbered) > _MOST:
        raise LabelsError(
            f"{path} names {len(numbered)} classes; maps of class ids have 8 bits and hold {_MOST}."
            " Merge or split the classes."
        )
    return tuple(name for _, name in numbered)


def check_class_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Names that can be the classes of a model.

    Raises:
        LabelsError: If there is none, or one is empty, twice there or reserved.
    """
    if isinstance(classes, str):
        raise LabelsError(f'classes = "{classes}" is one text; give a list: ["{classes}"].')
    return _checked(Path("classes"), [(index + 1, name) for index, name in enumerate(classes)])


def describe_labels(data: LabelledImages) -> list[str]:
    """How many images show each class, listed ones that none shows, labels that look like slips.

    Args:
        data: Opened images. Where no file lists the classes, a misspelt label has become one.
    """
    counts = dict.fromkeys(data.classes, 0)
    for sample in data.samples:
        for label in sample.labels:
            counts[data.classes[label]] += 1
    shown = [f"{name} {count}" for name, count in counts.items() if count]
    lines = [f"{len(data)} images, {len(shown)} classes: {', '.join(shown)}"]
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
            lines.append(
                f'Is "{name}" one class? Labels are separated by ";", as in "{";".join(parts)}".'
            )
        elif count == 1 and near and counts[near[0]] > 1:
            lines.append(f'Is "{name}" (1 image) another class than "{near[0]}"?')
    return lines
