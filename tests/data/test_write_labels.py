from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssrseg.data.classes import class_fault, class_key, read_classes_yaml, tidy
from ssrseg.data.naming import name_fault, sample_name
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.write_labels import write_classes_yaml, write_labels_csv
from ssrseg.errors import DataError

# made tidy and printable where most would have to be thrown away
TEXT = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=12)
PLAIN = TEXT.map(tidy).filter(lambda text: text == tidy(text) != "" and text.isprintable())
NAMES = PLAIN.filter(lambda name: not class_fault(name))
PHRASES = PLAIN.filter(lambda text: "," not in text)


STEMS = st.text("abc =+-@,;'\"\u00e4\u20ac#%.\ud83d\ude00", min_size=1, max_size=8).filter(
    lambda stem: not name_fault(stem, in_text=True)
)


@settings(deadline=None)
@given(
    paths=st.lists(
        st.tuples(st.sampled_from(["", "images/", "day 1/"]), STEMS),
        min_size=1,
        max_size=5,
        unique_by=lambda path: path[1].casefold(),
    ),
    classes=st.lists(NAMES, min_size=1, max_size=5, unique_by=class_key),
    data=st.data(),
)
def test_labels_csv_is_read_as_it_was_written(tmp_path_factory, paths, classes, data):
    root = tmp_path_factory.mktemp("data")
    samples = []
    for folder, stem in paths:
        path = f"{folder}{stem}.jpg"
        (root / folder).mkdir(exist_ok=True)
        (root / path).touch()
        labels = tuple(sorted(data.draw(st.sets(st.integers(0, len(classes) - 1)))))
        samples.append(Sample(sample_name(path), root / path, labels, None))
    written = LabelledImages(
        root,
        tuple(classes),
        tuple(samples),
        {classes[0]: "puppy"},
        background=("sky",),
        source="labels.csv",
    )
    write_labels_csv(written, root / "labels.csv")
    write_classes_yaml(
        root / "classes.yaml", classes, prompts=written.prompts, background=written.background
    )
    assert open_labelled(root) == written


def test_an_image_that_no_label_file_could_name(tmp_path):
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)

    def write(image, name, file=root / "labels.csv"):
        write_labels_csv(LabelledImages(root, ("dog",), (Sample(name, image, (0,), None),)), file)

    for image, name, message in (
        (tmp_path / "a.jpg", "a", "has an empty part"),
        (root / "x\\y.jpg", "x\\y", "a character that is no part of a path"),
        (root / "x\n.jpg", "x\n", "holds a line break"),
        (root / "images/a.jpg", "b", 'under its name ("b" below'),
    ):
        with pytest.raises(DataError, match="rename the image") as caught:
            write(image, name)
        assert message in str(caught.value)
    assert not (root / "labels.csv").exists()
    with pytest.raises(DataError, match="Write the file into the folder of the data set"):
        write(root / "images/a.jpg", "a", tmp_path / "labels.csv")


@settings(deadline=None)
@given(
    classes=st.lists(NAMES, min_size=1, max_size=6, unique_by=class_key),
    synonyms=st.lists(st.lists(PHRASES, min_size=1, max_size=3), max_size=6),
    background=st.lists(PHRASES, max_size=4, unique=True),
)
def test_classes_yaml_is_read_as_it_was_written(tmp_path_factory, classes, synonyms, background):
    path = tmp_path_factory.mktemp("data") / "classes.yaml"
    asked = zip(classes, synonyms, strict=False)
    prompts = {name: ", ".join(words) for name, words in asked}
    write_classes_yaml(path, classes, prompts=prompts, background=background)
    found = read_classes_yaml(path)
    assert found.names == tuple(classes)
    assert found.prompts == prompts
    assert found.background == tuple(background)
    assert found.notices == ()


def test_classes_yaml_says_how_to_edit_it(tmp_path):
    path = tmp_path / "classes.yaml"
    prompts = {"person": "person with clothes,people,human", "dog": "dog, puppy", "no": "no"}
    write_classes_yaml(path, ("person", "dog", "red car"), prompts=prompts, background=["sky"])
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    assert lines == [
        'person: ["person with clothes,people,human"]',
        "dog: [dog, puppy]",
        "red car:",
        "background: [sky]",
    ]
    assert "[person] and nothing both ask for the name itself" in path.read_text()
