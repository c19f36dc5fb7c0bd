"""The pretraining loop, with each objective, in miniature."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tiny_photos
import torch
from safetensors.torch import load_file
from transformers import ViTModel

from encoders import pretrain as loop
from encoders.clip import ClipObjective, ClipRecipe
from encoders.clip_photos import PhotoClipObjective
from encoders.dino import DinoObjective, DinoRecipe
from encoders.dino_photos import PhotoDinoObjective
from encoders.objective import Objective
from encoders.photos import Photo
from encoders.pretrain import Pretraining, build_objective, pretrain
from encoders.scenes import CLIP_SEEDS, CaptionedScenes, ScenePictures, ScenePool
from ssrseg.errors import DataError
from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.dino import FrozenDINO

CLIP = ClipRecipe(
    views=32, batch=8, width=32, depth=2, heads=2, text_width=16, text_depth=1, dim=16, pool=6,
    fresh=1, warmup=1, late_share=0.25, bfloat16=False,
)  # fmt: skip
DINO = DinoRecipe(
    views=40, batch=4, width=24, depth=2, heads=2, window=4, pool=4, warmup=2, bfloat16=False,
    full_share=0.1,
)  # fmt: skip

Objectives = dict[str, Callable[[], Objective]]
NAMES = ("clip-demo", "clip-photos", "dino-demo", "dino-photos")
each = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def objectives(hasty: None, photos: tuple[Photo, ...], cache: Path) -> Objectives:
    makers: tuple[Callable[[], Objective], ...] = (
        lambda: ClipObjective(CLIP, CaptionedScenes(CLIP, checked=24)),
        lambda: PhotoClipObjective(tiny_photos.CLIP, photos, photos[:4], cache),
        lambda: DinoObjective(DINO, ScenePictures(DINO)),
        lambda: PhotoDinoObjective(tiny_photos.DINO, photos, cache),
    )
    return dict(zip(NAMES, makers, strict=True))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clip-demo", (2.623752, 2.510767, 3.586796)),
        ("clip-photos", (72.686012, 99.156311, 50.046627)),
        ("dino-demo", (2.428161, 2.342885, 1.975914)),
        ("dino-photos", (1.969252, 1.950265, 1.948933)),
    ],
)
def test_losses_of_the_first_steps(
    objectives: Objectives, name: str, expected: tuple[float, ...]
) -> None:
    objective = objectives[name]()
    if isinstance(objective, PhotoClipObjective):  # singular vectors have any sign
        teacher = objective._name_teacher
        largest = teacher.texts.abs().argmax(0, keepdim=True)
        signs = teacher.texts.gather(0, largest)[0].sign()
        teacher.texts *= signs
        teacher._directions *= signs[:, None]
    run = Pretraining(objective)
    assert [run.advance()["loss"] for _ in range(3)] == pytest.approx(expected, rel=1e-4)


def test_pool_depends_on_the_step_alone() -> None:
    walked, jumped = (ScenePool(CLIP, CLIP_SEEDS, crowded=(3, 10)) for _ in range(2))
    for step in range(4):
        scenes = walked.at(step)
    other = jumped.at(3)
    assert len(scenes) == len(other) == CLIP.pool
    assert all((a.image == b.image).all() for a, b in zip(scenes, other, strict=True))
    kept = [(a.image == b.image).all() for a, b in zip(scenes, jumped.at(4), strict=True)]
    assert kept == [True, True, True, False, True, True], "one scene is new, the others stay put"


def test_learning_rate_rises_then_falls() -> None:
    recipe = ClipRecipe(views=128 * 1000, warmup=100, lr=1.0)
    assert recipe.learning_rate(0) == pytest.approx(0.01)
    assert recipe.learning_rate(100) == pytest.approx(1.0)
    assert recipe.learning_rate(550) == pytest.approx(0.505)
    assert recipe.learning_rate(1000) == pytest.approx(0.01)


@each
def test_resumed_run_ends_at_the_same_weights(
    objectives: Objectives, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    pretrain(objectives[name](), straight, every=2)
    save = Pretraining.save

    def power_cut(run: Pretraining, path: Path) -> None:
        save(run, path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "save", power_cut)
        with pytest.raises(KeyboardInterrupt):
            pretrain(objectives[name](), broken, every=2)
    log = broken / "log.csv"
    assert [line.split(",")[0] for line in log.read_text().splitlines()] == ["step", "2"]
    log.write_text(log.read_text() + "3,after,the,checkpoint\n")
    pretrain(objectives[name](), broken, every=2, resume=True)
    ours, theirs = (torch.load(folder / "checkpoint.pt") for folder in (straight, broken))
    for part in ("model", "average"):
        assert all(torch.equal(ours[part][key], theirs[part][key]) for key in ours[part])
    ours, theirs = (
        [row.split(",") for row in (folder / "log.csv").read_text().splitlines()]
        for folder in (straight, broken)
    )
    assert [row[:2] + row[4:] for row in ours] == [row[:2] + row[4:] for row in theirs]


@each
def test_checkpoint_of_another_recipe_or_other_pictures_is_refused(
    objectives: Objectives, name: str, tmp_path: Path
) -> None:
    objective = objectives[name]()
    Pretraining(objective).save(tmp_path / "checkpoint.pt")
    objective.recipe = replace(objective.recipe, lr=1.0)
    with pytest.raises(ValueError, match="lr"):
        Pretraining(objective).load(tmp_path / "checkpoint.pt")
    objective = objectives[name]()
    objective.pictures = "41 photographs"
    with pytest.raises(ValueError, match=r"not .*41 photographs"):
        Pretraining(objective).load(tmp_path / "checkpoint.pt")


@each
def test_the_average_follows_the_weights(objectives: Objectives, name: str) -> None:
    objective = objectives[name]()
    run = Pretraining(objective)
    expected = next(run.model.parameters()).detach().clone()
    for step in range(3):
        run.advance()
        momentum = {
            "clip-demo": 0.0,
            "dino-demo": 0.9 + 0.0985 * step / 1000,
        }.get(name, (1 + step) / (10 + step))
        expected = momentum * expected + (1 - momentum) * next(run.model.parameters())
    found = next(run.average.parameters())
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(found, next(run.model.parameters())) == (name == "clip-demo")


def test_dino_loss_falls_on_a_fixed_batch() -> None:
    recipe = replace(DINO, views=4000, lr=3e-3, full_share=0.0)
    run = Pretraining(DinoObjective(recipe, ScenePictures(recipe)))
    values = []
    for _ in range(40):
        run.step = 5  # the same views and the same corruption every time
        values.append(run.advance())
    assert all(np.isfinite(list(value.values())).all() for value in values)
    assert values[-1]["denoise"] < 0.8 * values[0]["denoise"]
    assert values[-1]["relation"] < values[0]["relation"]


def test_training_writes_log_checkpoint_and_model(objectives: Objectives, tmp_path: Path) -> None:
    pretrain(objectives["clip-demo"](), tmp_path / "c", every=3)
    lines = (tmp_path / "c/log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "3", "4"]
    spent = "step,views,cpu_seconds,wall_seconds,loss,"
    assert lines[0] == f"{spent}logit_scale,tag_map,tag_map_cls,cam_miou,zero_shot,probe"
    pretrain(objectives["clip-demo"](), tmp_path / "c", resume=True)
    assert (tmp_path / "c/log.csv").read_text().splitlines() == lines
    assert FrozenCLIP.load(tmp_path / "c/clip").depth == 2

    pretrain(objectives["dino-demo"](), tmp_path / "d")
    assert (tmp_path / "d/log.csv").read_text().startswith(f"{spent}denoise,relation\n10,40,")
    model = ViTModel.from_pretrained(tmp_path / "d/dino", add_pooling_layer=False)
    hidden = model(torch.zeros(1, 3, 128, 128)).last_hidden_state
    assert hidden.shape == (1, 257, 24) and torch.isfinite(hidden).all()


def test_training_on_photographs_writes_log_and_encoders(
    objectives: Objectives, tmp_path: Path
) -> None:
    spent = "step,views,cpu_seconds,wall_seconds,loss,"
    pretrain(objectives["clip-photos"](), tmp_path / "c", every=3)
    header, *rows = (tmp_path / "c/log.csv").read_text().splitlines()
    assert header == f"{spent}names,tags,places,kinds,pointed,features,texts,logit_scale,tag_map"
    assert [row.split(",")[:2] for row in rows] == [["3", "12"], ["4", "16"]]
    scale, precision = map(float, rows[-1].split(",")[-2:])
    assert scale == pytest.approx(20, abs=0.5) and 0 < precision <= 1
    assert FrozenCLIP.load(tmp_path / "c/clip").depth == 2
    pretrain(objectives["dino-photos"](), tmp_path / "d")
    assert (tmp_path / "d/log.csv").read_text().startswith(f"{spent}denoise,relation\n4,16,")
    assert FrozenDINO.load(tmp_path / "d/dino").depth == 2


@pytest.mark.parametrize("name", ["clip-photos", "dino-photos"])
def test_mixed_precision_is_near_the_full_one(objectives: Objectives, name: str) -> None:
    objective = objectives[name]()
    run = Pretraining(objective)
    full = objective.losses(run.model, run.average, 1)["loss"].item()
    objective.recipe = replace(objective.recipe, bfloat16=True)
    mixed = objective.losses(run.model, run.average, 1)["loss"].item()
    assert mixed != full and mixed == pytest.approx(full, rel=0.03)


def test_recipes_of_photographs_share_views(
    hasty: None, folders: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [f"{folders[1]}:even", f"{folders[1]}:odd"]
    build_objective(tiny_photos.CLIP, parts, parts, tmp_path)
    before = (tmp_path / "mid.npy").read_bytes()
    monkeypatch.setattr("encoders.photos.read_image", None)  # no view is computed again
    found = build_objective(tiny_photos.DINO, parts, [], tmp_path)
    assert (tmp_path / "mid.npy").read_bytes() == before
    assert found.pictures.startswith("4 photographs ")


def test_momentum_of_the_photographs_average_is_bounded(objectives: Objectives) -> None:
    for name in ("clip-photos", "dino-photos"):
        objective = objectives[name]()
        assert [objective.momentum(step) for step in (0, 8, 10**6)] == [0.1, 0.5, 0.995]


def test_command_line(
    hasty: None, folders: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    recipes = {"clip-photos": tiny_photos.CLIP, "dino-photos": tiny_photos.DINO, "dino-demo": DINO}
    monkeypatch.setattr(loop, "RECIPES", recipes)
    things, around = folders
    both = ("--photos", things, "--photos", around)

    def run(recipe: str, *options: str) -> list[str]:
        out = tmp_path / recipe
        command = ["x", recipe, "--out", str(out), "--views", "8", "--seed", "3", *options]
        monkeypatch.setattr("sys.argv", command)
        loop.main()
        return (out / "log.csv").read_text().splitlines()

    header, row = run("clip-photos", *both, "--held-out", f"{around}:odd")
    assert header.split(",")[-1] == "tag_map" and row.split(",")[:2] == ["2", "8"]
    assert FrozenCLIP.load(tmp_path / "clip-photos/clip").depth == 2
    views = tmp_path / "clip-photos/views"
    told = json.loads((views / "views.json").read_text())
    assert (told["seed"], told["done"]) == (3, 2) and told["photos"].startswith("10 photographs ")
    run("dino-photos", *both, "--cache", str(views))
    assert not (tmp_path / "dino-photos/views").exists()
    assert load_file(tmp_path / "dino-photos/dino/model.safetensors")
    assert [line.split(",")[0] for line in run("dino-demo", "--every", "1")] == ["step", "1", "2"]
    wrong = {
        ("dino-photos",): "dino-photos needs --photos",
        ("dino-demo", "--photos", things): "dino-demo takes no --photos",
        ("clip-photos", "--photos", things): "clip-photos needs --held-out",
        ("dino-photos", *both, "--held-out", things): "dino-photos takes no --held-out",
    }
    for command, said in wrong.items():
        with pytest.raises(SystemExit):
            run(*command)
        assert said in capsys.readouterr().err


def test_too_few_photographs_and_foreign_labels_are_refused(
    folders: tuple[str, str], tmp_path: Path
) -> None:
    things, around = folders
    with pytest.raises(DataError, match=r"photographs, but a step takes 32.*--photos"):
        build_objective(loop.RECIPES["dino-photos"], [things], [], tmp_path)
    table = tmp_path / "others/labels.csv"
    table.parent.mkdir()
    PIL.Image.new("RGB", (32, 32)).save(table.with_name("a.png"))
    table.write_text("image,labels\na.png,zeppelin\n")
    with pytest.raises(DataError, match=r"others: no photograph has a label among"):
        build_objective(tiny_photos.CLIP, [things, around], [str(table.parent)], tmp_path)


def test_the_recipes() -> None:
    steps = {name: recipe.steps for name, recipe in loop.RECIPES.items()}
    assert steps == {
        "clip-demo": 6500,
        "clip-photos": 1500,
        "clip-plain": 750,
        "dino-demo": 4688,
        "dino-photos": 300,
    }
    sides = {name: recipe.side for name, recipe in loop.RECIPES.items()}
    assert sides == {name: 128 if name.endswith("demo") else 384 for name in loop.RECIPES}
