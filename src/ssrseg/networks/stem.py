"""A frozen CNN in the place of a ViT's patch embedding: the blocks of EfficientNet-Lite0.

A folder asks for it in its config.json (of CLIP: in its ``vision_config``)::

    "stem": "efficientnet-lite0", "stem_blocks": 16, "patch_size": 16

Architecture: TensorFlow's EfficientNet-Lite (Liu, 2020), whose convolutions pad as TensorFlow's
"same" does; batch norm is folded into them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ssrseg.errors import BackboneError

NAME = "efficientnet-lite0"
BLOCKS = (11, 16)
"""How many blocks a stem may have: those up to stride 16, or all."""
STRIDE = 16

_STAGES = (
    # expansion, kernel, stride, channels, repeats
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_FIRST = 32
_PLACES = {
    # by model_type: the part of config.json that describes the ViT, and its patch embedding
    "clip": ("vision_config", "vision_model.embeddings.patch_embedding"),
    "vit": ("", "embeddings.patch_embeddings.projection"),
}


class _SameConv(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: at stride 2 an even side has less before it."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups)

    def forward(self, maps: Tensor) -> Tensor:
        if self.stride[0] == 2:
            half = self.kernel_size[0] // 2
            top, left = (half - 1 + side % 2 for side in maps.shape[-2:])
            maps = functional.pad(maps, (left, half, top, half))
        return super().forward(maps)


class _Block(nn.Module):
    """Inverted residual: wider by ``expand``, mixed in place by ``depthwise``, narrow again."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = _SameConv(inputs, wide, 1) if expansion > 1 else None
        self.depthwise = _SameConv(wide, wide, kernel, stride, groups=wide)
        self.project = _SameConv(wide, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, maps: Tensor) -> Tensor:
        wide = maps
        if self.expand is not None:
            wide = functional.relu6(self.expand(wide), inplace=True)
        wide = functional.relu6(self.depthwise(wide), inplace=True)
        narrow = self.project(wide)
        return maps + narrow if self.residual else narrow


class Stem(nn.Module):
    """Pixels to tokens on a grid of 16-pixel patches.

    With 16 blocks the last ones' 320 channels at stride 32 are resized bilinearly to the grid and
    stand behind the 112 at stride 16; ``projection`` makes tokens of both.

    Attributes:
        settings: What of it weights do not say: its name and number of blocks.
    """

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        if blocks not in BLOCKS:
            raise ValueError(f"a stem has {BLOCKS[0]} or {BLOCKS[1]} blocks, not {blocks}")
        self.settings = (NAME, blocks)
        self.first = _SameConv(3, _FIRST, 3, stride=2)
        shapes = [
            (expansion, kernel, stride if index == 0 else 1, channels)
            for expansion, kernel, stride, channels, repeats in _STAGES
            for index in range(repeats)
        ][:blocks]
        widths = [_FIRST, *(channels for *_, channels in shapes)]
        self.blocks = nn.ModuleList(
            _Block(inputs, channels, expansion, kernel, stride)
            for inputs, (expansion, kernel, stride, channels) in zip(widths, shapes, strict=False)
        )
        joined = sum(widths[count] for count in BLOCKS if count <= blocks)
        self.projection = nn.Conv2d(joined, width, 1)

    @property
    def weight(self) -> Tensor:
        """Of the projection; the library asks its patch embedding for the type of its weights."""
        return self.projection.weight

    @property
    def description(self) -> str:
        """What it is, in words."""
        return f"patch embedding by EfficientNet-Lite0 ({self.settings[1]} blocks)"

    def forward(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch dim grid_h grid_w"]:
        """Embed patches; what exceeds a whole number of them is cut off at the right and bottom."""
        height, width = (side // STRIDE * STRIDE for side in pixels.shape[-2:])
        first, *more = self.features(pixels[..., :height, :width])
        more = [
            functional.interpolate(
                each, size=first.shape[-2:], mode="bilinear", align_corners=False
            )
            for each in more
        ]
        return self.projection(torch.cat([first, *more], 1))

    def features(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> list[Float[Tensor, "batch channels rows columns"]]:
        """112 channels at stride 16, and with 16 blocks 320 at stride 32, not resized."""
        maps = functional.relu6(self.first(pixels), inplace=True)
        found = []
        for count, block in enumerate(self.blocks, start=1):
            maps = block(maps)
            if count in BLOCKS:
                found.append(maps)
        return found


def find_stem(model: nn.Module) -> Stem | None:
    """The stem of a model, if it has one."""
    return next((module for module in model.modules() if isinstance(module, Stem)), None)


def asks_for_stem(table: Mapping[str, Any], config: Path) -> bool:
    """Whether a configuration names a stem.

    Args:
        table: Content of config.json.
        config: Its path, for the message.

    Raises:
        BackboneError: If it is one that is not known here, or its settings are not.
    """
    family = str(table.get("model_type"))
    section, _ = _PLACES.get(family, ("", ""))
    settings = table.get(section) if section else table
    if not isinstance(settings, dict) or settings.get("stem") is None:
        return False
    if family not in _PLACES:
        raise BackboneError(
            f"{config} names a stem, but the model_type {family:.40}: only {' and '.join(_PLACES)}"
            " stand on one. Copy config.json from where the model is from."
        )
    known = {"stem": (NAME,), "stem_blocks": BLOCKS, "patch_size": (STRIDE,)}
    for key, values in known.items():
        found = settings.get(key)
        if type(found) is not type(values[0]) or found not in values:
            wanted = " or ".join(map(str, values))
            where = f"{section}.{key}" if section else key
            raise BackboneError(
                f"{config}: {where} = {found!r:.80}, but for a ViT on a stem {wanted} is expected."
                " Copy config.json from where the model is from; a newer one may need a newer"
                " ssrseg."
            )
    return True


@cache
def with_stem(kind: Any) -> Any:
    """The library's CLIPModel or ViTModel, on the stem that its configuration names."""
    section, place = _PLACES[kind.config_class.model_type]

    class OnStem(kind):  # type: ignore[misc]
        def __init__(self, config: Any, **options: Any) -> None:
            super().__init__(config, **options)
            vit = getattr(config, section) if section else config
            self.set_submodule(place, Stem(vit.hidden_size, vit.stem_blocks))

        @classmethod
        def is_custom_code(cls) -> bool:
            return False  # so that older names of weights are understood, by this class's name

    OnStem.__name__ = OnStem.__qualname__ = kind.__name__
    return OnStem
