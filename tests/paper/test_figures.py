"""The paper's figures: what is drawn where, and the numbers beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from make_tiny import tiny_folder, tiny_voc
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from tiny_encoders import tiny_config

import ssrseg
from ssrseg.config import Config, load_config
from ssrseg.data.class_ids import write_class_ids
from ssrseg.data.images import read_image
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages
from ssrseg.errors import CheckpointError, ConfigError, DataError
from ssrseg.method.metrics import ActivationShares, ErrorKinds
from ssrseg.overlay import (
    error_overlay,
    heat_overlay,
    ids_overlay,
    mask_palette,
    outlined,
    target_overlay,
)
from ssrseg.paper.cam_comparison import CLIP_CAM, CMPA_CAM, OURS, PRIOR, UNMASKED, CamComparison
from ssrseg.paper.drawing import (
    BLANK,
    COLOURS,
    DPI,
    Figure,
    add_axes,
    cam_figure,
    draw_plane,
    motivation_figure,
    qualitative_figure,
    refinement_figure,
    tsne_figure,
)
from ssrseg.paper.embedding import CLIP, CMPA, UNTRAINED, Embedding, Plane, Space, plane
from ssrseg.paper.figures import FigureOptions, FigureSource, _pairwise, _refinement, make_figure
from ssrseg.paper.method_comparison import MethodComparison
from ssrseg.paper.separation import separation, silhouette
from ssrseg.training import train

CLASSES = ("cat", "dog", "red car")


def pictures(figure: Figure) -> dict[str, np.ndarray]:
    return {
        str(axes.get_label()): np.asarray(axes.get_images()[0].get_array())
        for axes in figure.axes
        if axes.get_images()
    }


def words(figure: Figure) -> str:
    return " | ".join(text.get_text() for text in figure.texts)


def comparison(seed: int = 0, *, truth: bool = True) -> CamComparison:
    generator = torch.Generator().manual_seed(seed)
    size = (12, 16)
    photo = torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8)
    ids = torch.zeros(size, dtype=torch.uint8)
    ids[2:7, 3:9], ids[8:11, 10:15] = 2, 1
    names = (CLIP_CAM, CMPA_CAM, PRIOR, UNMASKED, OURS)
    return CamComparison(
        f"photo {seed}", 2, "dog", photo, ids if truth else None,
        {name: torch.rand(size, generator=generator) for name in names},
        {name: ActivationShares(0.5, 0.3, 0.2) for name in names} if truth else {},
        torch.rand(size, generator=generator) > 0.5,
        {name: torch.randint(0, 3, size, generator=generator).byte() for name in (PRIOR, OURS)},
        {name: ErrorKinds(0.7, 0.1, 0.2, 0.05) for name in (PRIOR, OURS)} if truth else {},
    )  # fmt: skip


def column(
    seed: int, classes: tuple[str, ...], labels: tuple[int, ...], size: tuple[int, int] = (8, 10)
) -> MethodComparison:
    rng = np.random.default_rng(seed)
    masks = {
        name: torch.from_numpy(rng.integers(0, len(classes) + 1, size).astype(np.uint8))
        for name in ("SeCo", "SSR", "truth")
    }
    truth = masks.pop("truth")
    photo = torch.from_numpy(rng.integers(0, 256, (*size, 3)).astype(np.uint8))
    return MethodComparison(f"c{seed}", classes, labels, photo, dict(masks), truth, {"SSR": 0.4321})


def embedding(spaces: tuple[str, ...] = (CLIP, CMPA, UNTRAINED)) -> Embedding:
    generator = torch.Generator().manual_seed(1)
    classes = torch.arange(24) % 3
    return Embedding(
        classes,
        {
            name: Space(
                torch.randn(24, 5, generator=generator) + 4 * torch.eye(5)[classes],
                torch.randn(4, 5, generator=generator),
            )
            for name in spaces
        },
        20,
    )


def test_figure_3_puts_every_mask_into_its_row_and_column() -> None:
    columns = [column(k, CLASSES, (k % 3,)) for k in range(3)]
    shown = pictures(qualitative_figure([columns]))
    rows = ("image", "SeCo", "SSR", "ground truth")
    assert set(shown) == {f"{row}/{k}" for row in rows for k in range(3)}
    for k, each in enumerate(columns):
        photo = each.photo.numpy()
        assert (shown[f"image/{k}"] == photo).all()
        for row, ids in (*each.masks.items(), ("ground truth", each.truth)):
            assert ids is not None
            expected = ids_overlay(photo, ids.numpy(), mask_palette()[:4])
            assert (shown[f"{row}/{k}"] == expected).all()


def test_figure_3_is_as_wide_as_its_images_are() -> None:
    wide, tall = column(0, CLASSES, (0,), (10, 20)), column(1, CLASSES, (0,), (20, 10))
    figure = qualitative_figure([[wide, tall]])
    boxes = {axes.get_label(): axes.get_position(original=True) for axes in figure.axes}
    ratio = figure.get_size_inches()[0] / figure.get_size_inches()[1]
    assert boxes["SSR/0"].width * ratio / boxes["SSR/0"].height == pytest.approx(2.0)
    assert boxes["SSR/1"].width * ratio / boxes["SSR/1"].height == pytest.approx(0.5)
    assert "mIoU 43.2" in words(figure)


def test_figure_3_a_class_has_one_colour_in_both_data_sets() -> None:
    left = column(0, ("cat", "dog"), (0,))
    right = column(1, ("boat", "dog", "cat"), (0, 2))
    ids = torch.tensor([[1, 2, 3, 0, 255]] * 4, dtype=torch.uint8)
    photo = torch.full((4, 5, 3), 90, dtype=torch.uint8)
    masks = {"SeCo": None, "SSR": ids}
    right = replace(right, photo=photo, masks=masks, truth=None, miou={})
    figure = qualitative_figure([[left], [right]])
    shown = pictures(figure)
    palette = mask_palette()[[0, 3, 2, 1]]  # boat is the third name, dog the second, cat the first
    assert (shown["SSR/1"] == ids_overlay(photo.numpy(), ids.numpy(), palette)).all()
    assert (shown["SeCo/1"] == BLANK).all() and (shown["ground truth/1"] == BLANK).all()
    assert "no mask" in words(figure)
    key = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(key) == ["boat", "cat", "dog"]


def test_figure_4_rows_and_columns() -> None:
    figure = cam_figure(
        [comparison(0), comparison(1, truth=False)], "combined", "attention 0.4 : 0.6, SGC"
    )
    shown = pictures(figure)
    for row, each in enumerate((comparison(0), comparison(1, truth=False))):
        photo = each.photo.numpy()
        keys = [key for key in shown if key.startswith("dog/")]
        assert len(keys) == 5  # axes of both rows bear the class's name
        for number, name in enumerate((CLIP_CAM, CMPA_CAM, PRIOR, OURS), 1):
            expected = heat_overlay(photo, each.cams[name].numpy())
            if each.truth is not None:
                expected = outlined(expected, each.truth.numpy() == 2)
            drawn = [a for a in figure.axes if a.get_label() == f"dog/{number}"][row]
            assert (np.asarray(drawn.get_images()[0].get_array()) == expected).all()
    text = words(figure)
    assert text.count("class 50 · others 30 · bg 20") == 4
    assert "attention 0.4 : 0.6, SGC" in text and "(combined)" in text
    assert "true outline" in text
    assert "true outline" not in words(cam_figure([comparison(1, truth=False)], "patch", "kernel"))


def test_figure_5_rows_and_columns() -> None:
    each = comparison(3)
    assert each.target is not None and each.truth is not None
    shown = pictures(refinement_figure([each], "CMPA"))
    photo, region = each.photo.numpy(), each.truth.numpy() == 2
    expected = (
        outlined(photo, region),
        target_overlay(photo, each.target.numpy()),
        outlined(heat_overlay(photo, each.cams[CMPA_CAM].numpy()), region),
        outlined(heat_overlay(photo, each.cams[OURS].numpy()), region),
    )
    for number, picture in enumerate(expected):
        assert (shown[f"dog/{number}"] == picture).all()
    bare = refinement_figure([replace(each, target=None)], "CLIP")
    assert (pictures(bare)["dog/1"] == BLANK).all()
    assert "affinity.mask = none" in words(bare)


def test_figure_1_marks_the_two_kinds_of_error() -> None:
    each = comparison(4)
    assert each.truth is not None
    found = embedding((CLIP,))
    gap = plane(found.spaces[CLIP], found.classes)
    figure = motivation_figure(each, gap, ("a", "b", "c", "d"), ours="SSR without trained CMPA")
    shown = pictures(figure)
    photo, truth = each.photo.numpy(), each.truth.numpy()
    for where, name in (("(a)/1", PRIOR), ("(d)/1", OURS)):
        assert (shown[where] == error_overlay(photo, each.masks[name].numpy(), truth)).all()
    for where, name in (("(c)/0", CLIP_CAM), ("(c)/1", UNMASKED), ("(d)/0", OURS)):
        map_ = heat_overlay(photo, each.cams[name].numpy())
        assert (shown[where] == outlined(map_, truth == 2)).all()
    text = words(figure)
    assert text.count("mask: right 70, missed 5\nother class 10 · noise 20") == 2
    assert "(d) SSR without trained CMPA: dog" in text
    with pytest.raises(ValueError, match="photo 4 has no true mask"):
        motivation_figure(replace(each, truth=None), gap, ("a", "b", "c", "d"))


def test_figure_6_points_colours_and_numbers() -> None:
    found = embedding()
    numbers = {
        name: separation(space.image, found.classes, space.text)
        for name, space in found.spaces.items()
    }
    planes = {name: plane(found.spaces[name], found.classes) for name in (CLIP, CMPA)}
    assert {name: each.separation for name, each in planes.items()} == {
        name: numbers[name] for name in planes
    }
    figure = tsne_figure(planes, ("a", "b", "c", "unseen"), numbers[UNTRAINED])
    for axes in figure.axes:
        dots, stars = axes.collections[::2], axes.collections[1::2]
        assert [len(each.get_offsets()) for each in dots] == [8, 8, 8]
        assert [len(each.get_offsets()) for each in stars] == [1, 1, 1]  # no text without a pair
    key = [text.get_text() for text in figure.legends[0].get_texts()]
    assert key == ["a", "b", "c", "text of the class"]
    odd = tsne_figure(planes, ("_a", "$x^$", "\x1b", ""), numbers[UNTRAINED])
    odd.draw_without_rendering()
    assert [text.get_text() for text in odd.legends[0].get_texts()][:3] == ["_a", "$x^$", r"\x1b"]
    labels = {str(axes.get_label()): axes.get_xlabel() for axes in figure.axes}
    assert f"silhouette {numbers[CLIP].silhouette:.3f}" in labels[CLIP]
    assert "untrained projector" in labels[CMPA]


def test_each_pair_of_classes_is_measured_once() -> None:
    found = embedding()
    measured = _pairwise(found, ("car", "bus", "chair", "sofa"))
    assert list(measured) == ["bus / car"]  # sofa has no features
    chosen = found.classes < 2
    for name in (CLIP, CMPA):
        expected = float(silhouette(found.spaces[name].image[chosen], found.classes[chosen]))
        assert measured["bus / car"][name] == expected


def test_names_of_classes_in_one_place_stand_apart() -> None:
    names = ("aeroplane", "bicycle", "boat", "tvmonitor")
    points = np.random.default_rng(0).normal(size=(40, 2))
    points[:4] *= 40  # the frame
    found = embedding((CLIP,))
    numbers = separation(found.spaces[CLIP].image, found.classes, found.spaces[CLIP].text)
    gathered = Plane(
        points.astype(np.float32), points[:4].astype(np.float32), np.arange(40) % 4, (0, 1, 2, 3),
        numbers,
    )  # fmt: skip
    figure = Figure(figsize=(4, 4), dpi=DPI)
    axes = add_axes(figure, (0.2, 0.2, 3.5, 3.5), "plane")
    draw_plane(axes, gathered, names)
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == list(names)
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:index])
        assert axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1


def test_tsne_is_the_same_every_time_and_keeps_neighbours() -> None:
    found = embedding((CLIP,))
    first, second = (plane(found.spaces[CLIP], found.classes) for _ in range(2))
    assert isinstance(first, Plane)
    assert (first.image == second.image).all() and (first.text == second.text).all()
    assert first.shown == (0, 1, 2)
    assert len(COLOURS) == len(set(COLOURS)) == 20


# ---------------------------------------------------------------- from data to files


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    return open_labelled(tiny_voc(tmp_path_factory.mktemp("figures") / "voc", n=6, classes=CLASSES))


@pytest.fixture(scope="module")
def config(clip_dir: Path, dino_dir: Path) -> Config:
    return tiny_config(
        clip_dir, dino_dir, "optim.cmpa_iterations=30", "optim.iterations=1", "optim.cmpa_lr=0.05"
    )


@pytest.fixture(scope="module")
def run(data: LabelledImages, config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(data, tmp_path_factory.mktemp("run") / "run", config).run


@pytest.fixture
def source(data: LabelledImages, config: Config, run: Path) -> FigureSource:
    return FigureSource(data, config, run)


Make = Callable[..., dict[str, object]]


@pytest.mark.parametrize("number", [1, 3, 4, 5, 6])
def test_a_figure_and_its_numbers_are_the_same_every_time(
    source: FigureSource, tmp_path: Path, number: int
) -> None:
    for name in ("a", "b"):
        facts = make_figure(
            number, [source], tmp_path / name / "f.png", FigureOptions(), command="again"
        )  # type: ignore[arg-type]
    for file in ("f.png", "f.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    saved = json.loads((tmp_path / "a" / "f.json").read_text())
    assert saved["figure"] == number
    made = saved["made"][0]
    assert (made["command"], made["version"]) == ("again", ssrseg.__version__)
    assert len(made["model"]) == len(made["data"]) == len(made["settings"]) == 16
    assert set(saved) == {"figure", "made", *facts}
    with Image.open(tmp_path / "a" / "f.png") as image:
        assert min(image.size) > 300


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["affinity.dino_kind=features"], "attention and DINO's features 0.4 : 0.6, SGC"),
        (["affinity.dino_kind=features", "affinity.dino_weight=0"], "attention 0.4 : 0, SGC"),
        (["affinity.kind=kernel"], "kernel, SGC"),
        (["affinity.power=0"], "no propagation, SGC"),
    ],
)
def test_a_figure_says_what_refines(overrides: list[str], said: str) -> None:
    assert _refinement(load_config(overrides=overrides)) == said


def test_numbers_of_figure_4(source: FigureSource, tmp_path: Path) -> None:
    name = source.data.samples[2].name
    facts = make_figure(
        4, [source], tmp_path / "f.svg", FigureOptions(images=f"{name}:red car,{name}")
    )
    assert (facts["images"], facts["rule"]) == ([name, name], "named on the command line")
    assert (facts["readout"], facts["refinement"]) == ("combined", "attention 0.4 : 0.6, SGC")
    rows = facts["rows"]
    assert [row["class"] for row in rows] == ["red car", "cat"]
    assert list(rows[0]["activation"]) == [CLIP_CAM, CMPA_CAM, PRIOR, OURS]
    for shares in rows[0]["activation"].values():
        assert sum(shares.values()) == pytest.approx(1)
    # trained heads do move the CAM
    assert rows[0]["activation"][CLIP_CAM] != rows[0]["activation"][CMPA_CAM]


def test_figure_5_needs_no_model(data: LabelledImages, config: Config, tmp_path: Path) -> None:
    facts = make_figure(5, [FigureSource(data, config)], tmp_path / "f.jpg", FigureOptions())
    assert facts["initial CAM"] == "CLIP"
    assert len(facts["rows"]) == len(set(facts["images"])) == 4
    assert all(0 < row["target"] <= 1 for row in facts["rows"])
    saved = json.loads((tmp_path / "f.json").read_text())
    assert saved["made"][0]["model"] is None


def test_numbers_of_figure_6(source: FigureSource, tmp_path: Path) -> None:
    facts = make_figure(6, [source], tmp_path / "f.png", FigureOptions(cache=tmp_path / "cache"))
    assert set(facts["spaces"]) == {CLIP, CMPA, UNTRAINED}
    assert sum(facts["pairs"].values()) >= 6
    assert set(facts["silhouette of two classes"]) == {"cat / dog"}
    assert len(list((tmp_path / "cache").glob("features.*.safetensors"))) == 1
    names = ",".join(sample.name for sample in source.data.samples[:4])
    some = make_figure(6, [source], tmp_path / "g.png", FigureOptions(images=names))
    assert some["images"] == 4
    assert sum(some["pairs"].values()) < sum(facts["pairs"].values())


def test_figure_3_with_rows_and_two_data_sets(
    source: FigureSource, config: Config, run: Path, tmp_path: Path
) -> None:
    other = open_labelled(tiny_voc(tmp_path / "voc", n=2, classes=CLASSES, seed=5))
    other = replace(
        other, samples=tuple(replace(sample, name=f"b_{sample.name}") for sample in other.samples)
    )
    names = [*(s.name for s in source.data.samples[:2]), other.samples[1].name]
    folder = tmp_path / "seco"
    for sample in (*source.data.samples[:2], other.samples[1]):
        size = read_image(sample.image).shape[:2]
        write_class_ids(folder / f"{sample.name}.png", torch.ones(tuple(size)).byte())
    means = FigureOptions(images=",".join(names), rows={"SeCo": [folder]})
    sources = [source, FigureSource(other, config, run)]
    facts = make_figure(3, sources, tmp_path / "f.png", means)
    assert [column["image"] for column in facts["columns"]] == names
    assert all(set(column["miou"]) == {"SeCo", "SSR"} for column in facts["columns"])
    assert facts["rows"] == {"SeCo": [str(folder)]}
    assert len(json.loads((tmp_path / "f.json").read_text())["made"]) == 2
    with pytest.raises(DataError, match='no image "b_nowhere"'):
        make_figure(3, sources, tmp_path / "g.png", replace(means, images="b_nowhere"))
    default = make_figure(3, sources, tmp_path / "h.png", FigureOptions())
    assert [len(each["images"]) for each in default["data sets"]] == [4, 2]


def test_settings_of_the_command_decide_the_segmentation(
    source: FigureSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ssrseg.model as module

    refined: list[bool] = []
    original = module.dense_crf
    monkeypatch.setattr(
        module, "dense_crf", lambda *a, **k: (refined.append(True), original(*a, **k))[1]
    )
    means = FigureOptions(images=source.data.samples[0].name)
    make_figure(3, [source], tmp_path / "a.png", means)
    assert refined == []
    with_crf = replace(source.config, test=replace(source.config.test, crf=True))
    make_figure(3, [replace(source, config=with_crf)], tmp_path / "b.png", means)
    assert refined == [True]


@pytest.mark.parametrize("number", [3, 4, 6])
def test_figures_that_need_a_model(
    data: LabelledImages, config: Config, tmp_path: Path, number: int
) -> None:
    with pytest.raises(ConfigError, match=rf"Figure {number} .*give --model RUN"):
        make_figure(number, [FigureSource(data, config)], tmp_path / "f.png", FigureOptions())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_other_classes(config: Config, run: Path, tmp_path: Path) -> None:
    other = open_labelled(tiny_folder(tmp_path / "own"))
    renamed = replace(other, classes=("cat", "dog", "lorry"))
    for number in (3, 5):
        with pytest.raises(CheckpointError, match="the model lacks lorry"):
            make_figure(
                number, [FigureSource(renamed, config, run)], tmp_path / "f.png", FigureOptions()
            )  # type: ignore[arg-type]


def test_figure_1_without_a_model_says_so(
    data: LabelledImages, config: Config, tmp_path: Path
) -> None:
    facts = make_figure(1, [FigureSource(data, config)], tmp_path / "f.png", FigureOptions())
    assert set(facts["masks"]) == {PRIOR, OURS}
    assert set(facts["activation"]) == {CLIP_CAM, UNMASKED, OURS}
    assert facts["modality gap"]["modality_gap"] > 0
    bare = replace(data, samples=tuple(replace(sample, truth=None) for sample in data.samples))
    with pytest.raises(DataError, match="has a true mask"):
        make_figure(1, [FigureSource(bare, config)], tmp_path / "g.png", FigureOptions())
    with pytest.raises(DataError, match="has a true mask"):
        named = FigureOptions(images=bare.samples[0].name)
        make_figure(1, [FigureSource(bare, config)], tmp_path / "g.png", named)
