"""The texts that CLIP compares an image with: class names, synonyms, background words."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as brief

from ssrseg.console import printable
from ssrseg.errors import ConfigError, counted, did_you_mean
from ssrseg.safe_yaml import YamlError, read_yaml

PROMPTS = Path(__file__).with_name("prompts")
NAMES_FILE = "names.txt"
"""Lists what a small CLIP has learnt, one name a line in lower case, beside its weights."""


@dataclass(frozen=True)
class Vocabulary:
    """Texts in the order of the text features: classes first, then backgrounds.

    Attributes:
        classes: Class names, as in the data.
        texts: One prompt per class, then one per background word.
        dropped: Background words left out because they mean a class.
        dropped_for: The class that each of them means.
        phrases: What the template's {} stood for in each text; empty where texts come from a
            checkpoint.
    """

    classes: tuple[str, ...]
    texts: tuple[str, ...]
    dropped: tuple[str, ...] = ()
    dropped_for: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()


def available() -> list[str]:
    """Names of the prompt sets that come with the package."""
    return sorted(file.stem for file in PROMPTS.glob("*.yaml"))


def build_vocabulary(
    classes: tuple[str, ...],
    prompts: str | Path,
    own: Mapping[str, str] | None = None,
    background: Sequence[str] = (),
) -> Vocabulary:
    """Prompts for the classes of a data set.

    A background word that means a class (for tree: "trees", "palm tree"; not "tree house"), or is a
    word of a class's prompt, is left out: it would compete with the class in the CAM's softmax.

    Args:
        classes: Their names.
        prompts: Name of a shipped set (``voc``, ``coco``, ``coco-clip-es``, ``demo``) or a YAML
            file with ``template``, ``classes`` (name: prompt) and ``background`` (list of words).
            Its prompts are for names in any case: ``Person`` is asked for as ``person`` is.
        own: Prompts by class name that come with the data set; they win over the set's.
        background: Words that come with the data set and replace the set's; none = the set's.

    Raises:
        ConfigError: If the set is unknown, the file lacks a key, or ``own`` has a name that is no
            class or a prompt that is no text.
    """
    own = check_prompts(own, classes)
    shipped = str(prompts) in available()
    file = PROMPTS / f"{prompts}.yaml" if shipped else Path(os.path.expanduser(prompts))
    if not os.path.isfile(file):  # of any text, also one that no path can be
        raise ConfigError(
            f'prompts.set = "{prompts}" is neither a shipped set ({", ".join(available())}) nor a'
            f" file.{did_you_mean(str(prompts), available())}"
        )
    template, named, words = _read_prompts(file)
    named, words = {**named, **own}, list(background) or words
    read = {_as_clip_reads(name): phrase for name, phrase in named.items()}
    phrases = tuple(named.get(name) or read.get(_as_clip_reads(name), name) for name in classes)
    taken: dict[str, str] = {}
    for name, phrase in zip(classes, phrases, strict=True):
        for word in (name, phrase, *f"{name} {phrase}".replace(",", " ").split()):
            taken.setdefault(_as_clip_reads(word), name)
    named_by = {word: taken.get(_as_clip_reads(word)) or _meant(word, classes) for word in words}
    kept = [word for word in words if named_by[word] is None]
    found = {word: name for word, name in named_by.items() if name is not None}
    phrases = (*phrases, *kept)
    texts = tuple(template.replace("{}", phrase) for phrase in phrases)
    return Vocabulary(classes, texts, tuple(found), tuple(found.values()), phrases)


def describe_unlearnt(vocabulary: Vocabulary, names: Collection[str]) -> str:
    """What CLIP would be asked in vain, and what to ask instead, in words; empty if nothing.

    Args:
        names: All that it has learnt, in lower case, see ``networks.frozen.read_names``.
    """
    unlearnt = [phrase for phrase in vocabulary.phrases if not _is_learnt(phrase, names)]
    if not unlearnt:
        return ""
    shown = ", ".join(f'"{printable(phrase)}"' for phrase in unlearnt[:8])
    shown += ", ..." if unlearnt[8:] else ""
    near = {phrase: _near_name(phrase, names) for phrase in unlearnt[:8]}
    example = [f"{printable(phrase)}: {name}" for phrase, name in near.items() if name][:1]
    return (
        f"CLIP has not learnt {shown}: what it finds for that is a guess. It knows the"
        f" {counted(len(names), 'name', 'names')} in {NAMES_FILE} beside its weights; `ssrseg"
        " doctor` with these settings says where. Give one of them as prompt in classes.yaml (or"
        " --prompts)"
        f"{''.join(f', such as {each}' for each in example)}; it lists every class, those that need"
        " no prompt with nothing behind the colon."
    )


def changed_prompts(
    classes: Sequence[str], earlier: Sequence[str], now: Sequence[str]
) -> list[str]:
    """What was asked for a class and what is asked now, in words, where it differs."""
    return [
        f'prompt of "{printable(name)}" = "{printable(old)}" there, "{printable(new)}" now'
        for name, old, new in zip(classes, earlier, now, strict=False)
        if old != new
    ]


def changed_background(earlier: Sequence[str], now: Sequence[str]) -> list[str]:
    """Background texts that are gone or new, as one clause in words; none if none is."""
    if tuple(earlier) == tuple(now):
        return []
    parts = []
    for these, others, what in ((earlier, now, "left out"), (now, earlier, "new")):
        words = [f'"{printable(text)}"' for text in these if text not in others]
        more = [f"{len(words) - 5} more"] if words[5:] else []
        parts += [f"{', '.join([*words[:5], *more])} {what}"] if words else []
    return [f"background texts: {', '.join(parts) or 'in another order'}"]


def refuse_lone_texts(vocabulary: Vocabulary, labels: Mapping[str, Sequence[int]]) -> None:
    """Raise ConfigError if an image has one label and no background text stands against it.

    The softmax over that one text is 1 everywhere, its gradient 0 and the CAM empty: the mask would
    be all background.

    Args:
        vocabulary: Texts.
        labels: Class indices by name of the image.
    """
    if len(vocabulary.texts) > len(vocabulary.classes):
        return
    lone = [name for name, found in labels.items() if len(found) == 1]
    if not lone:
        return
    left_out = ", ".join(f'"{word}"' for word in vocabulary.dropped)
    raise ConfigError(
        f"There is no background text, and {counted(len(lone), 'image has', 'images have')} a"
        f" single label (such as {lone[0]}): with nothing to compare it with, CLIP's CAM of it is"
        " empty and its mask all background. "
        + (f"Left out because they mean a class: {left_out}. " if left_out else "")
        + "Give background words that are none of the classes: a prompt set with some (--prompts"
        " voc), or the key background in classes.yaml."
    )


def _read_prompts(file: Path) -> tuple[str, dict[str, str], list[str]]:
    """Template, prompts by class name and background words of a prompt file."""
    try:
        table = read_yaml(file)
        if not isinstance(table, dict) or not {"template", "classes", "background"} <= set(table):
            raise YamlError("a key is missing")
        template, named, background = table["template"], table["classes"] or {}, table["background"]
        if not isinstance(template, str) or template.count("{}") != 1:
            raise YamlError("the template needs one {} for the name")
        if not isinstance(named, dict) or not isinstance(background, list):
            raise YamlError("classes is no table, or background no list")
        words = [*named, *named.values(), *background]
        if not all(isinstance(text, str) for text in words):
            raise YamlError("a name, a prompt or a background word is no text; quote it")
        if not all(text.strip() for text in words):
            raise YamlError("a name, a prompt or a background word is empty")
    except YamlError as error:
        raise ConfigError(
            f"{file} is no prompt file ({error}). It needs three keys: template"
            ' ("a photo of a {}."), classes (name: prompt) and background (list of words).'
        ) from error
    return template, named, background


def check_prompts(own: object, classes: tuple[str, ...]) -> dict[str, str]:
    """Prompts by class name without blanks around them; None = none.

    Raises:
        ConfigError: If they are no mapping of classes to texts.
    """
    if own is None:
        return {}
    example = f'such as {{"{classes[0] if classes else "dog"}": "a word, a synonym"}}'
    if not isinstance(own, Mapping):
        raise ConfigError(
            f"prompts = {brief(own)} is no mapping of class names to texts, {example}. For a"
            ' prompt set give settings=["prompts.set=NAME"] (--prompts NAME).'
        )
    checked = {}
    for name, text in own.items():
        plain = str.strip(name) if isinstance(name, str) else name
        if plain not in classes:
            near = did_you_mean(str(name), classes)
            raise ConfigError(
                f"prompts has a text for {name!r}, which is no class.{near} Use the names of the"
                " classes."
            )
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(
                f'prompts["{plain}"] = {brief(text)} is no text that CLIP can be asked, {example}.'
                " Leave it away to ask for the name."
            )
        checked[plain] = str.strip(text)
    return checked


def _is_learnt(phrase: str, names: Collection[str]) -> bool:
    """Whether it is a name, or several that are joined by commas."""
    parts = map(_as_clip_reads, phrase.split(","))
    return _as_clip_reads(phrase) in names or all(part in names for part in parts)


def _near_name(phrase: str, names: Collection[str]) -> str:
    """The longest name that ends a phrase, or else one in nearly the same letters; or ''."""
    text = _as_clip_reads(phrase)
    ends = [name for name in names if text.endswith(f" {name}")]
    near = difflib.get_close_matches(text, sorted(names), n=1, cutoff=0.75)
    return max(ends, key=len, default="") or next(iter(near), "")


def _as_clip_reads(text: str) -> str:
    """Without what CLIP's tokenizer does not tell apart: upper and lower case, and blanks."""
    return " ".join(text.lower().split())


def _meant(phrase: str, classes: tuple[str, ...]) -> str | None:
    """The class whose name ends a phrase, singular or plural: a palm tree is a tree."""
    words, *named = (re.findall(r"[^\W_]+", text.lower()) for text in (phrase, *classes))
    for name, parts in zip(classes, named, strict=True):
        ending = words[-len(parts) :] if parts else []
        if len(ending) == len(parts) > 0 and all(map(_same_word, ending, parts)):
            return name
    return None


def _same_word(one: str, other: str) -> bool:
    return other in (one, f"{one}s", f"{one}es") or one in (f"{other}s", f"{other}es")
