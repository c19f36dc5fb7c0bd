"""Captions of demo-world pictures, as noisy as those of the web, and a CLIP tokenizer for them."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

from jaxtyping import UInt8
from numpy import bincount, flatnonzero, ndarray
from numpy.random import Generator
from transformers import CLIPTokenizer

from ssrseg.demo.scenes import BACKGROUNDS, CLASSES

TEMPLATES: tuple[str, ...] = (
    "a clean origami {}.",
    "a photo of a {}.",
    "a picture of {}.",
    "there is {} here.",
    "this is a {}.",
    "a scene with {}.",
    "{}.",
)

SWAPPED, IMAGINED, JUNK = 0.05, 0.08, 0.03
"""Share of captions that confuse look-alikes, name an absent companion, or say anything."""

_LOOK_ALIKE = {
    "sheep": "cow", "cow": "sheep", "car": "bus", "bus": "car", "chair": "table", "table": "chair",
}  # fmt: skip
_COMPANION = {
    "sheep": "person", "cow": "bird", "car": "bus", "bus": "person", "boat": "bird", "bird": "boat",
    "chair": "table", "table": "bottle", "bottle": "table", "balloon": "person", "person": "car",
    "tv": "chair",
}  # fmt: skip


def build_tokenizer(
    words: Collection[str] = CLASSES + BACKGROUNDS, longest: int = 24
) -> CLIPTokenizer:
    """Byte-pair tokenizer in which every word of the templates, and of ``words``, is one token.

    Other words fall apart into letters; the start and end tokens come last, as in CLIP. A text has
    at most ``longest`` tokens.
    """
    frame = {word for template in TEMPLATES for word in template.format("").strip(".").split()}
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,-'"
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in sorted(frame | {"and"} | set(words)):
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            known = [pair for pair in pairwise(pieces) if pair in merges]
            if not known:
                # a merge added last is applied last: it cannot break an earlier word
                merges.append((pieces[0], pieces[1]))
                vocabulary.append(pieces[0] + pieces[1])
                known = [merges[-1]]
            first = min(known, key=merges.index)
            at = list(pairwise(pieces)).index(first)
            pieces[at : at + 2] = ["".join(first)]
    vocabulary += ["<|unknown|>", "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)},
        merges=merges,
        unk_token="<|unknown|>",
        model_max_length=longest,
    )


def caption(
    truth: UInt8[ndarray, "height width"], backdrop: UInt8[ndarray, "height width"], rng: Generator
) -> str:
    """Say what a window of a ``ssrseg.demo.scenes.Scene`` shows.

    Small things and backgrounds are often left out.
    """
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    every = CLASSES + BACKGROUNDS
    if rng.random() < JUNK:
        return template.format(every[rng.integers(len(every))])
    things = bincount(truth.ravel(), minlength=1 + len(CLASSES))[1:] / truth.size
    behind = bincount(backdrop[truth == 0], minlength=len(BACKGROUNDS)) / truth.size
    # relative size of a thing among the things: the largest is rarely forgotten
    forget = 0.2 * (1.6 - 1.2 * things / max(things.max(), 1e-6)).clip(0, 1)
    visible = things >= 0.025
    named = [CLASSES[k] for k in flatnonzero(visible & (rng.random(len(things)) >= forget))]
    if named and rng.random() < SWAPPED:
        named[0] = _LOOK_ALIKE.get(named[0], named[0])
    if named and rng.random() < IMAGINED:
        named.append(_COMPANION[named[-1]])
    often = 0.5 if named else 0.9
    words = [BACKGROUNDS[k] for k in flatnonzero((behind >= 0.12) & (rng.random(10) < often))]
    words = list(dict.fromkeys(named + words))
    if not words:
        words = [CLASSES[things.argmax()] if visible.any() else BACKGROUNDS[behind.argmax()]]
    rng.shuffle(words)
    return template.format(" and ".join(words))
