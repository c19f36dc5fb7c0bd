"""Head-averaged attention of chosen blocks, without keeping the per-head maps of all of them.

transformers hands every keyword argument of a block on to its attention function, so the caller's
own dictionary can collect the maps: nothing global, nothing kept between calls.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ssrseg.errors import ConfigError

NAME = "ssrseg"


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    attention_sink: dict[int, Tensor | None] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    block = getattr(module, "ssrseg_block", None)
    if attention_sink is None or block not in attention_sink:
        attended, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
        return attended, None
    heads, total = [], None
    for head in range(query.shape[1]):  # one patches x patches map alive at a time
        logits = query[:, head] @ key[:, head].mT * scaling
        attention = logits.float().softmax(-1)
        heads.append(attention.to(value.dtype) @ value[:, head])
        seen = attention.detach()
        total = seen.clone() if total is None else total.add_(seen)
    assert total is not None
    attention_sink[block] = (total / query.shape[1])[:, 1:, 1:]  # CLS is no patch
    return torch.stack(heads, dim=2), None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def tag_blocks(attentions: list[nn.Module]) -> None:
    """Number the attention modules of an encoder, first block 0, so that a sink can name them."""
    for index, attention in enumerate(attentions):
        attention.ssrseg_block = index  # type: ignore[assignment]


def resolve_layers(layers: int | tuple[int, ...], depth: int, key: str) -> tuple[int, ...]:
    """Block indices from a setting.

    Args:
        layers: ``-8`` for the last eight blocks (all, if there are fewer), or 0-based indices.
        depth: Blocks of the encoder.
        key: Name of the setting, for the message.

    Returns:
        0-based indices, increasing.

    Raises:
        ConfigError: If an index is outside the encoder or nothing is selected.
    """
    chosen = tuple(range(depth))[layers:] if isinstance(layers, int) else tuple(sorted(set(layers)))
    if (
        not chosen
        or chosen[0] < 0
        or chosen[-1] >= depth
        or (isinstance(layers, int) and layers >= 0)
    ):
        raise ConfigError(
            f"{key} = {layers!r} does not fit an encoder of {depth} blocks. Give a negative number"
            f" (-8: the last eight) or a list of indices between 0 and {depth - 1}."
        )
    return chosen


def mean_attention(sink: dict[int, Tensor | None]) -> Float[Tensor, "batch patches patches"]:
    """Mean of the collected maps over blocks. Rows sum to less than 1: CLS has taken its share."""
    maps = [sink[block] for block in sorted(sink)]
    mean = maps[0].clone()  # type: ignore[union-attr]
    for other in maps[1:]:
        mean += other  # type: ignore[operator]
    return mean / len(maps)
