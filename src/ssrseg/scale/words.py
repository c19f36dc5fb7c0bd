"""Labels as packed files have them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ssrseg.data.classes import NO_CLASS, class_key
from ssrseg.errors import LabelsError

Labels = tuple[str | int, ...]
"""Names of classes, or their indices."""

_KEYS = ("labels", "label", "classes", "class")


def label_words(value: Any) -> Labels:
    """Labels of a text with ``;`` or line breaks between them, a number, a list, or an object.

    Digits are an index; ``none`` is no label.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, dict):
        value = next((value[key] for key in _KEYS if key in value), None)
    if isinstance(value, str):
        words = [word.strip() for word in re.split("[;\r\n]", value) if word.strip()]
        return tuple(
            int(word) if word.isascii() and word.isdigit() else word
            for word in words
            if class_key(word) != class_key(NO_CLASS)
        )
    if isinstance(value, Iterable):
        return tuple(each for part in value for each in label_words(part))
    if value is None or value != value:  # NaN: what pandas makes of a hole
        return ()
    if value != int(value):
        raise LabelsError(f"the label {value} is neither a name nor a whole number.")
    return (int(value),)
