"""What the demo world's CLIP learns: which caption belongs to which window of a scene.

Three readings of the image tower are contrasted with the captions: CLS as in CLIP; the mean over
patches, which is what SSR's CAM differentiates; and, for each caption, the patches it points at.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel


def encode_windows(
    model: CLIPModel,
    pixels: Float[Tensor, "batch 3 side side"],
    places: Int[Tensor, "batch words"],
) -> Float[Tensor, "batch tokens dim"]:
    """Project every token of windows whose patches lie at ``places`` of the model's grid.

    The library's own forward only knows whole pictures.
    """
    vision = model.vision_model
    embedded = vision.embeddings.patch_embedding(pixels).flatten(2).mT
    rows = vision.embeddings.position_embedding.weight
    cls = (vision.embeddings.class_embedding + rows[0]).expand(len(pixels), 1, -1)
    hidden = vision.pre_layrnorm(torch.cat([cls, embedded + rows[1:][places]], 1))
    for block in vision.encoder.layers:
        hidden = block(hidden, None)
    return model.visual_projection(vision.post_layernorm(hidden))


def contrast(
    cosines: Float[Tensor, "images texts"], right: Bool[Tensor, "images texts"], scale: Tensor
) -> Tensor:
    """CLIP's symmetric loss; other captions that are right for an image share its target."""
    logits = scale * cosines
    target = right.float()
    rows = -(logits.log_softmax(1) * target / target.sum(1, keepdim=True)).sum(1).mean()
    columns = -(logits.log_softmax(0) * target / target.sum(0, keepdim=True)).sum(0).mean()
    return (rows + columns) / 2


def clip_loss(
    tokens: Float[Tensor, "batch tokens dim"],
    texts: Float[Tensor, "texts dim"],
    right: Bool[Tensor, "batch texts"],
    scale: Tensor,
    weights: tuple[float, float, float],
) -> Tensor:
    """Contrast texts with CLS, with the mean patch and with the patches each text points at."""
    texts = functional.normalize(texts, dim=-1)
    cls = functional.normalize(tokens[:, 0], dim=-1) @ texts.T
    mean = functional.normalize(tokens[:, 1:].mean(1), dim=-1) @ texts.T
    nearness = functional.normalize(tokens[:, 1:], dim=-1) @ texts.T
    pointed = ((scale.detach() * nearness).softmax(1) * nearness).sum(1)
    losses = [contrast(cosines, right, scale) for cosines in (cls, mean, pointed)]
    return torch.stack([w * value for w, value in zip(weights, losses, strict=True)]).sum()
