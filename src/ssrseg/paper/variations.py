"""``KEY=V1,V2``: one experiment for every combination of values."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from itertools import product

from ssrseg.config import BY_CONTENT, Config, known_keys, load_config
from ssrseg.errors import ConfigError, did_you_mean
from ssrseg.paper.deciding import head_settings, run_settings
from ssrseg.paper.experiments import Experiment, Measure, Training
from ssrseg.paper.rows import PLAIN, SSR_TRAINING


def split_values(text: str) -> list[str]:
    """Values between commas, such as ``[1,2]`` and ``[4]`` of ``[1,2],[4]``.

    Commas inside brackets, braces and quotes do not count.
    """
    values, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        else:
            depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not depth and not quote:
            values.append("")
        else:
            values[-1] += letter
    return [value.strip() for value in values]


def combinations(variations: Sequence[str]) -> list[tuple[str, ...]]:
    """Overrides of every combination of values.

    Args:
        variations: ``section.key=V1,V2,...``, one for each key.

    Raises:
        ConfigError: If a key does not exist, comes twice or has no value.
    """
    axes = []
    keys = [each.partition("=")[0].strip() for each in variations]
    for each, key in zip(variations, keys, strict=True):
        values = split_values(each.partition("=")[2])
        if key not in known_keys():
            raise ConfigError(
                f"{each}: there is no setting {key}.{did_you_mean(key, known_keys())} Write"
                " section.key=V1,V2, such as sgc.min_ratio=0.3,0.5."
            )
        if not all(values) or keys.count(key) > 1 or len(set(values)) < len(values):
            raise ConfigError(
                f"{each}: write each key once, with different values between commas, such as"
                " sgc.min_ratio=0.3,0.5 or test.scales=[1.0],[1.0,0.75]."
            )
        if key == "optim.seed":
            raise ConfigError(f"{each}: seeds are repetitions, not settings. Use --seeds N.")
        axes.append([f"{key}={value}" for value in values])
    return list(product(*axes))


def ablation_rows(
    variations: Sequence[str], config: Config, measure: Measure
) -> tuple[Experiment, ...]:
    """An experiment for every one of ``combinations``; each trains only what it changes."""
    return tuple(_row(each, config, measure) for each in combinations(variations))


def _row(overrides: tuple[str, ...], config: Config, measure: Measure) -> Experiment:
    name, base = "  ".join(overrides), config.to_dict()
    whole = load_config(base=base, overrides=overrides)
    decides = run_settings if measure == "segmentation" else head_settings

    def is_trained(override: str) -> bool:
        if override.partition("=")[0].strip() in BY_CONTENT:
            return True
        others = [each for each in overrides if each != override]
        return decides(whole) != decides(load_config(base=base, overrides=others))

    trained = tuple(each for each in overrides if is_trained(each))
    scored = tuple(each for each in overrides if each not in trained)
    if measure == "seeds" and not any(each.startswith("pseudo.") for each in overrides):
        scored = (PLAIN, *scored)  # the protocol's seeds are not refined
    if measure != "segmentation" and whole.cam.mode != "cmpa":
        return Experiment(name, (*trained, *scored), None, measure)
    training = SSR_TRAINING
    if trained:
        # [3] and 3 would be one folder without the digest
        digest = hashlib.sha256(" ".join(trained).encode()).hexdigest()[:6]
        readable = re.sub(r"[^\w.=-]+", "-", "-".join(trained)).strip("-")
        training = Training(f"{readable}-{digest}", trained)
    return Experiment(name, scored, training, measure, crf=whole.test.crf)
