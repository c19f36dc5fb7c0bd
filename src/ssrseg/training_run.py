"""What stays the same through a training run, and how it goes on with an earlier one."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from ssrseg.checkpoint import (
    STATE_FILE,
    Checkpoint,
    check_same_run,
    data_digest,
    load_checkpoint,
)
from ssrseg.config import Config, OptimConfig, load_config
from ssrseg.console import note
from ssrseg.data.files import writing
from ssrseg.data.photos import all_faults, usable_photos
from ssrseg.data.sample import LabelledImages
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.errors import CheckpointError, ConfigError
from ssrseg.failures import Failure, describe_failures, write_failures
from ssrseg.feature_cache import choose_features
from ssrseg.manifest import FILE as MANIFEST
from ssrseg.model import SSR
from ssrseg.processes import Group
from ssrseg.safe_yaml import dump_yaml
from ssrseg.schedule import Schedule, Supervision

MACHINE_FILE = "machine.yaml"
"""What no setting says and results depend on all the same, an entry for each session."""


@dataclass(frozen=True)
class Run:
    """What stays the same through a run.

    Attributes:
        features: Folder of the decoder's cached features.
        pooled: Folder of foreground features that runs share; None = they share none.
    """

    data: LabelledImages
    out: Path
    config: Config
    supervision: Supervision
    superpixels: SuperpixelCache
    schedule: Schedule
    texts: tuple[str, ...]
    features: Path
    pooled: Path | None
    group: Group
    digest: str = ""

    def checkpoint(
        self, tensors: dict[str, Tensor], iteration: int, encoders: dict[str, str]
    ) -> Checkpoint:
        """What a file of this run holds."""
        return Checkpoint(
            tensors,
            self.config,
            self.data.classes,
            self.texts,
            self.digest,
            iteration,
            self.supervision,
            encoders,
            (len(self.data), *self.data.labels.sum(0).tolist()),
        )

    @property
    def keeps_features(self) -> bool:
        """Whether the decoder learns from cached features, in ``features``."""
        return self.config.optim.features == "cached"

    def foreground_file(self, iteration: int) -> Path:
        """Where the features of the last refresh before ``iteration`` are kept."""
        every = self.config.cmpa.update_every
        return self.out / f"foreground-{max(iteration - 1, 0) // every * every:07d}.safetensors"


def earlier_run(run: Run, given: Config) -> tuple[Config, Checkpoint | None]:
    """Settings with what was decided when the run began, and its checkpoint.

    ``given`` are the settings as they were asked for.
    """
    path = run.out / STATE_FILE
    if not path.is_file():
        if (run.out / MANIFEST).is_file():
            raise CheckpointError(
                f"{run.out} holds masks, whose settings a run would replace. Choose another folder"
                " (--out)."
            )
        _refuse_settings_of_others(run.out / "config.yaml")
        return run.config, None
    earlier = load_checkpoint(path)
    if run.config.optim.features == "auto":
        optim = replace(run.config.optim, features=earlier.config.optim.features)
        run = replace(run, config=replace(run.config, optim=optim))
    if given.backbones.precision == "auto":
        backbones = replace(run.config.backbones, precision=earlier.config.backbones.precision)
        run = replace(run, config=replace(run.config, backbones=backbones))
    begun, now = earlier.config.optim.iterations, run.config.optim.iterations
    if given.optim.iterations is None and begun != now:
        raise CheckpointError(
            f"{run.out} holds a run of {begun:,} iterations, but {len(run.data)} images ask for"
            f" {now:,}: images came or went since, or the number was given. Use the same images"
            f" and settings (--set optim.iterations={begun}) to go on with it, or another folder"
            " (--out) to begin anew."
        )
    check_same_run(earlier, run.checkpoint({}, 0, {}), path)
    if earlier.iteration > run.schedule.total:
        raise CheckpointError(
            f"{path} says that {earlier.iteration:,} iterations are finished, of"
            f" {run.schedule.total:,}: it is damaged. Begin anew in another folder (--out)."
        )
    return run.config, earlier


def _refuse_settings_of_others(path: Path) -> None:
    """Raise ConfigError if a run would replace settings that a person has written."""
    try:
        ours = not path.is_file() or load_config(file=path).to_yaml() == path.read_text("utf-8")
    except (ConfigError, OSError):
        ours = False
    if not ours:
        raise ConfigError(
            f"{path} was not written by ssrseg, and the settings of this run would replace it."
            " Choose another folder (--out)."
        )


def with_usable_images(
    run: Run, model: SSR, monitor: LabelledImages | None, *, strict: bool
) -> tuple[Run, LabelledImages | None, list[Failure]]:
    """The run and its monitor without images that cannot be read, which are listed."""
    full, settings, group = run.supervision == "full", run.config.data, run.group
    data, faults = usable_photos(run.data, settings, model.patch_size, truth=full, group=group)
    if monitor is not None:
        monitor, more = usable_photos(monitor, settings, model.patch_size, truth=True, group=group)
        known = {sample.image for sample, _ in faults}
        faults += [each for each in more if each[0].image not in known]
    if faults and (strict or not len(data)):
        raise all_faults(run.data.root, faults)
    failures = [Failure(sample.name, sample.image, str(error)) for sample, error in faults]
    group.first(lambda: write_failures(run.out, failures))
    for line in describe_failures(run.out, failures):
        note(line)
    shown = {index for sample in data.samples for index in sample.labels}
    was_shown = {index for sample in run.data.samples for index in sample.labels}
    for name in (data.classes[index] for index in sorted(was_shown - shown)):
        note(f'No usable image shows "{name}" any more: the model will not learn it.')
    digest = data_digest(data, truth=full, group=group)
    return replace(run, data=data, digest=digest), monitor, failures


def with_features(run: Run, model: SSR) -> Run:
    """The run with ``optim.features`` decided; said where there was a choice for a decoder."""
    optim = run.config.optim
    if optim.features == "online":
        return run
    if optim.features == "auto" and not run.schedule.segment:  # heads alone see no crop
        optim = replace(optim, features="online")
        return replace(run, config=replace(run.config, optim=optim))
    choice = run.group.first(
        lambda: choose_features(run.config, model, run.data, run.supervision, run.features)
    )
    note(f"Features of the decoder: {choice.features}, {choice.why}")
    optim = replace(optim, features=choice.features)
    return replace(run, config=replace(run.config, optim=optim))


def check_arguments(supervision: object, stop_after: object) -> None:
    """Raise ConfigError if one makes no sense."""
    if supervision not in get_args(Supervision):
        raise ConfigError(f'supervision = {supervision!r}, but it is "labels" or "full".')
    if stop_after is not None and (type(stop_after) is not int or stop_after < 0):
        raise ConfigError(
            f"stop_after = {stop_after!r} (--stop-after), but a number of iterations is expected."
        )


def check_shares(optim: OptimConfig, processes: int) -> None:
    """Raise ConfigError if the crops of an iteration are not the same number for each process."""
    batch, micro = optim.batch, optim.micro_batch
    shares = [count for count in range(1, batch + 1) if batch % count == 0]
    if batch % processes:
        fitting = ", ".join(map(str, shares))
        raise ConfigError(
            f"optim.batch = {batch} crops cannot be shared by {processes} processes alike. Start a"
            f" number of them that divides it ({fitting}), or set optim.batch to a multiple of"
            f" {processes}; it is that of all processes together."
        )
    share = batch // processes
    if processes > 1 and micro is not None and micro < batch and share % micro:
        fitting = ", ".join(str(count) for count in shares if (batch // count) % micro == 0)
        raise ConfigError(
            f"optim.micro_batch = {micro} does not divide the {share} crops that each of"
            f" {processes} processes has of optim.batch = {batch}. Start"
            f" {f'{fitting} of them' if fitting else 'one of them'}, or set another"
            " optim.micro_batch, or null (for a new run)."
        )


def record_machine(run: Run, model: SSR, first: int) -> None:
    """Add an entry to machine.yaml."""
    cuda = model.device.type == "cuda"
    entry = {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "from_iteration": first,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(model.device) if cuda else "cpu",
        "processor": platform.processor() or platform.machine(),
        "float32_matmul": torch.get_float32_matmul_precision(),
        "tf32_convolutions": cuda and torch.backends.cudnn.allow_tf32,
        "torch": str(torch.__version__),
        "ssrseg": version("ssrseg"),
        "processes": run.group.size,
        "workers": run.config.data.workers,
        "patches": run.config.data.patches,
    }
    path = run.out / MACHINE_FILE
    with writing(path), path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(dump_yaml([entry]))
