"""Warnings of a library that say nothing to our callers, ignored while it works."""

from __future__ import annotations

import re
import threading
import warnings
from typing import Any


class IgnoredWarnings:
    """A context that several threads may be in at once.

    ``warnings.catch_warnings`` is not: it puts a whole list of filters back, and where two threads
    overlap, the filters of one stay for good. Here the first one in adds the filters, and the last
    one out takes away these and no others.
    """

    def __init__(self, *filters: tuple[type[Warning], str]) -> None:
        """``filters``: a category, and a pattern that the module begins with; "" = any module."""
        self._filters: list[Any] = [
            ("ignore", None, category, re.compile(module) if module else None, 0)
            for category, module in filters
        ]
        self._changed: Any = []  # the list of filters that has ours
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._changed = warnings.filters
                self._changed[:0] = self._filters
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                ours = {id(each) for each in self._filters}
                self._changed[:] = [each for each in self._changed if id(each) not in ours]
