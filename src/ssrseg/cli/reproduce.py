"""One command for the whole paper."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ssrseg.cli.app import METHOD, PAPER, SPEED, Count, Setup, command, typed
from ssrseg.cli.paper import EXPERIMENTS, Download, TableSetup
from ssrseg.errors import ConfigError
from ssrseg.processors import processors

if TYPE_CHECKING:
    from ssrseg.config import Config
    from ssrseg.paper.studies import Preset

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
    """One setting for the gates alone, which have the peers' settings and no --set."""
    plus_set: Annotated[tuple[str, ...], Parameter(group=METHOD)] = ()
    """One setting for ssr-plus alone, whose DINO is --plus-set backbones.dino=FOLDER."""
    jobs: Annotated[Count, Parameter(group=SPEED)] = 1
    """Processes that train and score at once."""

    def preset(self, name: str, setup: TableSetup, coco: Path) -> Preset:
        """A preset's settings on both data sets."""
        from ssrseg.paper.studies import Preset

        method, encoders = replace(setup.method, preset=name), setup.encoders
        if name in BESIDE:
            method = replace(method, overrides=(*method.overrides, *self.plus_set))
            encoders = replace(encoders, dino=None)
        setup = replace(setup, method=method, encoders=encoders)
        return Preset(name, setup.settings(), setup.on_coco(coco, self.coco_set).settings())

    def gate(self, name: str, ours: Config) -> Config:
        """A peer's settings with our encoders and our pace."""
        from ssrseg.config import SPEED_KEYS, load_config

        values = ours.to_dict()
        keys = (key.split(".") for key in (*SPEED_KEYS, "backbones.clip", "backbones.dino"))
        shared = {f"{section}.{key}": values[section][key] for section, key in keys}
        config = load_config(name, overrides=shared)
        return load_config(base=config.to_dict(), overrides=self.gate_set)


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
        voc: VOC 2012 folder; what is missing in it is made, or named.
        coco: COCO 2014 folder, for the last column of Table 1.
        out: Gets results.md, tables, figures, runs; run again to go on.
    """
    wanted = setup.method.preset or "ssr"
    if measuring.coco_set and coco is None:
        raise ConfigError("--coco-set is for COCO, which is not measured. Give --coco FOLDER too.")
    if measuring.plus_set and wanted not in BESIDE:
        raise ConfigError(f"--plus-set is for {', '.join(BESIDE)}. Give it by --preset too.")
    tables = TableSetup(data=voc, out=out, **vars(setup))
    main = measuring.preset(BESIDE.get(wanted, wanted), tables, coco or voc)
    beside = measuring.preset(wanted, tables, coco or voc) if wanted in BESIDE else None
    if beside is not None and beside.voc == main.voc:
        raise ConfigError(
            f"With these settings preset {wanted} is {BESIDE[wanted]} again: --config or --set give"
            " all that tells the two apart. Leave those settings out, or give them by --plus-set."
        )
    clip_es, weclip = (measuring.gate(name, main.voc) for name in ("clip-es", "weclip"))
    from ssrseg.paper.reproduce import reproduce
    from ssrseg.paper.studies import Reproduction

    job = Reproduction(
        out,
        voc,
        coco,
        main,
        beside,
        clip_es,
        weclip,
        seeds=measuring.seeds,
        jobs=measuring.jobs,
        workers=processors(),
        cache=setup.cache,
        device=setup.pick_device(),
        download=fetch.download and (fetch.mirror or True),
        command=shlex.join(typed()),
    )
    return reproduce(job, past_gates=measuring.past_gates)
