"""Images in tiles: a scene with known truth, and the ways in which tiles must change nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from command import exit_code
from PIL import Image
from tiny_encoders import tiny_config

from ssrseg import tiled as module
from ssrseg.config import load_config
from ssrseg.data import large
from ssrseg.data.class_ids import read_class_ids
from ssrseg.data.csv_lines import csv_rows
from ssrseg.data.images import read_image
from ssrseg.data.large import HeldImage, Tiling
from ssrseg.data.open import open_labelled
from ssrseg.data.stamped_mask import mask_ids, sample_mask
from ssrseg.demo.canvas import Canvas
from ssrseg.demo.scenes import CLASSES, _surroundings, render_scene
from ssrseg.errors import ConfigError, DataError
from ssrseg.export.run import export_masks
from ssrseg.model import SSR
from ssrseg.prediction import predict
from ssrseg.pseudo_masks import make_masks
from ssrseg.report.masks import write_masks_report
from ssrseg.reviewing.encoders import EncoderOptions
from ssrseg.reviewing.folder import open_review
from ssrseg.tiled import Look, tiled_look
from ssrseg.training import train

SIDE = 128


def empty(seed: int) -> np.ndarray:
    """A field, street, sea or room without a thing in it."""
    canvas = Canvas(SIDE, np.random.default_rng(seed))
    _surroundings(canvas, ("field", "street", "sea", "room")[seed % 4])
    return canvas.finish()


def scene_of(
    shown: dict[tuple[int, int], int], rows: int, columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """A scene of places, most of them empty, and its truth; ``shown`` are seeds of the others."""
    image = np.zeros((rows * SIDE, columns * SIDE, 3), np.uint8)
    truth = np.zeros(image.shape[:2], np.uint8)
    for row in range(rows):
        for column in range(columns):
            there = slice(row * SIDE, (row + 1) * SIDE), slice(column * SIDE, (column + 1) * SIDE)
            if (row, column) in shown:
                scene = render_scene(shown[row, column])
                image[there], truth[there] = scene.image, scene.truth
            else:
                image[there] = empty(4 * row + 3 * column)
    return image, truth


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray]:
    cars = (33, 54, 63)
    assert all(render_scene(seed).classes == ("car",) for seed in cars)
    return scene_of(dict(zip([(0, 0), (1, 3), (3, 1)], cars, strict=True)), 4, 4)


def intersection_over_union(ids: np.ndarray, truth: np.ndarray, number: int) -> float:
    one, other = ids == number, truth == number
    return float((one & other).sum() / (one | other).sum())


def test_tiles_find_what_the_whole_does_not_and_nothing_where_nothing_is(scene) -> None:
    image, truth = scene
    number = CLASSES.index("car") + 1
    found = {}
    for tile in ("none", "128"):
        settings = ["data.max_side=128", f"data.tile={tile}", "pseudo.refine=none"]
        model = SSR.from_encoders(CLASSES, preset="demo", settings=settings)
        found[tile] = model.rectify(image, ["car"]).mask
        assert set(np.unique(found[tile])) <= {0, number}
    whole, tiles = (intersection_over_union(ids, truth, number) for ids in found.values())
    assert tiles > 0.25 and tiles > 2 * whole, (tiles, whole)
    # of places without a car, hardly a pixel; a CAM that fills [0, 1] in each would have a fifth
    empty_places = np.kron(
        truth.reshape(4, SIDE, 4, SIDE).max((1, 3)) == 0, np.ones((SIDE, SIDE), bool)
    )
    assert (found["128"][empty_places] != 0).mean() < 0.03


def test_a_thing_that_fills_the_picture_stays_whole() -> None:
    scene = render_scene(36, size=4 * SIDE)
    assert scene.classes == ("bus",)
    number = CLASSES.index("bus") + 1
    found = []
    for tile in ("none", "128"):
        settings = ["data.max_side=128", f"data.tile={tile}", "pseudo.refine=none"]
        model = SSR.from_encoders(CLASSES, preset="demo", settings=settings)
        ids = model.rectify(scene.image, ["bus"]).mask
        found.append(intersection_over_union(ids, scene.truth, number))
    assert found[1] > found[0] - 0.15  # a map of its own in each tile: half of it


# ---------------------------------------------------------------- looks that are counted


def looks_with(evidence: dict[int, float], whole: float):
    """A look at the whole, then at tiles, known by their first pixel; every map fills [0, 1]."""
    tiles = iter([False])

    def looks(photos: list[torch.Tensor]) -> list[Look]:
        found, of_tiles = [], next(tiles, True)
        for photo in photos:
            assert photo.shape == (16, 16, 3)
            strength = evidence.get(int(photo[0, 0, 0]), 0.0) if of_tiles else whole
            ramp = torch.linspace(0, 1, 16).view(1, 4, 4)
            found.append(Look((1,), ramp, ramp.flip(-1), torch.tensor([0.5, strength])))
        return found

    return looks


def test_a_tile_counts_by_its_share_of_the_strongest_evidence() -> None:
    image = HeldImage(torch.arange(4).byte().view(2, 2, 1, 1, 1).expand(2, 2, 32, 32, 3)
                      .permute(0, 2, 1, 3, 4).reshape(64, 64, 3))  # fmt: skip
    tiling = Tiling.of((64, 64), 32, 0.0)
    found = tiled_look(image, tiling, (1,), 16, looks_with({0: 0.8, 1: 0.2, 3: 0.4}, 0.0))
    assert found.cam.shape == (1, 8, 8)
    assert found.evidence.tolist() == pytest.approx([0.5, 0.8])  # of the label, the strongest
    parts = found.cam[0].view(2, 4, 2, 4).amax((1, 3))
    torch.testing.assert_close(parts, torch.tensor([[1.0, 0.25], [0.0, 0.5]]))
    ramp = torch.linspace(0, 1, 16).view(4, 4)
    torch.testing.assert_close(found.cam[0, :4, :4], ramp)
    torch.testing.assert_close(found.refined_cam[0, 4:, 4:], ramp.flip(-1) / 2)


def test_the_whole_counts_where_it_says_more() -> None:
    image = HeldImage(torch.zeros(64, 64, 3, dtype=torch.uint8))
    tiling = Tiling.of((64, 64), 32, 0.0)
    found = tiled_look(image, tiling, (1,), 16, looks_with({0: 0.1}, 0.8))
    far = torch.nn.functional.interpolate(
        torch.linspace(0, 1, 16).view(1, 1, 4, 4), (8, 8), mode="bilinear"
    )[0, 0]
    near = torch.linspace(0, 1, 16).view(4, 4).repeat(2, 2) / 8
    torch.testing.assert_close(found.cam[0], torch.maximum(near, far))


# ---------------------------------------------------------------- folders of masks


@pytest.fixture
def folder(tmp_path: Path, scene: tuple[np.ndarray, np.ndarray]) -> Path:
    """A large picture, and a small one."""
    image, _ = scene
    (tmp_path / "images").mkdir()
    Image.fromarray(image[:300, :410]).save(tmp_path / "images" / "large.png")
    Image.fromarray(image[:90, :110]).save(tmp_path / "images" / "small.png")
    lines = "image,labels\nimages/large.png,dog;cat\nimages/small.png,dog\n"
    (tmp_path / "labels.csv").write_text(lines)
    return tmp_path


TINY = ("data.max_side=112", "pseudo.par_iterations=2")


def test_small_images_are_what_they_were(folder: Path, clip_dir: Path, dino_dir: Path) -> None:
    written = []
    for tile in ("none", "auto", "160"):
        config = tiny_config(clip_dir, dino_dir, *TINY, f"data.tile={tile}")
        make_masks(folder, folder / tile, config, report=False)
        written.append(
            [read_class_ids(folder / tile / "masks" / f"{name}.png") for name in ("small", "large")]
        )
    for small, _ in written[1:]:
        assert torch.equal(small, written[0][0])
    assert torch.equal(written[1][1], written[0][1])  # auto: 410 pixels are no scene
    assert not torch.equal(written[2][1], written[0][1])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_mask_in_windows(
    folder: Path, clip_dir: Path, dino_dir: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = folder / "images" / "large.png"
    if suffix == "tif":
        with Image.open(path) as image:
            image.save(path.with_suffix(".tif"))
        path.unlink()
        labels = folder / "labels.csv"
        labels.write_text(labels.read_text().replace("large.png", "large.tif"))
    config = tiny_config(clip_dir, dino_dir, *TINY, "data.tile=160")
    largest = 0
    window = large.WindowedImage._read

    def counted(self: large.WindowedImage, rows: tuple[int, int]) -> tuple[torch.Tensor, ...]:
        nonlocal largest
        found = window(self, rows)
        largest = max(largest, found[0].shape[0])
        return found

    monkeypatch.setattr(large.WindowedImage, "_read", counted)
    result = make_masks(folder, folder / "out", config, confidence=True)
    assert result.written == 2 and result.failures == ()
    assert 0 < largest <= 160  # of 300 rows, those of one tile
    mask = folder / "out" / "masks" / "large.png"
    ids = read_class_ids(mask)
    assert ids.shape == (300, 410) and len(ids.unique()) > 1
    sure = np.array(Image.open(folder / "out" / "confidence" / "large.png"))
    assert sure.shape == (300, 410) and sure.min() > 0
    # the same in memory as in windows, and by the API
    data = open_labelled(folder)
    model = SSR.for_data(config, data, device="cpu")
    names = [data.classes[index] for index in data.samples[0].labels]
    found = model.rectify(data.samples[0].image, names)
    assert (found.mask == ids.numpy()).all()
    np.testing.assert_allclose(found.confidence, sure / 255, atol=0.5 / 255 + 1e-6)
    assert set(found.cam) == set(found.refined_cam) == {"cat", "dog"}
    # a second call makes nothing, one with other settings of masks no new CAM
    again = make_masks(folder, folder / "out", config, confidence=True)
    assert (again.written, again.skipped) == (0, 2)
    content = mask.read_bytes()
    mask.unlink()
    again = make_masks(folder, folder / "out", config, confidence=True)
    assert (again.written, again.from_kept_cams) == (1, 1) and mask.read_bytes() == content


def test_a_large_image_without_a_label(folder: Path, clip_dir: Path, dino_dir: Path) -> None:
    (folder / "labels.csv").write_text(
        "image,labels\nimages/large.png,none\nimages/small.png,dog\n"
    )
    config = tiny_config(clip_dir, dino_dir, *TINY, "data.tile=160")
    result = make_masks(folder, folder / "out", config, report=False)
    assert result.written == 2 and result.failures == ()
    assert not read_class_ids(folder / "out" / "masks" / "large.png").any()


def test_a_large_image_that_breaks_off_is_listed(
    folder: Path, clip_dir: Path, dino_dir: Path
) -> None:
    path = folder / "images" / "large.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    config = tiny_config(clip_dir, dino_dir, *TINY, "data.tile=160")
    result = make_masks(folder, folder / "out", config, report=False)
    (failure,) = result.failures
    assert result.written == 1 and "damaged or cut short" in failure.reason


def test_windows_without_refinement_are_one_pass(
    folder: Path, clip_dir: Path, dino_dir: Path
) -> None:
    settings = ("data.max_side=112", "data.tile=160", "pseudo.refine=none")
    config = tiny_config(clip_dir, dino_dir, *settings)
    data = open_labelled(folder)
    model = SSR.for_data(config, data, device="cpu")
    names = [data.classes[index] for index in data.samples[0].labels]
    one = model.rectify(data.samples[0].image, names)
    cams = np.stack([one.refined_cam[name] for name in names])
    scores = np.concatenate([1 - cams.max(0, keepdims=True), cams])
    ids = np.array([0, *(index + 1 for index in data.samples[0].labels)])[scores.argmax(0)]
    best = np.sort(scores, 0)
    certain = best[-1] - best[-2] > 1e-4
    assert certain.mean() > 0.99 and (one.mask == ids)[certain].all()


def test_a_large_mask_is_looked_through_in_rows(
    folder: Path, clip_dir: Path, dino_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(clip_dir, dino_dir, *TINY, "data.tile=160")
    make_masks(folder, folder / "out", config)
    mask = folder / "out" / "masks" / "large.png"
    ids = read_class_ids(mask)
    state, shown = mask_ids(mask, "it")
    monkeypatch.setattr("ssrseg.data.stamped_mask._LARGE", 1000)
    monkeypatch.setattr("ssrseg.data.stamped_mask._SAMPLE", 50)
    sample = sample_mask(mask)
    assert sample.size == (300, 410) and (sample.ids == ids[::9, ::9].numpy()).all()
    assert sample.pixels.tolist() == torch.bincount(ids.flatten(), minlength=256).tolist()
    found = mask_ids(mask, "it")
    assert found[0] == state and torch.equal(found[1], shown)
    page = write_masks_report(folder / "out").read_text()
    assert "large" in page
    again = make_masks(folder, folder / "out", config)
    assert (again.written, again.skipped) == (0, 2)
    # changed by a person
    picture = Image.open(mask)
    changed = Image.fromarray((ids.numpy() > 0).astype(np.uint8))
    changed.putpalette(picture.getpalette())
    changed.save(mask)
    again = make_masks(folder, folder / "out", config)
    assert again.corrected == ("images/large",) or again.corrected == ("large",)


def test_review_leaves_a_mask_of_tiles_to_the_next_run(
    folder: Path, clip_dir: Path, dino_dir: Path
) -> None:
    config = tiny_config(clip_dir, dino_dir, *TINY, "data.tile=120")  # only the large one is cut
    make_masks(folder, folder / "out", config)
    mask = folder / "out" / "masks" / "images" / "large.png"
    mask = mask if mask.is_file() else folder / "out" / "masks" / "large.png"
    before = mask.read_bytes()
    with open_review(folder / "out", None, EncoderOptions(device="cpu")) as reviewed:
        index = next(at for at, name in enumerate(reviewed.names) if name.endswith("large"))
        with pytest.raises(DataError, match="no CAMs of this photograph"):
            reviewed.with_threshold(index, 2.0, refined=False)
        reviewed.relabel(index, ["dog"], reviewed.detail(index)["version"])
    assert mask.read_bytes() == before
    again = make_masks(folder, folder / "out", config)
    assert (again.written, again.skipped) == (1, 1)
    dog = open_labelled(folder).classes.index("dog") + 1
    assert set(read_class_ids(mask).unique().tolist()) <= {0, dog}
    assert mask.read_bytes() != before


# ---------------------------------------------------------------- a trained model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, clip_dir: Path, dino_dir: Path) -> Path:
    root = tmp_path_factory.mktemp("data")
    (root / "images").mkdir()
    for number in range(4):
        Image.fromarray(render_scene(number).image).save(root / "images" / f"{number}.png")
    lines = [f"images/{number}.png,{'dog' if number % 2 else 'cat'}" for number in range(4)]
    (root / "labels.csv").write_text("\n".join(["image,labels", *lines]) + "\n")
    config = tiny_config(clip_dir, dino_dir, "optim.iterations=4", "optim.cmpa_iterations=1")
    return train(open_labelled(root), root / "run", config).run


def test_predictions_are_blended(run: Path, folder: Path) -> None:
    result = predict(
        folder / "images", folder / "out", run, tile=160, confidence=True, report=False, crf=False
    )
    assert result.written == 2
    ids = read_class_ids(folder / "out" / "masks" / "large.png").numpy()
    model = SSR.from_pretrained(run, segment_only=True)
    config = model.config
    model = model.with_config(replace(config, data=replace(config.data, tile=160)))
    # by hand: the weighted mean of the tiles' probabilities
    photo = read_image(folder / "images" / "large.png")
    tiling = Tiling.of((300, 410), 160, 0.25)
    total = torch.zeros(len(model.classes) + 1, 300, 410)
    weights = torch.zeros(300, 410)
    height, width = torch.arange(300) + 0.5, torch.arange(410) + 0.5

    def triangle(at: torch.Tensor, span: tuple[int, int], length: int) -> torch.Tensor:
        before = at - span[0] if span[0] else torch.full_like(at, 1e9)
        after = span[1] - at if span[1] < length else torch.full_like(at, 1e9)
        return torch.minimum(before, after).clamp(0, 1e9)

    down = torch.stack([triangle(height, span, 300) for span in tiling.rows])
    across = torch.stack([triangle(width, span, 410) for span in tiling.columns])
    down, across = down / down.sum(0), across / across.sum(0)
    for i, rows in enumerate(tiling.rows):
        for j, columns in enumerate(tiling.columns):
            there = slice(*rows), slice(*columns)
            found = model.probabilities(photo[there].contiguous())
            weight = down[i][rows[0] : rows[1], None] * across[j][columns[0] : columns[1]]
            total[:, *there] += found * weight
            weights[there] += weight
    assert (weights - 1).abs().max() < 1e-5
    assert (total.argmax(0).numpy() == ids).mean() > 0.999
    api = model.segment(folder / "images" / "large.png", crf=False)
    assert (api.mask == ids).all()
    sure = np.array(Image.open(folder / "out" / "confidence" / "large.png"))
    np.testing.assert_allclose(api.confidence, sure / 255, atol=0.5 / 255 + 1e-6)
    assert api.confidence == pytest.approx(total.amax(0).numpy(), abs=1e-5)


def test_tiles_that_share_more_are_more(run: Path, folder: Path) -> None:
    model = SSR.from_pretrained(run, segment_only=True)
    found = []
    for overlap in (0.25, 0.5):
        data = replace(model.config.data, tile=160, tile_overlap=overlap)
        shared = model.with_config(replace(model.config, data=data))
        found.append(shared.segment(folder / "images" / "large.png", crf=False).confidence)
    assert len(Tiling.of((300, 410), 160, 0.25)) == 12
    assert len(Tiling.of((300, 410), 160, 0.5)) == 15
    assert np.abs(found[0] - found[1]).max() > 1e-4


def test_other_tiles_are_other_settings(run: Path, folder: Path) -> None:
    predict(folder / "images", folder / "out", run, tile=160, report=False, crf=False)
    with pytest.raises(ConfigError, match=r"data\.tile = 160 there, \"none\" now"):
        predict(folder / "images", folder / "out", run, tile="none", report=False, crf=False)


def test_the_default_is_said_in_the_settings() -> None:
    config = load_config()
    assert config.data.tile == "auto" and config.data.tile_overlap == 0.25
    assert load_config(overrides=["data.tile=none"]).data.tile == "none"
    assert load_config(overrides=["data.tile=1024"]).data.tile == 1024
    with pytest.raises(ConfigError, match=r"data\.tile = 'some'"):
        load_config(overrides=["data.tile=some"])


def test_windows_hold_no_more_than_shared_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest map that is made on the way, of an image of 40 x 40 tiles."""
    size, tile, overlap = (1300, 1300), 40, 8
    tiling = Tiling.of(size, tile, overlap / tile)
    made: list[int] = []
    scores = torch.ones(3, tile, tile)
    blocks = module.blended_blocks(tiling.rows, tiling.columns, lambda *_: scores)

    def choose(block: torch.Tensor):
        made.append(block.numel())
        return block, block.argmax(0).byte(), block.amax(0)

    rows: list[int] = []
    module.paint(blocks, size, choose, lambda ids: rows.append(ids.shape[0]))
    assert sum(rows) == 1300 and max(rows) <= tile and max(made) <= 3 * tile * tile


def test_a_georeferenced_scene_of_many_bands(run: Path, tmp_path: Path) -> None:
    """From a GeoTIFF of five deep bands to masks where it lies, by the commands alone."""
    rasterio = pytest.importorskip("rasterio")
    place = rasterio.transform.Affine(10, 0, 300_000, 0, -10, 5_000_000)
    bands = np.random.default_rng(0).integers(0, 3000, (5, 80, 100)).astype(np.uint16)
    bands = np.kron(bands, np.ones((1, 8, 8), np.uint16))
    form = {"driver": "GTiff", "height": 640, "width": 800, "count": 5, "dtype": "uint16"}
    scene = tmp_path / "scenes" / "scene.tif"
    scene.parent.mkdir()
    with rasterio.open(scene, "w", crs="EPSG:32632", transform=place, **form) as file:
        file.write(bands)
    out = tmp_path / "out"
    command = ("predict", "--images", scene.parent, "--model", run, "--out", out, "--no-crf")
    assert exit_code(*command) == 3
    assert "has 5 bands, and nothing says which" in (out / "failures.csv").read_text()
    reading = ("--bands", "5", "3", "1", "--range", "0", "3000", "--tile", "256")
    out = tmp_path / "again"
    command = ("predict", "--images", scene.parent, "--model", run, "--out", out, "--no-crf")
    assert exit_code(*command, *reading) == 0
    ids = read_class_ids(out / "masks" / "scene.png").numpy()
    model = SSR.from_pretrained(run, segment_only=True)
    data = replace(model.config.data, bands=(5, 3, 1), range=(0.0, 3000.0), tile=256)
    model = model.with_config(replace(model.config, data=data))
    assert (model.segment(scene, crf=False).mask == ids).all()
    rgb = np.rint(bands[[4, 2, 0]].transpose(1, 2, 0) / 3000 * 255).astype(np.uint8)
    assert (model.segment(rgb, crf=False).mask == ids).all()
    assert exit_code("export", out, "--to", "geotiff") == 0
    with rasterio.open(out / "export" / "geotiff" / "scene.tif") as file:
        assert (file.crs, file.transform) == (rasterio.crs.CRS.from_epsg(32632), place)
        assert (file.read(1) == ids).all()
    assert exit_code("export", out, "--sheet", "--overlays") == 0
    assert (out / "export" / "overlays" / "scene.jpg").is_file()


# ---------------------------------------------------------------- around a scene


def scene_with_collar(path: Path, kind: str) -> np.ndarray:
    """Write a turned scene of 300 x 400, and tell which of its pixels have no data."""
    rasterio = pytest.importorskip("rasterio")
    rows, columns = np.mgrid[:300, :400]
    absent = (rows + columns < 150) | (rows + columns > 620)
    bands = np.kron(np.random.default_rng(2).integers(40, 256, (3, 30, 40)), np.ones((1, 10, 10)))
    form = {"driver": "GTiff", "height": 300, "width": 400, "count": 3, "dtype": "uint8"}
    place = rasterio.transform.Affine(10, 0, 300_000, 0, -10, 5_000_000)
    if kind in ("nodata", "one band"):
        form["nodata"] = 0
        bands[:, absent] = 0
        bands[0, 140:160] = 0  # nodata in one band alone: there is data
        if kind == "one band":
            bands, form["count"], absent = bands[:1], 1, absent | (rows // 20 == 7)
    elif kind == "alpha":
        bands = np.concatenate([bands, 255.0 * ~absent[None]])
        form |= {"count": 4, "photometric": "RGB", "ALPHA": "YES"}
    elif kind == "nan":
        form["dtype"] = "float32"
        bands = bands / 255
        bands[:, absent] = np.nan
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", crs="EPSG:32632", transform=place, **form) as file:
        file.write(bands.astype(form["dtype"]))
    return absent


@pytest.mark.parametrize("tile", ["none", "160"])
@pytest.mark.parametrize("kind", ["nodata", "one band", "alpha", "nan"])
def test_what_has_no_data_is_undecided(
    tmp_path: Path, run: Path, clip_dir: Path, dino_dir: Path, kind: str, tile: str
) -> None:
    absent = scene_with_collar(tmp_path / "scenes" / "scene.tif", kind)
    (tmp_path / "scenes" / "labels.csv").write_text("image,labels\nscene.tif,dog;cat\n")
    config = tiny_config(clip_dir, dino_dir, *TINY, f"data.tile={tile}")
    plain = replace(config, pseudo=replace(config.pseudo, refine="none"))
    made = make_masks(tmp_path / "scenes", tmp_path / "masks", plain, report=False)
    assert made.failures == () and made.written == 1
    size = tile if tile == "none" else int(tile)
    scene = tmp_path / "scenes" / "scene.tif"
    predicted = predict(scene, tmp_path / "out", run, tile=size, crf=False, confidence=True)
    assert predicted.failures == () and predicted.written == 1
    model = SSR.from_pretrained(run, segment_only=True)
    model = model.with_config(replace(model.config, data=replace(model.config.data, tile=size)))
    masks = [
        read_class_ids(tmp_path / "masks" / "masks" / "scene.png").numpy(),
        read_class_ids(tmp_path / "out" / "masks" / "scene.png").numpy(),
        model.segment(scene, crf=False).mask,
    ]
    for ids in masks:
        assert (ids[absent] == 255).all() and (ids[~absent] != 255).mean() > 0.9
    assert (masks[1][~absent] != 255).all() and (masks[1] == masks[2]).all()
    again = make_masks(tmp_path / "scenes", tmp_path / "masks", plain, report=False)
    assert (again.written, again.skipped) == (0, 1)
    export_masks(tmp_path / "out", "csv")
    head, *lines = csv_rows((tmp_path / "out" / "export" / "csv" / "areas.csv").read_text())
    rows = [dict(zip(head, line, strict=True)) for line in lines]
    assert {int(row["undecided"]) for row in rows} == {int(absent.sum())}
    assert sum(int(row["pixels"]) for row in rows) == int((~absent).sum())
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1, abs=1e-5)


def test_a_scene_without_data_that_cannot_be_read_in_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turned, or without the package that reads windows."""
    path = tmp_path / "a.tif"
    for kind in ("nodata", "alpha", "nan"):
        absent = scene_with_collar(path, kind)
        ids = torch.zeros(300, 400, dtype=torch.uint8)
        settings = load_config().data
        expected = torch.from_numpy(absent)
        assert torch.equal(large.undecide_absent(ids, path, settings) == 255, expected)
        with monkeypatch.context() as patch:
            patch.setattr("importlib.util.find_spec", lambda _: None)
            assert torch.equal(large.undecide_absent(ids, path, settings) == 255, expected)
    values = tifffile.imread(path)
    tags = [(274, "H", 1, 6, True)]
    tifffile.imwrite(path, values, photometric="rgb", extratags=tags)
    turned = expected.rot90(-1)
    assert torch.equal(
        large.undecide_absent(torch.zeros(400, 300, dtype=torch.uint8), path, settings) == 255,
        turned,
    )


def test_what_is_transparent_in_a_drawing_is_background(tmp_path: Path, run: Path) -> None:
    """It has no place on the earth."""
    rgba = np.full((120, 150, 4), 200, np.uint8)
    rgba[:, :70, 3] = 0
    for name in ("a.png", "b.tif"):
        Image.fromarray(rgba).save(tmp_path / name)
    predict([tmp_path / "a.png", tmp_path / "b.tif"], tmp_path / "out", run, report=False)
    for name in ("a", "b"):
        assert not (read_class_ids(tmp_path / "out" / "masks" / f"{name}.png") == 255).any()


def test_a_person_who_gives_an_image_gets_what_its_file_would(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``auto`` cuts a long image by what is known of it: of an array, nothing is."""
    monkeypatch.setattr(large, "LONG", 300)
    model = SSR.from_pretrained(run, segment_only=True)
    side = replace(model.config.data, max_side=128)
    model = model.with_config(replace(model.config, data=side))
    rgb = np.kron(np.random.default_rng(3).integers(0, 256, (5, 20, 3)), np.ones((20, 20, 1)))
    rgb = rgb.astype(np.uint8)
    seen: list[int] = []
    real = SSR.segment_tiles

    def counted(self: SSR, image: object, tiling: Tiling, *rest: object, **more: object):
        seen.append(len(tiling))
        return real(self, image, tiling, *rest, **more)

    monkeypatch.setattr(SSR, "segment_tiles", counted)
    exif = Image.Exif()
    exif.get_ifd(0x8769)[33434] = (1, 250)
    exif[274] = 1  # Pillow writes none into a PNG that has nothing else
    for name, more in (("scene", {}), ("camera", {"exif": exif})):
        for suffix in ("png", "jpg"):
            path = tmp_path / f"{name}.{suffix}"
            Image.fromarray(rgb).save(path, **more)
            model.segment(path, crf=False)
            with Image.open(path) as image:
                model.segment(image, crf=False)
            with Image.open(path) as image:
                model.segment(image.convert("L"), crf=False)
        assert len(seen) == (6 if name == "scene" else 0) and len(set(seen)) <= 1
        seen.clear()
    model.segment(rgb, crf=False)
    assert seen == []
    model = model.with_config(replace(model.config, data=replace(side, tile=128)))
    model.segment(rgb, crf=False)
    assert len(seen) == 1
