"""The gradients of one iteration: L_proto and L_seg of its crops, joined to L_SSR (Eq. 12)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import itemgetter

import torch
from torch import Tensor

from ssrseg.data.crops import CropBatch, derive_seed
from ssrseg.data.windows import WindowBatch
from ssrseg.feature_cache import window_features
from ssrseg.losses import (
    CropPairs,
    PooledPairs,
    crop_pairs,
    draw_pairs,
    online_masks,
    proto_loss,
    seg_loss,
)
from ssrseg.method.objective import all_there, ssr_loss
from ssrseg.model import SSR
from ssrseg.processes import Group, together, unsynchronised
from ssrseg.training_run import Run
from ssrseg.training_state import State


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


def backward(
    run: Run, state: State, model: SSR, crops: CropBatch | WindowBatch | None, iteration: int
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
    run: Run, state: State, model: SSR, crops: CropBatch | WindowBatch | None, iteration: int
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
    run: Run, state: State, model: SSR, crops: CropBatch | WindowBatch | None, iteration: int
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


def _proto_of(model: SSR, pairs: PooledPairs | CropPairs, state: State) -> Callable[[], Tensor]:
    assert state.prototypes is not None
    return partial(proto_loss, model, pairs, state.prototypes)
