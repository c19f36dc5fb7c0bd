"""One command for the whole paper."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ssrseg.cli.app import METHOD, PAPER, SPEED, Count, Method, Setup, command, typed
from ssrseg.cli.paper import EXPERIMENTS, Download, TableSetup

BESIDE = {"ssr-plus": "ssr"}
"""Experimental presets, and the one that each is measured beside."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How much is measured, and with which settings beside the preset's."""

    seeds: Annotated[Count, EXPERIMENTS] = 3
    """Repetitions of all that is trained."""
    past_gates: Annotated[bool, EXPERIMENTS] = False
    """Go on though a gate fails."""
    coco_set: Annotated[tuple[str, ...], Parameter(group=METHOD)] = ()
    """One setting for COCO alone, as --set."""
    gate_set: Annotated[tuple[str, ...], Parameter(group=METHOD)] = ()
    """One setting for the gates alone, which have the peers' settings and take no --set."""
    jobs: Annotated[Count, Parameter(group=SPEED)] = 1
    """Processes that train and score at once."""


@command(PAPER)
def reproduce(
    *,
    voc: Path,
    coco: Path | None = None,
    out: Path = Path("repro"),
    setup: Setup = Setup(),
    measuring: Measuring = Measuring(),
    fetch: Download = Download(),
) -> int:
    """Reproduce the paper: gates, every table and figure, a page with the verdicts.

    Args:
        voc: VOC 2012 folder; what is missing in it is made or named.
        coco: COCO 2014 folder, for the last column of Table 1.
        out: Gets results.md, tables, figures, runs; run again to go on.
    """
    from ssrseg.config import SPEED_KEYS, load_config
    from ssrseg.paper.reproduce import reproduce
    from ssrseg.paper.studies import Preset, Reproduction

    granted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

    def preset(name: str) -> Preset:
        method = Method(preset=name, config=setup.method.config, overrides=setup.method.overrides)
        on_voc = TableSetup(
            data=voc, out=out, method=method, encoders=setup.encoders, cache=setup.cache
        )
        return Preset(
            name, on_voc.settings(), on_voc.on_coco(coco or voc, measuring.coco_set).settings()
        )

    wanted = setup.method.preset or "ssr"
    main = preset(BESIDE.get(wanted, wanted))
    chosen = main.voc.to_dict()
    shared = {key: chosen[key.partition(".")[0]][key.partition(".")[2]] for key in SPEED_KEYS}
    shared |= {"backbones.clip": main.voc.backbones.clip, "backbones.dino": main.voc.backbones.dino}
    clip_es, weclip = (
        load_config(
            base=load_config(name, overrides=measuring.gate_set).to_dict(), overrides=shared
        )
        for name in ("clip-es", "weclip")
    )
    job = Reproduction(
        out=out, voc=voc, coco=coco, preset=main,
        beside=preset(wanted) if wanted in BESIDE else None,
        clip_es=clip_es, weclip=weclip, seeds=measuring.seeds, jobs=measuring.jobs,
        workers=granted or 1, cache=setup.cache, device=setup.pick_device(),
        download=fetch.download and (fetch.mirror or True), command=shlex.join(typed()),
    )  # fmt: skip
    return reproduce(job, past_gates=measuring.past_gates)
