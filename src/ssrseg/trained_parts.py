"""CMPA's heads and the decoder: built new, loaded from a run, or as a control."""

from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssrseg.checkpoint import Checkpoint, check_part, load_part
from ssrseg.config import CmpaConfig, DecoderConfig
from ssrseg.data.crops import derive_seed
from ssrseg.errors import ConfigError
from ssrseg.method.cmpa import Alignment, Projector, shared_basis
from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.decoder import Decoder


def new_alignment(
    config: CmpaConfig,
    text_features: Float[Tensor, "words dim1"],
    image_features: Float[Tensor, "images dim1"] | None = None,
) -> Alignment:
    """ISA, TSA and τ as the settings say, untrained, on the device of the texts.

    Args:
        config: Sizes and start of the heads.
        text_features: T, all texts.
        image_features: Mean patch feature of each training image, for the basis of residual heads;
            None where weights are going to be loaded.

    Raises:
        ConfigError: If residual heads are wider than CLIP's space.
    """
    basis = None
    if config.init == "residual":
        basis = text_features.new_zeros(config.out, text_features.shape[1])
        if image_features is not None and config.out > text_features.shape[1]:
            raise ConfigError(
                f"cmpa.out = {config.out} exceeds the {text_features.shape[1]} dimensions of CLIP's"
                " space, in which heads with cmpa.init = residual begin. Lower it."
            )
        if image_features is not None:
            basis = shared_basis(text_features.cpu(), image_features, config.out).to(basis)
    isa, tsa = (
        Projector(
            text_features.shape[1],
            config.out,
            hidden=config.hidden,
            depth=config.depth,
            basis=None if basis is None else basis.clone(),
        )
        for _ in ("ISA", "TSA")
    )
    alignment = Alignment(
        isa, tsa, temperature=config.temperature, learnable=config.learnable_temperature
    )
    for name, head in (("isa", isa), ("tsa", tsa)):
        head.requires_grad_(config.trained in ("both", name))
    return alignment.to(text_features.device).eval()


def load_alignment(
    checkpoint: Checkpoint, text_features: Float[Tensor, "words dim1"], origin: Path
) -> Alignment:
    """The heads that a run has trained, in eval mode.

    Raises:
        CheckpointError: If they do not fit the texts' encoder.
    """
    config = checkpoint.config.cmpa
    with torch.device("meta"):  # nothing is allocated for a file that does not fit
        check_part(new_alignment(config, text_features.to("meta")), checkpoint, "alignment", origin)
    alignment = new_alignment(config, text_features)
    load_part(alignment, checkpoint, "alignment", origin)
    return alignment.eval()


def untrained_alignment(
    checkpoint: Checkpoint, text_features: Float[Tensor, "words dim1"], origin: Path
) -> Alignment:
    """The heads of a run as they were before its first iteration: a control of CMPA."""
    config = checkpoint.config
    if config.cmpa.init == "random":
        with torch.random.fork_rng():
            torch.manual_seed(first_seed(config.optim.seed))
            return new_alignment(config.cmpa, text_features)
    trained = load_alignment(checkpoint, text_features, origin)
    start = without_training(trained, config.cmpa.temperature)
    assert start is not None
    return start


@torch.no_grad()
def without_training(alignment: Alignment, temperature: float) -> Alignment | None:
    """A copy of trained heads as they were at the start.

    Args:
        alignment: Trained heads; left as they are.
        temperature: τ at the start.

    Returns:
        In eval mode; None where the heads began at random, which nothing remembers.
    """
    start = deepcopy(alignment).eval()
    for head in (start.isa, start.tsa):
        if not isinstance(head, Projector) or head.gain is None:
            return None
        head.gain.zero_()
    start.log_temperature.fill_(math.log(temperature))
    return start


class FixedTexts(nn.Module):
    """In TSA's place: T' is given, whatever T is."""

    rows: Float[Tensor, "words dim1"]

    def __init__(self, rows: Float[Tensor, "words dim1"]) -> None:
        super().__init__()
        self.register_buffer("rows", rows)

    def forward(self, features: Float[Tensor, "words dim1"]) -> Float[Tensor, "words dim1"]:
        """The given rows."""
        return self.rows


def identity_alignment(
    clip: FrozenCLIP, temperature: float, *, text: Float[Tensor, "words dim1"] | None = None
) -> Alignment:
    """Heads that change nothing: CMPA's read-outs on CLIP's own features, a control.

    Args:
        temperature: CLIP's own is 1 / exp(logit_scale).
        text: Rows in the place of T; None = T.
    """
    isa, tsa = (Projector(clip.dim, clip.dim, basis=torch.eye(clip.dim)) for _ in range(2))
    texts = tsa if text is None else FixedTexts(text)
    alignment = Alignment(isa, texts, temperature=temperature, learnable=False)
    return alignment.to(clip.device).eval()


def first_seed(seed: int) -> int:
    """Seed of the numbers that heads and decoder begin with."""
    return derive_seed(seed, 0, 3)


def new_decoder(config: DecoderConfig, clip: FrozenCLIP, n_classes: int) -> Decoder:
    """An untrained decoder of CLIP's tokens, on CLIP's device."""
    return _decoder(config, clip, n_classes).to(clip.device).eval()


def _decoder(config: DecoderConfig, clip: FrozenCLIP, n_classes: int) -> Decoder:
    return Decoder(
        clip.depth - 1, clip.width, n_classes, layers=config.layers, dropout=config.dropout
    )


def load_decoder(checkpoint: Checkpoint, clip: FrozenCLIP, origin: Path) -> Decoder:
    """The decoder that a run has trained, in eval mode.

    Raises:
        CheckpointError: If it does not fit the encoder.
    """
    config, n_classes = checkpoint.config.decoder, len(checkpoint.classes)
    with torch.device("meta"):  # nothing is allocated for a file that does not fit
        check_part(_decoder(config, clip, n_classes), checkpoint, "decoder", origin)
    decoder = new_decoder(config, clip, n_classes)
    load_part(decoder, checkpoint, "decoder", origin)
    return decoder.eval()
