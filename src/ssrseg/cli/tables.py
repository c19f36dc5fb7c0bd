"""Protocols, the paper's tables, ablations: what a researcher needs."""

from __future__ import annotations

import json as json_format
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter, validators
from rich.console import Console
from rich.table import Table

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
    Split,
    app,
    say,
    settings,
)

if TYPE_CHECKING:
    from ssrseg.config import Config
    from ssrseg.data.sample import LabelledImages
    from ssrseg.engine.experiments import Bench, Experiment
    from ssrseg.engine.seeds import SeedScores

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
Exponents = Annotated[
    Literal["protocol", "wide"],
    Parameter(
        help="protocol: exponents 0.5 .. 14 for raw and 0.5, 1, 2 for propagated CAMs, PAR at the"
        " winner; wide: 0.5 .. 14 for all, PAR swept too."
    ),
]
Collect = Annotated[bool, Parameter(help="Measure nothing, show what is there.")]


@app.command
def seeds(
    *,
    data: Data,
    split: Split = None,
    model: Annotated[
        Path | None, Parameter(help="Run folder whose CMPA is used; default: training-free.")
    ] = None,
    preset: Annotated[
        str | None, Parameter(help="Named settings (default ssr); with --model, the run's own.")
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = (),
    clip: Clip = None,
    dino: Dino = None,
    prompts: Prompts = None,
    par: Annotated[bool, Parameter(help="Also score the CAMs refined by PAR.")] = False,
    crf: Annotated[
        bool, Parameter(help="Also score them refined by DenseCRF, at the exponent that won.")
    ] = False,
    per_class: Annotated[bool, Parameter(help="Also print every class.")] = False,
    exponents: Exponents = "protocol",
    json: Annotated[Path | None, Parameter(help="Also write all figures to this file.")] = None,
    cache: Cache = None,
    device: Device = "auto",
) -> None:
    """Score CAM seeds by the protocol of Tables 2 to 4: mIoU, P, R at the best exponent."""
    base = None
    if model is not None and preset is None:
        from ssrseg.engine.checkpoint import load_checkpoint

        base = load_checkpoint(model).config.to_dict()
    chosen = settings(preset or "ssr", config, overrides, clip, dino, prompts, base)
    images = _open(data, split or "all")
    from ssrseg.config import load_config
    from ssrseg.data.cache import SuperpixelCache
    from ssrseg.engine.checkpoint import check_classes, load_checkpoint
    from ssrseg.engine.device import pick_device
    from ssrseg.engine.measure import load_heads, variant
    from ssrseg.engine.rectify import load_rectifier
    from ssrseg.engine.rows import PLAIN, RAW
    from ssrseg.engine.seeds import ALPHAS, score_seeds

    rows: dict[str, tuple[str, ...]] = {"initial CAM": RAW, "refined CAM": (PLAIN,)}
    rows |= {"+ PAR": ("pseudo.refine=par",)} if par else {}
    rows |= {"+ CRF": ("pseudo.refine=crf",)} if crf else {}
    if model is not None:
        check_classes(load_checkpoint(model).classes, images.classes, model)
    rectifier = load_rectifier(
        chosen, images.classes, own_prompts=images.prompts, device=pick_device(device)
    )
    heads = load_heads(rectifier, model) if model is not None else None
    found = score_seeds(
        {
            name: variant(rectifier, load_config(base=chosen.to_dict(), overrides=each), heads)
            for name, each in rows.items()
        },
        images,
        SuperpixelCache(
            cache, n_segments=chosen.sgc.n_segments, compactness=chosen.sgc.compactness
        ),
        alphas=ALPHAS if exponents == "wide" else None,
    )
    _print_seeds(found, images, per_class)
    if json is not None:
        _write_seeds(found, images, chosen, json)


def _print_seeds(found: dict[str, SeedScores], images: LabelledImages, per_class: bool) -> None:
    table = Table("seeds", "mIoU", "precision", "recall", "α", box=None)
    for name, each in found.items():
        shares = (each.scores.miou, each.scores.precision, each.scores.recall)
        table.add_row(name, *(f"{100 * share:.1f}" for share in shares), f"{each.alpha:g}")
    Console().print(table)
    if not per_class:
        return
    table = Table("class", "images", *(f"IoU, {name}" for name in found), box=None)
    for index, name in enumerate(("background", *images.classes)):
        shares = [each.scores.iou[index] for each in found.values()]
        count = str(int(next(iter(found.values())).images[index]))
        cells = ("-" if share.isnan() else f"{100 * float(share):.1f}" for share in shares)
        table.add_row(name, count, *cells)
    Console().print(table)


def _write_seeds(
    found: dict[str, SeedScores], images: LabelledImages, chosen: Config, path: Path
) -> None:
    from ssrseg.data.files import atomic_write
    from ssrseg.engine.evaluate import class_figures, mean_figures

    table: dict[str, Any] = {"settings": chosen.to_dict(), "seeds": {}}
    for name, each in found.items():
        table["seeds"][name] = {
            **mean_figures(each.scores),
            "alpha": each.alpha,
            "by_alpha": {str(alpha): miou for alpha, miou in each.by_alpha.items()},
            "classes": class_figures(each.scores, ("background", *images.classes), each.images),
        }
    with atomic_write(path) as temporary:
        temporary.write_text(json_format.dumps(table, indent=2) + "\n", encoding="utf-8")


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


def _open(data: Path, split: str) -> LabelledImages:
    from ssrseg.data.open import open_labelled

    return open_labelled(data, split=None if split == "all" else split)


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
    train = _open(data, splits[0]) if trained else None
    scored = _open(data, splits[1]) if cams else None
    val = _open(data, splits[2]) if decoders else None
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
