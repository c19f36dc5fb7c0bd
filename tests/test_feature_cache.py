from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from make_tiny import tiny_voc
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_encoders import tiny_config

from ssrseg import feature_cache as module
from ssrseg import training
from ssrseg.checkpoint import load_checkpoint
from ssrseg.config import Config
from ssrseg.data.class_ids import read_truth
from ssrseg.data.images import read_image
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.data.transforms import fit_to_patches
from ssrseg.data.windows import WindowDraws
from ssrseg.errors import BackboneError, CheckpointError, ConfigError, DataError, OutputError
from ssrseg.feature_cache import (
    cache_bytes,
    cache_passes,
    choose_features,
    feature_files,
    make_features,
    photo_sizes,
    view_grids,
    window_features,
)
from ssrseg.interruption import Interrupted
from ssrseg.losses import seg_loss
from ssrseg.model import SSR
from ssrseg.networks.clip import ClipFeatures
from ssrseg.photo_masks import rectify_photo
from ssrseg.trained_parts import new_decoder
from ssrseg.training import train

Settings = Callable[..., Config]


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    return open_labelled(tiny_voc(tmp_path_factory.mktemp("voc") / "tree"))


@pytest.fixture
def settings(clip_dir: Path, dino_dir: Path) -> Settings:
    return lambda *overrides: tiny_config(
        clip_dir, dino_dir, "optim.features=cached", "cam.mode=clip", *overrides
    )


def model_of(config: Config, data: LabelledImages) -> SSR:
    return SSR.from_config(config, data.classes, device="cpu")


def no_cells(config: Config) -> SuperpixelCache:
    return SuperpixelCache.of(None, config.sgc)


def made(
    config: Config, data: LabelledImages, folder: Path, supervision: str = "labels"
) -> tuple[SSR, dict[str, Path]]:
    model = model_of(config, data)
    make_features(model, data, supervision, folder, no_cells(config))
    return model, feature_files(model, data, supervision, folder)


# ---- what is in a file


def test_a_file_holds_what_the_encoder_and_masks_give(
    voc: LabelledImages, tmp_path: Path, settings: Settings
) -> None:
    config = settings("optim.views=[1.0, 0.5, 2.0]")
    model, files = made(config, voc, tmp_path)
    for sample in voc.samples:
        found = load_file(files[sample.name])
        photo = read_image(sample.image)
        way = rectify_photo(model, photo, sample.labels, no_cells(config)).rectification
        tokens = torch.stack([block[0, 1:] for block in way.initial.features.tokens], 1)
        grid = way.initial.features.grid
        expected = tokens.unflatten(0, grid)
        torch.testing.assert_close(found["view.0"].float(), expected, atol=2e-3, rtol=1e-3)
        half = [max(1, round(side / 2)) for side in grid]
        assert list(found["view.1"].shape) == [*half, 3, 64]
        assert list(found["view.2"].shape) == [2 * grid[0], 2 * grid[1], 3, 64]
        # the second is of the mirror image: not a mirror of the whole, whose positions differ
        fitted = fit_to_patches(photo, 16).permute(2, 0, 1)[None].float() / 255
        image = torch.nn.functional.interpolate(
            fitted, (16 * half[0], 16 * half[1]), mode="bilinear", antialias=True
        ).flip(-1)
        mirrored = model.encode(image, attention=False).tokens[-1][0, 1:].unflatten(0, half)
        torch.testing.assert_close(
            found["view.1"][:, :, -1].float(), mirrored, atol=2e-2, rtol=1e-2
        )
        assert found["mask"].shape == (16 * grid[0], 16 * grid[1])
        assert set(found["mask"].unique().tolist()) <= {0, 255, *(1 + n for n in sample.labels)}


def test_true_masks_under_full_supervision(
    voc: LabelledImages, tmp_path: Path, settings: Settings
) -> None:
    _, files = made(settings(), voc, tmp_path, "full")
    sample = voc.samples[0]
    mask = load_file(files[sample.name])["mask"]
    assert sample.truth is not None
    truth = read_truth(sample.truth, photo_sizes(voc, settings())[0], 20, sample.labels)
    share = [(mask == index).float().mean().item() for index in truth.unique().tolist()]
    expected = [(truth == index).float().mean().item() for index in truth.unique().tolist()]
    assert share == pytest.approx(expected, abs=0.03)
    assert set(mask.unique().tolist()) == set(truth.unique().tolist())


def test_padding_is_not_seen(voc: LabelledImages, tmp_path: Path, settings: Settings) -> None:
    """The loss of a padded window is that of the same window without padding."""
    config = settings("optim.views=[1.0]", "decoder.dropout=0.0")
    model, files = made(config, voc, tmp_path)
    torch.manual_seed(0)
    decoder = new_decoder(config.decoder, model.clip, model.n_classes)
    model = model.with_config(config, decoder=decoder)
    batch = WindowDraws(list(files.values())[:1], 9, 16, flip=True, seed=0, workers=0).join(
        [0], [0]
    )
    assert batch.inside is not None
    assert not batch.inside.all()
    padded = seg_loss(model, window_features(batch), batch.mask, batch.inside)
    stored = load_file(next(iter(files.values())))
    rows, columns = stored["view.0"].shape[:2]
    tokens = stored["view.0"].float().flatten(0, 1)
    alone = ClipFeatures(
        tuple(torch.cat([torch.zeros(1, 1, 64), tokens[None, :, n]], 1) for n in range(3)),
        (rows, columns), (), (),
    )  # fmt: skip
    expected = seg_loss(model, alone, stored["mask"][None])
    torch.testing.assert_close(padded, expected, atol=1e-5, rtol=1e-5)
    unmarked = seg_loss(model, window_features(batch), batch.mask)
    assert abs(unmarked - expected) > 1e-3


# ---- sizes


def test_bytes_are_those_on_the_disk(
    voc: LabelledImages, tmp_path: Path, settings: Settings
) -> None:
    config = settings()
    model, files = made(config, voc, tmp_path)
    said = cache_bytes(config, model, photo_sizes(voc, config))
    on_disk = sum(path.stat().st_size for path in files.values())
    assert said < on_disk < said + 1000 * len(files)  # heads of files
    assert photo_sizes(voc, config)[0] == read_image(voc.samples[0].image).shape[:2]


def test_views_of_a_photograph_of_voc(settings: Settings) -> None:
    config = settings("data.max_side=640")
    assert view_grids(config, 16, (375, 500)) == [(24, 32), (18, 24)]
    assert view_grids(config, 16, (1500, 2000)) == [(30, 40), (22, 30)]
    assert view_grids(config, 16, (16, 2000)) == [(1, 40), (1, 30)]
    assert cache_passes(settings("optim.views=[1.0, 0.5]")) == pytest.approx(1.25)
    assert cache_passes(settings("optim.views=[1.0]")) == 1


# ---- the choice


class Case(NamedTuple):
    settings: tuple[str, ...]
    chosen: str
    why: str
    supervision: str = "labels"


AUTO = "optim.features=auto"
OFTEN = "optim.iterations=100"
CASES = [
    Case((AUTO, OFTEN), "cached", "about 33 times"),
    Case((AUTO, "optim.iterations=11"), "online", "each image is seen 3.7 times only"),
    Case((AUTO, OFTEN, "optim.features_gb=0.0001"), "online", "6 images would take 0.11 MB"),
    Case((AUTO, OFTEN, "optim.schedule=joint", "cam.mode=cmpa"), "online", "the heads"),
    Case((AUTO, OFTEN, "optim.schedule=joint"), "cached", "33 times"),
    Case((AUTO, OFTEN, "optim.schedule=joint", "cam.mode=cmpa"), "cached", "33 times", "full"),
    Case((AUTO, OFTEN, "affinity.rfm_after=4"), "online", "affinity.rfm_after = 4"),
    Case((AUTO, OFTEN, "affinity.rfm_after=4", "affinity.kind=none"), "cached", "33 times"),
    Case(
        (AUTO, OFTEN, "cmpa.map_order=project_then_pool", "cmpa.bg_prototypes=none"),
        "cached",
        "33 times",
    ),
    Case(("optim.features=online", OFTEN), "online", "optim.features"),
    Case(("optim.iterations=1",), "cached", "about 0 times"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join([*case.settings, case.chosen]))
def test_choice(voc: LabelledImages, tmp_path: Path, settings: Settings, case: Case) -> None:
    config = settings(*case.settings)
    choice = choose_features(config, model_of(config, voc), voc, case.supervision, tmp_path)
    assert choice.features == case.chosen
    assert case.why in choice.why


def test_a_full_disk_decides_for_online(
    voc: LabelledImages, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(AUTO, OFTEN)
    monkeypatch.setattr(module, "free_bytes", lambda folder: 90_000)
    choice = choose_features(config, model_of(config, voc), voc, "labels", tmp_path)
    assert choice.features == "online"
    assert "would take 0.11 MB and 0.09 MB are free" in choice.why


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("optim.schedule=joint", "cam.mode=cmpa"), r"Set optim\.schedule=staged, or optim\.feat"),
        (("affinity.rfm_after=0",), r"affinity\.rfm_after = 0 .* Set affinity\.rfm_after=null, or"),
        (("optim.features_gb=0.00001",), r"0\.11 MB of disk, more than .* optim\.features=online"),
    ],
)
def test_cached_where_it_cannot_be(
    voc: LabelledImages,
    tmp_path: Path,
    settings: Settings,
    overrides: tuple[str, ...],
    message: str,
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(voc, tmp_path / "run", settings(*overrides))


# ---- runs


def same(one: Path, other: Path) -> None:
    found, expected = (load_file(run / "model.safetensors") for run in (other, one))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert (one / "log.csv").read_bytes() == (other / "log.csv").read_bytes()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_the_cache_goes_with_the_run_and_a_shared_one_stays(
    voc: LabelledImages, tmp_path: Path, settings: Settings
) -> None:
    config = settings("optim.iterations=4")
    train(voc, tmp_path / "own", config, stop_after=2)
    assert len(names(tmp_path / "own" / "features")) == 6
    train(voc, tmp_path / "own", config)
    assert not (tmp_path / "own" / "features").exists()
    train(voc, tmp_path / "shared", config, cache=tmp_path / "cache")
    files = names(tmp_path / "cache" / "features")
    assert len(files) == 6
    same(tmp_path / "own", tmp_path / "shared")
    # another decoder learns from the same files
    train(voc, tmp_path / "next", settings("decoder.layers=2"), cache=tmp_path / "cache")
    assert names(tmp_path / "cache" / "features") == files
    train(voc, tmp_path / "other", settings("sgc.high=0.9"), cache=tmp_path / "cache")
    assert len(names(tmp_path / "cache" / "features")) == 12


def test_workers_and_what_was_there_before_change_nothing(
    voc: LabelledImages, tmp_path: Path, settings: Settings
) -> None:
    config = settings("optim.iterations=4", "cam.mode=cmpa")
    train(voc, tmp_path / "straight", config)
    train(voc, tmp_path / "parts", config, stop_after=10)
    kept = sorted((tmp_path / "parts" / "features").rglob("*.safetensors"))
    kept[0].unlink()
    kept[1].write_bytes(kept[1].read_bytes()[:-5])
    other = kept[2].read_bytes()
    kept[3].write_bytes(other)  # of another image
    helped = replace(config, data=replace(config.data, workers=2, patches=100))
    train(voc, tmp_path / "parts", helped)
    same(tmp_path / "straight", tmp_path / "parts")


def test_the_choice_of_the_first_call_holds(
    voc: LabelledImages, tmp_path: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    config = settings(AUTO, "optim.iterations=20")
    train(voc, tmp_path / "run", config, stop_after=2)
    assert (
        load_checkpoint(tmp_path / "run/checkpoint.safetensors").config.optim.features == "cached"
    )
    smaller = settings(AUTO, "optim.iterations=20", "optim.features_gb=0")
    with pytest.raises(ConfigError, match=r"more than optim\.features_gb = 0"):
        train(voc, tmp_path / "run", smaller)
    train(voc, tmp_path / "run", config)
    assert "Features of the decoder: cached, 0.11 MB in" in capfd.readouterr().err
    with pytest.raises(CheckpointError, match=r"optim\.features = 'cached' there, 'online' now"):
        train(voc, tmp_path / "run", settings("optim.features=online", "optim.iterations=20"))


def test_a_stop_while_features_are_made_keeps_what_was_learned(
    voc: LabelledImages, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings("optim.iterations=3", "cam.mode=cmpa")
    train(voc, tmp_path / "straight", config)
    original, count = module.save_views, 0

    def stopping(path: Path, *arguments: object) -> None:
        nonlocal count
        own = tmp_path in path.parents  # and not of the estimate's trial
        count += own
        if own and count == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        original(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "save_views", stopping)
    with pytest.raises(Interrupted, match="8 of 11 iterations are finished"):
        train(voc, tmp_path / "run", config)
    assert len(names(tmp_path / "run" / "features")) == 3
    train(voc, tmp_path / "run", config)
    assert count == 7  # none was made twice but the one that was interrupted
    same(tmp_path / "straight", tmp_path / "run")


def test_no_room_keeps_what_was_learned(
    voc: LabelledImages, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings("optim.iterations=3", "cam.mode=cmpa")
    own = tmp_path / "run" / "features"
    monkeypatch.setattr(module, "free_bytes", lambda folder: 1000 if folder == own else 10**9)
    with pytest.raises(OutputError, match=r"needs 0\.11 MB for .* of 6 images, and 0\.00 MB are"):
        train(voc, tmp_path / "run", config)
    assert load_checkpoint(tmp_path / "run/checkpoint.safetensors").iteration == 8
    monkeypatch.undo()
    assert train(voc, tmp_path / "run", config).finished


def test_names_say_all_that_decides(
    voc: LabelledImages, tmp_path: Path, settings: Settings
) -> None:
    def files(data: LabelledImages, *overrides: str, supervision: str = "labels") -> list[Path]:
        config = settings(*overrides)
        return list(feature_files(model_of(config, data), data, supervision, tmp_path).values())

    plain = files(voc)
    for same in ("data.crop=48", "data.scale=[1, 1]", "optim.seed=3", "data.workers=3"):
        assert files(voc, same) == plain
    others = [
        files(voc, change)
        for change in ("optim.views=[1.0]", "pseudo.alpha=2", "data.flip=false", "sgc.high=0.6")
    ]
    others.append(files(voc, supervision="full"))
    first = voc.samples[0]
    relabelled = replace(voc, samples=(replace(first, labels=(0, 1, 2)), *voc.samples[1:]))
    photo = tmp_path / "other.png"
    Image.new("RGB", (80, 64), "red").save(photo)
    changed = replace(voc, samples=(replace(first, image=photo), *voc.samples[1:]))
    for data in (relabelled, changed):
        found = files(data)
        assert found[1:] == plain[1:]
        others.append(found)
    assert len({plain[0], *(each[0] for each in others)}) == 1 + len(others)


def test_a_photograph_that_changes_meanwhile_is_named(
    voc: LabelledImages, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    shutil.copytree(voc.root, root)
    data = open_labelled(root)
    original = training.make_features

    def late(*arguments: object) -> None:
        known = {sample.image: module.known_digest(sample.image) for sample in data.samples}
        monkeypatch.setattr(module, "known_digest", known.__getitem__)
        Image.new("RGB", (80, 64)).save(data.samples[2].image)
        original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "make_features", late)
    with pytest.raises(DataError, match=r"2007_000002\.jpg has changed since the run has begun"):
        train(data, tmp_path / "run", settings())


def test_features_that_half_precision_cannot_hold(
    voc: LabelledImages, tmp_path: Path, settings: Settings, clip_dir: Path
) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(clip_dir, folder)
    weights = load_file(folder / "model.safetensors")
    weights["vision_model.encoder.layers.0.mlp.fc2.bias"] += 1e5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = settings(f"backbones.clip={folder}")
    with pytest.raises(BackboneError, match=r"half precision .* optim\.features=online"):
        train(voc, tmp_path / "run", config)
