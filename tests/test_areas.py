"""`predict --csv` and `masks --csv`: area and mean confidence of each class in each image."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from command import exit_code
from make_tiny import tiny_voc
from PIL import Image
from tiny_encoders import tiny_config

from ssrseg.data.class_ids import read_class_ids
from ssrseg.data.csv_lines import csv_rows
from ssrseg.data.open import open_labelled
from ssrseg.training import train


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_voc(tmp_path_factory.mktemp("voc") / "tree", n=3)


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, tree: Path, clip_dir: Path, dino_dir: Path
) -> Path:
    """A model trained for a few iterations on true masks, so that it does not say background."""
    settings = ("cam.mode=clip", "optim.iterations=25", "optim.decoder_lr=0.003")
    config = tiny_config(clip_dir, dino_dir, *settings)
    out = tmp_path_factory.mktemp("run") / "run"
    return train(open_labelled(tree), out, config, supervision="full").run


def table(out: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Lines of areas.csv by image and class."""
    head, *rows = csv_rows((out / "areas.csv").read_text())
    assert len(rows) == len({(row[0], row[1]) for row in rows})
    return {(row[0], row[1]): dict(zip(head, row, strict=True)) for row in rows}


def check_against_files(out: Path, tree: Path, images: int) -> None:
    """Every line against the mask and its confidence, pixel by pixel."""
    lines, classes = table(out), open_labelled(tree).classes
    assert len(lines) == images * (1 + len(classes))
    shown = 0
    for (image, name), line in lines.items():
        ids = read_class_ids(out / "masks" / f"{Path(image).stem}.png").numpy()
        sure = np.asarray(Image.open(out / "confidence" / f"{Path(image).stem}.png")) / 255
        inside = ids == ("background", *classes).index(name)
        assert int(line["pixels"]) == inside.sum()
        assert float(line["share"]) == pytest.approx(inside.mean(), abs=1e-6)
        if inside.any():
            assert float(line["confidence"]) == pytest.approx(sure[inside].mean(), abs=1e-4)
            shown += name != "background"
        else:
            assert line["confidence"] == ""
    assert shown > 0


def test_predict_writes_a_line_for_each_class_of_each_image(
    run: Path, tree: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, photos = tmp_path / "out", tmp_path / "photos"
    photos.mkdir()
    first, *more = sorted((tree / "JPEGImages").iterdir())
    shutil.copy(first, photos)
    words = ("predict", "--images", photos, "--model", run, "--out", out)
    assert exit_code(*words) == 0  # as somebody who did not think of it at first
    assert not (out / "areas.csv").exists()
    assert exit_code(*words, "--csv") == 0
    assert f"Areas and confidence of each class: {out / 'areas.csv'}" in capfd.readouterr().out
    check_against_files(out, tree, 1)
    for path in more:
        shutil.copy(path, photos)
    assert exit_code(*words, "--csv") == 0  # those that were there already are in the table too
    check_against_files(out, tree, 3)


def test_a_corrected_mask_has_no_confidence(run: Path, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("predict", "--images", tree / "JPEGImages", "--model", run, "--out", out, "--csv")
    assert exit_code(*words) == 0
    path = min((out / "masks").iterdir())
    ids = read_class_ids(path).numpy()
    ids[:] = 2
    Image.fromarray(ids).save(path)
    assert exit_code(*words) == 0
    lines, name = table(out), open_labelled(tree).classes[1]
    corrected = {key: line for key, line in lines.items() if Path(key[0]).stem == path.stem}
    (image,) = {key[0] for key in corrected}
    assert lines[image, name]["share"] == "1.000000"
    assert {line["confidence"] for line in corrected.values()} == {""}
    assert any(line["confidence"] for key, line in lines.items() if key[0] != image)


def test_masks_without_a_model_too(
    tree: Path, clip_dir: Path, dino_dir: Path, tmp_path: Path
) -> None:
    out, settings = tmp_path / "out", ("pseudo.par_iterations=1", "sgc.n_segments=20")
    options = [word for each in settings for word in ("--set", each)]
    encoders = ("--clip", clip_dir, "--dino", dino_dir)
    words = ("masks", "--data", tree, "--out", out, *encoders, *options, "--csv")
    assert exit_code(*words) == 0
    lines = table(out)
    assert len(lines) == 3 * (1 + len(open_labelled(tree).classes))
    sure = [float(line["confidence"]) for line in lines.values() if line["confidence"]]
    assert sure and all(0 < each <= 1 for each in sure)


def test_a_table_that_somebody_changed_stays(
    run: Path, tree: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ("predict", "--images", tree / "JPEGImages", "--model", run, "--out", out, "--csv")
    assert exit_code(*words) == 0
    (out / "areas.csv").write_text("mine\n")
    assert exit_code(*words) == 2
    assert "were changed since, such as areas.csv" in capfd.readouterr().err.replace("\n", " ")
    assert (out / "areas.csv").read_text() == "mine\n"
