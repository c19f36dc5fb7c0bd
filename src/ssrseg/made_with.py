"""What masks were made with: all that decides them beside photograph and labels, and its changes.

It stands in the last line of a folder's file of settings, so that a later call can say what has
changed since then, and make again what that concerns and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from ssrseg.config import STRICT
from ssrseg.console import printable
from ssrseg.data.sample import Sample
from ssrseg.data.stamped_mask import digest_of
from ssrseg.data.text import quoted
from ssrseg.networks.vocabulary import changed_background, changed_prompts
from ssrseg.safe_json import JsonError, parse_json

MADE_FROM = {"labels": "config.yaml", "model": "settings.txt"}
"""File of the settings that masks were made with: from labels, or predicted by a model."""

_LINE = "# made with: "
_MASK = "pseudo."  # settings that decide the mask and not the CAM


@checked_dataclass(frozen=True, config=STRICT)
class MadeWith:
    """All that decides the masks of a folder, beside photographs and labels.

    Attributes:
        classes: Class names; class ``classes[i]`` has id i + 1.
        texts: What CLIP was asked for each class; none where it was asked nothing.
        background: Texts that compete with every class.
        encoders: Digests of the weights, see ``SSR.encoders``.
        model: Digest of the run whose heads or decoder are used; empty = none.
        settings: By dotted key; ``pseudo.*`` decide masks alone, the others their CAMs.
        files: By encoder where it was, and a digest of its files, if they were there. They decide
            nothing.
    """

    classes: tuple[str, ...]
    settings: dict[str, Any]
    texts: tuple[str, ...] = ()
    background: tuple[str, ...] = ()
    encoders: dict[str, str] = field(default_factory=dict)
    model: str = ""
    files: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def cam_settings(self) -> dict[str, Any]:
        """Settings that decide the CAMs."""
        return {key: value for key, value in self.settings.items() if not key.startswith(_MASK)}

    @property
    def mask_settings(self) -> dict[str, Any]:
        """Settings that decide a mask beside its CAMs."""
        return {key: value for key, value in self.settings.items() if key.startswith(_MASK)}

    @property
    def all_texts_count(self) -> bool:
        """Whether the CAM of a class depends on the texts of classes that the image lacks."""
        return self.settings.get("affinity.cda_temperature") is not None

    @cached_property
    def _digests(self) -> tuple[str, str]:
        """Of what decides every CAM, and of what decides a mask beside its CAMs."""
        texts = self.texts if self.all_texts_count else ()
        weights = sorted(self.encoders.items()), self.model
        cams = repr((sorted(self.cam_settings.items()), self.background, texts, weights))
        return digest_of(cams), digest_of(repr(sorted(self.mask_settings.items())))

    def cams_of(self, sample: Sample, photo: str) -> str:
        """A name for what the CAMs of a sample are made for.

        Args:
            photo: Digest of the content of the photograph.
        """
        pairs = list(zip_longest(self.classes, self.texts, fillvalue=""))
        words = [word for index in sample.labels for word in pairs[index]]
        return digest_of(self._digests[0], *words, photo)

    def mask_of(self, sample: Sample, photo: str) -> str:
        """The same of its mask, which shows ids."""
        return digest_of(self.cams_of(sample, photo), self._digests[1], repr(sample.labels))

    def has_cams_as(self, other: MadeWith) -> bool:
        """Whether nothing but encoders and ``pseudo.*`` may differ."""
        mine, others = (
            (each.classes, each.texts, each.background, each.model, each.cam_settings)
            for each in (self, other)
        )
        return mine == others

    def line(self) -> str:
        """The last line of a file of settings, a comment of YAML."""
        return f"{_LINE}{json.dumps(asdict(self))}\n"


_CHECKED = TypeAdapter(MadeWith)


def read_made_with(text: str) -> MadeWith | None:
    """What a file of settings says; None if it says nothing of the kind."""
    found = [line for line in text.split("\n") if line.startswith(_LINE)]
    try:
        return _CHECKED.validate_python(parse_json(found[-1].removeprefix(_LINE)))
    except (IndexError, JsonError, ValidationError):
        return None


def settings_file(folder: Path, made_from: str) -> Path:
    """Where the settings stand that the masks of a folder were made with.

    Args:
        made_from: A key of ``MADE_FROM``.
    """
    return folder / MADE_FROM[made_from]


def folder_made_with(folder: Path, made_from: str) -> MadeWith | None:
    """What the masks of a folder were made with; None if that is not known."""
    try:
        text = settings_file(folder, made_from).read_text("utf-8", "surrogateescape")
    except OSError:
        return None
    return read_made_with(text)


def is_ours(text: str) -> bool:
    """Whether ssrseg wrote a file of settings, of this version or another."""
    return f"\n{_LINE}" in f"\n{text}"


@dataclass(frozen=True)
class Change:
    """What differs from the masks that are there.

    Attributes:
        differences: All of them, with their old and new values.
        refused: Whether one makes other CAMs of every image, though no class was added.
        notes: Otherwise what is made again, and why.
        spares_others: Whether masks of images that are not in the call are right all the same.
    """

    differences: tuple[str, ...] = ()
    refused: bool = False
    notes: tuple[str, ...] = ()
    spares_others: bool = True


def change(earlier: MadeWith, now: MadeWith) -> Change:
    """What is no longer as it was when the masks of a folder were made."""
    count = len(earlier.classes)
    added, kept = now.classes[count:], now.classes[:count]
    old, new = (dict(zip(each.classes, each.texts, strict=False)) for each in (earlier, now))
    both = [name for name in old if name in new]
    prompts = changed_prompts(both, [old[name] for name in both], [new[name] for name in both])
    background = changed_background(earlier.background, now.background)
    # a word that means a class that was added is left out of the background
    left_out = bool(added) and set(now.background) < set(earlier.background)
    masks = _pairs(earlier.mask_settings, now.mask_settings)
    grave = [
        *_there_and_now(_pairs(earlier.cam_settings, now.cam_settings)),
        *_weights(earlier, now),
        *([] if kept == earlier.classes else _classes(earlier.classes, now.classes)),
        *([] if left_out else background),
    ]
    light = [
        *(f"class {quoted(name)} added" for name in added if kept == earlier.classes),
        *(background if left_out else []),
        *prompts,
        *_there_and_now(masks),
    ]
    notes = [f"{', '.join(map(quoted, added))} added to the classes"] if added else []
    if prompts:
        notes.append(f"{'; '.join(prompts)}: masks of images that show it are made again")
    every = [*background, *(["every text counts"] if added and now.all_texts_count else [])]
    if every:
        notes.append(f"{'; '.join(every)}: all masks are made again, from new CAMs")
    elif masks:
        moved = "; ".join(f"{key} changed from {old} to {new}" for key, old, new in masks)
        notes.append(f"{moved}: masks are made again from the kept CAMs")
    if (added or prompts) and not every:
        notes.append(
            "labels_to_check.csv and reasons of all other images are as they were, by the earlier"
            " words; masks in a new folder have them anew"
        )
    spares = not (grave or prompts or every or masks)
    return Change((*grave, *light), bool(grave), tuple(notes), spares)


def _pairs(earlier: Mapping[str, object], now: Mapping[str, object]) -> list[tuple[str, str, str]]:
    """Key, old and new value of what differs."""
    keys = [*earlier, *(key for key in now if key not in earlier)]
    return [
        (key, _shown(earlier.get(key)), _shown(now.get(key)))
        for key in keys
        if earlier.get(key) != now.get(key)
    ]


def _shown(value: object) -> str:
    """As a setting is written."""
    return printable(json.dumps(value, ensure_ascii=False)) if value != "" else "none"


def _there_and_now(pairs: list[tuple[str, str, str]]) -> list[str]:
    return [f"{key} = {old} there, {new} now" for key, old, new in pairs]


def _weights(earlier: MadeWith, now: MadeWith) -> list[str]:
    """Encoders and models by their digests; the text tower is a part of CLIP."""
    there, here = ({**each.encoders, "model": each.model} for each in (earlier, now))
    return [
        f"another {key.replace('clip_text', 'text tower of clip')} (digest {old} there, {new} now)"
        for key, old, new in _pairs(there, here)
    ]


def _classes(earlier: tuple[str, ...], now: tuple[str, ...]) -> list[str]:
    """Classes by their ids, since these are what masks hold."""
    pairs = enumerate(zip_longest(earlier, now, fillvalue=""), 1)
    return [
        f"class {number} = {quoted(old) if old else 'none'} there,"
        f" {quoted(new) if new else 'none'} now"
        for number, (old, new) in pairs
        if old != new
    ]
