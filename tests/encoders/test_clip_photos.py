"""What the photo CLIP is taught and how it is read, against slow loops and the package."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_photos import CLIP
from torch import Tensor, nn

from encoders import clip_photos
from encoders.clip_photos import (
    SURE,
    ImageTower,
    Lesson,
    PhotoClipObjective,
    before_last_block,
    centre_last_norm,
    encode_stem,
    lesson_losses,
    likeness_losses,
    window_lesson,
)
from encoders.photos import MID, TOP, Features, Photo, frozen_stem, join
from encoders.pretrain import Pretraining
from encoders.teachers import NameLesson, NameTeacher
from encoders.words import KINDS, MEMBERS, NAMES, TAGS, TEMPLATES, known_names
from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.frozen import read_names

TAG = {tag: k for k, tag in enumerate(TAGS)}
KIND = {kind: k for k, kind in enumerate(KINDS)}
NUMBER = {name: k for k, name in enumerate(NAMES)}


@pytest.fixture
def objective(hasty: None, photos: tuple[Photo, ...], cache: Path) -> PhotoClipObjective:
    return PhotoClipObjective(CLIP, photos, photos, cache)


def lesson_of(
    scores: Tensor, present: set[str], known: set[str], inside: Tensor, asked: Tensor | None = None
) -> Lesson:
    """That of one window of one photograph; the names are seen alike everywhere."""
    rows = [torch.tensor([[float(tag in some) for tag in TAGS]]) for some in (present, known)]
    places = int(inside.sum()) // 4
    whole = torch.zeros(1, 1000)
    whole[0, [291, 292, 385, 386, 0]] = torch.tensor([0.3, 0.1, 0.2, 0.1, 0.3])
    asked = torch.tensor([291, 385, 999]) if asked is None else asked
    each = whole[:, None].expand(-1, places, -1)
    return window_lesson(whole, each, scores[None], inside, *rows, asked)


def test_what_is_known_to_be_absent_is_nowhere() -> None:
    scores = torch.full((16, len(TAGS)), 2.0)
    inside = torch.ones(16, dtype=torch.bool)
    lesson = lesson_of(scores, {"dog"}, {"dog", "cat", "cow"}, inside)
    for tag in ("cat", "cow"):
        assert (lesson.tag_patches[0, :, TAG[tag]] == 0).all()
        assert lesson.tags[0, TAG[tag]] == 0 and lesson.known[0, TAG[tag]] == 1
    # of what nobody looked for the teacher's word is taken, but only in its place
    assert torch.allclose(lesson.tag_patches[0, :, TAG["sky"]], torch.tensor(2.0).sigmoid())
    assert lesson.known[0].sum() == 3 + len(KINDS)


def test_what_is_known_to_be_present_is_sure_at_its_best_patch() -> None:
    scores = torch.randn(16, len(TAGS), generator=torch.Generator().manual_seed(0))
    scores[5, TAG["cat"]] = 4.5
    inside = torch.ones(16, dtype=torch.bool)
    lesson = lesson_of(scores, {"dog", "cat"}, {"dog", "cat"}, inside)
    dog, best = scores[:, TAG["dog"]], scores[:, TAG["dog"]].max()
    found = lesson.tag_patches[0]
    assert torch.allclose(found[:, TAG["dog"]], (dog + SURE - best).sigmoid())
    assert found[dog.argmax(), TAG["dog"]] == pytest.approx(1 / (1 + math.exp(-SURE)))
    # a cat that the teacher sees well is left as it is
    assert torch.allclose(found[:, TAG["cat"]], scores[:, TAG["cat"]].sigmoid())
    assert lesson.tags[0, TAG["cat"]] == pytest.approx(1 / (1 + math.exp(-4.5)))
    assert lesson.tags[0, TAG["dog"]] == pytest.approx(1 / (1 + math.exp(-SURE)))


def test_a_window_without_the_best_patch_may_lack_the_tag() -> None:
    scores = torch.full((16, len(TAGS)), -6.0)
    scores[0, TAG["dog"]], scores[15, TAG["dog"]] = 1.0, -2.0
    inside = torch.arange(16) >= 12
    lesson = lesson_of(scores, {"dog"}, {"dog"}, inside)
    assert lesson.tag_patches.shape == (1, 4, len(TAGS))
    # raised by 2, as the best of the whole view asks
    expected = torch.tensor([-4.0, -4.0, -4.0, 0.0]).sigmoid()
    assert torch.allclose(lesson.tag_patches[0, :, TAG["dog"]], expected)
    assert lesson.tags[0, TAG["dog"]] == pytest.approx(0.5)


def test_a_tag_that_is_present_but_unknown_is_not_raised() -> None:
    scores, inside = torch.full((4, len(TAGS)), -5.0), torch.ones(4, dtype=torch.bool)
    lesson = lesson_of(scores, {"person"}, {"dog"}, inside)
    assert torch.allclose(lesson.tag_patches[..., TAG["person"]], torch.tensor(-5.0).sigmoid())
    assert lesson.known[0, TAG["person"]] == 0


def test_names_and_kinds_of_a_window() -> None:
    scores, inside = torch.zeros(8, len(TAGS)), torch.ones(8, dtype=torch.bool)
    lesson = lesson_of(scores, set(), {"dog"}, inside)
    assert torch.allclose(lesson.names, torch.tensor([[0.6, 0.4, 0.0]]))
    assert torch.allclose(lesson.name_places, torch.tensor([0.3, 0.2, 0.0]).expand(1, 2, 3))
    for kind, share in (("lion", 0.3), ("tiger", 0.1), ("elephant", 0.3), ("fish", 0.3)):
        assert lesson.tags[0, len(TAGS) + KIND[kind]] == pytest.approx(share)
        assert lesson.kind_places[0, 1, KIND[kind]] == pytest.approx(share)
    assert lesson.kind_places.sum() == pytest.approx(2 * 1.0)
    assert MEMBERS.shape == (len(NAMES), len(KINDS))


def made_up_lesson(generator: torch.Generator, windows: int = 2, names: int = 5) -> Lesson:
    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    words = len(TAGS) + len(KINDS)
    return Lesson(
        names=uniform(windows, names).softmax(1),
        name_places=0.7 * uniform(windows, 4, names).softmax(2),
        tags=uniform(windows, words),
        known=(uniform(windows, words) > 0.4).float(),
        tag_patches=uniform(windows, 16, len(TAGS)),
        kind_places=uniform(windows, 4, len(KINDS)),
    )


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def cross_entropy(target: float, logit: float) -> float:
    chance = 1 / (1 + math.exp(-logit))
    return -target * math.log(chance) - (1 - target) * math.log(1 - chance)


def test_losses_against_a_slow_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    lesson = made_up_lesson(generator)
    patches, values = (torch.randn(2, 16, 6, generator=generator) + 0.3 for _ in range(2))
    tower = ImageTower(patches.mean(1), patches, values)
    texts = torch.randn(5 + len(TAGS) + len(KINDS), 6, generator=generator)
    texts = texts / texts.norm(dim=1, keepdim=True)
    scale, bias = torch.tensor(7.0), torch.tensor([-1.0, -2.0, 0.5])
    found = lesson_losses(tower, lesson, texts, scale, bias)

    t, cells = texts.double().numpy(), [(r, c) for r in range(2) for c in range(2)]
    names, words = t[:5], t[5:]
    softmax = tags = places = kinds = pointed = known = 0.0
    for k in range(2):
        both = patches[k].double().numpy(), values[k].double().numpy()
        target = Lesson(*(each[k].double().numpy() for each in lesson))
        v = unit(both[0].mean(0))
        logits = 7 * names @ v
        softmax -= target.names @ (logits - np.log(np.exp(logits).sum())) / 2
        for reading, offset in zip(both, (-2.0, 0.5), strict=True):
            square = reading.reshape(4, 4, 6)
            for place, (row, column) in enumerate(cells):
                block = square[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                mean = unit(block.mean((0, 1)))
                logits = 7 * names @ mean
                wanted = target.name_places[place]
                softmax -= wanted @ (logits - np.log(np.exp(logits).sum())) / (2 * 4)
                for kind in range(len(KINDS)):
                    logit = 7 * words[len(TAGS) + kind] @ mean + offset
                    wanted = target.kind_places[place, kind]
                    kinds += cross_entropy(wanted, logit) / (2 * 4 * len(KINDS))
            for patch in range(16):
                for tag in range(len(TAGS)):
                    logit = 7 * words[tag] @ unit(reading[patch]) + offset
                    wanted = target.tag_patches[patch, tag]
                    places += cross_entropy(wanted, logit) / (2 * 16 * len(TAGS))
        for word in range(len(words)):
            if target.known[word]:
                known += 1
                tags += cross_entropy(target.tags[word], 7 * words[word] @ v - 1)
                logits = np.array([7 * words[word] @ unit(patch) - 2 for patch in both[0]])
                weights = np.exp(logits) / np.exp(logits).sum()
                pointed += cross_entropy(target.tags[word], weights @ logits)
    expected = {
        "names": softmax,
        "tags": tags / known,
        "places": places,
        "kinds": kinds,
        "pointed": pointed / known,
    }
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, 1e-4)


def test_only_what_is_known_of_the_whole_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    lesson = made_up_lesson(generator)
    patches = torch.randn(2, 16, 6, generator=generator)
    texts = nn.functional.normalize(torch.randn(5 + len(TAGS) + len(KINDS), 6), dim=1)
    other = lesson._replace(tags=torch.where(lesson.known > 0, lesson.tags, 1 - lesson.tags))
    one, two = (
        lesson_losses(
            ImageTower(patches.mean(1), patches, patches), each, texts, torch.tensor(5.0),
            torch.zeros(3),
        )
        for each in (lesson, other)
    )  # fmt: skip
    assert not torch.equal(lesson.tags, other.tags)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_likeness_against_a_slow_loop() -> None:
    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) + 0.3

    def unlike(ours: np.ndarray, theirs: Tensor) -> float:
        return 1 - float(unit(ours) @ unit(theirs.double().numpy()))

    generator = torch.Generator().manual_seed(0)
    tower = ImageTower(random(2, 6), random(2, 16, 6), random(2, 16, 6))
    said = NameLesson(random(2, 9), random(2, 4, 9), 5 * random(2, 6), 5 * random(2, 4, 6))
    texts, targets = (each / each.norm(dim=1, keepdim=True) for each in (random(7, 6),) * 2)
    targets = targets.roll(1, 0)
    found = likeness_losses(tower, said, texts, targets)

    features = 0.0
    for k in range(2):
        features += unlike(tower.v[k].double().numpy(), said.whole_feature[k]) / 2
        for reading in tower[1:]:
            square = reading[k].double().numpy().reshape(4, 4, 6)
            for place in range(4):
                row, column = 2 * (place // 2), 2 * (place % 2)
                mean = square[row : row + 2, column : column + 2].mean((0, 1))
                features += unlike(mean, said.place_features[k, place]) / (2 * 4)
    names = sum(unlike(texts[k].double().numpy(), targets[k]) for k in range(7)) / 7
    assert 0.5 < features < 3 and 0.1 < names < 2
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {"features": features, "texts": names}, rel=1e-5
    )


def test_vectors_like_the_teachers_have_no_loss() -> None:
    means, texts = torch.randn(2, 4, 6), nn.functional.normalize(torch.randn(7, 6), dim=1)
    patches = means.view(2, 2, 2, 6).repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2)
    said = NameLesson(torch.ones(2, 9), torch.ones(2, 4, 9), 3 * means.mean(1), 3 * means)
    tower = ImageTower(patches.mean(1), patches, patches)
    found = likeness_losses(tower, said, texts, texts)
    assert found["features"].item() == pytest.approx(0, abs=1e-5)
    assert found["texts"].item() == pytest.approx(0, abs=1e-5)
    turned = ImageTower(-tower.v, -patches, -patches)
    found = likeness_losses(turned, said, texts, -texts)
    assert found["features"].item() == pytest.approx(6) and found["texts"].item() == pytest.approx(
        2
    )


class Coordinates:
    """Features of whole photographs that hold their own place, row-major, in every channel."""

    def __getitem__(self, chosen: tuple[np.ndarray, np.ndarray]) -> Features:
        count = len(chosen[0])
        mid, top = (
            torch.arange(float(side**2)).view(1, 1, side, side).expand(count, channels, -1, -1)
            for side, channels in ((20, MID), (10, TOP))
        )
        return Features(mid, top, np.array([[0, 0, 1, 1, 0]] * count, float))


def test_windows_then_whole_views_each_with_its_place_and_what_the_teachers_say_there(
    objective: PhotoClipObjective, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, list[tuple[Any, ...]]] = {}

    def spy(owner: object, name: str) -> None:
        original = getattr(owner, name)
        seen = asked[name] = []
        monkeypatch.setattr(owner, name, lambda *given: (seen.append(given), original(*given))[1])

    run, corners = Pretraining(objective), set()
    objective._views = Coordinates()
    monkeypatch.setattr(objective._tag_teacher, "whiten", lambda channels: channels)
    # what is imagined is what the teachers and the tower see
    monkeypatch.setattr(NameTeacher, "imagine", lambda teacher, top, rng: 1000 - top)
    spy(NameTeacher, "__call__")
    spy(clip_photos, "window_lesson")
    spy(clip_photos, "encode_stem")
    for step in range(CLIP.steps):
        objective.losses(run.model, run.average, step)
        _, channels, where = asked["encode_stem"].pop()
        whole, _, scores, inside, *_ = asked["window_lesson"].pop()
        teacher, top = asked["__call__"].pop()
        side = CLIP.window if step < 3 else 20
        assert channels.shape == (4, MID + TOP, side, side) and where.shape == (4, side**2)
        cells = channels[0, 0].long()
        rows, columns = cells // 20, cells % 20
        assert (rows.diff(dim=0) == 1).all() and (columns.diff(dim=1) == 1).all()
        assert torch.equal(inside.nonzero()[:, 0], cells.flatten())
        coarse = rows[::2, ::2] // 2 * 10 + columns[::2, ::2] // 2
        assert torch.equal(1000 - top[0, 0].long(), coarse)
        assert torch.equal(whole, teacher(top).whole)
        assert (channels[:, MID:] > 900).all()
        if side == 20:
            assert torch.equal(scores, objective._tag_teacher.scores(channels))
        expected = (8 * rows + 4) // 20 * 8 + (8 * columns + 4) // 20  # of a table of 8 x 8
        assert torch.equal(where[0].view(side, side), expected)
        corners.add(cells[0, 0].item())
    assert CLIP.steps == 4 and len(corners) > 2


def test_a_step_depends_on_seed_and_step_alone(objective: PhotoClipObjective) -> None:
    run = Pretraining(objective)
    one, two, other = (
        {name: value.item() for name, value in objective.losses(run.model, run.average, k).items()}
        for k in (2, 2, 1)
    )
    assert one == two and one["loss"] != other["loss"]


def test_the_loss_is_the_weighted_sum_of_its_terms(objective: PhotoClipObjective) -> None:
    model = objective.build_model()
    found = []
    for sigmoid, likeness in ((20.0, 4.0), (3.0, 0.5)):
        objective.recipe = replace(CLIP, sigmoid=sigmoid, likeness=likeness)
        losses = objective.losses(model, model, 1)
        terms = {name: value.item() for name, value in losses.items()}
        loss = terms.pop("loss")
        sigmoids = terms["tags"] + terms["places"] + terms["kinds"] + 0.5 * terms["pointed"]
        alike = terms["features"] + terms["texts"]
        expected = terms["names"] + sigmoid * sigmoids + likeness * alike
        assert loss == pytest.approx(expected, rel=1e-6)
        assert min(terms.values()) > 0.1 and len(terms) == 7
        found.append(terms)
    assert found[0] == found[1]


def test_texts_are_names_then_a_word_for_each_tag_then_kinds(
    objective: PhotoClipObjective, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, tokenizer = [], objective.tokenizer
    alike: list[tuple[Any, ...]] = []

    def likeness(*given: Any) -> dict[str, Tensor]:
        alike.append(given)
        return likeness_losses(*given)

    def spy(texts: list[str], **options: Any) -> Any:
        said.append(texts)
        return tokenizer(texts, **options)

    model, chosen, templates = objective.build_model(), [], set()
    clip = model["clip"]
    monkeypatch.setattr(objective, "tokenizer", spy)
    monkeypatch.setattr(clip_photos, "likeness_losses", likeness)
    for step in range(24):
        with torch.no_grad():
            objective.losses(model, model, step)
        texts = said.pop()
        before, after = texts[-1].split(list(KINDS)[-1])
        template = f"{before}{{}}{after}"
        templates.add(template)
        names, tags, kinds = np.split(np.array(texts), [-len(TAGS) - len(KINDS), -len(KINDS)])
        assert list(kinds) == [template.format(kind) for kind in KINDS]
        assert len(set(names)) == len(names) and 12 <= len(names) <= 18
        numbers = [NUMBER[text.removeprefix(before).removesuffix(after)] for text in names]
        # each name has the teacher's vector of itself
        *_, ours, targets = alike.pop()
        assert torch.equal(targets, objective._name_teacher.texts[numbers])
        words = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            encoded = clip.text_projection(clip.text_model(**words).pooler_output)
        expected = nn.functional.normalize(encoded[: len(names)], dim=1)
        assert torch.allclose(ours, expected, atol=1e-5)
        for text, words in zip(tags, TAGS.values(), strict=True):
            said_as = [template.format(word) for word in words].index(text)
            if len(words) == 3:
                chosen.append(said_as)
    assert templates <= set(TEMPLATES) and len(templates) > 3
    # 40 %, and a third of the others
    assert np.mean([word == 0 for word in chosen]) == pytest.approx(0.6, abs=0.1)
    assert set(chosen) == {0, 1, 2}


def test_gradients_reach_both_towers_and_the_biases(objective: PhotoClipObjective) -> None:
    run = Pretraining(objective)
    objective.losses(run.model, run.average, 0)["loss"].backward()
    moved = {
        name for name, value in run.model.named_parameters()
        if value.grad is not None and value.grad.abs().max() > 1e-9
    }  # fmt: skip
    # softmax does not see what all keys have in common
    still = {name for name, _ in run.model.named_parameters()} - moved
    assert all(name.endswith("k_proj.bias") for name in still), still
    assert {"bias.0", "clip.logit_scale", "clip.text_projection.weight"} <= moved
    assert "clip.vision_model.embeddings.patch_embedding.weight" in moved
    # the stem is not there to be trained
    assert not [name for name in moved if "depthwise" in name]
    count = sum(value.numel() for value in run.model.parameters())
    assert count < sum(value.numel() for value in frozen_stem().parameters()) / 5


def test_the_last_norm_is_centred_and_nothing_else_changes(objective: PhotoClipObjective) -> None:
    model = Pretraining(objective).model["clip"].requires_grad_(False)
    norm = model.vision_model.encoder.layers[-1].layer_norm1
    norm.bias.copy_(torch.linspace(-3, 3, len(norm.bias)))
    channels, where = torch.randn(2, MID + TOP, 4, 4), torch.arange(16).expand(2, -1)
    before = encode_stem(model, channels, where)
    mean = norm(before_last_block(model, channels, where)[:, 1:]).mean((0, 1))
    assert mean.abs().max() > 1
    centre_last_norm(model, mean)
    centred = norm(before_last_block(model, channels, where)[:, 1:])
    assert centred.mean((0, 1)).abs().max() < 1e-5
    after = encode_stem(model, channels, where)
    for one, other in zip(before, after, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_the_exported_folder_is_the_trained_model_on_pixels(
    objective: PhotoClipObjective, lite0: dict[str, Tensor], tmp_path: Path
) -> None:
    run = Pretraining(objective)
    for _ in range(2):
        run.advance()
    objective.export(run.model, tmp_path)
    clip = FrozenCLIP.load(tmp_path)
    assert "patch embedding by EfficientNet-Lite0 (16 blocks)" in clip.description
    assert clip.pixels.numbers == ((127 / 255,) * 3, (128 / 255,) * 3)
    assert read_names(tmp_path) == set(known_names())
    pixels = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    teacher = objective._tag_teacher
    with torch.no_grad():
        channels = teacher.whiten(frozen_stem()(pixels))
        tower = encode_stem(run.model["clip"], channels, torch.arange(64).expand(2, -1))
        features = clip.encode(pixels)
        found = clip.last_block(features, clip.last_norm(features))
    assert features.grid == (8, 8)
    assert tower.patches.std() > 0.02
    for one, other in zip(found.flatten(0, 1), tower.patches.flatten(0, 1), strict=True):
        assert (one - other).norm() < 0.05 * other.norm()  # files are in half precision
    assert torch.allclose(tower.v, tower.patches.mean(1))
    # the stem stays as it came
    stored, place = load_file(tmp_path / "model.safetensors"), "vision_model.embeddings."
    for name, value in lite0.items():
        if name.startswith(("first", "blocks")):
            assert torch.equal(stored[f"{place}patch_embedding.{name}"], value.half()), name
    # texts
    ours = objective.tokenizer(["a photo of a dog."], return_tensors="pt")
    with torch.no_grad():
        text = run.model["clip"].text_model(**ours).pooler_output
        expected = run.model["clip"].text_projection(text)
    found = clip.text_features(("a photo of a dog.",))
    assert nn.functional.cosine_similarity(found, expected).item() > 0.9999


def test_the_values_reading_is_the_last_block_with_attention_on_itself(
    objective: PhotoClipObjective,
) -> None:
    clip = objective.build_model()["clip"].eval()
    channels = torch.randn(1, MID + TOP, 2, 2, generator=torch.Generator().manual_seed(0))
    where = torch.tensor([[3, 9, 27, 30]])
    vision, last = clip.vision_model, clip.vision_model.encoder.layers[-1]
    kept: dict[str, Tensor] = {}
    last.register_forward_pre_hook(lambda module, given: kept.update(hidden=given[0]))
    with torch.no_grad():
        tower = encode_stem(clip, channels, where)
        for patch in range(4):
            alone = last.layer_norm1(kept["hidden"][:, 1 + patch : 2 + patch])
            own, _ = last.self_attn(hidden_states=alone, attention_mask=None)  # sees itself only
            expected = clip.visual_projection(vision.post_layernorm(own))[0, 0]
            assert torch.allclose(tower.values[0, patch], expected, atol=1e-5)


def test_what_teaches_is_the_same_for_every_run(
    hasty: None, photos: tuple[Photo, ...], cache: Path
) -> None:
    recipe = replace(CLIP, seed=0)
    first, again = (PhotoClipObjective(recipe, photos, photos, cache) for _ in range(2))
    white = torch.randn(1, MID + TOP, 2, 2)
    assert torch.equal(first._tag_teacher.scores(white), again._tag_teacher.scores(white))
    assert torch.equal(first._name_teacher.texts, again._name_teacher.texts)
    assert first.pictures == again.pictures
    assert first.pictures.startswith(f"{len(photos)} photographs ")


def test_the_patch_embedding_begins_as_the_teachers_features(
    objective: PhotoClipObjective, photos: tuple[Photo, ...]
) -> None:
    views = objective._views[np.zeros(len(photos), int), np.arange(len(photos))]
    channels = objective._tag_teacher.whiten(join(views)).double().numpy()
    inputs = [
        np.append(image[:, row : row + 2, column : column + 2].mean((1, 2)), 1.0)
        for image in channels
        for row in range(0, 20, 2)
        for column in range(0, 20, 2)
    ]
    wanted = objective._name_teacher(views.top).place_features.flatten(0, 1).double().numpy()
    wanted /= np.sqrt((wanted**2).mean())
    # ridge regression, as ordinary least squares with a row for each weight
    ridge = np.sqrt(1e-4 * len(inputs)) * np.eye(MID + TOP + 1)
    nothing = np.zeros((MID + TOP + 1, CLIP.dim))
    expected, *_ = np.linalg.lstsq(np.vstack([inputs, ridge]), np.vstack([wanted, nothing]))
    patch = objective.build_model()["clip"].vision_model.embeddings.patch_embedding
    found = patch.weight[: CLIP.dim, :, 0, 0].detach().double().numpy()
    bias = patch.bias[: CLIP.dim].detach().double().numpy()
    fitted = np.stack(inputs) @ np.vstack([found.T, bias])
    assert np.abs(fitted - np.stack(inputs) @ expected).max() < 0.01
    assert np.square(fitted - wanted).mean() < 0.1 < np.square(wanted - wanted.mean(0)).mean()


def test_the_text_tower_begins_with_the_teachers_vectors(objective: PhotoClipObjective) -> None:
    near, names = [], objective.tokenizer(list(NAMES), padding=True, return_tensors="pt")
    for steps in (0, 5, 15):
        objective.recipe = replace(CLIP, text_steps=steps)
        torch.manual_seed(0)
        clip = objective.build_model()["clip"]
        with torch.no_grad():
            texts = clip.text_projection(clip.text_model(**names).pooler_output)
        targets = objective._name_teacher.texts
        near.append(nn.functional.cosine_similarity(texts, targets).mean().item())
    assert abs(near[0]) < 0.05 and near[0] + 0.02 < near[1] and near[1] + 0.02 < near[2]


def test_the_temperature_is_bounded(objective: PhotoClipObjective) -> None:
    model = objective.build_model()
    assert model["clip"].logit_scale.exp().item() == pytest.approx(20)
    with torch.no_grad():
        model["clip"].logit_scale.fill_(9.0)
        objective.constrain(model)
    assert model["clip"].logit_scale.exp().item() == pytest.approx(100)
