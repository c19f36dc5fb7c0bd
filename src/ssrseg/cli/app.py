"""What all commands share: the application, its options, and how faults are said."""

import os
import shlex
import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import cyclopts
from cyclopts import App, Group, Parameter, validators
from rich.console import Console

from ssrseg import __version__
from ssrseg.cli.streams import forgiving_streams
from ssrseg.console import note, printable_lines
from ssrseg.errors import ConfigError, SSRError
from ssrseg.interruption import Interrupted, interruptible
from ssrseg.launch import place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cyclopts import Token

    from ssrseg.config import Config
    from ssrseg.data.sample import LabelledImages

EVERYDAY, DATA_SETS, PAPER, OTHER = map(
    Group.create_ordered, ("Everyday", "Data sets", "Paper", "Other")
)
FILES = Group("Input and output", sort_key=0)  # 1: what a single command has
METHOD = Group("Method settings", sort_key=2)
ENCODERS = Group("Encoders", sort_key=3)
SPEED = Group("Speed and device", sort_key=4)

app = App(
    name="ssrseg",
    help="Image-level labels in, semantic segmentation out: SSR (AAAI 2026).",
    version=__version__,
    group_parameters=FILES,
    default_parameter=Parameter(
        negative_bool=(), negative_iterable=(), show_default=lambda value: value or None
    ),
    suppress_keyboard_interrupt=False,  # main says what to do next
)
app["--help"].group = app["--version"].group = OTHER
_position = count()


def command(group: Group) -> "Callable[..., object]":
    """Register a verb; ``ssrseg --help`` lists them in this order."""
    return app.command(group=group, sort_key=next(_position))


def whole(_: type, tokens: "Sequence[Token]") -> int:
    """A whole number; the library would round 1.5 without a word."""
    text = tokens[0].value
    if not text.lstrip("+-").isdecimal():
        raise ValueError(f'"{text}" is no whole number.')
    return int(text)


def path_or_address(_: object, tokens: "Sequence[Token]") -> Path | str:
    """A path; an address such as s3://bucket/folder stays as it is."""
    text = tokens[0].value
    return text if "://" in text else Path(text)


Count = Annotated[int, Parameter(converter=whole, validator=validators.Number(gte=1))]
Place = Annotated[Path | str, Parameter(converter=path_or_address, n_tokens=1, metavar="PATH")]
_DATA = Parameter(
    help="VOC 2012 or COCO 2014 folder, or your own with images and labels: labels.csv (columns"
    " image, labels), an export of a label tool, a folder per class. Or the label file itself."
    " ssrseg:photos/sample are photographs of this package."
)
DataFolder = Annotated[Path, _DATA]
DataSource = Annotated[
    Path | str,
    _DATA,
    Parameter(
        converter=path_or_address,
        n_tokens=1,
        metavar="PATH",
        help=f"{_DATA.help} Or tar or Parquet files; or any of these at s3:// or gs://.",
    ),
]
Split = Annotated[
    str | None,
    Parameter(help="List of images: train, val, or VOC's train_aug or test. Default: all."),
]
Device = Annotated[str, Parameter(help="auto, cpu, cuda or cuda:N.", group=SPEED)]


@Parameter(name="*", group=METHOD)
@dataclass(frozen=True, kw_only=True)
class Method:
    """Settings; the last one wins."""

    preset: str | None = None
    """Named settings: ssr (default), paper, clip-es, weclip; ssr-plus is experimental; photos needs
    no network, for it has small encoders of its own; demo is for drawn scenes."""
    config: Path | None = None
    """YAML file of settings that differ from the preset; `ssrseg config` lists them all."""
    overrides: Annotated[tuple[str, ...], Parameter(name="--set")] = ()
    """One setting, as section.key=value. May be given many times, and wins over the file."""


@Parameter(name="*", group=ENCODERS)
@dataclass(frozen=True, kw_only=True)
class Encoders:
    """Frozen networks, and the words they are asked about."""

    clip: str | None = None
    """CLIP: hub id, or folder written by save_pretrained. Default: as the settings say."""
    dino: str | None = None
    """DINO, DINOv2 or DINOv3: hub id or folder, likewise."""
    prompts: str | None = None
    """Prompts: voc, coco, coco-clip-es, demo, or a YAML file of your own."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Setup:
    """How to compute."""

    method: Method = Method()
    encoders: Encoders = Encoders()
    cache: Annotated[Path | None, Parameter(group=SPEED)] = None
    """Folder of superpixels, cached and pooled features, which several runs may share."""
    device: Device = "auto"

    def settings(self, model: Path | None = None) -> "Config":
        """The settings, on top of those of the run ``model`` unless a preset is named."""
        return load_settings(self.method, self.encoders, model)

    def pick_device(self) -> str:
        """The device, known to work."""
        from ssrseg.device import pick_device

        return pick_device(self.device)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DataSetup(Setup):
    """Images with labels, and how to compute."""

    data: DataFolder
    split: Split = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class MayHaveModel(Setup):
    """How to compute, for a command that may be given a trained model."""

    model: Path | None = None
    """Run folder whose settings and CMPA (weclip: decoder) are used. Default: training-free."""

    def settings(self, model: Path | None = None) -> "Config":
        """The same for this model or another one."""
        return super().settings(model or self.model)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelSetup(MayHaveModel, DataSetup):
    """The same with images and labels."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SourceSetup(MayHaveModel):
    """The same with images and labels that need not be in a folder."""

    data: DataSource
    split: Split = None


def load_settings(
    method: Method, encoders: Encoders | None = None, model: Path | None = None
) -> "Config":
    """Preset (or the settings of the run ``model``), file, and options; the last one wins."""
    from ssrseg.config import load_config

    base = None
    if model is not None and method.preset is None:
        from ssrseg.checkpoint import load_checkpoint

        base = load_checkpoint(model).config.to_dict()
    keys = {"clip": "backbones.clip", "dino": "backbones.dino", "prompts": "prompts.set"}
    given = vars(encoders or Encoders()).items()
    # by key: a path may hold what YAML takes for syntax
    extra = {keys[name]: text for name, text in given if text is not None}
    config = load_config(method.preset or "ssr", method.config, method.overrides, base)
    return load_config(base=config.to_dict(), overrides=extra) if extra else config


def open_data(data: Path, split: str | None) -> "LabelledImages":
    """The images of a list, or all of them; faults are said before transformers is imported."""
    from ssrseg.data.open import open_labelled

    images = open_labelled(data, split=None if split == "all" else split)
    for notice in images.notices:
        note(notice)
    return images


def typed() -> list[str]:
    """The words of the command that runs."""
    return ["ssrseg", *sys.argv[1:]]


def complain(text: str) -> NoReturn:
    """One paragraph on standard error, exit code 2."""
    console = Console(stderr=True)
    console.print("Error:", style="bold red", end=" ")
    # class ids and shapes hold brackets, which rich would take for markup
    console.print(printable_lines(text), soft_wrap=True, markup=False, emoji=False, highlight=False)
    sys.exit(2)


def main() -> None:
    """Entry point: faults of the user's input become one paragraph and exit code 2.

    Exit codes are 0; 1 where ``doctor`` and ``check`` find a problem; 2; 3 where some files failed;
    128 + the signal that stopped the command.
    """
    with forgiving_streams():
        try:
            with interruptible():
                _refuse_company()
                code = app(
                    sys.argv[1:],
                    exit_on_error=False,
                    print_error=True,
                    result_action="return_value",
                )
                sys.stdout.flush()
        except SSRError as error:
            complain(str(error))
        except OSError as error:
            if error.errno is None:  # not from the file system
                raise
            named = error.filename2 or error.filename
            where = "Standard output" if named is None else os.fsdecode(named)
            complain(
                f"{where} cannot be read or written"
                f" ({error.strerror}). Choose another path, remove what is in the way, or make room"
                " or permission there."
            )
        except cyclopts.CycloptsError:
            sys.exit(2)
        except Interrupted as stopped:
            go_on = shlex.join(typed()) if place() is None else "the same command."
            _say(f"{stopped}\nTo go on: {go_on}")
            sys.exit(128 + stopped.signum)
        except KeyboardInterrupt:  # where no handler could be installed
            _say("Interrupted. The same command goes on from here.")
            sys.exit(130)
        sys.exit(code if isinstance(code, int) else 0)


def _refuse_company() -> None:
    """Let one process of several do what all of them would do, and write, alike."""
    found, words = place(), sys.argv[1:]
    if found is None or words[:1] == ["train"]:
        return
    if any(word.partition("=")[0] == "--shard" for word in words):
        return  # a part of the work for each
    if found.rank:
        sys.exit(2)  # the first one says it
    raise ConfigError(
        f"{found.size} processes were started together, and {shlex.join(['ssrseg', *words[:1]])}"
        " works in one: all would write the same files. Start it without torchrun or srun, or give"
        " each its part of the images (--shard) where the command takes one. ssrseg train alone"
        " shares its work."
    )


def _say(text: str) -> None:
    print(printable_lines(text), file=sys.stderr, flush=True)
