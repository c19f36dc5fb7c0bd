"""The paper's figures from what a reproduction has trained."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from ssrseg.checkpoint import model_digest
from ssrseg.config import Config
from ssrseg.console import echo, note
from ssrseg.errors import PackageError
from ssrseg.paper.figures import FigureOptions, FigureSource, Number, make_figure
from ssrseg.paper.records import read_settings
from ssrseg.paper.rows import CLIP_ES_DECODER, DECODER, FULL_DECODER_CRF
from ssrseg.paper.studies import Reproduction, Standing
from ssrseg.safe_json import JsonError, read_json

COMPARED = {"on CLIP-ES's CAMs": CLIP_ES_DECODER, "full supervision": FULL_DECODER_CRF}
"""Rows of Figure 3 beside ours: decoders of our own; the peers' masks are theirs to give."""


def draw_figures(job: Reproduction, standings: Sequence[Standing]) -> None:
    """Draw Figures 1 and 3 to 6 of the first seed's run on ``val``, where they are not there.

    A figure for which a package is missing is left out, which is said.
    """
    found = [each for each in standings if each.study.preset == job.preset.name]
    sources = [_source(each) for each in found]
    compared = {
        name: [
            each.study.workspace.out / result.record["predictions"] / "masks"
            for each in found
            for result in each.results.of(row.name)[:1]
        ]
        for name, row in COMPARED.items()
    }
    for number in get_args(Number):
        used, rows = (sources, compared) if number == 3 else (sources[:1], {})
        out = job.out / figure_name(number)
        if _is_current(out, used):
            continue
        cache = found[0].study.workspace.superpixels
        options = FigureOptions(rows=rows, cache=cache, device=job.device)
        try:
            make_figure(number, used, out, options, command=job.command)
        except PackageError as error:
            note(f"Figure {number} is left out: {error}")
        else:
            echo(f"Figure {number}: {out}")


def figure_name(number: Number) -> str:
    """What its picture is called."""
    return f"figure-{number}.png"


def _source(standing: Standing) -> FigureSource:
    """The images of ``val`` with the decoder's run of the first seed, under its own settings."""
    workspace = standing.study.workspace
    assert workspace.val is not None
    run = workspace.out / standing.results.of(DECODER.name)[0].record["training"]["run"]
    config = read_settings(run / "config.yaml")
    return FigureSource(workspace.val, replace(config, backbones=workspace.config.backbones), run)


def _is_current(picture: Path, sources: list[FigureSource]) -> bool:
    """Whether a figure is there and was drawn of these runs under these settings."""
    try:
        made = read_json(picture.with_suffix(".json"))["made"]
        drawn = [(each["model"], each["settings"]) for each in made]
    except (JsonError, KeyError, TypeError, OSError):
        return False
    wanted = [(model_digest(each.model), _settings(each.config)) for each in sources if each.model]
    return picture.is_file() and drawn == wanted


def _settings(config: Config) -> str:
    return hashlib.sha256(config.to_yaml().encode()).hexdigest()[:16]
