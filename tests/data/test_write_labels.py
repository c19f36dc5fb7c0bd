from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ssrseg.data.classes import class_fault, class_key, read_classes_yaml, tidy
from ssrseg.data.write_labels import write_classes_yaml

TEXT = st.text(min_size=1, max_size=12).filter(lambda text: text == tidy(text) != "")
PLAIN = TEXT.filter(lambda text: text.isprintable())
NAMES = PLAIN.filter(lambda name: not class_fault(name))
PHRASES = PLAIN.filter(lambda text: "," not in text)


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
