"""The two teachers of places: Lite0's classifier, and one of tags learned from whole images."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
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


CHANNELS, WIDE, COUNT = 8, 64, 40
"""Of a small network in the place of Lite0's head and classifier; ``COUNT`` names."""


def small_head(bias: float = 0.1) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = {"head.weight": (WIDE, CHANNELS, 1, 1), "fc.weight": (COUNT, WIDE)}
    return {
        **{name: torch.randn(shape, generator=random) / 2 for name, shape in shapes.items()},
        "head.bias": torch.randn(WIDE, generator=random) / 2,
        "fc.bias": bias * torch.randn(COUNT, generator=random),
    }


def real_places() -> Tensor:
    """Features of places whose channels differ in size and go together."""
    random = torch.Generator().manual_seed(1)
    mixed = torch.eye(CHANNELS) + 0.4 * torch.randn(CHANNELS, CHANNELS, generator=random)
    return torch.randn(400, CHANNELS, generator=random) @ mixed / 4 + 1


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    weights = small_head()
    monkeypatch.setattr(teachers, "load_lite0", lambda: dict(weights))
    return weights


def plain_modules(weights: dict[str, Tensor]) -> nn.Sequential:
    """Features behind the head, and the classifier."""
    head, fc = nn.Conv2d(CHANNELS, WIDE, 1), nn.Linear(WIDE, COUNT)
    for module, name in ((head, "head"), (fc, "fc")):
        module.load_state_dict({part: weights[f"{name}.{part}"] for part in ("weight", "bias")})
    wide = nn.Sequential(head, nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(wide, fc).requires_grad_(False)


def test_the_teacher_of_names_against_plain_modules(network: dict[str, Tensor]) -> None:
    wide, fc = modules = plain_modules(network)
    top, dim = 3 * torch.randn(2, CHANNELS, 3, 4), 6
    teacher = NameTeacher(dim, real_places())
    said = teacher(top)
    assert said.whole.shape == (2, COUNT) and said.places.shape == (2, 12, COUNT)
    assert said.whole_feature.shape == (2, dim) and said.place_features.shape == (2, 12, dim)
    # the best approximation of the classifier's rows, less their mean, of this rank
    rows = fc.weight.double().numpy()
    left, values, right = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    reduced = torch.from_numpy((left[:, :dim] * values[:dim]) @ right[:dim]).float()
    assert (reduced.norm(dim=1) < 0.9 * (fc.weight - fc.weight.mean(0)).norm(dim=1)).all()
    inside = torch.from_numpy(right[:dim]).float()

    def assert_says(chances: Tensor, feature: Tensor, part: Tensor) -> None:
        assert torch.allclose(chances, modules(part).softmax(1), atol=1e-5)
        expected = wide(part) @ (reduced / reduced.norm(dim=1, keepdim=True)).T
        assert torch.allclose(feature @ teacher.texts.T, expected, atol=1e-4)
        assert torch.allclose(feature.norm(dim=1), (wide(part) @ inside.T).norm(dim=1), atol=1e-4)

    assert_says(said.whole, said.whole_feature, top)
    for row, column in ((0, 0), (1, 3), (2, 1)):
        alone, at = top[:, :, row : row + 1, column : column + 1], 4 * row + column
        assert_says(said.places[:, at], said.place_features[:, at], alone)
        assert said.places[:, at].amax() > 0.1  # not flat
    assert teacher.texts.shape == (COUNT, dim)
    assert torch.allclose(teacher.texts.norm(dim=1), torch.ones(COUNT))


def test_vectors_of_all_directions_order_names_as_the_classifier(
    network: dict[str, Tensor],
) -> None:
    network["fc.bias"].zero_()
    # of one length: else the longer of two rows has more to say than its cosine
    rows = network["fc.weight"] - network["fc.weight"].mean(0)
    half = nn.functional.normalize(rows[: COUNT // 2], dim=1)
    common = torch.randn(WIDE)
    network["fc.weight"] = 3 * torch.cat([half, -half]) + common
    said = (teacher := NameTeacher(COUNT, real_places()))(3 * torch.randn(2, CHANNELS, 3, 3))
    for chances, features in (
        (said.whole, said.whole_feature),
        (said.places.flatten(0, 1), said.place_features.flatten(0, 1)),
    ):
        cosines = nn.functional.normalize(features, dim=-1) @ teacher.texts.T
        for chance, cosine, feature in zip(chances, cosines, features, strict=True):
            order = chance.argsort(descending=True)
            assert (cosine[order].diff() < 1e-5).all()
            assert cosine[order[0]] - cosine[order[-1]] > 0.1
            logits = 3 * feature.norm() * cosine
            assert torch.allclose(chance, logits.softmax(0), rtol=1e-3, atol=1e-6)


class Drawn:
    """Answers in the place of random numbers: sides, corner, name and number of steps."""

    def __init__(self, *answers: object) -> None:
        self.answers, self.asked = iter(answers), []

    def integers(self, *bounds: object, size: int | None = None) -> object:
        self.asked.append((*bounds, size))
        return next(self.answers)


PART = (slice(4, 7), slice(8, 10))
"""The rectangle of 3 x 2 places that ``drawn`` answers; it lies at the rim."""


def drawn(name: int, steps: int) -> Drawn:
    return Drawn((3, 2), (4, 8), name, steps)


def likely_top(views: int) -> Tensor:
    return real_places()[: 100 * views].view(views, 10, 10, CHANNELS).permute(0, 3, 1, 2)


def test_rectangles_of_every_second_view_are_imagined(
    network: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teachers, "CONVINCED", 2.0)  # never
    teacher, top, sides, corners = NameTeacher(6, real_places()), likely_top(4), set(), set()
    differ, before = 0, top.clone()
    for seed in range(30):
        found = teacher.imagine(top, np.random.default_rng(seed))
        assert torch.equal(found, teacher.imagine(top, np.random.default_rng(seed)))
        assert found.shape == top.shape and not found.requires_grad
        changed = (found != top).any(1)
        assert changed.flatten(1).any(1).tolist() == [True, False, True, False]
        for view in (0, 2):
            rows, columns = changed[view].nonzero().T
            height, width = (int(x.max() - x.min()) + 1 for x in (rows, columns))
            assert changed[view].sum() == height * width  # all of the rectangle, and only that
            sides |= {height, width}
            corners |= {int(x) for each in (rows, columns) for x in (each.min(), each.max())}
        differ += not torch.equal(changed[0], changed[2])
    assert sides == {2, 3, 4, 5} and corners == set(range(10))
    assert differ >= 25  # views of a step have rectangles of their own; some meet by chance
    assert torch.equal(top, before)


def test_what_is_drawn_for_an_imagined_rectangle(network: dict[str, Tensor]) -> None:
    teacher, top = NameTeacher(6, real_places()), likely_top(2)
    rng = drawn(name=5, steps=3)
    changed = (teacher.imagine(top, rng) != top).any(1)
    expected = torch.zeros(2, 10, 10, dtype=torch.bool)
    expected[0][PART] = True
    assert torch.equal(changed, expected)
    corner = 0, (8, 9), None  # the last at which 3 x 2 places have room, excluded
    assert rng.asked == [(2, 6, 2), corner, (COUNT, None), (2, 7, None)]
    assert torch.equal(teacher.imagine(top, drawn(name=5, steps=0)), top)


def test_steps_of_what_is_imagined_against_a_slow_form(
    network: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teachers, "STEP", 0.3)
    real, name = real_places(), 7
    teacher, top = NameTeacher(6, real), likely_top(1)
    centred = (real - real.mean(0)).double().numpy()
    covariance = sum(np.outer(row, row) for row in centred) / (len(real) - 1)
    head, shift = network["head.weight"][:, :, 0, 0].double().numpy(), network["head.bias"].numpy()
    classes = network["fc.weight"].double().numpy()
    one, two = (teacher.imagine(top, drawn(name, steps)) for steps in (1, 2))
    for before, after in ((top, one), (one, two)):
        for row in range(4, 7):
            for column in range(8, 10):
                place = before[0, :, row, column].double().numpy()
                moved = after[0, :, row, column].double().numpy() - place
                wide = head @ place + shift
                logits = classes @ wide.clip(0, 6) + network["fc.bias"].numpy()
                wanted = np.eye(COUNT)[name] - np.exp(logits) / np.exp(logits).sum()
                gradient = head.T @ ((wide > 0) * (wide < 6) * (classes.T @ wanted))
                uphill = covariance @ gradient
                expected = 0.3 * uphill / np.sqrt(gradient @ uphill)
                assert moved == pytest.approx(expected, abs=1e-4)
                length = np.sqrt(moved @ np.linalg.inv(covariance) @ moved)
                assert length == pytest.approx(0.3, rel=1e-3)  # in deviations of real places
                # no other way of this length goes up as far
                rng = np.random.default_rng(0)
                for other in rng.multivariate_normal(np.zeros(CHANNELS), covariance, size=20):
                    other *= 0.3 / np.sqrt(other @ np.linalg.inv(covariance) @ other)
                    assert gradient @ other < gradient @ moved


def chance(teacher: NameTeacher, top: Tensor, name: int) -> Tensor:
    """Probability of the name at the places of the rectangle."""
    return teacher(top).places[0, :, name].view(10, 10)[PART]


def test_the_wanted_name_becomes_likelier_step_by_step(
    network: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teachers, "STEP", 0.1)
    monkeypatch.setattr(teachers, "CONVINCED", 2.0)  # never
    teacher, top = NameTeacher(6, real_places()), likely_top(1)
    for name in range(0, COUNT, 3):
        found = [
            chance(teacher, teacher.imagine(top, drawn(name, steps)), name) for steps in range(4)
        ]
        for before, after in pairwise(found):
            assert (after > 1.01 * before).all()


def test_a_place_of_which_the_teacher_is_convinced_stays(
    network: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teachers, "STEP", 0.5)
    teacher, top = NameTeacher(6, real_places()), likely_top(1)
    there = teacher.imagine(top, drawn(name=0, steps=20))
    assert (chance(teacher, top, 0) < 0.1).all()
    found = chance(teacher, there, 0)
    assert (found >= teachers.CONVINCED).all() and (found < 0.9).all()  # no step too many
    assert torch.equal(teacher.imagine(there, drawn(name=0, steps=4)), there)
    # whatever becomes of the others
    there[:, :, 4] = top[:, :, 4]
    moved = (teacher.imagine(there, drawn(name=0, steps=1)) != there).any(1)[0][PART]
    assert moved.tolist() == [[True, True], [False, False], [False, False]]


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
    count: int = 6

    CHANNELS = ("dog", "cat", "sky", "grass")

    def at(self, view: int, index: int) -> Tensor:
        assert view < self.count
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
    views, white = ToyViews(toy_photos(), count=1), torch.randn(1, MID + TOP, 2, 2)
    first, again, other = (TagTeacher(views, seed).scores(white) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
