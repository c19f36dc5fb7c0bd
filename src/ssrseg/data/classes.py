"""Which classes a data set has, and in which order."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from reprlib import repr as brief
from typing import Any

import yaml

from ssrseg.console import printable
from ssrseg.data.text import fault_report, is_unprintable, quoted, read_lines
from ssrseg.errors import LabelsError, did_you_mean
from ssrseg.safe_yaml import YamlError, compose_yaml, read_yaml_text

NO_CLASS = "none"
"""Label of an image that shows none of the classes; an empty label is taken for a slip."""

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip

COCO_CLASSES = (
    "person", "bicycle", "car", "motorbike", "aeroplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "sofa", "pottedplant",
    "bed", "diningtable", "toilet", "tvmonitor", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase",
    "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""COCO's 80 categories by ascending id, six of them spelled as VOC spells them [CLIP-ES]."""

_MOST = 254  # ids 1 .. 254 of an 8-bit map; 0 is background and 255 is ignore
_LONGEST = 200  # letters of a name; CLIP's text tower ends after about 300

_NO_NAMES = frozenset({
    "nan", "null", "na", "n/a", "<na>", "nil", "nat", "inf", "true", "false", "yes", "no", "y", "n",
    "on", "off", "#n/a", "#ref!", "#value!", "#name?", "#num!", "#null!", "#div/0!", "#spill!",
    "#calc!",
})  # fmt: skip
"""What programs write for a value that is missing or faulty, or for a column of yes and no."""

_UNDECIDED = frozenset({
    "ignore", "ignored", "void", "unlabeled", "unlabelled", "unknown", "undefined", "undecided",
    "unclassified", "unassigned", "dontcare",
})  # fmt: skip
"""What data sets call pixels that are undecided, or of nothing that they list; without blanks."""

_BLANK = "\u034f\u115f\u1160\u2800\u3164\uffa0"  # letters and marks that show nothing
_JOINERS = "\u200c\u200d"  # shape letters of Persian and Hindi, and emoji
_NUMBERED = re.compile(
    r"\d+\s*([:)=|]|[.,](?!\d))|[-*+\u2022]\s|.*[:=|]\s*\d+$"
)  # "1: dog", "- dog"
_NUMBER = re.compile(r"[+-]?[\d.,]+(e[+-]?\d+)?", re.IGNORECASE)


def tidy(name: str) -> str:
    """A name in Unicode's NFC, one plain blank between words, without invisible characters."""
    return _folded(name)[0]


def class_key(name: str) -> str:
    """The same for names that differ only in upper and lower case or in what cannot be seen."""
    return _folded(name)[1]


@lru_cache(4096)
def _folded(name: str) -> tuple[str, str]:
    seen = (
        char
        for char in unicodedata.normalize("NFC", name)
        if char in _JOINERS or not (char in _BLANK or unicodedata.category(char) == "Cf")
    )
    plain = " ".join("".join(seen).split())
    # dotted and dotless i are one letter in capitals, one or the other
    lower = plain.casefold().replace("i\u0307", "i").replace("\u0131", "i")
    key = (char for char in lower if not (char in _JOINERS or "\ufe00" <= char <= "\ufe0f"))
    return plain, unicodedata.normalize("NFC", "".join(key))


def class_fault(name: str) -> str:
    """Why a name as it stands in a file can be no class, and what to do; or ''."""
    name, key = name.strip(), class_key(name)
    core = "".join(filter(str.isalnum, key))  # however a word is set off
    if any(is_unprintable(char) or char == "\ufffd" for char in name):
        fault = "cannot be a class name; it holds a line break, a control character or a damaged"
        fault += " letter. Write it anew."
    elif not key:
        return "a class name is empty. Write the name, or remove its place."
    elif len(name) > _LONGEST:
        return f'{quoted(name[:40])[:-1]}..." has {len(name)} letters. Write a name of a few words.'
    elif ";" in name:
        fault = 'cannot be a class name; ";" stands between labels. Rename it.'
    elif key in _NO_NAMES:
        fault = "is what programs write for a missing value or for yes and no. Write the name of"
        fault += f' the class, or "{NO_CLASS}" for an image that shows none.'
    elif re.search(r"(^|\s)#", name):
        fault = 'cannot be a class name; "#" begins a comment in classes.txt. Rename it.'
    elif core == "background":
        fault = "is no class; it is always there, with id 0. Remove it."
    elif core in _UNDECIDED:
        fault = "is no class, but a word for undecided pixels (255), or for none of the classes."
        fault += f' Remove it; "{NO_CLASS}" is the label of an image that shows none.'
    elif core == NO_CLASS:
        fault = f'cannot be a class; in labels.csv, "{NO_CLASS}" marks an image'
        fault += " that shows no class. Rename or respell it."
    elif _NUMBER.fullmatch(key) or not any(map(_is_letter, key)):
        fault = "is a number or a sign, but CLIP knows a class by its name. Write it in words."
    elif _NUMBERED.match(name):
        fault = "has a number or a sign beside the name. Write the name alone; in a list of"
        fault += " classes the n-th gets id n."
    elif name[0] in "[{\"'" and name[-1] in "]}\"'":
        fault = "has brackets or quotation marks around it. Write names without, and labels as"
        fault += ' "cat;dog".'
    elif re.search(r",\S", name):
        fault = 'has "," in it. Write one name per line, and labels as "cat;dog".'
    else:
        return ""
    return f"{quoted(name)} {fault}"


def _is_letter(char: str) -> bool:
    return char.isalpha() or unicodedata.category(char) == "So"  # an emoji is a word to CLIP


@dataclass(frozen=True)
class ClassList:
    """Classes in order, with what came with them.

    Attributes:
        names: Class index i has id i + 1 in maps of class ids.
        prompts: By name, what CLIP is asked (synonyms joined by ", "), where something is said.
        notices: What a user should know of how the list was read.
        source: Where it comes from, for messages.
        background: Words for what is no class; none = those of the prompt set.
    """

    names: tuple[str, ...]
    prompts: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    source: str = "the class list"
    background: tuple[str, ...] = ()


def check_classes(
    path: Path,
    named: list[tuple[int, str]],
    *,
    unit: str = "line",
    cure: str = "Write one name per line.",
) -> tuple[str, ...]:
    """The names of a class list, tidied, each numbered by line or another ``unit``.

    ``cure`` is for a list without names.

    Raises:
        LabelsError: If a name can be no class or is there twice, or there are more than 254.
    """
    faults = []
    first: dict[str, tuple[int, str]] = {}
    for number, name in named:
        text = class_fault(name)
        at, spelling = first.setdefault(class_key(name), (number, name))
        if not text and at != number:
            text = f"class {quoted(name, unlike=tidy(spelling))} is already there, as"
            text += f" {quoted(spelling, unlike=tidy(name))} ({unit} {at}). Name each class in one"
            text += " spelling, and once in a list."
        if text:
            faults.append((number, text))
    faults += too_many(first.values())
    if faults:
        lines = [f"{unit} {number}: {text}" for number, text in sorted(faults)]
        raise LabelsError(fault_report(path, lines))
    if not named:
        raise LabelsError(f"{path} names no class. {cure}")
    return tuple(tidy(name) for _, name in named)


def too_many(first: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
    """A fault at the first class beyond those that a map of class ids holds, if there is one."""
    places = list(first)
    if len(places) <= _MOST:
        return []
    text = f"there are {len(places)} classes; maps of class ids have 8 bits and hold {_MOST},"
    text += " which end before this one. Merge or split the classes."
    return [(places[_MOST][0], text)]


def without_background(
    named: list[tuple[int, str]], unit: str = "line"
) -> tuple[list[tuple[int, str]], tuple[str, ...]]:
    """A list without labelme's first names, ``__ignore__`` and ``_background_``; and a notice.

    There the background has id 0 and what is ignored has none, so that ids stay what they were.
    """
    words = ["".join(filter(str.isalnum, class_key(name))) for _, name in named[:2]]
    count = 2 if words == ["ignore", "background"] else int(words[:1] == ["background"])
    if not count or len(named) == count:
        return named, ()
    dropped = " and ".join(quoted(name) for _, name in named[:count])
    return named[count:], (
        f"{dropped} at the head of the class list {'are' if count > 1 else 'is'} no class; as in"
        f" labelme, the ids begin behind: {quoted(tidy(named[count][1]))} ({unit}"
        f" {named[count][0]}) is 1.",
    )


def respelled(spellings: Iterable[str], classes: Iterable[str]) -> tuple[str, ...]:
    """A notice of names that are read as a class which is spelled a little differently."""
    listed = {class_key(name): name for name in classes}
    pairs = dict.fromkeys(
        (quoted(raw, unlike=listed[class_key(raw)]), quoted(listed[class_key(raw)]))
        for raw in spellings
        if raw != listed.get(class_key(raw), raw)
    )
    if not pairs:
        return ()
    shown = [f"{raw} as {name}" for raw, name in list(pairs)[:5]]
    more = f" and {len(pairs) - 5} more" if len(pairs) > 5 else ""
    return (f"Labels in another spelling are read as one class: {', '.join(shown)}{more}.",)


def most_frequent(spellings: Counter[str]) -> tuple[str, ...]:
    """Each class once, tidied and sorted: of several spellings the most frequent, or the first."""
    chosen: dict[str, str] = {}
    for raw, _ in spellings.most_common():
        chosen.setdefault(class_key(raw), tidy(raw))
    return tuple(sorted(chosen.values()))


def read_classes(root: Path) -> ClassList | None:
    """Class names in order, and the prompts that come with them.

    They are in ``classes.txt`` or ``classes.yaml`` of the folder ``root``; None = in neither.

    Raises:
        LabelsError: If both files are there, or one is empty or has faults; all of them at once.
    """
    text_file, yaml_file = root / "classes.txt", root / "classes.yaml"
    if text_file.exists() and yaml_file.exists():
        raise LabelsError(
            f"{root} holds both classes.txt and classes.yaml, and they may disagree. Keep one."
        )
    if text_file.exists():
        return read_classes_txt(text_file)
    if yaml_file.exists():
        return read_classes_yaml(yaml_file)
    return None


def read_classes_txt(path: Path) -> ClassList:
    """One name a line; ``#`` at its beginning, or behind a blank, begins a comment.

    Raises:
        LabelsError: If it cannot be read, is empty or has faults; all of them at once.
    """
    lines = [(line, re.sub(r"(^|\s)#.*", "", text).strip()) for line, text in read_lines(path)]
    lines = [(line, name) for line, name in lines if name]
    if fault := _table_fault([name for _, name in lines]):
        raise LabelsError(
            f"{path} line {lines[0][0]}: {quoted(lines[0][1][:80])} {fault} Write one name per"
            " line; the n-th gets id n."
        )
    named, notices = without_background(lines)
    return ClassList(check_classes(path, named), {}, notices, path.name)


def _table_fault(names: list[str]) -> str:
    """What makes a list of names a table, although each of them could be a name; or ''."""
    numbered = names and all(re.match(r"\d+\s+\D", name) for name in names)
    if numbered and (names[1:] or names[0].split()[0] in ("0", "1")):
        return "and all lines below begin with a number."
    return "is several names in one line." if len(names) == 1 and "," in names[0] else ""


def read_classes_yaml(path: Path) -> ClassList:
    """``name: prompt``, a list of synonyms, or nothing behind the name.

    The background is no class: ``background: [grass, sky]`` are words that compete with the classes
    in CLIP. Without words it heads the list as in labelme.

    Raises:
        LabelsError: If it cannot be read, is empty or has faults; all of them at once.
    """
    # Nodes, not values: they keep line numbers, repeated keys, and names like "no" as they are.
    try:
        table = compose_yaml(read_yaml_text(path))
    except YamlError as error:
        raise LabelsError(f"{path} is not valid YAML: {printable(str(error))}.") from error
    shape = 'Write one line per class, as "dog: puppy, hound" or "dog: [puppy, hound]".'
    if not isinstance(table, yaml.MappingNode):
        raise LabelsError(f"{path} is no list of classes and prompts. {shape}")
    numbered, prompts = [], {}
    background: tuple[str, ...] = ()
    for key, value in table.value:
        line = key.start_mark.line + 1
        words = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if not all(isinstance(word, yaml.ScalarNode) for word in [key, *words]):
            raise LabelsError(f"{path} line {line}: no class with its prompt. {shape}")
        if class_key(key.value) == "background" and value.tag != "tag:yaml.org,2002:null":
            if background:
                raise LabelsError(f'{path} line {line}: "background" is already there. Keep one.')
            background = _background_words(path, line, [word.value for word in words])
            continue
        numbered.append((line, key.value.strip()))
        if value.tag != "tag:yaml.org,2002:null":
            prompts[tidy(key.value)] = ", ".join(filter(None, (tidy(word.value) for word in words)))
        if any(
            is_unprintable(char) and char not in "\t\n" for word in words for char in word.value
        ):
            raise LabelsError(
                f"{path} line {line}: the prompt holds a control character. Remove it."
            )
    numbered, notices = without_background(numbered)
    names = check_classes(path, numbered)
    asked = {name: prompts[name] for name in names if prompts.get(name)}
    return ClassList(names, asked, notices, path.name, background)


def _background_words(path: Path, line: int, values: list[str]) -> tuple[str, ...]:
    """Each word once; several may be joined by commas, as synonyms are."""
    words = dict.fromkeys(tidy(word) for value in values for word in value.split(","))
    found = tuple(filter(None, words))
    if not found or any(map(is_unprintable, "".join(found))):
        what = "a word holds a control character" if found else "there is no word behind it"
        raise LabelsError(
            f'{path} line {line}: background, but {what}. Write "background: [grass, sky]", or'
            " remove the line to have the words of the prompt set (--prompts)."
        )
    return found


def check_background(words: object) -> tuple[str, ...]:
    """Background words as plain texts without blanks around them.

    Raises:
        LabelsError: If they are no list of texts.
    """
    given = None if isinstance(words, (str, Mapping)) else _as_list(words)
    if given is None or not all(isinstance(word, str) and word.strip() for word in given):
        raise LabelsError(
            f"background = {brief(words)}, but a list of words for what is no class is expected,"
            ' such as ["grass", "sky"].'
        )
    return tuple(dict.fromkeys(str.strip(word) for word in given))


def check_class_names(classes: object) -> tuple[str, ...]:
    """The names as plain, tidied text, if they can be the classes of a model.

    Raises:
        LabelsError: If they cannot, or are in no order: ids follow it.
    """
    cure = 'Give a list of names, such as ["dog", "cat"].'
    if isinstance(classes, str):
        raise LabelsError(f'classes = "{classes}" is one text; give a list: ["{classes}"].')
    if isinstance(classes, (set, frozenset)):
        raise LabelsError(
            f"classes = {brief(classes)} has no order, which the ids in masks need. {cure}"
        )
    if isinstance(classes, Mapping):
        raise LabelsError(
            f"classes = {brief(classes)} is no list; what CLIP is asked is prompts. {cure}"
        )
    given, names = _as_list(classes), []
    if given is None:
        raise LabelsError(f"classes = {brief(classes)} is no list. {cure}")
    for number, name in enumerate(given, 1):
        if not isinstance(name, str):
            raise LabelsError(f"classes item {number} is {brief(name)}, which is no text. {cure}")
        names.append((number, str.strip(name)))  # of a numpy text too, this makes a plain one
    return check_classes(Path("classes"), names, unit="item", cure=cure)


def label_indices(labels: object, classes: tuple[str, ...]) -> tuple[int, ...]:
    """Indices of class names, each once; a single name may stand by itself.

    Upper and lower case and blanks do not matter.

    The order is that of the labels, and of a set that of the classes.

    Raises:
        LabelsError: If there is none, or one is no class.
    """
    names = [labels] if isinstance(labels, str) else _as_list(labels)
    if names is None:
        raise LabelsError(
            f"labels = {brief(labels)}: labels must be names of classes that the image shows, such"
            f' as ["{classes[0]}"]; segment(image) needs none.'
        )
    if not names:
        raise LabelsError(
            "labels is empty: name the classes that the image shows, or use segment(image), which"
            " needs no labels."
        )
    found = []
    index = {class_key(name): number for number, name in enumerate(classes)}
    for name in names:
        number = index.get(class_key(name)) if isinstance(name, str) else None
        if number is None:
            known = ", ".join(classes[:8]) + (", ..." if classes[8:] else ".")
            raise LabelsError(
                f"{brief(name)} is no class of this model."
                f"{did_you_mean(str(name)[:99], classes)} It has {len(classes)}: {known}"
            )
        found.append(number)
    return tuple(dict.fromkeys(sorted(found) if isinstance(labels, (set, frozenset)) else found))


def _as_list(values: Any) -> list[Any] | None:
    """The values of anything that can be gone through; None if it cannot."""
    try:
        return list(values)
    except TypeError:
        return None
