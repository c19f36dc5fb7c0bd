"""The pretraining loop, with each objective on each kind of pictures, in miniature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from encoders.surroundings import Corner
from make_tiny import opened_files, tiny_voc
from safetensors.torch import load_file
from transformers import ViTModel

from encoders import pretrain as loop
from encoders.clip import ClipObjective, ClipRecipe
from encoders.dino import DinoObjective, DinoRecipe
from encoders.objective import Objective
from encoders.photos import CaptionedPhotos, Photo, PhotoPictures
from encoders.pretrain import Pretraining, build_objective, pretrain
from encoders.scenes import CLIP_SEEDS, CaptionedScenes, ScenePictures, ScenePool
from ssrseg.errors import DataError
from ssrseg.networks.clip import FrozenCLIP

CLIP = ClipRecipe(
    views=32, batch=8, width=32, depth=2, heads=2, text_width=16, text_depth=1, dim=16, pool=6,
    fresh=1, warmup=1, late_share=0.25, bfloat16=False,
)  # fmt: skip
DINO = DinoRecipe(
    views=40, batch=4, width=24, depth=2, heads=2, window=4, pool=4, warmup=2, bfloat16=False,
    full_share=0.1,
)  # fmt: skip
CLIP_PHOTOS = replace(CLIP, windows=(4, 6), average=0.5)


def made_up(count: int = 40) -> list[Photo]:
    """Dogs on grass and cats; pixels are noise."""
    rng = np.random.default_rng(0)
    grass = (Corner("grass", 0.89, 0.16), Corner("grass", 0.89, 0.84))
    kinds = [(("dog",), grass), (("cat",), ())]
    return [
        Photo(f"photo{k}", rng.integers(0, 256, (90, 120, 3), dtype=np.uint8), *kinds[k % 2])
        for k in range(count)
    ]


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "clip-demo": lambda: ClipObjective(CLIP, CaptionedScenes(CLIP, checked=24)),
    "clip-photos": lambda: ClipObjective(
        CLIP_PHOTOS, CaptionedPhotos(CLIP_PHOTOS, made_up(), made_up(20))
    ),
    "dino-demo": lambda: DinoObjective(DINO, ScenePictures(DINO)),
    "dino-photos": lambda: DinoObjective(DINO, PhotoPictures(made_up(), DINO)),
}
each = pytest.mark.parametrize("name", OBJECTIVES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clip-demo", (2.623752, 2.510767, 3.586796)),
        ("clip-photos", (3.697438, 3.417811, 2.809194)),
        ("dino-demo", (2.428161, 2.342885, 1.975914)),
        ("dino-photos", (3.053073, 3.132210, 2.951299)),
    ],
)
def test_losses_of_the_first_steps(name: str, expected: tuple[float, ...]) -> None:
    run = Pretraining(OBJECTIVES[name]())
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
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    pretrain(OBJECTIVES[name](), straight, every=2)
    save = Pretraining.save

    def power_cut(run: Pretraining, path: Path) -> None:
        save(run, path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "save", power_cut)
        with pytest.raises(KeyboardInterrupt):
            pretrain(OBJECTIVES[name](), broken, every=2)
    log = broken / "log.csv"
    assert [line.split(",")[0] for line in log.read_text().splitlines()] == ["step", "2"]
    log.write_text(log.read_text() + "3,after,the,checkpoint\n")
    pretrain(OBJECTIVES[name](), broken, every=2, resume=True)
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
    name: str, tmp_path: Path
) -> None:
    objective = OBJECTIVES[name]()
    Pretraining(objective).save(tmp_path / "checkpoint.pt")
    objective.recipe = replace(objective.recipe, lr=1.0)
    with pytest.raises(ValueError, match="lr"):
        Pretraining(objective).load(tmp_path / "checkpoint.pt")
    objective = OBJECTIVES[name]()
    objective.pictures = "41 photographs"
    with pytest.raises(ValueError, match=r"not .*41 photographs"):
        Pretraining(objective).load(tmp_path / "checkpoint.pt")


@each
def test_the_average_follows_the_weights(name: str) -> None:
    objective = OBJECTIVES[name]()
    run = Pretraining(objective)
    expected = next(run.model.parameters()).detach().clone()
    for step in range(3):
        run.advance()
        momentum = {
            "clip-demo": 0.0,
            "clip-photos": min(0.5, (1 + step) / (10 + step)),
        }.get(name, 0.9 + 0.0985 * step / 1000)
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


def test_training_writes_log_checkpoint_and_model(tmp_path: Path) -> None:
    pretrain(OBJECTIVES["clip-demo"](), tmp_path / "c", every=3)
    lines = (tmp_path / "c/log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "3", "4"]
    spent = "step,views,cpu_seconds,wall_seconds,loss,"
    assert lines[0] == f"{spent}logit_scale,tag_map,tag_map_cls,cam_miou,zero_shot,probe"
    pretrain(OBJECTIVES["clip-demo"](), tmp_path / "c", resume=True)
    assert (tmp_path / "c/log.csv").read_text().splitlines() == lines
    assert FrozenCLIP.load(tmp_path / "c/clip").depth == 2

    pretrain(OBJECTIVES["dino-demo"](), tmp_path / "d")
    assert (tmp_path / "d/log.csv").read_text().startswith(f"{spent}denoise,relation\n10,40,")
    model = ViTModel.from_pretrained(tmp_path / "d/dino", add_pooling_layer=False)
    hidden = model(torch.zeros(1, 3, 128, 128)).last_hidden_state
    assert hidden.shape == (1, 257, 24) and torch.isfinite(hidden).all()


def test_pretraining_opens_no_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, asked, original = tiny_voc(tmp_path / "voc", n=12), [], PIL.Image.open
    spy = lambda path, *a, **k: (asked.append(str(path)), original(path, *a, **k))[1]  # noqa: E731
    monkeypatch.setattr(PIL.Image, "open", spy)
    with opened_files() as opened:
        for recipe in (CLIP_PHOTOS, DINO):
            objective = build_objective(recipe, [f"{tree}:train"], [f"{tree}:val"])
            pretrain(objective, tmp_path / objective.folder)
    paths = [*asked, *opened]
    assert sum(path.endswith(".jpg") for path in paths) >= 12  # the spy does see photographs
    assert [path for path in paths if "SegmentationClass" in path] == []


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = str(tiny_voc(tmp_path / "voc", n=12))
    recipes = {"clip-photos": CLIP_PHOTOS, "dino-photos": DINO, "dino-demo": DINO}
    monkeypatch.setattr(loop, "RECIPES", recipes)

    def run(recipe: str, *options: str) -> list[str]:
        out = tmp_path / recipe
        command = ["x", recipe, "--out", str(out), "--views", "8", "--seed", "3", *options]
        monkeypatch.setattr("sys.argv", command)
        loop.main()
        return (out / "log.csv").read_text().splitlines()

    header, row = run("clip-photos", "--photos", tree, "--held-out", tree)
    assert header.split(",")[-2:] == ["tag_map", "tag_map_cls"]
    assert all(0 < float(value) <= 1 for value in row.split(",")[-2:])
    assert FrozenCLIP.load(tmp_path / "clip-photos/clip").depth == 2
    with pytest.raises(DataError, match=r"12 photographs.*--held-out"):
        run("clip-photos", "--photos", tree)
    run("dino-photos", "--photos", tree)
    assert load_file(tmp_path / "dino-photos/dino/model.safetensors")
    assert [line.split(",")[0] for line in run("dino-demo", "--every", "1")] == ["step", "1", "2"]
    for recipe, options in (("dino-photos", ()), ("dino-demo", ("--photos", tree))):
        with pytest.raises(SystemExit):
            run(recipe, *options)
        assert f"{recipe} {'takes no' if options else 'needs'} --photos" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("dino-photos", "--photos", tree, "--held-out", tree)


def test_the_recipes() -> None:
    steps = {name: recipe.steps for name, recipe in loop.RECIPES.items()}
    assert steps == {
        "clip-demo": 6500, "clip-photos": 1750, "clip-photos-from-scenes": 1000,
        "dino-demo": 4688, "dino-photos": 3750,
    }  # fmt: skip
