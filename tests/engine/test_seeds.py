from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from make_tiny import tiny_voc
from tiny_encoders import tiny_config

from ssrseg.data.cache import SuperpixelCache
from ssrseg.data.images import read_image, read_truth
from ssrseg.data.open import open_labelled
from ssrseg.engine.masks import rectify_photo
from ssrseg.engine.rectify import Rectifier, load_rectifier
from ssrseg.engine.seeds import score_seeds
from ssrseg.networks.decoder import Decoder


def test_against_a_slow_loop(tmp_path: Path, clip_dir: Path, dino_dir: Path) -> None:
    voc = open_labelled(tiny_voc(tmp_path / "voc", n=3, classes=("cat", "dog", "red car")))
    voc = replace(voc, samples=(*voc.samples, replace(voc.samples[0], name="x", truth=None)))
    cache = SuperpixelCache(None, n_segments=20, compactness=10.0)
    config = tiny_config(clip_dir, dino_dir, "pseudo.refine=none")
    refined = load_rectifier(config, voc.classes)
    plain_config = replace(config, affinity=replace(config.affinity, kind="none", mask="none"))
    plain = Rectifier(plain_config, refined.clip, refined.dino, refined.vocabulary)
    rectifiers = {"plain": plain, "refined": refined}
    alphas = (1.0, 3.0)
    found = score_seeds(rectifiers, voc, cache, alphas=alphas)
    assert list(found) == ["plain", "refined"]
    for name, rectifier in rectifiers.items():
        by_alpha = []
        for alpha in alphas:
            settings = rectifier.config
            at_alpha = Rectifier(
                replace(settings, pseudo=replace(settings.pseudo, alpha=alpha)),
                rectifier.clip,
                rectifier.dino,
                rectifier.vocabulary,
            )
            hits, either = torch.zeros(4), torch.zeros(4)
            for sample in voc.samples[:3]:
                photo, truth = read_image(sample.image), read_truth(sample.truth)
                mask = rectify_photo(at_alpha, photo, sample.labels, cache).pseudo_mask
                for c in range(4):
                    counted = truth != 255
                    hits[c] += ((mask == c) & (truth == c) & counted).sum()
                    either[c] += (((mask == c) | (truth == c)) & counted).sum()
            by_alpha.append(float((hits / either).mean()))
        best = max(range(2), key=by_alpha.__getitem__)
        assert found[name].alpha == alphas[best]
        assert found[name].scores.miou == pytest.approx(by_alpha[best], abs=1e-6)
    assert found["plain"].scores.miou != found["refined"].scores.miou


def test_settings_scored_together_score_as_if_alone(
    tmp_path: Path, clip_dir: Path, dino_dir: Path
) -> None:
    voc = open_labelled(tiny_voc(tmp_path / "voc", n=4, classes=("cat", "dog", "red car")))
    cache = SuperpixelCache(None, n_segments=20, compactness=10.0)
    overrides = {
        "plain": ("affinity.kind=none",),
        "connected": ("affinity.kind=none", "sgc.connected=true"),
        "fewer colours": ("affinity.kind=none", "sgc.k_colour=2"),
        "decoder": ("affinity.rfm_after=0", "affinity.rfm_layers=-1"),
    }
    base = load_rectifier(tiny_config(clip_dir, dino_dir), voc.classes)
    rectifiers = {}
    for name, extra in overrides.items():
        config = tiny_config(
            clip_dir,
            dino_dir,
            "pseudo.refine=none",
            "affinity.power=1",
            "sgc.high=0.5",
            "sgc.min_ratio=0.8",
            *extra,
        )
        rectifiers[name] = Rectifier(config, base.clip, base.dino, base.vocabulary)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rectifiers["decoder"].decoder = Decoder(base.clip.depth - 1, base.clip.width, 3)
    together = score_seeds(rectifiers, voc, cache)
    for name, rectifier in rectifiers.items():
        alone = score_seeds({name: rectifier}, voc, cache)[name]
        assert together[name].scores.miou == pytest.approx(alone.scores.miou, abs=1e-5)
    assert len({round(each.scores.miou, 4) for each in together.values()}) == 4
