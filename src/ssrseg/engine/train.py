"""The loop of Eq. 12: prototypes, L_proto, online pseudo masks, L_seg."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ssrseg.config import Config
from ssrseg.data.cache import SuperpixelCache
from ssrseg.data.files import atomic_write
from ssrseg.data.sample import LabelledImages
from ssrseg.engine.checkpoint import (
    MODEL_FILE,
    STATE_FILE,
    Checkpoint,
    check_classes,
    load_checkpoint,
    save_checkpoint,
)
from ssrseg.engine.crops import CropBatch, CropDraws, mix
from ssrseg.engine.learner import Learner, Plan, Supervision, build_alignment, plan
from ssrseg.engine.masks import pseudo_mask_miou
from ssrseg.engine.pairs import Pairs, collect_pairs
from ssrseg.engine.progress import steps
from ssrseg.engine.rectify import Rectifier, load_rectifier
from ssrseg.errors import CheckpointError
from ssrseg.method.objective import segmentation_loss, ssr_loss
from ssrseg.networks.decoder import Decoder

LOG_FIELDS = ("iteration", "loss", "proto", "seg", "temperature", "purity", "lr", "pseudo_miou")


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



def train(
    data: LabelledImages,
    out: Path,
    config: Config,
    *,
    supervision: Supervision = "labels",
    own_prompts: dict[str, str] | None = None,
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
        own_prompts: Prompts that come with the data.
        monitor: Images with true masks; at every checkpoint the pseudo masks of these are scored
            and logged. Nothing is learned or chosen from it.
        cache: Folder of superpixels, to be shared between runs; by default inside ``out``.
        device: ``cpu`` or ``cuda``.
        stop_after: Stop, resumable, when so many iterations are finished.

    Raises:
        CheckpointError: If ``out`` holds a run with other settings, classes or supervision.
    """
    superpixels = SuperpixelCache(
        cache or out / "superpixels",
        n_segments=config.sgc.n_segments,
        compactness=config.sgc.compactness,
    )
    earlier = _earlier_run(out, config, data.classes, supervision)
    with torch.random.fork_rng():
        rectifier = load_rectifier(config, data.classes, own_prompts=own_prompts, device=device)
        learner = _build_learner(rectifier, data, superpixels, out, earlier, plan(config, supervision))
        return _run(
            learner, data, out, superpixels, supervision, own_prompts or {}, monitor, earlier, stop_after
        )


def _build_learner(
    rectifier: Rectifier,
    data: LabelledImages,
    superpixels: SuperpixelCache,
    out: Path,
    earlier: Checkpoint | None,
    schedule: Plan,
) -> Learner:
    config = rectifier.config
    pairs = None
    torch.manual_seed(mix(config.optim.seed, 0, 3))
    if len(schedule.align):
        if earlier is None:
            pairs = collect_pairs(rectifier, data, superpixels, aligned=False)
            if not len(pairs.classes):
                raise CheckpointError(
                    f"CMPA found no usable (image, class) pair in {data.root}: every CAM is empty or"
                    f" smaller than cmpa.min_patches = {config.cmpa.min_patches} patches. Lower it"
                    " (--set cmpa.min_patches=1), or train without CMPA (--set cam.mode=clip)."
                )
        rectifier.alignment = build_alignment(config, rectifier.text_features, pairs)
    decoder = Decoder(
        rectifier.clip.depth - 1,
        rectifier.clip.width,
        rectifier.n_classes,
        layers=config.decoder.layers,
        dropout=config.decoder.dropout,
    ).to(rectifier.device)
    learner = Learner(rectifier, decoder, data.labels)
    learner.pairs = pairs
    if earlier is not None:
        learner.restore(earlier, out / STATE_FILE)
        refreshed = _pairs_file(out, _last_refresh(earlier.iteration, config))
        if len(schedule.align) and refreshed.is_file():
            learner.pairs = Pairs.load(refreshed)
    return learner


def _run(
    learner: Learner,
    data: LabelledImages,
    out: Path,
    superpixels: SuperpixelCache,
    supervision: Supervision,
    own_prompts: dict[str, str],
    monitor: LabelledImages | None,
    earlier: Checkpoint | None,
    stop_after: int | None,
) -> TrainResult:
    rectifier, config = learner.rectifier, learner.rectifier.config
    schedule = plan(config, supervision)
    first = 0 if earlier is None else earlier.iteration
    stop = schedule.total if stop_after is None else min(stop_after, schedule.total)
    draws = CropDraws(
        data, config.data, superpixels if supervision == "labels" else None, config.optim.seed
    )
    batches = _batches(draws, schedule, max(first, schedule.crops.start), stop, config.optim.batch)
    with atomic_write(out / "config.yaml") as temporary:
        temporary.write_text(config.to_yaml(), encoding="utf-8")
    log = _Log(out / "log.csv", first)

    def save(iteration: int) -> None:
        save_checkpoint(
            out / STATE_FILE,
            Checkpoint(
                learner.state(), config, data.classes, own_prompts, iteration, supervision
            ),
        )

    row: dict[str, float] = log.last
    with steps("Training", schedule.total, done=first) as progress:
        for iteration in range(first, stop):
            if iteration in schedule.align and iteration % config.cmpa.update_every == 0:
                _refresh(learner, data, superpixels, out, iteration)
            torch.manual_seed(mix(config.optim.seed, iteration, 4))  # dropout
            learner.set_learning_rates(iteration, schedule)
            batch = next(batches) if iteration in schedule.crops else None
            row = _iteration(learner, batch, iteration, schedule, supervision)
            finished = iteration + 1
            if finished % config.optim.save_every == 0 or finished in (stop, schedule.total):
                if monitor is not None:
                    row["pseudo_miou"] = pseudo_mask_miou(rectifier, monitor, superpixels)
                save(finished)
            log.write(row)
            progress.advance(f"loss {row['loss']:.3f}")
    if stop == schedule.total:
        save_checkpoint(
            out / MODEL_FILE,
            Checkpoint(learner.tensors(), config, data.classes, own_prompts, stop, supervision),
        )
    return TrainResult(out, max(first, stop), stop == schedule.total, row)


def _iteration(
    learner: Learner,
    batch: CropBatch | None,
    iteration: int,
    schedule: Plan,
    supervision: Supervision,
) -> dict[str, float]:
    """One step of the optimiser on L_proto + γ·L_seg (Eq. 12)."""
    rectifier, optim = learner.rectifier, learner.rectifier.config.optim
    align, segment = iteration in schedule.align, iteration in schedule.segment
    from_cache = align and rectifier.config.cmpa.map_order == "pool_then_project"
    learner.optimizer.zero_grad(set_to_none=True)
    proto_sum = seg_sum = 0.0
    if from_cache:
        proto = learner.cached_proto_loss(iteration)
        proto.backward()
        proto_sum = proto.item()
    if batch is not None:
        parts = list(batch.split(optim.micro_batch or optim.batch))
        for part in parts:
            proto, seg = _crop_losses(
                learner, part.to(rectifier.device), align and not from_cache, segment, supervision
            )
            loss = ssr_loss(proto, seg, seg_weight=optim.seg_weight) / len(parts)
            if loss.requires_grad:
                loss.backward()
            proto_sum += proto.item() / len(parts)
            seg_sum += seg.item() / len(parts)
    learner.optimizer.step()
    temperature = float("nan") if learner.alignment is None else float(learner.alignment.temperature)
    return {
        "iteration": iteration + 1,
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
    """L_proto and L_seg of one micro-batch; 0 where a loss is not active."""
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
                    batch.image, batch.present, batch.ids, batch.valid, initial
                )
                truth = rectifier.pseudo_mask(rectified, batch.image, batch.valid)
    if segment:
        logits = learner.decoder(view.tokens, view.grid)
        size = (truth.shape[1], truth.shape[2])
        at_size = functional.interpolate(logits, size, mode="bilinear", align_corners=False)
        seg = segmentation_loss(at_size, truth)
    return proto, seg


def _refresh(
    learner: Learner, data: LabelledImages, superpixels: SuperpixelCache, out: Path, iteration: int
) -> None:
    """New prototypes; features are pooled anew where the settings make them change."""
    config = learner.rectifier.config.cmpa
    literal = config.map_order == "project_then_pool"
    pairs = learner.pairs
    if pairs is None or literal or (config.cam_source == "cmpa" and iteration > 0):
        pairs = collect_pairs(learner.rectifier, data, superpixels, aligned=literal)
    pairs.save(_pairs_file(out, iteration))
    for old in out.glob("pairs-*.safetensors"):
        if old not in (
            _pairs_file(out, iteration),
            _pairs_file(out, iteration - config.update_every),
        ):
            old.unlink()
    learner.refresh_prototypes(pairs)


def _last_refresh(iteration: int, config: Config) -> int:
    return max(iteration - 1, 0) // config.cmpa.update_every * config.cmpa.update_every


def _pairs_file(out: Path, iteration: int) -> Path:
    return out / f"pairs-{iteration:07d}.safetensors"


def _batches(
    draws: CropDraws, schedule: Plan, first: int, stop: int, batch: int
) -> Iterator[CropBatch]:
    offset = schedule.crops.start
    if stop > first:
        yield from draws.loader((first - offset) * batch, (stop - offset) * batch, batch)


def _earlier_run(
    out: Path, config: Config, classes: tuple[str, ...], supervision: Supervision
) -> Checkpoint | None:
    path = out / STATE_FILE
    if not path.is_file():
        return None
    earlier = load_checkpoint(path)
    check_classes(earlier.classes, classes, path)
    old, new = earlier.config.to_dict(), config.to_dict()
    differing = [
        f"{section}.{key} = {old[section].get(key)!r} there, {value!r} now"
        for section, values in new.items()
        for key, value in values.items()
        if old[section].get(key) != value
    ]
    if earlier.supervision != supervision:
        differing.append(f"supervision = {earlier.supervision} there, {supervision} now")
    if differing:
        raise CheckpointError(
            f"{out} holds a run with other settings ({'; '.join(differing[:5])}). Use the same"
            " settings to go on with it, or another --out to begin anew."
        )
    return earlier


class _Log:
    """log.csv, one row per iteration; rows after the resumed iteration are dropped."""

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        rows: list[dict[str, str]] = []
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row["iteration"]) <= first]
        with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, LOG_FIELDS)
            writer.writeheader()
            writer.writerows(rows)
        self.last = {key: float(value) for key, value in rows[-1].items()} if rows else {}

    def write(self, row: dict[str, float]) -> None:
        """Append; an interrupted run loses no row."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, LOG_FIELDS).writerow(
                {key: f"{value:.9g}" for key, value in row.items()}
            )
