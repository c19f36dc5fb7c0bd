"""Which heads and which rows of T' a setting of CMPA moves, and which it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssrseg.config import load_config
from ssrseg.losses import PooledPairs, proto_loss
from ssrseg.model import SSR
from ssrseg.trained_parts import new_alignment

CLASSES = ("cat", "dog", "car")
PAIRED_WORD = 2
"""Background word that every background feature is nearest to."""

READINGS = {
    "preset ssr": ((), True, True, "classes"),
    "Eq. 6 as printed": (("cmpa.symmetric=false", "cmpa.bg_pairs=0"), True, False, "none"),
    "no background pairs": (("cmpa.bg_pairs=0",), True, True, "classes"),
    "background texts pulled": (("cmpa.bg_prototypes=pull",), True, True, "paired"),
    "K = C": (("cmpa.bg_prototypes=none",), True, True, "classes"),
    "pulled, but Eq. 6 as printed": (
        ("cmpa.bg_prototypes=pull", "cmpa.symmetric=false"), True, False, "none",
    ),
    "P_T moves": (("cmpa.text_gradient=true",), True, True, "all"),
    "TSA alone": (("cmpa.trained=tsa", "cmpa.text_gradient=true"), False, True, "all"),
    "ISA alone": (("cmpa.trained=isa",), True, False, "none"),
}  # fmt: skip
"""Settings; whether ISA and TSA get a gradient; which rows of T' do."""


def with_heads(clip: Path, dino: Path, *overrides: str) -> SSR:
    config = load_config(
        "ssr",
        overrides=[f"backbones.clip={clip}", f"backbones.dino={dino}", "cmpa.out=16", *overrides],
    )
    model = SSR.from_config(config, CLASSES)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        images = torch.randn(20, model.text_features.shape[1])
        heads = new_alignment(config.cmpa, model.text_features, images)
    for head in (heads.isa, heads.tsa):  # at the start a gain of 0 hides the layers
        if head.gain is not None:
            head.gain.data.fill_(0.5)
    return model.with_config(config, alignment=heads)


def some_pairs(model: SSR) -> PooledPairs:
    generator = torch.Generator().manual_seed(1)
    pooled = torch.randn(9, model.text_features.shape[1], generator=generator)
    word = model.text_features[model.n_classes + PAIRED_WORD]
    background = word + 0.01 * torch.randn(5, len(word), generator=generator)
    classes = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    labels = torch.nn.functional.one_hot(classes, 3).bool()
    rows = background if model.config.cmpa.bg_pairs else background[:0]
    return PooledPairs(pooled, rows, classes, labels, tuple(range(9)))


def gradients(model: SSR) -> tuple[bool, bool, Tensor]:
    """Whether ISA and TSA are moved, and the rows of T' that are."""
    heads = model.alignment
    assert heads is not None
    kept: list[Tensor] = []

    def keep(_: object, __: object, text: Tensor) -> None:
        if text.requires_grad:
            text.retain_grad()
        kept.append(text)

    heads.tsa.register_forward_hook(keep)
    generator = torch.Generator().manual_seed(2)
    prototypes = torch.randn(model.n_prototypes, 16, generator=generator)
    proto_loss(model, some_pairs(model), prototypes).backward()
    moved = [
        any(w.grad is not None and w.grad.abs().max() > 1e-9 for w in head.parameters())
        for head in (heads.isa, heads.tsa)
    ]
    (text,) = kept
    gradient = torch.zeros_like(text) if text.grad is None else text.grad
    return moved[0], moved[1], gradient.abs().amax(1) > 1e-9


@pytest.mark.parametrize("name", READINGS)
def test_what_a_reading_moves(clip_dir: Path, dino_dir: Path, name: str) -> None:
    overrides, isa, tsa, which = READINGS[name]
    model = with_heads(clip_dir, dino_dir, *overrides)
    found = gradients(model)
    assert found[:2] == (isa, tsa)
    words, n = len(model.text_features), model.n_classes
    rows = {
        "none": [],
        "classes": [*range(n)],
        "paired": [*range(n), n + PAIRED_WORD],
        "all": [*range(words)],
    }[which]
    assert found[2].nonzero().flatten().tolist() == rows


@pytest.mark.parametrize("preset", ["ssr", "paper", "ssr-plus"])
def test_every_preset_trains_both_heads(clip_dir: Path, dino_dir: Path, preset: str) -> None:
    cmpa = load_config(preset).to_dict()["cmpa"]
    overrides = [f"cmpa.{key}={value}".replace("True", "true").replace("False", "false")
                 for key, value in cmpa.items() if key not in ("out", "map_order")]  # fmt: skip
    isa, tsa, _ = gradients(with_heads(clip_dir, dino_dir, *overrides))
    assert isa and tsa


def test_a_frozen_head_stays_as_it_began(clip_dir: Path, dino_dir: Path) -> None:
    """Neither its weights nor the running means of its BatchNorm move."""
    model = with_heads(clip_dir, dino_dir, "cmpa.trained=tsa", "cmpa.text_gradient=true")
    heads = model.alignment
    assert heads is not None
    before = {name: value.clone() for name, value in heads.state_dict().items()}
    optimizer = torch.optim.AdamW(w for w in heads.parameters() if w.requires_grad)
    proto_loss(model, some_pairs(model), torch.randn(model.n_prototypes, 16)).backward()
    optimizer.step()
    changed = {name for name, value in heads.state_dict().items() if not value.equal(before[name])}
    assert changed and not any(name.startswith("isa.") for name in changed)
    assert {"tsa.mlp.1.running_mean", "tsa.mlp.0.weight"} <= changed
