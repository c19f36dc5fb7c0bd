from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.errors import DataError
from ssrseg.evaluation import evaluate, save_evaluation

TRUTHS = {
    "a": [[0, 0, 1, 1], [0, 255, 1, 255]],
    "b": [[2, 2, 2, 0], [0, 0, 0, 0]],
    "c": [[0, 0, 0, 0], [0, 0, 0, 0]],
}
FOUND = {
    "a": [[0, 1, 1, 1], [0, 2, 2, 2]],  # one false 1, one 1 called 2; 255 does not count
    "b": [[2, 2, 255, 0], [0, 0, 0, 1]],  # one pixel left open, one false 1
    "c": [[0, 0, 0, 0], [0, 0, 0, 0]],
}


def write(path: Path, ids: list[list[int]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(ids, np.uint8)).save(path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> LabelledImages:
    samples = [
        Sample(name, tmp_path / f"{name}.jpg", (0,), write(tmp_path / "truth" / f"{name}.png", ids))
        for name, ids in TRUTHS.items()
    ]
    samples.append(Sample("no truth", tmp_path / "d.jpg", (1,), None))
    return LabelledImages(tmp_path, ("cat", "dog", "cow"), tuple(samples))


@pytest.fixture
def found(tmp_path: Path) -> Path:
    for name, ids in FOUND.items():
        write(tmp_path / "out" / "masks" / f"{name}.png", ids)
    return tmp_path / "out"


def test_by_hand(data: LabelledImages, found: Path) -> None:
    result = evaluate(found, data)
    # rows = truth: 0 background, 1 cat, 2 dog, 3 cow (nowhere)
    assert result.matrix.tolist() == [[14, 2, 0, 0], [0, 2, 1, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
    assert result.classes == ("background", "cat", "dog", "cow")
    assert result.images.tolist() == [3, 1, 1, 0]
    assert result.undecided == pytest.approx(1 / 22)
    iou = [14 / 16, 2 / 5, 2 / 4]  # the open pixel of dog is missed
    assert result.scores.iou[:3].tolist() == pytest.approx(iou)
    assert result.scores.miou == pytest.approx(sum(iou) / 3)
    assert result.scores.precision == pytest.approx((14 / 14 + 2 / 4 + 2 / 3) / 3)
    assert result.scores.recall == pytest.approx((14 / 16 + 2 / 3 + 2 / 3) / 3)
    assert result.scores.confusion_ratio == pytest.approx((0 / 14 + 2 / 2 + 1 / 2) / 3)


def test_the_folder_itself_or_its_parent(data: LabelledImages, found: Path) -> None:
    assert evaluate(found / "masks", data).matrix.equal(evaluate(found, data).matrix)


def test_figures_in_a_file(data: LabelledImages, found: Path, tmp_path: Path) -> None:
    result = evaluate(found, data)
    save_evaluation(result, tmp_path / "figures" / "scores.json")
    table = json.loads((tmp_path / "figures" / "scores.json").read_text())
    assert table["miou"] == pytest.approx(result.scores.miou)
    assert table["undecided"] == pytest.approx(1 / 22)
    assert table["undecided_counts_as"] == "missed"
    assert (table["images_scored"], table["images"]) == (3, 4)
    assert list(table["classes"]) == ["background", "cat", "dog", "cow"]
    assert table["classes"]["cat"] == pytest.approx(
        {"images": 1, "iou": 2 / 5, "precision": 1 / 2, "recall": 2 / 3, "confusion_ratio": 1.0}
    )
    shares = dict.fromkeys(("iou", "precision", "recall", "confusion_ratio"))
    assert table["classes"]["cow"] == {"images": 0, **shares}


def test_where_nothing_can_be_scored(data: LabelledImages, found: Path, tmp_path: Path) -> None:
    for name, ids in TRUTHS.items():
        write(tmp_path / "truth" / f"{name}.png", [[255] * len(row) for row in ids])
    with pytest.raises(
        DataError, match=r"All pixels of the 3 true masks of .* are 255, which means"
    ):
        evaluate(found, data)


def test_faults(data: LabelledImages, found: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent \(--masks\): there is no such folder"):
        evaluate(tmp_path / "absent", data)
    bare = LabelledImages(tmp_path, ("cat", "dog"), (data.samples[-1],))
    with pytest.raises(DataError, match=r"No image of .* has a true mask"):
        evaluate(found, bare)
    write(found / "masks" / "c.png", [[0, 0], [0, 0]])
    with pytest.raises(DataError, match=r"c\.png is .2, 2. pixels, its true mask .*c\.png .4, 2."):
        evaluate(found, data)
    write(found / "masks" / "c.png", [[0, 4, 0, 0], [0, 0, 0, 0]])
    with pytest.raises(DataError, match=r"out/masks/c\.png holds class id 4, but .* 3 classes"):
        evaluate(found, data)
    (found / "masks" / "c.png").unlink()
    (found / "masks" / "b.png").unlink()
    with pytest.raises(DataError, match=r"lacks the masks of 2 of 3 images .b, c.\. Finish"):
        evaluate(found, data)


def test_masks_of_other_classes_are_refused(
    data: LabelledImages, found: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = evaluate(found, data)
    listed = found / "classes.txt"
    listed.write_text("".join(f"{name}\n" for name in data.classes))
    assert evaluate(found, data).scores.miou == before.scores.miou
    listed.write_text("".join(f"{name}\n" for name in reversed(data.classes)))
    with pytest.raises(DataError, match=r"classes\.txt lists other classes .*Make the masks anew"):
        evaluate(found, data)
    odd = ("1 euro", "2 euro", "5 euro")  # in a list of ours they are names
    listed.write_text("".join(f"{name}\n" for name in odd))
    assert evaluate(found, replace(data, classes=odd)).scored == before.scored
    listed.write_text("cow\ncat\ndog\n")
    monkeypatch.chdir(found / "masks")
    for masks in (found / "masks", Path(".")):  # the folder of the masks alone
        with pytest.raises(DataError, match=r"out/classes\.txt lists other classes"):
            evaluate(masks, data)


def test_unknown_id_in_the_truth(data: LabelledImages, found: Path, tmp_path: Path) -> None:
    write(tmp_path / "truth" / "b.png", [[9, 2, 2, 0], [0, 0, 0, 0]])
    with pytest.raises(DataError, match=r"truth/b\.png holds class id 9"):
        evaluate(found, data)


def test_undecided_pixels_count_as_missed(data: LabelledImages, found: Path) -> None:
    before = evaluate(found, data)
    write(found / "masks" / "b.png", [[255, 255, 255, 0], [0, 0, 0, 1]])
    result = evaluate(found, data)
    assert result.undecided == pytest.approx(3 / 22)
    assert result.scores.class_recall[2] == 0 and before.scores.class_recall[2] == pytest.approx(
        2 / 3
    )
    assert result.scores.iou[2] == 0
    assert result.scores.class_precision[0] == 1  # nobody's false hits


def test_masks_in_any_lossless_format(data: LabelledImages, found: Path) -> None:
    before = evaluate(found, data)
    for name, suffix in (("a", ".PNG"), ("b", ".tif"), ("c", ".bmp")):
        write(found / "masks" / f"{name}{suffix}", FOUND[name])
        (found / "masks" / f"{name}.png").unlink()
    assert evaluate(found, data).matrix.equal(before.matrix)


def test_all_faults_at_once(data: LabelledImages, found: Path) -> None:
    (found / "masks" / "a.png").write_bytes(b"")
    write(found / "masks" / "b.png", [[0, 0]])
    (found / "masks" / "c.png").unlink()
    with pytest.raises(DataError) as caught:
        evaluate(found, data)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{found / 'masks'} has 3 faults:"
    assert "lacks the masks of 1 of 3 images (c). Finish" in lines[1]
    assert "a.png is empty" in lines[2] and "b.png is (2, 1) pixels, its true mask" in lines[3]


def test_black_and_white_truths(
    data: LabelledImages, found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, ids in TRUTHS.items():
        write(tmp_path / "truth" / f"{name}.png", (np.array(ids) > 0) * 255)
    with pytest.raises(DataError) as caught:
        evaluate(found, data)
    assert str(caught.value) == (
        f"2 of 3 true masks of labelled images (such as {tmp_path}/truth/a.png) hold only 0 and 255"
        " although a class is labelled. 255 means ignore: such pixels do not count. Most likely the"
        " object is meant: replace 255 by its class id (1 = the first class), as in Python with"
        " ids[ids == 255] = 1."
    )
    write(tmp_path / "truth" / "b.png", TRUTHS["b"])
    capsys.readouterr()
    evaluate(found, data)
    assert "1 of 3 true masks of labelled images (such as" in capsys.readouterr().err
    unlabelled = tuple(replace(sample, labels=()) for sample in data.samples)
    evaluate(found, replace(data, samples=unlabelled))
    assert "Note" not in capsys.readouterr().err


def test_black_and_white_predictions(data: LabelledImages, found: Path) -> None:
    for name, ids in FOUND.items():
        write(found / "masks" / f"{name}.png", (np.array(ids) > 0) * 255)
    with pytest.raises(DataError) as caught:
        evaluate(found, data)
    assert str(caught.value) == (
        f"All masks of {found}/masks hold only 0 and 255, and 255 means undecided (36.4% of the"
        " pixels). They are black and white pictures, most likely: replace 255 by the id of the"
        " class (1 = the first class), as in Python with ids[ids == 255] = 1."
    )
    (found / "classes.txt").write_text("cat\ndog\ncow\n")  # ours, all undecided
    assert evaluate(found, data).undecided == pytest.approx(8 / 22)


def test_flat_masks_of_another_program(data: LabelledImages, found: Path, tmp_path: Path) -> None:
    renamed = tuple(replace(each, name=f"day 1/{each.name}") for each in data.samples)
    scored = evaluate(found, replace(data, samples=renamed)).scores
    assert scored.miou == evaluate(found, data).scores.miou
    twin = replace(data.samples[0], name="day 2/a")
    with pytest.raises(DataError, match=r"lacks the masks of 2 of 4 images \(day 1/a, day 2/a\)"):
        evaluate(found, replace(data, samples=(*renamed, twin)))
