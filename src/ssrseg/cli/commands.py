"""The everyday commands: try, mask, train, predict, score, look after the machine."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter, validators

from ssrseg.cli.app import (
    ENCODERS,
    EVERYDAY,
    METHOD,
    SPEED,
    Count,
    DataFolder,
    DataSetup,
    Device,
    Encoders,
    Method,
    Place,
    SourceSetup,
    Split,
    command,
    load_settings,
    open_data,
    whole,
)
from ssrseg.cli.shards import Spread, echo_merged, make_in_shards
from ssrseg.console import echo, note, print_table, show
from ssrseg.errors import ConfigError, SSRError, counted
from ssrseg.interruption import Interrupted
from ssrseg.launch import place
from ssrseg.serving.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssrseg.data.sample import LabelledImages
    from ssrseg.prediction import PredictResult
    from ssrseg.pseudo_masks import MasksResult
    from ssrseg.scale.sources import Source


@command(EVERYDAY)
def demo(*, out: Path = Path("demo-run"), seeds: Count = 1, device: Device = "auto") -> None:
    """Try it offline: masks of photographs; train on drawn scenes, segment new ones; report.

    Args:
        out: Folder for data, run and report.
        seeds: Repeat on fresh scenes; show mean and spread.
    """
    from ssrseg.demo.run import run_demo

    report = run_demo(out, seeds=seeds, device=device)
    echo(report.table)
    echo(f"Report: {report.page}")


@command(EVERYDAY)
def check(
    data: DataFolder,
    *,
    split: Split = None,
    method: Method = Method(),
    encoders: Encoders = Encoders(),
    write: Path | None = None,
    device: Device = "auto",
) -> int:
    """Look at labelled images first: what to mend, and what the work will take here.

    Args:
        write: Also write the labels as a clean labels.csv, with a classes.yaml to edit beside it.
    """
    config = load_settings(method, encoders)
    images = open_data(data, split)
    from ssrseg.cli.check_report import print_check, refuse_to_replace, write_clean
    from ssrseg.data.open import open_labelled
    from ssrseg.device import pick_device

    if write is not None:
        refuse_to_replace(write)
    whole = images if split in (None, "all") else open_labelled(data)
    code = print_check(images, data, config, pick_device(device), whole=whole)
    if write is not None:
        write_clean(images, config, write)
    return code


_ALONE = Spread()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Files:
    """What is written beside the masks, and what becomes of files in the way, or faulty."""

    confidence: bool = False
    """Also write confidence/NAME.png: how sure each pixel is, grey, 255 = 1."""
    csv: bool = False
    """Also write areas.csv: pixels, share and mean confidence of each class in each image; with
    --confidence, which it needs."""
    overwrite: bool = False
    """Make everything anew that is there already, also masks corrected or accepted by hand."""
    strict: bool = False
    """Stop at the first image that cannot be used. Default: go on, and list it."""
    report: Annotated[bool, Parameter(negative_bool="no-")] = True
    """Write report.html, a page to look at all masks, the worst first."""
    spread: Spread = _ALONE

    def options(self) -> dict[str, Any]:
        """As functions take them."""
        given = vars(self) | {"confidence": self.confidence or self.csv}
        return {name: value for name, value in given.items() if name not in ("csv", "spread")}

    def options_of_shards(self) -> dict[str, Any]:
        """The same, where masks are made in shards; ConfigError for what these do not take."""
        if self.csv:
            raise ConfigError(
                "--csv is written of all masks together. Leave it out, and write it after the"
                " merge: ssrseg export OUT --to csv"
            )
        return {name: value for name, value in self.options().items() if name != "report"}


@command(EVERYDAY)
def masks(*, setup: SourceSetup, out: Place, files: Files = Files()) -> int:
    """Make pseudo masks of images from their labels.

    Args:
        out: Gets masks/, cams/, classes.txt, manifest.csv, report.html; run again to resume, or
            with other settings pseudo.* for other masks from the same CAMs.
    """
    config = setup.settings()
    data, split = Path(setup.data), setup.split
    model, cache, device = setup.model, setup.cache, setup.device
    if files.spread.is_wanted(setup.data, out):
        from ssrseg.scale.packed import is_beyond_a_folder
        from ssrseg.scale.sources import listed, open_source
        from ssrseg.scale.work import FromLabels

        far = is_beyond_a_folder(setup.data)
        source = open_source(setup.data, setup.split) if far else listed(_open(data, split))
        work = FromLabels(
            config, model=model, cache=cache, device=device, **files.options_of_shards()
        )
        return make_in_shards(work, source, out, files.spread, report=files.report)
    images = _open(data, split)
    from ssrseg.pseudo_masks import make_masks

    result = make_masks(
        images, out, config, model=model, cache=cache, device=device, **files.options()
    )
    return _echo_written(result, result.from_kept_cams, csv=files.csv)


TRAINING = Parameter(group=Group("Training", sort_key=1))
FromZero = Annotated[int, Parameter(converter=whole, validator=validators.Number(gte=0))]


@command(EVERYDAY)
def train(
    *,
    setup: DataSetup,
    out: Path,
    supervision: Annotated[Literal["labels", "full"], TRAINING] = "labels",
    monitor: Annotated[FromZero, TRAINING] = 0,
    stop_after: Annotated[Count | None, TRAINING] = None,
    strict: Annotated[bool, TRAINING] = False,
    tensorboard: Annotated[bool, TRAINING] = False,
) -> int:
    """Train a segmentation model from image-level labels.

    Args:
        out: Run folder; run the same command again to resume.
        supervision: labels: SSR. full: the same decoder on true masks, the control of Table 6.
        monitor: Score the pseudo masks of so many images that have true masks. Default: of none.
        stop_after: Stop when so many iterations of the whole run are finished.
        strict: Do not train without images that cannot be used. Default: leave them out.
        tensorboard: Also write the curves of log.csv for TensorBoard, into tensorboard/ of the run.
    """
    found = place()
    if found is None:
        return _train(setup, out, supervision, monitor, stop_after, strict, tensorboard)
    from ssrseg.processes import started

    with started(setup.device) as first_to_fail:
        try:
            return _train(setup, out, supervision, monitor, stop_after, strict, tensorboard)
        except SSRError:
            if not first_to_fail():
                sys.exit(2)  # another process has said why, or more
            raise
        except Interrupted as stopped:
            if found.rank:
                sys.exit(128 + stopped.signum)  # the first one says it
            raise


def _train(
    setup: DataSetup,
    out: Path,
    supervision: Literal["labels", "full"],
    monitor: int,
    stop_after: int | None,
    strict: bool,
    tensorboard: bool,
) -> int:
    config = setup.settings()
    images = _open(setup.data, setup.split)
    from ssrseg.failures import EXIT_CODE
    from ssrseg.training import train

    if tensorboard:
        note(f"To watch it: tensorboard --logdir {out}")
    known = tuple(each for each in images.samples if each.truth is not None)[:monitor]
    if monitor and not known:
        note(f"--monitor {monitor}: no image of {setup.data} has a true mask; nothing is scored.")
    result = train(
        images,
        out,
        config,
        supervision=supervision,
        monitor=replace(images, samples=known) if known else None,
        stop_after=stop_after,
        strict=strict,
        cache=setup.cache,
        device=setup.device,
        tensorboard=tensorboard,
    )
    if result.finished:
        file = result.run / "model.safetensors"
        echo(f"Finished: {file}. Next: ssrseg predict --model {out} ...")
        echo(f"Look at it: {result.run / 'report.html'}")
    else:
        echo(
            f"Stopped after {result.iteration} iterations of {result.total}, as --stop-after asks;"
            " without it the same command goes on to the end."
        )
    return EXIT_CODE if result.failures else 0


def _open(data: Path, split: str | None) -> LabelledImages:
    from ssrseg.data.describe import describe_labels

    images = open_data(data, split)
    for line in describe_labels(images):
        note(line)
    return images


def _echo_written(
    result: MasksResult | PredictResult, from_kept_cams: int = 0, *, csv: bool = False
) -> int:
    """What was made, what was not, and what to look at first; the exit code."""
    from ssrseg.failures import EXIT_CODE, describe_failures
    from ssrseg.review import describe_reviews

    done = f"{counted(result.written, 'mask', 'masks')} written to {result.out / 'masks'}"
    there = counted(result.skipped, "was", "were")
    echo(f"{done} in {result.seconds:.0f} s, {there} there already.")
    if from_kept_cams:
        echo(f"{counted(from_kept_cams, 'mask', 'masks')} of these from kept CAMs.")
    if result.renewed:
        masks = counted(result.renewed, "mask", "masks")
        echo(f"{masks} of these made anew: the photograph or its labels had changed.")
    if result.corrected:
        masks = counted(len(result.corrected), "mask was", "masks were")
        first = ", ".join(result.corrected[:5]) + (", ..." if result.corrected[5:] else "")
        echo(f"{masks} corrected or accepted by hand and left alone: {first}.")
    for line in describe_failures(result.out, result.failures):
        echo(line)
    if (page := result.out / "report.html").is_file():
        echo(f"Look at them: {page}")
    if csv and result.written + result.skipped:
        from ssrseg.export.run import export_masks

        table = result.out / "areas.csv"
        export_masks(result.out, "csv", table)
        echo(f"Areas and confidence of each class: {table}")
    for line in describe_reviews(result.out, result.reviews):
        echo(line)
    return EXIT_CODE if result.failures else 0


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Images:
    """Images whose labels are not needed."""

    images: Place | None = None
    """One image or a folder of images; or give --data."""
    data: Place | None = None
    """Data set instead of --images; its labels are not needed."""
    split: Split = None

    @property
    def where(self) -> Path | str | None:
        """What is given of the two."""
        return self.data if self.images is None else self.images

    def open(self) -> Path | str | dict[str, Path]:
        """What is to be segmented."""
        from ssrseg.data.open import open_images
        from ssrseg.errors import DataError

        if self.images is not None and self.data is None and self.split is None:
            return self.images
        if self.data is not None and self.images is None:
            return open_images(self.data, split=self.split)
        raise DataError(
            "predict needs either --images (a file or folder) or --data (a data set, of which"
            " --split names a list): give exactly one of the two."
        )

    def source(self, out: Path | str) -> Source:
        """The same by shards; ``out`` holds results, which are no images."""
        from ssrseg.prediction import samples_of
        from ssrseg.scale.packed import is_beyond_a_folder
        from ssrseg.scale.place import is_address
        from ssrseg.scale.sources import open_source, unlabelled

        if self.where is not None and is_beyond_a_folder(self.where):
            if None not in (self.images, self.data):
                self.open()  # says that this is one too many
            return open_source(self.where, self.split, labels=False)
        own = Path(out) if not is_address(out) else Path(".no-results-here")
        return unlabelled(samples_of(self.open(), own))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A model to segment with."""

    model: str
    """Run folder of `ssrseg train`, its model.safetensors, or a hub id."""
    clip: Annotated[str | None, Parameter(group=ENCODERS)] = None
    """CLIP of the model: hub id or folder, if it has moved."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Reading:
    """How images are read, where it is not as the model's settings say."""

    value_range: Annotated[tuple[float, float] | None, Parameter(name="--range", group=METHOD)] = (
        None
    )
    """Black and white of photographs of more than 8 bits, such as 0 4095. Default: as the model's
    settings say, else by the file."""
    bands: Annotated[tuple[int, int, int] | None, Parameter(group=METHOD)] = None
    """Which bands of files are red, green and blue, from 1, such as 4 3 2."""
    tile: Annotated[int | Literal["none", "auto"] | None, Parameter(group=METHOD)] = None
    """Tiles of large images: none, auto, or their side in pixels (data.tile)."""


@command(EVERYDAY)
def predict(
    *,
    trained: TrainedModel,
    images: Images = Images(),
    out: Place,
    files: Files = Files(),
    crf: Annotated[bool | None, Parameter(group=METHOD, negative_bool="no-")] = None,
    reading: Reading = Reading(),
    device: Device = "auto",
) -> int:
    """Segment images with a trained model; no labels needed.

    Args:
        out: Gets masks/, classes.txt, manifest.csv, report.html; run again to resume.
        crf: Refine with a DenseCRF. Default: as the model's settings say.
    """
    model, clip = trained.model, trained.clip
    how = {"crf": crf, **vars(reading)}
    if files.spread.is_wanted(images.where, out):
        from ssrseg.scale.work import ByModel

        work = ByModel(model, clip, device, options=how, **files.options_of_shards())
        return make_in_shards(work, images.source(out), out, files.spread, report=files.report)
    chosen = images.open()
    from ssrseg.prediction import predict

    result = predict(chosen, out, model, clip=clip, device=device, **how, **files.options())
    return _echo_written(result, csv=files.csv)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server listens."""

    port: Annotated[
        int, Parameter(converter=whole, validator=validators.Number(gte=0, lte=65535))
    ] = 8000
    """0 = any that is free."""
    host: str = "127.0.0.1"
    """0.0.0.0 = every address of this machine: there is no authentication."""


@Parameter(name="*", group=SPEED)
@dataclass(frozen=True, kw_only=True)
class ServerLimits(Limits):
    """What a server takes at most, and how many photographs it sees at once."""


@command(EVERYDAY)
def serve(
    model: str,
    /,
    *,
    address: Address = Address(),
    clip: Annotated[str | None, Parameter(group=ENCODERS)] = None,
    crf: Annotated[bool | None, Parameter(group=METHOD, negative_bool="no-")] = None,
    reading: Reading = Reading(),
    limits: ServerLimits = ServerLimits(),
    device: Device = "auto",
) -> None:
    """Answer images with their masks over HTTP, by a trained model.

    Args:
        model: Run folder of `ssrseg train`, its model.safetensors, or a hub id.
        clip: CLIP of the model: hub id or folder, if it has moved.
        crf: Refine with a DenseCRF. Default: as the model's settings say.
    """
    from ssrseg.serving.start import serve_model

    options = {"clip": clip, "crf": crf, "device": device, **vars(reading)}
    serve_model(model, address.port, address.host, limits=limits, **options)


@command(EVERYDAY)
def report(folder: Path, /, *, images: Path | None = None) -> None:
    """Write report.html of masks anew, as after corrections by hand.

    Args:
        folder: Written by `masks` or `predict`.
        images: Folder of the photographs, if they are not where manifest.csv says.
    """
    from ssrseg.report.masks import write_masks_report

    echo(f"Report: {write_masks_report(folder, images=images)}")


@Parameter(name="*", group=ENCODERS)
@dataclass(frozen=True, kw_only=True)
class FolderEncoders:
    """Encoders that make masks of corrected labels, if not where the masks' settings say."""

    model: Path | None = None
    """Run folder that the masks were made with, if they were made with one."""
    clip: str | None = None
    """CLIP: hub id or folder."""
    dino: str | None = None
    """DINO, DINOv2 or DINOv3: hub id or folder."""
    device: Device = "auto"


@command(EVERYDAY)
def review(
    folder: Path,
    /,
    *,
    images: Path | None = None,
    port: Annotated[
        int, Parameter(converter=whole, validator=validators.Number(gte=0, lte=65535))
    ] = 8765,
    labelstudio: Path | None = None,
    encoders: FolderEncoders = FolderEncoders(),
) -> None:
    """Accept, reject and correct masks on a page of this machine, the most doubtful first.

    Args:
        folder: Written by `masks` or `predict`.
        images: Folder of the photographs, if they are not where manifest.csv says.
        port: Of 127.0.0.1; 0 = any that is free.
        labelstudio: Label Studio's JSON export of a project that began with `export --to
            labelstudio`: its masks are taken over first, as accepted ones.
    """
    from ssrseg.reviewing.encoders import EncoderOptions
    from ssrseg.reviewing.serve import serve_review

    where = EncoderOptions(**vars(encoders))
    left = serve_review(folder, port, images=images, labelstudio=labelstudio, encoders=where)
    echo(
        f"{left.accepted:,} accepted, {left.rejected:,} rejected, {left.open:,} to do. Next: ssrseg"
        f" export {folder} --to ... --only accepted"
    )


@command(EVERYDAY)
def evaluate(
    *, masks: Path, data: DataFolder, split: Split = None, json: Path | None = None
) -> None:
    """Score masks against true masks: mIoU and more, per class.

    Args:
        masks: Folder written by `masks` or `predict`.
        json: Also write the figures to this file.
    """
    images = open_data(data, split)
    # after the labels were read: it imports torch
    from ssrseg.evaluation import class_figures, evaluate, save_evaluation

    result = evaluate(masks, images)
    scores, rows = result.scores, []
    for name, each in class_figures(scores, result.classes, result.images).items():
        shares = (percent(each[figure]) for figure in ("iou", "precision", "recall"))
        ratio = each["confusion_ratio"]
        rows.append((name, str(each["images"]), *shares, "-" if ratio is None else f"{ratio:.3f}"))
    print_table(("class", "images", "IoU", "precision", "recall", "confusion"), rows, numbers=True)
    echo(
        f"mIoU {percent(scores.miou)}   precision {percent(scores.precision)}   recall"
        f" {percent(scores.recall)}   confusion ratio {scores.confusion_ratio:.3f}"
    )
    echo(
        f"{result.scored:,} of {counted(result.total, 'image', 'images')} scored"
        + ("; the others have no true mask." if result.scored < result.total else ".")
    )
    if result.undecided:
        echo(
            f"{percent(result.undecided)} % of the pixels are undecided (255) and count as missed."
        )
    if scores.classes_without_hit:
        echo(
            f"{counted(scores.classes_without_hit, 'class', 'classes')} without a hit and thus no"
            " confusion ratio: the mean over the others flatters."
        )
    if json is not None:
        save_evaluation(result, json)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Masks to look at."""

    overlays: bool = False
    """Also write overlays/NAME.jpg, each mask over its photograph."""
    sheet: bool = False
    """Also write contact sheets; images with the lowest score come first."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What only masks take, and only some formats of them."""

    only: Literal["accepted", "not-rejected"] | None = None
    """What was accepted in `ssrseg review`, or all that was not rejected. Default: all."""
    tolerance: float | None = None
    """yolo, labelme: pixels that a polygon may be from the border of its region. Default: 0, and
    for labelme 1."""
    url_prefix: str | None = None
    """labelstudio: what stands before the path of a photograph. Default: local files."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What only a model takes."""

    int8: bool = False
    """onnx: also write a model whose matrices are of 8 bits, and measure what that costs."""
    repo: str | None = None
    """hub: also upload it, as NAME/MODEL; log in first (hf auth login)."""
    private: bool = False
    """hub: a repository that is made is for you alone."""
    license: str | None = None
    """hub: licence of the model, such as mit. Default: the card says that none is stated."""
    scores: Path | None = None
    """hub: figures for the card, a file written by `evaluate --json`."""
    clip: str | None = None
    """hub: hub id of CLIP, where training had a folder of this machine."""
    dino: str | None = None
    """hub: the same for DINO."""


# the other formats are of masks, and take what is not here, and images
_OPTIONS_OF_MODELS = {
    "onnx": ("int8", "images"),
    "hub": ("repo", "private", "license", "scores", "clip", "dino"),
}


@command(EVERYDAY)
def export(
    source: Path,
    *,
    to: Literal[
        "voc",
        "coco",
        "yolo",
        "labelstudio",
        "cvat",
        "labelme",
        "geotiff",
        "geojson",
        "csv",
        "onnx",
        "hub",
    ]
    | None = None,
    out: Path | None = None,
    images: Path | None = None,
    pictures: Pictures = Pictures(),
    options: ExportOptions = ExportOptions(),
    model: ModelOptions = ModelOptions(),
) -> int:
    """Write masks for another program, a label tool, a trainer, a spreadsheet; or a trained model.

    Args:
        source: Folder written by `masks` or `predict`; or masks and classes.txt of your own. For
            onnx and hub: run folder of `train`.
        to: Format. Without it, pictures only.
        out: Folder (csv, onnx: or file). Default: export/FORMAT beside the masks, or in the run.
        images: Folder of the photographs, if they are not where manifest.csv says. For onnx: some
            to compare its masks with torch's on.
    """
    _refuse_options(to, {"images": images, **vars(pictures), **vars(options), **vars(model)})
    if to == "onnx":
        from ssrseg.export.onnx_file import describe_onnx, export_onnx

        for line in describe_onnx(export_onnx(source, out, images=images, int8=model.int8)):
            echo(line)
        return 0
    if to == "hub":
        return _to_hub(source, out, model)
    from ssrseg.export.run import export_masks
    from ssrseg.failures import EXIT_CODE

    result = export_masks(source, to, out, images=images, **vars(pictures), **vars(options))
    echo(
        f"{counted(result.written, 'mask', 'masks')} written to {result.out}. {result.then}".strip()
    )
    if result.turned:
        note(
            f"{counted(result.turned, 'photograph was', 'photographs were')} saved upright: some"
            " programs do not honour the orientation in their EXIF data."
        )
    if result.changed:
        first = ", ".join(result.changed[:5]) + (", ..." if result.changed[5:] else "")
        note(
            f"{counted(len(result.changed), 'photograph has', 'photographs have')} changed since"
            f" the mask was made: {first}."
        )
    if result.failures:
        echo(f"{counted(len(result.failures), 'image is', 'images are')} left out:")
        for failure in result.failures:
            echo(f"  {failure.name}: {failure.reason}")
    return EXIT_CODE if result.failures else 0


def _to_hub(source: Path, out: Path | None, options: ModelOptions) -> int:
    from ssrseg.export.hub import export_to_hub

    given = {name: vars(options)[name] for name in _OPTIONS_OF_MODELS["hub"]}
    found = export_to_hub(source, out, **given)
    echo(f"Model and card written to {found.folder}. Read its README.md.")
    if found.url is not None:
        echo(f"Uploaded: {found.url}")
    else:
        echo(f"To upload it: hf upload NAME/MODEL {found.folder}, or here with --repo NAME/MODEL.")
    return 0


def _refuse_options(to: str | None, given: Mapping[str, object]) -> None:
    """Raise ConfigError for an option that belongs to models where masks go, or the other way."""
    from ssrseg.errors import ConfigError

    of_models = {name for names in _OPTIONS_OF_MODELS.values() for name in names} - {"images"}
    taken = _OPTIONS_OF_MODELS.get(to or "", given.keys() - of_models)
    for name, value in given.items():
        if value not in (None, False) and name not in taken:
            takers = [key for key, names in _OPTIONS_OF_MODELS.items() if name in names]
            option = "--" + name.replace("_", "-")
            raise ConfigError(
                f"{option} is an option of {', '.join(takers) or 'the formats of masks'}, not of"
                f" {to or 'pictures'}. Leave it out."
            )


def percent(share: float | None) -> str:
    """``48.6`` for 0.486; a dash where there is nothing to measure."""
    return "-" if share is None else f"{100 * share:.1f}"


@command(EVERYDAY)
def merge(out: Place, /, *, report: Annotated[bool, Parameter(negative_bool="no-")] = True) -> int:
    """Join the shards that `masks --shard` or `predict --shard` has made, after checking them all.

    Args:
        out: What was given as --out to all of them.
        report: Write report.html, a page to look at all masks, the worst first.
    """
    return echo_merged(out, report=report)


@command(EVERYDAY)
def doctor(*, method: Method = Method(), encoders: Encoders = Encoders()) -> int:
    """Check this machine and the encoders; say what to mend."""
    config = load_settings(method, encoders)
    from ssrseg.doctor import examine

    return show(examine(config))


@command(EVERYDAY)
def config(*, method: Method = Method()) -> None:
    """List every setting, its value, and what it means."""
    from ssrseg.config import describe

    values = load_settings(method).to_dict()
    keys = [(*key.split("."), meaning) for key, _, meaning in describe()]
    rows = [(f"{part}.{name}", str(values[part][name]), text) for part, name, text in keys]
    print_table(("setting", "value", "meaning"), rows)
