"""Where pictures and their captions come from: one batch of both, and the source of batches."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import CLIPTokenizer

from ssrseg.networks.clip import FrozenCLIP


class Pairs(NamedTuple):
    """Windows of pictures, captions, and which caption is true of which window.

    Attributes:
        pixels: Normalised as CLIP's input.
        places: Row-major place of each patch in the model's grid.
        captions: Any number of them, repeats allowed; every window has at least one.
        right: Windows x captions; a caption may be right for many windows.
    """

    pixels: Float[Tensor, "windows 3 side side"]
    places: Int[Tensor, "windows words"]
    captions: list[str]
    right: Bool[Tensor, "windows captions"]


@runtime_checkable
class PairSource(Protocol):
    """Rendered scenes or labelled photographs.

    Attributes:
        name: Tells sources apart; a checkpoint of another one is refused.
    """

    name: str

    def tokenizer(self) -> CLIPTokenizer:
        """One in which every word that a caption can hold is one token."""
        ...

    def pairs(self, step: int) -> Pairs:
        """The batch of a step; depends on the seed and the step alone."""
        ...

    def evaluate(self, clip: FrozenCLIP) -> dict[str, float]:
        """Figures for the log, on pictures that are not trained on; by name, always the same."""
        ...
