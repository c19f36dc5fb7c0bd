"""Small text files that people write by hand, and what to tell them about their slips."""

from __future__ import annotations

import codecs
import io
import unicodedata
from bisect import bisect
from collections.abc import Collection
from pathlib import Path

from ssrseg.console import printable
from ssrseg.errors import LabelsError, did_you_mean

_SHOWN = 10
_LONGEST = 800  # characters of a fault
_NEIGHBOURS = 200  # in alphabetical order; among thousands of file names the search is slow


def read_text(path: Path, *, errors: str = "strict") -> str:
    """Text of a file in UTF-8, or in UTF-16 with a byte order mark; LabelsError if it is none."""
    try:
        found = path.read_bytes()
        wide = found.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # Excel's "Unicode"
        return found.decode("utf-16" if wide else "utf-8-sig", errors)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise LabelsError(
            f"{path} is not text in UTF-8 (byte {error.start} is 0x{byte:02x})."
            ' Save it again with the encoding UTF-8; Excel calls it "CSV UTF-8".'
        ) from error
    except OSError as error:
        raise LabelsError(f"{path} cannot be read ({error.strerror}). Check the path.") from error


def split_lines(text: str) -> list[str]:
    r"""Lines as editors count them: only \n, \r\n and \r end one, not U+2028 or a form feed."""
    return [line.rstrip("\n") for line in io.StringIO(text, newline=None)]


def read_lines(path: Path, *, errors: str = "strict") -> list[tuple[int, str]]:
    """Stripped lines of a text file that are not blank, numbered from 1."""
    lines = enumerate(split_lines(read_text(path, errors=errors)), 1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def quoted(text: str, *, unlike: str = "") -> str:
    """The text in quotation marks for a message; all in ASCII if it looks like ``unlike``."""
    shown = printable(text)
    looks = " ".join(unicodedata.normalize("NFC", shown).split())
    if looks == unlike != text:
        shown = text.encode("unicode_escape").decode()
    return f'"{shown}"'


def is_unprintable(char: str) -> bool:
    """True for control characters, separators of lines, and halves of characters."""
    return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")


def fault_report(path: Path, faults: list[str], *, joint: str = " ") -> str:
    """One message for all that is wrong with a file: the first ten faults, and how many more.

    ``joint`` stands before a single fault: of a folder, whose faults begin with a file, ``/``.
    """
    shown = [_cut(printable(fault)) for fault in faults[:_SHOWN]]
    if len(faults) == 1:
        return f"{path}{joint}{shown[0]}"
    hidden = len(faults) - _SHOWN
    more = [f"... and {hidden} more."] if hidden > 0 else []
    return "\n  ".join([f"{path} has {len(faults)} faults:", *shown, *more])


def _cut(text: str) -> str:
    """A fault without the middle of a value that would bury it."""
    return text if len(text) <= _LONGEST else f"{text[:400]} ... {text[-300:]}"


def nearest(word: str, known: Collection[str], faults: Collection[object] = ()) -> str:
    """``did_you_mean`` that ignores upper and lower case, and takes no number for another.

    Nothing is searched for where so many ``faults`` came before that this one is not shown.
    """
    if len(faults) >= _SHOWN or len(word) > 300:
        return ""
    spelled = {name.casefold(): name for name in known}
    if word.casefold() in spelled:
        return did_you_mean(spelled[word.casefold()], known)
    ordered = sorted(name for name in known if not _another_number(word, name))
    at = bisect(ordered, word)
    return did_you_mean(word, ordered[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS])


def _another_number(word: str, name: str) -> bool:
    """000799 is no slip for 000783; 00799 may be one for 000799."""
    one, other = ("".join(filter(str.isdecimal, text)) for text in (word, name))
    return len(one) == len(other) and one != other
