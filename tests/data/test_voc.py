from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from make_tiny import tiny_voc

from ssrseg.data.open import open_labelled
from ssrseg.data.voc import read_objects
from ssrseg.errors import LabelsError

DOG = "<object><name>dog</name></object>"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (f"<annotation>{DOG}</annotation>", ["dog"]),
        (f'<annotation xmlns="http://example.org/x">{DOG}</annotation>', ["dog"]),
        (
            '<v:annotation xmlns:v="u"><v:object><v:name>dog</v:name></v:object></v:annotation>',
            ["dog"],
        ),
        (f"<root>{DOG}</root>", ["dog"]),
        (f"<data><annotation><objects>{DOG}</objects></annotation></data>", ["dog"]),
        ("<Annotation><Object><Name> dog\n</Name></Object></Annotation>", ["dog"]),
        (
            "<annotation><object><part><name>head</name></part><name>person</name>"
            "<part><name>hand</name></part></object></annotation>",
            ["person"],
        ),
        (
            f"<annotation><object><name>cat</name>{DOG}</object>{DOG}</annotation>",
            ["cat", "dog"],
        ),
        ("<annotation><owner><name>somebody</name></owner></annotation>", []),
        ("<annotation/>", []),
        (f"<annotation><!-- {DOG} --><?x y?></annotation>", []),
        # other dialects: a name beside a place
        (
            "<annotation><objects><item><label>dog</label><bbox/></item></objects></annotation>",
            ["dog"],
        ),
        ("<annotation><item><name>dog</name><box><x1>1</x1></box></item></annotation>", ["dog"]),
        ("<annotation><a><Class>dog</Class><polygon/></a></annotation>", ["dog"]),
        ('<annotation><thing category="dog"><segmentation/></thing></annotation>', ["dog"]),
        ('<annotation><object name="dog"/></annotation>', ["dog"]),
        ("<annotation><object><label>dog</label></object></annotation>", ["dog"]),
        ("<annotation><object><name><b>d</b>og</name></object></annotation>", ["dog"]),
        (
            "<annotation><object><name>person</name><bndbox/><part><name>head</name><bndbox/>"
            "</part></object></annotation>",
            ["person"],
        ),
        ("<annotation><objects/><size><width>9</width></size></annotation>", []),
        # LabelMe
        (
            "<annotation><object><name>dog</name><deleted>1</deleted><polygon/></object><object>"
            "<name>cat</name><deleted>0</deleted><polygon/></object></annotation>",
            ["cat"],
        ),
        (
            "<annotation><object><name>dog</name><deleted>1</deleted><polygon/></object>"
            "</annotation>",
            [],
        ),
    ],
)
def test_objects_of_an_annotation(tmp_path: Path, text: str, names: list[str]) -> None:
    path = tmp_path / "a.xml"
    path.write_text(text)
    assert read_objects(path) == names


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
BOMB = f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><annotation>&l11;</annotation>'
QUADRATIC = (
    f'<!DOCTYPE a [<!ENTITY a "{"a" * 100_000}">]><annotation>{"&a;" * 100_000}</annotation>'
)
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid XML"),
        (b"<annotation>", "is not valid XML"),
        (b"\xff\xfe\x00", "is not valid XML"),
        (b"\x00" * 9, "is not valid XML"),
        (b'<?xml version="1.0" encoding="nonsense"?><a/>', "is not valid XML"),
        (b'<?xml version="1.0" encoding="utf-7"?><annotation/>', "is not valid XML"),
        (b"<annotation>caf\xe9</annotation>", "is not valid XML"),
        (BOMB.encode(), "is not valid XML"),
        (QUADRATIC.encode(), "is not valid XML"),
        (OUTSIDE.encode(), "is not valid XML"),
        (b"<annotation><object><name> </name></object></annotation>", "an object has no name"),
        (b"<annotation><object/></annotation>", "an object has no name"),
        (
            b"<annotation><item><bndbox/></item></annotation>",
            r"has no <object> and is no annotation .*: it holds <bndbox>",
        ),
        (
            b"<annotation><instance><class>dog</class></instance></annotation>",
            r"has no <object> .*: it holds <class>\. Write an object with a name",
        ),
        (b'<annotation><thing label="dog"/></annotation>', r"it holds <thing>"),
        (
            b"<annotation><object><name>dog</name><name>cat</name></object></annotation>",
            'an object has the names "dog" and "cat"',
        ),
        (
            b"<annotations><image name='a.jpg'><box label='dog'/></image></annotations>",
            r"has no <object> .* root is <annotations>",
        ),
        (
            b"<annotation><image name='a.jpg'><box label='dog'/></image></annotation>",
            r"has no <object> .*: it holds <image>",
        ),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', r"has no <object> .* root is <svg>"),
        (b"<html><body>404</body></html>", r"has no <object> .* root is <html>"),
    ],
)
def test_files_that_are_no_annotations(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(content)
    with pytest.raises(LabelsError, match=message) as caught:
        read_objects(path)
    assert str(caught.value).startswith(f"{path}") and len(str(caught.value)) < 500


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match=r"a\.xml is missing\. Add it, or write"):
        read_objects(tmp_path / "a.xml")
    (tmp_path / "a.xml").mkdir()
    with pytest.raises(LabelsError, match=r"a\.xml cannot be read \(Is a directory\)"):
        read_objects(tmp_path / "a.xml")
    with (tmp_path / "b.xml").open("wb") as file:
        file.truncate(10**10)
    with pytest.raises(LabelsError, match="10,000,000,000 bytes, far too many"):
        read_objects(tmp_path / "b.xml")


def test_a_deep_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text("<x>" * 50_000 + DOG + "</x>" * 50_000)
    assert read_objects(path) == ["dog"]


def test_images_of_nothing_are_counted(tmp_path: Path) -> None:
    root = tiny_voc(tmp_path / "voc", n=3)
    assert open_labelled(root).notices == ()
    (root / "Annotations/2007_000001.xml").write_text("<annotation></annotation>")
    data = open_labelled(root)
    assert [len(sample.labels) for sample in data.samples] == [1, 0, 2]
    assert data.notices == (
        "1 annotation file has no object, of 3 (such as 2007_000001.xml): images of none of the"
        " classes.",
    )


def test_the_path_of_a_single_fault(tmp_path: Path) -> None:
    root = tiny_voc(tmp_path / "voc", n=2)
    (root / "Annotations/2007_000001.xml").write_text("<annotation>")
    with pytest.raises(LabelsError, match=f"^{root}/Annotations/2007_000001.xml is not valid XML"):
        open_labelled(root)


def test_classes_of_ones_own_need_a_list(tmp_path: Path) -> None:
    root = tiny_voc(tmp_path / "voc", n=2)
    for number, name in enumerate(("mouse", "keyboard")):
        path = root / f"Annotations/2007_00000{number}.xml"
        path.write_text(f"<annotation><object><name>{name}</name></object></annotation>")
    with pytest.raises(LabelsError) as caught:
        open_labelled(root)
    lines = str(caught.value).splitlines()
    assert lines[1] == (
        '  2007_000000.xml: class "mouse" is not in VOC\'s class list (20 names). Did you mean'
        ' "horse"?'
    )
    assert lines[-1] == (
        f"  If these are classes of your own, write {root}/classes.txt, with the names of all of"
        " them, one a line; the n-th gets id n."
    )
    (root / "classes.txt").write_text("Keyboard\nmouse\n")
    data = open_labelled(root)
    assert [sample.labels for sample in data.samples] == [(1,), (0,)]
    assert data.notices == (
        'Labels in another spelling are read as one class: "keyboard" as "Keyboard".',
    )


def test_names_below_folders(tmp_path: Path) -> None:
    root = tiny_voc(tmp_path / "voc", n=2)
    for folder in ("JPEGImages", "Annotations", "SegmentationClass"):
        (root / folder / "day 2").mkdir()
        for file in (root / folder).glob("2007_000001.*"):
            shutil.copy(file, root / folder / "day 2" / file.name)
    data = open_labelled(root)
    assert [sample.name for sample in data.samples] == [
        "2007_000000", "2007_000001", "day 2/2007_000001",
    ]  # fmt: skip
    for sample in data.samples:
        assert sample.truth == root / "SegmentationClass" / f"{sample.name}.png"


def test_files_among_the_images_that_are_passed_over(tmp_path: Path) -> None:
    root = tiny_voc(tmp_path / "voc", n=2)
    (root / "JPEGImages" / "Thumbs.db").touch()
    notice = f"{root}/JPEGImages: 1 other file (1 .db) passed over."
    assert open_labelled(root).notices == (notice,)
