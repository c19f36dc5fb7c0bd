"""The texts that CLIP compares an image with: class names, synonyms, background words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import yaml

from ssrseg.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Vocabulary:
    """Texts in the order of the text features: classes first, then backgrounds.

    Attributes:
        classes: Class names, as in the data.
        texts: One prompt per class, then one per background word.
        dropped: Background words left out because they mean a class.
        dropped_for: The class that each of them means.
    """

    classes: tuple[str, ...]
    texts: tuple[str, ...]
    dropped: tuple[str, ...] = ()
    dropped_for: tuple[str, ...] = ()


def available() -> list[str]:
    """Names of the prompt sets that come with the package."""
    folder = files("ssrseg.networks") / "prompts"
    return sorted(
        Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def build_vocabulary(
    classes: tuple[str, ...], prompts: str | Path, own: Mapping[str, str] | None = None
) -> Vocabulary:
    """Prompts for the classes of a data set.

    A background word that means a class (for tree: "trees", "palm tree"; not "tree house"), or is a
    word of a class's prompt, is left out: it would compete with the class in the CAM's softmax.

    Args:
        classes: Class names.
        prompts: Name of a shipped set (``voc``, ``coco``, ``coco-clip-es``, ``demo``) or a YAML
            file with ``template``, ``classes`` (name: prompt) and ``background`` (list of words).
        own: Prompts by class name that come with the data set; they win over the set's.

    Raises:
        ConfigError: If the set is unknown or the file lacks a key.
    """
    if str(prompts) in available():
        text = (files("ssrseg.networks") / "prompts" / f"{prompts}.yaml").read_text(
            encoding="utf-8"
        )
    elif Path(prompts).is_file():
        text = Path(prompts).read_text(encoding="utf-8")
    else:
        raise ConfigError(
            f'prompts.set = "{prompts}" is neither a shipped set ({", ".join(available())}) nor a'
            f" file.{did_you_mean(str(prompts), available())}"
        )
    try:
        table = yaml.safe_load(text)
        template, named, background = table["template"], table["classes"] or {}, table["background"]
        if template.format("cat") == template:
            raise ValueError("the template has no {} for the name")
        if not all(isinstance(text, str) for text in (*named.values(), *background)):
            raise TypeError("a prompt or a background word is no text")
        if isinstance(background, str):
            raise TypeError("background is one word, not a list")
    except (yaml.YAMLError, LookupError, TypeError, AttributeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"{prompts} is no prompt file ({reason}). It needs three keys:"
            ' template ("a photo of a {}."), classes (name: prompt) and background (list of words).'
        ) from error
    named = {**named, **(own or {})}
    phrases = [named.get(name, name) for name in classes]
    taken: dict[str, str] = {}
    for name, phrase in zip(classes, phrases, strict=True):
        for word in (name, *f"{name} {phrase}".replace(",", " ").split()):
            taken.setdefault(word.lower(), name)
    named_by = {word: taken.get(word.lower()) or _meant(word, classes) for word in background}
    kept = [word for word in background if named_by[word] is None]
    found = {word: name for word, name in named_by.items() if name is not None}
    return Vocabulary(
        classes,
        tuple(template.format(phrase) for phrase in (*phrases, *kept)),
        tuple(found),
        tuple(found.values()),
    )


def _meant(phrase: str, classes: tuple[str, ...]) -> str | None:
    """The class whose name ends a phrase, singular or plural: a palm tree is a tree."""
    words = _words(phrase)
    for name in classes:
        parts = _words(name)
        ending = words[-len(parts) :] if parts else []
        if len(ending) == len(parts) > 0 and all(map(_same_word, ending, parts)):
            return name
    return None


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _same_word(one: str, other: str) -> bool:
    return other in (one, f"{one}s", f"{one}es") or one in (f"{other}s", f"{other}es")
