from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_encoders import tiny_config

from ssrseg.config import Config, load_config
from ssrseg.errors import ConfigError
from ssrseg.paper.variations import ablation_rows, combinations, split_values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2", ["1", "2"]),
        ("[1.0],[1.0, 0.75]", ["[1.0]", "[1.0, 0.75]"]),
        ("[[1,2],[3]],4", ["[[1,2],[3]]", "4"]),
        ("{a: 1, b: 2},x", ["{a: 1, b: 2}", "x"]),
        ("'a,b',\"c,d\"", ["'a,b'", '"c,d"']),
        ("-8,[1,2,3]", ["-8", "[1,2,3]"]),
        ("one", ["one"]),
        ("", [""]),
        ("1,", ["1", ""]),
    ],
)
def test_values_between_commas(text: str, values: list[str]) -> None:
    assert split_values(text) == values


@given(st.lists(st.lists(st.integers(0, 99), min_size=1), min_size=1))
def test_lists_of_numbers_come_back(lists: list[list[int]]) -> None:
    assert split_values(",".join(map(str, lists))) == [str(each) for each in lists]


def test_every_combination() -> None:
    found = combinations(["sgc.high=0.3,0.5", "cmpa.pos=class", "test.scales=[1.0],[1.0,0.5]"])
    assert len(found) == 4
    assert found[0] == ("sgc.high=0.3", "cmpa.pos=class", "test.scales=[1.0]")
    assert found[-1] == ("sgc.high=0.5", "cmpa.pos=class", "test.scales=[1.0,0.5]")


@pytest.mark.parametrize(
    ("variations", "words"),
    [
        (["sgc.hgih=1,2"], 'Did you mean "sgc.high"?'),
        (["sgc.high"], "write each key once"),
        (["sgc.high=0.3,"], "write each key once"),
        (["sgc.high=0.3,0.3"], "different values"),
        (["sgc.high=0.3", "sgc.high=0.4"], "write each key once"),
        (["optim.seed=5,6"], "Use --seeds N"),
    ],
)
def test_slips(variations: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("?", r"\?")):
        combinations(variations)


def trained_with(*variation: str, measure: str = "seeds", config: Config | None = None) -> object:
    (row,) = ablation_rows(variation, config or load_config("ssr"), measure)
    return None if row.training is None else row.training.settings


def test_only_what_training_sees_is_trained() -> None:
    assert trained_with("cmpa.pos=cluster") == ("cmpa.pos=cluster",)
    assert trained_with("optim.cmpa_lr=1e-4") == ("optim.cmpa_lr=1e-4",)
    assert trained_with("data.max_side=192") == ("data.max_side=192",)
    assert trained_with("cam.scale=20") == ("cam.scale=20",)  # of the CAM that pools
    assert trained_with("prompts.set=coco") == ("prompts.set=coco",)
    for idle in (
        "sgc.high=0.3",
        "affinity.mask=box",
        "pseudo.refine=par",
        "cam.readout=gradcam",
        "optim.iterations=5",
        "optim.decoder_lr=1e-4",
        "data.crop=64",
        "decoder.layers=1",
    ):
        assert trained_with(idle) == (), idle


def test_what_training_sees_depends_on_the_other_settings() -> None:
    refined = load_config("ssr", overrides=["cmpa.cam_source=refined"])
    assert trained_with("sgc.high=0.3", config=refined) == ("sgc.high=0.3",)
    own = load_config("ssr", overrides=["cmpa.cam_source=cmpa"])
    assert trained_with("cam.readout=patch", config=own) == ("cam.readout=patch",)
    paper = load_config("paper")
    assert trained_with("optim.iterations=5", config=paper) == ("optim.iterations=5",)
    assert trained_with("data.crop=64", config=paper) == ("data.crop=64",)
    both = ("cmpa.cam_source=refined", "sgc.high=0.3")
    assert trained_with(*both) == both


def test_a_decoder_sees_everything_but_the_test() -> None:
    for key in ("sgc.high=0.3", "pseudo.alpha=2", "decoder.layers=1", "optim.iterations=5"):
        assert trained_with(key, measure="segmentation") == (key,)
    assert trained_with("test.scales=[1.0]", measure="segmentation") == ()


def test_without_cmpa_cams_need_no_training(clip_dir: Path, dino_dir: Path) -> None:
    config = tiny_config(clip_dir, dino_dir, "cam.mode=clip")
    assert trained_with("sgc.high=0.3", config=config) is None
    assert trained_with("cam.mode=clip") is None
    assert trained_with("cam.mode=centre") is None
    assert trained_with("sgc.high=0.3", config=config, measure="segmentation") is not None


def test_every_value_has_a_folder_of_its_own() -> None:
    rows = ablation_rows(["affinity.dino_layers=-3,[3]"], load_config("ssr"), "segmentation")
    first, second = (row.training for row in rows)
    assert first is not None and second is not None
    assert first.name != second.name
    assert first.name.startswith("affinity.dino_layers=-3-")


def test_seeds_are_not_refined_unless_that_is_varied() -> None:
    (row,) = ablation_rows(["sgc.high=0.3"], load_config("ssr"), "seeds")
    assert row.settings == ("pseudo.refine=none", "sgc.high=0.3")
    (row,) = ablation_rows(["pseudo.refine=par"], load_config("ssr"), "seeds")
    assert row.settings == ("pseudo.refine=par",)
    (row,) = ablation_rows(["sgc.high=0.3"], load_config("ssr"), "masks")
    assert row.settings == ("sgc.high=0.3",)
