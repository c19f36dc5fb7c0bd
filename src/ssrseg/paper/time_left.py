"""How long what is missing will take: as another seed took, else by trying a few images out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ssrseg.checkpoint import MODEL_FILE
from ssrseg.console import note
from ssrseg.errors import SSRError
from ssrseg.estimate import duration, estimate
from ssrseg.feature_cache import photo_sizes
from ssrseg.loading import encoders_on_disk
from ssrseg.paper.experiments import Task
from ssrseg.paper.studies import Study

Record = Mapping[str, Any]


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
    trials: dict[object, float | None] = field(default_factory=dict)

    def of(self, study: Study, todo: Sequence[Task], done: Iterable[Record]) -> Time:
        """The time of measurements that a study lacks, by the records of those of other seeds."""
        known = {record["row"]: record for record in done}
        total = Time()
        for run, task in {task.run: task for task in todo}.items():
            if run is None or (run / MODEL_FILE).is_file():
                continue
            rows = (known.get(each.experiment.name) for each in todo if each.run == run)
            trained = next((row["training"]["seconds"] for row in rows if row), None)
            total += _time(trained or self._try(study, task))
        for task in todo:
            record = known.get(task.experiment.name)
            total += _time(record["seconds"] / record.get("shared_by", 1) if record else None)
        return total

    def _try(self, study: Study, task: Task) -> float | None:
        """Seconds of a training, by ``estimate``; None if it cannot be told here."""
        data, config = study.workspace.train, task.run_config
        assert data is not None and config is not None
        # a loss takes as long as another
        optim = replace(config.optim, seed=0)
        key = (id(data), repr((optim, config.decoder, config.cam.mode, config.cmpa.map_order)))
        if key not in self.trials:
            self.trials[key] = None
            encoders = encoders_on_disk(config)
            if not encoders.missing:
                note(f"Trying out how long a training takes ({study.name}).")
                with suppress(SSRError):  # the training itself will say it
                    sizes = photo_sizes(data, config)
                    cost = estimate(data, sizes, encoders.config, Path.cwd(), device=self.device)
                    self.trials[key] = cost.train.seconds
        return self.trials[key]


def _time(seconds: float | None) -> Time:
    return Time(whole=False) if seconds is None else Time(seconds)
