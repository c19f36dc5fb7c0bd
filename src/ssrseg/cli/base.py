"""What all commands share: the application, its parameters, and how faults are said."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import cyclopts
from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ssrseg import __version__
from ssrseg.errors import SSRError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssrseg.check_result import Finding
    from ssrseg.config import Config

app = App(
    name="ssrseg",
    help="Image-level labels in, semantic segmentation out: SSR (AAAI 2026).",
    version=__version__,
    suppress_keyboard_interrupt=False,  # main says what to do next
)

Preset = Annotated[
    str,
    Parameter(
        help="Named settings: ssr, paper, clip-es, weclip; demo and photos belong to the small"
        " encoders."
    ),
]
PresetOrRun = Annotated[
    str | None,
    Parameter(
        help="Named settings: ssr (default), paper, clip-es, weclip; demo and photos belong to the"
        " small encoders; with --model, the run's own."
    ),
]
ConfigFile = Annotated[
    Path | None,
    Parameter(name="--config", help="YAML file of settings that differ from the preset."),
]
Overrides = Annotated[
    tuple[str, ...],
    Parameter(name="--set", help="One setting, as section.key=value; may be given many times."),
]
Clip = Annotated[
    str | None, Parameter(help="CLIP: hub id, or directory written by save_pretrained.")
]
Dino = Annotated[
    str | None, Parameter(help="DINO: hub id, or directory written by save_pretrained.")
]
Prompts = Annotated[
    str | None,
    Parameter(help="Prompt set (voc, coco, coco-clip-es, demo) or a YAML file with your own."),
]
Device = Annotated[str, Parameter(help="auto, cpu, cuda or cuda:N.")]
Cache = Annotated[Path | None, Parameter(help="Folder of superpixels that several runs may share.")]
Split = Annotated[
    str | None,
    Parameter(
        help="List of the data (VOC: train, train_aug, val; COCO: train, val); default: all."
    ),
]
Data = Annotated[
    Path,
    Parameter(
        help="VOC 2012 or COCO 2014 tree, or a folder with images and labels.csv (image,labels)."
    ),
]


def settings(
    preset: str,
    config: Path | None,
    overrides: tuple[str, ...],
    clip: str | None,
    dino: str | None,
    prompts: str | None = None,
    base: dict[str, Any] | None = None,
) -> Config:
    """Preset, file and options of a command, joined; the last one wins."""
    from ssrseg.config import load_config

    named = [("backbones.clip", clip), ("backbones.dino", dino), ("prompts.set", prompts)]
    # quoted, because a path may hold what YAML takes for syntax
    given = ((key, text) for key, text in named if text is not None)
    extra = (f"{key}={json.dumps(text, ensure_ascii=False)}" for key, text in given)
    return load_config(preset, config, (*overrides, *extra), base)


def settings_of_run(
    model: Path | None,
    preset: str | None,
    config: Path | None,
    overrides: tuple[str, ...],
    clip: str | None,
    dino: str | None,
    prompts: str | None,
) -> Config:
    """:func:`settings`, on top of those of a trained run unless a preset is named."""
    base = None
    if model is not None and preset is None:
        from ssrseg.checkpoint import load_checkpoint

        base = load_checkpoint(model).config.to_dict()
    return settings(preset or "ssr", config, overrides, clip, dino, prompts, base)


def say(text: str) -> None:
    """Print at once, so that a log file is never behind."""
    print(text, flush=True)


def show(findings: Sequence[Finding]) -> int:
    """Print a report, then the cure of every problem; the exit code, 1 if there is one."""
    table = Table(box=None, show_header=False)
    for finding in findings:
        mark = "[red]problem[/]" if finding.cure else "[green]ok[/]"
        # paths may hold brackets, which rich would take for markup
        table.add_row(mark, escape(finding.what), escape(finding.found))
    Console().print(table)
    faults = [finding for finding in findings if finding.cure]
    for finding in faults:
        say(f"\n{finding.what}: {finding.cure}")
    return 1 if faults else 0


def complain(text: str) -> NoReturn:
    """One paragraph on standard error, exit code 2."""
    console = Console(stderr=True)
    console.print("Error:", style="bold red", end=" ")
    # class ids and shapes hold brackets, which rich would take for markup
    console.print(text, soft_wrap=True, markup=False, emoji=False, highlight=False)
    sys.exit(2)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: faults of the user's input become one paragraph and exit code 2."""
    try:
        code = app(
            arguments,
            exit_on_error=False,
            print_error=True,
            result_action="return_value",
        )
    except SSRError as error:
        complain(str(error))
    except OSError as error:
        if error.errno is None:  # not from the file system
            raise
        complain(
            f"{error.filename2 or error.filename or 'A file'} cannot be read or written"
            f" ({error.strerror}). Choose another path, remove what is in the way, or make room or"
            " permission there."
        )
    except cyclopts.CycloptsError:
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted. The same command goes on from here.")
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
