"""The paper's tables and ablations: many figures, kept in a folder."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

from ssrseg.cli.base import (
    Cache,
    Clip,
    ConfigFile,
    Data,
    Device,
    Dino,
    Overrides,
    Preset,
    Prompts,
    app,
    say,
    settings,
)
from ssrseg.cli.seeds import Exponents, open_split

if TYPE_CHECKING:
    from ssrseg.config import Config
    from ssrseg.paper.experiments import Bench, Experiment


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Where:
    """What ``table`` and ``ablate`` share: a workspace, its data and settings."""

    data: Data
    out: Annotated[Path, Parameter(help="Gets runs/, results/ and the table; run again to go on.")]
    seeds: Annotated[
        int,
        Parameter(help="Repetitions of all that is trained.", validator=validators.Number(gte=1)),
    ] = 3
    preset: Preset = "ssr"
    config: ConfigFile = None
    overrides: Overrides = ()
    train_split: Annotated[
        str, Parameter(help="Images that are trained on; all = every image.")
    ] = "train_aug"
    seed_split: Annotated[
        str, Parameter(help="Images whose CAMs are scored; all = every image.")
    ] = "train"
    val_split: Annotated[
        str, Parameter(help="Images that decoders are scored on; all = every image.")
    ] = "val"
    clip: Clip = None
    dino: Dino = None
    prompts: Prompts = None
    cache: Cache = None
    exponents: Exponents = "protocol"
    jobs: Annotated[
        int,
        Parameter(
            help="Processes that train and score at once.", validator=validators.Number(gte=1)
        ),
    ] = 1
    device: Device = "auto"
    collect: Annotated[bool, Parameter(help="Measure nothing, show what is there.")] = False

    def settings(self) -> Config:
        """The settings that rows vary."""
        return settings(
            *(self.preset, self.config, self.overrides),
            *(self.clip, self.dino, self.prompts),
        )

    def bench(self, chosen: Config, rows: Sequence[Experiment]) -> Bench:
        """The workspace, with the images that the rows need."""
        cams = any(row.measure != "segmentation" for row in rows)
        decoders = any(row.measure == "segmentation" for row in rows)
        trained = any(row.training is not None for row in rows)
        train = open_split(self.data, self.train_split) if trained else None
        scored = open_split(self.data, self.seed_split) if cams else None
        val = open_split(self.data, self.val_split) if decoders else None
        from ssrseg.device import pick_device
        from ssrseg.paper.cam_seeds import ALPHAS
        from ssrseg.paper.experiments import Bench

        return Bench(
            self.out,
            chosen,
            train,
            scored,
            val,
            cache=self.cache,
            device=pick_device(self.device),
            jobs=self.jobs,
            alphas=ALPHAS if self.exponents == "wide" else None,
            command=shlex.join(["ssrseg", *sys.argv[1:]]),
        )


@app.command
def table(
    number: Annotated[Literal[1, 2, 3, 4, 5, 6], Parameter(help="Number of the paper's table.")],
    /,
    *,
    where: Where,
    coco: Annotated[Path | None, Parameter(help="COCO 2014 in the same layout (Table 1).")] = None,
    rows: Annotated[
        tuple[str, ...], Parameter(help="Only rows whose name holds this text; many times.")
    ] = (),
    coco_overrides: Annotated[
        tuple[str, ...], Parameter(name="--coco-set", help="One setting for COCO alone.")
    ] = (),
) -> None:
    """Measure a table of the paper and print it beside the paper's figures."""
    chosen = where.settings()
    from ssrseg.paper.rows import TABLES, coco_settings
    from ssrseg.paper.run_experiments import measure

    wanted = TABLES[number]
    if rows:
        wanted = tuple(row for row in wanted if any(text in row.name for text in rows))
        _check_rows(wanted, rows, TABLES[number])
    benches = [where.bench(chosen, TABLES[number])]
    if coco is not None and number == 1:
        there = replace(
            where,
            data=coco,
            out=where.out / "coco",
            cache=where.cache and where.cache / "coco",
            overrides=(*coco_settings(chosen), *where.overrides, *coco_overrides),
            prompts=None,
            train_split="train",
            seed_split="val",
            val_split="val",
        )
        benches.append(there.bench(there.settings(), TABLES[1]))
    for each in benches:
        if not where.collect:
            _say_plan(wanted, each, where.seeds)
            measure(wanted, each, seeds=where.seeds)
    found = [measure(TABLES[number], each, seeds=where.seeds, collect=True) for each in benches]
    from ssrseg.paper.results import print_all, write_printed
    from ssrseg.paper.tables import paper_table

    on_coco = found[1] if len(found) > 1 else None
    printed = paper_table(number, found[0], on_coco, _again())
    say(print_all(printed))
    path = write_printed(printed, where.out, f"table-{number}")
    say(f"\n{path} has the classes and what was used.")


@app.command
def ablate(
    *variations: Annotated[
        str, Parameter(help="section.key=V1,V2,...; several keys are combined.")
    ],
    where: Where,
    measure: Annotated[
        Literal["seeds", "masks", "segmentation"],
        Parameter(help="CAM seeds at the best exponent, pseudo masks, or the trained decoder."),
    ] = "seeds",
) -> None:
    """Compare values of settings over seeds; train only where training sees the setting."""
    chosen = where.settings()
    from ssrseg.paper.ablation import ablation_rows, refuse_idle

    if not variations:
        from ssrseg.errors import ConfigError

        raise ConfigError("ablate what? Name a setting with its values: sgc.min_ratio=0.3,0.5,0.7.")
    wanted = ablation_rows(variations, chosen, measure)
    bench = where.bench(chosen, wanted)
    refuse_idle(wanted, bench, where.seeds)
    from ssrseg.paper.run_experiments import measure as run

    if not where.collect:
        _say_plan(wanted, bench, where.seeds)
    found = run(wanted, bench, seeds=where.seeds, collect=where.collect)
    from ssrseg.paper.ablation_table import ablation_table
    from ssrseg.paper.results import print_all, write_printed

    printed = ablation_table(wanted, found, _again())
    say(print_all(printed))
    keys = "-".join(each.partition("=")[0] for each in variations)
    path = write_printed(printed, where.out, f"ablate-{keys}-{measure}")
    say(f"\n{path} has the classes and what was used.")


def _check_rows(
    wanted: Sequence[Experiment], texts: tuple[str, ...], known: Sequence[Experiment]
) -> None:
    from ssrseg.errors import ConfigError

    for text in texts:
        if not any(text in row.name for row in wanted):
            names = "; ".join(row.name for row in known)
            raise ConfigError(f"--rows {text}: no row has this in its name. There are: {names}.")


def _say_plan(rows: Sequence[Experiment], bench: Bench, seeds: int) -> None:
    from ssrseg.paper.run_experiments import missing_tasks

    todo = missing_tasks(rows, bench, seeds=seeds)
    runs = {task.run for task in todo if task.run and not (task.run / "model.safetensors").exists()}
    todo = list({task.key: task for task in todo}.values())
    say(f"{len(todo)} figures to measure, {len(runs)} runs to train, in {bench.out}.")


def _again() -> str:
    """This command, without what kept it from measuring everything."""
    kept, skip = ["ssrseg"], False
    for word in sys.argv[1:]:
        if skip or word in ("--collect", "--rows") or word.startswith("--rows="):
            skip = word == "--rows" and not skip
            continue
        kept.append(word)
    return shlex.join(kept)
