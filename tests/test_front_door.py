"""SSR as people call it: photographs in any form, names of classes, results as numpy arrays."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from make_tiny import tiny_voc
from PIL import Image
from tiny_encoders import tiny_config

import ssrseg
from ssrseg import SSR
from ssrseg.data.class_ids import read_class_ids
from ssrseg.data.images import read_image
from ssrseg.data.open import open_labelled
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.errors import BackboneError, CheckpointError, ConfigError, DataError, LabelsError
from ssrseg.photo_masks import rectify_photo
from ssrseg.results import SegmentedImage
from ssrseg.training import train

CLASSES = ("cat", "dog", "red car")


@pytest.fixture(scope="module")
def model(clip_dir: Path, dino_dir: Path) -> SSR:
    return SSR.from_config(tiny_config(clip_dir, dino_dir), CLASSES)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smooth photograph of 70 x 50 pixels, without loss, so that every form of it is equal."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    coarse.resize((70, 50), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_voc(tmp_path_factory.mktemp("voc") / "tree", n=3)


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, tree: Path, clip_dir: Path, dino_dir: Path
) -> Path:
    return train(
        open_labelled(tree), tmp_path_factory.mktemp("run"), tiny_config(clip_dir, dino_dir)
    ).run


def test_every_form_of_a_photograph_gives_the_same_mask(model: SSR, photo: Path) -> None:
    with Image.open(photo) as opened:
        picture = opened.convert("RGB")
    pixels = np.array(picture)
    tensor = torch.from_numpy(pixels)
    forms = [photo, str(photo), picture, pixels, pixels.transpose(2, 0, 1), pixels / 255]
    forms += [tensor, tensor.permute(2, 0, 1), tensor.permute(2, 0, 1).float() / 255]
    first, *others = [model.rectify(form, labels=["dog", "cat"]) for form in forms]
    assert first.mask.shape == (50, 70)
    assert len(np.unique(first.mask)) > 1
    for other in others:
        assert np.array_equal(other.mask, first.mask)
        assert np.array_equal(other.cam["dog"], first.cam["dog"])


def test_a_rectified_image(model: SSR, photo: Path) -> None:
    found = model.rectify(photo, labels=["dog", "cat"])
    assert found.labels == ("dog", "cat")
    assert found.classes == CLASSES
    assert found.image.shape == (50, 70, 3)
    assert found.mask.dtype == np.uint8
    assert set(np.unique(found.mask)) <= {0, 1, 2, 255}
    for maps in (found.cam, found.refined_cam):
        assert list(maps) == ["dog", "cat"]
        for each in maps.values():
            assert each.shape == (50, 70)
            assert 0 <= each.min() <= each.max() <= 1
            assert each.max() > 0.9
    assert list(found.target) == ["dog", "cat"]
    assert all(region.shape == (50, 70) for region in found.target.values())
    sgc = replace(model.config.sgc, high=0.9, min_ratio=0.9)
    strict = model.with_config(replace(model.config, sgc=sgc)).rectify(photo, labels="dog")
    assert 0 < strict.target["dog"].mean() < found.target["dog"].mean()
    unmasked = model.with_config(
        replace(model.config, affinity=replace(model.config.affinity, mask="none"))
    )
    assert unmasked.rectify(photo, labels="dog").target["dog"].all()
    assert found.confidence.shape == (50, 70)
    assert 1 / 3 - 1e-6 <= found.confidence.min() <= found.confidence.max() <= 1
    assert found.overlay().shape == found.heat("dog").shape == (50, 70, 3)
    assert not np.array_equal(found.heat("dog"), found.heat("dog", refined=False))
    assert sum(found.areas.values()) == pytest.approx((found.mask > 0).mean())
    assert found._repr_html_().count("<img") == 8  # photograph, three maps of two classes, mask
    with pytest.raises(LabelsError, match=r'no CAM of "red car".*labelled with dog, cat'):
        found.heat("red car")


def test_results_are_shown_in_one_line(model: SSR, photo: Path) -> None:
    found = model.rectify(photo, labels=["dog", "cat"])
    assert re.fullmatch(r"RectifiedImage\(70 x 50(, (dog|cat) (\d+|under 1) %)+\)", repr(found))
    mask = np.zeros((10, 100), np.uint8)
    mask[0, :70], mask[1, :4], mask[2] = 2, 1, 255
    maps = {"image": np.zeros((10, 100, 3), np.uint8), "confidence": np.ones((10, 100), np.float32)}
    shown = replace(found, **maps, mask=mask, cam={}, target={}, refined_cam={})
    assert repr([shown]) == "[RectifiedImage(100 x 10, dog 7 %, cat under 1 %)]"
    assert repr(replace(shown, mask=0 * mask)) == "RectifiedImage(100 x 10, background only)"
    names = tuple("abcdefg")
    many = np.repeat(np.arange(8, dtype=np.uint8), 8)[None]
    image = SegmentedImage(
        np.zeros((1, 64, 3), np.uint8), names, many, np.ones((1, 64), np.float32)
    )
    assert repr(image) == ("SegmentedImage(64 x 1, a 12 %, b 12 %, c 12 %, d 12 %, e 12 %, 2 more)")
    assert "<figcaption>a 12 %, b 12 %, c 12 %, d 12 %, e 12 %, 2 more<" in image._repr_html_()


def test_it_is_what_a_folder_of_masks_holds(model: SSR, photo: Path) -> None:
    found = model.rectify(photo, labels=["cat", "red car"])
    pixels = read_image(photo)
    nowhere = SuperpixelCache(None, n_segments=20, compactness=10.0)
    same = rectify_photo(model, pixels, (0, 2), nowhere)
    assert np.array_equal(found.mask, same.pseudo_mask.numpy())


def test_a_large_photograph_is_answered_at_its_own_size(model: SSR, photo: Path) -> None:
    small = model.with_config(
        replace(model.config, data=replace(model.config.data, max_side=40))
    ).rectify(photo, labels="dog")
    assert small.mask.shape == small.cam["dog"].shape == small.confidence.shape == (50, 70)


def test_a_list_gives_a_list(model: SSR, photo: Path) -> None:
    pixels = np.array(Image.open(photo))
    one, two = model.rectify([photo, pixels[:32]], labels=[["dog"], ["cat", "dog"]])
    assert (one.mask.shape, two.mask.shape) == ((50, 70), (32, 70))
    assert (one.labels, two.labels) == (("dog",), ("cat", "dog"))
    assert np.array_equal(one.mask, model.rectify(photo, labels=["dog"]).mask)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["dogg"], 'dogg.* is no class of this model. Did you mean "dog"'),
        ([], "labels is empty: name the classes"),
        ([3], "3 is no class of this model"),
    ],
)
def test_labels_that_cannot_be(model: SSR, photo: Path, labels: list, message: str) -> None:
    with pytest.raises(LabelsError, match=message):
        model.rectify(photo, labels=labels)


def test_lists_that_do_not_fit(model: SSR, photo: Path) -> None:
    with pytest.raises(DataError, match="list of images is empty"):
        model.rectify([], labels=[])
    with pytest.raises(LabelsError, match="2 images need 2 lists of labels, not 1 list"):
        model.rectify([photo, photo], labels=[["dog"]])
    with pytest.raises(LabelsError, match="not 'dog'"):
        model.rectify([photo], labels="dog")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((9, 70, 3), np.uint8), "70 x 9 pixels, smaller than a patch"),
        (np.full((40, 40, 3), 1.5), "255"),
        (np.zeros((2, 40, 40, 3), np.uint8), "list"),
        (torch.zeros(40, 40, 3, dtype=torch.int64), "int64"),
        (np.zeros((0, 40, 3), np.uint8), "0"),
        (7, "int"),
        ("", "path of an image is empty"),
        (torch.zeros(40, 40).to_sparse(), "sparse"),
        (torch.zeros(3, 40, 40, device="meta"), "without values"),
        ((each for each in ()), "as a list"),
    ],
)
def test_images_that_cannot_be(model: SSR, image: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        model.rectify(image, labels=["dog"])
    assert "\n" not in str(raised.value)


def test_many_threads_read_one_model(model: SSR, photo: Path) -> None:
    expected = model.rectify(photo, labels=["dog", "cat"])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: model.rectify(photo, labels=["dog", "cat"]), range(8)))
    for each in found:
        assert np.array_equal(each.mask, expected.mask)
        assert np.array_equal(each.refined_cam["cat"], expected.refined_cam["cat"])


def test_without_a_decoder_nothing_is_segmented(model: SSR, photo: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no trained decoder.*rectify"):
        model.segment(photo)


def test_a_run_is_loaded_and_segments(run: Path, tree: Path, tmp_path: Path) -> None:
    model = SSR.from_pretrained(run)
    photo = tree / "JPEGImages" / "2007_000000.jpg"
    found = model.segment(photo)
    ssrseg.predict(photo, tmp_path, run)
    assert np.array_equal(
        found.mask, read_class_ids(tmp_path / "masks" / "2007_000000.png").numpy()
    )
    assert found.confidence.shape == found.mask.shape
    assert 0 < found.confidence.min() <= found.confidence.max() <= 1
    one, two = model.segment([photo, Image.open(photo).crop((0, 0, 40, 40))])
    assert np.array_equal(one.mask, found.mask)
    assert two.mask.shape == (40, 40)
    assert found._repr_html_().count("<img") == 2
    label = model.classes[open_labelled(tree).samples[0].labels[0]]
    assert model.rectify(photo, labels=label).labels == (label,)  # the heads are in it too
    assert model.alignment is not None


def test_segment_only_leaves_dino_and_texts_away(run: Path, tree: Path) -> None:
    model = SSR.from_pretrained(run, segment_only=True)
    assert model.dino is None
    assert model.clip.model.text_model is None
    photo = tree / "JPEGImages" / "2007_000000.jpg"
    whole = SSR.from_pretrained(run).segment(photo)
    assert np.array_equal(model.segment(photo).mask, whole.mask)
    with pytest.raises(CheckpointError, match="segment_only=True"):
        model.rectify(photo, labels=["cat"])


def test_saved_and_loaded_it_says_the_same(run: Path, tree: Path, tmp_path: Path) -> None:
    model, photo = SSR.from_pretrained(run), tree / "JPEGImages" / "2007_000001.jpg"
    model.save_pretrained(tmp_path / "kept")
    names = {path.name for path in (tmp_path / "kept").iterdir()}
    assert names == {"model.safetensors", "config.json", "README.md"}
    again = SSR.from_pretrained(tmp_path / "kept")
    label = model.classes[open_labelled(tree).samples[1].labels[0]]
    for one, other in (
        (model.segment(photo), again.segment(photo)),
        (model.rectify(photo, labels=[label]), again.rectify(photo, labels=[label])),
    ):
        assert np.array_equal(one.mask, other.mask)
        assert np.array_equal(one.confidence, other.confidence)
    card = ModelCard.load(tmp_path / "kept" / "README.md")
    assert card.data.license is None  # for whoever publishes it to say
    assert card.data.pipeline_tag == "image-segmentation"
    assert f"into {len(model.classes)} classes and background" in card.content
    clip = Path(model.config.backbones.clip).name
    for words in (f"| 1 | {model.classes[0]} |", "found = model.segment", clip):
        assert words in card.content


def test_a_training_free_model_is_kept_too(model: SSR, photo: Path, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = SSR.from_pretrained(tmp_path)
    assert again.alignment is None
    assert again.decoder is None
    labels = ["dog", "red car"]
    found, expected = (each.rectify(photo, labels=labels) for each in (again, model))
    assert np.array_equal(found.mask, expected.mask)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "found = model.rectify" in text
    assert "into masks of 3 classes, with" in " ".join(text.split())
    model.vocabulary = replace(model.vocabulary, classes=("dog",))
    try:
        assert "into masks of 1 class, with" in " ".join(str(model.generate_model_card()).split())
    finally:
        model.vocabulary = replace(model.vocabulary, classes=CLASSES)


def test_pushed_to_the_hub(model: SSR, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: dict[str, set[str]] = {}

    class Hub:
        def __init__(self, token: str | None = None) -> None: ...

        def create_repo(self, repo_id: str, **_: object) -> object:
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, repo_id: str, folder_path: Path, **_: object) -> str:
            pushed[repo_id] = {path.name for path in Path(folder_path).iterdir()}
            return "url"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Hub)
    assert model.push_to_hub("somebody/cats") == "url"
    assert pushed == {"somebody/cats": {"model.safetensors", "config.json", "README.md"}}


def test_models_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"is a folder without model\.safetensors"):
        SSR.from_pretrained(tmp_path)

    def closed(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("ssrseg.checkpoint.hf_hub_download", closed)
    with pytest.raises(CheckpointError, match=r"somebody/cats is neither a folder here"):
        SSR.from_pretrained("somebody/cats")


def test_from_encoders(clip_dir: Path, dino_dir: Path, photo: Path) -> None:
    model = SSR.from_encoders(
        ["dog", "cat"], clip=clip_dir, dino=dino_dir, settings=["pseudo.refine=none"]
    )
    assert model.classes == ("dog", "cat")
    assert model.config.backbones.clip == str(clip_dir)
    assert model.config.pseudo.refine == "none"
    assert set(np.unique(model.rectify(photo, labels="cat").mask)) <= {0, 2}
    for classes, message in (("dog", "one text"), ([], "no class"), (["dog", "Dog"], "Dog")):
        with pytest.raises(LabelsError, match=message):
            SSR.from_encoders(classes, clip=clip_dir, dino=dino_dir)
    for prompts in ({"dgo": "x"}, {"dog": ""}):
        with pytest.raises(ConfigError, match=r"^prompts"):
            SSR.from_encoders(["dog"], clip=clip_dir, dino=dino_dir, prompts=prompts)
    plain = SSR.from_encoders([np.str_(" dog ")], clip=clip_dir, dino=dino_dir)
    assert plain.classes == ("dog",)
    assert type(plain.classes[0]) is str
    with pytest.raises(BackboneError, match="is not a clip"):
        SSR.from_encoders(["dog"], clip=dino_dir, dino=dino_dir)
    with pytest.raises(ConfigError, match=r"sgc\.hihg"):
        SSR.from_encoders(["dog"], clip=clip_dir, dino=dino_dir, settings=["sgc.hihg=1"])


def test_values_of_any_type(tmp_path: Path) -> None:
    script = """
import numpy as np, torch
from ssrseg import SSR, load_config
from ssrseg.checkpoint import load_checkpoint
from ssrseg.data.images import read_image
from ssrseg.data.class_ids import read_class_ids
from ssrseg.data.walk import list_images
from ssrseg.device import pick_device
from ssrseg.errors import SSRError

model = SSR.from_encoders(["dog", "cat"], preset="demo", device="cpu")
image = np.zeros((32, 32, 3), np.uint8)
found = model.rectify(image, labels="dog")
calls = [
    lambda: model.rectify(image, labels=None),
    lambda: model.rectify(image, labels=0),
    lambda: model.rectify((each for each in [image]), labels="dog"),
    lambda: found.heat(None),
    lambda: found.heat(["dog"]),
    *(lambda read=read, path=path: read(path) for read in (read_image, read_class_ids, list_images)
      for path in (None, 3)),
    lambda: load_checkpoint(None),
    lambda: load_config(None),
    lambda: load_config(overrides=[3]),
    lambda: pick_device(None),
    lambda: pick_device("meta"),
    *(lambda classes=classes: SSR.from_encoders(classes, preset="demo", device="cpu")
      for classes in (None, 3, [1, 2], ["dog", None], {"dog", "cat"}, {"dog": "puppy"})),
    *(lambda prompts=prompts: SSR.from_encoders(["dog"], preset="demo", prompts=prompts)
      for prompts in ("voc", ["puppy"], {"dog": None}, {"dog": 3}, {3: "x"})),
]
for call in calls:
    try:
        call()
    except SSRError as error:
        print(type(error).__name__, error)
    else:
        print("accepted")
"""
    # in a process of its own, because the tests check types at every call
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    expected = [
        "LabelsError labels = None: labels must be names",
        "LabelsError labels = 0: labels must be names",
        "DataError one image is expected, but a generator was given. Pass several images as a list",
        'LabelsError There is no CAM of "None": the photograph was labelled with dog.',
        """LabelsError There is no CAM of "['dog']": the photograph""",
        "DataError the path of an image is None, but text or a pathlib.Path is expected.",
        "DataError the path of an image is 3, but text or a pathlib.Path is expected.",
        "DataError the path of a mask is None, but text or a pathlib.Path is expected.",
        "DataError the path of a mask is 3, but text or a pathlib.Path is expected.",
        "DataError the path of images is None, but text or a pathlib.Path is expected.",
        "DataError the path of images is 3, but text or a pathlib.Path is expected.",
        "CheckpointError the path of a model is None, but text or a pathlib.Path is expected.",
        'ConfigError preset "None" (--preset) does not exist.',
        'ConfigError setting "3" (--set): expected section.key=value',
        'ConfigError device "None" (--device) cannot be used here',
        'ConfigError device "meta" (--device) cannot be used here',
        "LabelsError classes = None is no list.",
        "LabelsError classes = 3 is no list.",
        "LabelsError classes item 1 is 1, which is no text.",
        "LabelsError classes item 2 is None, which is no text.",
        "LabelsError classes = {'cat', 'dog'} has no order",
        "LabelsError classes = {'dog': 'puppy'} is no list",
        "ConfigError prompts = 'voc' is no mapping",
        "ConfigError prompts = ['puppy'] is no mapping",
        'ConfigError prompts["dog"] = None is no text',
        'ConfigError prompts["dog"] = 3 is no text',
        "ConfigError prompts has a text for 3, which is no class.",
    ]
    lines = done.stdout.splitlines()
    assert len(lines) == len(expected)
    for line, beginning in zip(lines, expected, strict=True):
        assert line.startswith(beginning)


def test_other_settings_share_the_encoders(model: SSR, clip_dir: Path, dino_dir: Path) -> None:
    config = replace(model.config, pseudo=replace(model.config.pseudo, refine="none"))
    other = model.with_config(config)
    assert other.clip is model.clip
    assert other.dino is model.dino
    assert model.config.pseudo.refine == "par"
    elsewhere = replace(config, backbones=replace(config.backbones, clip="another/clip"))
    with pytest.raises(ValueError, match="shares encoders and texts, but backbones differs"):
        model.with_config(elsewhere)
    alone = SSR.from_config(tiny_config(clip_dir, dino_dir, "affinity.dino_weight=0"), CLASSES)
    with pytest.raises(ConfigError, match="built without DINO"):
        alone.with_config(model.config).rectify(np.zeros((40, 40, 3), np.uint8), labels="cat")
