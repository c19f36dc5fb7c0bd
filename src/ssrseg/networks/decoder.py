"""The trained decoder: tokens of all CLIP blocks but the last -> class logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def quick_gelu(x: Tensor) -> Tensor:
    """x·sigmoid(1.702 x), CLIP's activation."""
    return x * torch.sigmoid(1.702 * x)


def decoder_width(clip_width: int) -> int:
    """A third of CLIP's width, in whole multiples of 64: 256 for ViT-B, 64 for the demo's ViT."""
    return max(64, clip_width // 3 // 64 * 64)


class Decoder(nn.Module):
    """One MLP per CLIP block, fused to one width, three transformer layers, one linear classifier.

    Args:
        blocks: CLIP blocks that are read (11 for ViT-B).
        clip_width: Length of their tokens.
        n_classes: Foreground classes; the logits have one channel more, channel 0 being the
            background.
        layers: Transformer layers.
        dropout: Share of channels that ``kept_channels`` drops after the fusion, in training.

    Source: WeCLIP; 5,985,045 parameters for ViT-B and 20 classes.
    """

    def __init__(
        self, blocks: int, clip_width: int, n_classes: int, *, layers: int = 3, dropout: float = 0.1
    ) -> None:
        super().__init__()
        width = decoder_width(clip_width)
        self.reduce = nn.ModuleList(
            nn.Sequential(nn.Linear(clip_width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        self.fuse = nn.Linear(blocks * width, width)
        self.dropout = dropout
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                nhead=width // 32,
                dim_feedforward=4 * width,
                dropout=0.0,
                activation=quick_gelu,
                norm_first=True,
                batch_first=True,
            )
            for _ in range(layers)
        )
        self.classify = nn.Linear(width, n_classes + 1)

    def kept_channels(self, seeds: Sequence[int]) -> Float[Tensor, "batch width"]:
        """Dropout as factors of F's channels: 0, or what makes up for those that are 0.

        Each image draws by a seed of its own, on the CPU, so that what it loses does not depend on
        its company, nor on the device.
        """
        width, kept = self.fuse.out_features, 1 - self.dropout
        drawn = [torch.rand(width, generator=torch.Generator().manual_seed(each)) for each in seeds]
        factors = (torch.stack(drawn) < kept) / max(kept, 1e-6)
        return factors.to(self.fuse.weight.device, non_blocking=True)

    def fusion(
        self,
        tokens: Sequence[Float[Tensor, "batch tokens dim"]],
        kept: Float[Tensor, "batch width"] | None = None,
    ) -> Float[Tensor, "batch patches width"]:
        """F: the tokens of all blocks, CLS left out, brought to one width.

        Args:
            kept: Factors of the channels in training, of ``kept_channels``; None = 1.
        """
        reduced = [mlp(block[:, 1:]) for mlp, block in zip(self.reduce, tokens, strict=True)]
        fused: Tensor = self.fuse(torch.cat(reduced, dim=-1))
        return fused if kept is None else fused * kept[:, None]

    def segment(
        self,
        fused: Float[Tensor, "batch patches width"],
        grid: tuple[int, int],
        inside: Bool[Tensor, "batch patches"] | None = None,
    ) -> Float[Tensor, "batch classes grid_h grid_w"]:
        """Logits on the patch grid from what ``fusion`` hands out.

        Args:
            inside: False = padding, which no patch attends to; None = there is none.
        """
        outside = None if inside is None else ~inside
        for layer in self.layers:
            fused = layer(fused, src_key_padding_mask=outside)
        logits: Tensor = self.classify(fused)
        return logits.mT.unflatten(-1, grid)

    def forward(
        self, tokens: Sequence[Float[Tensor, "batch tokens dim"]], grid: tuple[int, int]
    ) -> Float[Tensor, "batch classes grid_h grid_w"]:
        """Logits on the patch grid from the tokens of each block, CLS first."""
        return self.segment(self.fusion(tokens), grid)
