"""A model for others: its folder, what the card says, and the upload (to a hub of our own)."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from command import exit_code
from huggingface_hub import ModelCard
from make_masks import write_masks
from make_tiny import tiny_folder
from tiny_encoders import tiny_config

from ssrseg.checkpoint import load_checkpoint, model_digest, save_checkpoint
from ssrseg.data.open import open_labelled
from ssrseg.errors import CheckpointError, ConfigError, DataError, OutputError
from ssrseg.export.hub import export_to_hub
from ssrseg.model import SSR
from ssrseg.model_card import card_text, read_figures
from ssrseg.training import train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, data: Path, clip_dir: Path, dino_dir: Path
) -> Path:
    config = tiny_config(clip_dir, dino_dir, "optim.cmpa_iterations=2", "optim.iterations=3")
    return train(data, tmp_path_factory.mktemp("run") / "run", config).run


def scores_of(classes: tuple[str, ...], path: Path, model: str = "") -> Path:
    """As ``evaluate --json`` writes them: IoU 0.1, 0.2, ..., the last class without pixels."""
    shares = [0.1 * (index + 1) for index in range(len(classes))] + [None]
    names = ("background", *classes)
    table = {
        "miou": 0.4321, "precision": 0.5, "recall": None, "confusion_ratio": 1.5,
        "classes_without_hit": 0, "undecided": 0.02, "images_scored": 1234, "images": 2000,
        "data": "leaves", "model": model,
        "classes": {
            name: {"images": 3, "iou": share, "precision": 0.5, "recall": 0.5}
            for name, share in zip(names, shares, strict=True)
        },
    }  # fmt: skip
    path.write_text(json.dumps(table))
    return path


def test_a_folder_that_loads_with_its_card(run: Path, data: Path, tmp_path: Path) -> None:
    model = SSR.from_pretrained(run)
    scores = scores_of(model.classes, tmp_path / "scores.json", model_digest(run))
    found = export_to_hub(run, license="mit", scores=scores)
    assert (found.folder, found.url) == (run / "export" / "hub", None)
    again, photo = SSR.from_pretrained(found.folder), data / "images" / "photo_0.jpg"
    assert np.array_equal(again.segment(photo).confidence, model.segment(photo).confidence)
    card = ModelCard.load(found.folder / "README.md")
    assert card.data.license == "mit" and card.data.library_name == "ssrseg"
    digest = load_checkpoint(run).data
    text = " ".join(card.text.split())
    for words in (
        f"Learned from 6 images, which are not part of it (digest of images and labels {digest}),",
        "in 5 iterations",
        "mIoU 43.2 %, precision 50.0 %, recall - %",
        "on 1,234 images of leaves with true masks; 2.0 % of their pixels were undecided",
        f"| CLIP | {model.config.backbones.clip.rpartition('/')[2]} (a folder of the machine",
        model.clip.digest,
        "mit, for what is in this file",
        "not known here: see where it is from",
        "Few training images (below 10): cat, dog, red car.",
    ):
        assert words in text, words
    assert model.config.backbones.clip not in text  # nobody else has that folder
    counts = open_labelled(data).labels.sum(0).tolist()
    for index, name in enumerate(model.classes):
        asked, iou = model.vocabulary.texts[index], ("20.0", "30.0", "-")[index]
        assert f"| {index + 1} | {name} | {asked} | {counts[index]} | {iou} |" in text


def test_a_card_without_figures_or_licence(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = run.parent / "plain"
    assert exit_code("export", run, "--to", "hub", "--out", out) == 0
    said = capfd.readouterr()
    assert f"Model and card written to {out}. Read its README.md." in said.out
    assert f"hf upload NAME/MODEL {out}" in said.out
    notes = " ".join(said.err.split())
    assert "the card states no licence of the model" in notes
    assert "CLIP is /" in notes and "DINO is /" in notes and "a folder of this machine" in notes
    card = ModelCard.load(out / "README.md")
    assert card.data.license is None
    assert "Not stated by whoever published it" in card.text
    assert "None were given. `ssrseg evaluate" in card.text and "IoU %" not in card.text


def test_a_card_that_somebody_has_edited_stays(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_to_hub(run, out)
    export_to_hub(run, out, license="mit")  # ours is replaced
    assert ModelCard.load(out / "README.md").data.license == "mit"
    (out / "README.md").write_text("mine")
    with pytest.raises(OutputError, match=r"were changed since, such as README\.md"):
        export_to_hub(run, out)
    assert (out / "README.md").read_text() == "mine"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(OutputError, match=r"config\.json is there already"):
        export_to_hub(run, theirs)
    assert (theirs / "config.json").read_text() == '{"model_type": "bert"}'


def test_an_encoder_may_lie_elsewhere(
    run: Path, clip_dir: Path, dino_dir: Path, tmp_path: Path
) -> None:
    """What counts is that its weights are the same."""
    shutil.copytree(clip_dir, tmp_path / "elsewhere" / "clip")
    moved = export_to_hub(run, tmp_path / "out", clip=tmp_path / "elsewhere" / "clip").folder
    assert load_checkpoint(moved).config.backbones.clip == str(tmp_path / "elsewhere" / "clip")
    with pytest.raises(CheckpointError, match="trained with another DINO"):
        from tiny_encoders import tiny_dino

        export_to_hub(run, tmp_path / "other", dino=tiny_dino(tmp_path / "dino", seed=9))


def test_the_upload(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    calls: list[dict[str, object]] = []

    class Hub:
        private = True

        def create_repo(self, repo: str, **options: object) -> None:
            calls.append({"repo": repo, **options})

        def repo_info(self, repo: str) -> SimpleNamespace:
            return SimpleNamespace(private=self.private)

        def upload_folder(self, **options: object) -> str:
            calls.append(options)
            return "where it is"

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    out = tmp_path / "out"
    words = ("export", run, "--to", "hub", "--out", out, "--repo", "lab/leaves", "--private")
    assert exit_code(*words) == 0
    assert "Uploaded: where it is" in capfd.readouterr().out
    made, sent = calls
    assert made == {"repo": "lab/leaves", "private": True, "exist_ok": True}
    assert (sent["repo_id"], sent["folder_path"]) == ("lab/leaves", out)
    assert sent["allow_patterns"] == ["model.safetensors", "config.json", "README.md"]
    card = (out / "README.md").read_text()
    assert 'from_pretrained("lab/leaves")' in card and "--model lab/leaves" in card

    Hub.private = False
    with pytest.raises(OutputError, match=r"lab/leaves is there and public"):
        export_to_hub(run, out, repo="lab/leaves", private=True)
    assert len(calls) == 3  # nothing was uploaded

    def refuse(*_: object, **__: object) -> None:
        raise OSError("401 Client Error")

    monkeypatch.setattr(Hub, "create_repo", refuse)
    with pytest.raises(OutputError, match=r"401 Client Error.*hf upload lab/leaves"):
        export_to_hub(run, out, repo="lab/leaves")
    assert (out / "model.safetensors").is_file()
    for name in ("leaves", "a/b/c", "lab/"):
        with pytest.raises(ConfigError, match="is no name on the hub"):
            export_to_hub(run, tmp_path / "never", repo=name)
    assert not (tmp_path / "never").exists()


def test_what_is_no_model_or_no_scores(run: Path, tmp_path: Path) -> None:
    write_masks(tmp_path)
    with pytest.raises(CheckpointError, match="holds no trained model but masks"):
        export_to_hub(tmp_path / "masks")
    classes = SSR.from_pretrained(run).classes
    path = scores_of(("fish", *classes[1:]), tmp_path / "scores.json")
    with pytest.raises(DataError, match=r"figures of other classes \(fish, dog, red car"):
        export_to_hub(run, tmp_path / "out", scores=path)
    path = scores_of(classes, tmp_path / "scores.json", "of another")
    with pytest.raises(DataError, match=r"masks that another model made, or none"):
        export_to_hub(run, tmp_path / "out", scores=path)
    for text in ("{", "[]", '{"miou": "high"}', '{"miou": NaN}'):
        path.write_text(text)
        with pytest.raises(DataError, match="is not as `ssrseg evaluate --json` writes it"):
            read_figures(path, classes, "")
    assert not (tmp_path / "out").exists()


def test_licences_and_names_in_the_card(run: Path) -> None:
    made = replace(load_checkpoint(run), tensors={}, classes=("a|b", "<x>", "*c*"))
    config = made.config
    for clip, dino, words in (
        ("openai/clip-vit-base-patch16", "facebook/dino-vits16", ("| MIT |", "| Apache-2.0 |")),
        ("laion/CLIP-ViT-B-16", "facebook/dinov3-vits16", ("| MIT |", "| DINOv3 License")),
        ("ssrseg:photos/weights/clip", "somebody/dino", ("EfficientNet-Lite0", "| not known here")),
    ):
        named = replace(config, backbones=replace(config.backbones, clip=clip, dino=dino))
        text = card_text(replace(made, config=named), parts=("decoder",), patch=16)
        rows = [line for line in text.splitlines() if line.startswith(("| CLIP", "| DINO"))]
        assert clip in rows[0] and dino in rows[1]
        assert all(word in row for word, row in zip(words, rows, strict=True))
        assert (
            "| 1 | a\\|b | " in text and "| 2 | \\<x\\> | " in text and "| 3 | \\*c\\* | " in text
        )


def test_numbers_of_images_travel_with_the_model(run: Path, data: Path, tmp_path: Path) -> None:
    made = load_checkpoint(run)
    counts = open_labelled(data).labels.sum(0).tolist()
    assert made.images == (6, *counts)
    SSR.from_pretrained(run).save_pretrained(tmp_path / "kept")
    assert load_checkpoint(tmp_path / "kept").images == made.images
    save_checkpoint(tmp_path / "wrong.safetensors", replace(made, images=(6,)))
    with pytest.raises(CheckpointError, match="numbers of images are not those of the classes"):
        load_checkpoint(tmp_path / "wrong.safetensors")
