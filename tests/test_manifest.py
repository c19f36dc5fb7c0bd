from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssrseg.data.sample import Sample
from ssrseg.errors import DataError, OutputError
from ssrseg.manifest import Manifest

CLASSES = ("cat", "dog", "red car")
HEAD = "name,labels,absent,mask,photo,made_by"


def sample(name: str, *labels: int) -> Sample:
    return Sample(name, Path(f"{name}.jpg"), labels, None)


def test_labels_without_a_pixel(tmp_path: Path) -> None:
    a, b, c = sample("a", 0, 1), sample("b", 0, 1, 2), sample("c")
    dog = torch.tensor([[0, 2, 255]], dtype=torch.uint8)
    manifest = Manifest(tmp_path / "manifest.csv", CLASSES)
    manifest.add(a, dog, "a" * 16, "ssrseg")
    manifest.add(b, dog, "b" * 16, "person")
    manifest.add(c, torch.zeros(2, 2, dtype=torch.uint8), "c" * 16, "ssrseg")
    lines = (tmp_path / "manifest.csv").read_text().splitlines()
    assert lines == [
        HEAD,
        "a,cat;dog,cat,masks/a.png,aaaaaaaaaaaaaaaa,ssrseg",
        "b,cat;dog;red car,cat;red car,masks/b.png,bbbbbbbbbbbbbbbb,person",
        "c,,,masks/c.png,cccccccccccccccc,ssrseg",
    ]
    again = Manifest(tmp_path / "manifest.csv", CLASSES)
    assert again.absent([a, b, c, sample("d")]) == {"a": ("cat",), "b": ("cat", "red car")}
    assert (again.photo("a"), again.photo("d")) == ("a" * 16, None)
    again.add(
        a, torch.tensor([[1, 2]], dtype=torch.uint8), "a" * 16, "ssrseg"
    )  # the later line counts
    assert Manifest(tmp_path / "manifest.csv", CLASSES).absent([a, c]) == {}
    lines = (tmp_path / "manifest.csv").read_text().splitlines()
    assert lines[1] == "a,cat;dog,,masks/a.png,aaaaaaaaaaaaaaaa,ssrseg" and len(lines) == 4


def test_a_spreadsheet_may_have_saved_it(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    text = f"\ufeff{HEAD},checked\r\na,cat,cat,masks/a.png,aaaaaaaaaaaaaaaa,ssrseg,yes,\r\n"
    path.write_text(text, encoding="utf-8", newline="")
    assert Manifest(path, CLASSES).absent([sample("a", 0)]) == {"a": ("cat",)}
    assert path.read_text() == f"{HEAD}\na,cat,cat,masks/a.png,aaaaaaaaaaaaaaaa,ssrseg\n"


@pytest.mark.parametrize(
    "name",
    [
        "k\udce4fer", "a\u2028b", "a,b", 'a"b', "a\nb", "=cmd()", "'=b", "ä", "a;=b", "a\x1b[31m",
        "\u202ea", "a\r", "a\x85b",
    ],
)  # fmt: skip
def test_any_name_comes_back(tmp_path: Path, name: str) -> None:
    manifest = Manifest(tmp_path / "manifest.csv", CLASSES)
    manifest.add(sample(name, 0), torch.zeros(2, 2, dtype=torch.uint8), "a" * 16, "ssrseg")
    again = Manifest(tmp_path / "manifest.csv", CLASSES)
    assert again.absent([sample(name, 0)]) == {name: ("cat",)}


@pytest.mark.parametrize(
    "text",
    [
        b"name,labels,mask\na,cat,masks/a.png\n",
        b"name;labels;absent;mask\na;cat;;masks/a.png\n",
        "n\0ame,labels\n".encode("utf-16"),
        b'\xff\x00\r\r\n"',
    ],
)
def test_one_that_is_no_longer_ours_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "manifest.csv"
    path.write_bytes(text)
    with pytest.raises(DataError, match=r"instead of .name,labels,absent,mask.*or delete it"):
        Manifest(path, CLASSES)
    assert path.read_bytes() == text


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").mkdir()
    with pytest.raises(OutputError, match=r"manifest\.csv cannot be written"):
        Manifest(tmp_path / "manifest.csv", CLASSES)


def test_one_in_another_encoding_or_with_changed_digests(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    Manifest(path, CLASSES).add(sample("café", 0), torch.ones(2, 2).byte(), "0" * 16, "ssrseg")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "café.png").touch()
    assert Manifest(path, CLASSES).photo("café") == "0" * 16
    text = path.read_text()
    path.write_text(text, encoding="cp1252")
    with pytest.raises(DataError, match="names in another encoding"):
        Manifest(path, CLASSES)
    path.write_text(text.replace("0" * 16, "1.23E+15"))
    assert Manifest(path, CLASSES).photo("café") is None
    path.write_text("")
    assert Manifest(path, CLASSES).photo("café") is None
