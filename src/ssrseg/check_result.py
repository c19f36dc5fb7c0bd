"""One line of a report on a machine or a data set."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``cure`` is empty where all is well."""

    what: str
    found: str
    cure: str = ""
