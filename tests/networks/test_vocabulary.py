from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssrseg.data.classes import COCO_CLASSES, VOC_CLASSES
from ssrseg.errors import ConfigError
from ssrseg.networks.vocabulary import (
    available,
    build_vocabulary,
    changed_background,
    changed_prompts,
    check_prompts,
    describe_unlearnt,
)

VOC_PROMPTS = [
    "aeroplane", "bicycle", "bird avian", "boat", "bottle", "bus", "car", "cat", "chair seat",
    "cow", "diningtable", "dog", "horse", "motorbike", "person with clothes,people,human",
    "pottedplant", "sheep", "sofa", "train", "tvmonitor screen",
]  # fmt: skip
VOC_BACKGROUNDS = [
    "ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river", "sea",
    "railway", "railroad", "keyboard", "helmet", "cloud", "house", "mountain", "ocean", "road",
    "rock", "street", "valley", "bridge", "sign",
]  # fmt: skip
COCO_PROMPTS = [  # CLIP-ES's, its typo corrected
    "person with clothes,people,human", "bicycle", "car", "motorbike", "aeroplane", "bus", "train",
    "truck", "boat", "traffic light", "fire hydrant", "stop sign", "parking meter", "bench",
    "bird avian", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe",
    "backpack,bag", "umbrella,parasol", "handbag,purse", "necktie", "suitcase", "frisbee", "skis",
    "snowboard", "sports ball", "kite", "baseball bat", "glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "dessertspoon", "bowl",
    "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut",
    "cake", "chair seat", "sofa", "pottedplant", "bed", "diningtable", "toilet",
    "tvmonitor screen", "laptop", "mouse", "remote control", "keyboard", "cell phone", "microwave",
    "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hairdrier,blowdrier", "toothbrush",
]  # fmt: skip
COCO_BACKGROUNDS = [
    "ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river", "sea",
    "railway", "railroad", "helmet", "cloud", "house", "mountain", "ocean", "road", "rock",
    "street", "valley", "bridge",
]  # fmt: skip


def test_voc_word_for_word() -> None:
    vocabulary = build_vocabulary(VOC_CLASSES, "voc")
    assert vocabulary.classes == VOC_CLASSES
    assert vocabulary.texts == tuple(
        f"a clean origami {words}." for words in [*VOC_PROMPTS, *VOC_BACKGROUNDS]
    )
    assert vocabulary.dropped == ()


def test_a_name_in_capitals_is_asked_for_as_the_set_does() -> None:
    texts = build_vocabulary(("PERSON", "Bird", "dog"), "voc").texts
    assert texts[:3] == (
        "a clean origami person with clothes,people,human.",
        "a clean origami bird avian.",
        "a clean origami dog.",
    )
    assert build_vocabulary(("PERSON",), "voc", {"PERSON": "man"}).phrases[0] == "man"


def test_coco_word_for_word() -> None:
    vocabulary = build_vocabulary(COCO_CLASSES, "coco")
    assert (len(COCO_PROMPTS), len(COCO_BACKGROUNDS)) == (80, 23)
    assert vocabulary.classes == COCO_CLASSES
    assert vocabulary.texts == tuple(
        f"a clean origami {words}." for words in [*COCO_PROMPTS, *COCO_BACKGROUNDS]
    )
    assert vocabulary.dropped == ()


def test_coco_as_published_differs_in_one_text() -> None:
    ours = build_vocabulary(COCO_CLASSES, "coco").texts
    published = build_vocabulary(COCO_CLASSES, "coco-clip-es").texts
    assert len(published) == 103
    assert [pair for pair in zip(ours, published, strict=True) if pair[0] != pair[1]] == [
        ("a clean origami snowboard.", "a clean origami sknowboard.")
    ]


def test_a_background_that_names_a_class_is_left_out() -> None:
    vocabulary = build_vocabulary(("Tree", "street light", "dog"), "voc")
    assert vocabulary.dropped == ("tree", "street")
    assert vocabulary.dropped_for == ("Tree", "street light")
    assert len(vocabulary.texts) == 3 + 23
    assert not any(text == "a clean origami tree." for text in vocabulary.texts[3:])
    assert vocabulary.texts[0] == "a clean origami Tree."


def test_a_background_that_a_synonym_names_is_left_out() -> None:
    vocabulary = build_vocabulary(("lawn",), "voc", {"lawn": "lawn, grass"})
    assert vocabulary.dropped == ("grass",)
    assert vocabulary.dropped_for == ("lawn",)
    assert vocabulary.texts[0] == "a clean origami lawn, grass."


def test_a_background_that_means_a_class_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "prompts.yaml"
    left_out = {
        "palm-tree": "tree",
        "trees": "tree",
        "sign": "stop sign",  # a word of its prompt
        "red stop signs": "stop sign",
        "glasses": "glass",
        "a Car": "car",
    }
    kept = ["treeline", "tree house", "carpet", "train track", "care", "window pane", "pine"]
    words = json.dumps([*left_out, *kept])
    file.write_text(f"template: '{{}}'\nclasses: {{}}\nbackground: {words}\n")
    classes = ("tree", "stop sign", "car", "glass", "train", "pan", "pin")
    vocabulary = build_vocabulary(classes, file)
    assert dict(zip(vocabulary.dropped, vocabulary.dropped_for, strict=True)) == left_out
    assert vocabulary.texts[len(classes) :] == tuple(kept)


def test_own_prompts_win_over_the_sets() -> None:
    vocabulary = build_vocabulary(("bird", "chair"), "voc", {"bird": "parrot"})
    assert vocabulary.texts[:2] == ("a clean origami parrot.", "a clean origami chair seat.")


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"dgo": "x"}, r"""'dgo', which is no class\. Did you mean "dog"\?"""),
        ({3: "x"}, "a text for 3, which is no class"),
        ({"dog": None}, r'prompts\["dog"\] = None is no text'),
        ({"dog": 3}, r'prompts\["dog"\] = 3 is no text'),
        ({"dog": ""}, r"""prompts\["dog"\] = '' is no text"""),
        ({"dog": " "}, r"""prompts\["dog"\] = ' ' is no text"""),
        ({"dog": ["puppy"]}, r"""\["dog"\] = \['puppy'\] is no text"""),
        (
            "voc",
            r"prompts = 'voc' is no mapping .*\{\"dog\": .* settings=\[\"prompts\.set=NAME\"\]",
        ),
        (["puppy"], r"prompts = \['puppy'\] is no mapping"),
    ],
)
def test_own_prompts_that_cannot_be(own: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_prompts(own, ("dog", "cat"))


def test_blanks_around_own_prompts() -> None:
    assert check_prompts(None, ("dog",)) == {}
    vocabulary = build_vocabulary(("dog",), "voc", {" dog": " puppy dog\n"})
    assert vocabulary.texts[0] == "a clean origami puppy dog."


def test_a_file_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.yaml").write_text("template: a {}\nclasses:\nbackground: []\n")
    assert build_vocabulary(("dog",), "~/own.yaml").texts == ("a dog",)


def test_an_own_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text("template: a photo of {}\nclasses: {crack: a crack}\nbackground: [asphalt]\n")
    vocabulary = build_vocabulary(("crack", "hole"), file)
    assert vocabulary.texts == ("a photo of a crack", "a photo of hole", "a photo of asphalt")
    file.write_text("template: '{}'\nclasses:\nbackground: []\n")
    assert build_vocabulary(("crack",), str(file)).texts == ("crack",)


@pytest.mark.parametrize(
    "content",
    [
        "template: '{}'\nclasses: {}\n",
        "classes: {}\nbackground: []\n",
        "template: '{} {}'\nclasses: {}\nbackground: []\n",
        "template: '{}'\nclasses: [a]\nbackground: []\n",
        "template: '{}'\nclasses: {}\nbackground: sky\n",
        "template: '{}'\nclasses: {}\nbackground:\n",
        "template: '{}'\nclasses: {a: [b]}\nbackground: [1]\n",
        "template: 'a photo'\nclasses: {}\nbackground: []\n",
        "template: '{}'\nclasses: {a: ''}\nbackground: []\n",
        "template: '{}'\nclasses: {}\nbackground: [sky, ' ']\n",
        "template: '{x}'\nclasses: {}\nbackground: []\n",
        "template: '{'\nclasses: {}\nbackground: []\n",
        "template: 3\nclasses: {}\nbackground: []\n",
        "[broken",
        "",
    ],
)
def test_a_file_that_is_none(tmp_path: Path, content: str) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text(content)
    with pytest.raises(
        ConfigError, match=r"prompts\.yaml is no prompt file .*three keys.*template"
    ):
        build_vocabulary(("a",), file)


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_bytes("template: '{}'\nclasses: {a: Ähre}\nbackground: []\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"prompts\.yaml is no prompt file .byte 28 is not UTF-8"):
        build_vocabulary(("a",), file)


def test_an_unknown_set_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r'"vocc" is neither .*es, demo, voc.*mean "voc"'):
        build_vocabulary(("dog",), "vocc")


def test_shipped_sets() -> None:
    assert available() == ["coco", "coco-clip-es", "demo", "voc"]


def test_words_that_yaml_1_1_takes_for_something_else(tmp_path: Path) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text(
        "template: '{} in {0}'\nclasses: {no: a no sign}\nbackground: [2024-01-01, on]\n"
    )
    found = build_vocabulary(("no",), file)
    assert found.texts == ("a no sign in {0}", "2024-01-01 in {0}", "on in {0}")


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b"])
def test_a_name_that_no_file_can_have(name: str) -> None:
    with pytest.raises(ConfigError, match="neither a shipped set"):
        build_vocabulary(("dog",), name)


def test_background_words_of_the_data_replace_the_sets() -> None:
    found = build_vocabulary(("dog", "tree"), "voc", {"dog": "puppy"}, ("moor", "palm tree", "bog"))
    assert found.phrases == ("puppy", "tree", "moor", "bog")
    assert found.texts == tuple(f"a clean origami {phrase}." for phrase in found.phrases)
    assert (found.dropped, found.dropped_for) == (("palm tree",), ("tree",))
    assert build_vocabulary(("dog",), "voc", None, ()).phrases[1:] == tuple(VOC_BACKGROUNDS)


def test_what_has_changed_between_two_vocabularies() -> None:
    classes = ("cat", "dog")
    assert changed_prompts(classes, ("a cat.", "a dog."), ("a cat.", "a hound.")) == [
        'prompt of "dog" = "a dog." there, "a hound." now'
    ]
    assert changed_background(("a", "b"), ("a", "b")) == []
    assert changed_background(("a", "b"), ("b", "c")) == ['background texts: "a" left out, "c" new']
    assert changed_background(("a", "b"), ("b", "a")) == ["background texts: in another order"]
    many = tuple("abcdefg")
    assert changed_background(many, ()) == [
        'background texts: "a", "b", "c", "d", "e", 2 more left out'
    ]


NAMES = {"dog", "koala", "red panda", "panda", "person with clothes,people,human", "people", "sky"}


@pytest.mark.parametrize(
    ("name", "prompts", "asked", "cure"),
    [
        ("quokka", {}, "quokka", "(or --prompts); it lists"),
        ("my dog", {}, "my dog", ", such as my dog: dog; it lists"),
        ("old red panda", {}, "old red panda", ", such as old red panda: red panda; it lists"),
        ("koalas", {}, "koalas", ", such as koalas: koala; it lists"),
        (
            "red dog",
            {},
            "red dog",
            ", such as red dog: dog; it lists",
        ),  # both words are known, it is not
        ("dog", {"dog": "hound of mine"}, "hound of mine", "(or --prompts); it lists"),
        ("dog", {"dog": "dog, hound"}, "dog, hound", "(or --prompts); it lists"),
    ],
)
def test_a_name_that_a_small_clip_has_not_learnt(
    name: str, prompts: dict[str, str], asked: str, cure: str
) -> None:
    vocabulary = build_vocabulary((name, "panda"), "voc", prompts, ("sky",))
    said = describe_unlearnt(vocabulary, NAMES)
    assert said.startswith(f'CLIP has not learnt "{asked}": what it finds')
    assert "knows the 7 names in names.txt" in said
    assert cure in said
    assert said.endswith("every class, those that need no prompt with nothing behind the colon.")


@pytest.mark.parametrize("name", ["dog", "Red  Panda", "person"])
def test_a_name_that_it_has_learnt(name: str) -> None:
    asked = {"dog": "koala, dog"} if name == "dog" else {}
    vocabulary = build_vocabulary((name,), "voc", asked, ("Sky",))
    assert describe_unlearnt(vocabulary, NAMES) == ""


def test_background_words_that_it_has_not_learnt_are_said_too() -> None:
    said = describe_unlearnt(build_vocabulary(("dog",), "voc", {}, ("sky", *"abcdefghi")), NAMES)
    assert 'learnt "a", "b", "c", "d", "e", "f", "g", "h", ...:' in said
