"""CVAT's export "CVAT for images 1.1": an XML file with the tags and shapes of each image.

    <annotations><meta>...<label><name>cat</name></label>...</meta>
      <image id="0" name="a.jpg"><tag label="cat"/><box label="dog" xtl="1" .../></image>
    </annotations>

What is marked as a box, polygon or mask counts as present, as a tag does. Classes have the order of
the project's labels.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection
from pathlib import Path

from ssrseg.console import printable
from ssrseg.data.label_files.rows import LabelRows, Row
from ssrseg.data.text import quoted
from ssrseg.errors import LabelsError, counted

_LARGEST = 1 << 30  # bytes
_CURE = 'Export it anew, as "CVAT for images 1.1".'


def is_cvat(text: str) -> bool:
    """True if the beginning of a file looks like CVAT's XML."""
    return bool(re.match(r"\s*(<\?xml[^>]*>)?\s*<annotations>", text))


def read_cvat(path: Path, known: Collection[str] = ()) -> LabelRows:
    """Labels by image; images without any are left out.

    Raises:
        LabelsError: If it is no XML or no such export.
    """
    del known  # labels are names, each by itself
    try:
        if path.stat().st_size > _LARGEST:
            raise LabelsError(f"{path} has more than 1 GB. Export fewer images at once.")
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise LabelsError(f"{path} cannot be read ({error.strerror}). Check the path.") from error
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise LabelsError(f"{path} is not valid XML ({error}). {_CURE}") from error
    images = root.findall("image")
    if root.tag != "annotations" or not images:
        video = root.find("track") is not None
        found = "tracks of a video" if video else f"no <image> in <{printable(root.tag[:40])}>"
        raise LabelsError(f"{path} holds {found}, but labels of images are expected. {_CURE}")
    rows: list[Row] = []
    faults: list[tuple[int, str]] = []
    left = 0
    for number, image in enumerate(images):
        name, split = image.get("name", ""), image.get("subset")
        marks = [mark.get("label") for mark in image]
        words = dict.fromkeys(word.strip() for word in marks if word is not None)
        place = f"image {printable(image.get('id', str(number)))[:20]}"
        if None in marks:
            faults.append((len(rows), f"{place} ({quoted(name)}): a mark has no label. {_CURE}"))
        if words:
            rows.append(Row(place, name, tuple(words), split=split or None))
        else:
            left += 1
    notices: tuple[str, ...] = ()
    if left:
        notices = (
            f"{printable(path.name)}: {left:,} of {counted(len(images), 'image', 'images')} left"
            " out, without a tag or a shape. Give those that show none of the classes the tag"
            ' "none".',
        )
    labels = root.iterfind("meta//labels/label")
    named = (each.findtext("name", "").strip() for each in labels if each.find("parent") is None)
    classes = tuple(name for name in dict.fromkeys(named) if name != "none")
    return LabelRows(path, tuple(rows), tuple(faults), classes or None, notices=notices)
