"""Notes about files of a kind, each said once, whichever process reads the first of them."""

from __future__ import annotations

import mmap
import zlib

from ssrseg.console import note

_SLOTS = 1 << 20  # so many that two kinds hardly ever share one
# Shared with the processes that a loader forks. Where they are spawned instead, each says it once.
_said = mmap.mmap(-1, _SLOTS)


def note_once(kind: str, text: str) -> None:
    """Say ``text`` on standard error, unless something of this ``kind`` was said before.

    What is said of the first of ten thousand files holds for all of them.
    """
    slot = zlib.crc32(kind.encode()) % _SLOTS
    if not _said[slot]:
        _said[slot] = 1
        note(text)


def say_again() -> None:
    """Forget what was said: another run begins."""
    _said[:] = bytes(_SLOTS)
