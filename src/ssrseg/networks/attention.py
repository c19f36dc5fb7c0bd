"""Head-averaged attention of a block, without keeping the maps of its single heads.

transformers hands every keyword argument of a block on to its attention function. So one call of a
block can carry a list that receives its map: nothing global, nothing kept between calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ssrseg.errors import ConfigError

NAME = "ssrseg"

_USUAL_DEPTH = 12  # of ViT-B and ViT-S; settings made for them fit smaller encoders, too


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    kept_attention: list[Tensor] | None = None,
    special_tokens: int = 1,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if kept_attention is None:
        attended, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
        return attended, None
    assert scaling is not None
    # one tokens x tokens map at a time, in the same memory: fresh memory costs more than the sums
    batch, heads, tokens, width = query.shape
    # autocast does not reach products with out=, and rotary positions leave fp32
    query, key = query.to(value.dtype), key.to(value.dtype)
    scaled = (query * scaling).contiguous()
    logits = query.new_empty(batch, tokens, tokens)
    attention = torch.empty_like(logits, dtype=torch.float32)
    total = torch.zeros_like(attention)
    attended = value.new_empty(batch, tokens, heads, width)
    for head in range(heads):
        torch.bmm(scaled[:, head], key[:, head].mT, out=logits)
        torch.softmax(logits, -1, torch.float32, out=attention)
        attended[:, :, head] = attention.to(value.dtype) @ value[:, head]
        total += attention
    patches = slice(special_tokens, None)  # CLS and registers come first, and are no patches
    kept_attention.append(total.div_(heads)[:, patches, patches])
    return attended, None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def run_block(
    block: nn.Module, hidden: Tensor, *, keep: bool, special_tokens: int = 1, **options: Any
) -> tuple[Any, Float[Tensor, "batch patches patches"] | None]:
    """Run a transformer block, or its attention alone; the attention implementation is ``NAME``.

    Args:
        keep: Its attention is wanted; not where gradients are.
        special_tokens: CLS and registers, which stand before the patches.
        options: What else the library's block wants, such as rotary positions.

    Returns:
        Its output, and its attention averaged over heads, between patches (None if not to be kept).
    """
    kept: list[Tensor] | None = [] if keep else None
    output = block(hidden, None, kept_attention=kept, special_tokens=special_tokens, **options)
    return output, kept[0] if kept else None


def resolve_layers(layers: int | tuple[int, ...], depth: int, key: str) -> tuple[int, ...]:
    """0-based block indices, increasing, from a setting.

    Args:
        layers: ``-8`` for the last eight blocks (all, if there are fewer), or 0-based indices.
        depth: Blocks of the encoder.
        key: Name of the setting, for the message.

    Raises:
        ConfigError: If an index is outside the encoder or nothing is selected; if a negative number
            exceeds the encoder's depth and the usual twelve.
    """
    most = max(depth, _USUAL_DEPTH)
    if isinstance(layers, int):
        chosen = tuple(range(depth))[layers:] if -most <= layers < 0 else ()
    else:
        chosen = tuple(sorted(set(layers)))
    if not chosen or chosen[0] < 0 or chosen[-1] >= depth:
        raise ConfigError(
            f"{key} = {layers!r} does not fit an encoder of {depth} blocks. Give a number from"
            f" -{most} to -1 (-8: the last eight, or all) or a list of indices between 0 and"
            f" {depth - 1}."
        )
    return chosen


def mean_attention(
    maps: Sequence[Float[Tensor, "batch patches patches"]],
) -> Float[Tensor, "batch patches patches"]:
    """Mean of the maps of several blocks. Rows sum to less than 1: CLS has taken its share."""
    mean = maps[0].clone()
    for other in maps[1:]:
        mean += other
    return mean / len(maps)
