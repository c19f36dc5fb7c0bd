"""Get VOC and COCO ready; measure the paper's tables and figures."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from ssrseg.cli.app import (
    DATA_SETS,
    METHOD,
    PAPER,
    SPEED,
    Count,
    DataFolder,
    Method,
    ModelSetup,
    Setup,
    command,
    load_settings,
    open_data,
    typed,
)
from ssrseg.cli.commands import percent
from ssrseg.console import echo, print_table, show
from ssrseg.errors import ConfigError, DataError, counted
from ssrseg.processors import processors

if TYPE_CHECKING:
    from ssrseg.config import Config
    from ssrseg.data.sample import LabelledImages
    from ssrseg.paper.experiments import Experiment
    from ssrseg.paper.results import TableReport
    from ssrseg.paper.workspace import Result, Workspace

# ---------------------------------------------------------------- data sets

NEXT = {
    "voc": "--split train_aug",
    "coco": "--split train --prompts coco --set sgc.high=0.7 --set optim.iterations=80000"
    " --set optim.pairs=256",
}
"""How to train on what is ready; 0.7 and 80,000 are CLIP-ES's and WeCLIP's settings for COCO."""


@Parameter(name="*", group=Group("Superpixels", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class Superpixels:
    """What may be computed ahead of training."""

    superpixels: bool = False
    """Compute superpixels ahead of training: 0.1 s an image and process."""
    cache: Path | None = None
    """Where to; give the same folder to train and masks. Default: DATA/superpixels."""
    split: str | None = None
    """List whose images get superpixels. Default: all of training and val."""


@Parameter(name="*", group=Group("Download", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class Download:
    """Whether archives are fetched, and from where."""

    download: bool = False
    """Fetch missing archives (VOC 3.4 GB, COCO 20.4 GB) and unpack them."""
    mirror: str | None = None
    """Address that has the archives by their names, if not the official one."""


@command(DATA_SETS)
def prepare(
    dataset: Literal["voc", "coco"],
    /,
    *,
    data: Path,
    fetch: Download = Download(),
    cells: Superpixels = Superpixels(),
    method: Method = Method(),
    workers: Annotated[Count | None, Parameter(group=SPEED)] = None,
) -> int:
    """Check VOC or COCO, say what is missing, make lists and masks.

    Args:
        dataset: VOC 2012 with SBD's masks, or COCO 2014.
        data: Folder of the data set; --download makes it.
        workers: Processes for masks and superpixels. Default: one per processor.
    """
    config = load_settings(method)
    folder = cells.cache or (data / "superpixels" if cells.superpixels else None)
    if cells.split is not None and folder is None:
        raise ConfigError(
            f"--split {cells.split} says which images get superpixels, but none are wanted. Add"
            " --superpixels, or leave it away."
        )
    from ssrseg.prepare.coco import prepare_coco
    from ssrseg.prepare.voc import prepare_voc

    result = (prepare_voc if dataset == "voc" else prepare_coco)(
        data,
        config=config,
        download=fetch.download and (fetch.mirror or True),
        superpixels=folder,
        split=cells.split,
        workers=workers or processors(),
    )
    code = show(result.checks)
    if code == 0:
        shared = f" --cache {shlex.quote(str(folder))}" if folder else ""
        command = f"ssrseg train --data {shlex.quote(str(data))} {NEXT[dataset]}{shared} --out run"
        echo(f"Complete. Next: {command}")
    return code


@command(DATA_SETS)
def archive(*, masks: Path, data: Path, split: str = "test", out: Path) -> None:
    """Check masks of VOC's test images and pack them for its server.

    Args:
        masks: Folder written by `predict` for the list.
        data: VOC 2012 folder with the images and the list.
        split: The list; the server scores test.
        out: The archive to write, such as results.tgz.
    """
    from ssrseg.prepare.voc_server import INSIDE, voc_archive

    result = voc_archive(masks, data, out, split=split)
    echo(f"{counted(result.images, 'mask', 'masks')} packed as {INSIDE}/*.png in {result.path}.")


# ---------------------------------------------------------------- tables and ablations

EXPERIMENTS = Parameter(group=Group("Experiments", sort_key=1))
Exponents = Annotated[
    Literal["protocol", "wide"],
    Parameter(
        help="protocol: exponents 0.5 .. 14 for raw and 0.5, 1, 2 for propagated CAMs, PAR at the"
        " winner; wide: 0.5 .. 14 for all, PAR swept too."
    ),
]


@dataclass(frozen=True, kw_only=True)
class Images:
    """To train on, to score CAMs and decoders on (None = no row needs them), and the settings."""

    config: Config
    train: LabelledImages | None
    seeds: LabelledImages | None
    val: LabelledImages | None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TableSetup(Setup):
    """What ``table`` and ``ablate`` share: data, a folder of results, and how to compute."""

    data: DataFolder
    out: Path
    """Gets runs/, results/ and the table; run again to go on."""
    train_split: str = "train_aug"
    """Images that are trained on; all = every image."""
    seed_split: str = "train"
    """Images whose CAMs are scored; all = every image."""
    val_split: str = "val"
    """Images that decoders are scored on; all = every image."""
    seeds: Annotated[Count, EXPERIMENTS] = 3
    """Repetitions of all that is trained."""
    exponents: Annotated[Exponents, EXPERIMENTS] = "protocol"
    collect: Annotated[bool, EXPERIMENTS] = False
    """Measure nothing, show what is there."""
    jobs: Annotated[Count, Parameter(group=SPEED)] = 1
    """Processes that train and score at once."""

    def images(self, rows: Sequence[Experiment]) -> Images:
        """The images that the rows need.

        Faults of settings and labels are said here, before torch is imported.
        """
        config = self.settings()
        trained = any(row.training is not None for row in rows)
        cams = any(row.measure != "segmentation" for row in rows)
        decoders = any(row.measure == "segmentation" for row in rows)
        return Images(
            config=config,
            train=self._open(self.train_split, "--train-split") if trained else None,
            seeds=self._open(self.seed_split, "--seed-split") if cams else None,
            val=self._open(self.val_split, "--val-split") if decoders else None,
        )

    def workspace(self, images: Images) -> Workspace:
        """Where the rows are measured, and on what."""
        from ssrseg.paper.cam_seeds import ALPHAS
        from ssrseg.paper.workspace import Workspace

        return Workspace(
            self.out,
            images.config,
            train=images.train,
            seeds=images.seeds,
            val=images.val,
            cache=self.cache,
            device=self.pick_device(),
            jobs=self.jobs,
            alphas=ALPHAS if self.exponents == "wide" else None,
            command=shlex.join(typed()),
        )

    def _open(self, split: str, option: str) -> LabelledImages:
        """The images of a list; the user may never have typed its name."""
        from ssrseg.data.open import open_labelled

        try:
            return open_data(self.data, split)
        except DataError:
            open_labelled(self.data)  # if the fault lies there, it is said as it is
            folders = (self.data / "ImageSets" / "Segmentation", self.data)
            lists = {file.stem for folder in folders for file in folder.glob("*.txt")} - {"classes"}
            if split in lists:
                raise
            raise DataError(
                f"{self.data} has no list {split}.txt for {option}. Give {option} one of:"
                f" {', '.join([*sorted(lists), 'all'])} (all = every image). --train-split images"
                " are trained on; CAMs of --seed-split and decoders on --val-split are scored."
            ) from None

    def on_coco(self, data: Path, overrides: Sequence[str]) -> TableSetup:
        """The same for COCO, with its own settings and prompts."""
        from ssrseg.paper.rows import coco_settings

        given = (*coco_settings(self.settings()), *self.method.overrides, *overrides)
        return replace(
            self,
            data=data,
            out=self.out / "coco",
            train_split="train",
            seed_split="val",
            val_split="val",
            method=replace(self.method, overrides=given),
            encoders=replace(self.encoders, prompts=None),
            cache=self.cache and self.cache / "coco",
        )

    def measure(self, rows: Sequence[Experiment], workspace: Workspace) -> list[Result]:
        """Say what is missing and measure it, unless only what is there is wanted."""
        from ssrseg.paper.run_experiments import missing_tasks, run_experiments

        if not self.collect:
            todo = {task.key: task for task in missing_tasks(rows, workspace, seeds=self.seeds)}
            runs = {task.run for task in todo.values() if task.run}
            unfinished = sum(not (run / "model.safetensors").exists() for run in runs)
            figures = counted(len(todo), "figure", "figures")
            trainings = counted(unfinished, "run", "runs")
            echo(f"{figures} to measure, {trainings} to train, in {workspace.out}.")
        return run_experiments(rows, workspace, seeds=self.seeds, collect=self.collect)

    def report(self, report: TableReport, name: str) -> None:
        """Print a table and write it with everything behind it."""
        echo(report.text())
        echo(f"\n{report.write(self.out, name)} has the classes and what was used.")


def _again() -> str:
    """This command, without what kept it from measuring everything."""
    kept, words = [], iter(typed())
    for word in words:
        if word == "--rows":
            next(words, None)
        elif word != "--collect" and not word.startswith("--rows="):
            kept.append(word)
    return shlex.join(kept)


@command(PAPER)
def table(
    number: Literal[1, 2, 3, 4, 5, 6],
    /,
    *,
    setup: TableSetup,
    rows: Annotated[tuple[str, ...], EXPERIMENTS] = (),
    coco: Path | None = None,
    coco_set: Annotated[tuple[str, ...], Parameter(group=METHOD)] = (),
) -> None:
    """Measure a table of the paper, beside the paper's own numbers.

    Args:
        number: Number of the paper's table.
        rows: Only rows whose name holds this text. May be given many times.
        coco: COCO 2014 folder, for Table 1.
        coco_set: One setting for COCO alone, as --set.
    """
    from ssrseg.paper.rows import TABLES

    known = TABLES[number]
    wanted = [row for row in known if not rows or any(text in row.name for text in rows)]
    for text in rows:
        if not any(text in row.name for row in wanted):
            names = "; ".join(row.name for row in known)
            raise ConfigError(f"--rows {text}: no row has this in its name. There are: {names}.")
    setups = [setup]
    if coco is not None and number == 1:
        setups.append(setup.on_coco(coco, coco_set))
    images = [each.images(known) for each in setups]
    # after all labels were read: this imports torch
    from ssrseg.paper.run_experiments import run_experiments
    from ssrseg.paper.tables import paper_table

    workspaces = [each.workspace(found) for each, found in zip(setups, images, strict=True)]
    for each in workspaces:
        setup.measure(wanted, each)
    found = [run_experiments(known, each, seeds=setup.seeds, collect=True) for each in workspaces]
    on_coco = found[1] if len(found) > 1 else None
    setup.report(paper_table(number, found[0], on_coco, _again()), f"table-{number}")


@command(PAPER)
def ablate(
    *variations: str,
    setup: TableSetup,
    measure: Annotated[Literal["seeds", "masks", "segmentation"], EXPERIMENTS] = "seeds",
) -> None:
    """Compare values of settings over several seeds.

    Args:
        variations: section.key=V1,V2,...; several keys are combined.
        measure: CAM seeds at the best exponent, pseudo masks, or the trained decoder.
    """
    config = setup.settings()
    if not variations:
        raise ConfigError("ablate what? Name a setting with its values: sgc.min_ratio=0.3,0.5,0.7.")
    from ssrseg.paper.variations import ablation_rows

    wanted = ablation_rows(variations, config, measure)
    workspace = setup.workspace(setup.images(wanted))
    # after the labels were read: it imports torch
    from ssrseg.paper.ablation import ablation_table, distinct_tasks

    distinct_tasks(wanted, workspace, setup.seeds)  # before anything is measured
    found = setup.measure(wanted, workspace)
    keys = "-".join(each.partition("=")[0] for each in variations)
    setup.report(ablation_table(wanted, found, _again()), f"ablate-{keys}-{measure}")


# ---------------------------------------------------------------- CAM seeds


SCORED = Parameter(group=Group("What is scored", sort_key=1))


@command(PAPER)
def seeds(
    *,
    setup: ModelSetup,
    json: Path | None = None,
    par: Annotated[bool, SCORED] = False,
    crf: Annotated[bool, SCORED] = False,
    exponents: Annotated[Exponents, SCORED] = "protocol",
    per_class: Annotated[bool, SCORED] = False,
) -> None:
    """Score CAMs at their best exponent, as in Tables 2 to 4.

    Args:
        json: Also write all figures to this file.
        par: Also score the CAMs refined by PAR.
        crf: Also score them refined by DenseCRF, at pseudo.alpha.
        per_class: Also print every class.
    """
    config = setup.settings()
    images = open_data(setup.data, setup.split)
    from ssrseg.config import load_config
    from ssrseg.data.files import write_json
    from ssrseg.data.photos import refuse_unusable
    from ssrseg.data.superpixels import SuperpixelCache
    from ssrseg.evaluation import class_figures, mean_figures
    from ssrseg.model import SSR
    from ssrseg.paper.cam_seeds import ALPHAS, score_seeds
    from ssrseg.paper.rows import RAW

    refuse_unusable(images, config.data)
    model = SSR.for_data(config, images, setup.model, device=setup.pick_device())
    config = model.config  # its precision is settled
    changes = {"initial CAM": RAW, "refined CAM": ("pseudo.refine=none",)}
    changes |= {"+ PAR": ("pseudo.refine=par",)} if par else {}
    changes |= {"+ CRF": ("pseudo.refine=crf",)} if crf else {}
    models = {
        name: model.with_config(load_config(base=config.to_dict(), overrides=each))
        for name, each in changes.items()
    }
    cache, sgc, alphas = setup.cache, config.sgc, ALPHAS if exponents == "wide" else None
    cells = SuperpixelCache.of(cache, sgc)
    found = score_seeds(models, images, cells, alphas=alphas)
    classes = ("background", *images.classes)
    figures: dict[str, dict[str, Any]] = {
        name: {
            **mean_figures(each.scores),
            "alpha": each.alpha,
            "by_alpha": {str(alpha): miou for alpha, miou in each.by_alpha.items()},
            "classes": class_figures(each.scores, classes, each.images),
        }
        for name, each in found.items()
    }
    rows = []
    for name, each in figures.items():
        shares = (percent(each[share]) for share in ("miou", "precision", "recall"))
        rows.append((name, *shares, f"{each['alpha']:g}"))
    print_table(("seeds", "mIoU", "precision", "recall", "α"), rows, numbers=True)
    if per_class:
        rows = []
        for name in classes:
            of_class = [each["classes"][name] for each in figures.values()]
            shares = (percent(each["iou"]) for each in of_class)
            rows.append((name, str(of_class[0]["images"]), *shares))
        columns = ("class", "images", *(f"IoU, {name}" for name in figures))
        print_table(columns, rows, numbers=True)
    if json is not None:
        write_json(json, {"settings": config.to_dict(), "seeds": figures})


# ---------------------------------------------------------------- figures


@Parameter(name="*", group=Group("Figure 3", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class Figure3:
    """What Figure 3 alone shows."""

    row: tuple[str, ...] = ()
    """Another method's masks, NAME=FOLDER of indexed PNGs. May be given many times."""
    data2: Path | None = None
    """A second data set, for the columns to the right."""
    split2: str | None = None
    """List of the second data set."""
    model2: Path | None = None
    """Run of the second data set. Default: that of --model."""


@command(PAPER)
def figure(
    number: Literal[1, 3, 4, 5, 6],
    /,
    *,
    setup: ModelSetup,
    out: Path,
    images: str | None = None,
    extra: Figure3 = Figure3(),
) -> None:
    """Draw a figure of the paper from your own data and model.

    A trained model comes with --model; Figures 3, 4 and 6 need one.

    Args:
        number: 1 motivation, 3 segmentations beside other methods', 4 CAMs, 5 refinement, 6 t-SNE.
        out: Picture (.png, .jpg, .svg, .pdf); its numbers go into a .json beside it.
        images: Names with commas between them; name:class also says whose CAM. Default: a fixed
            rule, written into the .json.
    """
    foreign = [name for name, value in vars(extra).items() if value]
    if number != 3 and foreign:
        raise ConfigError(f"--{foreign[0]} belongs to Figure 3. Leave it away for Figure {number}.")
    if extra.data2 is None and (extra.split2 or extra.model2):
        raise ConfigError("--split2 and --model2 describe --data2, which is missing. Give it too.")
    sets = [(setup.data, setup.split, setup.model)]
    if extra.data2 is not None:
        sets.append((extra.data2, extra.split2, extra.model2 or setup.model))
    opened = [open_data(data, split) for data, split, _ in sets]
    # after the labels were read: all import torch
    from ssrseg.device import settled_precision
    from ssrseg.paper.figures import FigureOptions, FigureSource, make_figure
    from ssrseg.paper.method_comparison import parse_rows

    sources = [
        FigureSource(each, settled_precision(setup.settings(model), setup.pick_device()), model)
        for each, (_, _, model) in zip(opened, sets, strict=True)
    ]
    options = FigureOptions(images, parse_rows(extra.row), setup.cache, setup.pick_device())
    facts = make_figure(number, sources, out, options, command=shlex.join(typed()))
    for name, numbers in _numbers(facts):
        shown = (f"{key.replace('_', ' ')} {value:.3f}" for key, value in numbers.items())
        echo(f"{name} {', '.join(shown)}")
    echo(f"Figure {number}: {out}. Its numbers: {out.with_suffix('.json')}")


def _numbers(facts: dict[str, Any]) -> Iterator[tuple[str, dict[str, float]]]:
    """What the lines of a figure's numbers are called, such as ``CMPA:``, and the numbers."""
    kinds = {"spaces": "", "silhouette of two classes": "silhouette of ", "masks": "mask of "}
    for kind, before in kinds.items():
        for name, numbers in facts.get(kind, {}).items():
            yield f"{before}{name}:", numbers
    for entry in (facts, *facts.get("rows", ())) if "columns" not in facts else ():
        for name, numbers in entry.get("activation", {}).items():
            yield f"{entry['image']}, {entry['class']}, {name}:", numbers
    for column in facts.get("columns", ()):
        yield f"{column['image']}: mIoU", column["miou"]
