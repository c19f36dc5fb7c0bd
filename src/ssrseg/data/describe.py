"""What the labels of a data set are, for people to look at before hours of work go into them."""

from __future__ import annotations

import difflib
import re

from ssrseg.data.classes import class_key
from ssrseg.data.sample import LabelledImages
from ssrseg.data.text import quoted
from ssrseg.errors import counted

_MUCH_RARER = 5
"""A name that is so many times rarer than one like it is taken for a slip."""


def class_counts(data: LabelledImages) -> dict[str, int]:
    """Number of images that show each class, in the order of the classes."""
    counts = dict.fromkeys(data.classes, 0)
    for sample in data.samples:
        for label in sample.labels:
            counts[data.classes[label]] += 1
    return counts


def describe_labels(data: LabelledImages) -> list[str]:
    """How many images show each class, listed ones that none shows, labels that look like slips.

    Where no file lists the classes, a misspelt label has become one.
    """
    counts = class_counts(data)
    shown = [f"{name} {count}" for name, count in counts.items() if count]
    images, classes = counted(len(data), "image", "images"), counted(len(shown), "class", "classes")
    lines = [f"{images}, {classes}: {', '.join(shown)}"]
    unseen = [name for name, count in counts.items() if not count]
    if unseen:
        more = f" and {len(unseen) - 5} more" if unseen[5:] else ""
        lines.append(f"No image shows {', '.join(unseen[:5])}{more}.")
    return lines + doubtful_names(data)


def doubtful_names(data: LabelledImages) -> list[str]:
    """A question for each class whose name looks like a slip or like that of another class.

    Names that differ in blanks, hyphens or an ending (``cat``, ``cats``); several names in one;
    and a name (``brid``) that is much rarer than one spelled almost like it (``bird``).
    """
    counts = class_counts(data)
    plain = {name: re.sub(r"[-_\s]+", "", class_key(name)) for name in counts}
    alike: dict[str, list[str]] = {}
    for name, key in plain.items():
        ends = (key.removesuffix(end) for end in ("s", "es"))
        singular = next((one for one in ends if one != key and one in plain.values()), key)
        alike.setdefault(singular, []).append(name)
    lines = []
    for names in (names for names in alike.values() if names[1:]):
        lines.append(f"Are {' and '.join(map(quoted, names))} one class? Then spell them alike.")
    for (name,) in (names for names in alike.values() if not names[1:]):
        count = counts[name]
        others = [other for other in data.classes if other != name]
        parts = [part for part in re.split(r"[|/+&\s]+", name) if part in others]
        near = difflib.get_close_matches(name, others, n=1, cutoff=0.8)
        near += [other for other in others if sorted(other) == sorted(name)]  # dgo for dog
        if count and parts:
            lines.append(
                f'Is {quoted(name)} one class? Labels are separated by ";", as in'
                f" {quoted(';'.join(parts))}."
            )
        elif near and (count == 1 < counts[near[0]] or 0 < _MUCH_RARER * count <= counts[near[0]]):
            images = counted(count, "image", "images")
            lines.append(f"Is {quoted(name)} ({images}) another class than {quoted(near[0])}?")
    return lines
