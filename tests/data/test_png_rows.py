from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from ssrseg.data.class_ids import voc_palette
from ssrseg.data.png_rows import PngRows, RowsPng, png_size
from ssrseg.errors import OutputError

pictures = arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30)))


@given(pictures, st.integers(1, 9), st.booleans())
def test_rows_come_back(tmp_path_factory, ids, step, indexed):
    path = tmp_path_factory.mktemp("png") / "a.png"
    with RowsPng(ids.shape, path.parent, voc_palette() if indexed else None) as png:
        for top in range(0, len(ids), step):
            png.add(ids[top : top + step])
        assert png.pixels.tolist() == np.bincount(ids.ravel(), minlength=256).tolist()
        png.save(path, {"one": "é", "two": "b c"})
    assert png_size(path) == ids.shape
    with Image.open(path) as image:
        assert image.mode == ("P" if indexed else "L")
        assert (np.array(image) == ids).all()
        assert image.info["one"] == "é" and image.info["two"] == "b c"
        assert not indexed or image.getpalette("RGB") == voc_palette().ravel().tolist()
    again = PngRows(path)
    assert again.size == ids.shape and again.indexed == indexed
    assert again.texts == {"one": "é", "two": "b c"}
    assert (np.concatenate([*again]) == ids).all()


def test_a_damaged_file_is_noticed(tmp_path):
    path = tmp_path / "a.png"
    with RowsPng((40, 50), tmp_path) as png:
        png.add(np.random.default_rng(0).integers(0, 9, (40, 50), np.uint8))
        png.save(path, {"a": "b"})
    content = path.read_bytes()
    for at in range(0, len(content), 13):
        for damaged in (content[:at], content[:at] + bytes([content[at] ^ 5]) + content[at + 1 :]):
            path.write_bytes(damaged)
            with pytest.raises(ValueError):
                assert PngRows(path).size == (40, 50)
                [*PngRows(path)]


def test_other_pngs_are_left_to_others(tmp_path):
    path = tmp_path / "a.png"
    ramp = np.arange(256, dtype=np.uint8).repeat(4).reshape(16, 64)
    Image.fromarray(ramp).save(path)
    with pytest.raises(ValueError, match="filtered"):
        [*PngRows(path)]
    Image.fromarray(ramp).convert("RGB").save(path)
    with pytest.raises(ValueError, match="another form"):
        PngRows(path)


def test_what_has_been_added_waits_in_the_folder_and_a_full_disk_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("ssrseg.data.png_rows._IN_MEMORY", 10)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    rows = np.random.default_rng(0).integers(0, 256, (40, 5000), np.uint8)
    with RowsPng(rows.shape, tmp_path) as png:
        png.add(rows)
        png.save(tmp_path / "a.png", {})
    assert (np.concatenate([*PngRows(tmp_path / "a.png")]) == rows).all()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    gone = r"gone cannot be written \(No such file"
    with RowsPng(rows.shape, tmp_path / "gone") as png, pytest.raises(OutputError, match=gone):
        png.add(rows)
