"""Photographs as training material: what is read, and which parts and captions are drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from make_tiny import tiny_voc

from encoders import photos as photos_module
from encoders.clip import ClipObjective, ClipRecipe
from encoders.dino import DinoRecipe
from encoders.photos import (
    LONG_SIDE,
    CaptionedPhotos,
    Photo,
    PhotoPictures,
    View,
    cut_view,
    fingerprint,
    jitter,
    kinds_in,
    open_photos,
    sampling_weights,
    split_off,
)
from encoders.surroundings import Corner
from ssrseg.networks.clip import PIXEL_MEAN, PIXEL_STD, FrozenCLIP

TINY = ClipRecipe(
    views=32, batch=8, width=32, depth=2, heads=2, text_width=16, text_depth=1, dim=16,
    windows=(4, 6), late_share=0.25,
)  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return tiny_voc(tmp_path / "voc", n=12)


def made_up(count: int = 40) -> list[Photo]:
    """Half dogs on grass, a quarter cats, a quarter cats with persons; pixels are noise."""
    rng = np.random.default_rng(0)
    grass = (Corner("grass", 0.89, 0.16), Corner("grass", 0.89, 0.84))
    kinds = [
        (("dog",), grass),
        (("cat",), ()),
        (("dog",), grass),
        (("cat", "person"), (Corner("wall", 0.11, 0.16),)),
    ]
    return [
        Photo(f"photo{k}", rng.integers(0, 256, (90, 120, 3), dtype=np.uint8), *kinds[k % 4])
        for k in range(count)
    ]


def test_photographs_of_a_split_with_their_labels(tree: Path) -> None:
    photos = open_photos([f"{tree}:val"])
    listed = (tree / "ImageSets/Segmentation/val.txt").read_text().split()
    assert [photo.name for photo in photos] == listed
    assert len(open_photos([str(tree)])) == 12
    assert len(open_photos([f"{tree}:train", f"{tree}:val"])) == 12
    assert {label for photo in photos for label in photo.labels} <= {"bird", "cat", "dog"}
    assert all(photo.labels for photo in photos)
    assert all(max(photo.image.shape[:2]) <= LONG_SIDE for photo in photos)


def test_large_photographs_are_shrunk(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    pixels = np.zeros((300, 600, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "images/a.png")
    (tmp_path / "labels.csv").write_text("image,labels\nimages/a.png,dog\n")
    (photo,) = open_photos([str(tmp_path)])
    assert photo.image.shape == (LONG_SIDE // 2, LONG_SIDE, 3)
    assert photo.labels == ("dog",)


def test_every_twentieth_is_held_out() -> None:
    kept, out = split_off(made_up(45))
    assert [photo.name for photo in out] == ["photo19", "photo39"]
    assert len(kept) == 43
    assert not {photo.name for photo in kept} & {"photo19", "photo39"}


def test_fingerprint_tells_labels_apart() -> None:
    photos = made_up(4)
    other = [*photos[:3], replace(photos[3], labels=("cat",))]
    assert fingerprint(photos) == fingerprint(made_up(4)) != fingerprint(other)
    assert fingerprint(photos).startswith("4 photographs ")


def test_rare_classes_are_drawn_more_often() -> None:
    photos = made_up(400)  # 200 dogs, 200 cats, 100 of them with a person
    weights = sampling_weights(photos)
    assert weights.sum() == pytest.approx(1)
    assert weights[3] / weights[0] == pytest.approx(2**0.5)
    assert weights[1] == weights[0]


def test_a_view_shows_what_its_box_says() -> None:
    # a photograph that holds its own coordinates
    down, across = np.mgrid[0:180, 0:240]
    photo = np.stack([down, across, across], -1).astype(np.uint8)
    rng = np.random.default_rng(0)
    areas, flips = [], []
    for _ in range(60):
        view = cut_view(photo, 32, rng)
        top, left, bottom, right = view.box
        assert 0 <= top < bottom <= 1 + 1e-9 and 0 <= left < right <= 1 + 1e-9
        first, last = (right, left) if view.flipped else (left, right)
        assert view.image[:, 0, 1].mean() == pytest.approx(240 * first, abs=6)
        assert view.image[:, -1, 1].mean() == pytest.approx(240 * last, abs=6)
        assert view.image[0, :, 0].mean() == pytest.approx(180 * top, abs=6)
        areas.append((bottom - top) * (right - left))
        flips.append(view.flipped)
    assert min(areas) > 0.24
    assert 0.3 < np.mean(flips) < 0.7


def test_jitter_stays_in_range_and_greys_some() -> None:
    images = torch.rand(200, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = jitter(images, np.random.default_rng(0))
    assert found.min() >= 0 and found.max() <= 1
    assert not torch.equal(found, images)
    # of a grey picture only the cast is left, which is the same for every pixel up to clipping
    inner = found.clamp(0.02, 0.98)
    spread = (inner[:, 0] - inner[:, 2]).flatten(1).std(1)
    assert 0.04 < (spread < 0.04).float().mean() < 0.2


@pytest.fixture(scope="module")
def captioned() -> CaptionedPhotos:
    return CaptionedPhotos(TINY, made_up(), made_up(20))


def test_a_batch_depends_on_the_step_alone(captioned: CaptionedPhotos) -> None:
    again = CaptionedPhotos(TINY, made_up(), made_up(20))
    one, two = captioned.batch(2), again.batch(2)
    assert torch.equal(one.pixels, two.pixels) and torch.equal(one.places, two.places)
    assert one.captions == two.captions and torch.equal(one.right, two.right)
    assert not torch.equal(one.pixels, captioned.batch(1).pixels)
    assert one.pixels.shape == (8, 3, 32, 32)
    assert captioned.batch(3).pixels.shape == (8, 3, 48, 48)


def test_places_are_where_the_patches_lie(
    captioned: CaptionedPhotos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photos_module, "jitter", lambda images, rng: images)
    down, across = np.mgrid[0:200, 0:200]
    image = np.stack([down, across, across], -1).astype(np.uint8)
    own = CaptionedPhotos(TINY, [Photo("a", image, ("dog",), ())], made_up(2))
    mean, std = torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_STD)
    for step in range(4):
        batch = own.batch(step)
        raw = 255 * (batch.pixels * std[:, None, None] + mean[:, None, None])
        centre = torch.nn.functional.avg_pool2d(raw, 8).flatten(2) * 16 / 200
        assert (centre[:, 0] - (batch.places // 16 + 0.5)).abs().max() < 0.8
        column = batch.places % 16 + 0.5
        mirrored = 16 - centre[:, 1]  # in a flipped view the flipped photograph's place counts
        off = torch.stack([(centre[:, 1] - column).abs(), (mirrored - column).abs()]).amax(2)
        assert off.amin(0).max() < 0.8


def test_captions_are_right_where_they_are_true(captioned: CaptionedPhotos) -> None:
    photos, seen = captioned.photos, 0
    for step in range(3):
        batch = captioned.batch(step)
        assert batch.right.shape == (8, len(batch.captions))
        assert batch.right.any(1).all() and batch.right.any(0).all()
        chosen = np.random.default_rng([TINY.seed, step]).choice(
            len(photos), TINY.batch, p=sampling_weights(photos)
        )
        labels = [photos[k].labels for k in chosen]
        for text, right in zip(batch.captions, batch.right.T, strict=True):
            named = {
                name for name in ("dog", "cat", "person") if name in text.replace(".", " ").split()
            }
            around = any(word in text for word in ("grass", "land", "wall", "building", "house"))
            if named and not around:
                expected = [named <= set(own) for own in labels]
                seen += 1
                # junk captions are right for their own photograph only
                assert right.tolist() == expected or right.sum() == 1, text
            elif around and not named:
                dogs = [own == ("dog",) for own in labels]
                is_grass = "grass" in text or "land" in text
                assert (
                    not any(here and dog != is_grass for here, dog in zip(right, dogs, strict=True))
                    or right.sum() == 1
                )
    assert seen > 10


def test_captions_name_the_labels(captioned: CaptionedPhotos) -> None:
    rng = np.random.default_rng(0)
    said = [captioned.captions(("cat", "person"), ["wall"], rng) for _ in range(600)]
    own = [captions[0] for captions in said]
    assert 0.8 < np.mean(["cat" in text.text for text in own]) < 0.95
    assert np.mean(["person with clothes,people,human" in text.text for text in own]) > 0.5
    joined = np.mean([bool(text.kinds) for text in own])
    assert 0.2 < joined < 0.4
    around = [captions[1].text for captions in said if len(captions) > 1]
    assert len(around) > 550
    assert {w for t in around for w in ("wall", "building", "house") if w in t} == {
        "wall", "building", "house",
    }  # fmt: skip
    assert all("cat" not in text for text in around)


def test_surroundings_outside_the_view_are_not_named(captioned: CaptionedPhotos) -> None:
    photo = made_up(4)[0]
    upper = View(photo.image, (0.0, 0.0, 0.6, 1.0), False)
    lower = View(photo.image, (0.4, 0.0, 1.0, 0.5), False)
    assert kinds_in(photo, upper) == frozenset()
    assert kinds_in(photo, lower) == {"grass"}


def test_every_word_of_the_prompts_is_one_token(captioned: CaptionedPhotos) -> None:
    tokenizer = captioned.tokenizer()
    for phrase in (*captioned.classes, *captioned.phrases.values(), *captioned.backgrounds):
        text = f"a clean origami {phrase}."
        pieces = text.replace(",", " , ").replace(".", " .").split()
        assert len(tokenizer.tokenize(text)) == len(pieces), text
        ids = tokenizer(text)["input_ids"]
        decoded = tokenizer.decode(ids, skip_special_tokens=True)
        assert decoded.replace(" ", "") == text.replace(" ", "")
        assert tokenizer.unk_token_id not in ids
    assert len(captioned.backgrounds) == 25


def test_rare_held_out_classes_do_not_count(captioned: CaptionedPhotos, tmp_path: Path) -> None:
    objective = ClipObjective(TINY, captioned)
    objective.export(objective.build_model(), tmp_path)
    clip = FrozenCLIP.load(tmp_path)
    rare = replace(made_up(1)[0], labels=("sheep",))
    with_rare = CaptionedPhotos(TINY, made_up(), [*made_up(20), *4 * [rare]])
    absent = replace(made_up(1)[0], labels=())
    without = CaptionedPhotos(TINY, made_up(), [*made_up(20), *4 * [absent]])
    figures = with_rare.evaluate(clip)
    assert figures == without.evaluate(clip)
    assert list(figures) == ["tag_map", "tag_map_cls"]
    often = CaptionedPhotos(TINY, made_up(), [*made_up(20), *5 * [rare]])
    never = CaptionedPhotos(TINY, made_up(), [*made_up(20), *5 * [absent]])
    assert often.evaluate(clip) != never.evaluate(clip)


def test_labels_outside_voc_get_words_too() -> None:
    odd = [replace(photo, labels=("zebra",)) for photo in made_up(3)]
    tokenizer = CaptionedPhotos(TINY, odd, odd).tokenizer()
    assert len(tokenizer.tokenize("zebra")) == 1


def test_pool_draws_squares_of_photographs() -> None:
    down, across = np.mgrid[0:100, 0:200]
    image = np.stack([down, across, across], -1).astype(np.uint8)
    pool = PhotoPictures([Photo("a", image, (), ())], DinoRecipe(grid=8))
    drawn = pool.draw(0, 30, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, pool.draw(0, 30, torch.Generator().manual_seed(0)))
    assert drawn.shape == (30, 3, 64, 64)
    height = (drawn[:, 0, -1].float() - drawn[:, 0, 0]).mean(1)
    width = (drawn[:, 1, :, -1].float() - drawn[:, 1, :, 0]).mean(1)
    assert torch.allclose(height, width, atol=3)  # not squeezed
    assert height.min() > 55 and height.max() < 100
    assert drawn[:, 1].float().mean((1, 2)).std() > 10, "from different places"
