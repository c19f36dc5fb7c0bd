"""Training: prototypes, L_proto, online pseudo masks, L_seg, in one loop (Eq. 12).

Several processes may train one model, each with its share of every batch; the first of them writes.
"""

from __future__ import annotations

import math
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from importlib.metadata import version
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssrseg.checkpoint import (
    MODEL_FILE,
    STATE_FILE,
    Checkpoint,
    check_same_encoders,
    check_same_run,
    check_tensors,
    data_digest,
    load_checkpoint,
    load_part,
    model_path,
    save_checkpoint,
)
from ssrseg.config import Config, OptimConfig, config_of, load_config
from ssrseg.console import Steps, note, steps, track
from ssrseg.data.crops import CropBatch, CropDraws, derive_seed, refuse_without_masks
from ssrseg.data.files import only_writer, sweep, user_path, write_text, writing
from ssrseg.data.images import read_image
from ssrseg.data.notices import say_again
from ssrseg.data.open import labelled_images
from ssrseg.data.photos import all_faults, usable_photos
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.stamped_mask import digest_of
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.data.windows import WindowBatch, WindowDraws
from ssrseg.device import pick_device, settled_precision
from ssrseg.errors import CheckpointError, ConfigError, DataError, DivergenceError, counted
from ssrseg.estimate import PhotoRates, in_words, train_cost, try_crops, try_photos
from ssrseg.failures import Failure, describe_failures, write_failures
from ssrseg.feature_cache import (
    choose_features,
    feature_files,
    make_features,
    photo_sizes,
    window_features,
)
from ssrseg.foreground import ForegroundFeatures, collect_foreground, frozen_foreground
from ssrseg.interruption import Interrupted, Stop, until_stopped
from ssrseg.losses import (
    CropPairs,
    PooledPairs,
    crop_pairs,
    draw_pairs,
    online_masks,
    proto_loss,
    seg_loss,
)
from ssrseg.manifest import FILE as MANIFEST
from ssrseg.method.cmpa import image_prototypes
from ssrseg.method.objective import all_there, ssr_loss
from ssrseg.model import SSR
from ssrseg.networks.vocabulary import build_vocabulary, refuse_lone_texts
from ssrseg.photo_masks import pseudo_mask_miou, rectify_photo
from ssrseg.processes import Group, Step, joined, started, together, unsynchronised
from ssrseg.report.run import TrainedImage, run_facts, varied, write_run_report
from ssrseg.safe_yaml import dump_yaml
from ssrseg.schedule import Schedule, Supervision, plan, resolved
from ssrseg.trained_parts import first_seed, new_alignment, new_decoder
from ssrseg.training_log import Log, import_tensorboard

MACHINE_FILE = "machine.yaml"
"""What no setting says and results depend on all the same, an entry for each session."""
CURVES = "tensorboard"
"""Folder of TensorBoard's curves, in the run folder."""
FOREGROUND = "foreground"
"""Folder of foreground features, in a cache that runs share."""


@dataclass(frozen=True)
class TrainResult:
    """Where a run ended.

    Attributes:
        run: Its folder.
        iteration: Finished iterations of the whole run.
        total: Iterations that it has in all, those of CMPA alone included.
        finished: False if it was stopped on purpose; the same command goes on.
        last: Last row of the log.
        failures: Images that could not be used and were left out.
    """

    run: Path
    iteration: int
    total: int
    finished: bool
    last: dict[str, float]
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class _Run:
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


@dataclass
class _State:
    """What training changes: the model's heads and decoder, and what they learn from.

    Attributes:
        model: SSR with heads (if any) and decoder.
        without_rfm: The same without WeCLIP's RFM.
        optimizer: Of both parts; each group remembers its own learning rate as ``base``.
        foreground: Features that pairs are drawn from.
        prototypes: P_I.
        purity: How well its clusters agree with the classes.
        steps: Of each stage, what computes its losses and brings the gradients of all processes
            together.
    """

    model: SSR
    without_rfm: SSR
    optimizer: torch.optim.Optimizer
    foreground: ForegroundFeatures | None = None
    prototypes: Float[Tensor, "proto dim2"] | None = None
    purity: float = math.nan
    steps: dict[tuple[bool, bool], nn.Module] = field(default_factory=dict)

    def step(self, group: Group, *, align: bool, segment: bool) -> nn.Module:
        """What computes losses of the heads, of the decoder, or of both."""
        if (align, segment) not in self.steps:
            parts = (
                self.model.alignment if align else None,
                self.model.decoder if segment else None,
            )
            # heads may be left out: τ by some losses, TSA by Eq. 6 as printed
            self.steps[align, segment] = group.wrap(Step(*parts), some_unused=align)
        return self.steps[align, segment]

    def weights(self) -> list[Tensor]:
        """All that an iteration changes in the model, running means included."""
        named = self.model.trained_tensors().values()
        return [value for value in named if value.is_floating_point()]

    def gradients(self) -> list[Tensor]:
        """Those of this iteration; zero if no crop held a usable pair."""
        each = (weight.grad for group in self.optimizer.param_groups for weight in group["params"])
        found = [gradient for gradient in each if gradient is not None]
        return found or [torch.zeros((), device=self.model.device)]

    def tensors(self) -> dict[str, Tensor]:
        """All that a resumed run needs."""
        named = self.model.trained_tensors()
        if self.prototypes is not None:
            named["prototypes.image"] = self.prototypes
            named["prototypes.purity"] = torch.tensor(self.purity, dtype=torch.float64)
        for index, moments in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{index}.{key}": value for key, value in moments.items()}
        return named

    def restore(self, checkpoint: Checkpoint, origin: Path) -> None:
        """Take over a training checkpoint."""
        parts = {"decoder": self.model.decoder, "alignment": self.model.alignment}
        for name, part in parts.items():
            if part is not None:
                load_part(part, checkpoint, name, origin)
        prototypes = checkpoint.part("prototypes")
        if prototypes:
            size = (self.model.n_prototypes, self.model.config.cmpa.out)
            purity = torch.tensor(self.purity, dtype=torch.float64)
            expected = {"image": torch.empty(size, device="meta"), "purity": purity}
            check_tensors(prototypes, expected, f"The prototypes in {origin}")
            self.prototypes = prototypes["image"].to(self.model.device)
            self.purity = float(prototypes["purity"])
        moments = checkpoint.part("optimizer")
        weights = [each for group in self.optimizer.param_groups for each in group["params"]]
        # a weight that has had no gradient yet has no moments
        known = [index for index in range(len(weights)) if f"{index}.step" in moments]
        expected = {}
        for index in known:
            expected[f"{index}.step"] = torch.empty((), device="meta")
            expected |= {f"{index}.{name}": weights[index] for name in ("exp_avg", "exp_avg_sq")}
        check_tensors(moments, expected, f"The optimizer in {origin}")
        names = ("step", "exp_avg", "exp_avg_sq")
        state = {index: {name: moments[f"{index}.{name}"] for name in names} for index in known}
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})


def train(
    data: LabelledImages | str | Path,
    out: str | Path,
    config: Config | str = "ssr",
    *,
    supervision: Supervision = "labels",
    monitor: LabelledImages | None = None,
    cache: str | Path | None = None,
    device: str = "auto",
    stop_after: int | None = None,
    strict: bool = False,
    tensorboard: bool = False,
) -> TrainResult:
    """Train from image-level labels; go on where an earlier call in the same folder stopped.

    Called in every process that torchrun or srun has started, or in which ``torch.distributed`` is
    initialised, all train one model: each takes its share of every batch, and the first one writes.

    All images are read before anything is computed. Those that cannot be used are left out, and
    listed in failures.csv.

    Args:
        data: Training images with their labels, or their folder. No mask of theirs is opened,
            unless ``supervision`` is ``full``.
        out: Run folder: config.yaml, machine.yaml, log.csv, checkpoint.safetensors,
            report.html and, at the end, model.safetensors.
        config: Settings, or the name of a preset.
        supervision: ``labels``, or ``full``: the same decoder on true masks, the control of
            Table 6.
        monitor: Images with true masks; at every checkpoint the pseudo masks of these are scored
            and logged. Nothing is learned or chosen from it.
        cache: Folder of superpixels, cached features and foreground features, to be shared
            between runs; nothing in it is ever removed. By default they are inside ``out``, and
            cached features are removed when the run is finished.
        device: ``auto``, ``cpu`` or ``cuda``.
        stop_after: Stop, resumable, when so many iterations of the whole run are finished.
        strict: Refuse to train without images that cannot be used.
        tensorboard: Also write the columns of log.csv as curves for TensorBoard, into tensorboard
            in ``out``.

    Raises:
        CheckpointError: If ``out`` holds a run with other settings, images, encoders or
            supervision, or a damaged one.
        ConfigError: If an argument, or what CLIP would be asked, makes no sense; or batches cannot
            be shared by so many processes.
        DataError: If no image can be used (in strict mode: if one cannot), CMPA finds no pair, or a
            mask is missing where ``supervision`` is ``full``.
        DivergenceError: If the loss, a gradient or a weight is no finite number any more. The last
            good checkpoint is kept.
        Interrupted: After Ctrl-C, SIGTERM or SIGHUP, when the iteration is finished and saved.
        OutputError: If the disk is full, or another process writes into ``out``.
        PackageError: If TensorBoard is wanted and not installed.
        ProcessError: If another process of the run has ended.
    """
    if tensorboard:
        import_tensorboard()  # before any work
    with started(device), joined() as group:
        return _train(
            data, out, config, supervision, monitor, cache, device, stop_after, strict, tensorboard,
            group,
        )  # fmt: skip


def _train(
    data: LabelledImages | str | Path,
    out: str | Path,
    config: Config | str,
    supervision: Supervision,
    monitor: LabelledImages | None,
    cache: str | Path | None,
    device: str,
    stop_after: int | None,
    strict: bool,
    tensorboard: bool,
    group: Group,
) -> TrainResult:
    """``train`` in one process of a group."""
    start, out = time.monotonic(), model_path(user_path(out, "a run"))
    device = group.device(pick_device(device))
    say_again()
    data, given = labelled_images(data), config_of(config)
    config = resolved(given, len(data))
    _check_arguments(supervision, stop_after)
    _check_shares(config.optim, group.size)
    superpixels = SuperpixelCache.of(cache or out / "superpixels", config.sgc)
    if supervision == "full":
        refuse_without_masks(data)
    vocabulary = build_vocabulary(data.classes, config.prompts.set, data.prompts, data.background)
    if supervision == "labels" and config.cam.mode != "centre":
        refuse_lone_texts(vocabulary, {each.name: each.labels for each in data.samples})
    with ExitStack() as stack:
        group.first(lambda: _begin_writing(stack, out, Path(cache or out)))
        cuda = [torch.device(device)] if device.startswith("cuda") else []
        stack.enter_context(torch.random.fork_rng(cuda))
        schedule, features = plan(config, supervision), Path(cache or out) / "features"
        pooled = None if cache is None else Path(cache) / FOREGROUND
        texts = vocabulary.texts
        run = _Run(
            data, out, config, supervision, superpixels, schedule, texts, features, pooled, group
        )
        total = run.schedule.total
        labels = digest_of(repr([(sample.name, sample.labels) for sample in data.samples]))
        settings = digest_of(repr((config, supervision, stop_after)))
        group.refuse_differences(
            {"the list of images": labels, "the settings": settings, "torch": torch.__version__,
             "ssrseg": version("ssrseg"), "the device": device.split(":")[0]}
        )  # fmt: skip
        # first, as what follows takes time
        config, earlier = group.first(partial(_earlier_run, run, given))
        config = group.first(partial(settled_precision, config, device))
        run = replace(run, config=config)
        model = SSR.from_config(
            run.config,
            data.classes,
            prompts=data.prompts,
            background=data.background,
            device=device,
        )
        run, monitor, failures = _with_usable_images(run, model, monitor, strict=strict)
        run = _with_features(run, model)
        if earlier is not None:
            check_same_run(earlier, run.checkpoint({}, 0, model.encoders), out / STATE_FILE)
        group.refuse_differences({"the encoders": model.encoders})
        photos = None
        if supervision == "labels":
            photos = group.first(partial(_try_one, run, model))
        state = _start(run, earlier, model)
        first = 0 if earlier is None else earlier.iteration
        del earlier  # a second copy of all that is trained
        end = total if stop_after is None else min(stop_after, total)
        group.first(partial(_say_begin, run, state.model, photos, first, end))
        with until_stopped(patient=group.size > 1) as stop:
            curves = out / CURVES if tensorboard else None
            last = _loop(run, state, first, end, monitor, stop, curves)
            finished = max(first, end) == total
            if finished:
                group.first(partial(_finish, run, state.model, keep_features=cache is not None))
        done = max(first, end) - first
        group.first(lambda: _report(run, state.model, done, time.monotonic() - start, finished))
        last = group.first(lambda: last)
    return TrainResult(out, max(first, end), total, finished, last, tuple(failures))


def _begin_writing(stack: ExitStack, out: Path, cache: Path) -> None:
    """Be the only writer of a run until the stack is closed."""
    sweep(cache)
    stack.enter_context(only_writer(out))


def _say_begin(run: _Run, model: SSR, photos: PhotoRates | None, first: int, end: int) -> None:
    """Settings and machine into their files, and a line on what will be needed."""
    write_text(run.out / "config.yaml", run.config.to_yaml())
    if first < end:
        _record_machine(run, model, first)
        if photos is not None:
            _say_cost(run, model, photos, first)


def _finish(run: _Run, model: SSR, *, keep_features: bool) -> None:
    """Write the trained model."""
    made = run.checkpoint(model.trained_tensors(), run.schedule.total, model.encoders)
    save_checkpoint(run.out / MODEL_FILE, made)
    if run.keeps_features and not keep_features:
        shutil.rmtree(run.features, ignore_errors=True)


def _with_features(run: _Run, model: SSR) -> _Run:
    """The run with ``optim.features`` decided, which is said unless the settings decide it."""
    optim = run.config.optim
    if optim.features == "online":
        return run
    choice = run.group.first(
        lambda: choose_features(run.config, model, run.data, run.supervision, run.features)
    )
    note(f"Features of the decoder: {choice.features}, {choice.why}")
    optim = replace(optim, features=choice.features)
    return replace(run, config=replace(run.config, optim=optim))


def _report(run: _Run, model: SSR, done: int, seconds: float, finished: bool) -> None:
    """Write report.html, with a few photographs if the model is finished."""
    shown: list[TrainedImage] = []
    if finished:
        chosen = varied(run.data)
        shown = [_seen(run, model, sample) for sample in track(chosen, "Report", len(chosen))]
    facts = run_facts(run.schedule, run.supervision, done, seconds)
    write_run_report(run.out, run.data, run.config, shown, facts)


def _seen(run: _Run, model: SSR, sample: Sample) -> TrainedImage:
    """A photograph as the model sees it: rectified with its labels, and segmented without."""
    photo = read_image(sample.image, run.config.data.range, run.config.data.bands)
    maps, masks = {}, {}
    if run.supervision == "labels":
        found = rectify_photo(model, photo, sample.labels, run.superpixels)
        maps = {"CAM": found.cam.numpy(), "refined CAM": found.refined_cam.numpy()}
        masks = {"pseudo mask": found.pseudo_mask.numpy()}
    masks["prediction"] = model.segment_photo(photo).pseudo_mask.cpu().numpy()
    return TrainedImage(sample.name, photo.numpy(), sample.labels, maps, masks)


def _try_one(run: _Run, model: SSR) -> PhotoRates | None:
    """BackboneError, before anything is learned, if the encoders give no usable CAM.

    How long that took is the half of an estimate; None if no image has a label.
    """
    sample = next((each for each in run.data.samples if each.labels), None)
    return None if sample is None else try_photos(model, [sample], len(run.data))


def _say_cost(run: _Run, model: SSR, photos: PhotoRates, first: int) -> None:
    """A line on what the iterations from ``first`` on will take."""
    some = next(each for each in run.data.samples if each.labels)
    crops = try_crops(model, run.data, [some])
    sizes = photo_sizes(run.data, run.config)
    cost = train_cost(
        photos, crops, model, run.data, sizes, run.schedule, first=first, processes=run.group.size
    )
    optim, images = run.config.optim, counted(len(run.data), "image", "images")
    left = "what is left takes " if first else ""
    each = f" in each of {run.group.size} processes" if run.group.size > 1 else ""
    note(
        f"{optim.iterations:,} iterations of {optim.batch} crops for {images}:"
        f" {left}{in_words(cost)}{each}."
    )


def _with_usable_images(
    run: _Run, model: SSR, monitor: LabelledImages | None, *, strict: bool
) -> tuple[_Run, LabelledImages | None, list[Failure]]:
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


def _check_arguments(supervision: object, stop_after: object) -> None:
    if supervision not in get_args(Supervision):
        raise ConfigError(f'supervision = {supervision!r}, but it is "labels" or "full".')
    if stop_after is not None and (type(stop_after) is not int or stop_after < 0):
        raise ConfigError(
            f"stop_after = {stop_after!r} (--stop-after), but a number of iterations is expected."
        )


def _check_shares(optim: OptimConfig, processes: int) -> None:
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


def _record_machine(run: _Run, model: SSR, first: int) -> None:
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


def _loop(
    run: _Run,
    state: _State,
    first: int,
    end: int,
    monitor: LabelledImages | None,
    stop: Stop,
    curves: Path | None,
) -> dict[str, float]:
    """Iterations ``first`` .. ``end``; returns the last row of the log."""
    schedule, optim, group = run.schedule, run.config.optim, run.group
    batches = _batches(run, state.model, first, end)
    path, curves = (run.out / "log.csv", curves) if group.is_first else (None, None)
    with Log(path, first, partial(_diverged, run, first), curves) as log:
        if (
            monitor is not None
            and _is_whole(run, first)
            and group.first(lambda: math.isnan(log.last["pseudo_miou"]))
        ):
            _score(run, state, log, monitor, stop, first)  # where it was interrupted
        prepare = partial(_keep_features, run, state, log, stop, first)
        for iteration, progress in _counted(schedule, first, end, prepare):
            # prototypes P_I of the whole training set, every cmpa.update_every iterations
            if iteration in schedule.align and iteration % run.config.cmpa.update_every == 0:
                with _between(run, state, log, stop, first, iteration):
                    _refresh_prototypes(run, state, iteration)
            _set_learning_rates(state.optimizer, optim, schedule, iteration)
            crops = next(batches) if iteration in schedule.crops else None
            # one step on L_SSR (Eq. 12)
            model = _model_of(run, state, iteration)
            state.optimizer.zero_grad(set_to_none=True)
            proto, seg, rows = _backward(run, state, model, crops, iteration)
            gradient = _largest(state.gradients())
            state.optimizer.step()
            if model.alignment is not None:
                model.alignment.clamp_temperature()
            # what is logged and checked stays on the device until it is written
            row = _log_row(run, state, model, iteration, proto, seg)
            # Adam squares gradients: what has no square is as good as infinite
            checked = torch.stack([proto + seg, gradient**2, _largest(state.weights())])
            finished = iteration + 1
            whole = _is_whole(run, finished)
            log.add(row, checked, rows)
            signum = group.most(stop.signum)  # all stop after the same iteration
            if whole or finished == end or signum:
                log.flush()  # first, so that no checkpoint is ahead of its log
                _save(run, state, finished)
                if whole and monitor is not None:
                    _score(run, state, log, monitor, stop, finished)
                if signum and finished < end:
                    stop.ask(signum)
                    raise _stopped(run, stop, finished)
            progress.advance(_shown_loss(log, schedule, iteration))
    return log.last


def _keep_features(
    run: _Run, state: _State, log: Log, stop: Stop, first: int, iteration: int
) -> None:
    """Make the cached features that are missing, if the decoder is to learn from such."""
    if run.keeps_features:
        with _between(run, state, log, stop, first, iteration):
            if iteration > first:
                _save(run, state, iteration)  # as it takes long, and the disk may be too small
            make_features(
                state.without_rfm,
                run.data,
                run.supervision,
                run.features,
                run.superpixels,
                run.group,
            )


@contextmanager
def _between(
    run: _Run, state: _State, log: Log, stop: Stop, first: int, iteration: int
) -> Iterator[None]:
    """Minutes of work before an iteration: a signal ends it at once, what is learned is saved."""
    log.flush()  # first, as minutes on diverged weights would be for nothing
    try:
        with stop.at_once():
            yield
    except Interrupted:
        if iteration > first:
            _save(run, state, iteration)
        raise _stopped(run, stop, iteration) from None


def _is_whole(run: _Run, finished: int) -> bool:
    """Whether a checkpoint, and with it a score of the monitor, belongs to so many iterations."""
    every = run.config.optim.save_every or 1
    return finished > 0 and (finished % every == 0 or finished == run.schedule.total)


def _score(
    run: _Run, state: _State, log: Log, monitor: LabelledImages, stop: Stop, finished: int
) -> None:
    """Score the pseudo masks of the monitor, for the log."""
    model = _model_of(run, state, finished - 1)
    try:
        with stop.at_once():
            log.add_score(pseudo_mask_miou(model, monitor, run.superpixels, run.group))
    except Interrupted:
        raise _stopped(run, stop, finished) from None


def _save(run: _Run, state: _State, finished: int) -> None:
    """A checkpoint after so many iterations, by the first process: all have the same."""
    if not run.group.is_first:
        return
    made = run.checkpoint(state.tensors(), finished, state.model.encoders)
    save_checkpoint(run.out / STATE_FILE, made)
    _drop_old_foreground(run, finished)


def _stopped(run: _Run, stop: Stop, finished: int) -> Interrupted:
    if not finished:
        return stop.error("nothing was learned yet. The same call begins anew.")
    return stop.error(
        f"{finished} of {run.schedule.total} iterations are finished and saved in"
        f" {run.out / STATE_FILE}. The same call goes on from there."
    )


def _largest(values: list[Tensor]) -> Float[Tensor, ""]:
    """Largest absolute value, nan or inf if there is one; nobody waits for the device."""
    return torch.nn.utils.get_total_norm(values, math.inf)


def _diverged(
    run: _Run, first: int, iteration: int, checked: Sequence[float], rows: Sequence[int]
) -> DivergenceError:
    """What to say of the first iteration with a number that is not finite."""
    what = ("the loss", "the square of a gradient", "a weight")
    wrong = [
        f"{name} is {value}"
        for name, value in zip(what, checked, strict=True)
        if not math.isfinite(value)
    ]
    names = [run.data.samples[row].name for row in rows]
    more = f" and {len(names) - 8:,} more" if names[8:] else ""
    every = run.config.optim.save_every or 1
    kept = max(first, (iteration - 1) // every * every)
    saved = f"{run.out / STATE_FILE} holds iteration {kept}" if kept else "Nothing was saved yet"
    stages = {"cmpa_lr": run.schedule.align, "decoder_lr": run.schedule.segment}
    rates = [
        f"optim.{name} (now {getattr(run.config.optim, name):g})"
        for name, active in stages.items()
        if iteration - 1 in active
    ]
    return DivergenceError(
        f"Training diverged in iteration {iteration} of {run.schedule.total}:"
        f" {' and '.join(wrong)}. Its images: {', '.join(names[:8])}{more}. {saved}."
        f" Begin anew in another folder (--out) with a lower {' or '.join(rates)}; with these"
        " settings it would diverge again."
    )


def _shown_loss(log: Log, schedule: Schedule, iteration: int) -> str:
    """The last loss that was read from the device, if it is of the stage that is going on."""
    begin = schedule.segment.start if iteration in schedule.segment else 0
    return f"loss {log.last['loss']:.3f}" if log.last.get("iteration", 0) > begin else ""


@dataclass(frozen=True)
class _Term:
    """A loss of an iteration that is ready to be computed.

    Attributes:
        loss: Computes it, with a gradient.
        aligns: It is L_proto; else L_seg.
        parts: Terms of its kind that all processes have in this iteration, whose mean counts.
        last: No other comes after it.
    """

    loss: Callable[[], Tensor]
    aligns: bool
    parts: int
    last: bool


def _backward(
    run: _Run, state: _State, model: SSR, crops: CropBatch | WindowBatch | None, iteration: int
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Gradients of L_SSR, added up over micro-batches; the means of its two terms, the images.

    All processes have the same L_proto, and each an addend of L_seg. DDP takes the mean of their
    gradients, once, with the last term.
    """
    group, weight = run.group, run.config.optim.seg_weight
    align, segment = iteration in run.schedule.align, iteration in run.schedule.segment
    step = state.step(group, align=align, segment=segment)
    zero = torch.zeros((), device=model.device)
    mean_proto, addend = zero, zero
    terms, rows = _terms(run, state, model, crops, iteration)
    for term in terms:
        with together(), nullcontext() if term.last else unsynchronised(step):
            value = step(term.loss)
            if term.aligns:
                loss = ssr_loss(value, zero, seg_weight=weight) / term.parts  # Eq. 12
                mean_proto = mean_proto + value.detach() / term.parts
            else:
                loss = ssr_loss(zero, value, seg_weight=weight) / (term.parts / group.size)
                addend = addend + value.detach() / term.parts
            loss.backward()
    return mean_proto, group.sum(addend), rows


def _terms(
    run: _Run, state: _State, model: SSR, crops: CropBatch | WindowBatch | None, iteration: int
) -> tuple[Iterator[_Term], tuple[int, ...]]:
    """The losses of an iteration, one after the other, and its images."""
    optim, align = run.config.optim, iteration in run.schedule.align
    rows = () if crops is None else crops.rows
    if align and not run.config.cmpa.aligns_patches:  # pairs of the whole training set
        assert state.foreground is not None
        seed = derive_seed(optim.seed, iteration, 2)
        pairs = draw_pairs(model, state.foreground, torch.from_numpy(run.data.labels), seed)
        rows = tuple(dict.fromkeys((*pairs.rows, *rows)))
        proto = _Term(_proto_of(model, pairs, state), True, 1, last=crops is None)
        return chain([proto], _crop_terms(run, state, model, crops, iteration)), rows
    return _crop_terms(run, state, model, crops, iteration), rows


def _crop_terms(
    run: _Run, state: _State, model: SSR, crops: CropBatch | WindowBatch | None, iteration: int
) -> Iterator[_Term]:
    """L_seg of each micro-batch, and L_proto of the pairs in each where patches are aligned first.

    What CMPA sees of a crop is frozen, and every process computes L_proto on all crops of the
    batch: so BatchNorm and means are those of the batch, however many processes share it.
    """
    if crops is None:
        return
    optim, group = run.config.optim, run.group
    pairs_too = iteration in run.schedule.align and run.config.cmpa.aligns_patches
    segment = iteration in run.schedule.segment
    own: list[CropBatch | WindowBatch] = [*crops.split(optim.micro_batch or optim.batch)]
    # a micro-batch as large as the batch is one part, spread over all processes
    spread = (optim.micro_batch or optim.batch) >= optim.batch
    parts = len(own) if spread else len(own) * group.size
    whole = group.sum if spread else all_there
    found: list[CropPairs] = []
    for part in own:
        batch, last = part.to(model.device), part is own[-1]
        mask: Tensor | None = None
        inside = None
        if isinstance(batch, WindowBatch):
            features, mask, inside = window_features(batch), batch.mask, batch.inside
        elif run.supervision == "full":
            features, mask = model.encode(batch.image), batch.ids.to(torch.uint8)
        else:
            features = model.encode(batch.image)
            initial = model.initial_cam(features, batch.present, batch.valid, with_clip=pairs_too)
            if pairs_too:
                found.append(crop_pairs(model, initial, batch))
            if segment:
                mask = online_masks(model, batch, initial)
        if last and pairs_too:
            everyone = _pairs_of_all(group, found, spread=spread)
            usable = [each for each in everyone if each.usable.any()]
            for each in usable:
                ends = each is usable[-1] and not segment
                yield _Term(_proto_of(model, each, state), True, parts, last=ends)
        if segment:
            assert mask is not None
            seeds = [derive_seed(optim.seed, draw, 4) for draw in batch.draws]
            loss = partial(seg_loss, model, features, mask, inside, seeds=seeds, whole=whole)
            yield _Term(loss, False, parts, last=last)


def _pairs_of_all(group: Group, own: list[CropPairs], *, spread: bool) -> list[CropPairs]:
    """The pairs of every part of the batch, in the order of its crops."""
    each = [pairs.each(group.joined) for pairs in own]
    if spread or group.size == 1:
        return each
    # part k of process r is number r·len(own) + k
    crops = len(own[0].present)
    return [
        pairs.each(itemgetter(slice(rank * crops, (rank + 1) * crops)))
        for rank in range(group.size)
        for pairs in each
    ]


def _proto_of(model: SSR, pairs: PooledPairs | CropPairs, state: _State) -> Callable[[], Tensor]:
    assert state.prototypes is not None
    return partial(proto_loss, model, pairs, state.prototypes)


def learning_rate(base: float, step: int, total: int, warmup: int, power: float) -> float:
    """Linear warm-up from near 0, then polynomial decay to 0 [WeCLIP].

    Args:
        base: Rate at the top.
        step: Finished steps, from 0.
        total: Steps in all.
        warmup: Steps of the warm-up.
        power: Exponent of the decay.
    """
    if step < warmup:
        return base * max(1e-6, step / warmup)
    return float(base * (1 - step / max(total, 1)) ** power)


def _set_learning_rates(
    optimizer: torch.optim.Optimizer, optim: OptimConfig, schedule: Schedule, iteration: int
) -> None:
    """Each group by the schedule of its own stage: the decoder's is the first."""
    for index, group in enumerate(optimizer.param_groups):
        active = schedule.segment if index == 0 else schedule.align
        step = min(max(iteration - active.start, 0), max(len(active) - 1, 0))
        group["lr"] = learning_rate(group["base"], step, len(active), optim.warmup, optim.power)


def _optimizer(model: SSR) -> torch.optim.Optimizer:
    """AdamW over decoder and heads; τ does not decay."""
    assert model.decoder is not None
    optim = model.config.optim
    groups: list[dict[str, object]] = [
        {"params": list(model.decoder.parameters()), "base": optim.decoder_lr}
    ]
    if model.alignment is not None:
        parameters = model.alignment.named_parameters()
        named = {name: weight for name, weight in parameters if weight.requires_grad}
        temperature = named.pop("log_temperature", None)
        groups.append({"params": list(named.values()), "base": optim.cmpa_lr})
        if temperature is not None:
            groups.append({"params": [temperature], "base": optim.cmpa_lr, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=optim.weight_decay, fused=True)


def _start(run: _Run, earlier: Checkpoint | None, model: SSR) -> _State:
    """Heads, decoder and optimiser, new or as an earlier run left them."""
    config = run.config
    plain = replace(config, affinity=replace(config.affinity, rfm_after=None))
    if earlier is not None:
        check_same_encoders(
            earlier.encoders, model.encoders, config.backbones, run.out / STATE_FILE
        )
    torch.manual_seed(first_seed(config.optim.seed))
    foreground = alignment = None
    if len(run.schedule.align):
        # residual heads need each image's mean for their basis; where patches are aligned first,
        # random heads need nothing pooled before the first refresh
        if earlier is None and not (config.cmpa.aligns_patches and config.cmpa.init == "random"):
            foreground = _pool(run, model)
            if not len(foreground.classes):
                raise _no_pairs(run, model)
        mean = None if foreground is None else foreground.mean
        alignment = new_alignment(config.cmpa, model.text_features, mean)
    decoder = new_decoder(config.decoder, model.clip, model.n_classes)
    model = model.with_config(config, alignment=alignment, decoder=decoder)
    run.group.equalise(model.trained_tensors().values())  # processors may round differently
    state = _State(model, model.with_config(plain), _optimizer(model), foreground)
    if earlier is not None:
        state.restore(earlier, run.out / STATE_FILE)
        begun = earlier.iteration in run.schedule.align and earlier.iteration > 0
        if begun and state.prototypes is None:
            raise CheckpointError(f"{run.out / STATE_FILE} holds no prototypes: it is damaged.")
        if earlier.iteration < run.schedule.align.stop:
            state.foreground = _earlier_foreground(run, state, earlier.iteration)
    return state


def _pool(run: _Run, model: SSR) -> ForegroundFeatures:
    """Foreground features of the training set; where heads have a part in them, by the model's."""
    config, heads = run.config.cmpa, model.alignment is not None
    if heads and (config.aligns_patches or config.cam_source == "cmpa"):
        aligned = config.aligns_patches
        return collect_foreground(
            model, run.data, run.superpixels, aligned=aligned, group=run.group
        )
    return frozen_foreground(model, run.data, run.superpixels, run.pooled, group=run.group)


def _no_pairs(run: _Run, model: SSR) -> DataError:
    """Why CMPA has nothing to learn from: small CAMs, which a setting mends, or empty ones."""
    config = run.config
    smallest = replace(config, cmpa=replace(config.cmpa, min_patches=1))
    some = replace(run.data, samples=run.data.samples[:100])
    found = collect_foreground(model.with_config(smallest), some, run.superpixels, aligned=False)
    if len(found.classes):
        cause = f"every CAM is smaller than cmpa.min_patches = {config.cmpa.min_patches} patches."
        cure = "Lower that (cmpa.min_patches=1)"
    else:
        cause = "every CAM is empty, as to CLIP no patch is more like a class than another."
        cure = "Look at the prompts and background words (--prompts) and at the photographs"
    return DataError(
        f"CMPA found no usable (image, class) pair in {run.data.root}: {cause} {cure}, or train"
        " without CMPA (cam.mode=clip)."
    )


def _earlier_foreground(run: _Run, state: _State, iteration: int) -> ForegroundFeatures:
    """The features that an earlier run drew its pairs from."""
    file = run.foreground_file(iteration)
    found = run.group.first(partial(ForegroundFeatures.load, file))
    if found is not None:
        return found
    if run.config.cmpa.cam_source == "cmpa":
        raise CheckpointError(
            f"{file} is missing or damaged, and its features cannot be pooled again: they are those"
            " of an earlier model. Begin anew in another folder (--out)."
        )
    return _pool(run, state.without_rfm)


@torch.no_grad()
def _refresh_prototypes(run: _Run, state: _State, iteration: int) -> None:
    """P_I over the training set; features are pooled again if they depend on the heads."""
    config, model = run.config.cmpa, state.without_rfm
    assert model.alignment is not None
    literal = config.aligns_patches
    found = state.foreground
    if found is None or literal or (config.cam_source == "cmpa" and iteration > 0):
        found = _pool(run, model)
    if run.group.is_first:
        found.save(run.foreground_file(iteration + 1))  # the name counts finished iterations
    pooled, classes = found.pooled, found.classes
    if config.bg_prototypes != "none":  # K = C + M: a background word is a class of its own
        pooled, classes = found.with_backgrounds(model.text_features, model.n_classes)
    pooled = pooled.to(model.device)
    aligned = pooled if literal else model.alignment.isa(pooled)
    text = model.alignment.tsa(model.text_features)[: model.n_prototypes]
    made = image_prototypes(aligned, classes.to(model.device), text, method=config.proto)
    made = replace(made, purity=run.group.first(lambda: made.purity))
    run.group.equalise([made.image])  # processors may round differently
    state.foreground, state.prototypes, state.purity = found, made.image, made.purity


def _model_of(run: _Run, state: _State, iteration: int) -> SSR:
    """WeCLIP's RFM, where it is used, begins after some iterations with L_seg."""
    after = run.config.affinity.rfm_after
    begins = after is not None and iteration - run.schedule.segment.start >= after
    return state.model if begins else state.without_rfm


def _log_row(
    run: _Run, state: _State, model: SSR, iteration: int, proto: Tensor, seg: Tensor
) -> dict[str, float | Tensor]:
    both = ssr_loss(proto, seg, seg_weight=run.config.optim.seg_weight)
    temperature = None if model.alignment is None else model.alignment.temperature.detach()
    return {
        "iteration": float(iteration + 1),
        # alone, L_seg is shown without γ, which only scales it
        "loss": both if iteration in run.schedule.align else seg,
        "proto": proto,
        "seg": seg,
        "temperature": float("nan") if temperature is None else temperature,
        "purity": state.purity,
        "lr": max(group["lr"] for group in state.optimizer.param_groups),
        "pseudo_miou": float("nan"),
    }


def _counted(
    schedule: Schedule, first: int, end: int, prepare: Callable[[int], None]
) -> Iterator[tuple[int, Steps]]:
    """Iterations with a bar for each stage: those of CMPA alone are many times faster.

    Both count the iterations of the whole run, as the log and ``stop_after`` do. What
    ``prepare`` does before the decoder's first iteration is not counted in its time.
    """
    segment_start = schedule.segment.start if schedule.segment else schedule.total
    for name, stage in (
        ("Aligning", range(first, min(segment_start, end))),
        ("Training", range(max(first, segment_start), end)),
    ):
        if stage:
            if name == "Training":
                prepare(stage.start)
            with steps(name, stage.stop, done=stage.start) as progress:
                for iteration in stage:
                    yield iteration, progress


def _batches(run: _Run, model: SSR, first: int, end: int) -> Iterator[CropBatch | WindowBatch]:
    """Crops of the iterations that need some, from the first one still to do; then windows."""
    optim, crops, segment = run.config.optim, run.schedule.crops, run.schedule.segment
    size, pin, group = optim.batch, model.device.type == "cuda", run.group
    share = (group.rank, group.size)
    first, change = max(first, crops.start), segment.start if run.keeps_features else end
    if first < min(change, end):
        draws = CropDraws(
            run.data,
            run.config.data,
            run.superpixels if run.supervision == "labels" else None,
            optim.seed,
            patch=model.patch_size,
        )
        start, stop = ((each - crops.start) * size for each in (first, min(change, end)))
        yield from draws.loader(start, stop, size, pin=pin, share=share)
    first = max(first, change)
    if first < end:
        # the heads are those of the cached features by now
        files = feature_files(model, run.data, run.supervision, run.features, group)
        windows = WindowDraws(
            list(files.values()),
            max(1, run.config.data.crop // model.patch_size),
            model.patch_size,
            flip=run.config.data.flip,
            seed=optim.seed,
            workers=run.config.data.workers,
        )
        start, stop = ((each - segment.start) * size for each in (first, end))
        yield from windows.loader(start, stop, size, pin=pin, share=share)


def _drop_old_foreground(run: _Run, iteration: int) -> None:
    """Remove the features of refreshes before the one that this checkpoint resumes from."""
    needed = run.foreground_file(iteration)
    for file in run.out.glob("foreground-*.safetensors"):
        if file.name < needed.name:
            file.unlink()


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


def _earlier_run(run: _Run, given: Config) -> tuple[Config, Checkpoint | None]:
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
