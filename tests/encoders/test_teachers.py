"""The two teachers of places: Lite0's classifier, and one of tags learned from whole images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from encoders import teachers
from encoders.photos import MID, TOP, Features, Photo, join
from encoders.teachers import NameTeacher, TagTeacher, tag_truth
from encoders.words import TAGS

NAMES = list(TAGS)


def test_the_teacher_of_names_against_plain_modules(lite0: dict[str, Tensor]) -> None:
    head, fc = nn.Conv2d(TOP, 1280, 1), nn.Linear(1280, 1000)
    for module, name in ((head, "head"), (fc, "fc")):
        module.load_state_dict({part: lite0[f"{name}.{part}"] for part in ("weight", "bias")})
    network = nn.Sequential(head, nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), fc)
    top = 3 * torch.randn(2, TOP, 3, 4)
    whole, places = NameTeacher()(top)
    assert whole.shape == (2, 1000) and places.shape == (2, 12, 1000)
    with torch.no_grad():
        assert torch.allclose(whole, network(top).softmax(1), atol=1e-5)
        for row, column in ((0, 0), (1, 3), (2, 1)):
            alone = network(top[:, :, row : row + 1, column : column + 1]).softmax(1)
            assert torch.allclose(places[:, 4 * row + column], alone, atol=1e-5)
            assert alone.amax() > 0.02  # not flat


def test_truth_of_tags() -> None:
    one = Photo(Path("a"), frozenset({"dog"}), frozenset({"dog", "cat"}))
    other = Photo(Path("b"), frozenset({"sky", "tree"}), frozenset({"sky", "tree"}))
    present, known = tag_truth([one, other])
    for table, rows in ((present, (one.present, other.present)), (known, (one.known, other.known))):
        assert table.shape == (2, len(TAGS)) and table.dtype == torch.float32
        assert [{NAMES[k] for k in row.nonzero()[:, 0]} for row in table] == list(map(set, rows))


@dataclass
class ToyViews:
    """Views of 2 x 2 patches; a tag's channel is high at one of them if the tag is there."""

    photos: list[Photo]

    CHANNELS = ("dog", "cat", "sky", "grass")

    def at(self, view: int, index: int) -> Tensor:
        rng = np.random.default_rng([view, index])
        mid = rng.normal(0, 0.05, (MID, 2, 2))
        for channel, tag in enumerate(self.CHANNELS):
            if tag in self.photos[index].present:
                mid[channel] += 6 * self.seen(view, index, channel)
        return torch.from_numpy(mid).float()

    @staticmethod
    def seen(view: int, index: int, channel: int) -> np.ndarray:
        return np.eye(4)[(view + index + channel) % 4].reshape(2, 2)

    def __getitem__(self, chosen: tuple[np.ndarray, np.ndarray]) -> Features:
        mid = torch.stack([self.at(view, index) for view, index in np.stack(chosen, 1)])
        return Features(mid, torch.zeros(len(mid), TOP, 1, 1), np.zeros((len(mid), 5)))

    def moments(self, seed: int) -> tuple[Tensor, Tensor]:
        mean, deviation = torch.zeros(MID + TOP, 1, 1), torch.ones(MID + TOP, 1, 1)
        mean[:4], deviation[:4] = 1.0, 2.0
        return mean, deviation


def toy_photos(count: int = 150, tampered: frozenset[str] = frozenset()) -> list[Photo]:
    """Two thirds are known to show dog or cat or neither, the others also sky and grass.

    ``tampered`` are tags that photographs get without being known.
    """
    rng, photos = np.random.default_rng(0), []
    for index in range(count):
        known = {"dog", "cat"} if index % 3 else {"dog", "cat", "sky", "grass"}
        present = {tag for tag in sorted(known) if rng.random() < 0.5}
        photos.append(Photo(Path(f"{index}"), frozenset(present | tampered), frozenset(known)))
    return photos


@pytest.fixture(scope="module")
def toy() -> tuple[ToyViews, TagTeacher]:
    views = ToyViews(toy_photos())
    return views, TagTeacher(views, seed=0)


def test_a_separable_problem_is_learned_and_in_its_place(toy: tuple[ToyViews, TagTeacher]) -> None:
    views, teacher = toy
    index = np.arange(len(views.photos))
    features = views[np.full_like(index, 5), index]  # a view that was not trained on
    scores = teacher.scores(teacher.whiten(join(features)))
    assert scores.shape == (150, 4, len(TAGS)) and not scores.requires_grad
    whole = scores.logsumexp(1) - np.log(4)
    present, known = tag_truth(views.photos)
    for channel, tag in enumerate(views.CHANNELS):
        column = NAMES.index(tag)
        looked = known[:, column] > 0
        there = looked & (present[:, column] > 0)
        assert whole[there, column].min() > whole[looked & ~there, column].max() + 0.1, tag
        best = scores[there, :, column].argmax(1).tolist()
        right = [int(views.seen(5, int(k), channel).argmax()) for k in index[there.numpy()]]
        assert best == right, tag


def test_whitening_and_scores_are_linear(toy: tuple[ToyViews, TagTeacher]) -> None:
    _, teacher = toy
    channels = torch.randn(2, MID + TOP, 2, 3)
    white = teacher.whiten(channels)
    assert torch.allclose(white[:, :4], (channels[:, :4] - 1) / 2)
    assert torch.equal(white[:, 4:], channels[:, 4:])
    scores = teacher.scores(white)
    assert torch.allclose(scores[:, 4], teacher.scores(white[:, :, 1:, 1:2])[:, 0], atol=1e-5)
    middle = teacher.scores((white[:1] + white[1:]) / 2)
    assert torch.allclose(middle, scores.mean(0, keepdim=True), atol=1e-4)


def test_the_odds_of_a_photograph_are_the_mean_of_those_of_its_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(teachers, "STEPS", 40)
    monkeypatch.setattr(teachers, "LEARNING_RATE", 0.05)
    photos = [photo for photo in toy_photos(30) if "sky" not in photo.known][:8]
    views = ToyViews(photos)
    teacher = TagTeacher(views, seed=0)
    # of one tag, with all eight at every step
    weight = torch.zeros(MID + TOP, requires_grad=True)
    bias = torch.tensor(-3.0, requires_grad=True)
    dogs = torch.tensor(["dog" in photo.present for photo in photos])
    optimizer = torch.optim.AdamW([weight, bias], weight_decay=0.3)
    for step in range(40):
        white = teacher.whiten(join(views[np.full(8, step % 2), np.arange(8)]))
        odds = (white.flatten(2).mT @ weight + bias).exp().mean(1)
        chance = odds / (1 + odds)
        loss = -torch.where(dogs, chance, 1 - chance).log().sum() / (2 * 8) * len(TAGS) / 8
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 40)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = teacher.scores(white)[..., NAMES.index("dog")]
    expected = white.flatten(2).mT @ weight + bias
    assert expected.std() > 1
    assert torch.allclose(found, expected, atol=0.01)


def test_unknown_tags_teach_nothing(
    toy: tuple[ToyViews, TagTeacher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teachers, "STEPS", 20)
    plain, lied = (
        TagTeacher(ToyViews(toy_photos(tampered=tags)), seed=0)
        for tags in (frozenset(), frozenset({"boat", "train"}))
    )
    white = torch.randn(2, MID + TOP, 2, 2)
    assert torch.equal(plain.scores(white), lied.scores(white))
    # tags that nobody looked for stay at their start, which only decays
    start = -3 * np.prod([1 - 3e-3 * (1 - step / 20) * 0.3 for step in range(20)])
    unknown = [k for k, tag in enumerate(TAGS) if tag not in ToyViews.CHANNELS]
    found = plain.scores(white)
    assert torch.allclose(found[..., unknown], torch.tensor(start).float(), atol=1e-5)
    assert ((found[..., NAMES.index("dog")] - start).abs() > 1e-3).all()


def test_the_seed_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teachers, "STEPS", 5)
    monkeypatch.setattr(teachers, "BATCH", (6, 4))
    views, white = ToyViews(toy_photos()), torch.randn(1, MID + TOP, 2, 2)
    first, again, other = (TagTeacher(views, seed).scores(white) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
