from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssrseg.data.sample import Sample
from ssrseg.errors import DataError
from ssrseg.manifest import Manifest

CLASSES = ("cat", "dog", "red car")


def sample(name: str, *labels: int) -> Sample:
    return Sample(name, Path(f"{name}.jpg"), labels, None)


def test_labels_without_a_pixel(tmp_path: Path) -> None:
    a, b, c = sample("a", 0, 1), sample("b", 0, 1, 2), sample("c")
    dog = torch.tensor([[0, 2, 255]], dtype=torch.uint8)
    manifest = Manifest(tmp_path / "manifest.csv", CLASSES)
    manifest.add(a, dog)
    manifest.add(b, dog)
    manifest.add(c, torch.zeros(2, 2, dtype=torch.uint8))
    lines = (tmp_path / "manifest.csv").read_text().splitlines()
    assert lines == [
        "name,labels,absent,mask",
        "a,cat;dog,cat,masks/a.png",
        "b,cat;dog;red car,cat;red car,masks/b.png",
        "c,,,masks/c.png",
    ]
    again = Manifest(tmp_path / "manifest.csv", CLASSES)
    assert again.absent([a, b, c]) == {"a": ("cat",), "b": ("cat", "red car")}
    assert all(again.has(each) for each in (a, b, c))
    assert not again.has(sample("a", 0)) and not again.has(sample("d", 0))
    again.add(a, torch.tensor([[1, 2]], dtype=torch.uint8))  # the later line counts
    assert Manifest(tmp_path / "manifest.csv", CLASSES).absent([a, c]) == {}
    lines = (tmp_path / "manifest.csv").read_text().splitlines()
    assert lines[1] == "a,cat;dog,,masks/a.png" and len(lines) == 4


def test_a_spreadsheet_may_have_saved_it(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    text = "\ufeffname,labels,absent,mask,checked\r\na,cat,cat,masks/a.png,yes,\r\n"
    path.write_text(text, encoding="utf-8", newline="")
    assert Manifest(path, CLASSES).absent([sample("a", 0)]) == {"a": ("cat",)}
    assert path.read_text() == "name,labels,absent,mask\na,cat,cat,masks/a.png\n"


@pytest.mark.parametrize(
    "text",
    ["name,labels,mask\na,cat,masks/a.png\n", "name;labels;absent;mask\na;cat;;masks/a.png\n", ""],
)
def test_one_that_is_no_longer_ours_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"instead of .name,labels,absent,mask.*or delete it"):
        Manifest(path, CLASSES)
    assert path.read_text() == text
