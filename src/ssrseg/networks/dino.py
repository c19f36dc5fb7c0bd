"""DINO and its successors, frozen: attention maps and patch features on a grid of patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Dinov2Model, Dinov2WithRegistersModel, DINOv3ViTModel, ViTModel

from ssrseg.errors import BackboneError
from ssrseg.networks.attention import NAME, mean_attention, resolve_layers, run_block
from ssrseg.networks.frozen import (
    Frozen,
    PixelNorm,
    Precision,
    load_pretrained,
    model_type,
    read_pixel_norm,
    refuse_not_finite,
    weights_digest,
)
from ssrseg.networks.stem import Stem, find_stem

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
"""ImageNet normalisation of RGB in [0, 1], as DINO was trained with."""
USUAL_PIXELS = PixelNorm(PIXEL_MEAN, PIXEL_STD)

_EXAMPLE = "facebook/dino-vits16"


@dataclass(frozen=True)
class Family:
    """Where the library's class for a kind of ViT keeps its parts.

    Attributes:
        name: As people say it.
        model: The class.
        blocks: The transformer blocks.
        first_norm: LayerNorm in front of a block's attention.
        last_norm: LayerNorm behind all blocks.
        loading: Options of ``from_pretrained``.
        embedding: Options of its embeddings.
    """

    name: str
    model: Any
    blocks: str
    first_norm: str
    last_norm: str
    loading: Mapping[str, Any] = field(default_factory=dict)
    embedding: Mapping[str, Any] = field(default_factory=dict)


FAMILIES = {
    "vit": Family(
        "ViT as DINO's",
        ViTModel,
        "layers",
        "layernorm_before",
        "layernorm",
        # DINO checkpoints have no pooler, and the library would make one up at random
        loading={"add_pooling_layer": False},
        embedding={"interpolate_pos_encoding": True},
    ),
    "dinov2": Family("DINOv2", Dinov2Model, "encoder.layer", "norm1", "layernorm"),
    "dinov2_with_registers": Family(
        "DINOv2 with registers", Dinov2WithRegistersModel, "encoder.layer", "norm1", "layernorm"
    ),
    "dinov3_vit": Family("DINOv3", DINOv3ViTModel, "model.layer", "norm1", "norm"),
}
"""By ``model_type`` of config.json, which does not tell DINO from other ViTs."""


class FrozenDINO(Frozen):
    """A self-supervised ViT without a trainable parameter.

    Attributes:
        family: Its row in ``FAMILIES``.
        patch_size: Side of a patch in pixels.
        depth: Blocks.
        special_tokens: CLS and registers, which stand before the patches.
        pixels: Mean and deviation of its input.
    """

    def __init__(
        self, model: Any, *, precision: Precision = "fp32", pixels: PixelNorm = USUAL_PIXELS
    ) -> None:
        model.set_attn_implementation(NAME)
        super().__init__()
        self.model, self.pixels = model, pixels
        self.family = FAMILIES[model.config.model_type]
        self.patch_size, self.depth = model.config.patch_size, len(self._blocks)
        self.special_tokens = 1 + getattr(model.config, "num_register_tokens", 0)
        self.freeze()
        if precision != "fp32":
            _ = self.digest  # of the weights as they are in the file
        self.keep(self._blocks, precision)

    @classmethod
    def load(cls, source: str | Path, *, precision: Precision = "fp32") -> FrozenDINO:
        """Load from a hub id or from a directory written by ``save_pretrained``.

        BackboneError if ``source`` is none of ``FAMILIES``, or cannot be read.
        """
        found = model_type(source, "dino", _EXAMPLE)
        if found not in FAMILIES:
            known = ", ".join(f"{key} ({family.name})" for key, family in FAMILIES.items())
            says = "cannot be had" if found is None else f"describes {found or 'no model'}"
            raise BackboneError(
                f"{source} is not a dino: its config.json {says}, where one of these is expected:"
                f" {known}. Give a hub id such as {_EXAMPLE}, facebook/dinov2-small or"
                " facebook/dinov2-with-registers-small, or a directory written by save_pretrained."
            )
        family = FAMILIES[found]
        options = {"dtype": torch.float32, **family.loading}
        model = load_pretrained(family.model, source, "dino", _EXAMPLE, **options)
        refuse_not_finite(model.state_dict(), source, "dino")
        config = model.config
        if not isinstance(config.patch_size, int):
            raise BackboneError(
                f"{source} has patches of {config.patch_size} pixels; expected one number, the side"
                " of a square. Give another encoder."
            )
        # rotary positions turn fourths of a head; the library does not look
        parts = config.num_attention_heads * (4 if hasattr(config, "rope_theta") else 1)
        if config.hidden_size % parts:
            raise BackboneError(
                f"{source} has {config.num_attention_heads} attention heads, among which tokens of"
                f" {config.hidden_size} numbers cannot be shared out: config.json is not that of"
                " these weights. Copy it from where the model is from."
            )
        return cls(model, precision=precision, pixels=read_pixel_norm(source, USUAL_PIXELS))

    @cached_property
    def digest(self) -> str:
        """A name for the weights, 16 hexadecimal digits; 20 MB of ViT-S take 0.1 s."""
        config = self.model.config
        settings: tuple[object, ...] = (
            config.num_attention_heads,
            config.hidden_act,
            config.layer_norm_eps,
        )
        # what older digests do not know is added only where it differs from what they mean
        if hasattr(config, "rope_theta"):
            settings += (config.rope_theta,)
        if self.pixels.numbers != USUAL_PIXELS.numbers:
            settings += (self.pixels.numbers,)
        if self._stem is not None:
            settings += (self._stem.settings,)
        return weights_digest(self.model.state_dict(), settings=settings)

    @property
    def description(self) -> str:
        """What it is, in a line."""
        registers = self.special_tokens - 1
        return ", ".join(
            [
                self.family.name,
                f"{self.depth} blocks",
                f"patches of {self.patch_size} pixels",
                *([self._stem.description] if self._stem else []),
                *([f"{registers} registers"] if registers else []),
                str(self.model.config.hidden_act),
                self.pixels.said("ImageNet's"),
            ]
        )

    @property
    def _blocks(self) -> Any:  # the library's blocks: their parts have no types
        return attrgetter(self.family.blocks)(self.model)

    @property
    def _stem(self) -> Stem | None:
        return find_stem(self.model)

    def _embed(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch tokens dim"], dict[str, Any]]:
        """Tokens in front of the first block, and what every block wants beside them."""
        hidden = self.model.embeddings(pixels, **self.family.embedding)
        options: dict[str, Any] = {"special_tokens": self.special_tokens}
        if hasattr(self.model, "rope_embeddings"):
            options["position_embeddings"] = self.model.rope_embeddings(pixels)
        return hidden, options

    @torch.no_grad()
    def attention(
        self, pixels: Float[Tensor, "batch 3 height width"], layers: int | tuple[int, ...] = -8
    ) -> Float[Tensor, "batch patches patches"]:
        """Attention of the chosen blocks, averaged over heads and blocks (Ā_dino of Eq. 9).

        Pixels are normalised by ``pixels`` of this object; layers are -8 for the last eight
        blocks, or 0-based indices.
        """
        chosen = resolve_layers(layers, self.depth, "affinity.dino_layers")
        hidden, options = self._embed(pixels)
        maps = []
        with self.reduced(hidden.device):
            for index, block in enumerate(self._blocks[: chosen[-1]]):
                hidden, attention = run_block(block, hidden, keep=index in chosen, **options)
                if attention is not None:
                    maps.append(attention)
            # of the last chosen block only the attention: what lies behind it is not needed
            last = self._blocks[chosen[-1]]
            normed = getattr(last, self.family.first_norm)(hidden)
            _, attention = run_block(last.attention, normed, keep=True, **options)
            assert attention is not None
        return mean_attention([*maps, attention])

    @torch.no_grad()
    def features(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch patches dim"]:
        """Patch tokens behind the last LayerNorm; pixels as for ``attention``."""
        hidden, options = self._embed(pixels)
        with self.reduced(hidden.device):
            for block in self._blocks:
                hidden, _ = run_block(block, hidden, keep=False, **options)
        return getattr(self.model, self.family.last_norm)(hidden.float())[:, self.special_tokens :]
