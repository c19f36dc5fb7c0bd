"""The gradient that GradCAM needs, in closed form: one last block per image, little per class.

GradCAM looks only at the *mean over patches* of ∂p_c / ∂a, where a is the block's ln_1 output. Most
of a backward pass can therefore be shared between classes or collapses to sums:

- p_c depends on the patches through their mean v alone, so every patch receives the same cotangent,
  and the first product of the MLP's backward is one shared matrix plus one vector per class;
- the three products at the query, key and value inputs act on a sum over patches: vectors;
- rows of the softmax gradient sum to 0 and its column sums follow from Aᵀ·dO, so one of the four
  products of attention's backward is left.

Per class this leaves 10 n·D² + 2 n²·D of autograd's 24 n·D² + 8 n²·D multiplications.
``ssrseg.method.cam.gradcam`` is the literal form, and the test of this one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from ssrseg.method.cam import weighted_cam


@dataclass(frozen=True)
class BlockWeights:
    """A pre-LN transformer block, the LayerNorm behind it, and the projection into CLIP's space.

    Linear weights are (out, in), as torch keeps them; ``qkv`` stacks query, key and value.
    """

    qkv_weight: Float[Tensor, "three_dim dim"]
    qkv_bias: Float[Tensor, " three_dim"]
    out_weight: Float[Tensor, "dim dim"]
    out_bias: Float[Tensor, " dim"]
    norm_weight: Float[Tensor, " dim"]
    norm_bias: Float[Tensor, " dim"]
    fc1_weight: Float[Tensor, "hidden dim"]
    fc1_bias: Float[Tensor, " hidden"]
    fc2_weight: Float[Tensor, "dim hidden"]
    fc2_bias: Float[Tensor, " dim"]
    post_weight: Float[Tensor, " dim"]
    post_bias: Float[Tensor, " dim"]
    projection: Float[Tensor, "dim1 dim"]
    heads: int
    eps: float
    activation: Callable[[Tensor], tuple[Tensor, Tensor]]
    """The activation and its slope; may overwrite its argument."""


@dataclass(frozen=True)
class BlockTrace:
    """What the forward pass leaves for ``mean_gradient``; queries are those of patches only.

    Attributes:
        patch_features: V, not normalised.
        attended: What attention gives each patch.
        norm_unit: Patches behind the second LayerNorm, before its scale.
        norm_factor: 1 / its deviation.
        slope: Derivative of the activation at the MLP's hidden layer.
        post_unit: Patches behind the last LayerNorm, before its scale.
        post_factor: 1 / its deviation.
    """

    patch_features: Float[Tensor, "batch patches dim1"]
    attention: Float[Tensor, "batch heads patches tokens"]
    query: Float[Tensor, "batch heads patches head_dim"]
    key: Float[Tensor, "batch heads tokens head_dim"]
    value: Float[Tensor, "batch heads tokens head_dim"]
    attended: Float[Tensor, "batch heads patches head_dim"]
    norm_unit: Float[Tensor, "batch patches dim"]
    norm_factor: Float[Tensor, "batch patches 1"]
    slope: Float[Tensor, "batch patches hidden"]
    post_unit: Float[Tensor, "batch patches dim"]
    post_factor: Float[Tensor, "batch patches 1"]


def quick_gelu_with_slope_(hidden: Float[Tensor, "*size"]) -> tuple[Tensor, Tensor]:
    """x·σ(1.702 x), CLIP's activation, and its slope σ + 1.702 σ·(x - x·σ); overwrites ``hidden``.

    It is the largest matrix of the block, and fresh memory costs as much as a pass over it.
    """
    sigma = (1.702 * hidden).sigmoid_()
    activated = hidden * sigma
    return activated, sigma.addcmul_(sigma, hidden.sub_(activated), value=1.702)


def with_slope(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Any other elementwise activation with its slope, by autograd."""

    def both(hidden: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            entering = hidden.detach().requires_grad_()
            activated = activation(entering)
            (slope,) = torch.autograd.grad(activated.sum(), entering)
        return activated.detach(), slope

    return both


@torch.no_grad()
def trace_block(
    weights: BlockWeights,
    residual: Float[Tensor, "batch tokens dim"],
    normed: Float[Tensor, "batch tokens dim"],
) -> BlockTrace:
    """The block's forward pass for the patches; CLS is attended to, but not computed.

    ``residual`` is the block's input, CLS first, ``normed`` ln_1 of it.
    """
    # queries of patches, keys and values of all tokens: (batch, heads, tokens, head_dim)
    batch, tokens, dim = normed.shape
    split = (batch, tokens, 3, weights.heads, dim // weights.heads)
    joint = functional.linear(normed, weights.qkv_weight, weights.qkv_bias).view(split)
    query, key, value = joint.permute(2, 0, 3, 1, 4)
    query = query[:, :, 1:]
    # attention: (batch, heads, patches, tokens)
    # packed and scaled before the product: cheaper than strides there and a pass over the result
    scaled = query.contiguous() * (dim // weights.heads) ** -0.5
    attention = normed.new_empty(batch, weights.heads, tokens - 1, tokens)
    logits = normed.new_empty(batch, tokens - 1, tokens)
    for head in range(weights.heads):  # the maps are the largest thing here: no second set of them
        torch.bmm(scaled[:, head], key[:, head].contiguous().mT, out=logits)
        torch.softmax(logits, -1, out=attention[:, head])
    # attention's output, added to the residual: (batch, patches, dim)
    attended = attention @ value
    joined = attended.transpose(1, 2).flatten(2)
    middle = residual[:, 1:] + functional.linear(joined, weights.out_weight, weights.out_bias)
    # MLP: (batch, patches, hidden), and back
    norm_unit, norm_factor = _standardise(middle, weights.eps)
    hidden = functional.linear(
        norm_unit * weights.norm_weight + weights.norm_bias, weights.fc1_weight, weights.fc1_bias
    )
    activated, slope = weights.activation(hidden)
    output = middle + functional.linear(activated, weights.fc2_weight, weights.fc2_bias)
    # last LayerNorm and projection: (batch, patches, dim1)
    post_unit, post_factor = _standardise(output, weights.eps)
    features = (post_unit * weights.post_weight + weights.post_bias) @ weights.projection.T
    return BlockTrace(
        features, attention, query, key, value, attended,
        norm_unit, norm_factor, slope, post_unit, post_factor,
    )  # fmt: skip


@torch.no_grad()
def mean_gradient(
    weights: BlockWeights, trace: BlockTrace, cotangent: Float[Tensor, "batch slots dim1"]
) -> Float[Tensor, "batch slots dim"]:
    """Mean over patches of ∂p / ∂a for several p, given the ``cotangent`` ∂p / ∂v of each."""
    patches = trace.post_unit.shape[1]
    slope = trace.slope
    # shared by all classes: (batch, patches, hidden)
    shared = trace.post_unit @ weights.fc2_weight
    # ∂p / ∂(last LayerNorm), the same for every patch: (batch, slots, dim)
    at_norm = cotangent @ weights.projection / patches * weights.post_weight
    at_norm = at_norm - at_norm.mean(-1, keepdim=True)
    head_dim = trace.value.shape[-1]
    to_cls = trace.attention[..., 0]
    split = (len(cotangent), patches, weights.heads, head_dim)
    gradients = []
    for row in at_norm.unbind(1):  # one class of every image
        # LayerNorm: (w - mean w - ẑ·(w·ẑ)/D) / σ, its first part the same for every patch
        along = (trace.post_unit @ row[..., None]) / row.shape[-1]
        at_output = (row[:, None] - along * trace.post_unit) * trace.post_factor
        # MLP and its LayerNorm: (batch, patches, hidden), then (batch, patches, dim)
        at_hidden = torch.addcmul((row @ weights.fc2_weight)[:, None], shared, -along).mul_(slope)
        at_mlp = (at_hidden @ weights.fc1_weight) * trace.post_factor * weights.norm_weight
        along = (at_mlp * trace.norm_unit).mean(-1, keepdim=True)
        at_mlp = at_mlp - at_mlp.mean(-1, keepdim=True) - trace.norm_unit * along
        at_middle = at_output + at_mlp * trace.norm_factor
        # attention's output: (batch, heads, patches, head_dim)
        at_heads = (at_middle @ weights.out_weight).view(*split).transpose(1, 2)
        # softmax: column sums of dS, and its column of CLS: (batch, heads, tokens or patches)
        own = (at_heads * trace.attended).sum(-1)  # Σ_j A_ij dA_ij
        # dV of every token, and what of own comes to it
        back = trace.attention.mT @ torch.cat([at_heads, own[..., None]], -1)
        columns = (trace.value * back[..., :-1]).sum(-1) - back[..., -1]
        at_cls = to_cls * ((at_heads @ trace.value[:, :, 0, :, None])[..., 0] - own)
        scale = head_dim**-0.5
        # sums over patches at the query, key and value inputs: (batch, heads, head_dim) each
        query_sum = scale * (columns[:, :, None] @ trace.key)[:, :, 0]
        key_sum = -scale * (at_cls[:, :, None] @ trace.query)[:, :, 0]  # rows of dS sum to 0
        value_sum = ((1 - to_cls)[:, :, None] @ at_heads)[:, :, 0]
        sums = torch.stack([query_sum, key_sum, value_sum], 1).flatten(1)
        gradients.append(sums @ weights.qkv_weight / patches)
    return torch.stack(gradients, 1)


def gradcam_closed_form(
    block: BlockWeights,
    trace: BlockTrace,
    normed: Float[Tensor, "batch tokens dim"],
    probability: Callable[[Tensor], Tensor],
    present: Int[Tensor, "batch slots"],
    grid: tuple[int, int],
) -> Float[Tensor, "batch slots grid_h grid_w"]:
    """``ssrseg.method.cam.gradcam`` with the block's gradient in closed form."""
    with torch.enable_grad():
        image_feature = trace.patch_features.mean(1).requires_grad_()
        chosen = probability(image_feature).gather(1, present.clamp(min=0)).sum(0)
        rows = [torch.autograd.grad(p, image_feature, retain_graph=True)[0] for p in chosen]
        cotangent = torch.stack(rows, 1)
    return weighted_cam(normed, mean_gradient(block, trace, cotangent), present, grid)


def _standardise(rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """LayerNorm before its scale, and the factor it applied."""
    unit, _, factor = torch.native_layer_norm(rows, rows.shape[-1:], None, None, eps)
    return unit, factor
