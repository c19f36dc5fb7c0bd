from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.errors import DataError, LabelsError


def test_labels_as_a_table():
    samples = tuple(
        Sample(name, Path(f"{name}.jpg"), labels, None)
        for name, labels in (("a", (0, 2)), ("b", ()), ("c", (1,)))
    )
    data = LabelledImages(Path(), ("cat", "dog", "cow"), samples)
    assert len(data) == 3
    assert data.labels.dtype == bool
    assert data.labels.astype(int).tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert LabelledImages(Path(), ("cat",), ()).labels.shape == (0, 1)


def made(kind, **values):
    """As Python without the suite's type checks makes it."""
    found = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(found, name, value)
    found.__post_init__()
    return found


def sample(**changed):
    values = {"name": "a", "image": Path("a.jpg"), "labels": (0,), "truth": None}
    return made(Sample, **(values | changed))


def test_what_can_be_read_as_a_sample_is():
    made = sample(image="a.jpg", labels=[np.int64(0), 2], truth="a.png")
    assert made == Sample("a", Path("a.jpg"), (0, 2), Path("a.png"))
    assert {type(label) for label in made.labels} == {int}
    for name in (
        "k\udcfche/b.v2",
        "line\nbreak",
    ):  # file names that are not UTF-8, or not in a line
        assert sample(name=name).name == name


@pytest.mark.parametrize(
    "labels",
    [
        (-1,),
        (1, 0),
        (0, 0),
        (True,),
        (0.0,),
        ("dog",),
        "01",
        0,
        None,
        (None,),
        ((0,),),
        {1: 2, 0: 3},
    ],
)
def test_labels_that_are_no_ascending_indices_are_refused(labels):
    with pytest.raises(LabelsError, match=r'labels of sample "a" are .* ascending, each once'):
        sample(labels=labels)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "is empty"),
        (" ", "is empty"),
        ("/a", "is an absolute path"),
        ("C:\\a", "is an absolute path"),
        ("../a", '".." in it'),
        ("a/../../b", '".." in it'),
        ("a//b", "empty part"),
        ("a/", "empty part"),
        (".", '"."'),
        ("a\0\x1b[31m", r'"a\x00\x1b[31m", holds a line break or another control character'),
        ("a\ud800", r'"a\ud800", holds'),
    ],
)
def test_names_that_are_no_place_for_results_are_refused(name, fault):
    with pytest.raises(DataError) as caught:
        sample(name=name)
    assert fault in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "changed", [{"name": 3}, {"name": None}, {"image": 3}, {"image": ""}, {"truth": 3}]
)
def test_values_of_other_types_are_refused(changed):
    with pytest.raises(DataError):
        sample(**changed)


def test_a_data_set_is_checked_when_it_is_made():
    def data(*samples, classes=("cat", "dog"), **more):
        given = {"root": Path(), "classes": classes, "samples": samples, "prompts": {}}
        return made(LabelledImages, **(given | more))

    assert data(sample(), classes=[" cat", "red\u00a0car"]).classes == ("cat", "red car")
    with pytest.raises(LabelsError, match=r'sample "a" has the label 2, .* indices 0 .. 1'):
        data(sample(labels=(2,)))
    with pytest.raises(DataError, match='two samples are called "a"'):
        data(sample(), sample(image="b.jpg"))
    with pytest.raises(DataError, match="which is no Sample"):
        data("a.jpg")
    with pytest.raises(DataError, match="a list of Sample is expected"):
        data(samples=None)
    with pytest.raises(LabelsError, match=r"prompts = .* by the name of a class"):
        data(prompts={"cow": "a cow"})
    with pytest.raises(LabelsError, match="there are 300 classes"):
        data(classes=[f"class {n}" for n in range(300)])
    for classes in (("cat", "Cat"), ("background",), ("1",), ("nan",), (), None, ("dog\x1b[0m",)):
        with pytest.raises(LabelsError):
            data(classes=classes)
