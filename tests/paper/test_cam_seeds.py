from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from make_tiny import tiny_voc
from safetensors.torch import save_file
from tiny_encoders import tiny_config

from ssrseg.config import Config, load_config
from ssrseg.data.class_ids import read_class_ids
from ssrseg.data.images import read_image
from ssrseg.data.kept_tensors import kept_tensors
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.errors import DataError
from ssrseg.model import SSR
from ssrseg.networks.decoder import Decoder
from ssrseg.paper import cam_seeds as seeds
from ssrseg.paper.cam_seeds import ALPHAS, REFINED_ALPHAS, exponents, score_seeds
from ssrseg.photo_masks import rectify_photo


def test_against_a_slow_loop(tmp_path: Path, clip_dir: Path, dino_dir: Path) -> None:
    voc = open_labelled(tiny_voc(tmp_path / "voc", n=3, classes=("cat", "dog", "red car")))
    voc = replace(voc, samples=(*voc.samples, replace(voc.samples[0], name="x", truth=None)))
    cache = SuperpixelCache(None, n_segments=20, compactness=10.0)
    config = tiny_config(clip_dir, dino_dir, "pseudo.refine=none")
    refined = SSR.from_config(config, voc.classes)
    plain_config = replace(config, affinity=replace(config.affinity, kind="none", mask="none"))
    plain = refined.with_config(plain_config)
    models = {"plain": plain, "refined": refined}
    alphas = (1.0, 3.0)
    found = score_seeds(models, voc, cache, alphas=alphas)
    assert list(found) == ["plain", "refined"]
    for name, model in models.items():
        by_alpha = []
        for alpha in alphas:
            settings = model.config
            pseudo = replace(settings.pseudo, alpha=alpha)
            at_alpha = model.with_config(replace(settings, pseudo=pseudo))
            hits, either = torch.zeros(4), torch.zeros(4)
            for sample in voc.samples[:3]:
                photo, truth = read_image(sample.image), read_class_ids(sample.truth)
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


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    folder = tmp_path_factory.mktemp("data") / "voc"
    return open_labelled(tiny_voc(folder, n=3, classes=("cat", "dog", "red car")))


def with_settings(base: SSR, **settings: Mapping[str, object]) -> SSR:
    table = base.config.to_dict()
    for section, values in settings.items():
        table[section] |= values
    return base.with_config(load_config(base=table))


def test_exponents_by_kind_of_cam() -> None:
    def of(*overrides: str) -> tuple[float, ...]:
        return exponents(load_config("ssr", overrides=overrides))

    assert of() == of("affinity.kind=kernel") == REFINED_ALPHAS == (0.5, 1, 2)
    raw = (0.5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14)
    assert of("affinity.kind=none") == of("affinity.power=0") == ALPHAS == raw


@pytest.mark.parametrize("refine", ["par", "crf"])
def test_par_follows_at_the_exponent_that_won_and_the_crf_at_its_own(
    refine: str, voc: LabelledImages, clip_dir: Path, dino_dir: Path
) -> None:
    cache = SuperpixelCache(None, n_segments=20, compactness=10.0)
    plain = SSR.from_config(tiny_config(clip_dir, dino_dir, "pseudo.refine=none"), voc.classes)
    refined = with_settings(plain, pseudo={"refine": refine, "alpha": 2.0})
    found = score_seeds({"plain": plain, "refined": refined}, voc, cache)
    assert found["plain"].alpha == 0.5
    alpha = {"par": 0.5, "crf": 2.0}[refine]
    assert found["refined"].alpha == alpha
    assert dict(found["refined"].by_alpha) == {alpha: found["refined"].scores.miou}
    at_alpha = with_settings(refined, pseudo={"alpha": alpha})
    matrix = torch.zeros(4, 4, dtype=torch.long)
    for sample in voc.samples:
        assert sample.truth is not None
        photo, truth = read_image(sample.image), read_class_ids(sample.truth)
        mask = rectify_photo(at_alpha, photo, sample.labels, cache).pseudo_mask
        counted = truth != 255
        pairs = truth[counted].long() * 4 + mask[counted].long()
        matrix += torch.bincount(pairs, minlength=16).view(4, 4)
    assert found["refined"].matrix.equal(matrix)
    assert not found["plain"].matrix.equal(matrix)
    assert refined.config.pseudo.refine == refine  # the caller's settings are left alone


def test_the_crf_needs_no_sweep_before_it(
    voc: LabelledImages, clip_dir: Path, dino_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = SuperpixelCache(None, n_segments=20, compactness=10.0)
    crf = SSR.from_config(tiny_config(clip_dir, dino_dir, "pseudo.refine=crf"), voc.classes)
    passes: list[int] = []
    encode = SSR.encode
    monkeypatch.setattr(SSR, "encode", lambda *a: (passes.append(len(a[1])), encode(*a))[1])
    score_seeds({"crf": crf}, voc, cache)
    assert sum(passes) == len(voc)


def test_given_exponents_are_swept_behind_par(
    voc: LabelledImages, clip_dir: Path, dino_dir: Path
) -> None:
    cache = SuperpixelCache(None, n_segments=20, compactness=10.0)
    par = SSR.from_config(tiny_config(clip_dir, dino_dir), voc.classes)
    both = score_seeds({"x": par}, voc, cache, alphas=(1.0, 4.0))["x"]
    for alpha in (1.0, 4.0):
        (alone,) = score_seeds({"x": par}, voc, cache, alphas=(alpha,)).values()
        assert both.by_alpha[alpha] == alone.scores.miou
    assert both.scores.miou == max(both.by_alpha.values())
    assert both.by_alpha[1.0] != both.by_alpha[4.0]


def test_images_of_each_class_are_counted(
    voc: LabelledImages, clip_dir: Path, dino_dir: Path
) -> None:
    cache = SuperpixelCache(None, n_segments=20, compactness=10.0)
    config: Config = tiny_config(clip_dir, dino_dir, "cam.mode=clip", "affinity.kind=none")
    (found,) = score_seeds({"x": SSR.from_config(config, voc.classes)}, voc, cache).values()
    expected = torch.zeros(4, dtype=torch.long)
    for sample in voc.samples:
        assert sample.truth is not None
        truth = read_class_ids(sample.truth)
        for index in range(4):
            expected[index] += bool((truth == index).any())
    assert found.images.equal(expected)
    assert int(found.matrix.sum()) == sum(
        int((read_class_ids(sample.truth) != 255).sum()) for sample in voc.samples if sample.truth
    )


def test_masks_that_do_not_fit(voc: LabelledImages, clip_dir: Path, dino_dir: Path) -> None:
    cache = SuperpixelCache(None, n_segments=20, compactness=10.0)
    base = SSR.from_config(tiny_config(clip_dir, dino_dir), voc.classes)
    bare = replace(voc, samples=(replace(voc.samples[0], truth=None),))
    with pytest.raises(DataError, match="true mask to score CAMs against"):
        score_seeds({"x": base}, bare, cache)
    swapped = replace(voc, samples=(replace(voc.samples[0], truth=voc.samples[1].truth),))
    with pytest.raises(DataError, match=r"is 64 x 80 pixels, its image 75 x 61"):
        score_seeds({"x": base}, swapped, cache)
    fewer = replace(voc, classes=("cat",), samples=(replace(voc.samples[1], labels=(0,)),))
    other = SSR.from_config(base.config, fewer.classes)
    with pytest.raises(DataError, match="holds class id 2"):
        score_seeds({"x": other}, fewer, cache)


def test_a_stopped_pass_goes_on(
    voc: LabelledImages,
    clip_dir: Path,
    dino_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = SuperpixelCache(None, n_segments=20, compactness=10.0)
    plain = SSR.from_config(tiny_config(clip_dir, dino_dir, "pseudo.refine=none"), voc.classes)
    both = {"plain": plain, "par": with_settings(plain, pseudo={"refine": "par"})}
    whole = score_seeds(both, voc, cache)
    monkeypatch.setattr(seeds, "CHUNK", 1)
    seen: list[str] = []
    real = seeds._count

    def count(models: Mapping[str, SSR], known: list[Sample], *rest: object) -> None:
        if len(seen) in (2, 5):  # after two images of the first pass, and one of the second
            seen.append("stopped")
            raise KeyboardInterrupt
        seen.append(known[0].name)
        real(models, known, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(seeds, "_count", count)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            score_seeds(both, voc, cache, keep=tmp_path)
    found = score_seeds(both, voc, cache, keep=tmp_path)
    names = [sample.name for sample in voc.samples]
    expected = [*names[:2], "stopped", names[2], names[0], "stopped", *names[1:]]
    assert seen == expected
    for name, each in whole.items():
        assert found[name].matrix.equal(each.matrix)
        assert found[name].images.equal(each.images)
        assert found[name].by_alpha == each.by_alpha
    other = score_seeds({"plain": plain}, voc, cache, keep=tmp_path)["plain"]  # other rows
    assert other.matrix.equal(whole["plain"].matrix)


def test_settings_scored_together_score_as_if_alone(
    tmp_path: Path, clip_dir: Path, dino_dir: Path
) -> None:
    voc = open_labelled(tiny_voc(tmp_path / "voc", n=4, classes=("cat", "dog", "red car")))
    cache = SuperpixelCache(None, n_segments=20, compactness=10.0)
    overrides = {
        "plain": ("affinity.kind=none",),
        "fewer colours": ("affinity.kind=none", "sgc.k_colour=2"),
        "attention": (),
        "class distribution": ("affinity.cda_temperature=0.1",),
        "decoder": ("affinity.rfm_after=0", "affinity.rfm_layers=-1"),
    }
    base = SSR.from_config(tiny_config(clip_dir, dino_dir), voc.classes)
    models = {}
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
        models[name] = base.with_config(config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = Decoder(base.clip.depth - 1, base.clip.width, 3)
    models["decoder"] = base.with_config(models["decoder"].config, decoder=decoder)
    together = score_seeds(models, voc, cache)
    for name, model in models.items():
        alone = score_seeds({name: model}, voc, cache)[name]
        assert together[name].scores.miou == pytest.approx(alone.scores.miou, abs=1e-5)
    assert len({round(each.scores.miou, 4) for each in together.values()}) == 5


@pytest.mark.parametrize("damage", ["cut", "shape", "negative", "beyond"])
def test_counts_of_another_form_are_made_anew(damage: str, tmp_path: Path) -> None:
    empty = {"a": torch.zeros(2, 3, 3, dtype=torch.long), seeds._DONE: torch.tensor(0)}
    kept = {"a": torch.ones(2, 3, 3, dtype=torch.long), seeds._DONE: torch.tensor(4)}
    file = tmp_path / "seeds.safetensors"
    save_file(kept, file)
    assert seeds._counts_so_far(kept_tensors(file), empty, 5).keys() == kept.keys()
    other = {"shape": kept["a"][:1], "negative": -kept["a"]}
    save_file(kept | ({"a": other[damage]} if damage in other else {}), file)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-5])
    assert seeds._counts_so_far(kept_tensors(file), empty, 3 if damage == "beyond" else 5) == {}
