"""What the photo CLIP can be asked: ImageNet's names, kinds of them, VOC's tags, backgrounds.

``imagenet_names.txt`` holds OpenAI's names of ImageNet's 1,000 classes in their order, from
OpenCLIP (MIT licence). What stands there in brackets, or behind a stroke, explains a name and is
left out.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from itertools import chain, pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTokenizer

_TWICE = {744: "projectile", 836: "sunglass"}
"""By class id: ImageNet's own names where two classes have the same."""

NAMES: tuple[str, ...] = tuple(
    _TWICE.get(number) or re.sub(r" */.*| *\(.*?\)", "", line)
    for number, line in enumerate(
        Path(__file__).with_name("imagenet_names.txt").read_text().lower().splitlines()
    )
)
"""Names of ImageNet's classes, by class id."""

TAGS: dict[str, tuple[str, ...]] = {
    "aeroplane": ("aeroplane", "airplane", "plane"),
    "bicycle": ("bicycle", "bike"),
    "bird": ("bird avian", "bird"),
    "boat": ("boat", "ship"),
    "bottle": ("bottle",),
    "bus": ("bus",),
    "car": ("car", "automobile"),
    "cat": ("cat", "kitten"),
    "chair": ("chair seat", "chair"),
    "cow": ("cow", "cattle"),
    "diningtable": ("diningtable", "dining table", "table"),
    "dog": ("dog", "puppy"),
    "horse": ("horse", "pony"),
    "motorbike": ("motorbike", "motorcycle"),
    "person": ("person with clothes,people,human", "person", "people", "human", "man", "woman"),
    "pottedplant": ("pottedplant", "potted plant", "plant"),
    "sheep": ("sheep", "lamb"),
    "sofa": ("sofa", "couch"),
    "train": ("train",),
    "tvmonitor": ("tvmonitor screen", "tvmonitor", "tv monitor"),
    "grass": ("grass", "meadow", "lawn", "land"),
    "sky": ("sky", "cloud"),
    "building": ("building", "house"),
    "road": ("road", "street", "ground", "railway", "railroad"),
    "tree": ("tree", "bush", "leaves"),
    "water": ("water", "lake", "river", "sea", "ocean"),
    "mountain": ("mountain", "rock", "valley"),
    "sign": ("sign",),
    "flower": ("flower", "blossom"),
    "book": ("book",),
    "face": ("face", "head"),
}
"""Image-level tags of the photographs, and words for each; the first is that of VOC's prompts."""

SAME_TAG = {"body": "person"}
"""Labels of the photographs under another name."""

BACKGROUNDS = ("grass", "sky", "building", "road", "tree", "water", "mountain", "sign")
"""Those of the tags that are backgrounds."""


def _ids(text: str) -> tuple[int, ...]:
    """Numbers of ``2-4 9`` as 2, 3, 4, 9."""
    ends = ([int(end) for end in part.split("-")] for part in text.split())
    return tuple(chain.from_iterable(range(part[0], part[-1] + 1) for part in ends))


KINDS: dict[str, tuple[int, ...]] = {
    name: _ids(ids)
    for name, ids in {
        "fish": "0-6 389-397", "shark": "2-4", "snake": "52-68", "lizard": "38-48",
        "turtle": "33-37", "frog": "30-32", "spider": "72-77", "duck": "97-98", "owl": "24",
        "parrot": "87-90", "eagle": "22-23", "chicken": "7-8", "wolf": "269-272", "fox": "277-280",
        "lion": "291", "tiger": "292", "bear": "294-297", "beetle": "300-307",
        "insect": "300-326", "butterfly": "321-326", "rabbit": "330-332", "squirrel": "335",
        "pig": "341-342", "goat": "350", "antelope": "351-353", "camel": "354-355",
        "elephant": "385-386", "monkey": "370-382", "ape": "365-369",
        "truck": "555 569 717 864 867", "van": "656 675 734", "clock": "409 530 892",
        "watch": "531 826", "bridge": "821 839 888", "keyboard": "508 878",
        "phone": "487 528 707", "computer": "527 590 620 681", "guitar": "402 546",
        "piano": "579 881", "shoe": "502 514 630 770 774", "hat": "439 515 793 808",
        "helmet": "518 560", "cup": "504 647 968", "coffee": "504 967-968", "fruit": "948-957",
        "bread": "930-932", "ball": "429-430 522 574 722 768 805 852 890",
        "castle": "483", "church": "497", "tower": "437 442 900", "wall": "825",
        "fence": "489 716 912",
        "rocket": "657 744 812", "gun": "413 763-764", "knife": "499 623", "bag": "414 636 728 748",
        "bed": "431 516 520 564", "lamp": "619 846", "mushroom": "947 991-996",
        "vegetable": "936-945", "lakeside": "975",
    }.items()
}  # fmt: skip
"""Everyday words, and the ImageNet classes that each is true of."""

MEMBERS: Float[Tensor, "names kinds"] = torch.stack(
    [torch.zeros(len(NAMES)).index_fill(0, torch.tensor(ids), 1.0) for ids in KINDS.values()], 1
)
"""1 where a class is of a kind."""

TEMPLATES: tuple[str, ...] = (
    "a clean origami {}.", "a clean origami {}.", "a photo of a {}.", "a picture of {}.",
    "this is a {}.", "{}.",
)  # fmt: skip
"""What a text may look like; the first is the prompt of CLIP-ES and of ours."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,-'"


def known_words() -> frozenset[str]:
    """Every word and sign of any text that is trained."""
    texts = (*NAMES, *chain.from_iterable(TAGS.values()), *KINDS, *TEMPLATES)
    return frozenset(word for text in texts for word in re.findall(r"[a-z0-9]+|[.,'-]", text))


def known_names() -> tuple[str, ...]:
    """Every text that is trained in the place of a name, for ``names.txt`` beside the weights."""
    return tuple(sorted({*NAMES, *chain.from_iterable(TAGS.values()), *KINDS}))


@cache
def build_word_tokenizer(words: frozenset[str], longest: int) -> CLIPTokenizer:
    """Byte-pair tokenizer in which each of these words is one token; others fall into pieces.

    A text has at most ``longest`` tokens. (The library's trainer breaks ties by chance.)
    """
    pieces = [(*word[:-1], f"{word[-1]}</w>") for word in sorted(words)]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(chain.from_iterable(map(pairwise, pieces))):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = [_merged(word, best) for word in pieces]
    tokens = dict.fromkeys([*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS)])
    tokens |= dict.fromkeys(map("".join, merges))
    tokens |= dict.fromkeys(["<|unknown|>", "<|startoftext|>", "<|endoftext|>"])
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        unk_token="<|unknown|>",
        model_max_length=longest,
    )


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """The pieces of a word with every ``pair`` of neighbours made one."""
    found: list[str] = []
    for piece in word:
        if found and (found[-1], piece) == pair:
            found[-1] += piece
        else:
            found.append(piece)
    return tuple(found)
