"""Labels and classes in the forms that are read without further words, to be edited by hand."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ssrseg.data.classes import NO_CLASS, tidy
from ssrseg.data.csv_lines import csv_line
from ssrseg.data.files import user_path, write_text
from ssrseg.data.naming import name_fault, sample_name
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.text import quoted
from ssrseg.errors import DataError

_PLAIN = re.compile(r"[^\W\d][\w -]*\w|[^\W\d]")  # what YAML takes for text without quotation marks

_HOW_TO_EDIT = """\
# The classes, in the order of their ids in masks: the first has 1. Behind each, in brackets, what
# CLIP is asked for it: a word and its synonyms, with commas between them. The names before the
# colon are those of the labels; [{first}] and nothing both ask for the name itself.
"""
_BACKGROUND = """
# Words for what is around the classes and is none of them. They compete with the classes for
# every pixel: add what is often beside or behind them. These replace those of --prompts.
"""


def write_labels_csv(data: LabelledImages, path: str | Path) -> None:
    """Write ``labels.csv``, an image and its classes per line; read back, the samples are equal.

    Without a ``classes.yaml`` beside it, class ids follow the alphabet.

    Args:
        data: What to write.
        path: In the folder of the data set, or one above the images that gives them the same names.

    Raises:
        DataError: If an image does not lie below the folder of the file under its sample's name, or
            is called as no line of a file can say.
        OutputError: If it cannot be written.
    """
    path = user_path(path, "a label file")
    lines = [csv_line(("image", "labels"))]
    for sample in data.samples:
        words = ";".join(data.classes[label] for label in sample.labels)
        lines.append(csv_line((_below(sample, path), words or NO_CLASS)))
    write_text(path, "".join(lines))


def _below(sample: Sample, path: Path) -> str:
    """The path of an image from the folder of a label file, as a cell can hold it."""
    image = os.path.relpath(sample.image.absolute(), path.absolute().parent)
    found = Path(image).as_posix()
    fault = name_fault(found, in_text=True)
    if "\\" in found or found != found.rstrip() or not _is_text(found):
        fault = "holds a character that is no part of a path in such a file"
    if fault or sample_name(found) != sample.name:
        why = fault and f", whose path {fault}"
        raise DataError(
            f"{path} cannot list {quoted(str(sample.image))}{why or ' under its name'}"
            f" ({quoted(sample.name)} below {path.parent}). Write the file into the folder of the"
            " data set, or rename the image."
        )
    return f"./{found}" if found != found.lstrip() else found


def _is_text(name: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in name)


def write_classes_yaml(
    path: str | Path,
    classes: Sequence[str],
    *,
    prompts: Mapping[str, str],
    background: Sequence[str] = (),
) -> None:
    """Write ``classes.yaml``, with comments that say how to edit it.

    Args:
        path: ``classes.yaml`` in the folder of a data set.
        classes: Names by ascending id.
        prompts: By name, what CLIP is asked, synonyms joined by commas.
        background: Words for what is no class; none = the key is left out, and those of the prompt
            set stay in use.

    Raises:
        OutputError: If it cannot be written.
    """
    lines = [_HOW_TO_EDIT.format(first=_scalar(classes[0]) if classes else "dog")]
    for name in classes:
        asked = _list(_words(prompts[name])) if name in prompts else ""
        lines.append(f"{_scalar(name)}: {asked}".rstrip() + "\n")
    if background:
        lines += [_BACKGROUND, f"background: {_list(background)}\n"]
    write_text(user_path(path, "a list of classes"), "".join(lines))


def _words(prompt: str) -> list[str]:
    """Synonyms, if a list of them comes to the same text again."""
    whole, parts = tidy(prompt), [tidy(part) for part in prompt.split(",")]
    return parts if ", ".join(filter(None, parts)) == whole else [whole]


def _list(words: Sequence[str]) -> str:
    return f"[{', '.join(map(_scalar, words))}]"


def _scalar(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
