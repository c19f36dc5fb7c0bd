"""What a cell of a table, or a value in JSON, says: names of classes, or yes and no."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from ssrseg.data.classes import class_key
from ssrseg.safe_json import JsonError, parse_json

_YES = frozenset({"1", "1.0", "yes", "y", "true", "t", "x", "\u2713", "\u2714"})
_NO = frozenset({"0", "0.0", "no", "n", "false", "f", "-"})
_LONGEST = 100_000  # characters of a cell that may be JSON


def truth(value: Any) -> bool | None:
    """Yes or no of 1 and 0, yes and no, true and false, x and -; None of anything else."""
    word = as_text(value).strip().casefold()
    return True if word in _YES else False if word in _NO else None


def as_text(value: Any) -> str:
    """A plain value as a table would have it; nothing for none."""
    return "" if value is None else str(value)


def is_number(value: str) -> bool:
    """True for a number, of any kind."""
    return bool(re.fullmatch(r"\s*[-+]?[0-9]+([.,][0-9]+)?\s*", value))


def listed(value: Any, *, depth: int = 4) -> tuple[str, ...] | None:
    """The words of a list, or of an object around one; None if the value is neither.

    Of objects, such as the regions that Label Studio writes, the labels count. An object of yes and
    no by class stands for the classes with yes. In a cell of a table, JSON or Python's form of a
    list is read as well.

    ``depth`` is how deep lists and objects may lie in each other.
    """
    if not depth:
        return None
    if isinstance(value, str):
        text = value.strip()
        if not re.fullmatch(r"\[.*\]|\{.*\}", text, re.DOTALL) or len(text) > _LONGEST:
            return None
        for form in (text, text.replace("'", '"')):
            try:
                return listed(parse_json(form), depth=depth)
            except JsonError:
                continue
        return None
    if isinstance(value, list):
        words: list[str] = []
        for item in value:
            inner = listed(item, depth=depth - 1) if isinstance(item, dict) else None
            if inner is None and isinstance(item, (dict, list)):
                return None
            words += [as_text(item).strip()] if inner is None else inner
        return tuple(words)
    if isinstance(value, dict):
        return _of_object(value, depth - 1)
    return None


def _of_object(value: dict[str, Any], depth: int) -> tuple[str, ...] | None:
    keys = [
        key for key in value if key in ("choices", "label", "category") or key.endswith("labels")
    ]
    if len(keys) == 1:
        inner = value[keys[0]]
        return (inner.strip(),) if isinstance(inner, str) else listed(inner, depth=depth)
    answers = {key: truth(each) for key, each in value.items()}
    if answers and None not in answers.values():
        return tuple(key.strip() for key, on in answers.items() if on)
    return None


class Separator:
    """The sign between labels in the cells of a file: one for all of them."""

    def __init__(self, cells: Iterable[str], known: Collection[str]) -> None:
        """Choose the sign.

        Args:
            cells: All cells with labels.
            known: Keys of the classes, if there is a list; their names may hold the sign.
        """
        self._known = known
        texts = [cell for cell in cells if class_key(cell) not in known]
        self.sign = next((sign for sign in ";|," if any(sign in text for text in texts)), ";")

    def split(self, cell: str) -> list[str]:
        """The labels of a cell, without blanks around them and without empty ones."""
        # what has brackets and is no list that can be read is refused as one name
        if class_key(cell) in self._known or re.fullmatch(r"\s*[\[{].*[\]}]\s*", cell, re.DOTALL):
            return [cell.strip()]
        return [word for part in cell.split(self.sign) if (word := part.strip())]
