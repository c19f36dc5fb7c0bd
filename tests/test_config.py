from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from ssrseg.config import Config, describe, known_keys, load_config, preset_names
from ssrseg.errors import ConfigError
from ssrseg.safe_yaml import parse_yaml


def test_every_preset_loads() -> None:
    assert preset_names() == ["clip-es", "demo", "paper", "photos", "ssr", "ssr-plus", "weclip"]
    for name in preset_names():
        assert isinstance(load_config(name), Config)
    assert load_config() == load_config("ssr") == Config()


def test_the_paper_preset_is_its_closest_working_reading() -> None:
    paper = load_config("paper")
    literal = {
        ("cam", "mode"): "cmpa",
        ("cam", "readout"): "gradcam",
        ("cmpa", "loss"): "crossmodal",
        ("cmpa", "symmetric"): True,
        ("cmpa", "pos"): "cluster",
        ("cmpa", "proto"): "kmeans",
        ("cmpa", "update_every"): 5000,
        ("cmpa", "bg_negatives"): False,
        ("cmpa", "bg_pairs"): 1.0,
        ("cmpa", "map_order"): "project_then_pool",
        ("cmpa", "init"): "residual",
        ("cmpa", "depth"): 1,
        ("cmpa", "temperature"): 0.05,
        ("cmpa", "learnable_temperature"): True,
        ("affinity", "kind"): "attention",
        ("affinity", "clip_weight"): 0.4,
        ("affinity", "dino_weight"): 0.6,
        ("affinity", "mask"): "slic",
        ("sgc", "axis"): "col",
        ("sgc", "ratio"): "cluster",
        ("pseudo", "alpha"): 1.0,
        ("pseudo", "refine"): "par",
        ("optim", "schedule"): "joint",
        ("optim", "iterations"): 30000,
        ("optim", "batch"): 128,
        ("optim", "cmpa_lr"): 1e-5,
        ("optim", "decoder_lr"): 1e-5,
        ("optim", "weight_decay"): 2e-3,
        ("optim", "seg_weight"): 0.1,
    }
    for (section, name), value in literal.items():
        assert getattr(getattr(paper, section), name) == value, (section, name)
    assert paper.optim.batch % paper.optim.micro_batch == 0


def test_the_clip_es_preset_has_its_published_settings() -> None:
    clip_es = load_config("clip-es")
    assert clip_es.cam.mode == "clip"
    assert clip_es.cam.scale is None
    assert (clip_es.affinity.clip_weight, clip_es.affinity.dino_weight) == (1, 0)
    assert (clip_es.affinity.clip_layers, clip_es.affinity.mask) == (-8, "box")
    assert (clip_es.affinity.sinkhorn, clip_es.affinity.power, clip_es.sgc.high) == (3, 2, 0.4)
    assert clip_es.pseudo.refine == "crf"
    assert clip_es.pseudo.crf == (1, 3, 67, 3, 4)
    assert clip_es.pseudo.min_score == 0.95
    assert clip_es.data.norm == "clip"
    assert clip_es.backbones.pos_interpolation == "bilinear"


def test_the_weclip_preset_has_the_settings_of_its_code() -> None:
    weclip = load_config("weclip")
    assert (weclip.data.crop, weclip.data.scale, weclip.data.flip) == (320, (0.5, 2.0), True)
    assert weclip.data.norm == "imagenet"
    assert weclip.cam.mode == "clip"
    affinity = weclip.affinity
    assert (affinity.clip_weight, affinity.dino_weight, affinity.mask) == (1, 0, "box")
    assert (affinity.clip_layers, affinity.sinkhorn, affinity.power) == (-8, 3, 2)
    assert (affinity.rfm_after, affinity.rfm_layers, weclip.sgc.high) == (15000, -6, 0.4)
    pseudo = weclip.pseudo
    assert (pseudo.alpha, pseudo.refine, pseudo.par_iterations) == (1, "par", 20)
    assert (pseudo.par_dilations, pseudo.min_score) == ((1, 2, 4, 8, 12, 24), None)
    optim = weclip.optim
    assert (optim.batch, optim.iterations, optim.seed) == (4, 30000, 1)
    assert (optim.decoder_lr, optim.weight_decay) == (2e-3, 0.01)
    assert (optim.warmup, optim.power) == (50, 1)
    assert (optim.seg_weight, optim.affinity_weight, optim.affinity_radius) == (1, 0.1, 8)
    assert (weclip.decoder.layers, weclip.decoder.dropout) == (3, 0.1)
    assert (weclip.test.long_side, weclip.test.scales, weclip.test.flip) == (512, (1, 0.75), True)
    assert weclip.test.crf_parameters == (3, 3, 64, 5, 4)


def test_nothing_of_the_peers_is_in_the_papers_presets() -> None:
    for preset in ("ssr", "paper", "demo"):
        config = load_config(preset)
        assert config.affinity.rfm_after is config.affinity.cda_temperature is None
        assert config.optim.affinity_weight == 0


def test_ssr_plus_is_ssr_with_another_affinity() -> None:
    plus, ssr = load_config("ssr-plus"), load_config("ssr")
    assert plus.backbones.dino == "facebook/dinov2-with-registers-small"
    affinity = replace(
        plus.affinity, dino_kind="attention", cda_temperature=ssr.affinity.cda_temperature
    )
    assert replace(plus, backbones=ssr.backbones, affinity=affinity) == ssr
    assert (plus.affinity.dino_kind, plus.affinity.cda_temperature) == ("features", 0.0003)
    assert plus.affinity.mask == "slic"  # CD-CLIP: boxes conflict with it


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        (("trained=tsa", "symmetric=false"), "cmpa.text_gradient=true, or cmpa.symmetric=true"),
        (("map_order=project_then_pool",), "cmpa.bg_prototypes=none"),
    ],
)
def test_settings_of_cmpa_that_exclude_each_other(settings: tuple[str, ...], cure: str) -> None:
    given = [f"cmpa.{each}" for each in settings]
    with pytest.raises(ConfigError, match=re.escape(cure)):
        load_config(overrides=given)
    if len(given) > 1:
        for alone in given:
            load_config(overrides=[alone])
    load_config(overrides=["cmpa.map_order=project_then_pool", "cmpa.bg_prototypes=none"])
    load_config(overrides=["cmpa.trained=tsa", "cmpa.symmetric=false", "cmpa.text_gradient=true"])
    load_config(overrides=["cmpa.trained=tsa", "cmpa.symmetric=false", "cmpa.loss=feature"])


def test_defaults_of_the_peers() -> None:
    config = Config()
    assert (config.data.crop, config.data.scale) == (320, (0.5, 2.0))
    assert config.pseudo.par_dilations == (1, 2, 4, 8, 12, 24)
    assert config.pseudo.par_iterations == 20
    assert (config.test.long_side, config.test.scales) == (512, (1.0, 0.75))
    assert config.test.crf_parameters == (3, 3, 64, 5, 4)
    assert (config.optim.decoder_lr, config.optim.warmup, config.optim.power) == (2e-3, 50, 1)
    assert (config.sgc.n_segments, config.sgc.compactness, config.sgc.k_colour) == (200, 10, 8)


def test_the_last_word_wins(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("sgc: {high: 0.6, min_ratio: 0.3}\naffinity: {mask: box_and_slic}\n")
    config = load_config("clip-es", file, ["sgc.high=0.7"])
    assert (config.sgc.high, config.sgc.min_ratio) == (0.7, 0.3)
    assert config.affinity.mask == "box_and_slic"
    assert config.cam.mode == "clip"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("optim.cmpa_lr=1e-4", 1e-4),
        ("optim.cmpa_lr = 3.5e-05", 3.5e-5),
        ("optim.iterations=7", 7),
        ("pseudo.min_score=null", None),
        ("pseudo.min_score=0.5", 0.5),
        ("optim.micro_batch=4", 4),
        ("test.scales=[1, 0.75, 1.5]", (1.0, 0.75, 1.5)),
        ("affinity.clip_layers=-6", -6),
        ("affinity.clip_layers=[3, 5]", (3, 5)),
        ("data.flip=false", False),
        ("cam.mode=clip", "clip"),
        ("cam.scale=50", 50.0),
        ("backbones.clip=org/some-model", "org/some-model"),
        ("backbones.clip=ssrseg:demo/weights/clip", "ssrseg:demo/weights/clip"),
        ("backbones.clip=/data/run=3/clip", "/data/run=3/clip"),
        ("data.scale=[0.5, 1]", (0.5, 1.0)),
        ("affinity.rfm_after=15000", 15000),
        ("affinity.rfm_after=0", 0),
        ("affinity.rfm_after=null", None),
        ("affinity.rfm_layers=-10", -10),
        ("affinity.rfm_layers=[6, 8, 11]", (6, 8, 11)),
        ("affinity.cda_temperature=1e-3", 1e-3),
        ("affinity.cda_temperature=null", None),
        ("optim.affinity_weight=0.1", 0.1),
        ("optim.affinity_radius=0", 0),
    ],
)
def test_set_understands(override: str, value: object) -> None:
    section, name = override.split("=")[0].strip().split(".")
    found = getattr(getattr(load_config(overrides=[override]), section), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sgc.min_ration=0.4", r'\(--set\): .*"sgc\.min_ration"\. Did you mean "sgc\.min_ratio"\?'),
        ("affinty.mask=box", r'"affinty\.mask"\. Did you mean "affinity\.mask"\?'),
        ("nothing.at_all=1", r'settings \(--set\): there is no setting "nothing\.at_all"'),
        ("sgc.high", r'setting "sgc\.high" \(--set\): expected section\.key=value'),
        ("high=0.4", r'setting "high=0\.4" \(--set\): expected section\.key=value'),
        ("sgc.high=[0.4", r'setting "sgc\.high=\[0\.4" \(--set\).*YAML'),
        ("sgc.high=", r"sgc\.high = None"),
        ("data.crop=0", r"data\.crop = 0: .*greater than or equal to 1"),
        ("test.long_side=31", r"test\.long_side = 31: .*greater than or equal to 32"),
        ("data.max_side=1", r"data\.max_side = 1: .*greater than or equal to 32"),
        ("data.scale=[2,1]", r"data\.scale = \[2, 1\]: .*\(smallest\) must not exceed the second"),
        (
            "affinity.clip_layers=[]",
            r"^settings \(--set\): affinity\.clip_layers = \[\]: Tuple should have at least 1 item"
            r" after validation, not 0\. `ssrseg config`",
        ),
        (
            "affinity.clip_layers=x",
            r"^settings \(--set\): affinity\.clip_layers = 'x': Input should be a valid integer,"
            r" [^:]*\. `ssrseg",
        ),
        (
            "affinity.rfm_layers=[1,2000]",
            r"^[^:]*: affinity\.rfm_layers\.1 = 2000: [^:]*\. `ssrseg",
        ),
        ("data.crop=32.5", r"data\.crop = 32\.5: "),
        ("test.scales=[]", r"test\.scales"),
        ("pseudo.par_dilations=[]", r"pseudo\.par_dilations"),
        ("test.scales=[1, 0]", r"test\.scales\.1 = 0"),
        ("pseudo.crf=[1, 2]", r"pseudo\.crf"),
        ("cam.mode=clop", r"cam\.mode = 'clop': .*'clip', 'cmpa' or 'centre'"),
        ("sgc.high=nan", r"sgc\.high"),
        ("optim.cmpa_lr=inf", r"optim\.cmpa_lr"),
        ("affinity.rfm_after=-1", r"affinity\.rfm_after = -1"),
        ("affinity.rfm_layers=[]", r"affinity\.rfm_layers"),
        ("affinity.cda_temperature=0", r"affinity\.cda_temperature = 0: .*greater than 0"),
        ("affinity.rfm=true", r'"affinity\.rfm"'),
        ("optim.affinity_weight=-0.1", r"optim\.affinity_weight = -0\.1"),
        ("sgc.per_class=maybe", r"sgc\.per_class = 'maybe'"),
        ("sgc.min_ratio=1.1", r"sgc\.min_ratio = 1\.1"),
    ],
)
def test_set_refuses(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=[override])


def test_one_setting_may_stand_by_itself(tmp_path: Path) -> None:
    assert load_config(overrides="sgc.high=0.3").sgc.high == 0.3
    assert load_config(overrides=None) == load_config()
    (tmp_path / "own.yaml").write_text("sgc: {high: 0.2}\n")
    assert load_config(file=f"{tmp_path}/own.yaml").sgc.high == 0.2


def test_all_wrong_values_are_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("sgc: {high: 1.5, axis: diagonal}\noptim: {batch: many}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file=file)
    for fault in ("own.yaml", "sgc.high = 1.5", "sgc.axis = 'diagonal'", "optim.batch = 'many'"):
        assert fault in str(caught.value)


def test_a_fault_names_where_it_is_from(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("sgc: {high: 1.5, axis: row}\nafinity: {mask: box}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file=file, overrides=["sgc.axis=up", "sgc.hihg=1"])
    for fault in (
        r"settings file \S+own\.yaml \(--config\): sgc\.high = 1\.5: .*less than or equal to 1\.",
        r"settings \(--set\): sgc\.axis = 'up': ",
        r'\(--set\): there is no setting "sgc\.hihg"\. Did you mean "sgc\.high"\?',
        r'own\.yaml \(--config\): there is no setting "afinity\.mask"\. Did you mean "affinity',
    ):
        assert re.search(fault, str(caught.value)), fault
    with pytest.raises(ConfigError, match=r"^saved settings: data\.crop = 0: "):
        load_config(base={"data": {"crop": 0}})


def test_keys_that_are_no_words(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("3: {4: 5}\nsgc: {6: 7}\nnothing: {}\n")
    with pytest.raises(ConfigError, match=r'"3\.4".*"sgc\.6"'):
        load_config(file=file)


def test_all_unknown_keys_are_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("sgc: {hihg: 0.4}\noptim: {itertions: 3}\n")
    with pytest.raises(ConfigError, match=r'own\.yaml.*"sgc\.high".*"optim\.iterations"'):
        load_config(file=file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b\n", "expected sections with keys"),
        (b"sgc: 3\n", "expected sections with keys"),
        (b"sgc: [high\n", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"settings file .*own\.yaml \(--config\).* {message}"):
        load_config(file=file)


def test_missing_file_and_preset(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml \(--config\): there is no such file"):
        load_config(file=tmp_path / "absent.yaml")
    with pytest.raises(
        ConfigError,
        match=r'"paper"\?.* clip-es, demo, paper, photos, ssr, ssr-plus, weclip',
    ):
        load_config("papre")


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("")
    assert load_config(file=tmp_path / "own.yaml") == Config()


@pytest.mark.parametrize("preset", ["ssr", "paper", "clip-es", "weclip", "demo"])
def test_round_trips(preset: str, tmp_path: Path) -> None:
    config = load_config(preset)
    plain = config.to_dict()
    assert load_config(base=json.loads(json.dumps(plain))) == config
    assert load_config(base=yaml.safe_load(config.to_yaml())) == config
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_config("ssr", tmp_path / "config.yaml") == config
    assert [f"{section}.{key}" for section, keys in plain.items() for key in keys] == known_keys()


def test_every_setting_has_a_meaning() -> None:
    rows = describe()
    assert [key for key, _, _ in rows] == known_keys()
    assert all(len(meaning) > 15 for _, _, meaning in rows)
    assert len(set(known_keys())) == len(known_keys()) > 60
    assert dict((key, default) for key, default, _ in rows)["optim.batch"] == "16"
    meanings = {key: meaning for key, _, meaning in rows}
    assert meanings["cmpa.loss"].endswith(" One of: crossmodal, in_modal, feature.")
    assert "One of" not in meanings["sgc.high"]


def test_a_configuration_cannot_be_changed_by_accident() -> None:
    config = Config()
    for section in fields(Config):
        value = getattr(config, section.name)
        first = fields(value)[0].name
        with pytest.raises(AttributeError):
            setattr(value, first, None)


def test_settings_are_values() -> None:
    one, other = load_config("paper"), load_config("paper")
    assert len({one, other, Config()}) == len({one.cam, other.cam, Config().cam}) == 2
    changed = replace(one, sgc=replace(one.sgc, high=0.7))
    assert (changed.sgc.high, changed.cmpa) == (0.7, one.cmpa)
    with pytest.raises(ValueError, match="less than or equal to 1"):
        replace(one.sgc, high=1.5)


def test_a_combination_that_cannot_be_is_refused() -> None:
    pair = ("cmpa.cam_source=refined", "cmpa.map_order=project_then_pool")
    with pytest.raises(ConfigError, match=r"cannot be combined.*pool_then_project"):
        load_config(overrides=pair)
    assert load_config(overrides=pair[:1]).cmpa.cam_source == "refined"


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("optim.batch=true", "should be a number, not true or false"),
        ("optim.seed=false", "should be a number, not true or false"),
        ("sgc.high=.nan", "less than or equal to 1"),
        ("sgc.high=true", "should be a number"),
        ("optim.cmpa_lr=1e400", "finite number|less than"),
        ("optim.decoder_lr=-.inf", "finite number|greater than"),
        ("optim.iterations=" + "9" * 5000, "more than 40 characters"),
        ("optim.iterations=12:30", "valid integer"),
        ("optim.iterations=2024-99-99", "valid integer"),
        ("optim.batch=[[[[[[[[[[1]]]]]]]]]]", "valid integer"),
        ("optim.batch=" + "[" * 3000, "more than 20 deep"),
        ("optim.batch=*x", "aliases"),
        ("optim.batch=!!python/object/apply:os.system [ls]", "tags"),
        ("decoder.layers=1e5", "less than or equal to 64"),
        ("test.long_side=30000", "less than or equal to 4096"),
        ("data.crop=1000000", "less than or equal to 4096"),
        ("test.scales=[1e9]", "less than or equal to 10"),
        ("test.scales=[" + "1," * 5000 + "]", "at most 100 items"),
        ("sgc.n_segments=1000000000", "less than or equal to 50000"),
        ("cmpa.hidden=1000000", "less than or equal to 4096"),
        ("affinity.clip_layers=[1000000]", "less than or equal to 1000"),
        ("backbones.clip=" + "a" * 5000, "at most 4096 characters"),
        (r'backbones.clip="a\0b"', r"U\+0000"),
    ],
)
def test_hostile_values_are_one_short_paragraph(override: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault) as raised:
        load_config(overrides=[override])
    assert len(str(raised.value)) < 1500


def test_numbers_without_a_dot_are_numbers() -> None:
    assert load_config(overrides=["optim.decoder_lr=1e-3"]).optim.decoder_lr == 0.001
    assert load_config(overrides=["optim.iterations=3e4"]).optim.iterations == 30000
    assert load_config(overrides=["optim.seed=010"]).optim.seed == 10


def test_values_by_key_are_taken_as_they_are() -> None:
    folder = 'a: [b]# "c" \N{GRINNING FACE}'
    assert load_config(overrides={"backbones.clip": folder}).backbones.clip == folder
    with pytest.raises(ConfigError, match=r"expected section\.key=value"):
        load_config(overrides={"backbones": folder})


@pytest.mark.parametrize("base", [3, "a", [1], {"sgc": 3}, {"sgc": [1]}])
def test_saved_settings_of_any_type(base: object) -> None:
    with pytest.raises(ConfigError, match=r"^saved settings: expected sections with keys"):
        load_config(base=base)


def test_python_values_of_any_type(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a value of type int"):
        load_config(base={"optim": {"batch": 10**5000}})
    for name in ("a" * 5000, "a\0b", str(tmp_path)):
        with pytest.raises(ConfigError, match="there is no such file"):
            load_config(file=name)


@pytest.mark.parametrize("content", ["a: &a {b: 1}\nsgc: *a", "sgc: {high: 1}\nsgc: {high: 0}"])
def test_a_file_with_aliases_or_repeated_sections(tmp_path: Path, content: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"own\.yaml \(--config\).*line 2"):
        load_config(file=file)


def test_names_that_look_like_numbers_round_trip() -> None:
    for name in ("1e5", "0o17", "no", "010", "12:30", "é\u2028"):
        config = load_config(overrides={"backbones.clip": name})
        assert load_config(base=parse_yaml(config.to_yaml())) == config


def test_range_of_photographs() -> None:
    assert load_config().data.range is None
    assert load_config(overrides=["data.range=[0, 4095]"]).data.range == (0.0, 4095.0)
    for value in ("[4095, 0]", "[1, 1]", "[0, .nan]", "[0, .inf]", "[0]", "8"):
        with pytest.raises(ConfigError, match=r"data\.range"):
            load_config(overrides=[f"data.range={value}"])
