from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssrseg.data.classes import (
    VOC_CLASSES,
    ClassList,
    check_class_names,
    class_fault,
    class_key,
    label_indices,
    read_classes,
    tidy,
)
from ssrseg.data.describe import describe_labels
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.errors import LabelsError


def error_of(root):
    with pytest.raises(LabelsError) as caught:
        read_classes(root)
    return str(caught.value)


def test_voc_order():
    assert len(VOC_CLASSES) == 20
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)
    assert VOC_CLASSES.index("person") == 14


def test_no_file(tmp_path):
    assert read_classes(tmp_path) is None


def test_classes_txt(tmp_path):
    text = "\ufeff# my classes\r\nzebra  # striped\r\n\r\n red car\r\n"
    (tmp_path / "classes.txt").write_bytes(text.encode())
    assert read_classes(tmp_path) == ClassList(("zebra", "red car"), source="classes.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 cat\n1 dog\n", 'line 1: "0 cat" and all lines below begin with a number. Write one'),
        ("1 person\n2 bicycle\n13 stop sign\n", "begin with a number"),
        ("1 cat", "begin with a number"),
        ("cat, dog, red car\n", 'line 1: "cat, dog, red car" is several names in one line.'),
        ("cat,dog", "is several names in one line"),
        ("0: cat\n1: dog\n", 'line 1: "0: cat" has a number or a sign beside the name. Write the'),
        ("bird\ncat,dog\n", 'line 2: "cat,dog" has "," in it. Write one name per line'),
        ("- cat\n- dog\n", 'line 2: "- dog" has a number or a sign beside the name'),
    ],
)
def test_tables_instead_of_names(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    assert message in error_of(tmp_path)
    (tmp_path / "classes.txt").write_text("747 jet\nlight, red\n")
    assert read_classes(tmp_path).names == ("747 jet", "light, red")


def test_classes_yaml(tmp_path):
    (tmp_path / "classes.yaml").write_text(
        "zebra: [zebra, striped horse]\non/off: a switch\ncar:\ncow: ''\nC#: sharp\n"
        "dog:\n  - puppy\n  - hound\n"
    )
    assert read_classes(tmp_path) == ClassList(
        ("zebra", "on/off", "car", "cow", "C#", "dog"),
        {
            "zebra": "zebra, striped horse",
            "on/off": "a switch",
            "C#": "sharp",
            "dog": "puppy, hound",
        },
        source="classes.yaml",
    )


def test_both_files(tmp_path):
    (tmp_path / "classes.txt").touch()
    (tmp_path / "classes.yaml").touch()
    assert error_of(tmp_path) == (
        f"{tmp_path} holds both classes.txt and classes.yaml, and they may disagree. Keep one."
    )


def test_all_faults_of_a_list_at_once(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\nbackground\ncat\nCat\ndog;cow\nnone\n")
    assert error_of(tmp_path).splitlines() == [
        f"{tmp_path}/classes.txt has 5 faults:",
        '  line 2: "background" is no class; it is always there, with id 0. Remove it.',
        '  line 3: class "cat" is already there, as "cat" (line 1). Name each class in one'
        " spelling, and once in a list.",
        '  line 4: class "Cat" is already there, as "cat" (line 1). Name each class in one'
        " spelling, and once in a list.",
        '  line 5: "dog;cow" cannot be a class name; ";" stands between labels. Rename it.',
        '  line 6: "none" cannot be a class; in labels.csv, "none" marks an image that shows no'
        " class. Rename or respell it.",
    ]


@pytest.mark.parametrize("text", ["", "# nothing\n\n"])
def test_an_empty_list(tmp_path, text):
    (tmp_path / "classes.txt").write_text(text)
    assert error_of(tmp_path) == (
        f"{tmp_path}/classes.txt names no class. Write one name per line."
    )


def test_more_classes_than_8_bits_hold(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("\n".join(f"class {n}" for n in range(254)))
    assert len(read_classes(tmp_path).names) == 254
    path.write_text("\n".join(f"class {n}" for n in range(255)))
    assert (
        "line 255: there are 255 classes; maps of class ids have 8 bits and hold 254, which end"
        " before this one"
    ) in error_of(tmp_path)


@pytest.mark.parametrize("text", ["", "- cat\n- dog\n", "cat, dog\n"])
def test_yaml_that_is_no_mapping(tmp_path, text):
    (tmp_path / "classes.yaml").write_text(text)
    assert error_of(tmp_path) == (
        f"{tmp_path}/classes.yaml is no list of classes and prompts. Write one line per class, as"
        ' "dog: puppy, hound" or "dog: [puppy, hound]".'
    )


def test_faults_in_yaml_name_their_line(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text("cat: kitten\ndog:\n  young: puppy\n")
    assert error_of(tmp_path).startswith(f"{path} line 2: no class with its prompt. Write one")
    path.write_text("cat: kitten\ndog: puppy\ncat: tiger\n")
    assert error_of(tmp_path) == (
        f'{path} line 3: class "cat" is already there, as "cat" (line 1). Name each class in one'
        " spelling, and once in a list."
    )
    path.write_text("cat: [kitten\n")
    assert error_of(tmp_path).startswith(f"{path} is not valid YAML: line 2: while parsing")
    assert "\n" not in error_of(tmp_path)


def labelled(*rows: tuple[str, ...]) -> LabelledImages:
    classes = tuple(sorted({name for row in rows for name in row}))
    samples = tuple(
        Sample(f"{k}", Path(f"{k}.png"), tuple(sorted(map(classes.index, row))), None)
        for k, row in enumerate(rows)
    )
    return LabelledImages(Path(), classes, samples)


def test_labels_are_counted_and_slips_are_asked_about() -> None:
    data = labelled(("horse",), ("horse", "cow"), ("cow",), ("cow",))
    assert describe_labels(data) == ["4 images, 2 classes: cow 3, horse 2"]
    slips = labelled(("horse", "person"), ("horse",), ("hose",), ("horse|person",), ())
    assert describe_labels(slips) == [
        "5 images, 4 classes: horse 2, horse|person 1, hose 1, person 1",
        'Is "horse|person" one class? Labels are separated by ";", as in "horse;person".',
        'Is "hose" (1 image) another class than "horse"?',
    ]
    turned = describe_labels(labelled(("dog",), ("dog",), ("dgo",)))
    assert turned[1:] == ['Is "dgo" (1 image) another class than "dog"?']
    listed = replace(
        data, classes=(*data.classes, "owl", "pig", "rat", "sow", "tit", "yak", "zebra")
    )
    assert describe_labels(listed)[1] == "No image shows owl, pig, rat, sow, tit and 2 more."
    assert describe_labels(labelled(("dog",)))[0] == "1 image, 1 class: dog 1"


LIST = 'Give a list of names, such as ["dog", "cat"].'


def test_class_names_become_plain_text() -> None:
    names = check_class_names(np.array([" dog ", "red car"]))
    assert names == ("dog", "red car")
    assert {type(name) for name in names} == {str}
    assert check_class_names(name for name in ("b", "a")) == ("b", "a")
    assert check_class_names({"b": 1, "a": 2}.keys()) == ("b", "a")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (None, f"classes = None is no list. {LIST}"),
        (3, f"classes = 3 is no list. {LIST}"),
        (np.array("dog"), f"classes = array('dog', dtype='<U3') is no list. {LIST}"),
        ([1, 2], f"classes item 1 is 1, which is no text. {LIST}"),
        (["dog", None], f"classes item 2 is None, which is no text. {LIST}"),
        ([], f"classes names no class. {LIST}"),
        ("dog", 'classes = "dog" is one text; give a list: ["dog"].'),
        ({"dog"}, f"classes = {{'dog'}} has no order, which the ids in masks need. {LIST}"),
        (
            {"dog": "puppy"},
            f"classes = {{'dog': 'puppy'}} is no list; what CLIP is asked is prompts. {LIST}",
        ),
        (
            ["dog", " "],
            "classes item 2: a class name is empty. Write the name, or remove its place.",
        ),
        (
            ["dog", "dog "],
            'classes item 2: class "dog" is already there, as "dog" (item 1). Name each class in'
            " one spelling, and once in a list.",
        ),
        (
            ["dog;cat"],
            'classes item 1: "dog;cat" cannot be a class name; ";" stands between labels. Rename'
            " it.",
        ),
        (
            ["dog\ncat"],
            'classes item 1: "dog\\ncat" cannot be a class name; it holds a line break, a control'
            " character or a damaged letter. Write it anew.",
        ),
    ],
)
def test_class_names_that_cannot_be(classes: object, message: str) -> None:
    with pytest.raises(LabelsError) as caught:
        check_class_names(classes)
    assert str(caught.value) == message


def test_labels_become_indices() -> None:
    classes = ("cat", "dog", "red car")
    assert label_indices("dog", classes) == (1,)
    assert label_indices(["dog", " cat", "dog"], classes) == (1, 0)
    assert label_indices(np.array(["red car", "cat"]), classes) == (2, 0)
    assert label_indices((name for name in ["red car"]), classes) == (2,)
    assert label_indices({"red car", "dog", "cat"}, classes) == (0, 1, 2)  # not in order of hashes


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, 'labels = None: labels must be names of classes .* such as \\["cat"\\]; segment'),
        (0, "labels = 0: labels must be names"),
        ([None], "None is no class of this model. It has 2: cat, dog"),
        ([np.array(["cat", "dog"])], "is no class of this model"),
        ([["dog"]], r"\['dog'\] is no class of this model"),
        ("", "'' is no class of this model"),
    ],
)
def test_labels_that_cannot_be(labels: object, message: str) -> None:
    with pytest.raises(LabelsError, match=f"^.*{message}"):
        label_indices(labels, ("cat", "dog"))


# ---------------------------------------------------------------- names that are no classes


@pytest.mark.parametrize(
    "name",
    [
        "nan", "NaN", "null", "NULL", "N/A", "NA", "<NA>", "True", "false",
        "0", "1", "1.0", "-3", "1e5", "1,5", "007", "½", "Ⅷ", "2024-05-01", "-", "?", "...", "_",
        "background", "Background", "_background_", "__background__", "__ignore__", "_ignore_",
        "none", "None", "", "  ", "\u200b", "\u3164", "\ufeff",
        "['dog']", "[dog]", '"dog"', "'dog'", "{dog}",
        "dog\x1b[31m", "dog\ncat", "dog\tcat", "dog\u2028cat", "do\x00g", "dog\x07", "\udcffdog",
        "caf\ufffd", "dog;cat", "x" * 201,
        "yes", "No", "y", "N", "on", "OFF", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#N/A",
        "Back ground", "back-ground", "[Background]", "(none)", "-none-",
        "void", "Void", "unlabeled", "Unlabelled", "un-labeled", "unknown", "ignore", "don't care",
        "1: dog", "1. dog", "1) dog", "0,dog", "1=dog", "- dog", "* dog", "dog: 1", "dog,1",
        "dog=1", "cat,dog",
    ],
)  # fmt: skip
def test_what_is_no_class_wherever_it_comes_from(name: str) -> None:
    assert class_fault(name)
    assert class_fault(name).isprintable()
    with pytest.raises(LabelsError):
        check_class_names(["cat", name])


@pytest.mark.parametrize(
    "name",
    [
        "dog", "C#", "747 jet", "traffic light", "猫", "кошка", "🐶", "café", "dog's",
        "2.5 ton truck", "(other)", "=cmd()", "dog[/b]", "<b>", "no entry", "north", "-dog",
        "light, red", "unknowns", "2-door car", "off-roader", "dog: small",
    ],
)  # fmt: skip
def test_what_is_a_class(name: str) -> None:
    assert class_fault(name) == ""
    assert check_class_names([name]) == (name,)


def test_names_are_tidied_and_twins_have_one_key() -> None:
    assert tidy(" red \u00a0  car\u200b ") == "red car"
    assert tidy("cafe\u0301") == "caf\u00e9"
    for twin in ("Red Car", "red\u3000car", "re\u200bd car", "\u202ered car", "red  car\ufe0f"):
        assert class_key(twin) == class_key("red car")
    for other in ("red_car", "red-car", "redcar", "red cars"):
        assert class_key(other) != class_key("red car")
    for twins in (
        ("Straße", "STRASSE"),
        ("İstanbul", "istanbul"),
        ("KAPI", "kapı"),
        ("ΟΔΟΣ", "οδος"),
    ):
        assert class_key(twins[0]) == class_key(twins[1])


@pytest.mark.parametrize("twin", ["DOG", "dog\u200b", "d\u00adog", "\u2066dog"])
def test_twins_in_a_list_are_refused_and_told_apart(tmp_path: Path, twin: str) -> None:
    (tmp_path / "classes.txt").write_text(f"cat\ndog\n{twin}\n", encoding="utf-8")
    message = error_of(tmp_path)
    assert (
        "classes.txt line 3: class" in message and 'is already there, as "dog" (line 2)' in message
    )
    assert message.isprintable() and '"dog" is already' not in message


def test_labelmes_list_keeps_its_ids(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    for head in ("__ignore__\n_background_\n", "_background_\n", "background\n", "Background\n"):
        path.write_text(f"{head}dog\ncat\n")
        found = read_classes(tmp_path)
        assert found.names == ("dog", "cat")
        (notice,) = found.notices
        assert notice.endswith(
            f'the ids begin behind: "dog" (line {1 + head.count(chr(10))}) is 1.'
        )
    path.write_text("__ignore__\ndog\n")  # ids would begin with 0
    assert '"__ignore__" is no class, but a word for undecided' in error_of(tmp_path)
    path.write_text("dog\n_background_\n")
    assert 'line 2: "_background_" is no class; it is always there, with id 0' in error_of(tmp_path)
    path.write_text("__ignore__\n_background_\n")
    assert "has 2 faults" in error_of(tmp_path)
    path.unlink()
    (tmp_path / "classes.yaml").write_text("_background_:\ndog: puppy\n")
    assert read_classes(tmp_path).names == ("dog",)
    with pytest.raises(LabelsError, match="is no class"):
        check_class_names(["background", "dog"])  # of a model; ids would not be what was meant


def test_only_ends_of_lines_end_lines(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("dog\u2028cat\nhorse\n", encoding="utf-8")
    assert 'line 1: "dog\\u2028cat" cannot be a class name' in error_of(tmp_path)
    path.write_bytes(b"dog\rcat\r\nC#\n#x\nhorse # big\n")
    assert read_classes(tmp_path).names == ("dog", "cat", "C#", "horse")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 3000, "a: &a [x]\nb: *a\n", "dog: !!python/name:os.system\n", "? [a]\n: b\n", "\t",
        'dog: "\\UFFFFFFFF"\n', 'dog: "\\e[31m"\n', "1: one\n", "~: x\n", "2024-05-01: day\n",
        "%YAML " + "9" * 5000,
    ],
)  # fmt: skip
def test_yaml_that_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.yaml").write_text(text)
    assert error_of(tmp_path).startswith(f"{tmp_path}/classes.yaml")
    assert error_of(tmp_path).isprintable()


def test_labels_may_be_spelled_otherwise() -> None:
    assert label_indices(["Dog", "RED\u00a0CAR"], ("cat", "dog", "red car")) == (1, 2)


def test_names_that_differ_by_their_separators_are_asked_about() -> None:
    lines = describe_labels(labelled(("traffic light",), ("traffic_light",)))
    assert lines[1:] == [
        'Are "traffic light" and "traffic_light" one class? Then spell them alike.'
    ]


# ---------------------------------------------------------------- background words


@pytest.mark.parametrize(
    "text",
    [
        "dog: puppy\nbackground: [grass, sky]\ncat:\n",
        "background: grass, sky\ndog: puppy\ncat:\n",
        "dog: puppy\ncat:\nBackground:\n  - grass\n  -  sky \n  - grass\n",
    ],
)
def test_background_words_are_no_class(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.yaml").write_text(text)
    assert read_classes(tmp_path) == ClassList(
        ("dog", "cat"), {"dog": "puppy"}, (), "classes.yaml", ("grass", "sky")
    )


def test_background_without_words_keeps_its_meaning(tmp_path: Path) -> None:
    (tmp_path / "classes.yaml").write_text("background:\ndog: puppy\n")
    found = read_classes(tmp_path)
    assert (found.names, found.background) == (("dog",), ())
    assert '"background" at the head of the class list is no class' in found.notices[0]
    (tmp_path / "classes.yaml").write_text("dog: puppy\nbackground:\n")
    assert 'line 2: "background" is no class' in error_of(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dog:\nbackground: []\n", "line 2: background, but there is no word behind it. Write"),
        ("dog:\nbackground: ['', ' ,']\n", "line 2: background, but there is no word behind it."),
        ('dog:\nbackground: ["a\\x07"]\n', "line 2: background, but a word holds a control"),
        ("dog:\nbackground: [sky]\nbackground: [sea]\n", 'line 3: "background" is already there.'),
        ("dog:\nbackground: {sky: sea}\n", "line 2: no class with its prompt."),
    ],
)
def test_background_words_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "classes.yaml").write_text(text)
    assert message in error_of(tmp_path)
