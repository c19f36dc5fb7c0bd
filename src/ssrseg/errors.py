"""What can go wrong with a user's input, one class per cause.

Every message names the file, the value and the cure in one paragraph. The command line prints it
and exits with code 2; a Python caller can catch ``SSRError`` for all of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SSRError(Exception):
    """A fault in the user's input, not in the program."""


class ConfigError(SSRError):
    """An unknown key or a value outside its range in a preset, a file or ``--set``."""


class DataError(SSRError):
    """A missing folder, an unreadable image or a mask of the wrong form."""


class LabelsError(SSRError):
    """A label file that names an unknown class, an unknown image or no class at all."""


class BackboneError(SSRError):
    """A directory or hub id that is not the encoder it should be."""


class CheckpointError(SSRError):
    """A checkpoint that is damaged, or made for other classes, encoders or settings."""


class DivergenceError(SSRError):
    """Training whose loss, gradients or weights left the finite numbers."""


class OutputError(SSRError):
    """A file or folder that cannot be written: no room, no permission, or another writer."""


class ProcessError(SSRError):
    """Another process of the same run that has ended, or did not come."""


class PackageError(SSRError):
    """An optional package that a command needs and that is not installed."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``' Did you mean "dog"?'``, to append to a message; empty if nothing known is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f' Did you mean "{near[0]}"?' if near else ""


def counted(number: int, one: str, many: str) -> str:
    """``1 class``, ``2 classes``."""
    return f"{number:,} {one if number == 1 else many}"
