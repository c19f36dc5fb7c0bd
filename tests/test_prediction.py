from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make_tiny import opened_files, tiny_voc
from PIL import Image
from tiny_encoders import tiny_clip, tiny_config
from torch.nn import functional

from ssrseg import mask_folder as module
from ssrseg.data.class_ids import read_class_ids
from ssrseg.data.images import read_image
from ssrseg.data.open import open_images, open_labelled
from ssrseg.data.transforms import resize, to_unit
from ssrseg.errors import (
    BackboneError,
    CheckpointError,
    ConfigError,
    DataError,
    OutputError,
    SSRError,
)
from ssrseg.model import SSR
from ssrseg.networks.clip import PIXEL_MEAN, PIXEL_STD
from ssrseg.networks.dino import FrozenDINO
from ssrseg.prediction import predict
from ssrseg.training import train


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_voc(tmp_path_factory.mktemp("voc") / "tree", n=3)


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, tree: Path, clip_dir: Path, dino_dir: Path
) -> Path:
    """A model trained for a few iterations on true masks, so that it does not say background."""
    config = tiny_config(
        clip_dir, dino_dir, "cam.mode=clip", "optim.iterations=25", "optim.decoder_lr=0.003"
    )
    return train(
        open_labelled(tree), tmp_path_factory.mktemp("run"), config, supervision="full"
    ).run


@pytest.fixture(scope="module")
def model(run: Path) -> SSR:
    return SSR.from_pretrained(run, segment_only=True)


def with_test(model: SSR, **values: object) -> SSR:
    config = model.config
    return model.with_config(replace(config, test=replace(config.test, **values)))


@torch.no_grad()
def one_view(model: SSR, photo: torch.Tensor, sides: tuple[int, int]) -> torch.Tensor:
    """Logits at the photograph's size from one resized copy."""
    image = to_unit(resize(photo, sides, bicubic=False))
    image = (image - torch.tensor(PIXEL_MEAN)[:, None, None]) / torch.tensor(PIXEL_STD)[
        :, None, None
    ]
    features = model.clip.encode(image[None])
    logits = model.decoder(features.tokens, features.grid)
    size = (photo.shape[0], photo.shape[1])
    return functional.interpolate(logits, size, mode="bilinear", align_corners=False)[0]


def test_scales_and_mirror_are_averaged(model: SSR, tree: Path) -> None:
    photo = read_image(tree / "JPEGImages" / "2007_000000.jpg")  # 61 x 75
    wanted = with_test(model, long_side=96, scales=(1.0, 0.5), flip=True)
    views = []
    for sides in ((80, 96), (32, 48)):  # 61 / 75 * 96 = 78 -> 80; half of it: 39 -> 32
        views.append(one_view(model, photo, sides))
        views.append(one_view(model, photo.flip(1), sides).flip(-1))
    expected = torch.stack(views).mean(0).softmax(0)
    found = wanted.probabilities(photo)
    assert found.shape == (21, 61, 75)
    assert (found - expected).abs().max() < 1e-5
    assert (found - views[0].softmax(0)).abs().max() > 1e-3
    single = with_test(model, long_side=96, scales=(1.0,), flip=False).probabilities(photo)
    assert (single - views[0].softmax(0)).abs().max() < 1e-5


def test_prediction(model: SSR, tree: Path) -> None:
    photo = read_image(tree / "JPEGImages" / "2007_000001.jpg")
    found = model.segment_photo(photo, crf=False)
    ids, confidence = found.pseudo_mask, found.confidence
    probabilities = model.probabilities(photo)
    assert torch.equal(ids.long(), probabilities.argmax(0))
    assert torch.allclose(confidence, probabilities.amax(0), atol=1e-6)
    assert len(ids.unique()) > 1
    found = model.segment_photo(photo, crf=True)
    refined, sure = found.pseudo_mask, found.confidence
    assert refined.shape == photo.shape[:2]
    same = refined == ids
    assert 0.2 < same.float().mean() < 1
    assert torch.equal(sure[same], confidence[same])  # the decoder's, not the DenseCRF's
    assert (sure[~same] <= confidence[~same]).all()


def test_it_has_learned_something(model: SSR, tree: Path) -> None:
    sample = open_labelled(tree).samples[0]
    truth = read_class_ids(sample.truth)
    found = model.segment_photo(read_image(sample.image), crf=False).pseudo_mask
    assert (found == truth)[truth != 255].float().mean() > 0.6


def test_a_large_photograph_is_segmented_small_and_enlarged(model: SSR) -> None:
    config = model.config
    small = model.with_config(replace(config, data=replace(config.data, max_side=64)))
    photo = torch.randint(0, 256, (101, 200, 3), dtype=torch.uint8)
    found = small.segment_photo(photo, crf=False)
    ids, confidence = found.pseudo_mask, found.confidence
    assert ids.shape == confidence.shape == (101, 200)
    assert 0 < confidence.min() <= confidence.max() <= 1


def test_only_photographs_and_the_model_are_opened(
    run: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("not needed at test time")

    monkeypatch.setattr(FrozenDINO, "load", refuse)
    monkeypatch.setattr("ssrseg.method.sgc.slic", refuse)
    with opened_files() as paths:
        result = predict(tree / "JPEGImages", tmp_path, run)
    assert result.written == 3
    inside = [Path(path) for path in paths if str(tree) in path and Path(path).suffix]
    assert {path.parent.name for path in inside} == {"JPEGImages"}


def test_a_folder_an_image_and_a_list(run: Path, tree: Path, tmp_path: Path) -> None:
    photos = sorted((tree / "JPEGImages").iterdir())
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a.jpg").write_bytes(photos[0].read_bytes())
    (tmp_path / "in" / "deep" / "b.jpg").write_bytes(photos[1].read_bytes())
    result = predict(tmp_path / "in", tmp_path / "folder", run)
    masks = tmp_path / "folder" / "masks"
    assert (result.written, result.skipped) == (2, 0)
    assert sorted(p.relative_to(masks).as_posix() for p in masks.rglob("*.png")) == [
        "a.png",
        "deep/b.png",
    ]
    assert (tmp_path / "folder" / "classes.txt").read_text().splitlines()[7] == "cat"
    predict(tmp_path / "in" / "a.jpg", tmp_path / "single", run)
    single = tmp_path / "single" / "masks" / "a.png"
    assert single.read_bytes() == (masks / "a.png").read_bytes()
    apart = [photos[2], tmp_path / "in" / "a.jpg"]
    assert predict(apart, tmp_path / "listed", run).written == 2
    assert (tmp_path / "listed" / "masks" / "a.png").read_bytes() == single.read_bytes()
    with Image.open(single) as mask, Image.open(photos[0]) as photo:
        assert (mask.mode, mask.size) == ("P", photo.size)


def test_images_by_name(run: Path, tree: Path, tmp_path: Path) -> None:
    images = open_images(tree, split="val")
    assert predict(images, tmp_path / "val", run).written == len(images) == 1
    assert [path.name for path in (tmp_path / "val" / "masks").iterdir()] == ["2007_000002.png"]
    predict({"night/a.b": images["2007_000002"]}, tmp_path / "named", run)
    named = tmp_path / "named" / "masks" / "night" / "a.b.png"
    assert named.read_bytes() == (tmp_path / "val" / "masks" / "2007_000002.png").read_bytes()


def test_paths_as_text(
    run: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes((tree / "JPEGImages" / "2007_000000.jpg").read_bytes())
    forms = {"folder": "in", "file": "in/a.jpg", "list": ["in/a.jpg"], "names": {"a": "in/a.jpg"}}
    for out, images in forms.items():
        assert predict(images, out, str(run)).written == 1, out
        assert (Path(out) / "masks" / "a.png").is_file()
    monkeypatch.setenv("HOME", str(tmp_path))
    for images in ("~/in", "~/in/a.jpg", ["~/in/a.jpg"], {"a": "~/in/a.jpg"}):
        assert predict(images, "~/folder", run).skipped == 1
    with pytest.raises(DataError, match="the path of images is empty"):
        predict("", "out", str(run))
    with pytest.raises(DataError, match="nowhere does not exist"):
        predict("nowhere", "out", str(run))
    with pytest.raises(ConfigError, match=r'"quantum" \(--device\) cannot be used here'):
        predict("in", "out", str(run), device="quantum")


def test_a_model_of_the_hub(
    run: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(repo: str, file: str, **_: object) -> str:
        assert repo == "somebody/dogs"
        return str(run / file)

    monkeypatch.setattr("ssrseg.checkpoint.model_info", lambda *_, **__: None)
    monkeypatch.setattr("ssrseg.checkpoint.hf_hub_download", fetch)
    photo = tree / "JPEGImages" / "2007_000000.jpg"
    predict(photo, tmp_path, "somebody/dogs")
    assert predict(photo, tmp_path, run).skipped == 1  # the same model


def test_confidence_and_review_of_predictions(
    run: Path, model: SSR, tree: Path, tmp_path: Path
) -> None:
    result = predict(tree / "JPEGImages", tmp_path, run, crf=True, confidence=True)
    for image in sorted((tree / "JPEGImages").iterdir()):
        found = model.segment_photo(read_image(image), crf=True)
        with Image.open(tmp_path / "confidence" / f"{image.stem}.png") as grey:
            written = np.asarray(grey) / 255
        assert np.abs(written - found.confidence.numpy()).max() < 0.51 / 255
        assert result.reviews[image.stem] == found.review
    again = predict(tree / "JPEGImages", tmp_path, run, crf=True, confidence=True)
    assert (again.written, again.reviews) == (0, result.reviews)
    scores = [review.score for review in result.reviews.values()]
    assert scores == sorted(scores) and all(0 <= score <= 1 for score in scores)


def test_started_again(
    run: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, written = module.write_mask, []

    def counting(path: Path, ids: object, made_for: str, note: str) -> None:
        if len(written) == 1 and not path.parent.joinpath("go").exists():
            raise KeyboardInterrupt
        written.append(path.name)
        original(path, ids, made_for, note)

    monkeypatch.setattr(module, "write_mask", counting)
    with pytest.raises(KeyboardInterrupt):
        predict(tree / "JPEGImages", tmp_path, run)
    (tmp_path / "masks" / "go").touch()
    result = predict(tree / "JPEGImages", tmp_path, run)
    assert (result.written, result.skipped) == (2, 1)
    assert written == [f"2007_00000{i}.png" for i in range(3)]
    assert predict(tree / "JPEGImages", tmp_path, run).written == 0
    assert predict(tree / "JPEGImages", tmp_path, run, overwrite=True).written == 3


def test_a_full_disk_ends_the_call_and_a_lost_photograph_only_its_own_mask(
    run: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = module.write_mask
    error: SSRError = OutputError("the disk is full")

    def refusing(path: Path, *arguments: Any) -> None:
        if path.stem == "2007_000001":
            raise error
        original(path, *arguments)

    monkeypatch.setattr(module, "write_mask", refusing)
    with pytest.raises(OutputError, match="the disk is full"):
        predict(tree / "JPEGImages", tmp_path / "full", run)
    error = DataError("2007_000001.jpg is gone")
    result = predict(tree / "JPEGImages", tmp_path / "gone", run)
    assert result.written == 2
    assert [(each.name, each.reason) for each in result.failures] == [
        ("2007_000001", "2007_000001.jpg is gone")
    ]
    with pytest.raises(DataError, match="is gone"):
        predict(tree / "JPEGImages", tmp_path / "strict", run, strict=True)


def test_another_photograph_of_that_name_gets_another_mask(
    run: Path, tree: Path, tmp_path: Path
) -> None:
    other = read_image(tree / "JPEGImages" / "2007_000000.jpg").flip(1).numpy()
    Image.fromarray(other).save(tmp_path / "mirrored.png")
    photos = {name: tree / "JPEGImages" / f"{name}.jpg" for name in ("2007_000000", "2007_000001")}
    photos["mirrored"] = tmp_path / "mirrored.png"
    out = tmp_path / "out"
    for name, written, renewed in (
        ("2007_000000", 1, 0),
        ("2007_000000", 0, 0),
        ("mirrored", 1, 1),  # of the same size
        ("2007_000001", 1, 1),  # of another one
    ):
        result = predict({"a": photos[name]}, out, run)
        assert (result.written, result.renewed) == (written, renewed), name
        mask = read_class_ids(out / "masks" / "a.png")
        alone = predict({"a": photos[name]}, tmp_path / name, run)
        assert mask.equal(read_class_ids(alone.out / "masks" / "a.png"))


def test_a_mask_corrected_by_hand_is_kept(run: Path, tree: Path, tmp_path: Path) -> None:
    photo = tree / "JPEGImages" / "2007_000000.jpg"
    predict(photo, tmp_path, run)
    path = tmp_path / "masks" / "2007_000000.png"
    mask = Image.open(path)
    mask.load()
    mask.paste(7, (0, 0, 20, 20))
    mask.save(path)
    corrected = path.read_bytes()
    assert predict(photo, tmp_path, run).corrected == ("2007_000000",)
    assert path.read_bytes() == corrected
    assert predict(photo, tmp_path, run, overwrite=True).written == 1
    assert path.read_bytes() != corrected


def test_images_that_cannot_be_used_end_nothing(run: Path, tree: Path, tmp_path: Path) -> None:
    photos = sorted((tree / "JPEGImages").iterdir())
    images = {path.stem: path for path in photos} | {"bad": tmp_path / "bad.jpg"}
    images |= {"gone": tmp_path / "gone.jpg"}
    images["bad"].write_bytes(photos[0].read_bytes()[:200])
    result = predict(dict(reversed(images.items())), tmp_path / "out", run)
    assert result.written == 3
    assert [each.name for each in result.failures] == ["gone", "bad"]
    assert (tmp_path / "out" / "failures.csv").read_text().count("\n") == 3
    with pytest.raises(DataError, match=r"gone\.jpg does not exist"):
        predict(dict(reversed(images.items())), tmp_path / "strict", run, strict=True)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rules for names")
def test_names_that_only_the_file_system_allows(run: Path, tree: Path, tmp_path: Path) -> None:
    photo = (tree / "JPEGImages" / "2007_000000.jpg").read_bytes()
    folder = tmp_path / "photos"
    folder.mkdir()
    names = [b"n" * 251 + b".jpg", b"k\xe4fer.jpg", "line\nbreak\u2028.jpg".encode(), b"=cmd().jpg"]
    for name in names:
        Path(folder, os.fsdecode(name)).write_bytes(photo)
    result = predict(folder, tmp_path / "out", run)
    assert (result.written, result.failures) == (4, ())
    masks = os.listdir(os.fsencode(tmp_path / "out" / "masks"))
    assert sorted(masks) == sorted(name[:-4] + b".png" for name in names)
    assert predict(folder, tmp_path / "out", run).skipped == 4
    long = tmp_path / ("n" * 253)  # with .png it is too long for a name
    long.write_bytes(photo)
    for overwrite in (False, True):
        result = predict(long, tmp_path / "out", run, overwrite=overwrite)
        (failure,) = result.failures
        assert f"The mask of {long} cannot be named" in failure.reason
        assert "(File name too long). Shorten" in failure.reason


def test_masks_beside_the_photographs_are_no_photographs(
    run: Path, tree: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes((tree / "JPEGImages" / "2007_000000.jpg").read_bytes())
    assert predict(tmp_path, tmp_path, run).written == 1
    result = predict(tmp_path, tmp_path, run)
    assert (result.written, result.skipped) == (0, 1)
    assert [path.name for path in tmp_path.rglob("*.png")] == ["a.png"]


def test_other_settings_at_test_time(run: Path, model: SSR, tree: Path, tmp_path: Path) -> None:
    other = with_test(model, scales=(0.5,), flip=False)
    predict(tree / "JPEGImages", tmp_path, run, test=other.config.test)
    photo = tree / "JPEGImages" / "2007_000000.jpg"
    expected = other.segment_photo(read_image(photo)).pseudo_mask
    assert read_class_ids(tmp_path / "masks" / "2007_000000.png").equal(expected)
    assert not model.segment_photo(read_image(photo)).pseudo_mask.equal(expected)
    extra = tmp_path / "masks" / "2007_000001.png"
    extra.unlink()
    with pytest.raises(
        ConfigError,
        match=r"made with other settings \(test\.scales = \[0\.5\] there, \[1\.0\] now;"
        r" test\.flip = false there, true now\)",
    ):
        predict(tree / "JPEGImages", tmp_path, run)


def test_two_images_of_one_name(run: Path, tree: Path, tmp_path: Path) -> None:
    photo = Image.open(tree / "JPEGImages" / "2007_000000.jpg")
    for suffix in (".png", ".jpg"):
        photo.save(tmp_path / f"a{suffix}")
    photo.close()
    with pytest.raises(DataError, match=r"a\.jpg .*a\.png .*same name"):
        predict(tmp_path, tmp_path / "out", run)
    assert not (tmp_path / "out").exists()


def test_faults(run: Path, tree: Path, tmp_path: Path, dino_dir: Path) -> None:
    with pytest.raises(CheckpointError, match=r"without model\.safetensors"):
        predict(tree / "JPEGImages", tmp_path / "out", tree)
    with pytest.raises(DataError, match="does not exist"):
        predict(tmp_path / "absent", tmp_path / "out", run)
    with pytest.raises(DataError, match="the list is empty"):
        predict([], tmp_path / "out", run)
    with pytest.raises(BackboneError, match="is not a clip"):
        predict(tree / "JPEGImages", tmp_path / "out", run, clip=str(dino_dir))
    other = tiny_clip(tmp_path / "wide", width=128)
    with pytest.raises(CheckpointError, match=r"was trained with another CLIP than .*--clip"):
        predict(tree / "JPEGImages", tmp_path / "out", run, clip=str(other))
    assert not (tmp_path / "out").exists()
    (tmp_path / "bad").mkdir()
    Image.new("RGB", (9, 30)).save(tmp_path / "bad" / "thin.png")
    with pytest.raises(DataError, match=r"thin\.png is 9 x 30 pixels"):
        predict(tmp_path / "bad", tmp_path / "out", run, strict=True)


def test_black_and_white_of_photographs_of_twelve_bits(
    run: Path, tree: Path, tmp_path: Path
) -> None:
    grey = np.asarray(Image.open(tree / "JPEGImages" / "2007_000000.jpg").convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 8).save(tmp_path / "a.png")  # 0 .. 2040
    Image.fromarray(grey).save(tmp_path / "b.png")
    for name in ("a", "b"):
        photo = tmp_path / f"{name}.png"
        predict(photo, tmp_path / "out", run, value_range=(0.0, 2040.0))
    out = tmp_path / "out" / "masks"
    assert read_class_ids(out / "a.png").equal(read_class_ids(out / "b.png"))
    with pytest.raises(ConfigError, match=r"data\.range = \[0\.0, 2040\.0\] there, null now"):
        predict(tmp_path / "a.png", tmp_path / "out", run)
    with pytest.raises(ConfigError, match="range"):
        predict(tmp_path / "a.png", tmp_path / "other", run, value_range=(9.0, 9.0))
