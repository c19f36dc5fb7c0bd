"""How many processors may be used."""

from __future__ import annotations

import os


def processors() -> int:
    """How many there are for us: a scheduler often grants fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
