"""Image-level labels of the VOC 2012 layout, from its annotation files."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from pathlib import Path

from ssrseg.console import printable
from ssrseg.data.classes import VOC_CLASSES, ClassList, class_key, respelled
from ssrseg.data.text import fault_report, nearest, quoted
from ssrseg.errors import LabelsError, counted

_LARGEST = 16_000_000  # bytes; VOC's have a thousand

# what an object is called by, the likeliest first, and what says where it is, in all dialects
_NAMES = ("name", "label", "class", "category", "classname", "class_name")
_PLACES = frozenset({
    "bndbox", "bbox", "box", "boundingbox", "bounding_box", "robndbox", "polygon", "polygons",
    "points", "segmentation", "segm", "mask", "rle", "xmin",
})  # fmt: skip


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
        report = fault_report(folder, faults, joint="/")
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

    Every element ``object`` counts, whatever namespace it is in and whatever it lies in, and under
    another tag whatever has a name beside a place (``<item><label>dog</label><bbox/></item>``).
    What an object consists of (VOC's ``part``) is none, nor is what LabelMe has marked as deleted.

    Raises:
        LabelsError: If the file is missing, too large or no XML, if an object has no name or two,
            or if there is no object although the file is no annotation or names things.
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
    found = list(_objects(root))
    names = dict.fromkeys(_object_name(path, each) for each in found if not _is_deleted(each))
    hint = "" if found else _hint(root)
    if hint:
        raise LabelsError(
            f"{path} has no <object> and is no annotation of an image of nothing either: {hint}."
            " Write an object with a name for each thing, or a labels.csv."
        )
    return list(names)


def _objects(root: ElementTree.Element) -> Iterator[ElementTree.Element]:
    """Objects in the order of the file; without recursion, however deep they lie."""
    waiting = [(root, False)]
    while waiting:
        element, inside = waiting.pop()
        tags = {_tag(child) for child in element}
        words = tags | (_attributes(element).keys() - {"name"})  # which pictures have, too
        like = not words.isdisjoint(_NAMES) and not tags.isdisjoint(_PLACES)
        if _tag(element) == "object" or (like and not inside):
            yield element
            inside = True
        waiting += [(child, inside) for child in reversed(element)]


def _object_name(path: Path, element: ElementTree.Element) -> str:
    """Its name; LabelsError if it has none, or several."""
    for tag in _NAMES:
        texts = ["".join(child.itertext()).strip() for child in element if _tag(child) == tag]
        texts.append(_attributes(element).get(tag, "").strip())
        found = dict.fromkeys(filter(None, texts))
        if len(found) > 1:
            several = " and ".join(quoted(text[:80]) for text in found)
            raise LabelsError(
                f"{path}: an object has the names {several}. Write an object for each thing."
            )
        if found:
            return next(iter(found))
    raise LabelsError(f"{path}: an object has no name. Write <name>...</name> into it.")


def _is_deleted(element: ElementTree.Element) -> bool:
    """LabelMe keeps what somebody has deleted."""
    marks = ((child.text or "").strip().lower() for child in element if _tag(child) == "deleted")
    return any(mark in ("1", "true", "yes") for mark in marks)


def _hint(root: ElementTree.Element) -> str:
    """What in a file without objects says that it shows something, or is something else; or ''."""
    if _tag(root) != "annotation":
        return f"its root is <{printable(_tag(root)[:40])}>"
    waiting = [root]
    while waiting:
        element = waiting.pop()
        tag = _tag(element)
        named = tag in _NAMES and "".join(element.itertext()).strip()
        if tag in _PLACES or named or _attributes(element).keys() & {*_NAMES}:
            return f"it holds <{printable(tag[:40])}>"
        # who made and who owns the photograph
        waiting += [child for child in element if _tag(child) not in ("source", "owner", "size")]
    return ""


def _attributes(element: ElementTree.Element) -> dict[str, str]:
    return {name.rpartition("}")[2].lower(): value for name, value in element.attrib.items()}


def _tag(element: ElementTree.Element) -> str:
    """The tag without its namespace, in lower case; of a comment nothing."""
    return element.tag.rpartition("}")[2].lower() if isinstance(element.tag, str) else ""
