"""The paper's figures from data and a model: choose images, compute, draw, write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from ssrseg.checkpoint import check_classes
from ssrseg.config import Config
from ssrseg.data.sample import LabelledImages
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.errors import ConfigError
from ssrseg.model import Rectifier
from ssrseg.paper.cam_comparison import CLIP_CAM, CMPA_CAM, PRIOR, SSR, UNMASKED, Closeup, closeups
from ssrseg.paper.embedding import CLIP, CMPA, Embedding, embed
from ssrseg.paper.facts import provenance, save_facts
from ssrseg.paper.grid import Figure, check_suffix, save_figure
from ssrseg.paper.image_choice import (
    CONFUSABLE,
    Choice,
    confusable,
    first_of_several,
    named,
    named_with_truth,
    one_per_class,
)
from ssrseg.paper.method_comparison import Part, compare
from ssrseg.paper.panels import cam_figure, qualitative_figure, refinement_figure
from ssrseg.paper.separation import silhouette
from ssrseg.prediction import load_segmenter
from ssrseg.pseudo_masks import load_trained_rectifier

Number = Literal[1, 3, 4, 5, 6]

ROWS, COLUMNS = 4, {1: (7,), 2: (4, 3)}
"""Images by default: rows of Figures 4 and 5; columns of Figure 3 by data sets, as in the paper."""

NEEDS_MODEL = {
    3: "shows the masks of a trained decoder",
    4: "holds CMPA's CAM beside CLIP's",
    6: "shows the features after CMPA",
}


MASKS = {"none": "no mask", "box": "box", "slic": "SGC", "box_and_slic": "box and SGC"}
"""Settings of ``affinity.mask`` as the figures call them."""


@dataclass(frozen=True)
class FigureSource:
    """A data set, the settings it is looked at with, and a trained run for its classes."""

    data: LabelledImages
    config: Config
    model: Path | None = None


@dataclass(frozen=True)
class FigureOptions:
    """What every figure may use.

    Attributes:
        images: Names of the images to show, with commas; None = the figure's own rule.
        rows: Other methods of Figure 3: folders of masks by name.
        cache: Folder of superpixels and features, to be shared between figures; None = no
            superpixels are kept, and features lie beside the figure.
        device: ``cpu`` or ``cuda``.
    """

    images: str | None = None
    rows: Mapping[str, Sequence[Path]] | None = None
    cache: Path | None = None
    device: str = "cpu"


def make_figure(
    number: Number,
    sources: Sequence[FigureSource],
    out: Path,
    options: FigureOptions,
    *,
    command: str = "",
) -> dict[str, Any]:
    """Make a figure of the paper, and a file of its numbers beside it.

    Args:
        number: Of the figure; Figure 2 is a drawing in the docs.
        sources: One data set, or two for Figure 3.
        out: The picture, .png, .jpg, .svg or .pdf; ``<name>.json`` gets the numbers.
        options: How.
        command: Said in the JSON.

    Returns:
        What the JSON holds, without where it comes from.

    Raises:
        ConfigError: If the suffix is unknown, or the figure needs a model and there is none.
        DataError: If images, masks or rows are missing or do not fit.
        CheckpointError: If a model does not fit the data.
    """
    check_suffix(out)
    for source in sources:
        if number in NEEDS_MODEL and source.model is None:
            raise ConfigError(
                f"Figure {number} {NEEDS_MODEL[number]}: give --model RUN, a run folder of `ssrseg"
                " train`."
            )
    if number == 3:
        figure, facts = _figure_3(sources, options)
    else:
        figure, facts = FIGURES[number](sources[0], out, options)
    save_figure(figure, out)
    made = [
        provenance(command, each.config, each.data, model=each.model, seed=0) for each in sources
    ]
    save_facts(out.with_suffix(".json"), made, {"figure": number, **facts})
    return facts


def _figure_1(
    source: FigureSource, out: Path, options: FigureOptions
) -> tuple[Figure, dict[str, Any]]:
    from ssrseg.paper.motivation import motivation_figure  # the figures without t-SNE
    from ssrseg.paper.scatter import cloud  # need no scikit-learn

    data, wanted = source.data, options.images
    choice = named_with_truth(data, wanted) if wanted else first_of_several(data)
    rectifier = _rectifier(source, options)
    (shown,) = closeups(rectifier, choice.shown, _superpixels(source, options))
    embedding = _embedding(rectifier, data, source, out, options)
    gap = cloud(embedding.spaces[CLIP], embedding)
    ours = "SSR" if source.model else "SSR without trained CMPA"
    figure = motivation_figure(shown, gap, data.classes, ours=ours)
    return figure, {
        **_chosen(choice),
        **_closeup_facts(shown, (CLIP_CAM, UNMASKED, SSR)),
        "masks": {name: asdict(shown.errors[name]) for name in (PRIOR, SSR)},
        "modality gap": {"pairs": len(embedding.classes), **asdict(gap.separation)},
    }


def _figure_3(
    sources: Sequence[FigureSource], options: FigureOptions
) -> tuple[Figure, dict[str, Any]]:
    parts = []
    for source, choice in zip(sources, _columns(sources, options.images), strict=True):
        assert source.model is not None
        if choice.shown:
            segmenter = load_segmenter(
                source.model, clip=source.config.backbones.clip, device=options.device
            )
            check_classes(segmenter.classes, source.data.classes, source.model)
            parts.append(Part(source.data, choice, replace(segmenter, config=source.config)))
    groups = compare(parts, options.rows or {})
    return qualitative_figure(groups), {
        "rows": {name: [str(f) for f in folders] for name, folders in (options.rows or {}).items()},
        "data sets": [_chosen(part.choice) for part in parts],
        "columns": [
            {
                "image": column.name,
                "labels": [column.class_names[index] for index in column.labels],
                "miou": column.miou,
            }
            for group in groups
            for column in group
        ],
    }


def _columns(sources: Sequence[FigureSource], wanted: str | None) -> list[Choice]:
    """The images of each data set; a name belongs to the first set that knows it."""
    if wanted is None:
        counts = COLUMNS[len(sources)]
        return [one_per_class(s.data, n) for s, n in zip(sources, counts, strict=True)]
    if len(sources) == 1:
        return [named(sources[0].data, wanted)]
    second = {sample.name for sample in sources[1].data.samples} - {
        sample.name for sample in sources[0].data.samples
    }
    entries = [entry.strip() for entry in wanted.split(",")]
    lists = ([e for e in entries if e not in second], [e for e in entries if e in second])
    return [
        named(source.data, ",".join(entries)) if entries else Choice((), "none named")
        for source, entries in zip(sources, lists, strict=True)
    ]


def _figure_4(
    source: FigureSource, out: Path, options: FigureOptions
) -> tuple[Figure, dict[str, Any]]:
    choice = named(source.data, options.images) if options.images else confusable(source.data, ROWS)
    shown = closeups(_rectifier(source, options), choice.shown, _superpixels(source, options))
    names = (CLIP_CAM, CMPA_CAM, PRIOR, SSR)
    readout, refinement = source.config.cam.readout, _refinement(source.config)
    return cam_figure(shown, readout, refinement), {
        "readout": readout,
        "refinement": refinement,
        **_chosen(choice),
        "rows": [_closeup_facts(each, names) for each in shown],
    }


def _refinement(config: Config) -> str:
    """Such as ``attention 0.4 : 0.6, slic``."""
    affinity = config.affinity
    if affinity.kind == "none" or affinity.power == 0:
        spread = "no propagation"
    elif affinity.kind == "kernel":
        spread = "kernel"
    else:
        spread = f"attention {affinity.clip_weight:g} : {affinity.dino_weight:g}"
    return f"{spread}, {MASKS[affinity.mask]}"


def _figure_5(
    source: FigureSource, out: Path, options: FigureOptions
) -> tuple[Figure, dict[str, Any]]:
    choice = (
        named(source.data, options.images) if options.images else one_per_class(source.data, ROWS)
    )
    shown = closeups(_rectifier(source, options), choice.shown, _superpixels(source, options))
    cam = "CMPA" if source.model else "CLIP"
    rows = [
        {
            **_closeup_facts(each, (CMPA_CAM, SSR), {CMPA_CAM: f"{cam} CAM"}),
            "target": None if each.target is None else float(each.target.float().mean()),
        }
        for each in shown
    ]
    facts = {"initial CAM": cam, "refinement": _refinement(source.config), **_chosen(choice)}
    return refinement_figure(shown, cam), {**facts, "rows": rows}


def _figure_6(
    source: FigureSource, out: Path, options: FigureOptions
) -> tuple[Figure, dict[str, Any]]:
    from ssrseg.paper.scatter import PERPLEXITY, SEED, tsne_figure

    data, rule = source.data, "all images of the split"
    if options.images:
        choice = named(data, options.images)
        samples = dict.fromkeys(each.sample for each in choice.shown)
        data, rule = replace(data, samples=tuple(samples)), choice.rule
    embedding = _embedding(_rectifier(source, options), data, source, out, options)
    figure, numbers = tsne_figure(embedding, data.classes)
    count = Counter(embedding.classes.tolist())
    return figure, {
        "images": embedding.images,
        "rule": rule,
        "pairs": {data.classes[index]: count[index] for index in sorted(count)},
        "spaces": {name: asdict(each) for name, each in numbers.items()},
        "silhouette of two classes": _pairwise(embedding, data.classes),
        "t-SNE": {"perplexity": PERPLEXITY, "seed": SEED, "metric": "cosine", "init": "pca"},
    }


FIGURES = {1: _figure_1, 4: _figure_4, 5: _figure_5, 6: _figure_6}


def _pairwise(embedding: Embedding, classes: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Silhouette in CLIP's space and in CMPA's, of two classes that are taken for each other."""
    found = {}
    index = {name: number for number, name in enumerate(classes)}
    there = set(embedding.classes.tolist())
    for pair in CONFUSABLE:
        ids = [index[name] for name in pair if name in index]
        if len(ids) == 2 and there >= set(ids) and " / ".join(pair[::-1]) not in found:
            chosen = torch.isin(embedding.classes, torch.tensor(ids))
            found[" / ".join(pair)] = {
                name: float(silhouette(space.image[chosen], embedding.classes[chosen]))
                for name, space in embedding.spaces.items()
                if name in (CLIP, CMPA)
            }
    return found


def _rectifier(source: FigureSource, options: FigureOptions) -> Rectifier:
    return load_trained_rectifier(source.config, source.data, source.model, device=options.device)


def _superpixels(source: FigureSource, options: FigureOptions) -> SuperpixelCache:
    sgc = source.config.sgc
    return SuperpixelCache(options.cache, n_segments=sgc.n_segments, compactness=sgc.compactness)


def _embedding(
    rectifier: Rectifier,
    data: LabelledImages,
    source: FigureSource,
    out: Path,
    options: FigureOptions,
) -> Embedding:
    return embed(rectifier, data, options.cache or out.parent, model=source.model)


def _chosen(choice: Choice) -> dict[str, Any]:
    return {"images": choice.names, "rule": choice.rule}


def _closeup_facts(
    shown: Closeup, names: Sequence[str], called: Mapping[str, str] | None = None
) -> dict[str, Any]:
    called = called or {}
    shares = {name: shown.shares[name] for name in names if name in shown.shares}
    return {
        "image": shown.name,
        "class": shown.class_name,
        "activation": {called.get(name, name): asdict(each) for name, each in shares.items()},
    }
