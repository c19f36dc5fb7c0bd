"""Image-level labels of the VOC 2012 layout, from its annotation files."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

from ssrseg.data.text import fault_report, nearest
from ssrseg.errors import LabelsError


def read_annotations(
    folder: Path, names: Iterable[str], classes: tuple[str, ...], *, source: str
) -> list[tuple[int, ...]]:
    """Class indices of images, from the objects in ``NAME.xml``, difficult ones included.

    ``source`` says in messages where ``classes`` come from.

    Raises:
        LabelsError: With all missing or damaged files and unknown classes at once.
    """
    index = {name: number for number, name in enumerate(classes)}
    faults: list[str] = []
    labels = []
    for name in names:
        present = set()
        try:
            objects = ElementTree.parse(folder / f"{name}.xml").getroot().findall("object")
        except FileNotFoundError:
            faults.append(f"{name}.xml is missing. Add it, or write a labels.csv instead.")
            continue
        except ElementTree.ParseError as error:
            faults.append(f"{name}.xml is not valid XML ({error}). Copy it again.")
            continue
        for entry in objects:
            word = entry.findtext("name", "").strip()
            if word in index:
                present.add(index[word])
            else:
                faults.append(
                    f'{name}.xml: class "{word}" is not in {source} ({len(classes)} names).'
                    f"{nearest(word, classes, faults)}"
                )
        labels.append(tuple(sorted(present)))
    if faults:
        raise LabelsError(fault_report(folder, faults))
    return labels
