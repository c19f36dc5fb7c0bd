"""What the labels of a data set are, for people to look at before hours of work go into them."""

from __future__ import annotations

import difflib
import re

from ssrseg.data.classes import class_key
from ssrseg.data.sample import LabelledImages
from ssrseg.errors import counted


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
    alike: dict[str, list[str]] = {}
    for name in counts:
        alike.setdefault(re.sub(r"[-_\s]+", "", class_key(name)), []).append(name)
    for names in (names for names in alike.values() if names[1:]):
        named = " and ".join(f'"{name}"' for name in names)
        lines.append(f"Are {named} one class? Then spell them alike.")
    for (name,) in (names for names in alike.values() if not names[1:]):
        count = counts[name]
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
