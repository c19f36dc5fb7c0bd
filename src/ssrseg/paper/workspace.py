"""Named measurements in a folder: what they are, and what of them is there already.

A workspace holds ``runs/`` (folders of ``ssrseg.train``, shared between measurements),
``predictions/`` and ``results/``, one JSON file per measurement with everything behind its figures.
A result is found again by what decides it (``ssrseg.paper.provenance``), not by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ssrseg.checkpoint import MODEL_FILE
from ssrseg.config import Config, load_config, uses_decoder
from ssrseg.data.sample import LabelledImages
from ssrseg.errors import ConfigError, DataError
from ssrseg.networks.vocabulary import refuse_lone_texts
from ssrseg.paper.deciding import scoring_settings
from ssrseg.paper.experiments import Experiment, Training
from ssrseg.paper.provenance import (
    content_key,
    encoder_digests,
    one_look,
    run_identity,
    scored_digest,
    vocabulary_of,
)
from ssrseg.paper.records import read_marker, read_settings
from ssrseg.schedule import resolved

KEY_FILE = "experiment.json"


@dataclass(frozen=True)
class Workspace:
    """Where measurements are made: a folder, data and settings.

    Attributes:
        config: Settings that experiments vary; ``optim.seed`` is the first seed.
        train: Images that are trained on.
        seeds: Images with true masks, whose CAMs and pseudo masks are scored.
        val: Images with true masks, on which decoders are scored.
        cache: Folder of superpixels; None = in the workspace.
        jobs: Processes that train and score side by side.
        alphas: Exponents of the background score; None = the protocol's.
        command: How the workspace was called, for the record.
        runs, predictions: Folders below ``out`` of a run and of its masks.
    """

    out: Path
    config: Config
    train: LabelledImages | None = None
    seeds: LabelledImages | None = None
    val: LabelledImages | None = None
    cache: Path | None = None
    device: str = "cpu"
    jobs: int = 1
    alphas: tuple[float, ...] | None = None
    command: str = ""
    runs: str = "runs/{name}/seed-{seed}"
    predictions: str = "predictions/{name}/seed-{seed}"

    @property
    def superpixels(self) -> Path:
        """Folder of superpixels."""
        return self.cache or self.out / "superpixels"

    def settings(self, seed: int, *overrides: str) -> Config:
        """The workspace's settings with some of an experiment's, resolved for its images.

        Raises:
            ConfigError: If the arithmetic is to be chosen by the machine.
        """
        overrides = (f"optim.seed={seed}", *overrides)
        config = load_config(base=self.config.to_dict(), overrides=overrides)
        if config.backbones.precision == "auto":
            raise ConfigError(
                "backbones.precision=auto depends on the machine, and figures of a table belong"
                " together. Set fp32 or bf16; `ssrseg doctor` says which is faster here."
            )
        return config if self.train is None else resolved(config, len(self.train))

    def folder_for(self, pattern: str, name: str, seed: int, key: str) -> Path:
        """The folder of that name, or, if something else lies there, one named after the key."""
        folder = self.out / pattern.format(name=name, seed=seed)
        marker = folder / KEY_FILE
        if marker.is_file() and read_marker(marker)["key"] != key:
            folder = self.out / pattern.format(name=f"{name}-{key}", seed=seed)
        return folder

    def relative(self, folder: Path) -> str:
        """A folder of the workspace, as records name it."""
        return folder.relative_to(self.out).as_posix()


@dataclass(frozen=True)
class Task:
    """An experiment with one seed: what decides it, and where its parts are.

    Attributes:
        seed: Of the training; of no influence without one.
        config: Settings under which it is scored.
        data: Images that it is scored on.
        identity: All that decides its figures.
        run: Folder of the run it needs; None = training-free.
        run_config: Settings of that run.
    """

    experiment: Experiment
    seed: int
    config: Config
    data: LabelledImages
    identity: Mapping[str, Any]
    run: Path | None = None
    run_config: Config | None = None

    @cached_property
    def key(self) -> str:
        """Name of the measurement, by content."""
        return content_key(dict(self.identity))


@dataclass(frozen=True)
class Result:
    """A measurement that is there.

    Attributes:
        row: The experiment's name.
        figures: ``miou``, ``precision``, ``recall``, ``confusion_ratio``: shares in [0, 1], the
            last one >= 0; None = not defined.
        record: Everything that was written beside them.
    """

    row: str
    seed: int
    figures: Mapping[str, float | None]
    record: Mapping[str, Any]


def tasks(rows: Sequence[Experiment], workspace: Workspace, seeds: int) -> list[Task]:
    """Every row with every seed from ``optim.seed`` on; runs are shared where they can be.

    Args:
        rows: Experiments.
        workspace: Where.
        seeds: Repetitions of what is trained.

    Raises:
        ConfigError: If a row needs CMPA and the settings switch it off, or a data set is missing.
        DataError: If there is no true mask to score against.
    """
    first = workspace.config.optim.seed
    wanted = [
        (row, first + number)
        for row in rows
        for number in range(seeds if row.training is not None else 1)
    ]
    # decoders first: their runs hold heads too
    wanted.sort(key=lambda each: each[0].measure != "segmentation")
    heads = _finished_heads(workspace)
    with one_look():
        found = [_task(row, seed, workspace, heads) for row, seed in wanted]
    order = {row.name: index for index, row in enumerate(rows)}
    return sorted(found, key=lambda each: (order[each.experiment.name], each.seed))


_HeadRuns = dict[str, tuple[Path, Config]]


def _finished_heads(workspace: Workspace) -> _HeadRuns:
    """Runs that are there, by what decides their heads."""
    found: _HeadRuns = {}
    pattern = workspace.runs.format(name="*", seed="*")
    for marker in sorted(workspace.out.glob(f"{pattern}/{KEY_FILE}")):
        heads = read_marker(marker).get("heads")
        if heads and (marker.parent / MODEL_FILE).is_file():
            settings = read_settings(marker.parent / "config.yaml")
            found.setdefault(heads, (marker.parent, settings))
    return found


def _task(row: Experiment, seed: int, workspace: Workspace, heads: _HeadRuns) -> Task:
    training = row.training
    config = workspace.settings(seed, *(training.settings if training else ()), *row.settings)
    if row.measure != "segmentation" and uses_decoder(config):
        raise ConfigError(
            f'"{row.name}" would be scored without its refinement: affinity.rfm_after ='
            f" {config.affinity.rfm_after} wants a trained decoder, which measurements of CAM seeds"
            " and pseudo masks do not train. Give --set affinity.rfm_after=null to leave it out,"
            " measure decoders (ablate: --measure segmentation), or score a trained run by `ssrseg"
            " seeds --model`."
        )
    data = _scored_images(row, workspace)
    identity: dict[str, Any] = {
        "measure": row.measure,
        "settings": scoring_settings(config, row.measure),
        "data": scored_digest(data),
        "classes": data.classes,
        "encoders": encoder_digests(config),
    }
    if row.measure == "segmentation":
        identity["crf"] = row.crf
    else:
        vocabulary = vocabulary_of(config, data)
        if config.cam.mode != "centre":
            refuse_lone_texts(vocabulary, {each.name: each.labels for each in data.samples})
        identity["texts"] = vocabulary.texts
        identity["heads"] = row.heads
    if row.measure == "seeds" and workspace.alphas is not None:
        identity["alphas"] = workspace.alphas
    if training is None:
        return Task(row, seed, config, data, identity)
    run, run_config, identity["training"] = _run_for(row, training, seed, workspace, heads)
    return Task(row, seed, config, data, identity, run, run_config)


def _scored_images(row: Experiment, workspace: Workspace) -> LabelledImages:
    data = workspace.val if row.measure == "segmentation" else workspace.seeds
    if data is None or (row.training is not None and workspace.train is None):
        raise ConfigError(f'"{row.name}" needs images to score and, if trained, to train on.')
    if not any(sample.truth is not None for sample in data.samples):
        raise DataError(
            f"No image of {data.root} that is to be scored has a true mask. Put indexed PNGs (0 ="
            " background, 1 = first class, ..., 255 = ignore) into SegmentationClass/, named like"
            " the images; `ssrseg prepare` makes those of VOC and COCO."
        )
    if row.measure == "segmentation" and row.training is not None and workspace.train is not None:
        trained = {sample.image for sample in workspace.train.samples}
        both = trained & {sample.image for sample in data.samples}
        if both:
            raise DataError(
                f"{len(both)} images are trained on and would be scored as unseen (such as"
                f" {min(both)}). Name splits without common images by --train-split and"
                " --val-split: a split NAME is a list of image names, one a line, in NAME.txt in"
                " the data folder."
            )
    return data


def _run_for(
    row: Experiment, training: Training, seed: int, workspace: Workspace, heads: _HeadRuns
) -> tuple[Path, Config, dict[str, Any]]:
    """Folder and settings of the run that a row needs, and what decides the part it uses."""
    assert workspace.train is not None
    config = workspace.settings(seed, *training.settings)
    heads_only = row.measure != "segmentation"
    if heads_only and config.cam.mode != "cmpa":
        raise ConfigError(
            f'"{row.name}" needs CMPA, which these settings leave out. Choose a preset that has it,'
            " or --set cam.mode=cmpa."
        )
    supervision = training.supervision
    head = content_key(run_identity(config, workspace.train, "labels", heads_only=True))
    if heads_only and head in heads:
        run, config = heads[head]
    else:
        name = training.name
        if heads_only and config.optim.schedule == "staged":
            config = workspace.settings(seed, *training.settings, "optim.iterations=0")
            name += "-heads"
        whole = run_identity(config, workspace.train, supervision, heads_only=False)
        run = workspace.folder_for(workspace.runs, name, seed, content_key(whole))
        if supervision == "labels":
            heads[head] = run, config
    identity = run_identity(config, workspace.train, supervision, heads_only=heads_only)
    return run, config, identity
