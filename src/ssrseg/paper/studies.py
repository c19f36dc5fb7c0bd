"""What a reproduction measures: rows on a data set under a preset, and in which steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssrseg.config import Config
from ssrseg.data.open import open_labelled
from ssrseg.paper.experiments import Experiment
from ssrseg.paper.gates import GateSetting
from ssrseg.paper.results import Results
from ssrseg.paper.rows import AS_SET, DECODER, DECODER_CRF, TABLES, WITH_CRF, WITH_PAR
from ssrseg.paper.run_experiments import look, run_experiments
from ssrseg.paper.workspace import Task, Workspace

OWN = (AS_SET, WITH_PAR, WITH_CRF, DECODER, DECODER_CRF)
"""The rows in which a preset stands as it is, by which it is held beside another."""

ALL = tuple({row.name: row for rows in TABLES.values() for row in rows}.values())


@dataclass(frozen=True)
class Preset:
    """Named settings on both data sets."""

    name: str
    voc: Config
    coco: Config


@dataclass(frozen=True)
class Reproduction:
    """What is reproduced, and with what.

    Attributes:
        out: Gets results.md, tables, figures, and what they are made of.
        voc, coco: Trees of VOC 2012 and COCO 2014; without the latter its rows stay open.
        preset: Whose claims are held against the paper's.
        beside: An experimental preset that is measured beside it.
        clip_es, weclip: The peers' settings, for the gates.
        download: As for ``prepare_voc``.
        command: How it was called, for the record.
    """

    out: Path
    voc: Path
    coco: Path | None
    preset: Preset
    beside: Preset | None
    clip_es: Config
    weclip: Config
    seeds: int = 3
    jobs: int = 1
    workers: int = 1
    cache: Path | None = None
    device: str = "cpu"
    download: bool | str = False
    command: str = ""


@dataclass(frozen=True)
class Study:
    """Rows that are measured on one data set under one preset."""

    preset: str
    data: str
    rows: tuple[Experiment, ...]
    workspace: Workspace

    @property
    def name(self) -> str:
        """Such as ``ssr on VOC``."""
        return f"{self.preset} on {self.data}"

    def look(self, seeds: int) -> Standing:
        """What is there of so many seeds, and what is not."""
        found, missing = look(self.rows, self.workspace, seeds=seeds)
        first = self.workspace.config.optim.seed
        todo: dict[int, list[Task]] = {number: [] for number in range(1, seeds + 1)}
        for task in {each.key: each for each in missing}.values():
            todo[task.seed - first + 1].append(task)
        return Standing(self, Results(tuple(found)), todo)

    def run(self, seeds: int) -> None:
        """Measure what so many seeds lack."""
        run_experiments(self.rows, self.workspace, seeds=seeds)


@dataclass(frozen=True)
class Standing:
    """What of a study is there.

    Attributes:
        missing: What is not, each measurement once, by the number of its seed from 1 on.
    """

    study: Study
    results: Results
    missing: Mapping[int, Sequence[Task]]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return not any(self.missing.values())


@dataclass(frozen=True)
class Opened:
    """The gates and the studies of a reproduction whose data are ready.

    Attributes:
        studies: The preset on VOC first, then on COCO, then the preset beside it.
    """

    job: Reproduction
    gates: GateSetting
    studies: tuple[Study, ...]


def open_studies(job: Reproduction) -> Opened:
    """Open the data of every step.

    Raises:
        SSRError: If they are not ready; ``prepare_voc`` and ``prepare_coco`` say what is missing.
    """
    train, seeds, val = (
        open_labelled(job.voc, split=name) for name in ("train_aug", "train", "val")
    )
    gates = GateSetting(
        job.out / "gates", seeds, train, val, job.clip_es, job.weclip, job.cache, job.device,
        job.command,
    )  # fmt: skip
    options: dict[str, Any] = {"device": job.device, "jobs": job.jobs, "command": job.command}
    presets = [job.preset, *([job.beside] if job.beside else [])]
    studies = []
    for preset in presets:
        rows = ALL if preset is job.preset else OWN
        on_voc = Workspace(job.out, preset.voc, train, seeds, val, job.cache, **options)
        studies.append(Study(preset.name, "VOC", rows, on_voc))
    if job.coco is not None:
        train, val = (open_labelled(job.coco, split=name) for name in ("train", "val"))
        for preset in presets:
            rows = TABLES[1] if preset is job.preset else (DECODER, DECODER_CRF)
            cache = job.cache and job.cache / "coco"
            on_coco = Workspace(job.out / "coco", preset.coco, train, None, val, cache, **options)
            studies.append(Study(preset.name, "COCO", rows, on_coco))
    return Opened(job, gates, tuple(studies))
