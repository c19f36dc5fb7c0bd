"""What the demo measures, and where its report shows it."""

from __future__ import annotations

from dataclasses import replace

from ssrseg.paper import rows as paper

PRESET = replace(paper.AS_SET, name="preset demo: DINO attention alone, one step, SGC")
PAPERS_WEIGHTS = paper.STEPS[1:]
"""Table 3's steps behind CMPA: the paper's weights, CLIP-ES's square."""

MAIN_ROWS = {
    "CAM": (paper.CLIP_CAM, paper.CMPA_CAM),
    "CMPA CAM refined with the paper's weights": PAPERS_WEIGHTS,
    "CMPA CAM refined as preset demo does": (PRESET, paper.WITH_PAR),
    "decoder, on unseen scenes": (paper.DECODER, paper.DECODER_CRF),
    "the same decoder, trained on true masks": (paper.FULL_DECODER, paper.FULL_DECODER_CRF),
}
"""By what they share. CAMs are those of training scenes: labels known, masks unseen."""

_CONTROLS = {
    "centre prior, no image": "",
    "CLIP CAM, SGC without propagation": "",
    "CMPA CAM, SGC without propagation": "",
    "the preset without CMPA": "preset demo without CMPA",
    "the preset without a mask": "preset demo without SGC's mask",
    "CLIP CAM + PAR (nothing of SSR)": "",
    "colour-position kernel, no mask": "",
    "colour-position kernel + SGC": "",
}
"""Some of the paper's controls, and what they are called here, if it is something else."""
_BY_NAME = {row.name: row for row in paper.CONTROLS}
_GROUPED = {
    "main": tuple(row for rows in MAIN_ROWS.values() for row in rows),
    "controls": (
        *(replace(_BY_NAME[name], name=other or name) for name, other in _CONTROLS.items()),
        *(*paper.CLIP_READ, *paper.UNTRAINED, *paper.TEMPERATURE),
    ),
    "masks": tuple(row for row in paper.GRID if not row.name.startswith("no attention")),
    "losses": paper.LOSSES,
}
ROWS = tuple(row for rows in _GROUPED.values() for row in rows)
GROUPS = {group: tuple(row.name for row in rows) for group, rows in _GROUPED.items()}
"""Names of the rows by table of the report."""

_LONG = {row.name for row in (*PAPERS_WEIGHTS, paper.FULL_DECODER)}
SHORT = tuple(name for name in GROUPS["main"] if name not in _LONG)
"""Names of the rows that the terminal shows."""
