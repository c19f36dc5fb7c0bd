"""Get VOC and COCO ready, and pack masks for the VOC server."""

from __future__ import annotations

import os
from pathlib import Path
from shlex import quote
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from ssrseg.cli.base import ConfigFile, Overrides, Preset, app, say, settings, show
from ssrseg.errors import ConfigError

_NEXT = {
    "voc": "ssrseg train --data {data} --split train_aug{cache} --out run",
    "coco": (
        "ssrseg train --data {data} --split train --prompts coco --set sgc.high=0.7"
        " --set optim.iterations=80000 --set optim.pairs=256{cache} --out run"
    ),
}  # 0.7 and 80,000 iterations: CLIP-ES's and WeCLIP's settings for COCO


Workers = Annotated[
    int | None,
    Parameter(
        help="Processes for masks and superpixels; default: one per processor.",
        validator=validators.Number(gte=1),
    ),
]


@app.command
def prepare(
    dataset: Annotated[
        Literal["voc", "coco"], Parameter(help="VOC 2012 with SBD's masks, or COCO 2014.")
    ],
    /,
    *,
    data: Annotated[Path, Parameter(help="Folder of the data set; --download makes it.")],
    download: Annotated[
        bool, Parameter(help="Fetch missing archives (VOC 3.4 GB, COCO 20.4 GB) and unpack them.")
    ] = False,
    mirror: Annotated[
        str | None,
        Parameter(help="Address that has the archives by their names, if not the official one."),
    ] = None,
    superpixels: Annotated[
        bool, Parameter(help="Compute superpixels ahead of training: 0.1 s an image and process.")
    ] = False,
    cache: Annotated[
        Path | None,
        Parameter(help="Where to, and the same for train and masks; default: DATA/superpixels."),
    ] = None,
    split: Annotated[
        str | None,
        Parameter(help="List whose images get superpixels; default: all of training and val."),
    ] = None,
    workers: Workers = None,
    preset: Preset = "ssr",
    config: ConfigFile = None,
    overrides: Overrides = (),
) -> int:
    """Check a data set, say exactly what is missing, make lists, masks and superpixels."""
    chosen = settings(preset, config, overrides, None, None)
    folder = cache or (data / "superpixels" if superpixels else None)
    if split is not None and folder is None:
        raise ConfigError(
            f"--split {split} says which images get superpixels, but none are wanted. Add"
            " --superpixels, or leave it away."
        )
    from ssrseg.prepare.coco import prepare_coco
    from ssrseg.prepare.voc import prepare_voc

    result = (prepare_voc if dataset == "voc" else prepare_coco)(
        data,
        config=chosen,
        download=download,
        mirror=mirror,
        superpixels=folder,
        split=split,
        workers=workers or _processors(),
    )
    code = show(result.findings)
    if code == 0:
        shared = f" --cache {quote(str(folder))}" if folder else ""
        say(f"Complete. Next: {_NEXT[dataset].format(data=quote(str(data)), cache=shared)}")
    return code


@app.command
def archive(
    *,
    masks: Annotated[Path, Parameter(help="Folder written by `predict` for the list.")],
    data: Annotated[Path, Parameter(help="VOC 2012 tree with the images and the list.")],
    split: Annotated[str, Parameter(help="The list; the server scores test.")] = "test",
    out: Annotated[Path, Parameter(help="The archive to write, such as results.tgz.")],
) -> None:
    """Check masks of VOC's test images and pack them for the evaluation server."""
    from ssrseg.prepare.voc_server import INSIDE, voc_archive

    result = voc_archive(masks, data, out, split=split)
    say(f"{result.images} masks packed as {INSIDE}/*.png in {result.path}.")


def _processors() -> int:
    """Those this process may use; a scheduler often grants fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
