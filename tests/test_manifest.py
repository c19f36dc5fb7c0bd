from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from ssrseg.data.sample import Sample
from ssrseg.errors import DataError, OutputError
from ssrseg.manifest import Manifest

CLASSES = ("cat", "dog", "red car")
HEAD = "name,labels,absent,mask,image,photo,made_by,score,reasons,given_labels,decision,decided_on"


def sample(name: str, *labels: int, photos: Path = Path("/photos")) -> Sample:
    return Sample(name, photos / f"{name}.jpg", labels, None)


def test_labels_without_a_pixel(tmp_path: Path) -> None:
    a, b, c = (
        sample(name, *labels, photos=tmp_path.parent / "photos")
        for name, labels in (("a", (0, 1)), ("b", (0, 1, 2)), ("c", ()))
    )
    dog = torch.tensor([[0, 2, 255]], dtype=torch.uint8)
    manifest = Manifest(tmp_path / "manifest.csv", CLASSES)
    manifest.add(a, dog, "a" * 16, "ssrseg")
    manifest.add(b, dog, "b" * 16, "person")
    manifest.add(c, torch.zeros(2, 2, dtype=torch.uint8), "c" * 16, "ssrseg")
    lines = (tmp_path / "manifest.csv").read_text().splitlines()
    assert lines == [
        HEAD,
        "a,cat;dog,cat,masks/a.png,../photos/a.jpg,aaaaaaaaaaaaaaaa,ssrseg,,,,,",
        "b,cat;dog;red car,cat;red car,masks/b.png,../photos/b.jpg,bbbbbbbbbbbbbbbb,person,,,,,",
        "c,,,masks/c.png,../photos/c.jpg,cccccccccccccccc,ssrseg,,,,,",
    ]
    again = Manifest(tmp_path / "manifest.csv", CLASSES)
    assert again.absent([a, b, c, sample("d")]) == {"a": ("cat",), "b": ("cat", "red car")}
    assert (again.photo("a"), again.photo("d")) == ("a" * 16, None)
    again.add(
        a, torch.tensor([[1, 2]], dtype=torch.uint8), "a" * 16, "ssrseg"
    )  # the later line counts
    assert Manifest(tmp_path / "manifest.csv", CLASSES).absent([a, c]) == {}
    lines = (tmp_path / "manifest.csv").read_text().splitlines()
    assert (
        lines[1] == "a,cat;dog,,masks/a.png,../photos/a.jpg,aaaaaaaaaaaaaaaa,ssrseg,,,,,"
        and len(lines) == 4
    )


def test_a_spreadsheet_may_have_saved_it(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    row = "a,cat,cat,masks/a.png,../a.jpg,aaaaaaaaaaaaaaaa,ssrseg,,,,,"
    text = f"\ufeff{HEAD},checked\r\n{row},yes,\r\n"
    path.write_text(text, encoding="utf-8", newline="")
    assert Manifest(path, CLASSES).absent([sample("a", 0)]) == {"a": ("cat",)}
    assert path.read_text() == f"{HEAD}\n{row}\n"


def test_a_table_of_version_0_1(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    old = "name,labels,absent,mask,photo,made_by"
    path.write_text(f"{old}\na,cat,cat,masks/a.png,aaaaaaaaaaaaaaaa,person\n")
    assert Manifest(path, CLASSES).photo("a") == "a" * 16
    assert path.read_text() == f"{HEAD}\na,cat,cat,masks/a.png,,aaaaaaaaaaaaaaaa,person,,,,,\n"


def test_the_photograph_is_found_from_the_folder(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "deep" / "out"
    photos.mkdir()
    out.mkdir(parents=True)
    (photos / "a.jpg").touch()
    (tmp_path / "link").symlink_to(out, target_is_directory=True)
    for folder in (out, tmp_path / "link", tmp_path / "photos"):
        manifest = Manifest(folder / "manifest.csv", CLASSES)
        way = tmp_path / "link" / ".." / ".." / "photos"  # to deep/.., as the system goes
        manifest.add(sample("a", photos=way), torch.zeros(2, 2).byte(), "a" * 16, "ssrseg")
        (row,) = csv.DictReader(manifest.path.read_text().splitlines())
        assert not row["image"].startswith("/")
        assert (folder / row["image"]).samefile(photos / "a.jpg")


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
