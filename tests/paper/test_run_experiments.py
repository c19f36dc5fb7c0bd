from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from make_tiny import tiny_voc
from tiny_encoders import tiny_clip, tiny_config

from ssrseg.checkpoint import load_checkpoint
from ssrseg.config import Config, load_config
from ssrseg.data.class_ids import read_class_ids, write_class_ids
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.errors import CheckpointError, ConfigError, DataError
from ssrseg.evaluation import evaluate
from ssrseg.foreground import collect_foreground
from ssrseg.model import SSR
from ssrseg.paper import provenance
from ssrseg.paper import run_experiments as machinery
from ssrseg.paper.cam_seeds import score_seeds
from ssrseg.paper.experiments import Experiment, Measure, Training
from ssrseg.paper.provenance import encoder_digests
from ssrseg.paper.rows import (
    AS_SET,
    CLIP_CAM,
    CLIP_ES,
    CLIP_ES_DECODER,
    CLIP_READ,
    CMPA_CAM,
    DECODER,
    DECODER_CRF,
    FULL_DECODER,
    PROTOTYPES,
    RAW,
    SSR_TRAINING,
    STEPS,
    TEMPERATURE,
    UNTRAINED,
    coco_settings,
)
from ssrseg.paper.run_experiments import missing_tasks, run_experiments
from ssrseg.paper.variations import ablation_rows
from ssrseg.paper.workspace import Result, Workspace, tasks
from ssrseg.pseudo_masks import make_masks
from ssrseg.trained_parts import identity_alignment, load_alignment, untrained_alignment
from ssrseg.training import train

SMALL = ("optim.cmpa_iterations=3", "optim.iterations=1", "optim.warmup=1", "optim.cmpa_lr=1e-2")


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_voc(tmp_path_factory.mktemp("data") / "voc", n=4, classes=("cat", "red car"))


@pytest.fixture(scope="module")
def template(clip_dir: Path, dino_dir: Path, voc: Path) -> Workspace:
    train_images = open_labelled(voc, split="train")
    return Workspace(
        Path("nowhere"),
        tiny_config(clip_dir, dino_dir, *SMALL),
        train_images,
        train_images,
        open_labelled(voc, split="val"),
        command="ssrseg table 3",
    )


@pytest.fixture(scope="module")
def measured(
    template: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Workspace, list[Result]]:
    workspace = replace(template, out=tmp_path_factory.mktemp("exp"))
    rows = (CLIP_CAM, *STEPS, *UNTRAINED[:1], *TEMPERATURE[:1], *CLIP_READ, DECODER)
    return workspace, run_experiments(rows, workspace, seeds=2)


def by_row(results: list[Result]) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for each in results:
        found.setdefault(each.row, []).append(each)
    return found


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    for name in ("train", "score_seeds", "predict", "make_masks"):
        monkeypatch.setattr(machinery, name, refuse)


# ---------------------------------------------------------------- what is measured


def test_what_is_trained_is_repeated_and_the_rest_is_not(
    measured: tuple[Workspace, list[Result]],
) -> None:
    workspace, results = measured
    seeds = {row: [each.seed for each in found] for row, found in by_row(results).items()}
    for row in (CLIP_CAM, *CLIP_READ):  # nothing is trained for them
        assert seeds.pop(row.name) == [0]
    assert set(map(tuple, seeds.values())) == {(0, 1)}
    runs = sorted(
        path.relative_to(workspace.out).as_posix() for path in workspace.out.glob("runs/*/*")
    )
    assert runs == ["runs/ssr/seed-0", "runs/ssr/seed-1"]  # heads and decoder of one run
    first, second = by_row(results)["CMPA CAM"]
    assert first.figures != second.figures


def test_figures_are_those_of_the_protocol(measured: tuple[Workspace, list[Result]]) -> None:
    workspace, results = measured
    assert workspace.seeds is not None and workspace.val is not None
    cells = SuperpixelCache(None, n_segments=20, compactness=10.0)
    base = SSR.from_config(workspace.config, workspace.seeds.classes)
    run = workspace.out / "runs/ssr/seed-1"
    heads = load_alignment(load_checkpoint(run), base.text_features, run)
    config = load_config(base=workspace.config.to_dict(), overrides=STEPS[-1].settings)
    (direct,) = score_seeds(
        {"x": base.with_config(config, alignment=heads)}, workspace.seeds, cells
    ).values()
    found = by_row(results)["+ SGC"][1]
    assert found.figures["miou"] == direct.scores.miou
    assert found.figures["recall"] == direct.scores.recall
    assert found.record["alpha"] == direct.alpha
    assert found.record["matrix"] == direct.matrix.tolist()
    assert set(found.record["by_alpha"]) == {"0.5", "1.0", "2.0"}
    decoder = by_row(results)["decoder"][0]
    scored = evaluate(workspace.out / decoder.record["predictions"], workspace.val)
    assert decoder.figures["miou"] == scored.scores.miou


def test_a_result_says_what_is_behind_it(measured: tuple[Workspace, list[Result]]) -> None:
    workspace, results = measured
    record = by_row(results)["+ SGC"][1].record
    assert workspace.train is not None and workspace.seeds is not None
    assert record["seed"] == 1
    assert record["settings"]["affinity"]["mask"] == "slic"
    assert record["training"]["settings"]["optim"]["seed"] == 1
    assert record["training"]["run"] == "runs/ssr/seed-1"
    assert record["training"]["images"] == len(workspace.train)
    assert record["training"]["seconds"] > 0
    assert record["images"] == len(workspace.seeds)
    assert record["command"] == "ssrseg table 3"
    assert len(record["encoders"]["clip"]["digest"]) == 16
    assert record["classes"]["red car"]["images"] == 2
    assert list(record["classes"]) == ["background", "cat", "red car"]
    total = sum(map(sum, record["matrix"]))
    assert total == sum(sum(row) for row in by_row(results)["CLIP CAM"][0].record["matrix"])
    name = f"sgc-seed-1-{record['key']}.json"
    assert json.loads((workspace.out / "results" / name).read_text()) == record


def test_controls(measured: tuple[Workspace, list[Result]]) -> None:
    workspace, results = measured
    found = by_row(results)
    # residual heads that were never trained have CLIP's cosines at another temperature
    assert workspace.seeds is not None
    base = SSR.from_config(workspace.config, workspace.seeds.classes)
    cells = SuperpixelCache(None, n_segments=20, compactness=10.0)
    run = workspace.out / "runs/ssr/seed-0"
    checkpoint = load_checkpoint(run)
    trained = load_alignment(checkpoint, base.text_features, run)
    scale = 1 / float(trained.temperature.detach())
    assert scale != pytest.approx(20, abs=1e-3)  # τ has moved
    overrides = ("cam.mode=clip", f"cam.scale={scale}", *RAW)
    config = load_config(base=workspace.config.to_dict(), overrides=overrides)
    (direct,) = score_seeds(
        {"x": base.with_config(config, alignment=None)}, workspace.seeds, cells
    ).values()
    assert found["CLIP at CMPA's temperature, gradcam"][0].figures["miou"] == direct.scores.miou
    untrained = untrained_alignment(checkpoint, base.text_features, run)
    assert float(untrained.temperature.detach()) == pytest.approx(0.05)
    image = torch.nn.functional.normalize(torch.randn(5, 32), dim=-1)
    for head in (untrained.isa, untrained.tsa):  # W0 and nothing else
        assert head.basis is not None
        torch.testing.assert_close(head(image).detach(), image @ head.basis.T)


def test_untrained_random_heads_are_those_before_training(
    template: Workspace, tmp_path: Path
) -> None:
    assert template.train is not None
    config = template.settings(3, "cmpa.init=random", "optim.iterations=0")
    still = replace(config, optim=replace(config.optim, cmpa_lr=1e-30))
    for name, each in (("trained", config), ("still", still)):
        train(template.train, tmp_path / name, each)
    base = SSR.from_config(config, template.train.classes)
    run = tmp_path / "trained"
    heads = untrained_alignment(load_checkpoint(run), base.text_features, run)
    untrained = dict(heads.named_parameters())
    before = load_checkpoint(tmp_path / "still").part("alignment")
    trained = load_checkpoint(tmp_path / "trained").part("alignment")
    for name, value in untrained.items():
        torch.testing.assert_close(value.detach(), before[name])
    assert any(not trained[name].equal(before[name]) for name in untrained)


# ---------------------------------------------------------------- what is not measured again


def test_nothing_is_done_twice(measured: tuple[Workspace, list[Result]], no_work: None) -> None:
    workspace, results = measured
    rows = (CLIP_CAM, *STEPS, *UNTRAINED[:1], *TEMPERATURE[:1], *CLIP_READ, DECODER)
    assert run_experiments(rows, workspace, seeds=2) == results
    assert missing_tasks(rows, workspace, seeds=2) == []
    # the same measurement under another name, such as a row of another table
    (same,) = run_experiments((replace(CLIP_CAM, name="elsewhere"),), workspace)
    assert (same.row, same.figures) == ("elsewhere", by_row(results)["CLIP CAM"][0].figures)
    third = missing_tasks((CMPA_CAM,), workspace, seeds=3)
    assert [task.seed for task in third] == [2]
    assert (
        run_experiments((CMPA_CAM,), workspace, seeds=3, collect=True)
        == by_row(results)["CMPA CAM"]
    )


def test_speed_and_places_do_not_count(
    measured: tuple[Workspace, list[Result]], no_work: None, clip_dir: Path, tmp_path: Path
) -> None:
    workspace, results = measured
    moved = shutil.copytree(clip_dir, tmp_path / "moved")
    idle = ("data.workers=1", "optim.save_every=7", f"backbones.clip={moved}", "test.flip=false")
    other = replace(workspace, config=workspace.settings(0, *idle), jobs=3, command="else")
    assert run_experiments((CMPA_CAM,), other, seeds=2) == by_row(results)["CMPA CAM"]


def test_image_prototypes_stand_in_the_place_of_texts(
    measured: tuple[Workspace, list[Result]], clip_dir: Path, tmp_path: Path
) -> None:
    """Means of unit features by class and by nearest background word; encoders may have moved."""
    workspace = measured[0]
    moved = Path(shutil.copytree(clip_dir, tmp_path / "moved"))
    other = replace(workspace, config=workspace.settings(0, f"backbones.clip={moved}"))
    assert other.train is not None and other.seeds is not None
    row = PROTOTYPES[1]
    (found,) = run_experiments((row,), other)
    assert found.record["training"]["run"] == "runs/ssr/seed-0"
    # by hand
    cells = SuperpixelCache(None, n_segments=20, compactness=10.0)
    config = other.settings(0, *row.settings)
    base = SSR.from_config(config, other.train.classes)
    pooled = collect_foreground(base, other.train, cells, aligned=False)
    features = [*pooled.pooled, *pooled.background]
    texts, n_classes = base.text_features, base.n_classes
    words = [n_classes + int((texts[n_classes:] @ each).argmax()) for each in pooled.background]
    owners = [*pooled.classes.tolist(), *words]
    rows = texts.clone()
    for word in set(owners):
        own = [each / each.norm() for each, owner in zip(features, owners, strict=True)
               if owner == word]  # fmt: skip
        rows[word] = torch.stack(own).mean(0)
    heads = identity_alignment(base.clip, 1 / base.clip.logit_scale, text=rows)
    model = base.with_config(config, alignment=heads)
    (direct,) = score_seeds({"x": model}, other.seeds, cells).values()
    assert found.figures["miou"] == pytest.approx(direct.scores.miou, abs=1e-6)
    plain = base.with_config(config, alignment=identity_alignment(base.clip, 0.01))
    (texts_alone,) = score_seeds({"x": plain}, other.seeds, cells).values()
    assert direct.matrix.tolist() != texts_alone.matrix.tolist()
    # other training images are other prototypes
    fewer = replace(other, train=replace(other.train, samples=other.train.samples[1:]))
    assert {task.key for task in tasks((row,), fewer, 1)}.isdisjoint({found.record["key"]})


def test_a_changed_setting_is_measured_anew_and_the_old_figure_stays(
    measured: tuple[Workspace, list[Result]],
) -> None:
    workspace, results = measured
    before = sorted(workspace.out.glob("results/*.json"))
    changed = replace(workspace, config=workspace.settings(0, "sgc.k_colour=2"))
    (found,) = run_experiments((STEPS[-1],), changed)
    assert found.record["training"]["run"] == "runs/ssr/seed-0"  # heads do not see sgc
    assert found.record["settings"]["sgc"]["k_colour"] == 2
    after = sorted(workspace.out.glob("results/*.json"))
    assert set(before) < set(after) and len(after) == len(before) + 1
    assert run_experiments((STEPS[-1],), workspace, seeds=2) == by_row(results)["+ SGC"]


def test_data_are_looked_at_once_and_again_the_next_time(
    template: Workspace, voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row and seed names the data; to ask ten thousand files each time takes minutes."""
    root = Path(shutil.copytree(voc, tmp_path / "voc"))
    images = open_labelled(root, split="train")
    workspace = replace(template, out=tmp_path / "exp", train=images, seeds=images)
    looks: list[bool] = []
    digest = provenance.data_digest

    def counted(data: LabelledImages, *, truth: bool = False) -> str:
        looks.append(truth)
        return digest(data, truth=truth)

    monkeypatch.setattr(provenance, "data_digest", counted)
    first = tasks(STEPS, workspace, 3)
    assert len(first) == 12 and sorted(looks) == [False, True]  # trained on, scored
    truth = images.samples[0].truth
    assert truth is not None
    write_class_ids(truth, read_class_ids(truth).fill_(1))
    again = tasks(STEPS, workspace, 3)
    assert len(looks) == 4
    with provenance.one_look():
        assert [task.key for task in again] == [task.key for task in tasks(STEPS, workspace, 3)]
        tasks(STEPS[:1], workspace, 2)
    assert len(looks) == 6
    assert not {task.key for task in first} & {task.key for task in again}


@pytest.mark.parametrize(
    "change",
    ["cmpa.pos=cluster", "optim.seed=5", "cam.scale=3.0", "data.max_side=48", "optim.pairs=2"],
)
def test_what_training_sees_is_trained_anew(
    change: str, measured: tuple[Workspace, list[Result]]
) -> None:
    workspace, _ = measured
    changed = replace(workspace, config=workspace.settings(0, change))
    (task,) = tasks((CMPA_CAM,), changed, 1)
    assert task in missing_tasks((CMPA_CAM,), changed)
    assert task.run is not None and not task.run.exists()


def test_other_weights_under_the_same_name_are_noticed(template: Workspace, tmp_path: Path) -> None:
    folder = tiny_clip(tmp_path / "clip", seed=5)
    workspace = replace(
        template,
        out=tmp_path / "exp",
        config=template.settings(0, f"backbones.clip={folder}"),
    )
    (before,) = run_experiments((CLIP_CAM,), workspace)
    assert before == run_experiments((CLIP_CAM,), workspace)[0]
    tiny_clip(folder, seed=6)
    (after,) = run_experiments((CLIP_CAM,), workspace)
    assert after.record["key"] != before.record["key"]
    assert after.figures != before.figures


def test_the_exponent_counts_where_it_is_not_swept(template: Workspace) -> None:
    def keys(alpha: float) -> dict[str, str]:
        workspace = replace(template, config=template.settings(0, f"pseudo.alpha={alpha}"))
        free = [Experiment(x, ("cam.mode=clip", f"pseudo.refine={x}")) for x in ("par", "crf")]
        return {each.experiment.name: each.key for each in tasks(free, workspace, 1)}

    one, two = keys(1.0), keys(2.0)
    assert one["par"] == two["par"] and one["crf"] != two["crf"]


def test_coco_has_the_schedules_of_the_papers() -> None:
    def of(preset: str) -> Config:
        config = load_config(preset)
        return load_config(preset, overrides=coco_settings(config))

    for preset in ("ssr", "paper", "weclip"):
        found = of(preset)
        assert (found.prompts.set, found.sgc.high) == ("coco", 0.7)
        assert found.optim.iterations == 80_000
    assert [of(preset).optim.batch for preset in ("ssr", "paper", "weclip")] == [16, 256, 4]
    refined = of("weclip").affinity
    assert (refined.rfm_after, refined.rfm_layers) == (40_000, -10)
    assert of("ssr").affinity.rfm_after is None


@pytest.mark.parametrize("measure", ["seeds", "masks"])
def test_nothing_is_scored_without_the_refinement_that_its_settings_name(
    template: Workspace, clip_dir: Path, dino_dir: Path, measure: Measure
) -> None:
    config = tiny_config(clip_dir, dino_dir, *SMALL, preset="weclip")
    workspace = replace(template, config=config)
    for row in (AS_SET, *ablation_rows(["sgc.high=0.3,0.5"], config, measure)):
        with pytest.raises(
            ConfigError, match=r"scored without its refinement: affinity\.rfm_after = 15000 .*=null"
        ):
            tasks((row,), workspace, 1)
    # these are what their names say, under any preset
    named = (*STEPS, CLIP_ES, CLIP_CAM)
    assert all(task.config.affinity.rfm_after is None for task in tasks(named[1:-1], workspace, 1))
    assert len(tasks(named, workspace, 1)) == len(named)
    (decoder,) = tasks(ablation_rows(["sgc.high=0.3"], config, "segmentation"), workspace, 1)
    assert decoder.run_config is not None
    assert decoder.run_config.affinity.rfm_after == 15_000
    (es,) = tasks((CLIP_ES_DECODER,), workspace, 1)
    assert es.run_config is not None
    assert es.run_config.affinity.rfm_after is None  # CLIP-ES's CAMs have no such refinement
    plain = replace(workspace, config=workspace.settings(0, "affinity.rfm_after=null"))
    assert tasks((AS_SET,), plain, 1)


def test_other_images_or_labels_are_noticed(measured: tuple[Workspace, list[Result]]) -> None:
    workspace, _ = measured
    assert workspace.seeds is not None and workspace.train is not None
    fewer = replace(workspace.seeds, samples=workspace.seeds.samples[:-1])
    (task,) = missing_tasks((CMPA_CAM,), replace(workspace, seeds=fewer))
    assert task.run == workspace.out / "runs/ssr/seed-0"
    first = replace(workspace.train.samples[0], labels=(0, 1))
    other = replace(workspace.train, samples=(first, *workspace.train.samples[1:]))
    (task,) = missing_tasks((CMPA_CAM,), replace(workspace, train=other))
    assert task.run != workspace.out / "runs/ssr/seed-0"
    bare = replace(
        workspace.seeds,
        samples=(*workspace.seeds.samples, replace(first, name="other", truth=None)),
    )
    assert missing_tasks((CMPA_CAM,), replace(workspace, seeds=bare)) == []  # scores nothing more


def test_the_configuration_of_an_encoder_counts(template: Workspace, tmp_path: Path) -> None:
    folder = tiny_clip(tmp_path / "clip", seed=5)
    config = template.settings(0, f"backbones.clip={folder}")
    before = encoder_digests(config)
    assert before == encoder_digests(config)
    text = (folder / "config.json").read_text()
    assert "quick_gelu" in text
    (folder / "config.json").write_text(text.replace("quick_gelu", "gelu"))
    after = encoder_digests(config)
    assert after["clip"] != before["clip"] and after["dino"] == before["dino"]


def test_contents_of_masks_and_images_count(template: Workspace, tmp_path: Path) -> None:
    voc = tiny_voc(tmp_path / "voc", n=4, classes=("cat", "red car"))
    images = open_labelled(voc, split="train")
    workspace = replace(template, out=tmp_path / "exp", train=images, seeds=images)

    def keys() -> tuple[str, str, Path | None, str]:
        cam, heads = tasks((CLIP_CAM, CMPA_CAM), workspace, 1)
        (full,) = tasks((FULL_DECODER,), workspace, 1)
        return cam.key, heads.key, heads.run, str(full.identity["training"])

    before = keys()
    truth = images.samples[0].truth
    assert truth is not None and keys() == before
    ids = read_class_ids(truth)
    write_class_ids(truth, ids.flip(0).flip(1))
    after = keys()
    assert after[0] != before[0] and after[1] != before[1] and after[3] != before[3]
    photo = images.samples[0].image
    photo.write_bytes(photo.read_bytes() + b"more")
    assert keys()[3] != after[3]


def test_unseen_images_are_not_trained_on(template: Workspace) -> None:
    assert template.val is not None and template.train is not None
    both = replace(template.val, samples=(*template.val.samples, template.train.samples[0]))
    with pytest.raises(DataError, match=r"1 images are trained on .*--train-split and --val-split"):
        tasks((DECODER,), replace(template, val=both), 1)
    assert tasks((CMPA_CAM,), replace(template, val=both), 1)


def test_options_beyond_clip_es_do_not_touch_it(template: Workspace) -> None:
    more = ("affinity.cda_temperature=0.001", "sgc.axis=both", "affinity.sinkhorn=1")
    plain, other = (
        tasks((CLIP_ES,), replace(template, config=template.settings(0, *each)), 1)[0]
        for each in ((), more)
    )
    assert plain.key == other.key


# ---------------------------------------------------------------- runs


def test_heads_alone_need_no_decoder(template: Workspace, tmp_path: Path) -> None:
    workspace = replace(template, out=tmp_path)
    (cam,) = run_experiments((CMPA_CAM,), workspace)
    assert cam.record["training"]["run"] == "runs/ssr-heads/seed-0"
    assert load_checkpoint(tmp_path / "runs/ssr-heads/seed-0").iteration == 3
    whole, _ = run_experiments((DECODER, CMPA_CAM), workspace)
    assert whole.record["training"]["run"] == "runs/ssr/seed-0"
    a = load_checkpoint(tmp_path / "runs/ssr-heads/seed-0").part("alignment")
    b = load_checkpoint(tmp_path / "runs/ssr/seed-0").part("alignment")
    assert all(a[name].equal(b[name]) for name in a)  # which is why they may be shared


def test_what_a_run_decides_when_it_begins_does_not_hide_its_figures(
    template: Workspace, tmp_path: Path
) -> None:
    """Heads are trained with ``optim.features = auto``, and their run says cached or online."""
    config = load_config(base=template.config.to_dict(), overrides=["optim.features=auto"])
    workspace = replace(template, out=tmp_path / "auto", config=config)
    found = run_experiments((CMPA_CAM, DECODER), workspace)
    assert [each.row for each in found] == ["CMPA CAM", "decoder"]
    assert missing_tasks((CMPA_CAM, DECODER), workspace) == []
    alone = replace(workspace, out=tmp_path / "alone")
    assert [each.figures for each in run_experiments((CMPA_CAM,), alone)] == [found[0].figures]
    assert missing_tasks((CMPA_CAM,), alone) == []


def test_an_interrupted_measurement_goes_on(
    template: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = replace(template, out=tmp_path)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    real = machinery.train
    with monkeypatch.context() as patch:
        patch.setattr(machinery, "train", lambda *a, **k: real(*a, **k, stop_after=2))
        patch.setattr(machinery, "score_seeds", interrupt)
        with pytest.raises((KeyboardInterrupt, CheckpointError)):
            run_experiments((CMPA_CAM,), workspace)
    run = tmp_path / "runs/ssr-heads/seed-0"
    assert not (run / "model.safetensors").exists()
    with monkeypatch.context() as patch:
        patch.setattr(machinery, "score_seeds", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_experiments((CMPA_CAM,), workspace)
    assert (run / "model.safetensors").exists()
    rows = (run / "log.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["iteration", "1", "2", "3"]
    with monkeypatch.context() as patch:
        patch.setattr(machinery, "train", interrupt)
        (found,) = run_experiments((CMPA_CAM,), workspace)
    assert found.record["training"]["seconds"] > 0
    assert not list(tmp_path.rglob("*.tmp*"))


def test_a_folder_that_holds_something_else_is_left_alone(
    measured: tuple[Workspace, list[Result]],
) -> None:
    workspace, _ = measured
    changed = replace(workspace, config=workspace.settings(0, "decoder.dropout=0.5"))
    before = (workspace.out / "runs/ssr/seed-0/model.safetensors").read_bytes()
    (found,) = run_experiments((DECODER,), changed)
    assert found.record["training"]["run"].startswith("runs/ssr-")
    assert (workspace.out / "runs/ssr/seed-0/model.safetensors").read_bytes() == before
    assert run_experiments((DECODER,), workspace)[0].record["training"]["run"] == "runs/ssr/seed-0"


def test_predictions_with_and_without_crf_and_other_scales(
    measured: tuple[Workspace, list[Result]],
) -> None:
    workspace, results = measured
    plain = by_row(results)["decoder"][0]
    (crf,) = run_experiments((DECODER_CRF,), workspace)
    scaled = Experiment("scaled", ("test.scales=[2.0]",), SSR_TRAINING, "segmentation")
    (other,) = run_experiments((scaled,), workspace)
    folders = [each.record["predictions"] for each in (plain, crf, other)]
    assert folders[:2] == ["predictions/ssr-plain/seed-0", "predictions/ssr-crf/seed-0"]
    assert folders[2].startswith("predictions/ssr-plain-")
    runs = {each.record["training"]["run"] for each in (plain, crf, other)}
    assert runs == {"runs/ssr/seed-0"}
    made_by = [(workspace.out / folder / "settings.txt").read_text() for folder in folders]
    assert "crf: False" in made_by[0] and "crf: True" in made_by[1]
    assert "test.scales: [2.0]" in made_by[2] and "test.scales: [1.0]" in made_by[0]


def test_full_supervision(measured: tuple[Workspace, list[Result]]) -> None:
    workspace, _ = measured
    (found,) = run_experiments((FULL_DECODER,), workspace)
    assert found.record["training"]["supervision"] == "full"
    checkpoint = load_checkpoint(workspace.out / "runs/full/seed-0")
    assert checkpoint.supervision == "full" and not checkpoint.part("alignment")
    # true masks know nothing of CAMs
    other = replace(workspace, config=workspace.settings(0, "sgc.high=0.2", "cmpa.pos=cluster"))
    assert run_experiments((FULL_DECODER,), other) == [found]


def test_pseudo_masks(measured: tuple[Workspace, list[Result]], tmp_path: Path) -> None:
    workspace, _ = measured
    row = Experiment("masks", ("pseudo.alpha=2.0",), SSR_TRAINING, "masks")
    (found,) = run_experiments((row,), workspace)
    assert workspace.seeds is not None
    config = workspace.settings(0, "pseudo.alpha=2.0")
    make_masks(workspace.seeds, tmp_path / "masks", config, model=workspace.out / "runs/ssr/seed-0")
    assert found.figures["miou"] == evaluate(tmp_path / "masks", workspace.seeds).scores.miou


def test_faults(template: Workspace, tmp_path: Path) -> None:
    off = replace(template, out=tmp_path, config=template.settings(0, "cam.mode=clip"))
    with pytest.raises(ConfigError, match=r'"mine" needs CMPA'):
        run_experiments((Experiment("mine", RAW, SSR_TRAINING),), off)
    assert len(tasks((CLIP_CAM, Experiment("d", (), Training("t"), "segmentation")), off, 2)) == 3
    with pytest.raises(ConfigError, match=r'"decoder" needs images to score'):
        run_experiments((DECODER,), replace(template, val=None))
    assert template.seeds is not None
    bare = tuple(replace(sample, truth=None) for sample in template.seeds.samples)
    unscored = replace(template, out=tmp_path, seeds=replace(template.seeds, samples=bare))
    with pytest.raises(DataError, match="to be scored has a true mask"):
        run_experiments((CMPA_CAM,), unscored)  # before anything is trained
    assert not list(tmp_path.iterdir())
