"""How a model is built, kept and loaded again: nothing of what it is gets lost or mistaken."""

from __future__ import annotations

import json
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from make_tiny import tiny_voc
from tiny_encoders import tiny_config

from ssrseg import SSR
from ssrseg.checkpoint import load_checkpoint, save_checkpoint
from ssrseg.config import load_config
from ssrseg.data.classes import check_background
from ssrseg.data.open import open_labelled
from ssrseg.errors import CheckpointError, ConfigError, LabelsError, SSRError
from ssrseg.networks.vocabulary import build_vocabulary
from ssrseg.pseudo_masks import make_masks
from ssrseg.training import train

CLASSES = ("cat", "dog", "red car")


@pytest.fixture(scope="module")
def model(clip_dir: Path, dino_dir: Path) -> SSR:
    return SSR.from_config(tiny_config(clip_dir, dino_dir), CLASSES)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_voc(tmp_path_factory.mktemp("voc") / "tree", n=3)


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, tree: Path, clip_dir: Path, dino_dir: Path
) -> dict[str, Path]:
    """One run from labels, one from true masks."""
    data, folder = open_labelled(tree), tmp_path_factory.mktemp("runs")
    config = tiny_config(clip_dir, dino_dir, "optim.iterations=2", "optim.cmpa_iterations=2")
    return {
        kind: train(data, folder / kind, config, supervision=kind).run
        for kind in ("labels", "full")
    }


@pytest.mark.parametrize("kind", ["labels", "full"])
def test_a_saved_model_remembers_what_it_was_trained_on(
    runs: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    SSR.from_pretrained(runs[kind]).save_pretrained(tmp_path)
    before, after = load_checkpoint(runs[kind]), load_checkpoint(tmp_path)
    assert after.supervision == before.supervision == kind
    assert (after.iteration, after.data) == (before.iteration, before.data)
    assert after.tensors.keys() == before.tensors.keys()
    assert all(torch.equal(value, after.tensors[key]) for key, value in before.tensors.items())
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert ("without boxes or masks" in card) == (kind == "labels")
    assert ("on true masks, as a control" in card) == (kind == "full")


def test_saving_a_model_for_segmenting_only_loses_nothing(
    runs: dict[str, Path], tree: Path, tmp_path: Path
) -> None:
    SSR.from_pretrained(runs["labels"], segment_only=True).save_pretrained(tmp_path)
    again, whole = SSR.from_pretrained(tmp_path), SSR.from_pretrained(runs["labels"])
    sample = open_labelled(tree).samples[0]
    label = whole.classes[sample.labels[0]]
    found, expected = (each.rectify(sample.image, labels=label) for each in (again, whole))
    assert np.array_equal(found.mask, expected.mask)


def test_a_folder_of_something_else_is_left_alone(
    model: SSR, clip_dir: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in clip_dir.iterdir()}
    with pytest.raises(CheckpointError, match="holds another model"):
        model.save_pretrained(clip_dir)
    assert {path.name: path.read_bytes() for path in clip_dir.iterdir()} == before
    model.save_pretrained(tmp_path / "own")
    model.save_pretrained(tmp_path / "own")  # one of ours may be replaced
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot be written"):
        model.save_pretrained(tmp_path / "file")


def test_encoders_are_found_from_another_folder(
    clip_dir: Path, dino_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clip_dir.parent)
    model = SSR.from_encoders(["cat"], clip=clip_dir.name, dino=dino_dir, preset="ssr")
    assert model.config.backbones.clip == str(clip_dir)
    model.save_pretrained(tmp_path / "kept")
    monkeypatch.chdir(tmp_path)
    assert SSR.from_pretrained(tmp_path / "kept").classes == ("cat",)
    settings = json.loads((tmp_path / "kept" / "config.json").read_text(encoding="utf-8"))
    assert settings["backbones"]["clip"] == str(clip_dir)


def test_other_prompts_are_another_model(model: SSR) -> None:
    config = replace(model.config, prompts=replace(model.config.prompts, set="coco"))
    with pytest.raises(ValueError, match="prompts differs"):
        model.with_config(config)
    with pytest.raises(ConfigError, match="takes settings, not 'ssr'"):
        model.with_config("ssr")


def test_a_single_setting_may_be_a_text(clip_dir: Path, dino_dir: Path) -> None:
    model = SSR.from_encoders(["cat"], clip=clip_dir, dino=dino_dir, settings="sgc.high=0.3")
    assert model.config.sgc.high == 0.3
    assert load_config("ssr").sgc.high == 0.4


def test_parts_are_given_never_taken_over(model: SSR, runs: dict[str, Path]) -> None:
    trained = SSR.from_pretrained(runs["labels"])
    bare = trained.with_config(trained.config, alignment=None, decoder=None)
    assert bare.alignment is None
    assert bare.decoder is None
    assert trained.alignment is not None
    assert trained.decoder is not None
    assert trained.with_config(trained.config).decoder is trained.decoder


@pytest.mark.parametrize("readout", ["combined", "gradcam"])
def test_what_surrounds_a_call_changes_nothing(model: SSR, readout: str) -> None:
    config = replace(model.config, cam=replace(model.config.cam, readout=readout))
    own = model.with_config(config)
    photo = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    expected = own.rectify(photo, labels=["cat", "dog"])
    with torch.inference_mode():
        inside = own.rectify(photo, labels=["cat", "dog"])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        reduced = own.rectify(photo, labels=["cat", "dog"])
    for found in (inside, reduced):
        assert np.array_equal(found.mask, expected.mask)
        assert np.array_equal(found.cam["dog"], expected.cam["dog"])


# --- texts that CLIP cannot work with


def notes(capfd: pytest.CaptureFixture[str]) -> str:
    return " ".join(capfd.readouterr().err.split())


def test_classes_that_the_text_tower_cannot_tell_apart(
    clip_dir: Path, dino_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def load(*classes: str, **prompts: str) -> str:
        SSR.from_config(tiny_config(clip_dir, dino_dir), classes, prompts=prompts)
        return notes(capfd)

    said = load("犬", "猫")  # the tiny tokenizer knows ASCII
    assert 'tokenizer does not know the characters of "犬", "猫". Give a prompt' in said
    assert 'class "犬" and class "猫" are the same to CLIP\'s text tower' in said
    said = load("犬", "猫", 犬="a dog", 猫="a cat")
    assert "tokenizer does not know" not in said
    assert "are the same" not in said
    said = load("dog", "cat", cat="Dog")  # tokens have no capitals
    assert 'class "dog" and class "cat" are the same' in said
    said = load("dog", "cat", cat="ground")
    assert "the same" not in said  # the background of that name was left out
    assert "the same" not in load("dog", "cat")


def test_names_that_a_small_clip_has_not_learnt_are_said(
    clip_dir: Path, dino_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clip = Path(shutil.copytree(clip_dir, tmp_path / "clip"))
    words = build_vocabulary(("cat", "dog"), "voc").phrases
    (clip / "names.txt").write_text("\n".join(words), encoding="utf-8")
    SSR.from_config(tiny_config(clip, dino_dir), ("cat", "dog"))
    assert notes(capfd) == ""
    SSR.from_config(tiny_config(clip, dino_dir), ("cat", "my dog", "quokka"))
    said = notes(capfd)
    assert 'Note: CLIP has not learnt "my dog", "quokka": what it finds' in said
    assert f"the {len(words)} names in names.txt" in said
    assert "such as my dog: dog; it lists every class" in said


LONE = r"no background text, and .* a single label \(such as .*its mask all background"


@pytest.fixture
def without_backgrounds(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.yaml"
    file.write_text('template: "a {}."\nclasses: {}\nbackground: []\n', encoding="utf-8")
    return file


@pytest.mark.parametrize("preset", ["ssr", "paper", "clip-es", "weclip"])
def test_one_label_and_no_background_text_is_refused_before_anything_runs(
    clip_dir: Path, dino_dir: Path, tmp_path: Path, without_backgrounds: Path, preset: str
) -> None:
    data = open_labelled(tiny_voc(tmp_path / "voc", n=4))
    config = tiny_config(clip_dir, dino_dir, f"prompts.set={without_backgrounds}", preset=preset)
    gone = replace(config, backbones=replace(config.backbones, clip="nowhere"))
    for settings in (config, gone):  # encoders are not looked at
        with pytest.raises(ConfigError, match=LONE):
            train(data, tmp_path / "run", settings)
        with pytest.raises(ConfigError, match=LONE):
            SSR.for_data(settings, data)
    assert not (tmp_path / "run").exists()
    model = SSR.from_config(config, ("dog", "cat"))
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    with pytest.raises(ConfigError, match=r"1 image has a single label \(such as image 1\)"):
        model.rectify(image, ["dog"])
    model.rectify(image, ["dog", "cat"])  # these two compete
    # true masks need no CAM, and a map of the middle needs no text
    full = tiny_config(
        clip_dir,
        dino_dir,
        f"prompts.set={without_backgrounds}",
        "optim.iterations=1",
        preset=preset,
    )
    assert train(data, tmp_path / "full", full, supervision="full").finished
    centre = replace(config, cam=replace(config.cam, mode="centre"))
    SSR.for_data(centre, data)


def test_backgrounds_that_all_mean_classes_are_named(
    clip_dir: Path, dino_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text('template: "a {}."\nclasses: {}\nbackground: [birds, old dog]\n')
    data = open_labelled(tiny_voc(tmp_path / "voc", n=4))
    with pytest.raises(
        ConfigError, match=r'Left out because they mean a class: "birds", "old dog"'
    ):
        train(data, tmp_path / "run", tiny_config(clip_dir, dino_dir, f"prompts.set={file}"))


def test_masks_of_weclip_without_its_decoder_are_said_to_be(
    clip_dir: Path, dino_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = open_labelled(tiny_voc(tmp_path / "voc", n=2))
    SSR.for_data(tiny_config(clip_dir, dino_dir, preset="weclip"), data)
    assert "affinity.rfm_after = 15000, but no trained model is given" in notes(capfd)
    SSR.for_data(tiny_config(clip_dir, dino_dir), data)
    assert "rfm_after" not in notes(capfd)


# --- heads and decoders that do not fit


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decoder": {"layers": 64}}, "decoder in .* does not fit .* is missing"),
        ({"cmpa": {"hidden": 4096, "depth": 64}}, "alignment in .* does not fit"),
        ({"cmpa": {"out": 4096, "init": "random"}}, "alignment in .* does not fit"),
        ({"cmpa": {"out": 4096}}, "alignment in .* does not fit"),
    ],
)
def test_settings_that_the_weights_do_not_fit_allocate_nothing(
    runs: dict[str, Path], tmp_path: Path, changes: dict[str, dict[str, object]], said: str
) -> None:
    found = load_checkpoint(runs["labels"])
    table = found.config.to_dict()
    for section, values in changes.items():
        table[section] |= values
    save_checkpoint(tmp_path / "model.safetensors", replace(found, config=load_config(base=table)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=said):
        SSR.from_pretrained(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # KiB


def test_background_words_of_the_data_are_asked(
    clip_dir: Path, dino_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """They replace the set's, and a run or masks made with others are refused."""
    voc = tiny_voc(tmp_path / "voc", n=4, classes=("cat", "dog"))
    (voc / "classes.txt").unlink(missing_ok=True)
    config = tiny_config(
        clip_dir, dino_dir, "optim.cmpa_iterations=1", "optim.iterations=1", "optim.warmup=1"
    )
    (voc / "classes.yaml").write_text("cat:\ndog: puppy\nbackground: [moor, old dog, bog]\n")
    data = open_labelled(voc)
    assert data.background == ("moor", "old dog", "bog")
    model = SSR.for_data(config, data)
    template = build_vocabulary(("x",), config.prompts.set).texts[0].replace("x", "{}")
    asked = ("cat", "puppy", "moor", "bog")
    assert model.vocabulary.texts == tuple(template.replace("{}", word) for word in asked)
    assert 'left out because they mean a class: "old dog" (class "dog").' in notes(capfd)
    run = train(data, tmp_path / "run", config).run
    assert make_masks(data, tmp_path / "masks", config).written == 4
    assert make_masks(data, tmp_path / "masks", config).written == 0
    assert template.replace("{}", "moor") in (tmp_path / "masks/config.yaml").read_text()
    (voc / "classes.yaml").write_text("cat:\ndog: puppy\nbackground: [moor, fen]\n")
    other = open_labelled(voc)
    with pytest.raises(SSRError, match=r'bog\." left out, ".* fen\." new'):
        make_masks(other, tmp_path / "masks", config)
    with pytest.raises(SSRError, match="trained with other prompts"):
        SSR.for_data(config, other, run)
    with pytest.raises(SSRError, match=r'bog\." left out, ".* fen\." new'):
        train(other, tmp_path / "run", config)


def test_background_words_that_are_no_list(clip_dir: Path, dino_dir: Path) -> None:
    for wrong in ("grass", {"grass": "sky"}, [""], [3], None):
        with pytest.raises(LabelsError, match="but a list of words for what is no class"):
            check_background(wrong)
    with pytest.raises(LabelsError, match="background = 'grass', but a list"):
        SSR.from_config(tiny_config(clip_dir, dino_dir), ("dog",), background="grass")
