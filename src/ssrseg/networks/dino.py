"""DINO ViT-S/16, frozen: attention maps on CLIP's patch grid."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import ViTModel

from ssrseg.networks.attention import NAME, mean_attention, resolve_layers, run_block
from ssrseg.networks.frozen import (
    Frozen,
    Precision,
    load_pretrained,
    refuse_not_finite,
    weights_digest,
)

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
"""ImageNet normalisation of RGB in [0, 1], as DINO was trained with."""


class FrozenDINO(Frozen):
    """A self-supervised ViT without a trainable parameter; ``depth`` is its number of blocks."""

    def __init__(self, model: ViTModel, *, precision: Precision = "fp32") -> None:
        model.set_attn_implementation(NAME)
        super().__init__()
        self.model = model
        self.patch_size, self.depth = model.config.patch_size, len(model.layers)
        self.freeze()
        if precision != "fp32":
            _ = self.digest  # of the weights as they are in the file
        self.keep(model.layers, precision)

    @classmethod
    def load(cls, source: str | Path, *, precision: Precision = "fp32") -> FrozenDINO:
        """Load from a hub id or from a directory written by ``save_pretrained``.

        BackboneError if ``source`` is not a ViT, or cannot be read.
        """
        # no pooler: DINO checkpoints have none, and the library would make one up at random
        example = "facebook/dino-vits16"
        model = load_pretrained(ViTModel, source, "dino", example, add_pooling_layer=False)
        refuse_not_finite(model.state_dict(), source, "dino")
        return cls(model.float(), precision=precision)

    @cached_property
    def digest(self) -> str:
        """A name for the weights, 16 hexadecimal digits; 20 MB of ViT-S take 0.1 s."""
        config = self.model.config
        settings = (config.num_attention_heads, config.hidden_act, config.layer_norm_eps)
        return weights_digest(self.model.state_dict(), settings=settings)

    @torch.no_grad()
    def attention(
        self, pixels: Float[Tensor, "batch 3 height width"], layers: int | tuple[int, ...] = -8
    ) -> Float[Tensor, "batch patches patches"]:
        """Attention of the chosen blocks, averaged over heads and blocks (Ā_dino of Eq. 9).

        Pixels are normalised by ``PIXEL_MEAN`` and ``PIXEL_STD``; layers are -8 for the last eight
        blocks, or 0-based indices.
        """
        chosen = resolve_layers(layers, self.depth, "affinity.dino_layers")
        hidden = self.model.embeddings(pixels, interpolate_pos_encoding=True)
        maps = []
        with self.reduced(hidden.device):
            for index, block in enumerate(self.model.layers[: chosen[-1]]):
                hidden, attention = run_block(block, hidden, keep=index in chosen)
                if attention is not None:
                    maps.append(attention)
            # of the last chosen block only the attention: what lies behind it is not needed
            last = self.model.layers[chosen[-1]]
            _, attention = run_block(last.attention, last.layernorm_before(hidden), keep=True)
            assert attention is not None
        return mean_attention([*maps, attention])
