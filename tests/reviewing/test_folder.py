from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reviewed
import tifffile
import torch
from PIL import Image
from reviewed import contents, copied, relabelled, rows, with_alpha
from tiny_encoders import tiny_clip

from ssrseg.config import Config
from ssrseg.data.class_ids import read_class_ids, write_class_ids
from ssrseg.data.files import content_digest
from ssrseg.errors import DataError, LabelsError, OutputError
from ssrseg.made_with import folder_made_with
from ssrseg.manifest import Manifest
from ssrseg.pseudo_masks import make_masks
from ssrseg.reviewing import folder as module
from ssrseg.reviewing.encoders import EncoderOptions
from ssrseg.reviewing.folder import ReviewFolder, Stale, open_review


@pytest.fixture
def folder(masks: Path) -> Iterator[ReviewFolder]:
    with open_review(masks, None, EncoderOptions(device="cpu")) as found:
        yield found


def place(folder: ReviewFolder, name: str) -> int:
    return folder.names.index(name)


def version(folder: ReviewFolder, name: str) -> str:
    version: str = folder.detail(place(folder, name))["version"]
    return version


def brushed(folder: ReviewFolder, name: str) -> torch.Tensor:
    """The mask with other classes in a square."""
    ids = folder.ids(place(folder, name)).clone()
    ids[2:9, 3:11] = (ids[2:9, 3:11] + 1) % 4
    return ids


def test_the_most_doubtful_first(folder: ReviewFolder, masks: Path) -> None:
    found = [folder.summary(index) for index in range(4)]
    assert [each["name"] for each in found] == list(folder.names)
    scores = [each["score"] for each in found]
    assert scores == sorted(scores) == sorted(float(row["score"]) for row in rows(masks).values())
    by_name = {each["name"]: ";".join(each["labels"]) for each in found}
    assert by_name == reviewed.LABELS
    assert {each["decision"] for each in found} == {""} and folder.missing == 0


def test_a_decision_is_of_the_mask_that_was_seen(folder: ReviewFolder, masks: Path) -> None:
    index, seen = place(folder, "photo_1"), version(folder, "photo_1")
    folder.decide(index, "accepted", seen)
    row = rows(masks)["photo_1"]  # as a kill would leave it
    assert (row["decision"], row["made_by"]) == ("accepted", "ssrseg")
    assert row["decided_on"] == content_digest(masks / "masks" / "photo_1.png")
    seen = version(folder, "photo_1")
    assert folder.summary(index)["decision"] == "accepted"
    path = masks / "masks" / "photo_1.png"
    write_class_ids(path, brushed(folder, "photo_1"))  # by a paint program
    assert folder.summary(index)["decision"] == ""
    with pytest.raises(Stale):
        folder.decide(index, "rejected", seen)
    assert rows(masks)["photo_1"]["decision"] == "accepted"  # nothing was written
    folder.decide(index, "rejected", version(folder, "photo_1"))
    assert folder.detail(index)["decision"] == "rejected" and folder.detail(index)["edited"]


def test_a_mask_is_brushed_and_put_back(folder: ReviewFolder, masks: Path) -> None:
    index, path = place(folder, "photo_2"), masks / "masks" / "photo_2.png"
    before, line = contents(masks), rows(masks)["photo_2"]
    ids, as_made = brushed(folder, "photo_2"), path.read_bytes()
    folder.write(index, ids, version(folder, "photo_2"))
    assert torch.equal(read_class_ids(path), ids)
    assert rows(masks)["photo_2"]["made_by"] == "person"
    assert (masks / "review" / "photo_2.png").read_bytes() == as_made
    assert folder.detail(index)["as_made"] and not (masks / "report.html").exists()
    again = ids.clone()
    again[0, 0] = 255
    folder.write(index, again, version(folder, "photo_2"))
    assert (masks / "review" / "photo_2.png").read_bytes() == as_made  # not the first correction
    folder.reset(index, version(folder, "photo_2"))
    assert contents(masks) == before and rows(masks)["photo_2"] == line
    assert not (masks / "review").exists()


def test_undoing_the_last_stroke_gives_the_stamp_back(folder: ReviewFolder, masks: Path) -> None:
    index, before = place(folder, "photo_0"), contents(masks)
    first, line = folder.ids(index), rows(masks)["photo_0"]
    folder.write(index, brushed(folder, "photo_0"), version(folder, "photo_0"))
    folder.write(index, first, version(folder, "photo_0"))
    assert contents(masks) == before and rows(masks)["photo_0"] == line


def test_masks_that_cannot_be_written(folder: ReviewFolder, masks: Path) -> None:
    index, seen, before = place(folder, "photo_0"), version(folder, "photo_0"), contents(masks)
    ids = folder.ids(index)
    with pytest.raises(DataError, match=f"{ids.shape[1] - 1} x {ids.shape[0]} pixels"):
        folder.write(index, ids[:, 1:], seen)
    strange = ids.clone()
    strange[0, 0] = 4  # of three classes
    with pytest.raises(DataError, match="class id 4"):
        folder.write(index, strange, seen)
    with pytest.raises(Stale):
        folder.write(index, brushed(folder, "photo_0"), "0" * 16)
    photo = masks.parent / "data" / "images" / "photo_0.jpg"
    photo.write_bytes((masks.parent / "data" / "images" / "photo_1.jpg").read_bytes())
    assert "photo_0.jpg" in folder.detail(index)["problem"]
    with pytest.raises(DataError, match="photo_0"):
        folder.write(index, brushed(folder, "photo_0"), seen)
    photo.unlink()
    with pytest.raises(DataError, match="is not there any more"):
        folder.write(index, brushed(folder, "photo_0"), seen)
    assert not folder.detail(index)["photo"] and contents(masks) == before
    folder.decide(index, "rejected", seen)  # that can still be said


def test_photographs_that_have_moved(masks: Path) -> None:
    moved = masks.parent / "moved"
    (masks.parent / "data" / "images").rename(moved)
    with open_review(masks, moved, EncoderOptions()) as folder:
        index = place(folder, "photo_1")
        assert not folder.detail(index)["problem"]
        folder.write(index, brushed(folder, "photo_1"), version(folder, "photo_1"))
    assert rows(masks)["photo_1"]["image"] == "../moved/photo_1.jpg"


def test_another_threshold_is_the_mask_of_that_setting(
    folder: ReviewFolder, masks: Path, config: Config, tmp_path: Path
) -> None:
    index, before = place(folder, "photo_2"), contents(masks)
    assert folder.alpha == 1.0 and folder.detail(index)["threshold"]
    found = folder.with_threshold(index, 3.0, refined=True)
    make_masks(reviewed.data(masks), tmp_path / "other", with_alpha(config, 3.0))
    assert torch.equal(found, read_class_ids(tmp_path / "other" / "masks" / "photo_2.png"))
    rough = folder.with_threshold(index, 3.0, refined=False)
    assert rough.shape == found.shape and not torch.equal(rough, found)
    areas = [
        int((folder.with_threshold(index, alpha, refined=False) > 0).sum())
        for alpha in (0.25, 1.0, 4.0)
    ]
    assert areas == sorted(areas) and areas[0] < areas[2]
    assert contents(masks) == before
    same = folder.with_threshold(index, 1.0, refined=True)
    assert torch.equal(same, folder.ids(index))


def test_corrected_labels_make_the_mask_of_these_labels(
    folder: ReviewFolder, masks: Path, config: Config, tmp_path: Path
) -> None:
    index, before = place(folder, "photo_1"), contents(masks)
    line = rows(masks)["photo_1"]
    folder.decide(index, "accepted", version(folder, "photo_1"))
    folder.relabel(index, ["red car", "cat"], version(folder, "photo_1"))
    right = relabelled(reviewed.data(masks), {"photo_1": (0, 2)})
    make_masks(right, tmp_path / "other", config)
    there = contents(tmp_path / "other")
    changed = {name for name, content in contents(masks).items() if content != before[name]}
    assert changed == {"masks/photo_1.png", "cams/photo_1.npz"}
    assert contents(masks) == there
    row, other = rows(masks)["photo_1"], rows(tmp_path / "other")["photo_1"]
    assert (row["labels"], row["given_labels"], row["made_by"]) == ("cat;red car", "dog", "ssrseg")
    assert (row["score"], row["reasons"]) == (other["score"], other["reasons"])
    assert row["decision"] == "" and folder.summary(index)["given"] == ["dog"]
    folder.relabel(index, ["dog"], version(folder, "photo_1"))
    assert contents(masks)["masks/photo_1.png"] == before["masks/photo_1.png"]
    assert rows(masks)["photo_1"] == line


def test_labels_that_are_none(folder: ReviewFolder, masks: Path) -> None:
    index = place(folder, "photo_3")
    with pytest.raises(DataError, match='"horse" is no class'):
        folder.relabel(index, ["horse"], version(folder, "photo_3"))
    folder.relabel(index, ["cat"], version(folder, "photo_3"))
    assert rows(masks)["photo_3"]["given_labels"] == "none"
    assert folder.summary(index)["given"] == []
    folder.relabel(index, [], version(folder, "photo_3"))
    assert rows(masks)["photo_3"]["given_labels"] == "" and not folder.ids(index).any()


def test_masks_goes_on_with_what_was_decided(
    masks: Path, config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_review(masks, None, EncoderOptions(device="cpu")) as folder:
        for name, decision in (("photo_0", "accepted"), ("photo_2", "rejected")):
            folder.decide(place(folder, name), decision, version(folder, name))
        folder.relabel(place(folder, "photo_1"), ["red car"], version(folder, "photo_1"))
        folder.write(
            place(folder, "photo_3"), brushed(folder, "photo_3"), version(folder, "photo_3")
        )
    before, lines = contents(masks), rows(masks)
    data = reviewed.data(masks)
    again = make_masks(data, masks, config)
    assert (again.written, again.corrected) == (0, ("photo_3",))
    assert contents(masks) == before and rows(masks) == lines
    assert "1 image with the labels that were corrected in review" in capsys.readouterr().err
    other = make_masks(data, masks, with_alpha(config, 3.0))
    assert sorted(other.corrected) == ["photo_0", "photo_3"] and other.written == 2
    now, found = contents(masks), rows(masks)
    assert all(now[f"masks/{name}.png"] == before[f"masks/{name}.png"] for name in other.corrected)
    assert now["masks/photo_1.png"] != before["masks/photo_1.png"]
    assert found["photo_0"]["decision"] == "accepted"  # and the rejected mask is another now
    assert (found["photo_1"]["labels"], found["photo_1"]["given_labels"]) == ("red car", "dog")
    with open_review(masks, None, EncoderOptions()) as folder:
        decisions = {name: folder.summary(place(folder, name))["decision"] for name in lines}
        assert not any(folder.detail(index)["outdated"] for index in range(4))
    assert decisions == {"photo_0": "accepted", "photo_1": "", "photo_2": "", "photo_3": ""}
    moved = relabelled(data, {"photo_1": (0,)})  # the data were corrected otherwise since
    make_masks(moved, masks, with_alpha(config, 3.0))
    said = capsys.readouterr().err
    assert "1 image has other labels in the data than when they were corrected" in said
    row = rows(masks)["photo_1"]
    assert (row["labels"], row["given_labels"]) == ("cat", "")
    replaced = make_masks(moved, masks, config, overwrite=True)
    assert replaced.corrected == () and replaced.written == 4
    assert "2 masks corrected or accepted by hand will be replaced" in capsys.readouterr().err


def test_an_accepted_mask_of_another_photograph(masks: Path, config: Config) -> None:
    with open_review(masks, None, EncoderOptions()) as folder:
        folder.decide(place(folder, "photo_0"), "accepted", version(folder, "photo_0"))
    images = masks.parent / "data" / "images"
    (images / "photo_0.jpg").write_bytes((images / "photo_3.jpg").read_bytes())
    before = contents(masks)["masks/photo_0.png"]
    result = make_masks(reviewed.data(masks), masks, with_alpha(config, 3.0))
    (failure,) = result.failures
    assert failure.name == "photo_0" and "was accepted by hand" in failure.reason
    assert contents(masks)["masks/photo_0.png"] == before


def test_without_encoders_labels_are_kept(masks: Path, config: Config, tmp_path: Path) -> None:
    before = contents(masks)
    options = EncoderOptions(clip=str(tmp_path / "nothing"))
    with open_review(masks, None, options) as folder:
        assert folder.encoders.state == "missing"
        index = place(folder, "photo_1")
        folder.decide(index, "accepted", version(folder, "photo_1"))
        folder.relabel(index, ["cat"], version(folder, "photo_1"))
        assert f"{tmp_path / 'nothing'} is not on this machine" in folder.encoders.why_not
        assert folder.summary(index)["decision"] == "" and folder.summary(index)["labels"] == [
            "cat"
        ]
        assert not folder.detail(index)["threshold"]  # its CAMs are those of the earlier labels
        assert "Run `ssrseg masks` again" in folder.detail(index)["outdated"]
        with pytest.raises(DataError, match=r"photo_1\.png is not accepted: this mask was"):
            folder.decide(index, "accepted", version(folder, "photo_1"))
        folder.decide(index, "rejected", version(folder, "photo_1"))
        folder.decide(index, "", version(folder, "photo_1"))
        assert not folder.detail(place(folder, "photo_2"))["outdated"]
        assert folder.detail(place(folder, "photo_2"))["threshold"]
    assert contents(masks) == before and rows(masks)["photo_1"]["given_labels"] == "dog"
    assert make_masks(reviewed.data(masks), masks, config).written == 1
    make_masks(relabelled(reviewed.data(masks), {"photo_1": (0,)}), tmp_path / "other", config)
    assert contents(masks) == contents(tmp_path / "other")


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_tab_that_shows_earlier_labels(masks: Path, tmp_path: Path) -> None:
    with open_review(masks, None, EncoderOptions(clip=str(tmp_path / "nothing"))) as folder:
        index, seen = place(folder, "photo_1"), version(folder, "photo_1")
        folder.relabel(index, ["cat", "dog"], seen)  # without encoders the mask stays
        with pytest.raises(Stale):
            folder.relabel(index, ["dog", "red car"], seen)
        with pytest.raises(Stale):
            folder.write(index, brushed(folder, "photo_1"), seen)
        assert rows(masks)["photo_1"]["labels"] == "cat;dog"
        index, seen = place(folder, "photo_2"), version(folder, "photo_2")
        folder.decide(index, "rejected", seen)
        with pytest.raises(Stale):
            folder.decide(index, "accepted", seen)
        assert rows(masks)["photo_2"]["decision"] == "rejected"


def test_a_painted_mask_is_a_persons_under_other_labels(masks: Path, tmp_path: Path) -> None:
    with open_review(masks, None, EncoderOptions(clip=str(tmp_path / "nothing"))) as folder:
        index, ids = place(folder, "photo_1"), brushed(folder, "photo_1")
        folder.write(index, ids, version(folder, "photo_1"))
        folder.relabel(index, ["cat"], version(folder, "photo_1"))
        assert torch.equal(folder.ids(index), ids) and not folder.detail(index)["outdated"]
        folder.decide(index, "accepted", version(folder, "photo_1"))
        folder.reset(index, version(folder, "photo_1"))  # to the mask of the earlier labels
        assert folder.detail(index)["decision"] == "" and folder.detail(index)["outdated"]


def test_masks_of_tiles_are_made_by_the_next_call(
    masks: Path, config: Config, tmp_path: Path
) -> None:
    config = replace(config, data=replace(config.data, tile=48))
    data, tiled = reviewed.data(masks), tmp_path / "tiled"
    make_masks(data, tiled, config)
    before = contents(tiled, "masks")
    with open_review(tiled, None, EncoderOptions(device="cpu")) as folder:
        index = place(folder, "photo_1")
        assert folder.detail(index)["tiled"] and not folder.detail(index)["threshold"]
        folder.relabel(index, ["cat"], version(folder, "photo_1"))
        assert folder.encoders.state == "asleep" and contents(tiled, "masks") == before
        with pytest.raises(DataError, match="Run `ssrseg masks` again"):
            folder.decide(index, "accepted", version(folder, "photo_1"))
    assert make_masks(data, tiled, config).written == 1
    with open_review(tiled, None, EncoderOptions()) as folder:
        folder.decide(index, "accepted", version(folder, "photo_1"))
    make_masks(relabelled(data, {"photo_1": (0,)}), tmp_path / "other", config)
    assert contents(tiled) == contents(tmp_path / "other")


def test_killed_between_two_files(
    masks: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(masks)
    with open_review(masks, None, EncoderOptions(device="cpu")) as folder:
        brush, label = place(folder, "photo_2"), place(folder, "photo_1")
        ids = brushed(folder, "photo_2")
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Manifest, "add", killed)  # the mask is there, its line is not
            folder.write(brush, ids, version(folder, "photo_2"))
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(module, "write_mask", killed)  # the CAMs are there, the mask is not
            folder.relabel(label, ["cat"], version(folder, "photo_1"))
    with open_review(masks, None, EncoderOptions()) as folder:
        assert folder.detail(brush)["edited"] and folder.detail(brush)["as_made"]
        assert folder.summary(label)["labels"] == ["dog"]
    result = make_masks(reviewed.data(masks), masks, config)
    assert (result.corrected, result.written) == (("photo_2",), 1)  # from new CAMs
    assert torch.equal(read_class_ids(masks / "masks" / "photo_2.png"), ids)
    now = contents(masks)
    assert {name for name in now if now[name] != before[name]} == {"masks/photo_2.png"}


@pytest.mark.parametrize("painted", [False, True])
@pytest.mark.parametrize("when", ["write_mask", "_relabelled"])
def test_killed_while_labels_are_corrected(
    masks: Path, config: Config, monkeypatch: pytest.MonkeyPatch, painted: bool, when: str
) -> None:
    before = contents(masks)
    with open_review(masks, None, EncoderOptions(device="cpu")) as folder:
        index = place(folder, "photo_1")
        if painted:
            folder.write(index, brushed(folder, "photo_1"), version(folder, "photo_1"))
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(module if when == "write_mask" else folder, when, killed)
            folder.relabel(index, ["cat"], version(folder, "photo_1"))
    kept = painted and when == "write_mask"  # it is still of the labels that it was painted with
    with open_review(masks, None, EncoderOptions()) as folder:
        index = place(folder, "photo_1")
        assert folder.summary(index)["labels"] == ["dog"]
        assert folder.detail(index)["edited"] == kept
        assert bool(folder.detail(index)["outdated"]) == (when == "_relabelled")
        if when == "_relabelled":
            with pytest.raises(DataError, match="is not accepted"):
                folder.decide(index, "accepted", version(folder, "photo_1"))
    result = make_masks(reviewed.data(masks), masks, config)
    assert result.corrected == (("photo_1",) if kept else ())
    assert (contents(masks) == before) != kept


def test_classes_that_were_renamed(masks: Path) -> None:
    (masks / "classes.txt").write_text("cat\nhound\nred car\n")
    with open_review(masks, None, EncoderOptions()) as folder:
        assert folder.encoders.why_not == "classes.txt has changed since the masks were made"
        assert not folder.detail(place(folder, "photo_0"))["threshold"]


def test_other_encoders_make_no_masks(masks: Path, dino_dir: Path, tmp_path: Path) -> None:
    other = tiny_clip(tmp_path / "other", seed=5)
    with open_review(masks, None, EncoderOptions(clip=str(other), device="cpu")) as folder:
        index = place(folder, "photo_1")
        assert folder.encoders.state == "asleep"
        folder.relabel(index, ["cat"], version(folder, "photo_1"))
        assert "its weights are others" in folder.encoders.why_not
        assert folder.summary(index)["labels"] == ["cat"]


def test_a_folder_of_predictions(made: Path, tmp_path: Path) -> None:
    masks = copied(made, tmp_path)
    (masks / "config.yaml").rename(masks / "settings.txt")
    with open_review(masks, None, EncoderOptions()) as folder:
        index = place(folder, "photo_1")
        assert (folder.alpha, folder.encoders.state) == (None, "missing")
        assert not folder.detail(index)["threshold"]
        with pytest.raises(DataError, match="not made from labels"):
            folder.relabel(index, ["cat"], version(folder, "photo_1"))
        folder.write(index, brushed(folder, "photo_1"), version(folder, "photo_1"))


def test_photographs_of_many_bands(made: Path, tmp_path: Path) -> None:
    masks = copied(made, tmp_path)
    made_with = folder_made_with(masks, "labels")
    assert made_with is not None
    bands = replace(made_with, settings=made_with.settings | {"data.bands": [6, 4, 2]})
    (masks / "config.yaml").unlink()
    (masks / "settings.txt").write_text(bands.line())  # as `predict` leaves them
    photo = masks.parent / "data" / "images" / "photo_1.jpg"
    values = np.tile(np.arange(6, dtype=np.uint8) * 40, (30, 40, 1))
    tifffile.imwrite(photo, values, photometric="minisblack", planarconfig="contig")
    with open_review(masks, None, EncoderOptions()) as folder:
        shown = Image.open(io.BytesIO(folder.photo(place(folder, "photo_1"))))
    found = np.asarray(shown, np.float64).mean((0, 1))
    assert shown.size == (40, 30) and np.abs(found - (200, 120, 40)).max() < 4


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        ("manifest.csv", DataError, "is no folder of masks: it has no manifest.csv"),
        ("classes.txt", LabelsError, "classes.txt cannot be read"),
        ("masks", DataError, "holds no mask that manifest.csv lists"),
    ],
)
def test_folders_that_cannot_be_reviewed(
    masks: Path, spoil: str, error: type[Exception], said: str
) -> None:
    (masks / spoil).rename(masks.parent / "away")
    with (
        pytest.raises(error, match=re.escape(said)),
        open_review(masks, None, EncoderOptions()),
    ):
        pass


def test_one_review_at_a_time(folder: ReviewFolder, masks: Path, config: Config) -> None:
    with (
        pytest.raises(OutputError, match="is being written by process"),
        open_review(masks, None, EncoderOptions()),
    ):
        pass
    with pytest.raises(OutputError, match="is being written by process"):
        make_masks(reviewed.data(masks), masks, config)


def test_a_folder_whose_run_was_killed(masks: Path) -> None:
    table = masks / "manifest.csv"
    table.write_text(table.read_text() + "photo_3,cat,ca")  # a line cut short
    (masks / "masks" / "photo_2.png").unlink()
    (masks / "masks" / ".0123456789abcdef.01234567-1-01234567.tmp.png").touch()
    with open_review(masks, None, EncoderOptions()) as folder:
        assert sorted(folder.names) == ["photo_0", "photo_1", "photo_3"] and folder.missing == 1
