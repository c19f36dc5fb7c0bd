"""Image-level labels of the VOC 2012 layout, from its annotation files."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

from ssrseg.console import printable
from ssrseg.data.classes import VOC_CLASSES, ClassList, class_key, respelled
from ssrseg.data.text import fault_report, nearest, quoted
from ssrseg.errors import LabelsError, counted

_LARGEST = 16_000_000  # bytes; VOC's have a thousand


def read_annotations(
    folder: Path, names: Iterable[str], classes: ClassList
) -> tuple[list[tuple[int, ...]], tuple[str, ...]]:
    """Class indices of images, from the objects in ``NAME.xml``, difficult ones included.

    Returns:
        Indices, ascending, in the order of the names, and notices of how the files were read.

    Raises:
        LabelsError: With all missing or damaged files and unknown classes at once.
    """
    index = {class_key(name): number for number, name in enumerate(classes.names)}
    faults: list[str] = []
    unknown = False
    spellings: dict[str, None] = {}
    labels, empty = [], []
    for name in names:
        try:
            words = read_objects(folder / f"{name}.xml")
        except LabelsError as error:
            faults.append(str(error).removeprefix(f"{folder}/"))
            continue
        for word in words:
            if class_key(word) not in index:
                unknown = True
                near = nearest(word, classes.names, faults)
                faults.append(
                    f"{name}.xml: class {quoted(word)} is not in {classes.source}"
                    f" ({len(classes.names)} names).{near}"
                )
        empty += [] if words else [name]
        spellings |= dict.fromkeys(words)
        labels.append(tuple(sorted({index[key] for key in map(class_key, words) if key in index})))
    if faults:
        report = fault_report(folder, faults)
        if unknown and classes.names == VOC_CLASSES:
            report += (
                f"\n  If these are classes of your own, write {folder.parent}/classes.txt, with the"
                " names of all of them, one a line; the n-th gets id n."
            )
        raise LabelsError(report)
    notices = respelled(spellings, classes.names)
    if empty:
        notices += (
            f"{counted(len(empty), 'annotation file has', 'annotation files have')} no object, of"
            f" {len(labels)} (such as {empty[0]}.xml): images of none of the classes.",
        )
    return labels, notices


def read_objects(path: Path) -> list[str]:
    """Names of the objects in an annotation file, each once.

    Every element ``object`` counts, whatever namespace it is in and whatever it lies in; what an
    object consists of (VOC's ``part``) is none.

    Raises:
        LabelsError: If the file is missing, too large or no XML, if an object has no name, or if
            there is no object and the file is no annotation either.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise LabelsError(
                f"{path} has {path.stat().st_size:,} bytes, far too many for an annotation file."
                " Replace it."
            )
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError as error:
        cure = "Add it, or write a labels.csv instead."
        raise LabelsError(f"{path} is missing. {cure}") from error
    except OSError as error:
        raise LabelsError(f"{path} cannot be read ({error.strerror}).") from error
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise LabelsError(f"{path} is not valid XML ({error}). Copy it again.") from error
    names: dict[str, None] = {}
    tags = set()
    for element in root.iter():
        tags.add(tag := _tag(element))
        if tag == "object":
            texts = (each.text or "" for each in element if _tag(each) == "name")
            name = next((text.strip() for text in texts if text.strip()), "")
            if not name:
                raise LabelsError(f"{path}: an object has no name. Write <name>...</name> into it.")
            names[name] = None
    if not names and (tags & {"bndbox", "polygon", "xmin"} or _tag(root) != "annotation"):
        raise LabelsError(
            f"{path} has no <object> and is no annotation of an image of nothing either: its root"
            f" is <{printable(_tag(root)[:40])}>. Write an object for each thing, or a labels.csv."
        )
    return list(names)


def _tag(element: ElementTree.Element) -> str:
    """The tag without its namespace, in lower case; of a comment nothing."""
    return element.tag.rpartition("}")[2].lower() if isinstance(element.tag, str) else ""
