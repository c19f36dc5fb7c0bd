"""Run what a set of experiments lacks: train, score, keep; then read everything."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ssrseg import __version__
from ssrseg.checkpoint import MODEL_FILE, load_checkpoint, load_part
from ssrseg.config import Config
from ssrseg.data.crops import mix
from ssrseg.data.files import atomic_write
from ssrseg.data.sample import LabelledImages
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.evaluation import class_figures, evaluate, mean_figures
from ssrseg.learner import build_alignment, untrained_heads
from ssrseg.method.cmpa import Alignment, no_heads
from ssrseg.method.metrics import Scores
from ssrseg.model import Rectifier, load_rectifier
from ssrseg.paper.cam_seeds import score_seeds
from ssrseg.paper.experiments import KEY_FILE, Experiment, Heads, Result, Task, Workspace, tasks
from ssrseg.paper.provenance import content_key, git_commit, run_identity
from ssrseg.prediction import predict
from ssrseg.pseudo_masks import masks
from ssrseg.training import train

Submit = Callable[..., "Future[None]"]


def measure(
    rows: Sequence[Experiment], workspace: Workspace, *, seeds: int = 1, collect: bool = False
) -> list[Result]:
    """Figures of every row; those that are there already are read, not made again.

    Args:
        rows: Experiments.
        workspace: Where, with which data and settings.
        seeds: Repetitions of what is trained.
        collect: Only read.

    Returns:
        In the order of the rows, then of the seeds; without the missing ones if ``collect``.

    Raises:
        SSRError: Whatever is wrong with data, encoders or settings; finished results stay.
    """
    wanted = tasks(rows, workspace, seeds)
    there = _results(workspace)
    missing = list({task.key: task for task in wanted if task.key not in there}.values())
    if missing and not collect:
        _run(missing, workspace)
        there = _results(workspace)
    found = []
    for task in wanted:
        if task.key in there:
            record = json.loads(there[task.key].read_text(encoding="utf-8"))
            found.append(Result(task.experiment.name, task.seed, record["figures"], record))
    return found


def missing_tasks(
    rows: Sequence[Experiment], workspace: Workspace, *, seeds: int = 1
) -> list[Task]:
    """What :func:`measure` would have to do."""
    there = _results(workspace)
    return [task for task in tasks(rows, workspace, seeds) if task.key not in there]


def _results(workspace: Workspace) -> dict[str, Path]:
    """Result files by key, which ends their names."""
    return {
        path.stem.rsplit("-", 1)[-1]: path for path in (workspace.out / "results").glob("*.json")
    }


def _run(missing: Sequence[Task], workspace: Workspace) -> None:
    """Runs first, side by side; then everything that is scored on them."""
    with _workers(workspace.jobs) as submit:
        runs = {task.run: task for task in missing if task.run is not None}
        _wait([submit(_train, workspace, task) for task in runs.values() if not _finished(task)])
        scored: list[Future[None]] = []
        for group in _passes(missing):
            scored.append(submit(_score_seeds, workspace, group))
        for task in missing:
            if task.experiment.measure == "segmentation":
                scored.append(submit(_score_segmentation, workspace, task))
            elif task.experiment.measure == "masks":
                scored.append(submit(_score_masks, workspace, task))
        _wait(scored)


def _finished(task: Task) -> bool:
    assert task.run is not None
    return (task.run / KEY_FILE).is_file() and (task.run / MODEL_FILE).is_file()


def _passes(missing: Sequence[Task]) -> list[list[Task]]:
    """CAM seeds that see the same images in the same way share a pass over them."""
    groups: dict[object, list[Task]] = {}
    for task in missing:
        if task.experiment.measure == "seeds":
            config = task.config
            shared = (config.data.max_side, config.data.norm, config.backbones, config.prompts)
            cells = (config.sgc.n_segments, config.sgc.compactness)
            groups.setdefault((task.seed, shared, cells), []).append(task)
    return list(groups.values())


@contextmanager
def _workers(jobs: int) -> Iterator[Submit]:
    """A way to start work: in this process, or in several beside it."""
    if jobs == 1:
        yield _at_once
        return
    threads = max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), _quiet_worker, (threads,)) as pool:
        yield pool.submit


def _at_once(work: Callable[..., None], *arguments: object) -> Future[None]:
    work(*arguments)
    done: Future[None] = Future()
    done.set_result(None)
    return done


def _quiet_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    os.environ["TTY_COMPATIBLE"] = "0"  # several live progress bars would overwrite each other


def _wait(work: list[Future[None]]) -> None:
    for each in work:
        each.result()


def _train(workspace: Workspace, task: Task) -> None:
    """Train or go on; the folder says what it is from the first moment on."""
    run, config, training = task.run, task.run_config, task.experiment.training
    assert run is not None and config is not None and training is not None
    assert workspace.train is not None
    marker = run / KEY_FILE
    facts: dict[str, Any] = {"seconds": 0.0}
    if marker.is_file():
        facts = json.loads(marker.read_text(encoding="utf-8"))
    supervision = training.supervision
    whole = run_identity(config, workspace.train, supervision, heads_only=False)
    facts["key"] = content_key(whole)
    if supervision == "labels" and config.cam.mode == "cmpa":
        heads = run_identity(config, workspace.train, supervision, heads_only=True)
        facts["heads"] = content_key(heads)
    _write_json(marker, facts)
    start = time.monotonic()
    train(
        workspace.train,
        run,
        config,
        supervision=supervision,
        cache=workspace.superpixels,
        device=workspace.device,
    )
    facts["seconds"] += time.monotonic() - start
    _write_json(marker, facts)


def _score_seeds(workspace: Workspace, group: Sequence[Task]) -> None:
    """One pass over the images for CAM seeds of many settings, with encoders loaded once."""
    start = time.monotonic()
    data = workspace.seeds
    assert data is not None
    first = group[0].config
    for task in group:  # DINO is loaded if anybody wants it
        affinity = task.config.affinity
        if affinity.kind == "attention" and affinity.dino_weight > 0:
            first = task.config
    base = load_rectifier(first, data.classes, own_prompts=data.prompts, device=workspace.device)
    heads: dict[object, Alignment | None] = {}
    rectifiers = {}
    for task in group:
        which = (task.run, task.experiment.heads)
        if which not in heads:
            heads[which] = _heads(base, *which)
        rectifiers[task.key] = variant(base, task.config, heads[which])
    cells = SuperpixelCache(
        workspace.superpixels, n_segments=first.sgc.n_segments, compactness=first.sgc.compactness
    )
    unfinished = workspace.out / "unfinished"
    found = score_seeds(
        rectifiers, data, cells, alphas=workspace.alphas, keep=unfinished / group[0].key
    )
    seconds = time.monotonic() - start
    for task in group:
        each = found[task.key]
        extra = {
            "alpha": each.alpha,
            "by_alpha": {str(alpha): miou for alpha, miou in each.by_alpha.items()},
            "seconds": seconds,
            "shared_by": len(group),
        }
        _keep(workspace, task, data, each.scores, each.images, each.matrix, extra)
    shutil.rmtree(unfinished / group[0].key, ignore_errors=True)


def _heads(base: Rectifier, run: Path | None, kind: Heads) -> Alignment | None:
    """What stands between CLIP's features and the CAM of a row; None = GradCAM in CLIP's space."""
    if kind == "clip":
        return no_heads(base.text_features.shape[1], 1 / base.clip.logit_scale).to(base.device)
    if run is None:
        return None
    if kind == "temperature":
        trained = load_heads(base, run)
        temperature = float(trained.temperature.detach())
        return no_heads(base.text_features.shape[1], temperature).to(base.device)
    return load_heads(base, run, untrained=kind == "untrained")


def _score_segmentation(workspace: Workspace, task: Task) -> None:
    """Masks of the decoder on images whose labels it does not know."""
    start = time.monotonic()
    data, run = workspace.val, task.run
    assert data is not None and run is not None and task.experiment.training is not None
    crf = task.experiment.crf
    name = f"{task.experiment.training.name}-{'crf' if crf else 'plain'}"
    out = workspace.folder_for(workspace.predictions, name, task.seed, task.key)
    _write_json(out / KEY_FILE, {"key": task.key})
    images = {each.name: each.image for each in data.samples if each.truth is not None}
    clip = task.config.backbones.clip
    test = task.config.test
    predict(images, out, run, clip=clip, crf=crf, test=test, device=workspace.device)
    found = evaluate(out, data)
    extra = {"seconds": time.monotonic() - start, "predictions": _inside(out, workspace)}
    _keep(workspace, task, data, found.scores, found.images, found.matrix, extra)


def _score_masks(workspace: Workspace, task: Task) -> None:
    """Pseudo masks of labelled images, as the decoder would learn from them."""
    start = time.monotonic()
    assert workspace.seeds is not None
    known = tuple(sample for sample in workspace.seeds.samples if sample.truth is not None)
    data = replace(workspace.seeds, samples=known)
    out = workspace.out / "predictions" / f"masks-{task.key}"
    masks(
        data, out, task.config, model=task.run, cache=workspace.superpixels, device=workspace.device
    )
    found = evaluate(out, data)
    extra = {
        "seconds": time.monotonic() - start,
        "predictions": _inside(out, workspace),
        "undecided": found.undecided,
    }
    _keep(workspace, task, data, found.scores, found.images, found.matrix, extra)


def _keep(
    workspace: Workspace,
    task: Task,
    data: LabelledImages,
    found: Scores,
    images: Int[Tensor, " classes"],
    matrix: Int[Tensor, "classes classes"],
    extra: dict[str, Any],
) -> None:
    """Write a result with everything behind its figures."""
    row = task.experiment
    training = None
    if task.run is not None and task.run_config is not None and row.training is not None:
        assert workspace.train is not None
        facts = json.loads((task.run / KEY_FILE).read_text(encoding="utf-8"))
        training = {
            "run": _inside(task.run, workspace),
            "supervision": row.training.supervision,
            "images": len(workspace.train),
            "settings": task.run_config.to_dict(),
            "seconds": facts.get("seconds"),
        }
    backbones = task.config.backbones
    digests = task.identity["encoders"]
    names = {"clip": backbones.clip, "dino": backbones.dino}
    record = {
        "row": row.name,
        "seed": task.seed,
        "measure": row.measure,
        "crf": row.crf,
        "heads": row.heads,
        "figures": mean_figures(found),
        **extra,
        "images": sum(sample.truth is not None for sample in data.samples),
        "data": {"digest": task.identity["data"], "folder": str(data.root)},
        "encoders": {
            which: {"name": names[which], "digest": digest} for which, digest in digests.items()
        },
        "command": workspace.command,
        "version": __version__,
        "commit": git_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": task.config.to_dict(),
        "training": training,
        "classes": class_figures(found, ("background", *data.classes), images),
        "matrix": matrix.tolist(),
        "key": task.key,
    }
    slug = re.sub(r"[^a-z0-9]+", "-", row.name.lower()).strip("-")
    _write_json(workspace.out / "results" / f"{slug}-seed-{task.seed}-{task.key}.json", record)


def _inside(folder: Path, workspace: Workspace) -> str:
    return folder.relative_to(workspace.out).as_posix()


def _write_json(path: Path, table: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def variant(base: Rectifier, config: Config, alignment: Alignment | None) -> Rectifier:
    """The same encoders and texts under other settings."""
    other = copy(base)
    other.config, other.alignment = config, alignment
    return other


def load_heads(base: Rectifier, run: Path, *, untrained: bool = False) -> Alignment:
    """ISA, TSA and τ of a finished run, or as they were before its first iteration."""
    checkpoint = load_checkpoint(run)
    config = checkpoint.config
    if untrained and config.cmpa.init == "random":
        with torch.random.fork_rng():
            torch.manual_seed(mix(config.optim.seed, 0, 3))  # as in training
            return build_alignment(config, base.text_features, None).eval()
    heads = build_alignment(config, base.text_features, None)
    load_part(heads, checkpoint, "alignment", run)
    if untrained:
        start = untrained_heads(heads, config.cmpa.temperature)
        assert start is not None
        heads = start
    return heads.to(base.device).eval()
