from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reviewed import contents, rows

from ssrseg.data.class_ids import read_class_ids
from ssrseg.errors import DataError
from ssrseg.export.labelstudio import brush_code
from ssrseg.export.run import export_masks
from ssrseg.reviewing.encoders import EncoderOptions
from ssrseg.reviewing.folder import ReviewFolder, open_review
from ssrseg.reviewing.labelstudio import brush_region, take_over


@pytest.fixture
def folder(masks: Path) -> Iterator[ReviewFolder]:
    with open_review(masks, None, EncoderOptions()) as found:
        yield found


@given(arrays(bool, st.integers(1, 400)))
@settings(deadline=None)
def test_regions_come_back(inside: np.ndarray) -> None:
    assert (brush_region(brush_code(inside), len(inside)) == inside).all()


def test_values_that_are_not_repeated() -> None:
    # as Label Studio writes soft edges: three pixels of opacity 255, 127 and 128, value by value
    values = [9, 9, 9, 255, 9, 9, 9, 127, 9, 9, 9, 128]
    bits = f"{12:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    bits += "0" + "01" + f"{11:04b}" + "".join(f"{value:08b}" for value in values)
    bits += "0" * (-len(bits) % 8)
    code = [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]
    assert brush_region(code, 3).tolist() == [True, False, True]


@pytest.mark.parametrize("spoil", [lambda code: code[:-2], lambda code: code[:5], lambda _: []])
def test_codes_that_are_damaged(spoil: Any) -> None:
    code = brush_code(np.arange(100) % 7 > 3)
    with pytest.raises(DataError, match="run lengths"):
        brush_region(spoil(code), 100)
    with pytest.raises(DataError, match="or of another image"):
        brush_region(code, 99)


def exported(masks: Path, name: str, *corrections: np.ndarray, **more: object) -> list[Any]:
    """Tasks as Label Studio exports them, one with annotations of these masks."""
    out = export_masks(masks, "labelstudio", masks.parent / "project").out
    tasks = json.loads((out / "tasks.json").read_text())
    for task in tasks:
        assert len(task.pop("predictions")) == 1
        task["predictions"], task["annotations"] = [17], []
        if task["data"]["name"] == name:
            task["annotations"] = [{"result": _regions(ids)} | more for ids in corrections]
    return list(tasks)


def _regions(ids: np.ndarray) -> list[Any]:
    height, width = ids.shape
    return [
        {
            "type": "brushlabels", "original_width": width, "original_height": height,
            "value": {
                "format": "rle", "rle": brush_code(ids.ravel() == number),
                "brushlabels": [("cat", "dog", "red car")[number - 1]],
            },
        }
        for number in (1, 2, 3) if (ids == number).any()
    ]  # fmt: skip


def write(path: Path, tasks: object) -> Path:
    path.write_text(json.dumps(tasks))
    return path


def test_a_corrected_mask_is_taken_over(masks: Path, folder: ReviewFolder, tmp_path: Path) -> None:
    before = contents(masks)
    ids = read_class_ids(masks / "masks" / "photo_1.png").numpy().copy()
    first = ids.copy()
    ids[:9, :12], first[:] = 3, 1
    tasks = exported(masks, "photo_1", first, ids)
    taken = take_over(folder, write(tmp_path / "project.json", tasks))
    assert (taken.accepted, taken.failures) == (("photo_1",), ())
    assert (read_class_ids(masks / "masks" / "photo_1.png").numpy() == ids).all()
    row = rows(masks)["photo_1"]
    assert (row["made_by"], row["decision"]) == ("person", "accepted")
    changed = {name for name, content in contents(masks).items() if content != before[name]}
    assert changed == {"masks/photo_1.png"}  # nobody has annotated the others
    again = take_over(folder, write(tmp_path / "project.json", tasks))
    assert again.accepted == ("photo_1",) and rows(masks)["photo_1"] == row


def test_an_annotation_that_was_cancelled(
    masks: Path, folder: ReviewFolder, tmp_path: Path
) -> None:
    ids = read_class_ids(masks / "masks" / "photo_1.png").numpy().copy()
    ids[:5] = 1
    tasks = exported(masks, "photo_1", ids, was_cancelled=True)
    assert take_over(folder, write(tmp_path / "project.json", tasks)).accepted == ()


def test_undecided_pixels_stay(masks: Path, folder: ReviewFolder, tmp_path: Path) -> None:
    index = folder.names.index("photo_1")
    unsure = folder.ids(index).clone()
    unsure[:6], unsure[6:9] = 255, 2
    folder.write(index, unsure, folder.detail(index)["version"])
    marked = unsure.numpy().copy()
    marked[:3] = 1  # three of the six rows are decided now
    tasks = [{"data": {"name": "photo_1"}, "annotations": [{"result": _regions(marked)}]}]
    take_over(folder, write(tmp_path / "project.json", tasks))
    assert (read_class_ids(masks / "masks" / "photo_1.png").numpy() == marked).all()


def test_exports_that_cannot_be_used(masks: Path, folder: ReviewFolder, tmp_path: Path) -> None:
    before, path = contents(masks), tmp_path / "project.json"
    path.write_text("[{")
    with pytest.raises(DataError, match="is no JSON"):
        take_over(folder, path)
    for tasks in ([], {}, [3], [{"data": {"name": "another"}}], [{"data": {"name": ["photo_1"]}}]):
        with pytest.raises(DataError, match="holds no task of a mask in"):
            take_over(folder, write(path, tasks))
    ids = read_class_ids(masks / "masks" / "photo_1.png").numpy()
    polygon = [{"type": "polygonlabels", "value": {"polygonlabels": ["cat"], "points": []}}]
    horse = _regions(ids) or [{}]
    horse[0]["value"]["brushlabels"] = ["horse"]
    for regions, said in (
        (polygon, "was not made with a brush of one label"),
        (horse, '"horse" is no class'),
        (_regions(ids[1:] * 0 + 1), f"{ids.shape[1]} x {ids.shape[0] - 1} pixels"),
    ):
        tasks = [{"data": {"name": "photo_1"}, "annotations": [{"result": regions}]}]
        (failure,) = take_over(folder, write(path, tasks)).failures
        assert said in failure.reason
    assert contents(masks) == before and rows(masks)["photo_1"]["decision"] == ""
