"""Photographs as training material: tags, views of them, and the stem's features of the views."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from make_tiny import opened_files, tiny_voc
from tiny_encoders import clip_config, dino_model
from tiny_photos import AROUND, THINGS
from torch import Tensor, nn
from transformers import CLIPModel, PreTrainedModel, ViTModel

from encoders import photos as module
from encoders.clip_photos import encode_stem
from encoders.dino import encode_patches
from encoders.photos import (
    MID,
    SIDE,
    TOP,
    Box,
    Features,
    Photo,
    StemViews,
    cut_view,
    fingerprint,
    fold_stem,
    frozen_stem,
    jitter,
    join,
    open_photos,
    places,
    sampling_weights,
)
from ssrseg.data.classes import VOC_CLASSES
from ssrseg.errors import DataError


def test_tags_of_photographs_and_what_is_known_of_them(folders: tuple[str, str]) -> None:
    things, around = folders
    found = open_photos([things, around])
    assert len(found) == len(THINGS) + len(AROUND)
    assert [photo.path.name for photo in found[:2]] == ["photo0.png", "photo1.png"]
    assert found[0].present == {"cat", "person"}
    assert found[0].known == {"cat", "cow", "dog", "horse", "person", "sheep"}
    # "zebra" is no tag, "body" is a person, and a face is one's, too
    assert [set(photo.present) for photo in found[len(THINGS) :]] == [
        {"cow", "grass", "sky"},
        {"building", "road", "sky"},
        {"face", "person", "tree", "water"},
        {"person", "mountain", "sign"},
    ]
    words = {word for labels in AROUND for word in labels.split(";")} - {"zebra", "body"}
    assert {photo.known for photo in found[len(THINGS) :]} == {frozenset(words | {"person"})}


def test_parts_of_a_folder(folders: tuple[str, str], tmp_path: Path) -> None:
    things, _ = folders
    whole, even, odd = (open_photos([things + part]) for part in ("", ":even", ":odd"))
    assert even == whole[::2] and odd == whole[1::2] and len(odd) == 3
    tree = tiny_voc(tmp_path / "voc", n=6)
    val = open_photos([f"{tree}:val"])
    listed = (tree / "ImageSets/Segmentation/val.txt").read_text().split()
    assert [photo.path.stem for photo in val] == listed and len(listed) == 2
    assert [photo.present for photo in val] == [{"cat"}, {"bird", "dog"}]
    assert val[0].known == set(VOC_CLASSES)  # also those that no photograph shows
    with pytest.raises(DataError, match="tset"):
        open_photos([f"{tree}:tset"])


def test_no_mask_is_opened(
    lite0: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, asked, original = tiny_voc(tmp_path / "voc", n=3), [], PIL.Image.open
    spy = lambda path, *a, **k: (asked.append(str(path)), original(path, *a, **k))[1]  # noqa: E731
    monkeypatch.setattr(PIL.Image, "open", spy)
    with opened_files() as opened:
        StemViews(tmp_path / "views", open_photos([str(tree)]), 1, seed=0)
    paths = [*asked, *opened]
    assert len({path for path in paths if path.endswith(".jpg")}) == 3  # the spy does see them
    assert [path for path in paths if "SegmentationClass" in path] == []


def tagged(*names: str, known: tuple[str, ...] = ()) -> Photo:
    return Photo(Path("a.png"), frozenset(names), frozenset(known or names))


def test_fingerprint_tells_pictures_and_labels_apart(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", "b.png", "copy.png")]
    for path, content in zip(paths, (b"one", b"two", b"one"), strict=True):
        path.write_bytes(content)
    some = [
        replace(tagged(name), path=path) for name, path in zip(("dog", "cat"), paths, strict=False)
    ]
    copied = [replace(some[0], path=paths[2]), some[1]]
    assert fingerprint(some) == fingerprint(copied)
    assert fingerprint(some).startswith("2 photographs ")
    others = (
        [some[0], replace(some[1], present=some[0].present)],
        [replace(some[0], path=paths[1]), some[1]],
        [replace(some[0], known=frozenset({"dog", "sky"})), some[1]],
    )
    assert len({fingerprint(each) for each in (some, some[::-1], *others)}) == 5


def test_rare_tags_and_known_backgrounds_are_drawn_more_often() -> None:
    dogs, cats = 160 * [tagged("dog")], 40 * [tagged("dog", "cat")]
    few = 10 * [tagged("cow")]
    around = 30 * [tagged("sheep", known=("sheep", "sky"))]
    weights = sampling_weights([*dogs, *cats, *few, *around, tagged(known=("cow",))])
    assert weights.sum() == pytest.approx(1)
    dog, cat, cow, sheep, nothing = weights[[0, 160, 200, 210, 240]]
    assert cat / dog == pytest.approx((200 / 40) ** 0.5)  # by its rarest tag
    assert cow / dog == pytest.approx((200 / 30) ** 0.5)  # as if there were thirty
    assert sheep / cow == pytest.approx(1.5)
    assert nothing / dog == pytest.approx((200 / 500) ** 0.5)


def coordinates(height: int, width: int) -> np.ndarray:
    """A photograph that holds its own coordinates, row and column, as shares of 250."""
    down, across = np.mgrid[0:height, 0:width]
    rows, columns = 250 * (down + 0.5) / height, 250 * (across + 0.5) / width
    return np.stack([rows, columns, columns], -1).round().astype(np.uint8)


@pytest.mark.parametrize("shape", [(180, 240), (100, 400)])
def test_a_view_shows_what_its_box_says(shape: tuple[int, int]) -> None:
    photo, rng = coordinates(*shape), np.random.default_rng(0)
    areas, mirrored, ratios = [], [], []
    along = (np.arange(SIDE) + 0.5) / SIDE
    for _ in range(40):
        view, box = cut_view(photo, rng, whole=False)
        assert view.shape == (SIDE, SIDE, 3) and view.dtype == np.uint8
        assert 0 <= box.top < box.bottom <= 1 and 0 <= box.left < box.right <= 1
        tall, wide = box.bottom - box.top, box.right - box.left
        rows, columns = box.top + along * tall, box.left + along * wide
        columns = columns[::-1] if box.mirrored else columns
        inner = slice(8, -8)  # at the rim pixels outside the photograph are missing
        assert np.abs(view[:, :, 0] - 250 * rows[:, None])[inner].max() < 3
        assert np.abs(view[:, :, 1] - 250 * columns[None, :])[:, inner].max() < 3
        areas.append(tall * wide)
        ratios.append(wide * shape[1] / (tall * shape[0]))
        mirrored.append(box.mirrored)
    assert 0.3 < np.mean(mirrored) < 0.7 and set(mirrored) == {True, False}
    if shape == (180, 240):
        assert 0.29 < min(areas) < 0.5 < max(areas) <= 1
        assert np.exp(-0.6) - 1e-6 <= min(ratios) < 0.8 and 1.2 < max(ratios) <= np.exp(0.6) + 1e-6
    else:  # no view of a long photograph is as long
        assert 1.5 < max(ratios) < np.exp(0.3) * 2 + 1e-6 < 4


def test_a_view_of_the_whole_shows_all_of_it() -> None:
    photo, rng = coordinates(90, 120), np.random.default_rng(0)
    found = [cut_view(photo, rng, whole=True) for _ in range(12)]
    assert {box[:4] for _, box in found} == {(0, 0, 1, 1)}
    views = {box.mirrored: view for view, box in found}
    assert np.array_equal(views[False], views[True][:, ::-1])
    rows = views[False][:, :, 0].mean(1)
    assert rows[0] < 3 and rows[-1] > 247 and (np.diff(rows) >= 0).all()


def test_jitter_changes_colours_and_greys_a_tenth() -> None:
    rng = np.random.default_rng(0)
    # two colours of the same brightness, which differ in nothing when grey
    image = np.full((8, 8, 3), (0.7, 0.3, 0.5))
    image[:, 4:] = (0.3, 0.3 + 0.4 * 0.299 / 0.587, 0.5)
    grey = 0
    for _ in range(300):
        found = jitter(image, rng)
        assert found.shape == image.shape and found.min() >= 0 and found.max() <= 1
        assert np.abs(found - image).max() > 0.005
        grey += np.abs(found[:, 0] - found[:, 4]).max() < 1e-9
    assert 15 < grey < 50


@pytest.mark.parametrize(("side", "grid"), [(5, 8), (20, 24)])
def test_places_against_a_slow_loop(side: int, grid: int) -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([cut_view(coordinates(60, 80), rng, whole=False)[1] for _ in range(6)])
    boxes[0] = 0, 0, 1, 1, 0
    boxes[1] = 0, 0.2, 1, 1, 1
    found = places(boxes, side, grid)
    assert found.shape == (6, side, side)
    for view, each in enumerate(boxes):
        box = Box(*each)
        for row in range(side):
            for column in range(side):
                across = (side - 1 - column if box.mirrored else column) + 0.5
                y = box.top + (row + 0.5) / side * (box.bottom - box.top)
                x = box.left + across / side * (box.right - box.left)
                cell = min(int(y * grid), grid - 1), min(int(x * grid), grid - 1)
                assert found[view, row, column] == cell[0] * grid + cell[1]


def test_a_whole_photograph_of_the_tables_grid_has_its_rows_in_order() -> None:
    straight, mirrored = places(np.array([[0, 0, 1, 1, 0], [0, 0, 1, 1, 1]], float), 6, 6)
    assert torch.equal(straight, torch.arange(36).view(6, 6))
    assert torch.equal(mirrored, straight.flip(1))


def test_places_are_where_the_pixels_of_a_view_are_from() -> None:
    photo, rng, grid = coordinates(200, 300), np.random.default_rng(3), 24
    for _ in range(10):
        view, box = cut_view(photo, rng, whole=False)
        patches = view.reshape(20, 16, 20, 16, 3).mean((1, 3)) / 250 * grid - 0.5
        found = places(np.array([box]), 20, grid)[0].numpy()
        for channel, cells in ((0, found // grid), (1, found % grid)):
            assert np.abs(patches[..., channel] - cells).max() < 0.7


def test_a_view_is_the_stem_on_the_pixels_it_says(
    lite0: dict[str, Tensor], folders: tuple[str, str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "jitter", lambda image, rng: image)
    some = open_photos([folders[1] + ":even"])
    views = StemViews(tmp_path, some, 2, seed=7)
    features = views[np.array([1, 0]), np.array([0, 1])]
    assert features.mid.shape == (2, MID, 20, 20) and features.top.shape == (2, TOP, 10, 10)
    assert features.mid.dtype == torch.float32
    assert tuple(features.boxes[1, :4]) == (0, 0, 1, 1) != tuple(features.boxes[0, :4])
    for mid, top, numbers, photo in zip(*features, some, strict=True):
        box = Box(*numbers)
        with PIL.Image.open(photo.path) as image:
            part = image.resize(
                (SIDE, SIDE), PIL.Image.Resampling.BILINEAR,
                box=(120 * box.left, 90 * box.top, 120 * box.right, 90 * box.bottom),
            )  # fmt: skip
        if box.mirrored:
            part = part.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = (torch.from_numpy(np.array(part)).permute(2, 0, 1) - 127.0) / 128
        with torch.no_grad():
            whole = frozen_stem()(pixels[None])[0]
        kept = join(Features(mid[None], top[None], numbers[None]))[0]
        assert whole.std() > 0.3
        assert (kept - whole).abs().max() < 2e-3 * whole.abs().max()


def test_colours_of_a_view_are_changed_before_the_stem(
    lite0: dict[str, Tensor], folders: tuple[str, str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    some, at = open_photos([folders[1]])[:1], (np.array([0]), np.array([0]))
    changed = StemViews(tmp_path / "changed", some, 1, seed=0)[at]
    monkeypatch.setattr(module, "jitter", lambda image, rng: image)
    plain = StemViews(tmp_path / "plain", some, 1, seed=0)[at]
    assert np.array_equal(changed.boxes, plain.boxes)
    assert (changed.mid - plain.mid).abs().mean() > 0.02 * plain.mid.abs().mean()


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def stop_after(calls: int, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Views are computed ``calls`` times, then the power fails."""
    left, read = [calls], module.read_image

    def reading(path: Path) -> Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(module, "read_image", reading)
    return monkeypatch


def test_interrupted_and_resumed_views_are_the_same_files(
    lite0: dict[str, Tensor], folders: tuple[str, str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    some = open_photos([folders[1] + ":odd"])
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    StemViews(straight, some, 2, seed=0)
    assert sorted(content(straight)) == ["boxes.npy", "mid.npy", "top.npy", "views.json"]
    with monkeypatch.context() as patch:
        stop_after(3, patch)  # in the middle of the second view
        with pytest.raises(KeyboardInterrupt):
            StemViews(broken, some, 2, seed=0)
    assert json.loads((broken / "views.json").read_text())["done"] == 1
    stop_after(2, monkeypatch)  # the first view is not computed again
    StemViews(broken, some, 2, seed=0)
    assert content(broken) == content(straight)
    StemViews(broken, some, 2, seed=0)  # nor is anything now


def test_other_seeds_and_photographs_start_anew(
    lite0: dict[str, Tensor], folders: tuple[str, str], tmp_path: Path
) -> None:
    some = open_photos([folders[1] + ":odd"])
    others = open_photos([folders[1] + ":even"])
    StemViews(tmp_path / "views", some, 1, seed=0)
    for photos, seed in ((some, 1), (others, 1)):
        before = content(tmp_path / "views")
        StemViews(tmp_path / "views", photos, 1, seed)
        StemViews(tmp_path / f"fresh{fingerprint(photos)}", photos, 1, seed)
        after = content(tmp_path / "views")
        assert after == content(tmp_path / f"fresh{fingerprint(photos)}")
        assert after["views.json"] != before["views.json"] and after["mid.npy"] != before["mid.npy"]


def test_files_begun_anew_are_never_taken_for_the_old_ones(
    lite0: dict[str, Tensor], folders: tuple[str, str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    some = open_photos([folders[1] + ":odd"])
    StemViews(tmp_path, some, 1, seed=0)
    before = content(tmp_path)
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            StemViews(tmp_path, some, 1, seed=1)
    StemViews(tmp_path, some, 1, seed=0)
    assert content(tmp_path) == before


def test_moments_are_of_the_joined_channels(
    lite0: dict[str, Tensor], photos: tuple[Photo, ...], cache: Path
) -> None:
    views = StemViews(cache, photos, 2, seed=0)
    mean, deviation = views.moments(seed=0)
    assert mean.shape == deviation.shape == (MID + TOP, 1, 1)
    every = np.arange(len(photos))
    mid, top, _ = first = views[np.zeros_like(every), every]
    assert all(map(np.array_equal, views.some(seed=1), first))  # there are only ten
    assert torch.allclose(mean[:MID, 0, 0], mid.mean((0, 2, 3)), atol=1e-4)
    assert torch.allclose(mean[MID:, 0, 0], top.mean((0, 2, 3)), rtol=0.05, atol=0.1)
    assert torch.allclose(deviation[:MID, 0, 0], mid.std((0, 2, 3)), rtol=1e-3)
    # resized channels vary less
    assert (deviation[MID:, 0, 0] < 1.001 * top.std((0, 2, 3))).all()


class Many:
    """Photographs whose views are their own numbers."""

    photos = range(1500)
    chosen = StemViews.chosen

    def __getitem__(self, chosen: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return chosen


def test_some_are_the_first_views_of_600_photographs() -> None:
    views, numbers = StemViews.some(Many(), 0)
    assert len(numbers) == 600 and (np.diff(numbers) > 0).all() and (views == 0).all()
    assert numbers.min() < 20 and 1480 <= numbers.max() < 1500
    again, other = (StemViews.some(Many(), seed)[1] for seed in (0, 1))
    assert np.array_equal(numbers, again) and not np.array_equal(numbers, other)


def whitened(pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Channels of the stem of mean 0 and deviation 1; mean and deviation that they had."""
    channels = frozen_stem()(pixels)
    mean, deviation = channels.mean((0, 2, 3)), channels.std((0, 2, 3))
    mean, deviation = mean[:, None, None], deviation[:, None, None]
    return (channels - mean) / deviation, mean, deviation


def given_patch_embedding(model: PreTrainedModel, place: str, channels: int, width: int) -> None:
    """A 1 x 1 convolution of channels in the place of that of pixels."""
    torch.manual_seed(5)
    embedding = nn.Conv2d(channels, width, 1)
    nn.init.normal_(embedding.weight, std=channels**-0.5)
    nn.init.normal_(embedding.bias)
    model.set_submodule(place, embedding)


def test_a_folded_clip_on_pixels_is_the_one_on_whitened_channels(lite0: dict[str, Tensor]) -> None:
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    shape = {"width": 32, "heads": 2, "depth": 2, "dim": 16, "text": text, "image_size": 64}
    torch.manual_seed(0)
    model, place = CLIPModel(clip_config(**shape)), "vision_model.embeddings.patch_embedding"
    given_patch_embedding(model, place, MID + TOP, 32)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        channels, mean, deviation = whitened(pixels)
        config = clip_config(**shape, stem_blocks=16)
        folded = fold_stem(model, config, place, mean, deviation).eval()
        found = folded.vision_model(pixels).last_hidden_state[:, 1:]
        tower = encode_stem(model.eval(), channels, torch.arange(16).expand(2, -1))
        found = folded.visual_projection(folded.vision_model.post_layernorm(found))
        assert tower.patches.std() > 0.1
        assert (found - tower.patches).abs().max() < 1e-4 * tower.patches.abs().max()
    own, frozen = folded.state_dict(), frozen_stem().state_dict()
    assert all(
        torch.equal(own[f"{place}.{name}"], value)
        for name, value in frozen.items()
        if "projection" not in name
    )
    assert torch.equal(own["text_projection.weight"], model.text_projection.weight)


def test_a_folded_vit_on_pixels_is_the_one_on_whitened_channels(lite0: dict[str, Tensor]) -> None:
    model, place = dino_model(), "embeddings.patch_embeddings.projection"
    assert isinstance(model, ViTModel)
    given_patch_embedding(model, place, MID, 64)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        channels, mean, deviation = (each[..., :MID, :, :] for each in whitened(pixels))
        config = dino_model(stem_blocks=11).config
        folded = fold_stem(model, config, place, mean, deviation).eval()
        where = torch.arange(16).expand(2, -1)
        expected, _ = encode_patches(model, channels.flatten(2).mT, where)
        found = folded(pixels).last_hidden_state
    assert expected.std() > 0.1
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
