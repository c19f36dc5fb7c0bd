"""The gallery of a page: photographs in the order of review, each with layers over it.

Few images stand in the page itself. Of more, the pictures go into a folder beside it, and the page
makes the cards of all but the first when they are wanted.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ssrseg.data.files import writing
from ssrseg.overlay import mask_palette

EMBEDDED = 300
"""Images at most whose pictures are in the page itself."""

FIRST = 60
"""Cards that a page with a folder holds from the start, and that are shown at once."""

FOLDER = "report"

_OURS = re.compile(r"[0-9a-f]{16}\.(jpg|png)")
_TYPES = {"jpg": "image/jpeg", "png": "image/png"}


@dataclass(frozen=True)
class Layer:
    """A picture over the photograph.

    Attributes:
        place: Of its kind among ``Gallery.layers``; 0 is the photograph itself.
        source: What ``Pictures.keep`` returned.
        of: Index of the class whose map it is; None = of all classes.
    """

    place: int
    source: str
    of: int | None = None


@dataclass(frozen=True)
class Card:
    """One image of the gallery.

    Attributes:
        name: Of the image.
        size: Width and height of the picture in pixels.
        layers: The photograph first, if it could be read; of maps of several classes the first is
            shown until another is chosen.
        labels: Indices of the classes that it is labelled with, or that its mask shows.
        kinds: Indices of the gallery's kinds of reasons why to look at it.
        reasons: These reasons in full.
        note: Shown under the name.
        link: Where the name leads to, from the folder of the page; empty = nowhere.
    """

    name: str
    size: tuple[int, int]
    layers: tuple[Layer, ...]
    labels: tuple[int, ...] = ()
    kinds: tuple[int, ...] = ()
    reasons: tuple[str, ...] = ()
    note: str = ""
    link: str = ""

    @property
    def marks(self) -> str:
        """What the filters look for: ``|c0|c3|r1|``."""
        marks = [f"c{index}" for index in self.labels] + [f"r{index}" for index in self.kinds]
        return "|".join(["", *marks, ""])


@dataclass(frozen=True)
class Gallery:
    """Cards in the order of review.

    Attributes:
        layers: Kinds of layers, the photograph first; a slider leads from one to the next.
        classes: Names, with their colour in the masks.
        kinds: Of reasons why to look at an image.
        start: Place of the layer that is shown at first.
    """

    layers: tuple[str, ...]
    classes: tuple[tuple[str, tuple[int, int, int]], ...]
    kinds: tuple[str, ...]
    cards: Sequence[Card]
    start: int

    @property
    def in_page(self) -> int:
        """Number of cards that stand in the page from the start; others are made when wanted."""
        return len(self.cards) if len(self.cards) <= EMBEDDED else FIRST

    @property
    def page(self) -> int:
        """Number of cards that are shown at once, where the user has filtered or asks for more."""
        return FIRST

    def used(self, kind: str) -> list[int]:
        """Indices of the classes (``labels``) or kinds of reasons (``kinds``) that a card has."""
        return sorted({index for card in self.cards for index in getattr(card, kind)})


def coloured(classes: Sequence[str]) -> tuple[tuple[str, tuple[int, int, int]], ...]:
    """Each class with its colour in masks, as a gallery wants them."""
    colours = mask_palette()[1 : len(classes) + 1].tolist()
    return tuple(
        (name, (red, green, blue))
        for name, (red, green, blue) in zip(classes, colours, strict=True)
    )


class Pictures:
    """Where the pictures of a page go; several threads may use it."""

    def __init__(self, page: Path, images: int) -> None:
        """Pictures of ``page``, which will show so many images."""
        self._folder, self._embedded = page.parent / FOLDER, images <= EMBEDDED
        self._used: set[str] = set()

    def keep(self, content: bytes, suffix: str) -> str:
        """Where the page finds a picture: the content as a URI, or its path from the page."""
        if self._embedded:
            text = base64.b64encode(content).decode("ascii")
            return f"data:{_TYPES[suffix]};base64,{text}"
        digest = hashlib.sha256(content).hexdigest()[:16]
        name = f"{digest}.{suffix}"
        path = self._folder / name[:2] / name
        self._used.add(name)
        with writing(path):
            # one that a killed run has cut short is written again
            if not path.is_file() or path.stat().st_size != len(content):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        return f"{FOLDER}/{name[:2]}/{name}"

    def sweep(self) -> None:
        """Remove pictures of earlier pages that this one does not use, and nothing else."""
        for file in self._folder.glob("??/*"):
            if _OURS.fullmatch(file.name) and file.name not in self._used:
                file.unlink(missing_ok=True)
        for folder in (*self._folder.glob("??"), self._folder):
            with suppress(OSError):  # not empty, or not there
                folder.rmdir()
