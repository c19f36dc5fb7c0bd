"""What can be measured: a row of a table, and the training that it needs.

Imports no torch, so that the rows of a table are known before anything is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ssrseg.schedule import Supervision

Measure = Literal["seeds", "masks", "segmentation"]
Heads = Literal["trained", "untrained", "temperature", "prototypes"]


@dataclass(frozen=True)
class Training:
    """A run that several measurements may share.

    Attributes:
        name: Of its folder.
        settings: ``section.key=value``, on top of the workspace's.
        supervision: ``labels``, or ``full`` for the control of Table 6.
    """

    name: str
    settings: tuple[str, ...] = ()
    supervision: Supervision = "labels"


@dataclass(frozen=True)
class Experiment:
    """One row of a table.

    Attributes:
        name: What the row is called.
        settings: ``section.key=value`` under which it is scored, on top of its training's.
        training: The run it needs; None = training-free, and then one seed is enough.
        measure: ``seeds``: CAMs against true masks; ``masks``: pseudo masks; ``segmentation``: the
            decoder on images whose labels it does not know.
        heads: Controls of CMPA: ``untrained``: its heads before training; ``temperature``: CLIP's
            own features, read as CMPA's are, at the trained τ; ``prototypes``: at CLIP's own scale,
            with P_I in the place of the texts.
        crf: DenseCRF behind a segmentation.
    """

    name: str
    settings: tuple[str, ...] = ()
    training: Training | None = None
    measure: Measure = "seeds"
    heads: Heads = "trained"
    crf: bool = False
