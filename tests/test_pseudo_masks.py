from __future__ import annotations

import csv
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from make_tiny import tiny_folder, tiny_voc
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_encoders import tiny_clip, tiny_config, tiny_dino
from torch import Tensor

from ssrseg import mask_folder as module
from ssrseg import pseudo_masks
from ssrseg.config import Config
from ssrseg.data.class_ids import read_class_ids, write_class_ids
from ssrseg.data.images import read_image
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.errors import BackboneError, CheckpointError, ConfigError, DataError, OutputError
from ssrseg.made_with import MadeWith
from ssrseg.mask_folder import Making, open_masks
from ssrseg.model import SSR
from ssrseg.photo_masks import pseudo_mask_miou, rectify_photo
from ssrseg.pseudo_masks import make_masks
from ssrseg.training import train

NO_CACHE = SuperpixelCache(None, n_segments=20, compactness=10.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    return open_labelled(tiny_folder(tmp_path_factory.mktemp("own") / "data", n=4))


@pytest.fixture
def config(clip_dir: Path, dino_dir: Path) -> Config:
    return tiny_config(clip_dir, dino_dir, "cam.mode=clip")


@pytest.fixture(scope="module")
def ssr(clip_dir: Path, dino_dir: Path, folder: LabelledImages) -> SSR:
    return SSR.from_config(tiny_config(clip_dir, dino_dir), folder.classes)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the masks that were written."""
    names: list[str] = []
    original = module.write_mask

    def noting(path: Path, ids: Tensor, made_for: str, note: str) -> None:
        names.append(path.stem)
        original(path, ids, made_for, note)

    monkeypatch.setattr(module, "write_mask", noting)
    return names


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.rglob("*.p*") if path.is_file()}


def test_files(folder: LabelledImages, tmp_path: Path, config: Config) -> None:
    result = make_masks(folder, tmp_path, config)
    assert (result.out, result.written, result.skipped) == (tmp_path, 4, 0)
    with (tmp_path / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [sample.name for sample in folder.samples]
    for sample, row in zip(folder.samples, rows, strict=True):
        names = [folder.classes[index] for index in sample.labels]
        assert row["labels"].split(";") == (names or [""])
        found = read_class_ids(tmp_path / row["mask"])
        photo = read_image(sample.image)
        assert found.shape == photo.shape[:2]
        shown = set(found.unique().tolist())
        assert shown <= {0, *(index + 1 for index in sample.labels)}
        lacks = tuple(folder.classes[index] for index in sample.labels if index + 1 not in shown)
        assert row["absent"] == ";".join(lacks)
        assert result.absent.get(sample.name, ()) == lacks
        with np.load(tmp_path / "cams" / f"{sample.name}.npz") as cams:
            assert cams["classes"].tolist() == names
            grid = (-(-photo.shape[0] // 16), -(-photo.shape[1] // 16))
            assert cams["cam"].shape == cams["refined_cam"].shape == (len(names), *grid)
            assert (cams["cam"].dtype, cams["refined_cam"].dtype) == (np.float16, np.float32)
            for maps in (cams["cam"], cams["refined_cam"]):
                assert maps.min(initial=1) >= 0
                assert maps.max(initial=0) <= 1
            if names:
                assert cams["cam"].max() > 0.99
    assert any(len(read_class_ids(tmp_path / row["mask"]).unique()) > 1 for row in rows)


def test_an_image_without_any_class_is_background(
    folder: LabelledImages, tmp_path: Path, config: Config
) -> None:
    bare = [sample for sample in folder.samples if not sample.labels]
    assert bare
    make_masks(replace(folder, samples=tuple(bare)), tmp_path, config)
    assert not read_class_ids(tmp_path / "masks" / f"{bare[0].name}.png").any()
    with np.load(tmp_path / "cams" / f"{bare[0].name}.npz") as cams:
        assert cams["classes"].dtype.kind == "U"  # names, even if there are none


def test_stopped_and_started_again(
    folder: LabelledImages,
    tmp_path: Path,
    config: Config,
    made: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_masks(folder, tmp_path / "straight", config)
    made.clear()
    write = module.write_mask

    def killed(path: Path, ids: Tensor, made_for: str, note: str) -> None:
        if len(made) == 2:
            raise KeyboardInterrupt
        write(path, ids, made_for, note)

    monkeypatch.setattr(module, "write_mask", killed)
    with pytest.raises(KeyboardInterrupt):
        make_masks(folder, tmp_path / "halves", config)
    monkeypatch.setattr(module, "write_mask", write)
    result = make_masks(folder, tmp_path / "halves", config)
    assert (result.written, result.skipped) == (2, 2)
    names = [sample.name for sample in folder.samples]
    assert made == names
    assert contents(tmp_path / "straight") == contents(tmp_path / "halves")
    made.clear()
    assert make_masks(folder, tmp_path / "halves", config).written == 0
    assert made == []


def test_a_mask_is_written_while_the_next_one_is_made(
    folder: LabelledImages, tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_masks(folder, tmp_path / "as ever", config)
    next_one, write, choose = Event(), module.write_mask, pseudo_masks.mask_of_cam
    written: list[str] = []
    calls = count(1)

    def waiting(path: Path, ids: Tensor, made_for: str, note: str) -> None:
        assert next_one.wait(60), "nothing is made while this waits"
        written.append(path.stem)
        write(path, ids, made_for, note)

    def choosing(*arguments: Any) -> Any:
        if next(calls) == 2:
            next_one.set()
        return choose(*arguments)

    monkeypatch.setattr(module, "write_mask", waiting)
    monkeypatch.setattr(pseudo_masks, "mask_of_cam", choosing)
    result = make_masks(folder, tmp_path / "waiting", config)
    assert written == [sample.name for sample in folder.samples] and result.written == 4
    assert contents(tmp_path / "waiting") == contents(tmp_path / "as ever")


@pytest.mark.parametrize("last", [False, True])
def test_a_mask_that_cannot_be_written_ends_the_call_and_the_others_stay(
    folder: LabelledImages,
    tmp_path: Path,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    last: bool,
) -> None:
    full, write = folder.samples[-1 if last else 1].name, module.write_mask

    def refusing(path: Path, *arguments: Any) -> None:
        if path.stem == full:
            raise OutputError(f"{path} cannot be written")
        write(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_mask", refusing)
        with pytest.raises(OutputError, match=full):
            make_masks(folder, tmp_path, config)
    there = {path.stem for path in (tmp_path / "masks").iterdir()}
    assert full not in there and folder.samples[0].name in there
    result = make_masks(folder, tmp_path, config)
    assert (result.written, result.skipped) == (4 - len(there), len(there))


def test_what_is_done_is_known_without_the_manifest(
    folder: LabelledImages, tmp_path: Path, config: Config, made: list[str]
) -> None:
    two = replace(folder, samples=folder.samples[:2])
    make_masks(two, tmp_path, config)
    manifest = tmp_path / "manifest.csv"
    whole = manifest.read_text()
    made.clear()
    for damage in (lambda: manifest.write_text(whole[:-12]), manifest.unlink):
        damage()
        result = make_masks(two, tmp_path, config)
        assert (made, result.skipped, manifest.read_text()) == ([], 2, whole)


def test_a_review_of_every_mask(
    folder: LabelledImages, tmp_path: Path, config: Config, made: list[str]
) -> None:
    result = make_masks(folder, tmp_path, config)
    with (tmp_path / "manifest.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert list(result.reviews) == sorted(rows, key=lambda name: (float(rows[name]["score"]), name))
    for name, review in result.reviews.items():
        assert rows[name]["score"] == f"{review.score:.3f}" and 0 <= review.score <= 1
        assert rows[name]["reasons"] == ";".join(review.reasons)
    # the same from kept CAMs, and when nothing is made
    whole = (tmp_path / "manifest.csv").read_text()
    (tmp_path / "masks" / f"{folder.samples[0].name}.png").unlink()
    again = make_masks(folder, tmp_path, config)
    assert (again.from_kept_cams, again.reviews) == (1, result.reviews)
    assert (tmp_path / "manifest.csv").read_text() == whole
    # a mask that a person has made is not doubted
    path = tmp_path / "masks" / f"{folder.samples[1].name}.png"
    write_class_ids(path, torch.zeros_like(read_class_ids(path)))
    corrected = make_masks(folder, tmp_path, config)
    assert set(corrected.reviews) == {each.name for each in folder.samples} - {path.stem}
    with (tmp_path / "manifest.csv").open() as file:
        found = {row["name"]: (row["score"], row["reasons"]) for row in csv.DictReader(file)}
    assert found[path.stem] == ("", "")


def test_confidence_beside_the_masks(
    folder: LabelledImages, tmp_path: Path, config: Config, made: list[str]
) -> None:
    make_masks(folder, tmp_path, config)
    assert not (tmp_path / "confidence").exists()
    result = make_masks(folder, tmp_path, config, confidence=True)
    assert (result.written, result.from_kept_cams) == (4, 4)
    model = SSR.from_config(config, folder.classes)
    sample = next(each for each in folder.samples if each.labels)
    path = tmp_path / "confidence" / f"{sample.name}.png"
    with Image.open(path) as image:
        assert image.mode == "L"
        grey = np.asarray(image)
    expected = model.rectify(sample.image, [folder.classes[i] for i in sample.labels]).confidence
    assert np.abs(grey / 255 - expected).max() < 0.51 / 255
    assert grey.min() < 250
    made.clear()
    assert make_masks(folder, tmp_path, config, confidence=True).written == 0
    path.write_bytes(path.read_bytes()[:-20])
    assert make_masks(folder, tmp_path, config, confidence=True).written == 1
    # one that would no longer fit its mask goes with it
    other = replace(config, pseudo=replace(config.pseudo, alpha=4.0))
    make_masks(folder, tmp_path, other)
    assert not path.exists()


def test_what_is_missing_or_changed_is_made_again(
    folder: LabelledImages, tmp_path: Path, config: Config, made: list[str]
) -> None:
    make_masks(folder, tmp_path, config)
    first, second, third = (sample.name for sample in folder.samples[:3])
    (tmp_path / "masks" / f"{first}.png").unlink()
    relabelled = replace(folder.samples[1], labels=(2,))
    samples = (folder.samples[0], relabelled, *folder.samples[2:])
    made.clear()
    result = make_masks(replace(folder, samples=samples), tmp_path, config)
    assert made == [first, second]
    assert (result.written, result.skipped, result.renewed) == (2, 2, 1)
    made.clear()
    assert make_masks(replace(folder, samples=samples), tmp_path, config).skipped == 4
    cams = tmp_path / "cams" / f"{third}.npz"
    for damage in (cams.unlink, lambda: cams.write_bytes(cams.read_bytes()[:300])):
        damage()  # its mask is there, its CAM is not, or not whole
        make_masks(replace(folder, samples=samples[2:3]), tmp_path, config)
        assert made == [third]
        made.clear()
    make_masks(replace(folder, samples=samples[2:3]), tmp_path, config)
    assert made == []


@pytest.mark.parametrize("suffix", [".bmp", ".png", ".tif"])
def test_another_photograph_of_that_name_and_size(
    tmp_path: Path, config: Config, made: list[str], suffix: str
) -> None:
    data = one_photo(tmp_path / "own", suffix, 80)
    make_masks(data, tmp_path / "out", config)
    size = data.samples[0].image.stat().st_size
    made.clear()
    assert make_masks(data, tmp_path / "out", config).skipped == 1
    one_photo(tmp_path / "own", suffix, 190)
    if suffix == ".bmp":
        assert data.samples[0].image.stat().st_size == size
    result = make_masks(data, tmp_path / "out", config)
    assert (made, result.renewed) == (["photo_0"], 1)


def one_photo(root: Path, suffix: str, level: int, tags: dict[int, int] | None = None) -> Any:
    """A data set of one photograph, light below, of a given level above."""
    root.mkdir(exist_ok=True)
    pixels = np.full((48, 80, 3), 230, np.uint8)
    pixels[:24] = level
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif.update(tags or {})
    image.save(root / f"photo_0{suffix}", exif=exif)
    sample = Sample("photo_0", root / f"photo_0{suffix}", (1,), None)
    return LabelledImages(root, ("cat", "dog"), (sample,))


@pytest.mark.parametrize("turned", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", [".tif", ".jpg"])
def test_a_mask_corrected_by_hand_is_kept(
    tmp_path: Path, config: Config, made: list[str], suffix: str, turned: int
) -> None:
    data, out = one_photo(tmp_path / "own", suffix, 80, {0x0112: turned}), tmp_path / "out"
    make_masks(data, out, config)
    path = out / "masks" / "photo_0.png"
    assert read_class_ids(path).shape == ((80, 48) if turned in (6, 8) else (48, 80))
    correct_by_hand(path)
    corrected = path.read_bytes()
    made.clear()
    for again in (data, replace(data, samples=(replace(data.samples[0], labels=(0,)),))):
        result = make_masks(again, out, config)
        assert (made, result.skipped, result.corrected) == ([], 1, ("photo_0",))
        assert path.read_bytes() == corrected
    with (out / "manifest.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["made_by"], row["absent"]) == ("person", "cat")  # a dog was painted
    make_masks(data, out, config)
    assert path.read_bytes() == corrected and (out / "cams" / "photo_0.npz").is_file()
    assert make_masks(data, out, config, overwrite=True).written == 1
    assert path.read_bytes() != corrected


def correct_by_hand(path: Path) -> None:
    mask = Image.open(path)
    mask.load()
    mask.paste(2, (0, 0, 9, 9))
    mask.save(path)


def test_a_correction_of_another_size_or_of_no_class_is_said(
    tmp_path: Path, config: Config
) -> None:
    data, out = one_photo(tmp_path / "own", ".png", 80), tmp_path / "out"
    make_masks(data, out, config)
    path = out / "masks" / "photo_0.png"
    mask = Image.open(path)
    mask.load()
    mask.paste(77, (0, 0, 9, 9))
    mask.save(path)
    (failure,) = make_masks(data, out, config).failures
    assert "holds class id 77" in failure.reason
    mask.resize((40, 30), Image.Resampling.NEAREST).point(lambda _: 1).save(path)
    (failure,) = make_masks(data, out, config).failures
    assert "was corrected by hand, and has 40 x 30 pixels, but" in failure.reason


def test_a_correction_of_another_photograph_is_neither_used_nor_lost(
    tmp_path: Path, config: Config
) -> None:
    data, out = one_photo(tmp_path / "own", ".png", 80), tmp_path / "out"
    make_masks(data, out, config)
    path = out / "masks" / "photo_0.png"
    correct_by_hand(path)
    corrected = path.read_bytes()
    one_photo(tmp_path / "own", ".png", 190)
    result = make_masks(data, out, config)
    assert (result.written, len(result.failures)) == (0, 1)
    assert "corrected by hand, for another photograph" in result.failures[0].reason
    assert path.read_bytes() == corrected
    assert "photo_0" in (out / "failures.csv").read_text()


def test_what_is_damaged_and_not_ours_is_not_replaced(tmp_path: Path, config: Config) -> None:
    data, out = one_photo(tmp_path / "own", ".png", 80), tmp_path / "out"
    make_masks(data, out, config)
    path = out / "masks" / "photo_0.png"
    correct_by_hand(path)
    for content in (path.read_bytes()[:-60], b"gimp xcf v011" + bytes(200)):
        path.write_bytes(content)
        (failure,) = make_masks(data, out, config).failures
        assert "is damaged" in failure.reason and "move it away" in failure.reason
        assert path.read_bytes() == content


def test_a_correction_of_which_nothing_says_the_photograph(
    tmp_path: Path, config: Config, capfd: pytest.CaptureFixture[str]
) -> None:
    data, out = one_photo(tmp_path / "own", ".png", 80), tmp_path / "out"
    make_masks(data, out, config)
    correct_by_hand(out / "masks" / "photo_0.png")
    (out / "manifest.csv").unlink()
    assert make_masks(data, out, config).corrected == ("photo_0",)
    assert "nothing says for which photograph" in capfd.readouterr().err
    make_masks(data, out, config)
    assert "nothing says" not in capfd.readouterr().err


def test_masks_have_a_place_of_their_own(tmp_path: Path, config: Config) -> None:
    one_photo(tmp_path / "own", ".png", 80)
    photo = (tmp_path / "own" / "photo_0.png").read_bytes()
    out = tmp_path / "out"
    for path in (out / "masks/inside.png", tmp_path / "own/a.jpg", tmp_path / "own/a.png/b.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo)
    (out / "masks" / "c.png").mkdir()
    samples = (
        Sample("inside", out / "masks" / "inside.png", (1,), None),
        Sample("a", tmp_path / "own" / "a.jpg", (1,), None),
        Sample("a.png/b", tmp_path / "own" / "a.png" / "b.png", (1,), None),
        Sample("c", tmp_path / "own" / "photo_0.png", (1,), None),
        Sample("d", tmp_path / "own" / "photo_0.png", (1,), None),
    )
    data = LabelledImages(tmp_path, ("cat", "dog"), samples)
    for overwrite in (True, False):
        result = make_masks(data, out, config, overwrite=overwrite)
        reasons = {each.name: each.reason for each in result.failures}
        assert reasons.keys() == {"inside", "a.png/b", "c"}
        assert "lies where its own mask would be written" in reasons["inside"]
        assert "something else is or is going to be" in reasons["a.png/b"]
        assert (out / "masks" / "inside.png").read_bytes() == photo


def test_a_config_of_ones_own_is_not_replaced(tmp_path: Path, config: Config) -> None:
    data, out = one_photo(tmp_path / "own", ".png", 80), tmp_path / "out"
    out.mkdir()
    (out / "config.yaml").write_text("sgc:\n  high: 0.3  # mine\n")
    with pytest.raises(ConfigError, match=r"config\.yaml was not written by ssrseg"):
        make_masks(data, out, config)
    assert "# mine" in (out / "config.yaml").read_text()


def test_encoders_at_another_place_are_the_same(tmp_path: Path, config: Config) -> None:
    data, out = one_photo(tmp_path / "own", ".png", 80), tmp_path / "out"
    make_masks(data, out, config)
    moved = tiny_clip(tmp_path / "moved")  # as that of the fixture
    elsewhere = replace(config, backbones=replace(config.backbones, clip=str(moved)))
    optim = replace(config.optim, save_every=7)
    speed = replace(elsewhere, data=replace(config.data, workers=1), optim=optim)
    assert make_masks(data, out, speed).skipped == 1
    tiny_clip(tmp_path / "moved", seed=3)
    with pytest.raises(ConfigError, match=r"another clip \(digest \"2bac2c9d8b10cb1b\" there"):
        make_masks(data, out, elsewhere)


def test_encoders_that_give_no_numbers(tmp_path: Path, config: Config) -> None:
    data = one_photo(tmp_path / "own", ".png", 80)
    dino = tiny_dino(tmp_path / "dino")
    weights = load_file(dino / "model.safetensors")
    name = next(name for name in weights if name.endswith("intermediate.dense.weight"))
    save_file(weights | {name: weights[name] * 1e30}, dino / "model.safetensors", {"format": "pt"})
    broken = replace(config, backbones=replace(config.backbones, dino=str(dino)))
    with pytest.raises(BackboneError, match="gives CAMs that are nan or infinite"):
        make_masks(data, tmp_path / "out", broken)
    with pytest.raises(BackboneError, match="gives CAMs that are nan or infinite"):
        train(data, tmp_path / "run", broken)


def test_a_mask_cut_short_is_no_mask(tmp_path: Path, config: Config, made: list[str]) -> None:
    data, out = one_photo(tmp_path / "own", ".png", 80), tmp_path / "out"
    make_masks(data, out, config)
    path = out / "masks" / "photo_0.png"
    whole = path.read_bytes()
    for length in (0, 10, 60, len(whole) // 2, len(whole) - 20):
        path.write_bytes(whole[:length])
        made.clear()
        make_masks(data, out, config)
        assert (made, path.read_bytes()) == (["photo_0"], whole), length


def test_images_that_cannot_be_used_end_nothing(tmp_path: Path, config: Config) -> None:
    data, out = open_labelled(tiny_folder(tmp_path / "own", n=6)), tmp_path / "out"
    whole = data.samples[1].image.read_bytes()
    data.samples[1].image.write_bytes(whole[:100])
    data.samples[4].image.unlink()
    result = make_masks(data, out, config)
    assert (result.written, result.skipped) == (4, 0)
    assert [each.name for each in result.failures] == [data.samples[1].name, data.samples[4].name]
    with (out / "failures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["image"]) for row in rows] == [
        (each.name, str(each.image)) for each in (data.samples[1], data.samples[4])
    ]
    assert "damaged or cut short" in rows[0]["reason"]
    assert "does not exist" in rows[1]["reason"]
    with pytest.raises(DataError, match=r"cut short|does not exist"):
        make_masks(data, out, config, strict=True)
    for index in (1, 4):
        data.samples[index].image.write_bytes(whole)
    result = make_masks(data, out, config)
    assert (result.written, result.skipped, result.failures) == (2, 4, ())
    assert not (out / "failures.csv").exists()


def test_text_paths_and_any_device(
    folder: LabelledImages, tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = make_masks(folder, "masks", config, cache="cells", device="auto")
    assert result.out == Path("masks")
    assert any(Path("cells").rglob("*.npy"))
    with pytest.raises(ConfigError, match=r'"quantum" \(--device\) cannot be used here'):
        make_masks(folder, "masks", config, device="quantum")


def test_other_settings_are_refused(folder: LabelledImages, tmp_path: Path, config: Config) -> None:
    make_masks(replace(folder, samples=folder.samples[:1]), tmp_path, config)
    before = contents(tmp_path)
    other = replace(config, sgc=replace(config.sgc, high=0.7))
    with pytest.raises(ConfigError, match=r"\(sgc\.high = 0\.4 there, 0\.7 now\)\. .*--out"):
        make_masks(folder, tmp_path, other)
    with pytest.raises(ConfigError, match=rf"such as {folder.samples[0].name}\.png, which this"):
        make_masks(replace(folder, samples=folder.samples[1:]), tmp_path, other, overwrite=True)
    assert contents(tmp_path) == before
    assert make_masks(folder, tmp_path, other, overwrite=True).written == 4
    making = Making("model", MadeWith(("cat",), {}), "")
    with (
        pytest.raises(ConfigError, match="holds masks made from labels"),
        open_masks(tmp_path, (), making, overwrite=False, strict=False),
    ):
        pass


@pytest.mark.parametrize(("height", "width"), [(33, 47), (150, 61), (16, 200), (64, 64)])
def test_size_of_the_mask_is_the_size_of_the_photograph(ssr: SSR, height: int, width: int) -> None:
    config = ssr.config
    small = ssr.with_config(replace(config, data=replace(config.data, max_side=96)))
    photo = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)
    found = rectify_photo(small, photo, (0, 2), NO_CACHE)
    assert found.pseudo_mask.shape == (height, width)
    assert found.labels == (0, 2)
    assert found.cam.shape[0] == 2
    assert 16 * max(found.cam.shape[1:]) <= 96


def test_a_large_photograph_costs_what_its_reduced_copy_costs(ssr: SSR) -> None:
    config = ssr.config
    small = ssr.with_config(replace(config, data=replace(config.data, max_side=64)))
    photo = read_smooth(128)
    found = rectify_photo(small, photo, (1,), NO_CACHE)
    assert torch.equal(found.pseudo_mask[::2, ::2], found.pseudo_mask[1::2, 1::2])


def read_smooth(side: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    blob = ((rows - side / 2) ** 2 + (columns - side / 3) ** 2).sqrt() < side / 4
    photo = torch.stack([blob * 200, rows * 255 // side, columns * 255 // side], -1)
    return photo.to(torch.uint8)


def test_an_image_smaller_than_a_patch(tmp_path: Path, config: Config) -> None:
    Image.fromarray(np.zeros((15, 40, 3), np.uint8)).save(tmp_path / "thin.png")
    thin = Sample("thin", tmp_path / "thin.png", (0,), None)
    data = LabelledImages(tmp_path, ("cat",), (thin,))
    with pytest.raises(DataError, match=r"thin\.png is 40 x 15 pixels, smaller than one patch"):
        make_masks(data, tmp_path / "out", config, strict=True)
    assert not (tmp_path / "out" / "masks").exists()


def test_with_a_trained_cmpa(clip_dir: Path, dino_dir: Path, tmp_path: Path) -> None:
    voc = open_labelled(tiny_voc(tmp_path / "voc", n=3))
    config = tiny_config(
        clip_dir, dino_dir, "optim.cmpa_iterations=30", "optim.iterations=1", "optim.cmpa_lr=0.05"
    )
    train(voc, tmp_path / "run", config)
    make_masks(voc, tmp_path / "trained", config, model=tmp_path / "run")
    make_masks(voc, tmp_path / "free", config)
    name = voc.samples[0].name
    with (
        np.load(tmp_path / "trained" / "cams" / f"{name}.npz") as trained,
        np.load(tmp_path / "free" / "cams" / f"{name}.npz") as free,
    ):
        assert np.abs(trained["cam"] - free["cam"]).max() > 1e-3
    with pytest.raises(ConfigError, match="other settings"):
        make_masks(voc, tmp_path / "free", config, model=tmp_path / "run")
    fewer = replace(voc, classes=voc.classes[:-1])
    with pytest.raises(CheckpointError, match="20 classes in the model, 19 in the data"):
        make_masks(fewer, tmp_path / "other", config, model=tmp_path / "run")


def test_with_the_decoder_of_a_weclip_run(clip_dir: Path, dino_dir: Path, tmp_path: Path) -> None:
    voc = open_labelled(tiny_voc(tmp_path / "voc", n=3))
    settings = ("optim.iterations=1", "affinity.rfm_layers=-3")
    config = tiny_config(clip_dir, dino_dir, *settings, preset="weclip")
    train(voc, tmp_path / "run", config)
    make_masks(voc, tmp_path / "refined", config, model=tmp_path / "run")
    make_masks(voc, tmp_path / "free", config)
    name = voc.samples[0].name
    with (
        np.load(tmp_path / "refined" / "cams" / f"{name}.npz") as refined,
        np.load(tmp_path / "free" / "cams" / f"{name}.npz") as free,
    ):
        assert np.abs(refined["cam"] - free["cam"]).max() < 1e-4
        assert np.abs(refined["refined_cam"] - free["refined_cam"]).max() > 1e-3
    off = tiny_config(clip_dir, dino_dir, *settings, "affinity.rfm_after=null", preset="weclip")
    with pytest.raises(CheckpointError, match=r"cannot help here.*CAMs without CMPA"):
        make_masks(voc, tmp_path / "off", off, model=tmp_path / "run")


def test_monitored_miou_by_hand(ssr: SSR, tmp_path: Path) -> None:
    voc = open_labelled(tiny_voc(tmp_path / "voc", n=2, classes=("cat", "dog", "red car")))
    own = ssr.with_config(ssr.config)
    hits, either = torch.zeros(4), torch.zeros(4)
    for sample in voc.samples:
        assert sample.truth is not None
        mask = rectify_photo(own, read_image(sample.image), sample.labels, NO_CACHE).pseudo_mask
        truth = read_class_ids(sample.truth)
        counted = (truth != 255) & (mask != 255)
        for c in range(4):
            hits[c] += ((mask == c) & (truth == c) & counted).sum()
            either[c] += (((mask == c) | (truth == c)) & counted).sum()
    expected = (hits / either)[:3].mean()  # the third class is in neither image
    assert pseudo_mask_miou(own, voc, NO_CACHE) == pytest.approx(float(expected), abs=1e-6)
