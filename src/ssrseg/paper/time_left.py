"""How long what is missing will take: as another seed took, else by trying a few images out."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from ssrseg.checkpoint import MODEL_FILE
from ssrseg.config import Config
from ssrseg.console import without_bars
from ssrseg.data.sample import LabelledImages
from ssrseg.errors import SSRError
from ssrseg.estimate import Estimates, duration, estimate
from ssrseg.feature_cache import photo_sizes
from ssrseg.loading import encoders_on_disk
from ssrseg.paper.gates import Gate, GateSetting
from ssrseg.paper.studies import Standing
from ssrseg.paper.workspace import Task


@dataclass(frozen=True)
class Time:
    """Seconds that can be told, and whether they are all of it."""

    seconds: float = 0.0
    whole: bool = True

    def __add__(self, other: Time) -> Time:
        return Time(self.seconds + other.seconds, self.whole and other.whole)

    def __str__(self) -> str:
        if not self.seconds:
            return "" if self.whole else "unknown"
        return ("about " if self.whole else "more than ") + duration(self.seconds)


@dataclass
class Times:
    """Tells times, and keeps what was tried out."""

    device: str
    _trials: dict[object, Estimates | None] = field(default_factory=dict)

    def of(self, standing: Standing, number: int | None = None) -> Time:
        """The time of what a study lacks, of one seed or of all.

        A training, and the scoring of a row, take as long as with another seed. Where there is none
        yet a training is tried out, and scoring is unknown.
        """
        known = {each.row: each.record for each in standing.results.results}
        todo = [
            task
            for seed, tasks in standing.missing.items()
            for task in tasks
            if number in (None, seed)
        ]
        total = Time()
        for run, task in {task.run: task for task in todo}.items():
            if run is None or (run / MODEL_FILE).is_file():
                continue
            rows = (known.get(each.experiment.name) for each in todo if each.run == run)
            took = next((row["training"]["seconds"] for row in rows if row), None)
            total += _time(took or self._training(standing, task))
        for task in todo:
            record = known.get(task.experiment.name)
            total += _time(record["seconds"] / record.get("shared_by", 1) if record else None)
        return total

    def of_gate(self, gate: Gate, setting: GateSetting) -> Time:
        """The time of a gate, by a trial."""
        if gate.name == "G3":
            masks = self._try(setting.train, setting.clip_es)
            # on given masks no decoder refines CAMs
            affinity = replace(setting.weclip.affinity, rfm_after=None)
            train = self._try(setting.train, replace(setting.weclip, affinity=affinity))
            return _time(masks.masks.seconds if masks else None) + _time(
                train.train.seconds if train else None
            )
        plain = replace(setting.clip_es, pseudo=replace(setting.clip_es.pseudo, refine="none"))
        found = self._try(setting.seeds, plain)
        return _time(found.masks.seconds if found else None)

    def _training(self, standing: Standing, task: Task) -> float | None:
        data, config = standing.study.workspace.train, task.run_config
        assert data is not None and config is not None
        found = self._try(data, config)
        return found.train.seconds if found else None

    def _try(self, data: LabelledImages, config: Config) -> Estimates | None:
        """What masks and training cost here; None if that cannot be told."""
        optim = replace(config.optim, seed=0)
        # one loss takes as long as another
        parts = optim, config.decoder, config.pseudo, config.cam.mode, config.cmpa.map_order
        key = (id(data), repr(parts))
        if key not in self._trials:
            self._trials[key] = None
            encoders = encoders_on_disk(config)
            if not encoders.missing:
                with without_bars(), suppress(SSRError):  # the step itself will say it
                    sizes = photo_sizes(data, config)
                    self._trials[key] = estimate(
                        data, sizes, encoders.config, Path.cwd(), device=self.device
                    )
        return self._trials[key]


def _time(seconds: float | None) -> Time:
    return Time(whole=False) if seconds is None else Time(seconds)
