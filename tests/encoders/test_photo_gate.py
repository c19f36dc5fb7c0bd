"""The gate of the photo encoders, with features made up and with an exported CLIP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_photos import CLIP, write_photos
from torch import Tensor
from torch.nn import functional

from encoders import photo_gate
from encoders.clip_photos import PhotoClipObjective
from encoders.photo_gate import BACKGROUNDS, FREQUENT, best_names, image_feature, tag_precision
from encoders.photos import Photo
from encoders.words import NAMES, TAGS, known_names
from ssrseg.data.open import open_labelled
from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.frozen import read_names


class MadeUp:
    """One direction for each text, in the order asked."""

    asked: tuple[str, ...] = ()

    def text_features(self, texts: tuple[str, ...]) -> Tensor:
        self.asked = texts
        return torch.eye(len(texts))


def looked_for(*known: str, present: str = "") -> Photo:
    return Photo(Path("x.png"), frozenset(present.split()), frozenset(known))


def test_precision_is_of_the_photographs_whose_tags_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photos = [
        looked_for("dog", "cat", present="dog"),
        looked_for("dog", "cat"),
        looked_for("dog", present="dog"),
        looked_for("sky"),
        looked_for("cat", present="dog"),  # nobody asked for dogs here
    ]
    dogs, features = [0.9, 0.8, 0.3, 1.0, 0.0], iter(range(5))

    def feature(clip: MadeUp, path: Path) -> Tensor:
        found = torch.zeros(1, len(TAGS))
        found[0, list(TAGS).index("dog")] = dogs[next(features)]
        return found

    monkeypatch.setattr(photo_gate, "image_feature", feature)
    clip = MadeUp()
    found = tag_precision(clip, photos)
    # among photographs 0 to 2 the dogs have ranks 1 and 3; no known cat or sky is there
    assert found == {"dog": pytest.approx((1 + 2 / 3) / 2)}
    assert clip.asked[list(TAGS).index("person")] == (
        "a clean origami person with clothes,people,human."
    )


def test_best_names_are_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    feature = torch.zeros(1, 1000)
    feature[0, [339, 12, 800]] = torch.tensor([0.9, 0.5, 0.7])
    monkeypatch.setattr(photo_gate, "image_feature", lambda clip, path: feature)
    clip = MadeUp()
    assert best_names(clip, Path("x.png"), 3) == [NAMES[339], NAMES[800], NAMES[12]]
    assert clip.asked[339] == f"a clean origami {NAMES[339]}."


@pytest.fixture(scope="module")
def exported(
    lite0: dict[str, Tensor], photos: tuple[Photo, ...], cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("encoders.teachers.STEPS", 5)
        objective = PhotoClipObjective(CLIP, photos, photos, cache)
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    objective.export(objective.build_model(), folder)
    return folder


def test_the_feature_of_a_photograph_is_the_mean_of_its_patches(
    exported: Path, photos: tuple[Photo, ...]
) -> None:
    clip = FrozenCLIP.load(exported)
    found = image_feature(clip, photos[0].path)
    assert found.shape == (1, 12) and found.norm().item() == pytest.approx(1)
    with Image.open(photos[0].path) as image:
        fitted = image.resize((128, 96), Image.Resampling.BILINEAR)  # of 120 x 90: whole patches
    pixels = (torch.from_numpy(np.array(fitted)).permute(2, 0, 1)[None] - 127.0) / 128
    features = clip.encode(pixels)
    patches = clip.last_block(features, clip.last_norm(features))[0]
    assert functional.cosine_similarity(patches.mean(0, keepdim=True), found).item() > 0.999


def test_command_line(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    things = write_photos(tmp_path / "things", (*FREQUENT, "dog;boat"), 1)
    around = write_photos(tmp_path / "around", ("road", *BACKGROUNDS, "sky"), 2)
    command = ["x", "--clip", str(exported), "--voc", things, "--backgrounds"]
    monkeypatch.setattr("sys.argv", [*command, around, f"{things}/photo0.png"])
    photo_gate.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines[3:-1]]
    assert [row[0] for row in rows] == [
        *(tag for tag in TAGS if tag in {*FREQUENT, "boat"}), *BACKGROUNDS
    ]  # fmt: skip
    values = {name: float(value) for name, value in rows}
    assert all(0 < value <= 1 for value in values.values())
    for line, names in zip(lines, (FREQUENT, {*FREQUENT, "boat"}, BACKGROUNDS), strict=False):
        found = float(line.removesuffix(line[line.index("wanted") :]).split()[-1])
        assert found == pytest.approx(np.mean([values[name] for name in names]), abs=1e-3)
    assert lines[-1].startswith("photo0.png: ")
    named = lines[-1].removeprefix("photo0.png: ").split(", ")
    assert len(set(named)) == 5 and set(named) <= set(NAMES)
    monkeypatch.setattr("sys.argv", [*command, f"{around}:odd"])
    with pytest.raises(SystemExit):
        photo_gate.main()
    said = f"no photograph of {around}:odd is tagged road, water, sign"
    assert said in capsys.readouterr().err


def test_what_the_shipped_clip_calls_photographs_that_nobody_trained_on() -> None:
    shipped = "ssrseg:photos/weights/clip"
    assert read_names(shipped) == {name.lower() for name in known_names()}
    clip = FrozenCLIP.load(shipped)
    files = {each.name: each.image for each in open_labelled("ssrseg:photos/sample").samples}
    wanted = {
        "bee": "bee",
        "citrus": "lemon",
        "panda": "giant panda",
        "cat": "egyptian mau",
        "kitten": "tiger cat",
    }
    assert {name: best_names(clip, files[name], 1)[0] for name in wanted} == wanted
