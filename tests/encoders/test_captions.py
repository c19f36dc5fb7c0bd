from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoTokenizer, CLIPTokenizer

from encoders.captions import TEMPLATES, build_tokenizer, caption
from ssrseg.demo.scenes import BACKGROUNDS, CLASSES


def words(text: str) -> set[str]:
    return set(text.strip(".").split())


@pytest.mark.parametrize("loader", [CLIPTokenizer, AutoTokenizer])
def test_one_token_per_word_also_after_loading(tmp_path, loader) -> None:
    build_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    tokenizer = loader.from_pretrained(tmp_path)
    for name in CLASSES + BACKGROUNDS:
        for template in TEMPLATES:
            text = template.format(name)
            expected = len(text.strip(".").split()) + 1
            assert len(tokenizer.tokenize(text)) == expected, text
    ids = tokenizer("a clean origami sheep.")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == len(tokenizer) - 2
    assert ids[-1] == tokenizer.eos_token_id == len(tokenizer) - 1


def test_unknown_signs_do_not_end_a_text() -> None:
    tokenizer = build_tokenizer()
    ids = tokenizer("a zebra & a cow")["input_ids"]
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.unk_token_id in ids


def test_captions_name_the_thing_nearly_always() -> None:
    truth = np.full((48, 48), 1 + CLASSES.index("tv"), np.uint8)
    backdrop = np.zeros((48, 48), np.uint8)
    rng = np.random.default_rng(0)
    told = [words(caption(truth, backdrop, rng)) for _ in range(500)]
    assert np.mean(["tv" in said for said in told]) > 0.93
    # a companion that is not there, or anything at all
    others = np.mean([bool(said & (set(CLASSES) - {"tv"})) for said in told])
    assert 0.04 < others < 0.16


def test_look_alikes_are_confused_now_and_then() -> None:
    truth = np.full((48, 48), 1 + CLASSES.index("sheep"), np.uint8)
    rng = np.random.default_rng(0)
    told = [words(caption(truth, np.zeros((48, 48), np.uint8), rng)) for _ in range(500)]
    assert 0.02 < np.mean(["cow" in said for said in told]) < 0.12


def test_captions_of_empty_windows_tell_the_background() -> None:
    truth = np.zeros((48, 48), np.uint8)
    backdrop = np.full((48, 48), BACKGROUNDS.index("water"), np.uint8)
    rng = np.random.default_rng(0)
    told = [words(caption(truth, backdrop, rng)) for _ in range(300)]
    assert np.mean(["water" in said for said in told]) > 0.93


def test_small_things_are_forgotten_more_often() -> None:
    truth = np.zeros((48, 48), np.uint8)
    truth[:, :24], truth[:8, 24:32] = 1, 2
    rng = np.random.default_rng(0)
    told = [words(caption(truth, np.zeros((48, 48), np.uint8), rng)) for _ in range(1500)]
    large, small = (np.mean([CLASSES[k] in said for said in told]) for k in (0, 1))
    assert small < large - 0.04
