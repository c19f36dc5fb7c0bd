"""What the demo measures, and where its report shows it."""

from __future__ import annotations

from dataclasses import replace

from ssrseg.paper.rows import (
    AS_SET,
    CENTRE_PRIOR,
    CLIP_CAM,
    CLIP_READ,
    CMPA_CAM,
    CONTROLS,
    DECODER,
    DECODER_CRF,
    FULL_DECODER,
    FULL_DECODER_CRF,
    GRID,
    LOSSES,
    STEPS,
    TEMPERATURE,
    UNTRAINED,
    WITH_PAR,
)

PRESET = replace(AS_SET, name="preset demo: DINO attention alone, one step, SGC")
PAPERS_WEIGHTS = STEPS[1:]
"""Table 3's steps behind CMPA: the paper's weights, CLIP-ES's square."""

MAIN_ROWS = {
    "CAM": (CLIP_CAM, CMPA_CAM),
    "CMPA CAM refined with the paper's weights": PAPERS_WEIGHTS,
    "CMPA CAM refined as preset demo does": (PRESET, WITH_PAR),
    "decoder, on unseen scenes": (DECODER, DECODER_CRF),
    "the same decoder, trained on true masks": (FULL_DECODER, FULL_DECODER_CRF),
}
"""By what they share. CAMs are those of training scenes: labels known, masks unseen."""

_SHORT = (CLIP_CAM, CMPA_CAM, PRESET, WITH_PAR, DECODER, DECODER_CRF, FULL_DECODER_CRF)

_RENAMED = {
    "the preset without CMPA": "preset demo without CMPA",
    "the preset without a mask": "preset demo without SGC's mask",
}
_SHOWN = (
    CENTRE_PRIOR.name,
    *("CLIP CAM, SGC without propagation", "CMPA CAM, SGC without propagation"),
    *_RENAMED,
    "CLIP CAM + PAR (nothing of SSR)",
    *("colour-position kernel, no mask", "colour-position kernel + SGC"),
)
_CONTROLS = {row.name: row for row in CONTROLS}
CONTROL_ROWS = (
    *(replace(_CONTROLS[name], name=_RENAMED.get(name, name)) for name in _SHOWN),
    *(*CLIP_READ, *UNTRAINED, *TEMPERATURE),
)
MASK_ROWS = tuple(row for row in GRID if not row.name.startswith("no attention"))

_GROUPED = {
    "main": tuple(row for rows in MAIN_ROWS.values() for row in rows),
    "controls": CONTROL_ROWS,
    "masks": MASK_ROWS,
    "losses": LOSSES,
}
GROUPS = {group: tuple(row.name for row in rows) for group, rows in _GROUPED.items()}
"""Names of the rows by table of the report."""

ROWS = tuple(row for rows in _GROUPED.values() for row in rows)
SHORT = tuple(row.name for row in _SHORT)
"""Names of the rows that the terminal shows."""
