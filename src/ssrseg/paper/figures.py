"""The paper's figures from data and a model: choose images, compute, draw, write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from ssrseg.checkpoint import check_same_classes
from ssrseg.config import Config
from ssrseg.data.sample import LabelledImages
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.errors import ConfigError
from ssrseg.model import SSR
from ssrseg.paper import embedding, image_choice
from ssrseg.paper.cam_comparison import (
    CLIP_CAM,
    CMPA_CAM,
    OURS,
    PRIOR,
    UNMASKED,
    CamComparison,
    compare_cams,
)
from ssrseg.paper.drawing import (
    Figure,
    cam_figure,
    check_suffix,
    motivation_figure,
    qualitative_figure,
    refinement_figure,
    save_figure,
    tsne_figure,
)
from ssrseg.paper.embedding import CLIP, CMPA, UNTRAINED, Embedding
from ssrseg.paper.image_choice import ImageChoice
from ssrseg.paper.method_comparison import ComparedSet, compare_methods
from ssrseg.paper.provenance import provenance, save_facts
from ssrseg.paper.separation import separation, silhouette

Number = Literal[1, 3, 4, 5, 6]
Facts = dict[str, Any]

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
    rows: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    cache: Path | None = None
    device: str = "cpu"


def make_figure(
    number: Number,
    sources: Sequence[FigureSource],
    out: Path,
    options: FigureOptions,
    *,
    command: str = "",
) -> Facts:
    """Make a figure of the paper, and a file of its numbers beside it.

    Args:
        number: Of the figure; Figure 2 is a drawing in the docs.
        sources: One data set, or two for Figure 3.
        out: The picture, .png, .jpg, .svg or .pdf; ``NAME.json`` gets the numbers.
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
    if number in NEEDS_MODEL and any(source.model is None for source in sources):
        raise ConfigError(
            f"Figure {number} {NEEDS_MODEL[number]}: give --model RUN, a run folder of `ssrseg"
            " train`."
        )
    if number == 3:
        figure, facts = _figure_3(sources, options)
    else:
        figure, facts = FIGURES[number](_Job(sources[0], options, out))
    save_figure(figure, out)
    made = [
        provenance(command, each.config, each.data, model=each.model, seed=0) for each in sources
    ]
    save_facts(out.with_suffix(".json"), made, {"figure": number, **facts})
    return facts


@dataclass(frozen=True)
class _Job:
    """One figure of one data set."""

    source: FigureSource
    options: FigureOptions
    out: Path

    @cached_property
    def model(self) -> SSR:
        """Encoders and settings of the figure, with what the run has trained."""
        source = self.source
        return SSR.for_data(source.config, source.data, source.model, device=self.options.device)

    def choose(self, rule: Callable[[LabelledImages, int], ImageChoice]) -> ImageChoice:
        """The images that the user names, else those of a rule."""
        data, wanted = self.source.data, self.options.images
        return image_choice.named(data, wanted) if wanted else rule(data, ROWS)

    def compare_cams(self, choice: ImageChoice) -> list[CamComparison]:
        sgc, cache = self.source.config.sgc, self.options.cache
        superpixels = SuperpixelCache.of(cache, sgc)
        return compare_cams(self.model, choice.shown, superpixels)

    def embed(self, data: LabelledImages) -> Embedding:
        folder = self.options.cache or self.out.parent
        return embedding.embed(self.model, data, folder, run=self.source.model)


def _figure_1(job: _Job) -> tuple[Figure, Facts]:
    embedding.import_tsne()  # says that it is missing before minutes of work
    data, wanted = job.source.data, job.options.images
    if wanted:
        choice = image_choice.named_with_truth(data, wanted)
    else:
        choice = image_choice.first_of_several(data)
    (shown,) = job.compare_cams(choice)
    features = job.embed(data)
    gap = embedding.plane(features.spaces[CLIP], features.classes)
    ours = "SSR" if job.source.model else "SSR without trained CMPA"
    return motivation_figure(shown, gap, data.classes, ours=ours), {
        **_chosen(choice),
        **_activation(shown, (CLIP_CAM, UNMASKED, OURS)),
        "masks": {name: asdict(shown.errors[name]) for name in (PRIOR, OURS)},
        "modality gap": {"pairs": len(features.classes), **asdict(gap.separation)},
    }


def _figure_3(sources: Sequence[FigureSource], options: FigureOptions) -> tuple[Figure, Facts]:
    sets = []
    for source, choice in zip(sources, _columns(sources, options.images), strict=True):
        assert source.model is not None
        if choice.shown:
            clip = source.config.backbones.clip
            model = SSR.from_pretrained(
                source.model, clip=clip, segment_only=True, device=options.device
            )
            check_same_classes(model.classes, source.data.classes, source.model)
            config = replace(source.config, backbones=model.config.backbones)
            sets.append(ComparedSet(source.data, choice, model.with_config(config)))
    groups = compare_methods(sets, options.rows)
    return qualitative_figure(groups), {
        "rows": {name: [str(f) for f in folders] for name, folders in options.rows.items()},
        "data sets": [_chosen(each.choice) for each in sets],
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


def _columns(sources: Sequence[FigureSource], wanted: str | None) -> list[ImageChoice]:
    """The images of each data set; a name belongs to the first set that knows it."""
    if wanted is None:
        counts = COLUMNS[len(sources)]
        pairs = zip(sources, counts, strict=True)
        return [image_choice.one_per_class(each.data, count) for each, count in pairs]
    if len(sources) == 1:
        return [image_choice.named(sources[0].data, wanted)]
    first, second = ({sample.name for sample in each.data.samples} for each in sources)
    entries = [entry.strip() for entry in wanted.split(",")]
    of_second = [entry for entry in entries if entry in second - first]
    of_first = [entry for entry in entries if entry not in of_second]
    return [
        image_choice.named(each.data, ",".join(own)) if own else ImageChoice((), "none named")
        for each, own in zip(sources, (of_first, of_second), strict=True)
    ]


def _figure_4(job: _Job) -> tuple[Figure, Facts]:
    choice = job.choose(image_choice.confusable)
    shown = job.compare_cams(choice)
    readout, refinement = job.source.config.cam.readout, _refinement(job.source.config)
    return cam_figure(shown, readout, refinement), {
        "readout": readout,
        "refinement": refinement,
        **_chosen(choice),
        "rows": [_activation(each, (CLIP_CAM, CMPA_CAM, PRIOR, OURS)) for each in shown],
    }


def _figure_5(job: _Job) -> tuple[Figure, Facts]:
    choice = job.choose(image_choice.one_per_class)
    shown = job.compare_cams(choice)
    cam = "CMPA" if job.source.model else "CLIP"
    rows = [
        {
            **_activation(each, (CMPA_CAM, OURS), {CMPA_CAM: f"{cam} CAM"}),
            "target": None if each.target is None else float(each.target.float().mean()),
        }
        for each in shown
    ]
    facts = {"initial CAM": cam, "refinement": _refinement(job.source.config), **_chosen(choice)}
    return refinement_figure(shown, cam), {**facts, "rows": rows}


def _refinement(config: Config) -> str:
    """Such as ``attention 0.4 : 0.6, SGC``."""
    affinity = config.affinity
    if affinity.kind == "none" or affinity.power == 0:
        spread = "no propagation"
    elif affinity.kind == "kernel":
        spread = "kernel"
    else:
        other = affinity.dino_kind == "features" and affinity.dino_weight
        what = "attention and DINO's features" if other else "attention"
        spread = f"{what} {affinity.clip_weight:g} : {affinity.dino_weight:g}"
    return f"{spread}, {MASKS[affinity.mask]}"


def _figure_6(job: _Job) -> tuple[Figure, Facts]:
    embedding.import_tsne()
    data, rule = job.source.data, "all images of the split"
    if job.options.images:
        choice = image_choice.named(data, job.options.images)
        samples = dict.fromkeys(each.sample for each in choice.shown)
        data, rule = replace(data, samples=tuple(samples)), choice.rule
    features = job.embed(data)
    classes, spaces = features.classes, features.spaces
    planes = {name: embedding.plane(spaces[name], classes) for name in (CLIP, CMPA)}
    numbers = {name: each.separation for name, each in planes.items()}
    if UNTRAINED in spaces:
        numbers[UNTRAINED] = separation(spaces[UNTRAINED].image, classes, spaces[UNTRAINED].text)
    count = Counter(classes.tolist())
    tsne = {"perplexity": embedding.PERPLEXITY, "seed": embedding.SEED}
    return tsne_figure(planes, data.classes, numbers.get(UNTRAINED)), {
        "images": features.images,
        "rule": rule,
        "pairs": {data.classes[index]: count[index] for index in sorted(count)},
        "spaces": {name: asdict(each) for name, each in numbers.items()},
        "silhouette of two classes": _pairwise(features, data.classes),
        "t-SNE": {**tsne, "metric": "cosine", "init": "pca"},
    }


FIGURES = {1: _figure_1, 4: _figure_4, 5: _figure_5, 6: _figure_6}


def _pairwise(features: Embedding, classes: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Silhouette in CLIP's space and in CMPA's, of two classes that are taken for each other."""
    found: dict[str, dict[str, float]] = {}
    index = {name: number for number, name in enumerate(classes)}
    there = set(features.classes.tolist())
    for pair in image_choice.CONFUSABLE:
        ids = [index[name] for name in pair if name in index]
        if len(ids) == 2 and there >= set(ids) and " / ".join(pair[::-1]) not in found:
            chosen = torch.isin(features.classes, torch.tensor(ids))
            found[" / ".join(pair)] = {
                name: float(silhouette(space.image[chosen], features.classes[chosen]))
                for name, space in features.spaces.items()
                if name in (CLIP, CMPA)
            }
    return found


def _chosen(choice: ImageChoice) -> Facts:
    return {"images": choice.names, "rule": choice.rule}


def _activation(
    shown: CamComparison, names: Sequence[str], called: Mapping[str, str] | None = None
) -> Facts:
    """Where the activation of some CAMs lies, under their names or others."""
    called = called or {}
    shares = {called.get(name, name): shown.shares.get(name) for name in names}
    activation = {name: asdict(each) for name, each in shares.items() if each is not None}
    return {"image": shown.name, "class": shown.class_name, "activation": activation}
