"""The paper's tables and ablations: many figures, kept in a folder."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
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
    from ssrseg.engine.experiments import Bench, Experiment

Workspace = Annotated[
    Path, Parameter(help="Gets runs/, results/ and the table; run again to go on.")
]
Seeds = Annotated[
    int,
    Parameter(help="Repetitions of all that is trained.", validator=validators.Number(gte=1)),
]
TrainSplit = Annotated[str, Parameter(help="Images that are trained on; all = every image.")]
SeedSplit = Annotated[str, Parameter(help="Images whose CAMs are scored; all = every image.")]
ValSplit = Annotated[str, Parameter(help="Images that decoders are scored on; all = every image.")]
Jobs = Annotated[
    int,
    Parameter(help="Processes that train and score at once.", validator=validators.Number(gte=1)),
]
Collect = Annotated[bool, Parameter(help="Measure nothing, show what is there.")]


@app.command
def table(
    number: Annotated[Literal[1, 2, 3, 4, 5, 6], Parameter(help="Number of the paper's table.")],
    /,
    *,
    data: Data,
    out: Workspace,
    coco: Annotated[Path | None, Parameter(help="COCO 2014 in the same layout (Table 1).")] = None,
    seeds: Seeds = 3,
    preset: Preset = "ssr",
    config: ConfigFile = None,
    overrides: Overrides = (),
    train_split: TrainSplit = "train_aug",
    seed_split: SeedSplit = "train",
    val_split: ValSplit = "val",
    rows: Annotated[
        tuple[str, ...], Parameter(help="Only rows whose name holds this text; many times.")
    ] = (),
    coco_overrides: Annotated[
        tuple[str, ...], Parameter(name="--coco-set", help="One setting for COCO alone.")
    ] = (),
    clip: Clip = None,
    dino: Dino = None,
    prompts: Prompts = None,
    cache: Cache = None,
    exponents: Exponents = "protocol",
    jobs: Jobs = 1,
    device: Device = "auto",
    collect: Collect = False,
) -> None:
    """Measure a table of the paper and print it beside the paper's figures."""
    chosen = settings(preset, config, overrides, clip, dino, prompts)
    from ssrseg.engine.measure import measure
    from ssrseg.engine.rows import COCO_SETTINGS, TABLES

    wanted = TABLES[number]
    if rows:
        wanted = tuple(row for row in wanted if any(text in row.name for text in rows))
        _check_rows(wanted, rows, TABLES[number])
    bench = _bench(
        *(out, chosen, data, TABLES[number], (train_split, seed_split, val_split)),
        *(cache, exponents, jobs, device),
    )
    on_coco = None
    if coco is not None and number == 1:
        special = (*COCO_SETTINGS, *overrides, *coco_overrides)
        theirs = settings(preset, config, special, clip, dino, None)
        on_coco = _bench(
            *(out / "coco", theirs, coco, TABLES[number], ("train", "val", "val")),
            *(cache and cache / "coco", exponents, jobs, device),
        )
    benches = [bench] if on_coco is None else [bench, on_coco]
    for each in benches:
        if not collect:
            _say_plan(wanted, each, seeds)
            measure(wanted, each, seeds=seeds)
    found = [measure(TABLES[number], each, seeds=seeds, collect=True) for each in benches]
    from ssrseg.report.results import print_all, write_printed
    from ssrseg.report.tables import paper_table

    printed = paper_table(number, found[0], found[1] if on_coco else None, _again())
    say(print_all(printed))
    say(f"\n{write_printed(printed, out, f'table-{number}')} has the classes and what was used.")


@app.command
def ablate(
    *variations: Annotated[
        str, Parameter(help="section.key=V1,V2,...; several keys are combined.")
    ],
    data: Data,
    out: Workspace,
    seeds: Seeds = 3,
    measure: Annotated[
        Literal["seeds", "masks", "segmentation"],
        Parameter(help="CAM seeds at the best exponent, pseudo masks, or the trained decoder."),
    ] = "seeds",
    preset: Preset = "ssr",
    config: ConfigFile = None,
    overrides: Overrides = (),
    train_split: TrainSplit = "train_aug",
    seed_split: SeedSplit = "train",
    val_split: ValSplit = "val",
    clip: Clip = None,
    dino: Dino = None,
    prompts: Prompts = None,
    cache: Cache = None,
    exponents: Exponents = "protocol",
    jobs: Jobs = 1,
    device: Device = "auto",
    collect: Collect = False,
) -> None:
    """Compare values of settings over seeds; train only where training sees the setting."""
    chosen = settings(preset, config, overrides, clip, dino, prompts)
    from ssrseg.engine.ablation import ablation_rows, refuse_idle

    if not variations:
        from ssrseg.errors import ConfigError

        raise ConfigError("ablate what? Name a setting with its values: sgc.min_ratio=0.3,0.5,0.7.")
    wanted = ablation_rows(variations, chosen, measure)
    bench = _bench(
        *(out, chosen, data, wanted, (train_split, seed_split, val_split)),
        *(cache, exponents, jobs, device),
    )
    refuse_idle(wanted, bench, seeds)
    from ssrseg.engine.measure import measure as run

    if not collect:
        _say_plan(wanted, bench, seeds)
    found = run(wanted, bench, seeds=seeds, collect=collect)
    from ssrseg.report.ablation import ablation_table
    from ssrseg.report.results import print_all, write_printed

    printed = ablation_table(wanted, found, _again())
    say(print_all(printed))
    keys = "-".join(each.partition("=")[0] for each in variations)
    path = write_printed(printed, out, f"ablate-{keys}-{measure}")
    say(f"\n{path} has the classes and what was used.")


def _bench(
    out: Path,
    chosen: Config,
    data: Path,
    rows: Sequence[Experiment],
    splits: tuple[str, str, str],
    cache: Path | None,
    exponents: str,
    jobs: int,
    device: str,
) -> Bench:
    """The workspace, with the images that the rows need."""
    cams = any(row.measure != "segmentation" for row in rows)
    decoders = any(row.measure == "segmentation" for row in rows)
    trained = any(row.training is not None for row in rows)
    train = open_split(data, splits[0]) if trained else None
    scored = open_split(data, splits[1]) if cams else None
    val = open_split(data, splits[2]) if decoders else None
    from ssrseg.engine.device import pick_device
    from ssrseg.engine.experiments import Bench
    from ssrseg.engine.seeds import ALPHAS

    return Bench(
        out,
        chosen,
        train,
        scored,
        val,
        cache=cache,
        device=pick_device(device),
        jobs=jobs,
        alphas=ALPHAS if exponents == "wide" else None,
        command=shlex.join(["ssrseg", *sys.argv[1:]]),
    )


def _check_rows(
    wanted: Sequence[Experiment], texts: tuple[str, ...], known: Sequence[Experiment]
) -> None:
    from ssrseg.errors import ConfigError

    for text in texts:
        if not any(text in row.name for row in wanted):
            names = "; ".join(row.name for row in known)
            raise ConfigError(f"--rows {text}: no row has this in its name. There are: {names}.")


def _say_plan(rows: Sequence[Experiment], bench: Bench, seeds: int) -> None:
    from ssrseg.engine.measure import missing_tasks

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
