"""Train, mask, predict, score: the verbs that a user's own data need, and the demo."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
    PresetOrRun,
    Prompts,
    Split,
    app,
    say,
    settings,
    settings_of_run,
    show,
)

if TYPE_CHECKING:
    from ssrseg.data.sample import LabelledImages
    from ssrseg.evaluation import Evaluation


@app.command
def demo(
    *,
    out: Annotated[Path, Parameter(help="Folder for data, run and report.")] = Path("demo-run"),
    seeds: Annotated[
        int,
        Parameter(
            help="Repeat on fresh scenes and print mean and spread.",
            validator=validators.Number(gte=1),
        ),
    ] = 1,
    device: Device = "auto",
) -> None:
    """Train SSR on the embedded demo world, segment unseen scenes, write a report. Offline."""
    from ssrseg.demo.run import run_demo
    from ssrseg.device import pick_device

    report = run_demo(out, seeds=seeds, device=pick_device(device))
    say(report.table)
    say(f"Report: {report.page}")


@app.command
def train(
    *,
    data: Data,
    out: Annotated[Path, Parameter(help="Run folder; run the same command again to resume.")],
    preset: Preset = "ssr",
    config: ConfigFile = None,
    overrides: Overrides = (),
    split: Split = None,
    clip: Clip = None,
    dino: Dino = None,
    prompts: Prompts = None,
    supervision: Annotated[
        Literal["labels", "full"],
        Parameter(
            help="labels: SSR. full: the same decoder on true masks (the control of Table 6)."
        ),
    ] = "labels",
    monitor: Annotated[
        int,
        Parameter(
            help="Score the pseudo masks of this many images that have true masks.",
            validator=validators.Number(gte=0),
        ),
    ] = 0,
    cache: Cache = None,
    stop_after: Annotated[
        int | None,
        Parameter(
            help="Stop, resumable, when so many iterations are finished.",
            validator=validators.Number(gte=1),
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Train a segmentation model from image-level labels."""
    chosen = settings(preset, config, overrides, clip, dino, prompts)
    from ssrseg.data.open import open_labelled

    images = open_labelled(data, split=split)  # faulty data is said before transformers loads
    _say_labels(images)
    from ssrseg.device import pick_device
    from ssrseg.training import train as run

    known = tuple(sample for sample in images.samples if sample.truth is not None)[:monitor]
    result = run(
        images,
        out,
        chosen,
        supervision=supervision,
        monitor=replace(images, samples=known) if known else None,
        cache=cache,
        stop_after=stop_after,
        device=pick_device(device),
    )
    if result.finished:
        say(f"Finished: {result.run / 'model.safetensors'}. Next: ssrseg predict --model {out} ...")
    else:
        say(f"Stopped after {result.iteration} iterations; the same command goes on.")


@app.command
def masks(
    *,
    data: Data,
    out: Annotated[
        Path, Parameter(help="Gets masks/, classes.txt, manifest.csv; run again to resume.")
    ],
    preset: PresetOrRun = None,
    config: ConfigFile = None,
    overrides: Overrides = (),
    split: Split = None,
    model: Annotated[
        Path | None,
        Parameter(
            help="Run folder whose trained CMPA (weclip: decoder) is used; default: training-free."
        ),
    ] = None,
    clip: Clip = None,
    dino: Dino = None,
    prompts: Prompts = None,
    save_cams: Annotated[bool, Parameter(help="Also write cams/NAME.npz.")] = False,
    cache: Cache = None,
    device: Device = "auto",
) -> None:
    """Write refined pseudo masks for labelled images."""
    chosen = settings_of_run(model, preset, config, overrides, clip, dino, prompts)
    from ssrseg.data.open import open_labelled

    images = open_labelled(data, split=split)
    _say_labels(images)
    from ssrseg.device import pick_device
    from ssrseg.pseudo_masks import masks as run

    result = run(
        images,
        out,
        chosen,
        model=model,
        save_cams=save_cams,
        cache=cache,
        device=pick_device(device),
    )
    say(
        f"{result.written} masks written to {result.out / 'masks'} in {result.seconds:.0f} s,"
        f" {result.skipped} were there already."
    )
    if result.absent:
        first = (f"{name} ({', '.join(words)})" for name, words in result.absent.items())
        more = ", ..." if len(result.absent) > 5 else ""
        say(
            f"{len(result.absent)} of the {len(images)} masks show nothing of a class that their"
            f" image is labelled with: {', '.join(islice(first, 5))}{more} (column absent of"
            f" {result.out / 'manifest.csv'})."
        )


def _say_labels(images: LabelledImages) -> None:
    from ssrseg.console import notice
    from ssrseg.data.classes import describe_labels

    for line in describe_labels(images):
        notice(line)


@app.command
def predict(
    *,
    images: Annotated[
        Path | None, Parameter(help="One image or a folder of images; or give --data.")
    ] = None,
    data: Annotated[
        Path | None, Parameter(help="Data set instead of --images; its labels are not needed.")
    ] = None,
    split: Split = None,
    model: Annotated[Path, Parameter(help="Run folder of `ssrseg train`, or model.safetensors.")],
    out: Annotated[Path, Parameter(help="Gets masks/ and classes.txt; run again to resume.")],
    clip: Clip = None,
    crf: Annotated[
        bool | None, Parameter(help="Refine with a DenseCRF; default: as the run's settings say.")
    ] = None,
    overwrite: Annotated[bool, Parameter(help="Make masks anew that are there already.")] = False,
    device: Device = "auto",
) -> None:
    """Segment images with a trained model. No labels needed."""
    from ssrseg.data.open import open_images
    from ssrseg.errors import DataError

    chosen: Path | dict[str, Path]
    if images is not None and data is None and split is None:
        chosen = images
    elif data is not None and images is None:
        chosen = open_images(data, split=split)
    else:
        raise DataError(
            "predict needs either --images (a file or folder) or --data (a data set, of which"
            " --split names a list): give exactly one of the two."
        )
    from ssrseg.device import pick_device
    from ssrseg.prediction import predict as run

    result = run(
        chosen, out, model, clip=clip, crf=crf, overwrite=overwrite, device=pick_device(device)
    )
    say(
        f"{result.written} masks written to {result.out / 'masks'} in {result.seconds:.0f} s,"
        f" {result.skipped} were there already."
    )


@app.command
def evaluate(
    *,
    masks: Annotated[Path, Parameter(help="Folder written by `masks` or `predict`.")],
    data: Data,
    split: Split = None,
    json: Annotated[Path | None, Parameter(help="Also write the figures to this file.")] = None,
) -> None:
    """Score masks against true masks: mIoU, precision, recall, confusion ratio, per class."""
    from ssrseg.data.open import open_labelled
    from ssrseg.evaluation import evaluate as run
    from ssrseg.evaluation import save_evaluation

    result = run(masks, open_labelled(data, split=split))
    _print_evaluation(result)
    if json is not None:
        save_evaluation(result, json)


@app.command
def doctor(
    *,
    preset: Preset = "ssr",
    config: ConfigFile = None,
    overrides: Overrides = (),
    clip: Clip = None,
    dino: Dino = None,
) -> int:
    """Say what is installed, which device there is, whether the encoders load, and the cure."""
    chosen = settings(preset, config, overrides, clip, dino)
    from ssrseg.doctor import examine

    return show(examine(chosen))


@app.command
def config(*, preset: Preset = "ssr") -> None:
    """List every setting with its value in a preset and its meaning."""
    from ssrseg.config import describe, load_config

    values = load_config(preset).to_dict()
    table = Table("setting", "value", "meaning", box=None)
    for key, _, meaning in describe():
        section, name = key.split(".")
        table.add_row(key, str(values[section][name]), meaning.replace("[", r"\["))
    console = Console()
    if not console.is_terminal:  # one setting per line, for grep
        console = Console(width=250)
    console.print(table)


def _print_evaluation(result: Evaluation) -> None:
    table = Table("class", "images", "IoU", "precision", "recall", "confusion")
    scores = result.scores
    for index, name in enumerate(result.classes):
        row = (scores.iou[index], scores.class_precision[index], scores.class_recall[index])
        table.add_row(
            name,
            str(int(result.images[index])),
            *("-" if value.isnan() else f"{100 * float(value):.1f}" for value in row),
            "-"
            if scores.class_confusion_ratio[index].isnan()
            else f"{float(scores.class_confusion_ratio[index]):.3f}",
        )
    Console().print(table)
    say(
        f"mIoU {100 * scores.miou:.1f}   precision {100 * scores.precision:.1f}   recall"
        f" {100 * scores.recall:.1f}   confusion ratio {scores.confusion_ratio:.3f}   undecided"
        f" {100 * result.undecided:.1f} % of the pixels"
    )
    if scores.classes_without_hit:
        say(
            f"{scores.classes_without_hit} classes are never hit and have no confusion ratio: the"
            " mean over the others flatters."
        )
