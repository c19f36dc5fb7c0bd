"""What is trained: ISA, TSA, τ and the decoder, with prototypes, optimiser and their state."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ssrseg.checkpoint import Checkpoint, load_part
from ssrseg.config import Config
from ssrseg.data.crops import CropBatch, mix
from ssrseg.foreground import Pairs
from ssrseg.method.cmpa import (
    Alignment,
    Projector,
    alignment_loss,
    background_loss,
    image_prototypes,
    pool_foreground,
    positive_index,
    shared_basis,
    usable_pairs,
)
from ssrseg.method.objective import segmentation_loss
from ssrseg.method.peers import affinity_loss, feature_affinity
from ssrseg.model import InitialCam, Rectifier
from ssrseg.networks.clip import ClipView
from ssrseg.networks.decoder import Decoder

Supervision = Literal["labels", "full"]


@dataclass(frozen=True)
class Plan:
    """Which loss is active in which iteration."""

    align: range
    segment: range
    crops: range

    @property
    def total(self) -> int:
        """Iterations in all."""
        return max(self.align.stop, self.segment.stop)


def plan(config: Config, supervision: Supervision) -> Plan:
    """Staged: L_proto, then L_seg. Joint: both in every iteration, as Eq. 12 has it."""
    optim = config.optim
    aligned = supervision == "labels" and config.cam.mode == "cmpa"
    if not aligned:
        align, segment = range(0), range(optim.iterations)
    elif optim.schedule == "joint":
        align = segment = range(optim.iterations)
    else:
        align = range(optim.cmpa_iterations)
        segment = range(optim.cmpa_iterations, optim.cmpa_iterations + optim.iterations)
    needs_crops = aligned and config.cmpa.map_order == "project_then_pool"
    return Plan(align, segment, range(0 if needs_crops else segment.start, segment.stop))


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


@dataclass(frozen=True)
class PairRows:
    """Class of each pair, and the classes present in its image."""

    classes: Tensor
    labels: Tensor


class Learner:
    """Everything that changes during training: heads, decoder, prototypes, optimiser."""

    def __init__(self, rectifier: Rectifier, decoder: Decoder, labels: Tensor) -> None:
        """Join what is trained.

        Args:
            rectifier: Encoders, settings, and CMPA's heads unless CMPA is off.
            decoder: To be trained.
            labels: Image-level labels of the training set, (images, classes), bool.
        """
        config = rectifier.config
        self.rectifier, self.decoder, self.labels = rectifier, decoder, labels
        self.pairs: Pairs | None = None
        self.alignment = rectifier.alignment
        self.prototypes: Tensor | None = None
        self.purity = float("nan")
        groups: list[dict[str, object]] = [
            {"params": list(decoder.parameters()), "base": config.optim.decoder_lr}
        ]
        if self.alignment is not None:
            decayed = [
                value for name, value in self.alignment.named_parameters()
                if name != "log_temperature"
            ]  # fmt: skip
            free = [
                value for name, value in self.alignment.named_parameters()
                if name == "log_temperature"
            ]  # fmt: skip
            groups.append({"params": decayed, "base": config.optim.cmpa_lr})
            if free:
                groups.append({"params": free, "base": config.optim.cmpa_lr, "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(
            groups, lr=0.0, weight_decay=config.optim.weight_decay, fused=True
        )

    def begin(self, iteration: int, schedule: Plan) -> None:
        """Learning rates, each group's by the schedule of its own stage, and WeCLIP's RFM."""
        optim, rfm_after = self.rectifier.config.optim, self.rectifier.config.affinity.rfm_after
        refines = rfm_after is not None and iteration - schedule.segment.start >= rfm_after
        self.rectifier.decoder = self.decoder if refines else None
        for index, group in enumerate(self.optimizer.param_groups):
            active = schedule.segment if index == 0 else schedule.align
            step = min(max(iteration - active.start, 0), max(len(active) - 1, 0))
            group["lr"] = learning_rate(group["base"], step, len(active), optim.warmup, optim.power)

    @torch.no_grad()
    def refresh_prototypes(self, pairs: Pairs) -> None:
        """K-means over the whole training set (spec §6.3)."""
        assert self.alignment is not None
        self.pairs = pairs
        config, device = self.rectifier.config.cmpa, self.rectifier.device
        self.alignment.eval()
        pooled = pairs.pooled.to(device)
        aligned = self.alignment.isa(pooled) if config.map_order == "pool_then_project" else pooled
        text = self.alignment.tsa(self.rectifier.text_features)[: self.rectifier.n_classes]
        found = image_prototypes(aligned, pairs.classes.to(device), text, method=config.proto)
        self.prototypes, self.purity = found.image, found.purity
        self.alignment.train()

    def proto_loss(self, features: Tensor, clip_background: Tensor, rows: PairRows) -> Tensor:
        """L_proto of a batch of pairs, with background pairs where the settings ask for them.

        Args:
            features: Aligned foreground features, then aligned background features.
            clip_background: The same background features in CLIP's space.
            rows: Which classes they belong to.
        """
        assert self.alignment is not None and self.prototypes is not None
        config, n_classes = self.rectifier.config.cmpa, self.rectifier.n_classes
        foreground, background = features.tensor_split([len(rows.classes)])
        text = self.alignment.tsa(self.rectifier.text_features)
        positive = positive_index(
            foreground.detach(), self.prototypes, rows.classes, rows.labels, config.pos
        )
        loss = alignment_loss(
            config.loss,
            foreground,
            rows.classes,
            positive,
            text,
            self.prototypes,
            self.alignment.temperature,
            symmetric=config.symmetric,
            bg_negatives=config.bg_negatives,
        )
        if len(background) and len(text) > n_classes:
            words = self.rectifier.text_features[n_classes:]
            nearest = (functional.normalize(clip_background, dim=-1) @ words.T).argmax(-1)
            loss = loss + config.bg_pairs * background_loss(
                background, nearest + n_classes, text, self.alignment.temperature
            )
        return loss

    def cached_proto_loss(self, iteration: int) -> Tensor:
        """L_proto of pairs drawn from the cache (pool, then project)."""
        assert self.alignment is not None and self.pairs is not None
        pairs, optim, device = self.pairs, self.rectifier.config.optim, self.rectifier.device
        generator = torch.Generator().manual_seed(mix(optim.seed, iteration, 2))
        chosen = torch.randperm(len(pairs.classes), generator=generator)[: optim.pairs]
        image, classes = pairs.image[chosen], pairs.classes[chosen].to(device)
        config = self.rectifier.config.cmpa
        background = pairs.background[image.unique() if config.bg_pairs else image[:0]].to(device)
        pooled = pairs.pooled[chosen].to(device)
        features = self.alignment.isa(torch.cat([pooled, background]))
        return self.proto_loss(
            features, background, PairRows(classes, self.labels[image].to(device))
        )

    def crop_proto_loss(self, initial: InitialCam, batch: CropBatch) -> Tensor | None:
        """L_proto of the pairs in a batch of crops, every patch aligned first (Eq. 2, literally).

        Returns:
            None if no crop holds a usable pair.
        """
        assert self.alignment is not None
        config = self.rectifier.config.cmpa
        cam = initial.cam if config.cam_source == "cmpa" else initial.clip_cam
        assert cam is not None
        inside = functional.adaptive_avg_pool2d(batch.valid[:, None].float(), initial.view.grid)
        inside = inside.flatten(1) >= 0.5
        raw = initial.patch_features
        clip_background = pool_foreground(raw, cam, inside)[1]
        usable = usable_pairs(cam.flatten(2), batch.present, min_patches=config.min_patches)
        if not usable.any():
            return None
        image = usable.nonzero()[:, 0]
        aligned = raw.new_zeros(*raw.shape[:2], config.out)
        aligned[inside] = self.alignment.isa(raw[inside])  # padding stays out of BatchNorm
        pooled, background = pool_foreground(aligned, cam, inside)
        if not config.bg_pairs:
            background, clip_background = background[:0], clip_background[:0]
        labels = torch.zeros(
            len(cam), self.rectifier.n_classes + 1, dtype=torch.bool, device=cam.device
        ).scatter_(1, batch.present + 1, True)[:, 1:]
        return self.proto_loss(
            torch.cat([pooled[usable], background]),
            clip_background,
            PairRows(batch.present[usable], labels[image]),
        )

    def seg_loss(self, view: ClipView, truth: Tensor) -> Tensor:
        """L_seg of a batch of crops, and WeCLIP's L_aff beside it if the settings ask for it."""
        optim = self.rectifier.config.optim
        fused = self.decoder.fusion(view.tokens)
        logits = self.decoder.segment(fused, view.grid)
        size = (truth.shape[1], truth.shape[2])
        at_size = functional.interpolate(logits, size, mode="bilinear", align_corners=False)
        loss = segmentation_loss(at_size, truth)
        if optim.affinity_weight:
            alike = affinity_loss(
                feature_affinity(fused), truth, view.grid, radius=optim.affinity_radius
            )
            loss = loss + optim.affinity_weight * alike
        return loss

    def tensors(self) -> dict[str, Tensor]:
        """The model: decoder and heads."""
        named = {f"decoder.{key}": value for key, value in self.decoder.state_dict().items()}
        if self.alignment is not None:
            named |= {
                f"alignment.{key}": value for key, value in self.alignment.state_dict().items()
            }
        return named

    def state(self) -> dict[str, Tensor]:
        """The model and all that a resumed run needs beside it."""
        named = self.tensors()
        if self.prototypes is not None:
            named["prototypes.image"] = self.prototypes
            named["prototypes.purity"] = torch.tensor(self.purity, dtype=torch.float64)
        for index, moments in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{index}.{key}": value for key, value in moments.items()}
        return named

    def restore(self, checkpoint: Checkpoint, origin: Path) -> None:
        """Take over a training checkpoint."""
        load_part(self.decoder, checkpoint, "decoder", origin)
        if self.alignment is not None:
            load_part(self.alignment, checkpoint, "alignment", origin)
        prototypes = checkpoint.part("prototypes")
        if prototypes:
            self.prototypes = prototypes["image"].to(self.rectifier.device)
            self.purity = float(prototypes["purity"])
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in checkpoint.part("optimizer").items():
            index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = value
        whole = self.optimizer.state_dict()
        whole["state"] = moments
        self.optimizer.load_state_dict(whole)


def build_alignment(config: Config, text_features: Tensor, pairs: Pairs | None) -> Alignment:
    """ISA, TSA and τ as the settings say.

    Args:
        config: All settings.
        text_features: Of all texts.
        pairs: Features for the basis of residual heads; None where the heads' weights are going to
            be loaded.
    """
    cmpa = config.cmpa
    dim = text_features.shape[1]
    basis = None
    if cmpa.init == "residual":
        if pairs is None:
            basis = text_features.new_zeros(cmpa.out, dim)
        else:
            basis = shared_basis(text_features.cpu(), pairs.mean, cmpa.out).to(text_features)
    heads = [
        Projector(
            dim,
            cmpa.out,
            hidden=cmpa.hidden,
            depth=cmpa.depth,
            basis=None if basis is None else basis.clone(),
        )
        for _ in ("ISA", "TSA")
    ]
    return Alignment(*heads, temperature=cmpa.temperature, learnable=cmpa.learnable_temperature).to(
        text_features.device
    )


@torch.no_grad()
def untrained_heads(heads: Alignment, temperature: float) -> Alignment | None:
    """The control beside every figure of CMPA: the same heads as they were before training.

    Args:
        heads: Trained heads; left as they are.
        temperature: τ at the start.

    Returns:
        In eval mode; None where the heads began at random, which nothing remembers.
    """
    start = deepcopy(heads).eval()
    if start.isa.gain is None or start.tsa.gain is None:
        return None
    start.isa.gain.zero_()
    start.tsa.gain.zero_()
    start.log_temperature.fill_(math.log(temperature))
    return start
