"""The loop of Eq. 12: prototypes, L_proto, online pseudo masks, L_seg."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssrseg.checkpoint import (
    MODEL_FILE,
    STATE_FILE,
    Checkpoint,
    check_same_run,
    data_digest,
    load_checkpoint,
    save_checkpoint,
)
from ssrseg.config import Config
from ssrseg.console import Steps, steps
from ssrseg.data.crops import CropBatch, CropDraws, mix
from ssrseg.data.files import atomic_write
from ssrseg.data.sample import LabelledImages
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.errors import CheckpointError, DataError
from ssrseg.foreground import Pairs, collect_pairs
from ssrseg.learner import Learner, Plan, Supervision, build_alignment, plan
from ssrseg.method.objective import ssr_loss
from ssrseg.model import Rectifier, load_rectifier
from ssrseg.networks.decoder import Decoder
from ssrseg.networks.vocabulary import build_vocabulary
from ssrseg.pseudo_masks import pseudo_mask_miou
from ssrseg.training_log import Log


@dataclass(frozen=True)
class TrainResult:
    """Where a run ended.

    Attributes:
        run: Its folder.
        iteration: Finished iterations.
        finished: False if it was stopped on purpose; the same command goes on.
        last: Last row of the log.
    """

    run: Path
    iteration: int
    finished: bool
    last: dict[str, float]


@dataclass(frozen=True)
class _Run:
    """What stays the same through a run."""

    data: LabelledImages
    out: Path
    config: Config
    supervision: Supervision
    superpixels: SuperpixelCache
    schedule: Plan
    texts: tuple[str, ...]

    def checkpoint(self, tensors: dict[str, Tensor], iteration: int) -> Checkpoint:
        """What a file of this run holds."""
        return Checkpoint(
            tensors,
            self.config,
            self.data.classes,
            self.texts,
            data_digest(self.data, truth=self.supervision == "full"),
            iteration,
            self.supervision,
        )


def train(
    data: LabelledImages,
    out: Path,
    config: Config,
    *,
    supervision: Supervision = "labels",
    monitor: LabelledImages | None = None,
    cache: Path | None = None,
    device: str = "cpu",
    stop_after: int | None = None,
) -> TrainResult:
    """Train from image-level labels; go on where an earlier call in the same folder stopped.

    Args:
        data: Training images with their labels. No mask of theirs is opened, unless ``supervision``
            is ``full``.
        out: Run folder: config.yaml, log.csv, checkpoint.safetensors and, at the end,
            model.safetensors.
        config: All settings.
        supervision: ``labels``, or ``full``: the same decoder on true masks, the control of
            Table 6.
        monitor: Images with true masks; at every checkpoint the pseudo masks of these are scored
            and logged. Nothing is learned or chosen from it.
        cache: Folder of superpixels, to be shared between runs; by default inside ``out``.
        device: ``cpu`` or ``cuda``.
        stop_after: Stop, resumable, when so many iterations are finished.

    Raises:
        CheckpointError: If ``out`` holds a run with other settings, classes or supervision.
        DataError: If an image cannot be read, CMPA finds no pair, or a mask is missing where
            ``supervision`` is ``full``.
    """
    superpixels = SuperpixelCache(
        cache or out / "superpixels",
        n_segments=config.sgc.n_segments,
        compactness=config.sgc.compactness,
    )
    texts = build_vocabulary(data.classes, config.prompts.set, data.prompts).texts
    run = _Run(data, out, config, supervision, superpixels, plan(config, supervision), texts)
    earlier = _earlier_run(run)
    with torch.random.fork_rng():
        rectifier = load_rectifier(config, data.classes, own_prompts=data.prompts, device=device)
        learner = _build_learner(run, rectifier, earlier)
        first = 0 if earlier is None else earlier.iteration
        stop = run.schedule.total if stop_after is None else min(stop_after, run.schedule.total)
        with atomic_write(out / "config.yaml") as temporary:
            temporary.write_text(config.to_yaml(), encoding="utf-8")
        last = _loop(run, learner, first, stop, monitor)
    finished = max(first, stop) == run.schedule.total
    if finished:
        save_checkpoint(out / MODEL_FILE, run.checkpoint(learner.tensors(), run.schedule.total))
    return TrainResult(out, max(first, stop), finished, last)


def _build_learner(run: _Run, rectifier: Rectifier, earlier: Checkpoint | None) -> Learner:
    """Heads, decoder and optimiser, new or as an earlier run left them."""
    config = run.config
    pairs = None
    torch.manual_seed(mix(config.optim.seed, 0, 3))
    if len(run.schedule.align):
        # a random head that sees patches first needs no pooled features before its first refresh
        literal = config.cmpa.init == "random" and config.cmpa.map_order == "project_then_pool"
        if earlier is None and not literal:
            pairs = collect_pairs(rectifier, run.data, run.superpixels, aligned=False)
            if not len(pairs.classes):
                raise DataError(
                    f"CMPA found no usable (image, class) pair in {run.data.root}: every CAM is"
                    f" empty or smaller than cmpa.min_patches = {config.cmpa.min_patches} patches."
                    " Lower it (--set cmpa.min_patches=1), or train without CMPA (--set"
                    " cam.mode=clip)."
                )
        rectifier.alignment = build_alignment(config, rectifier.text_features, pairs)
    decoder = Decoder(
        rectifier.clip.depth - 1,
        rectifier.clip.width,
        rectifier.n_classes,
        layers=config.decoder.layers,
        dropout=config.decoder.dropout,
    ).to(rectifier.device)
    learner = Learner(rectifier, decoder, run.data.labels)
    learner.pairs = pairs
    if earlier is not None:
        learner.restore(earlier, run.out / STATE_FILE)
        pooled = _pairs_file(run, _last_refresh(run, earlier.iteration))
        if len(run.schedule.align) and earlier.iteration < run.schedule.align.stop:
            if pooled.is_file():
                learner.pairs = Pairs.load(pooled)
            elif config.cmpa.cam_source == "cmpa":
                raise CheckpointError(
                    f"{pooled} is missing, and its features cannot be pooled again: they are those"
                    " of an earlier model. Begin anew in another --out."
                )
            else:
                literal = config.cmpa.map_order == "project_then_pool"
                learner.pairs = collect_pairs(rectifier, run.data, run.superpixels, aligned=literal)
    return learner


def _loop(
    run: _Run, learner: Learner, first: int, stop: int, monitor: LabelledImages | None
) -> dict[str, float]:
    """Iterations ``first`` .. ``stop``; returns the last row of the log."""
    schedule, optim = run.schedule, run.config.optim
    batches = _batches(run, first, stop, learner.rectifier)
    log = Log(run.out / "log.csv", first)
    with log:
        for iteration, progress in _counted(schedule, first, stop):
            if iteration in schedule.align and iteration % run.config.cmpa.update_every == 0:
                _refresh(run, learner, iteration)
            learner.begin(iteration, schedule)
            batch = next(batches) if iteration in schedule.crops else None
            # dropout; after the batch, as a loader draws a seed of its own when it starts
            torch.manual_seed(mix(optim.seed, iteration, 4))
            row = _iteration(run, learner, batch, iteration)
            finished = iteration + 1
            if finished % optim.save_every == 0 or finished == stop:
                if monitor is not None:
                    row["pseudo_miou"] = pseudo_mask_miou(
                        learner.rectifier, monitor, run.superpixels
                    )
                log.add(row)
                log.flush()  # first, so that no checkpoint is ahead of its log
                save_checkpoint(run.out / STATE_FILE, run.checkpoint(learner.state(), finished))
                _drop_old_pairs(run, finished)
            else:
                log.add(row)
            progress.advance(f"loss {log.last['loss']:.3f}" if log.last else "")
    return log.last


def _counted(schedule: Plan, first: int, stop: int) -> Iterator[tuple[int, Steps]]:
    """Iterations with a bar for each stage: those of CMPA alone are many times faster."""
    turn = schedule.segment.start if schedule.segment else schedule.total
    for name, begin, end in (("Aligning", 0, turn), ("Training", turn, schedule.total)):
        if max(first, begin) < min(stop, end):
            with steps(name, end - begin, done=max(first, begin) - begin) as progress:
                for iteration in range(max(first, begin), min(stop, end)):
                    yield iteration, progress


def _iteration(
    run: _Run, learner: Learner, batch: CropBatch | None, iteration: int
) -> dict[str, float | Tensor]:
    """One step of the optimiser on L_proto + γ·L_seg (Eq. 12); values stay on the device."""
    optim, device = run.config.optim, learner.rectifier.device
    align, segment = iteration in run.schedule.align, iteration in run.schedule.segment
    from_cache = align and run.config.cmpa.map_order == "pool_then_project"
    learner.optimizer.zero_grad(set_to_none=True)
    proto_sum = seg_sum = torch.zeros((), device=device)
    if from_cache:
        proto = learner.cached_proto_loss(iteration)
        proto.backward()
        proto_sum = proto.detach()
    if batch is not None:
        parts = list(batch.split(optim.micro_batch or optim.batch))
        for part in parts:
            proto, seg = _crop_losses(
                learner, part.to(device), align and not from_cache, segment, run.supervision
            )
            loss = ssr_loss(proto, seg, seg_weight=optim.seg_weight) / len(parts)
            if loss.requires_grad:
                loss.backward()
            proto_sum = proto_sum + proto.detach() / len(parts)
            seg_sum = seg_sum + seg.detach() / len(parts)
    learner.optimizer.step()
    if learner.alignment is not None:
        learner.alignment.keep_temperature()
    temperature = (
        float("nan") if learner.alignment is None else learner.alignment.temperature.detach()
    )
    return {
        "iteration": float(iteration + 1),
        "loss": proto_sum + optim.seg_weight * seg_sum if align else seg_sum,
        "proto": proto_sum,
        "seg": seg_sum,
        "temperature": temperature,
        "purity": learner.purity,
        "lr": max(group["lr"] for group in learner.optimizer.param_groups),
        "pseudo_miou": float("nan"),
    }


def _crop_losses(
    learner: Learner, batch: CropBatch, align: bool, segment: bool, supervision: Supervision
) -> tuple[Tensor, Tensor]:
    """L_proto, and L_seg with L_aff, of one micro-batch; 0 where a loss is not active."""
    rectifier = learner.rectifier
    proto = seg = torch.zeros((), device=batch.image.device)
    view = rectifier.see(batch.image)
    if supervision == "full":
        truth = batch.ids.to(torch.uint8)
    else:
        initial = rectifier.initial_cam(view, batch.present, batch.valid, with_clip=align)
        if align:
            found = learner.crop_proto_loss(initial, batch)
            proto = proto if found is None else found
        if segment:
            with torch.no_grad():
                rectified = rectifier.rectify(
                    batch.image,
                    batch.present,
                    batch.ids,
                    batch.valid,
                    initial,
                    n_superpixels=batch.n_ids,
                )
                truth = rectifier.pseudo_mask(rectified, batch.image, batch.valid)
    if segment:
        seg = learner.seg_loss(view, truth)
    return proto, seg


def _refresh(run: _Run, learner: Learner, iteration: int) -> None:
    """New prototypes; features are pooled anew where the settings make them change."""
    config = run.config.cmpa
    literal = config.map_order == "project_then_pool"
    learner.rectifier.decoder = None  # what the heads learn from does not depend on it
    pairs = learner.pairs
    if pairs is None or literal or (config.cam_source == "cmpa" and iteration > 0):
        pairs = collect_pairs(learner.rectifier, run.data, run.superpixels, aligned=literal)
    pairs.save(_pairs_file(run, iteration))
    learner.refresh_prototypes(pairs)


def _drop_old_pairs(run: _Run, iteration: int) -> None:
    """Remove the pairs of refreshes before the one that this checkpoint resumes from."""
    needed = _pairs_file(run, _last_refresh(run, iteration))
    for file in run.out.glob("pairs-*.safetensors"):
        if file.name < needed.name:
            file.unlink()


def _last_refresh(run: _Run, iteration: int) -> int:
    every = run.config.cmpa.update_every
    return max(iteration - 1, 0) // every * every


def _pairs_file(run: _Run, iteration: int) -> Path:
    return run.out / f"pairs-{iteration:07d}.safetensors"


def _batches(run: _Run, first: int, stop: int, rectifier: Rectifier) -> Iterator[CropBatch]:
    """Crops of the iterations that need some, from the first one still to do."""
    draws = CropDraws(
        run.data,
        run.config.data,
        run.superpixels if run.supervision == "labels" else None,
        run.config.optim.seed,
        min_side=rectifier.clip.patch_size,
    )
    size, offset = run.config.optim.batch, run.schedule.crops.start
    first = max(first, offset)
    if stop > first:
        pin = rectifier.device.type == "cuda"
        yield from draws.loader((first - offset) * size, (stop - offset) * size, size, pin=pin)


def _earlier_run(run: _Run) -> Checkpoint | None:
    path = run.out / STATE_FILE
    if not path.is_file():
        return None
    earlier = load_checkpoint(path)
    check_same_run(earlier, run.checkpoint({}, 0), path)
    return earlier
