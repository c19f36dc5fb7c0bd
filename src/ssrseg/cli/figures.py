"""The figures of the paper, made from the user's own data and model."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from ssrseg.cli.base import (
    Cache,
    Clip,
    ConfigFile,
    Data,
    Device,
    Dino,
    Overrides,
    PresetOrRun,
    Prompts,
    Split,
    app,
    say,
    settings_of_run,
)
from ssrseg.errors import ConfigError

ONLY_3 = Group("Figure 3")

Number = Annotated[
    Literal[1, 3, 4, 5, 6],
    Parameter(
        help="1 motivation, 3 segmentations beside other methods', 4 CAMs, 5 refinement, 6 t-SNE."
    ),
]
Out = Annotated[
    Path, Parameter(help="Picture (.png, .jpg, .svg, .pdf); its numbers go into a .json beside it.")
]
Model = Annotated[
    Path | None,
    Parameter(help="Run folder of `ssrseg train`; Figures 3, 4 and 6 need one."),
]
Images = Annotated[
    str | None,
    Parameter(
        help="Names with commas between them; name:class also says whose CAM. Default: a fixed"
        " rule, written into the .json."
    ),
]
Row = Annotated[
    tuple[str, ...],
    Parameter(
        help="Another method's masks, NAME=FOLDER of indexed PNGs; may be given many times.",
        group=ONLY_3,
    ),
]
Data2 = Annotated[
    Path | None, Parameter(help="A second data set, for the columns to the right.", group=ONLY_3)
]
Split2 = Annotated[str | None, Parameter(help="List of the second data set.", group=ONLY_3)]
Model2 = Annotated[
    Path | None,
    Parameter(help="Run of the second data set; default: that of --model.", group=ONLY_3),
]


@app.command
def figure(
    number: Number,
    /,
    *,
    data: Data,
    out: Out,
    split: Split = None,
    model: Model = None,
    images: Images = None,
    row: Row = (),
    data2: Data2 = None,
    split2: Split2 = None,
    model2: Model2 = None,
    preset: PresetOrRun = None,
    config: ConfigFile = None,
    overrides: Overrides = (),
    clip: Clip = None,
    dino: Dino = None,
    prompts: Prompts = None,
    cache: Cache = None,
    device: Device = "auto",
) -> None:
    """Draw a figure of the paper from your own data and model, with its numbers beside it."""
    command = _command(dict(locals()))
    second = {"--row": row, "--data2": data2, "--split2": split2, "--model2": model2}
    foreign = [flag for flag, value in second.items() if value]
    if number != 3 and foreign:
        raise ConfigError(f"{foreign[0]} belongs to Figure 3. Leave it away for Figure {number}.")
    if data2 is None and (split2 or model2):
        raise ConfigError("--split2 and --model2 describe --data2, which is missing. Give it too.")
    from ssrseg.data.open import open_labelled
    from ssrseg.device import pick_device
    from ssrseg.paper.figures import (
        FigureOptions,
        FigureSource,
        make_figure,
    )  # says if matplotlib is missing
    from ssrseg.paper.method_comparison import parse_rows

    sets = [(data, split, model)] + ([(data2, split2, model2 or model)] if data2 else [])
    sources = [
        FigureSource(
            open_labelled(root, split=part),
            settings_of_run(run, preset, config, overrides, clip, dino, prompts),
            run,
        )
        for root, part, run in sets
    ]
    options = FigureOptions(images, parse_rows(row), cache, pick_device(device))
    facts = make_figure(number, sources, out, options, command=command)
    _print_facts(facts)
    say(f"Figure {number}: {out}. Its numbers: {out.with_suffix('.json')}")


def _command(options: dict[str, Any]) -> str:
    """The command line again, from the options that differ from their defaults."""
    words = ["ssrseg", "figure", str(options.pop("number"))]
    for name, value in options.items():
        flag = "--set" if name == "overrides" else f"--{name}"
        for each in value if isinstance(value, tuple) else (value,):
            if each is not None and (name, each) != ("device", "auto"):
                words += [flag, str(each)]
    return shlex.join(words)


def _print_facts(facts: dict[str, Any]) -> None:
    """The numbers as lines, such as ``CMPA: silhouette 0.123, ...``."""
    for name, numbers in facts.get("spaces", {}).items():
        say(f"{name}: {_line(numbers)}")
    for pair, numbers in facts.get("silhouette of two classes", {}).items():
        say(f"silhouette of {pair}: {_line(numbers)}")
    for name, numbers in facts.get("masks", {}).items():
        say(f"mask of {name}: {_line(numbers)}")
    for entry in (facts, *facts.get("rows", ())) if "columns" not in facts else ():
        for name, numbers in entry.get("activation", {}).items():
            say(f"{entry['image']}, {entry['class']}, {name}: {_line(numbers)}")
    for column in facts.get("columns", ()):
        say(f"{column['image']}: mIoU {_line(column['miou'])}")


def _line(numbers: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in numbers.items())
