"""What training changes: heads, decoder, optimiser, prototypes and the features behind them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssrseg.checkpoint import (
    STATE_FILE,
    Checkpoint,
    check_same_encoders,
    check_tensors,
    load_part,
)
from ssrseg.config import OptimConfig
from ssrseg.errors import CheckpointError, DataError
from ssrseg.foreground import ForegroundFeatures, collect_foreground, frozen_foreground
from ssrseg.method.cmpa import image_prototypes
from ssrseg.model import SSR
from ssrseg.processes import Group, Step
from ssrseg.schedule import Schedule
from ssrseg.trained_parts import first_seed, new_alignment, new_decoder
from ssrseg.training_run import Run


@dataclass
class State:
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


def start_state(run: Run, earlier: Checkpoint | None, model: SSR) -> State:
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
    state = State(model, model.with_config(plain), _optimizer(model), foreground)
    if earlier is not None:
        state.restore(earlier, run.out / STATE_FILE)
        begun = earlier.iteration in run.schedule.align and earlier.iteration > 0
        if begun and state.prototypes is None:
            raise CheckpointError(f"{run.out / STATE_FILE} holds no prototypes: it is damaged.")
        if earlier.iteration < run.schedule.align.stop:
            state.foreground = _earlier_foreground(run, state, earlier.iteration)
    return state


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


def _pool(run: Run, model: SSR) -> ForegroundFeatures:
    """Foreground features of the training set; where heads have a part in them, by the model's."""
    config, heads = run.config.cmpa, model.alignment is not None
    if heads and (config.aligns_patches or config.cam_source == "cmpa"):
        aligned = config.aligns_patches
        return collect_foreground(
            model, run.data, run.superpixels, aligned=aligned, group=run.group
        )
    return frozen_foreground(model, run.data, run.superpixels, run.pooled, group=run.group)


def _no_pairs(run: Run, model: SSR) -> DataError:
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


def _earlier_foreground(run: Run, state: State, iteration: int) -> ForegroundFeatures:
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
def refresh_prototypes(run: Run, state: State, iteration: int) -> None:
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


def model_of(run: Run, state: State, iteration: int) -> SSR:
    """WeCLIP's RFM, where it is used, begins after some iterations with L_seg."""
    after = run.config.affinity.rfm_after
    begins = after is not None and iteration - run.schedule.segment.start >= after
    return state.model if begins else state.without_rfm


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


def set_learning_rates(
    optimizer: torch.optim.Optimizer, optim: OptimConfig, schedule: Schedule, iteration: int
) -> None:
    """Each group by the schedule of its own stage: the decoder's is the first."""
    for index, group in enumerate(optimizer.param_groups):
        active = schedule.segment if index == 0 else schedule.align
        step = min(max(iteration - active.start, 0), max(len(active) - 1, 0))
        group["lr"] = learning_rate(group["base"], step, len(active), optim.warmup, optim.power)
