from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssrseg.data.classes import ClassList, class_fault, class_key, tidy
from ssrseg.data.label_files.check import LabelFile, LabelRow, check_rows
from ssrseg.data.label_files.table import read_table
from ssrseg.errors import LabelsError

CLASSES = ("cat", "dog", "red car")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / "images" / name).touch()
    return tmp_path


def write(folder, text, encoding="utf-8"):
    (folder / "labels.csv").write_bytes(text.encode(encoding))
    return folder / "labels.csv"


def read_labels_csv(path: Path, *, classes: ClassList | None = None) -> LabelFile:
    known = {class_key(name) for name in classes.names} if classes else ()
    return check_rows(read_table(path, known), path.parent, classes)


def class_list(names, source="the class list"):
    return ClassList(names, source=source) if names else None


def read(folder, text, classes=CLASSES):
    found = read_labels_csv(write(folder, text), classes=class_list(classes))
    return found.classes, [(row.image, row.labels) for row in found.rows]


def error_of(folder, text, classes=CLASSES, source="the class list"):
    path = write(folder, text)
    with pytest.raises(LabelsError) as caught:
        read_labels_csv(path, classes=class_list(classes, source))
    return str(caught.value).replace(str(path), "F").replace(str(folder), "D")


PLAIN = [("images/a.jpg", (0, 1)), ("images/b.jpg", ()), ("images/c.jpg", (2,))]


@pytest.mark.parametrize(
    "text",
    [
        "image,labels\nimages/a.jpg,cat;dog\nimages/b.jpg,none\nimages/c.jpg,red car\n",
        "\ufeffimage,labels\r\nimages/a.jpg,cat;dog\r\nimages/b.jpg,none\r\nimages/c.jpg,red car",
        '"image","labels"\n"images/a.jpg","cat;dog"\n"images/b.jpg","none"\nimages/c.jpg,"red car"',
        'image;labels\nimages/a.jpg;"cat;dog"\nimages/b.jpg;none\n"images/c.jpg";red car\n',
        "image;labels;\nimages/a.jpg;cat;dog\nimages/b.jpg;none;\nimages/c.jpg;red car;\n",
        "image,labels;;\nimages/a.jpg,cat;dog\nimages/b.jpg,none;\nimages/c.jpg,red car;\n",
        "Image , Labels\n images/a.jpg , dog; cat ;dog\nimages/b.jpg,none,,\nimages/c.jpg,red car",
        "image,labels\nimages\\a.jpg,cat;dog\n./images/b.jpg,none\nc.jpg,red car\n",
    ],
    ids=["plain", "BOM+CRLF", "quoted", "Excel", "Excel-split", "Excel-padded", "blanks", "paths"],
)
def test_the_same_labels_in_every_accepted_spelling(folder, text):
    assert read(folder, text) == (CLASSES, PLAIN)


def test_rows_are_dataclasses_and_blank_lines_are_skipped(folder):
    path = write(folder, "\n\nimage,labels\n\nimages/b.jpg,dog\n,\n   \nimages/a.jpg,cat\n\n")
    rows = read_labels_csv(path, classes=class_list(CLASSES)).rows
    assert rows == [LabelRow("images/b.jpg", (1,)), LabelRow("images/a.jpg", (0,))]


def test_without_a_list_the_classes_are_those_that_occur(folder):
    names, rows = read(folder, "image,labels\na.jpg,zebra;cat\nb.jpg,none\nc.jpg,cat\n", None)
    assert names == ("cat", "zebra")
    assert [labels for _, labels in rows] == [(0, 1), (), (0,)]


def test_names_with_commas_quotes_and_accents(folder):
    (folder / 'Kühe, "drei".jpg').touch()
    classes = ("Kühe, schwarz", "dog")
    text = 'image,labels\n"Ku\u0308he, ""drei"".jpg","Kühe, schwarz;dog"\n'
    assert read(folder, text, classes) == (classes, [('Kühe, "drei".jpg', (0, 1))])


def test_unknown_class(folder):
    text = "image,labels\nimages/a.jpg,cat;dgo\n"
    assert error_of(folder, text) == (
        'F line 2: class "dgo" is not in the class list (3 names). Did you mean "dog"?'
    )
    assert error_of(folder, text.replace("dgo", "DGO"), source="classes.txt") == (
        'F line 2: class "DGO" is not in classes.txt (3 names).'
    )
    assert error_of(folder, text.replace("dgo", "aeroplane")) == (
        'F line 2: class "aeroplane" is not in the class list (3 names).'
    )
    assert error_of(folder, text.replace("cat;dgo", "None")) == (
        'F line 2: class "None" is not in the class list (3 names). Did you mean "none"?'
    )


@pytest.mark.parametrize("row", ["images/b.jpg,", "images/b.jpg", 'images/b.jpg," ; "'])
def test_empty_label(folder, row):
    assert error_of(folder, f"image,labels\nimages/a.jpg,cat\n{row}\n") == (
        'F line 3: "images/b.jpg" has no label. Name its classes, remove the line, or write "none"'
        " if the image shows none of the classes."
    )


def test_none_beside_a_class(folder):
    assert error_of(folder, "image,labels\nimages/a.jpg,none;cat\n") == (
        'F line 2: "none" stands beside other labels (none;cat). Remove one or the other.'
    )


def test_labels_separated_by_commas(folder):
    assert error_of(folder, "image,labels\nimages/a.jpg,cat,dog\n") == (
        'F line 2: "images/a.jpg,cat,dog" has 3 columns instead of 2. Separate labels by ";".'
    )
    for classes in (CLASSES, None):
        text = 'image,labels\nimages/a.jpg,"cat,dog"\nimages/b.jpg,cat;dog\n'
        assert error_of(folder, text, classes) == (
            'F line 2: the label "cat,dog" contains ",". Separate labels by ";".'
        )


def test_slips_that_would_make_classes_of_their_own(folder):
    text = "image,labels\na.jpg,cat\nb.jpg,Cat;background\nc.jpg,NONE\n"
    assert error_of(folder, text, None).splitlines() == [
        "F has 2 faults:",
        '  line 3: "background" is no class; it is always there, with id 0. Remove it.',
        '  line 4: "NONE" cannot be a class; in labels.csv, "none" marks an image that shows no'
        " class. Rename or respell it.",
    ]


def test_more_classes_than_8_bits_hold(folder):
    labels = [";".join(f"class {n}" for n in range(k, k + 85)) for k in (0, 85, 170)]
    rows = [f"{name}.jpg,{cell}" for name, cell in zip("abc", labels, strict=True)]
    message = error_of(folder, "\n".join(["image,labels", *rows]), None)
    assert message.startswith("F line 4: there are 255 classes; maps of class ids have 8 bits")
    assert len(read(folder, "\n".join(["image,labels", *rows])[:-10], None)[0]) == 254


def test_missing_image(folder):
    assert error_of(folder, "image,labels\nimages/d.jpg,cat\n") == (
        'F line 2: image "images/d.jpg" does not exist in D. Did you mean "c.jpg"?'
    )
    assert error_of(folder, "image,labels\nimages/d,cat\n") == (
        'F line 2: image "images/d" does not exist in D.'
    )
    assert error_of(folder, "image,labels\nphotos/a.jpg,cat\n") == (
        'F line 2: image "photos/a.jpg" does not exist in D.'
    )


@pytest.mark.parametrize("image", ["/data/a.jpg", "../a.jpg", "C:\\photos\\a.jpg"])
def test_images_outside_the_folder(folder, image):
    assert error_of(folder, f"image,labels\n{image},cat\n") == (
        f'F line 2: image "{image}" is not below D. Write paths relative to that folder.'
    )


def test_image_listed_twice(folder):
    assert error_of(folder, "image,labels\nimages/a.jpg,cat\nb.jpg,cat\nimages/a.jpg,dog\n") == (
        'F line 4: image "images/a.jpg" is already on line 2. Keep one line with all its classes.'
    )
    assert error_of(folder, "image,labels\nimages/a.jpg,cat\na.jpg,dog\n") == (
        'F line 3: image "a.jpg" is already on line 2. Keep one line with all its classes.'
    )


def test_same_stem_with_two_suffixes(folder):
    (folder / "images" / "a.png").touch()
    assert error_of(folder, "image,labels\nimages/a.jpg,cat\nimages/a.png,cat\n") == (
        'F line 3: image "images/a.png" and "images/a.jpg" (line 2) have the same name "a",'
        " without suffix, under which results are written. Rename or remove one."
    )


def test_header_missing_or_wrong(folder):
    assert error_of(folder, "images/a.jpg,cat\nimages/b.jpg,dog\n") == (
        'F line 1 should be the header "image,labels" but reads "images/a.jpg,cat". Add the header'
        " above it."
    )
    assert error_of(folder, "\nwhere,what\nimages/a.jpg,cat\n") == (
        'F line 2 has no column of labels ("what" may be anything). Call that of the labels'
        ' "labels", or write a column of 0 and 1 for each class.'
    )


def test_empty_files(folder):
    for text in ("", "\ufeff", "\n ,\n"):
        assert error_of(folder, text) == (
            'F is empty. Write the header "image,labels" and one line per image.'
        )
    assert error_of(folder, "image,labels\n") == (
        'F names no image. Add lines such as "images/a.jpg,cat;dog".'
    )
    assert error_of(folder, "image,labels\na.jpg,none\n", None) == (
        'F names no class: every label is "none". Name the classes of some images.'
    )


def test_all_faults_at_once_the_first_ten_in_full(folder):
    rows = [f"images/a.jpg,dgo{n}" for n in range(3)] + ["images/b.jpg,"] * 11
    lines = error_of(folder, "\n".join(["image,labels", *rows])).splitlines()
    assert lines[0] == "F has 26 faults:"
    assert lines[1].startswith('  line 2: class "dgo0" is not in the class list')
    assert lines[3].startswith('  line 3: image "images/a.jpg" is already on line 2')
    assert len(lines) == 12
    assert lines[-1] == "  ... and 16 more."
    numbers = [int(line.split()[1].rstrip(":")) for line in lines[1:-1]]
    assert numbers == sorted(numbers)


def test_open_quotation_mark(folder):
    assert error_of(folder, 'image,labels\na.jpg,"cat\nb.jpg,dgo\n').splitlines() == [
        "F has 2 faults:",
        '  line 2: unexpected end of data in a.jpg,"cat. Check the quotation marks: a cell has'
        " none, or one at either end.",
        '  line 3: class "dgo" is not in the class list (3 names). Did you mean "dog"?',
    ]


def test_a_folder_of_masks_where_a_label_file_is_expected(tmp_path):
    masks = tmp_path / "SegmentationClass"
    masks.mkdir()
    (masks / "a.png").touch()
    (masks / "b.png").touch()
    with pytest.raises(LabelsError) as caught:
        read_labels_csv(
            masks,
        )
    assert str(caught.value) == (
        f"{masks} is a folder with 2 .png files (masks?), but a label file is expected here: a text"
        " file with the header image,labels and one line per image. SSR learns from class names"
        " only, never from masks."
    )


def test_files_that_are_no_utf8_text(folder):
    path = write(folder, "image,labels\na.jpg,Kühe\n", "latin-1")
    with pytest.raises(LabelsError) as caught:
        read_labels_csv(path)
    assert str(caught.value) == (
        f"{path} is not text in UTF-8 (byte 20 is 0xfc). Save it again with the encoding UTF-8;"
        ' Excel calls it "CSV UTF-8".'
    )
    with pytest.raises(LabelsError, match=r"nowhere\.csv cannot be read \(No such file"):
        read_labels_csv(
            folder / "nowhere.csv",
        )


LABEL = st.text("bcdef ghij-_", min_size=1).filter(
    lambda word: word == tidy(word) and not class_fault(word)
)


@settings(deadline=None)
@given(
    labels=st.lists(st.sets(LABEL, max_size=4), min_size=1, max_size=6).filter(any),
    semicolons=st.booleans(),
    newline=st.sampled_from(["\n", "\r\n"]),
)
def test_what_is_written_is_read(tmp_path_factory, labels, semicolons, newline):
    folder = tmp_path_factory.mktemp("data")
    lines = ["image;labels" if semicolons else "image,labels"]
    for n, words in enumerate(labels):
        (folder / f"{n}.jpg").touch()
        cell = ";".join(sorted(words)) or "none"
        lines.append(f'{n}.jpg;"{cell}"' if semicolons else f"{n}.jpg,{cell}")
    path = write(folder, newline.join(lines))
    found = read_labels_csv(path)
    names, rows = found.classes, found.rows
    assert names == tuple(sorted(set().union(*labels)))
    assert [{names[label] for label in row.labels} for row in rows] == labels
    assert [row.image for row in rows] == [f"{n}.jpg" for n in range(len(labels))]


# ---------------------------------------------------------------- ways to write it


def found(folder, text, classes=None):
    """Class names by image, and the notices."""
    result = read_labels_csv(write(folder, text), classes=class_list(classes, "classes.txt"))
    shown = {row.image: [result.classes[n] for n in row.labels] for row in result.rows}
    return shown, result.notices


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffimage,labels\na.jpg,dog\n",
        "image,labels\r\na.jpg,dog\r\n",
        "image,labels\ra.jpg,dog\r",
        "filename,label\na.jpg,dog\n",
        "image,label\na.jpg,dog\n",
        "image_path;class\na.jpg;dog;\n",
        "image\tlabels\na.jpg\tdog\n",
        'image\tlabels\n"a.jpg"\t"dog"\n',
        "image,labels,,\n.\\a.jpg,dog;,,\n",
        "image,labels\nimages//a.jpg,dog;dog\n",
        "image,labels\na.jpg,\u00a0dog\u200b\n",
        "'image','labels'\na.jpg,dog\n",
    ],
)
def test_ordinary_variations_are_read(folder, text):
    assert found(folder, text)[0] == {"images/a.jpg": ["dog"]}


@pytest.mark.parametrize(
    ("text", "line", "cure"),
    [
        ("image,labels\na.jpg,dog\nb.jpg,nan\n", 3, "a missing value"),
        ("image,labels\na.jpg,1;0\nb.jpg,1;1\n", 2, "Write it in words"),
        ("image,labels\na.jpg,3\n", 2, "Write it in words"),
        ("image,labels\na.jpg,True\n", 2, "yes and no"),
        ("image,labels\na.jpg,background;dog\n", 2, "Remove it"),
        ("image,labels\na.jpg,_background_;dog\n", 2, "Remove it"),
        ('image,labels\na.jpg,"[cat, dog]"\n', 2, "brackets or quotation marks"),
        ('image,labels\na.jpg,"[\'cat]"\n', 2, "brackets or quotation marks"),
        ("image,labels\na.jpg,[]\n", 2, "has no label"),
        ("image,labels\na.jpg,dog\u2028cat\n", 2, r'"dog\u2028cat"'),
        ("image,labels\na.jpg,dog\x1b[31m\n", 2, r'"dog\x1b[31m"'),
        ("image,labels\na.jpg,do\x00g\n", 2, r'"do\x00g"'),
        ("image,labels\na.jpg,dog\tcat\n", 2, r'"dog\tcat"'),
        ("image,labels\na\x1b[31m.jpg,dog\n", 2, r"a\x1b[31m.jpg"),
        ("image,labels\na\x00.jpg,dog\n", 2, "control character"),
        ("image,labels\na\u2028.jpg,dog\n", 2, "control character"),
        ("image,labels\n,dog\n", 2, "is empty"),
        ("image,labels\n" + "a/" * 3000 + "b.jpg,dog\n", 2, "does not exist"),
        ("image,labels\n" + "a" * 200_000 + ",dog\n", 2, "field larger than"),
        ("image,labels\na.jpg," + "x" * 100_000 + "\n", 2, "has 100000 letters"),
        ("image,cat,dog\na.jpg,small,big\n", 1, 'labels ("cat", "dog" may be anything)'),
        ("image,cat,dog\na.jpg,1,2\nb.jpg,0,1\n", 2, 'the column "dog" has "2", but 0 or 1'),
        ("image,cat,dog\na.jpg,1,\nb.jpg,0,1\n", 2, 'the column "dog" has nothing, but 0 or 1'),
        ("image,tags,species\na.jpg,1,\nb.jpg,0,1\n", 2, "Write it in words"),
        ("image,tags,class\na.jpg,big,dog\n", 1, 'may be the labels: "tags" and "class"'),
        ("image,split\na.jpg,train\n", 1, "has no column of labels. Call"),
        ("image\tlabels\na.jpg\tdog\tcat\n", 2, 'Separate labels by ";"'),
        ("where,object\nx,dog\n", 1, "Replace it by the header"),
    ],
)
def test_what_is_no_class_is_refused_in_a_sentence_that_names_line_and_cure(
    folder, text, line, cure
):
    message = error_of(folder, text, None)
    assert f"line {line}" in message and cure in message
    assert all(part.isprintable() for part in message.split("\n"))
    assert len(message) < 1000


def test_twins_are_merged_with_a_notice_and_the_more_frequent_spelling(folder):
    shown, notices = found(folder, "image,labels\na.jpg,Dog\nb.jpg,dog\nc.jpg,dog\n")
    assert set(map(tuple, shown.values())) == {("dog",)}
    assert notices[0] == 'Labels in another spelling are read as one class: "Dog" as "dog".'
    shown, _ = found(folder, "image,labels\na.jpg,Dog\nb.jpg,dog\n")
    assert set(map(tuple, shown.values())) == {("Dog",)}  # of two equal ones the first
    shown, notices = found(folder, "image,labels\na.jpg,red car\nb.jpg,red  car\nc.jpg,red_car\n")
    assert shown == {
        "images/a.jpg": ["red car"], "images/b.jpg": ["red car"], "images/c.jpg": ["red_car"],
    }  # fmt: skip
    assert notices[0].endswith(' one class: "red  car" as "red car".')
    shown, notices = found(folder, "image,labels\na.jpg,DOG;cat\nb.jpg,do\u200bg\n", ("dog", "Cat"))
    assert shown == {"images/a.jpg": ["dog", "Cat"], "images/b.jpg": ["dog"]}
    assert notices == (
        'Labels in another spelling are read as one class: "DOG" as "dog", "cat" as "Cat",'
        ' "do\\u200bg" as "dog".',
    )


def test_accents_in_either_form(folder):
    shown, notices = found(folder, "image,labels\na.jpg,cafe\u0301\n", ("caf\u00e9",))
    assert shown == {"images/a.jpg": ["caf\u00e9"]}
    assert notices == (
        'Labels in another spelling are read as one class: "cafe\\u0301" as "caf\u00e9".',
    )


def test_the_order_of_ids_is_said_where_no_list_gives_it(folder):
    text = "image,labels\na.jpg,dog;cat\n"
    assert found(folder, text)[1] == (
        "Class ids follow the alphabet: cat = 1, dog = 2. A classes.txt beside labels.csv fixes"
        " another order, and keeps ids as they are when classes are added.",
    )
    assert found(folder, text, ("dog", "cat"))[1] == ()


def test_an_image_whose_suffix_is_spelled_otherwise(folder):
    (folder / "images" / "d.JPG").touch()
    assert found(folder, "image,labels\nd.jpg,dog\n")[0] == {"images/d.JPG": ["dog"]}
    message = error_of(folder, "image,labels\nd.jpg,dog\nd.JPG,cat\n")
    assert message.startswith('F line 3: image "d.JPG" is already on line 2. Keep one line')


def test_two_images_of_one_name_in_two_folders(folder):
    (folder / "a.jpg").touch()
    assert error_of(folder, "image,labels\na.jpg,cat\nimages/a.jpg,dog\n") == (
        'F line 3: image "images/a.jpg" and "a.jpg" (line 2) have the same name "a", without'
        " suffix, under which results are written. Rename or remove one."
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_name_with_a_backslash_on_disk(folder):
    (folder / "images" / "x\\y.jpg").touch()
    for image in ("images/x\\y.jpg", "x\\y.jpg"):
        assert error_of(folder, f"image,labels\n{image},dog\n") == (
            f'F line 2: image "{image}" has "\\" in its name on disk, which separates folders here.'
            " Rename the file."
        )
