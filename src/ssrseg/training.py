"""Training: prototypes, L_proto, online pseudo masks, L_seg, in one loop (Eq. 12).

Several processes may train one model, each with its share of every batch; the first of them writes.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ssrseg.checkpoint import (
    MODEL_FILE,
    STATE_FILE,
    check_same_run,
    model_path,
    save_checkpoint,
)
from ssrseg.config import Config, config_of
from ssrseg.console import Steps, note, steps, track
from ssrseg.data.crops import CropBatch, CropDraws, refuse_without_masks
from ssrseg.data.files import only_writer, sweep, user_path, write_text
from ssrseg.data.images import read_image
from ssrseg.data.notices import say_again
from ssrseg.data.open import labelled_images
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.stamped_mask import digest_of
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.data.windows import WindowBatch, WindowDraws
from ssrseg.device import pick_device, settled_precision
from ssrseg.errors import DivergenceError, counted
from ssrseg.estimate import PhotoRates, in_words, train_cost, try_crops, try_photos
from ssrseg.failures import Failure
from ssrseg.feature_cache import (
    feature_files,
    make_features,
    photo_sizes,
)
from ssrseg.interruption import Interrupted, Stop, until_stopped
from ssrseg.method.objective import ssr_loss
from ssrseg.model import SSR
from ssrseg.networks.vocabulary import build_vocabulary, refuse_lone_texts
from ssrseg.photo_masks import pseudo_mask_miou, rectify_photo
from ssrseg.processes import joined, started
from ssrseg.report.run import TrainedImage, run_facts, varied, write_run_report
from ssrseg.schedule import Schedule, Supervision, plan, resolved
from ssrseg.training_log import Log, import_tensorboard
from ssrseg.training_run import (
    Run,
    check_arguments,
    check_shares,
    earlier_run,
    record_machine,
    with_features,
    with_usable_images,
)
from ssrseg.training_state import (
    State,
    model_of,
    refresh_prototypes,
    set_learning_rates,
    start_state,
)
from ssrseg.training_step import backward

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
    with ExitStack() as stack:
        stack.enter_context(started(device))
        group = stack.enter_context(joined())
        start, out = time.monotonic(), model_path(user_path(out, "a run"))
        device = group.device(pick_device(device))
        say_again()
        data, given = labelled_images(data), config_of(config)
        config = resolved(given, len(data))
        check_arguments(supervision, stop_after)
        check_shares(config.optim, group.size)
        superpixels = SuperpixelCache.of(cache or out / "superpixels", config.sgc)
        if supervision == "full":
            refuse_without_masks(data)
        vocabulary = build_vocabulary(
            data.classes, config.prompts.set, data.prompts, data.background
        )
        if supervision == "labels" and config.cam.mode != "centre":
            refuse_lone_texts(vocabulary, {each.name: each.labels for each in data.samples})
        group.first(lambda: _begin_writing(stack, out, Path(cache or out)))
        cuda = [torch.device(device)] if device.startswith("cuda") else []
        stack.enter_context(torch.random.fork_rng(cuda))
        schedule, features = plan(config, supervision), Path(cache or out) / "features"
        pooled = None if cache is None else Path(cache) / FOREGROUND
        texts = vocabulary.texts
        run = Run(
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
        config, earlier = group.first(partial(earlier_run, run, given))
        config = group.first(partial(settled_precision, config, device))
        run = replace(run, config=config)
        model = SSR.from_config(
            run.config,
            data.classes,
            prompts=data.prompts,
            background=data.background,
            device=device,
        )
        run, monitor, failures = with_usable_images(run, model, monitor, strict=strict)
        run = with_features(run, model)
        if earlier is not None:
            check_same_run(earlier, run.checkpoint({}, 0, model.encoders), out / STATE_FILE)
        group.refuse_differences({"the encoders": model.encoders})
        photos = None
        if supervision == "labels":
            photos = group.first(partial(_try_one, run, model))
        state = start_state(run, earlier, model)
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


def _say_begin(run: Run, model: SSR, photos: PhotoRates | None, first: int, end: int) -> None:
    """Settings and machine into their files, and a line on what will be needed."""
    write_text(run.out / "config.yaml", run.config.to_yaml())
    if first < end:
        record_machine(run, model, first)
        if photos is not None:
            _say_cost(run, model, photos, first)


def _finish(run: Run, model: SSR, *, keep_features: bool) -> None:
    """Write the trained model."""
    made = run.checkpoint(model.trained_tensors(), run.schedule.total, model.encoders)
    save_checkpoint(run.out / MODEL_FILE, made)
    if run.keeps_features and not keep_features:
        shutil.rmtree(run.features, ignore_errors=True)


def _report(run: Run, model: SSR, done: int, seconds: float, finished: bool) -> None:
    """Write report.html, with a few photographs if the model is finished."""
    shown: list[TrainedImage] = []
    if finished:
        chosen = varied(run.data)
        shown = [_seen(run, model, sample) for sample in track(chosen, "Report", len(chosen))]
    facts = run_facts(run.schedule, run.supervision, done, seconds)
    write_run_report(run.out, run.data, run.config, shown, facts)


def _seen(run: Run, model: SSR, sample: Sample) -> TrainedImage:
    """A photograph as the model sees it: rectified with its labels, and segmented without."""
    photo = read_image(sample.image, run.config.data.range, run.config.data.bands)
    maps, masks = {}, {}
    if run.supervision == "labels":
        found = rectify_photo(model, photo, sample.labels, run.superpixels)
        maps = {"CAM": found.cam.numpy(), "refined CAM": found.refined_cam.numpy()}
        masks = {"pseudo mask": found.pseudo_mask.numpy()}
    masks["prediction"] = model.segment_photo(photo).pseudo_mask.cpu().numpy()
    return TrainedImage(sample.name, photo.numpy(), sample.labels, maps, masks)


def _try_one(run: Run, model: SSR) -> PhotoRates | None:
    """BackboneError, before anything is learned, if the encoders give no usable CAM.

    How long that took is the half of an estimate; None if no image has a label.
    """
    sample = next((each for each in run.data.samples if each.labels), None)
    return None if sample is None else try_photos(model, [sample], len(run.data))


def _say_cost(run: Run, model: SSR, photos: PhotoRates, first: int) -> None:
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
    both = f"{optim.iterations:,} iterations of {optim.batch} crops"
    learns = both if optim.iterations else "CMPA's heads alone"
    note(f"{learns} for {images}: {left}{in_words(cost)}{each}.")


def _loop(
    run: Run,
    state: State,
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
                    refresh_prototypes(run, state, iteration)
            set_learning_rates(state.optimizer, optim, schedule, iteration)
            crops = next(batches) if iteration in schedule.crops else None
            # one step on L_SSR (Eq. 12)
            model = model_of(run, state, iteration)
            state.optimizer.zero_grad(set_to_none=True)
            proto, seg, rows = backward(run, state, model, crops, iteration)
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
    run: Run, state: State, log: Log, stop: Stop, first: int, iteration: int
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
    run: Run, state: State, log: Log, stop: Stop, first: int, iteration: int
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


def _is_whole(run: Run, finished: int) -> bool:
    """Whether a checkpoint, and with it a score of the monitor, belongs to so many iterations."""
    every = run.config.optim.save_every or 1
    return finished > 0 and (finished % every == 0 or finished == run.schedule.total)


def _score(
    run: Run, state: State, log: Log, monitor: LabelledImages, stop: Stop, finished: int
) -> None:
    """Score the pseudo masks of the monitor, for the log."""
    model = model_of(run, state, finished - 1)
    try:
        with stop.at_once():
            log.add_score(pseudo_mask_miou(model, monitor, run.superpixels, run.group))
    except Interrupted:
        raise _stopped(run, stop, finished) from None


def _save(run: Run, state: State, finished: int) -> None:
    """A checkpoint after so many iterations, by the first process: all have the same."""
    if not run.group.is_first:
        return
    made = run.checkpoint(state.tensors(), finished, state.model.encoders)
    save_checkpoint(run.out / STATE_FILE, made)
    _drop_old_foreground(run, finished)


def _stopped(run: Run, stop: Stop, finished: int) -> Interrupted:
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
    run: Run, first: int, iteration: int, checked: Sequence[float], rows: Sequence[int]
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


def _log_row(
    run: Run, state: State, model: SSR, iteration: int, proto: Tensor, seg: Tensor
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


def _batches(run: Run, model: SSR, first: int, end: int) -> Iterator[CropBatch | WindowBatch]:
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


def _drop_old_foreground(run: Run, iteration: int) -> None:
    """Remove the features of refreshes before the one that this checkpoint resumes from."""
    needed = run.foreground_file(iteration)
    for file in run.out.glob("foreground-*.safetensors"):
        if file.name < needed.name:
            file.unlink()
