"""Run what a set of experiments lacks: train, score, keep; then read everything."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ssrseg.checkpoint import MODEL_FILE, load_checkpoint
from ssrseg.config import uses_dino
from ssrseg.console import named
from ssrseg.data.files import only_writer, sweep, write_json
from ssrseg.data.photos import refuse_unusable
from ssrseg.data.sample import LabelledImages
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.evaluation import Evaluation, class_figures, evaluate, mean_figures
from ssrseg.foreground import frozen_foreground
from ssrseg.method.cmpa import Alignment, image_prototypes
from ssrseg.model import SSR
from ssrseg.paper.cam_seeds import SeedScores, score_seeds
from ssrseg.paper.experiments import Experiment
from ssrseg.paper.provenance import content_key, git_commit, run_identity
from ssrseg.paper.records import read_marker, read_result
from ssrseg.paper.workspace import KEY_FILE, Result, Task, Workspace, tasks
from ssrseg.prediction import predict
from ssrseg.prepare.workers import WorkerPool
from ssrseg.pseudo_masks import make_masks
from ssrseg.trained_parts import identity_alignment, load_alignment, untrained_alignment
from ssrseg.training import FOREGROUND, train

Call = tuple[Callable[..., None], Workspace, Any]


def run_experiments(
    rows: Sequence[Experiment], workspace: Workspace, *, seeds: int = 1, collect: bool = False
) -> list[Result]:
    """Figures of every row; those that are there already are read, not made again.

    Args:
        rows: Experiments.
        workspace: Where, with which data and settings.
        seeds: Repetitions of what is trained.
        collect: Only read; then missing ones are left out.

    Returns:
        In the order of the rows, then of the seeds.

    Raises:
        SSRError: Whatever is wrong with data, encoders or settings; finished results stay.
    """
    found, missing = look(rows, workspace, seeds=seeds)
    if missing and not collect:
        _run(list({task.key: task for task in missing}.values()), workspace)
        found, _ = look(rows, workspace, seeds=seeds)
    return found


def look(
    rows: Sequence[Experiment], workspace: Workspace, *, seeds: int = 1
) -> tuple[list[Result], list[Task]]:
    """What is there, read, and what ``run_experiments`` would have to do."""
    there, found, missing = _results(workspace), [], []
    for task in tasks(rows, workspace, seeds):
        if task.key in there:
            record = read_result(there[task.key], task.key, task.data.classes)
            found.append(Result(task.experiment.name, task.seed, record["figures"], record))
        else:
            missing.append(task)
    return found, missing


def missing_tasks(
    rows: Sequence[Experiment], workspace: Workspace, *, seeds: int = 1
) -> list[Task]:
    """What ``run_experiments`` would have to do."""
    return look(rows, workspace, seeds=seeds)[1]


def _results(workspace: Workspace) -> dict[str, Path]:
    """Result files by key, which ends their names."""
    found = (workspace.out / "results").glob("*.json")
    return {path.stem.rsplit("-", 1)[-1]: path for path in found}


def _run(missing: Sequence[Task], workspace: Workspace) -> None:
    """Runs first, side by side; then everything that is scored on them."""
    runs = {task.run: task for task in missing if task.run and not _is_finished(task)}
    others = [task for task in missing if task.experiment.measure != "seeds"]
    sweep(workspace.superpixels)
    used = {id(task.data): task.data for task in missing}
    if runs and workspace.train is not None:
        used[id(workspace.train)] = workspace.train
    for data in used.values():  # all bad files at once, before hours of work
        refuse_unusable(data, workspace.config.data)
    with only_writer(workspace.out), _workers(workspace.jobs) as run_all:
        run_all((_train, workspace, task) for task in runs.values())
        scored = [(_score_seeds, workspace, group) for group in _seed_passes(missing)]
        run_all([*scored, *((_score_masks, workspace, task) for task in others)])


def _is_finished(task: Task) -> bool:
    assert task.run is not None
    return (task.run / KEY_FILE).is_file() and (task.run / MODEL_FILE).is_file()


def _seed_passes(missing: Sequence[Task]) -> list[list[Task]]:
    """CAM seeds that see the same images in the same way share a pass over them."""
    groups: dict[object, list[Task]] = {}
    for task in missing:
        if task.experiment.measure == "seeds":
            config = task.config
            images = (config.data.max_side, config.data.norm, config.backbones, config.prompts)
            sgc = config.sgc
            cells = (sgc.n_segments, sgc.compactness, sgc.slic_zoom)
            groups.setdefault((task.seed, images, cells), []).append(task)
    return list(groups.values())


@contextmanager
def _workers(jobs: int) -> Iterator[Callable[[Iterable[Call]], None]]:
    """A way to get work done: in this process, or in several beside it."""

    def here(calls: Iterable[Call]) -> None:
        for work, *arguments in calls:
            work(*arguments)

    if jobs == 1:
        yield here
        return
    threads = max(1, torch.get_num_threads() // jobs)
    with WorkerPool(jobs, threads=threads) as pool:

        def beside(calls: Iterable[Call]) -> None:
            for each in [pool.submit(work, *arguments) for work, *arguments in calls]:
                each.result()

        yield beside


def _train(workspace: Workspace, task: Task) -> None:
    """Train or go on; the folder says what it is from the first moment on."""
    run, config, training = task.run, task.run_config, task.experiment.training
    data = workspace.train
    assert run is not None and config is not None and training is not None and data is not None
    marker, supervision = run / KEY_FILE, training.supervision
    facts: dict[str, Any] = {"seconds": 0.0}
    if marker.is_file():
        facts |= read_marker(marker)
    facts["key"] = content_key(run_identity(config, data, supervision, heads_only=False))
    if supervision == "labels" and config.cam.mode == "cmpa":
        facts["heads"] = content_key(run_identity(config, data, supervision, heads_only=True))
    write_json(marker, facts)
    start = time.monotonic()
    with named(workspace.relative(run)):
        train(
            data,
            run,
            config,
            supervision=supervision,
            cache=workspace.superpixels,
            strict=True,
            device=workspace.device,
        )
    facts["seconds"] += time.monotonic() - start
    write_json(marker, facts)


def _score_seeds(workspace: Workspace, group: Sequence[Task]) -> None:
    """One pass over the images for CAM seeds of many settings, with encoders loaded once."""
    start = time.monotonic()
    data = group[0].data
    # DINO is loaded if a setting wants it
    first = max((task.config for task in group), key=uses_dino)
    base = SSR.from_config(
        first,
        data.classes,
        prompts=data.prompts,
        background=data.background,
        device=workspace.device,
    )
    superpixels = SuperpixelCache.of(workspace.superpixels, first.sgc)
    heads: dict[object, Alignment | None] = {}
    models = {}
    for task in group:
        which = (task.run, task.experiment.heads)
        if which not in heads:
            prototypes = task.experiment.heads == "prototypes"
            heads[which] = (
                _prototypes_as_texts(base, workspace, task, superpixels)
                if prototypes
                else _alignment(base, task)
            )
        models[task.key] = base.with_config(task.config, alignment=heads[which])
    unfinished = workspace.out / "unfinished" / group[0].key
    found = score_seeds(models, data, superpixels, alphas=workspace.alphas, keep=unfinished)
    seconds = time.monotonic() - start
    for task in group:
        each = found[task.key]
        extra = {
            "alpha": each.alpha,
            "by_alpha": {str(alpha): miou for alpha, miou in each.by_alpha.items()},
            "seconds": seconds,
            "shared_by": len(group),
        }
        _keep(workspace, task, each, extra)
    shutil.rmtree(unfinished, ignore_errors=True)


def _alignment(base: SSR, task: Task) -> Alignment | None:
    """What stands between CLIP's features and the CAM of a row; None = GradCAM in CLIP's space."""
    kind, run = task.experiment.heads, task.run
    if run is None:
        return None
    load = untrained_alignment if kind == "untrained" else load_alignment
    alignment = load(load_checkpoint(run), base.text_features, run)
    if kind == "temperature":
        return identity_alignment(base.clip, float(alignment.temperature.detach()))
    return alignment


def _prototypes_as_texts(
    base: SSR, workspace: Workspace, task: Task, superpixels: SuperpixelCache
) -> Alignment:
    """Means of the pooled features of each class and background word, from the training set."""
    assert workspace.train is not None and task.run_config is not None
    # the run may have named the same encoders and prompts otherwise
    config = replace(task.run_config, backbones=base.config.backbones, prompts=base.config.prompts)
    model = base.with_config(config, alignment=None)
    folder = workspace.superpixels / FOREGROUND
    found = frozen_foreground(model, workspace.train, superpixels, folder)
    text = base.text_features
    features, classes = found.with_backgrounds(text, base.n_classes)
    rows = image_prototypes(
        features.to(text), classes.to(text.device), text, method="class_mean"
    ).image
    return identity_alignment(base.clip, 1 / base.clip.logit_scale, text=rows)


def _score_masks(workspace: Workspace, task: Task) -> None:
    """Masks of the decoder or pseudo masks, written and held against the true ones."""
    start = time.monotonic()
    known = tuple(sample for sample in task.data.samples if sample.truth is not None)
    data = replace(task.data, samples=known)
    if task.experiment.measure == "segmentation":
        out = _segment(workspace, task, data)
    else:
        out = workspace.out / "predictions" / f"masks-{task.key}"
        cache, device = workspace.superpixels, workspace.device
        make_masks(
            data, out, task.config, model=task.run, cache=cache, device=device, strict=True,
            report=False,
        )  # fmt: skip
    found = evaluate(out, data)
    extra = {"seconds": time.monotonic() - start, "predictions": workspace.relative(out)}
    if task.experiment.measure == "masks":
        extra["undecided"] = found.undecided
    _keep(workspace, task, found, extra)


def _segment(workspace: Workspace, task: Task, data: LabelledImages) -> Path:
    """Masks of the decoder on images whose labels it does not know."""
    row, run, config = task.experiment, task.run, task.config
    assert run is not None and row.training is not None
    name = f"{row.training.name}-{'crf' if row.crf else 'plain'}"
    out = workspace.folder_for(workspace.predictions, name, task.seed, task.key)
    write_json(out / KEY_FILE, {"key": task.key})
    predict(
        {sample.name: sample.image for sample in data.samples},
        out,
        run,
        clip=config.backbones.clip,
        crf=row.crf,
        test=config.test,
        device=workspace.device,
        strict=True,
        report=False,
    )
    return out


def _keep(
    workspace: Workspace, task: Task, found: SeedScores | Evaluation, extra: dict[str, Any]
) -> None:
    """Write a result with everything behind its figures."""
    row, training = task.experiment, None
    if task.run is not None and task.run_config is not None and row.training is not None:
        assert workspace.train is not None
        training = {
            "run": workspace.relative(task.run),
            "supervision": row.training.supervision,
            "images": len(workspace.train),
            "settings": task.run_config.to_dict(),
            "seconds": read_marker(task.run / KEY_FILE).get("seconds", 0.0),
        }
    record = {
        "row": row.name,
        "seed": task.seed,
        "measure": row.measure,
        "crf": row.crf,
        "heads": row.heads,
        "figures": mean_figures(found.scores),
        **extra,
        "images": sum(sample.truth is not None for sample in task.data.samples),
        "data": {"digest": task.identity["data"], "folder": str(task.data.root)},
        "encoders": {
            which: {"name": getattr(task.config.backbones, which), "digest": digest}
            for which, digest in task.identity["encoders"].items()
        },
        "command": workspace.command,
        "version": version("ssrseg"),
        "commit": git_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": task.config.to_dict(),
        "training": training,
        "classes": class_figures(found.scores, ("background", *task.data.classes), found.images),
        "matrix": found.matrix.tolist(),
        "key": task.key,
    }
    slug = re.sub(r"[^a-z0-9]+", "-", row.name.lower()).strip("-")
    write_json(workspace.out / "results" / f"{slug}-seed-{task.seed}-{task.key}.json", record)
