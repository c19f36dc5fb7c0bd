"""CAM seeds: the protocol behind Tables 2 to 4 for one model."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
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
    Prompts,
    Split,
    app,
    settings,
)

if TYPE_CHECKING:
    from ssrseg.config import Config
    from ssrseg.data.sample import LabelledImages
    from ssrseg.paper.cam_seeds import SeedScores

Exponents = Annotated[
    Literal["protocol", "wide"],
    Parameter(
        help="protocol: exponents 0.5 .. 14 for raw and 0.5, 1, 2 for propagated CAMs, PAR at the"
        " winner; wide: 0.5 .. 14 for all, PAR swept too."
    ),
]


@app.command
def seeds(
    *,
    data: Data,
    split: Split = None,
    model: Annotated[
        Path | None,
        Parameter(help="Run folder whose CMPA (weclip: decoder) is used; default: training-free."),
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
        bool, Parameter(help="Also score them refined by DenseCRF, at pseudo.alpha.")
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
        from ssrseg.checkpoint import load_checkpoint

        base = load_checkpoint(model).config.to_dict()
    chosen = settings(preset or "ssr", config, overrides, clip, dino, prompts, base)
    images = open_split(data, split or "all")
    rows = {"initial CAM": "none", "refined CAM": "none"}
    rows |= ({"+ PAR": "par"} if par else {}) | ({"+ CRF": "crf"} if crf else {})
    found = _score(images, chosen, rows, model, exponents, cache, device)
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
    from ssrseg.evaluation import class_figures, mean_figures

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


def open_split(data: Path, split: str) -> LabelledImages:
    """A split of a data set, or ``all`` of it."""
    from ssrseg.data.open import open_labelled

    return open_labelled(data, split=None if split == "all" else split)


def _score(
    images: LabelledImages,
    chosen: Config,
    rows: dict[str, str],
    model: Path | None,
    exponents: str,
    cache: Path | None,
    device: str,
) -> dict[str, SeedScores]:
    """One pass for the initial CAM and every refinement."""
    from ssrseg.config import load_config
    from ssrseg.data.superpixels import SuperpixelCache
    from ssrseg.device import pick_device
    from ssrseg.model import load_rectifier
    from ssrseg.paper.cam_seeds import ALPHAS, score_seeds
    from ssrseg.paper.rows import RAW
    from ssrseg.paper.run_experiments import variant
    from ssrseg.pseudo_masks import use_model

    rectifier = load_rectifier(
        chosen, images.classes, own_prompts=images.prompts, device=pick_device(device)
    )
    if model is not None:
        use_model(rectifier, model, images)
    rectifiers = {}
    for name, refine in rows.items():
        overrides = RAW if name == "initial CAM" else (f"pseudo.refine={refine}",)
        config = load_config(base=chosen.to_dict(), overrides=overrides)
        rectifiers[name] = variant(rectifier, config, rectifier.alignment)
    sgc = chosen.sgc
    superpixels = SuperpixelCache(cache, n_segments=sgc.n_segments, compactness=sgc.compactness)
    alphas = ALPHAS if exponents == "wide" else None
    return score_seeds(rectifiers, images, superpixels, alphas=alphas)
