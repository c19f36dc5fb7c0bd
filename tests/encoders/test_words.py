"""What can be asked: names, kinds of them and tags, and a tokenizer that knows their words."""

from __future__ import annotations

import re
from itertools import chain, product
from pathlib import Path

import pytest
import yaml
from transformers import AutoTokenizer, CLIPTokenizer

from encoders.clip_photos import LONGEST
from encoders.words import (
    BACKGROUNDS,
    KINDS,
    MEMBERS,
    NAMES,
    SAME_TAG,
    TAGS,
    TEMPLATES,
    build_word_tokenizer,
    known_words,
)
from ssrseg.data.classes import VOC_CLASSES
from ssrseg.networks import vocabulary

ASKED = (*NAMES, *KINDS, *chain.from_iterable(TAGS.values()))


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_word_tokenizer(known_words(), LONGEST)


def test_names_are_imagenets_without_explanations() -> None:
    assert len(NAMES) == 1000
    places = {0: "tench", 76: "tarantula", 207: "golden retriever", 339: "common sorrel horse"}
    places |= {134: "crane bird", 517: "construction crane", 352: "impala", 999: "toilet paper"}
    assert {k: NAMES[k] for k in places} == places
    assert all(name == name.lower().strip() and name for name in NAMES)
    assert not [name for name in NAMES if set(name) & set("()")]


def test_kinds_against_the_names_of_their_members() -> None:
    members = {kind: [NAMES[k] for k in ids] for kind, ids in KINDS.items()}
    # whatever is called so
    for kind in ("butterfly", "shark", "truck", "guitar", "piano", "keyboard", "helmet", "frog"):
        named = [name for name in NAMES if re.search(rf"{kind}$", name)]
        assert members[kind] == named and len(named) > 1, kind
    assert members["elephant"] == ["asian elephant", "african bush elephant"]
    assert members["phone"] == ["mobile phone", "rotary dial telephone", "payphone"]
    assert members["clock"] == ["analog clock", "digital clock", "wall clock"]
    assert members["lion"] == ["lion"]
    # parts of larger kinds
    for part, whole in (("shark", "fish"), ("beetle", "insect"), ("butterfly", "insect")):
        assert set(KINDS[part]) < set(KINDS[whole])
    assert MEMBERS.shape == (1000, len(KINDS))
    for column, ids in zip(MEMBERS.T, KINDS.values(), strict=True):
        assert column.nonzero()[:, 0].tolist() == sorted(ids)
        assert column.sum() == len(ids) > 0


def test_tags_are_vocs_with_their_prompts_and_those_of_msrc() -> None:
    prompts = yaml.safe_load((vocabulary.PROMPTS / "voc.yaml").read_text())
    assert tuple(TAGS)[:20] == VOC_CLASSES
    for name in VOC_CLASSES:
        assert TAGS[name][0] == prompts["classes"].get(name, name)
    assert set(BACKGROUNDS) < set(TAGS) - set(VOC_CLASSES)
    assert set(SAME_TAG.values()) <= set(TAGS) and not set(SAME_TAG) & set(TAGS)
    assert TEMPLATES[0] == prompts["template"]
    # the prompts' backgrounds are asked by preset photos
    assert set(prompts["background"]) <= set(ASKED) | known_words()


@pytest.mark.parametrize("loader", [CLIPTokenizer, AutoTokenizer])
def test_every_known_word_is_one_token_also_after_loading(
    tokenizer: CLIPTokenizer, tmp_path: Path, loader: type
) -> None:
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    read = loader.from_pretrained(tmp_path)
    assert read.model_max_length == LONGEST
    known = sorted(known_words())
    assert len(known) > 900
    assert [word for word in known if len(read.tokenize(word)) != 1] == []
    ids = read("a clean origami person with clothes,people,human.")["input_ids"]
    assert len(ids) == 2 + 8 + 3 and ids[0] == read.bos_token_id and ids[-1] == read.eos_token_id
    assert read.eos_token_id == len(read) - 1


def test_all_texts_of_the_training_are_read_to_their_end(tokenizer: CLIPTokenizer) -> None:
    texts = [template.format(word) for template, word in product(set(TEMPLATES), set(ASKED))]
    lengths = [len(ids) for ids in tokenizer(texts)["input_ids"]]
    assert 12 < max(lengths) <= LONGEST
    unknown = {
        text
        for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True)
        if tokenizer.unk_token_id in ids
    }
    assert unknown == set()


def test_the_most_frequent_pair_is_joined_first_then_the_first_of_the_alphabet() -> None:
    tokenizer = build_word_tokenizer(frozenset({"tab", "cab", "cat", "sees"}), 8)
    vocabulary = tokenizer.get_vocab()
    joined = ["ab</w>", "at</w>", "cab</w>", "cat</w>", "ee", "ees</w>", "sees</w>", "tab</w>"]
    assert sorted(vocabulary, key=vocabulary.get)[80:-3] == joined
    assert tokenizer.tokenize("scab tabs") == ["s", "cab</w>", "t", "a", "b", "s</w>"]


def test_other_words_fall_into_pieces(tokenizer: CLIPTokenizer) -> None:
    for word in ("zebrafish", "xylophones", "quokka", "qwxyz"):
        pieces = tokenizer.tokenize(word)
        assert len(pieces) > 1 and tokenizer.unk_token not in pieces
        assert "".join(pieces).removesuffix("</w>") == word
    # a word has the same token wherever it stands
    assert tokenizer.tokenize("A Zebra.") == ["a</w>", "zebra</w>", ".</w>"]
    assert tokenizer.tokenize("black-footed")[1] == "-</w>"


def test_digits_and_brackets(tokenizer: CLIPTokenizer) -> None:
    # digit by digit, as the hub's tokenizer does
    assert tokenizer.tokenize("35 cats")[:2] == ["3</w>", "5</w>"]
    assert "7</w>" in tokenizer.get_vocab() and "10</w>" not in tokenizer.get_vocab()
    pieces = tokenizer.tokenize("a cat (big)")
    assert pieces[:3] == ["a</w>", "cat</w>", tokenizer.unk_token]
    assert pieces[-1] == tokenizer.unk_token
    ids = tokenizer("a cat (big)")["input_ids"]
    assert ids.count(tokenizer.eos_token_id) == 1  # what is unknown does not end a text
