"""Every setting: meaning, unit, range, source. Presets are YAML files of what differs from here.

The defaults are preset ``ssr``. Numbers in brackets are those of docs/decisions.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from reprlib import repr as brief
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
)
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError, to_jsonable_python

from ssrseg.errors import ConfigError, did_you_mean
from ssrseg.safe_yaml import YamlError, dump_yaml, parse_yaml, read_yaml


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("bool", "Input should be a number, not true or false")
    return value


_Float = Annotated[float, BeforeValidator(_number), Field(le=1e6, allow_inf_nan=False)]
Share = Annotated[_Float, Field(ge=0, le=1)]
Positive = Annotated[_Float, Field(gt=0)]
NotNegative = Annotated[_Float, Field(ge=0)]
Zoom = Annotated[_Float, Field(ge=0.01, le=10)]
Count = Annotated[int, BeforeValidator(_number), Field(ge=1, le=10**9)]
CountOrZero = Annotated[int, BeforeValidator(_number), Field(ge=0, le=10**9)]
# what allocates memory or takes time ends where no machine that is in use goes
Side = Annotated[Count, Field(ge=32, le=4096)]  # of a picture: a single patch has no CAM
Distances = Annotated[
    tuple[Annotated[Count, Field(le=4096)], ...], Field(min_length=1, max_length=100)
]
Few = Annotated[Count, Field(le=64)]
Width = Annotated[Count, Field(le=4096)]
Rounds = Annotated[CountOrZero, Field(le=1000)]
Index = Annotated[int, BeforeValidator(_number), Field(ge=-1000, le=1000)]
Indices = Annotated[tuple[Index, ...], Field(min_length=1, max_length=1000)]
Layers = Annotated[
    Annotated[Index, Tag("number")] | Annotated[Indices, Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, (list, tuple)) else "number"),
]
Tile = Annotated[
    Annotated[Literal["none", "auto"], Tag("word")] | Annotated[Side, Tag("number")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "number"),
]
Band = Annotated[Count, Field(le=10_000)]
Crf = tuple[Positive, NotNegative, Positive, Positive, NotNegative]
Text = Annotated[str, Field(max_length=4096)]

Finite = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]


def _black_below_white(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] >= values[1]:
        raise ValueError("the first value (black) must be less than the second (white)")
    return values


def _smallest_first(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] > values[1]:
        raise ValueError("the first value (smallest) must not exceed the second (largest)")
    return values


Zooms = Annotated[tuple[Zoom, Zoom], AfterValidator(_smallest_first)]
BlackAndWhite = Annotated[tuple[Finite, Finite], AfterValidator(_black_below_white)]

_SHOWN = 10  # faults in one message

PRESETS = Path(__file__).with_name("presets")
STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)

SPEED_KEYS = frozenset({"data.workers", "data.patches", "optim.save_every", "optim.features_gb"})
"""Settings that say how fast and not what: a run goes on under other values. No checkpoint holds
them but ``data.patches``, on which the last digits depend."""

BY_CONTENT = frozenset({"backbones.clip", "backbones.dino", "prompts.set"})
"""Settings that name something that counts by what is in it, wherever it lies."""


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """How images enter training."""

    crop: Side = 320
    """Side of a training crop in pixels, less what is no whole patch [WeCLIP]."""
    scale: Zooms = (0.5, 2.0)
    """Random resize before the crop, smallest and largest factor [WeCLIP]."""
    flip: bool = True
    """Mirror half of the crops."""
    norm: Literal["clip", "imagenet"] = "clip"
    """Mean and deviation of CLIP's input: its own, or ImageNet's, as WeCLIP feeds it."""
    max_side: Side = 640
    """Larger photographs are shrunk to this longer side before CAMs are made, and their masks
    enlarged again, unless they are cut into tiles; VOC and COCO images are not larger [our
    choice]."""
    tile: Tile = "auto"
    """Side in pixels of the tiles in which larger images are masked and segmented; none = no image
    is cut. auto = what is georeferenced, and what is longer than 6,000 pixels and not exposed by a
    camera, is cut into tiles that need not be shrunk; of other images the whole is seen [0041]."""
    tile_overlap: Annotated[Share, Field(le=0.5)] = 0.25
    """Share of its side that a tile has in common with the next, at least."""
    range: BlackAndWhite | None = None
    """Black and white, such as [0, 4095], of photographs whose samples are not unsigned integers of
    at most 8 bits; null = by the file, or stretched, which is said."""
    bands: tuple[Band, Band, Band] | None = None
    """Which bands of files are red, green and blue, counted from 1, such as [4, 3, 2]; null = the
    colours that the file names, or its only three."""
    workers: Annotated[CountOrZero, Field(le=256)] | None = None
    """Threads that read photographs, and processes that load crops, beside the encoders; 0 loads in
    between; null = one thread and no process on a CPU, eight of each on a GPU, if it has as many
    processors."""
    patches: Count | None = None
    """Patches of photographs seen together when CAMs are made; null = 1,024 on a CPU; on a GPU the
    power of two up to 65,536 that half of its free memory takes."""


@dataclass(frozen=True, config=STRICT)
class BackboneConfig:
    """The frozen encoders: hub ids, or directories written by ``save_pretrained``."""

    clip: Text = "openai/clip-vit-base-patch16"
    """CLIP, image and text tower: any in the hub's layout, OpenAI's, LAION's or DataComp's."""
    dino: Text = "facebook/dino-vits16"
    """DINO, DINOv2 with or without registers, or DINOv3, of any patch size: it sees the image at
    the size that makes its grid CLIP's. Not loaded where its weight is 0."""
    pos_interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How CLIP's position embeddings are resized [CLIP-ES: bilinear; the library: bicubic]."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Arithmetic of the frozen blocks; GradCAM's last block is always fp32. auto = bf16 where two
    products, timed once, say that it is faster."""


@dataclass(frozen=True, config=STRICT)
class PromptConfig:
    """What CLIP reads of the classes."""

    set: Text = "voc"
    """Shipped prompt set (voc, coco, coco-clip-es, demo) or a YAML file of template, classes and
    background."""


@dataclass(frozen=True, config=STRICT)
class CamConfig:
    """The initial CAM."""

    mode: Literal["clip", "cmpa", "centre"] = "cmpa"
    """Whose features: frozen CLIP's, or those aligned by CMPA (CLIP's until there is a CMPA); or
    nobody's: a map that is high in the middle (control)."""
    readout: Literal["gradcam", "patch", "combined"] = "combined"
    """How CMPA's CAM is read: GradCAM (paper); the patches' own probabilities; or the geometric
    mean of CMPA's patch map and CLIP's GradCAM [0006]. Without heads clip_readout has its say."""
    clip_readout: Literal["gradcam", "patch", "combined"] = "gradcam"
    """How frozen CLIP's CAM is read, the one of masks without a model and the one that pools
    (Eq. 2): GradCAM [CLIP-ES], or as CMPA's, by CLIP's own patch features [0006]."""
    scale: Positive | None = None
    """Inverse temperature in CLIP mode; null = the model's own exp(logit_scale)."""


@dataclass(frozen=True, config=STRICT)
class CmpaConfig:
    """Cross-modal prototype alignment (Eq. 1-6)."""

    loss: Literal["crossmodal", "in_modal", "feature"] = "crossmodal"
    """Rows of Table 4."""
    symmetric: bool = True
    """Also texts against image prototypes; Eq. 6 writes images against texts only [0003]."""
    pos: Literal["cluster", "class", "cluster_present"] = "class"
    """Positive prototype of a pair: nearest cluster (paper), its class, or nearest of the image's
    classes [0004]."""
    proto: Literal["kmeans", "class_mean"] = "class_mean"
    """How image prototypes are made: K-means (paper), or the mean of each class [0009]."""
    update_every: Count = 100
    """Iterations between prototype refreshes; the paper's 5000 belongs to its 30,000 [0013]."""
    bg_negatives: bool = True
    """Background texts are further negatives [0005]."""
    bg_pairs: NotNegative = 1.0
    """Weight of background-pooled features with a background text as positive; 0 = off [0005]."""
    bg_prototypes: Literal["none", "negatives", "pull"] = "negatives"
    """Background words have image prototypes: none (K = C); as negatives of class texts (K = C +
    M); or they pull the words' own texts too [0025]. All but none need pool_then_project."""
    text_gradient: bool = False
    """Images move the texts that they are compared with, or P_T is constant there [0008]."""
    trained: Literal["both", "isa", "tsa"] = "both"
    """Heads that learn; the other one stays as it began [0040]. ``tsa`` needs symmetric or
    text_gradient."""
    cam_source: Literal["clip", "refined", "cmpa"] = "clip"
    """CAM that pools foreground features (Eq. 2): CLIP's, its SGC-corrected form, or the current
    model's, pooled again at every refresh. ``refined`` needs pool_then_project."""
    map_order: Literal["pool_then_project", "project_then_pool"] = "pool_then_project"
    """Pool CLIP's features once and align the pooled vectors, or align every patch (paper)
    [0007]."""
    image_feature: Literal["project_mean", "mean_projected"] = "project_mean"
    """Image feature of GradCAM: ISA of the mean patch, or the mean of aligned patches [0006]."""
    min_patches: CountOrZero = 4
    """Patches with CAM > 0.4 that a pair needs."""
    init: Literal["residual", "random"] = "residual"
    """Heads that begin as CLIP's own cosines, or at random (paper) [0002]."""
    depth: Few = 1
    """Linear layers of a head; from 2 on it is not linear, which ruins GradCAM [0024]."""
    hidden: Width = 512
    """Width between them, if there are several."""
    out: Width = 256
    """d2, length of the aligned space."""
    temperature: Positive = 0.05
    """τ at the start [paper]."""
    learnable_temperature: bool = True
    """Train τ within [0.01, 0.5] [paper]."""

    @property
    def aligns_patches(self) -> bool:
        """Every patch is aligned before pooling, in crops: Eq. 1, then Eq. 2, as printed."""
        return self.map_order == "project_then_pool"


@dataclass(frozen=True, config=STRICT)
class AffinityConfig:
    """Patch affinity and what may send along it (Eq. 9-11)."""

    kind: Literal["attention", "kernel", "none"] = "attention"
    """Fused attention (paper); the colour-position kernel (control); or no propagation."""
    clip_layers: Layers = -8
    """CLIP blocks: -8 = the last eight [CLIP-ES], or 0-based indices."""
    dino_layers: Layers = -8
    """DINO blocks, likewise."""
    dino_kind: Literal["attention", "features"] = "attention"
    """What of DINO is fused: its attention (paper), or the likeness of its last patch features,
    where dino_layers has no say [0039]."""
    dino_temperature: Positive = 0.05
    """Temperature of the softmax that makes an attention of that likeness [0039]."""
    clip_weight: NotNegative = 0.4
    """Share of CLIP's attention [paper]."""
    dino_weight: NotNegative = 0.6
    """Share of DINO's attention [paper]."""
    sinkhorn: Rounds = 3
    """Rounds of column and row normalisation [CLIP-ES]."""
    power: Rounds = 2
    """Propagation steps [CLIP-ES squares]."""
    mask: Literal["none", "box", "slic", "box_and_slic"] = "slic"
    """Who sends: everybody, CLIP-ES's boxes, SGC's target regions, or what both allow."""
    rfm_after: CountOrZero | None = None
    """Iterations with L_seg after which the decoder chooses among CLIP's blocks and weighs their
    attention, where that is used [WeCLIP: 15,000 VOC, 40,000 COCO]; null = never [0032]."""
    rfm_layers: Layers = -6
    """CLIP blocks that it chooses from [WeCLIP: -6 VOC, -10 COCO]."""
    cda_temperature: Positive | None = None
    """Temperature of the class-distribution affinity [CD-CLIP]; 0.0003 hardly moves it, 0.01 makes
    it soft; null = off [0035]."""


@dataclass(frozen=True, config=STRICT)
class SgcConfig:
    """Superpixels and target regions (Eq. 7-8)."""

    n_segments: Annotated[Count, Field(le=50_000)] = 200
    """Superpixels asked for; about two thirds come out."""
    compactness: Positive = 10.0
    """SLIC's weight of position against colour."""
    slic_zoom: Annotated[Positive, Field(le=1)] = 1.0
    """Superpixels are found on a photograph whose sides are this share of its own: 0.5 takes a
    quarter of the time [0045]."""
    k_colour: Annotated[Count, Field(le=1000)] = 8
    """Colour clusters per image."""
    high: Share = 0.4
    """τ_hi: what counts as high confidence (0.4 VOC, 0.7 COCO, as CLIP-ES's boxes) [0011]."""
    min_ratio: Share = 0.5
    """ρ: a region is a target above this activation ratio."""
    ratio: Literal["cluster", "image"] = "cluster"
    """Denominator of the ratio [0012]."""
    per_class: bool = True
    """Targets per class, or one set per image."""
    axis: Literal["col", "row", "both"] = "col"
    """Targets send (paper), receive, or both [0010]."""


@dataclass(frozen=True, config=STRICT)
class PseudoConfig:
    """From refined CAM to pseudo mask."""

    alpha: Positive = 1.0
    """Exponent of the background score (1 - max CAM)^alpha."""
    refine: Literal["none", "par", "crf"] = "par"
    """Pixel refinement before the argmax [WeCLIP: par; CLIP-ES: crf]."""
    par_iterations: Rounds = 20
    """Iterations of PAR."""
    par_dilations: Distances = (1, 2, 4, 8, 12, 24)
    """Distances of PAR's neighbours in pixels."""
    crf: Crf = (1.0, 3.0, 67.0, 3.0, 4.0)
    """DenseCRF: Gaussian reach and weight, bilateral reach, colour reach, weight [CLIP-ES]."""
    min_score: Share | None = None
    """Pixels whose best score is lower become 255 [CLIP-ES: 0.95 after its CRF]; null = none."""


@dataclass(frozen=True, config=STRICT)
class DecoderConfig:
    """The segmentation head."""

    layers: Few = 3
    """Transformer layers."""
    dropout: Share = 0.1
    """Channels dropped after the fusion."""


@dataclass(frozen=True, config=STRICT)
class OptimConfig:
    """Training (Eq. 12)."""

    schedule: Literal["staged", "joint"] = "staged"
    """CMPA first, then the decoder on its masks; or both in every iteration (paper) [0013]."""
    cmpa_iterations: CountOrZero = 500
    """Iterations of L_proto alone, before the decoder's, when staged."""
    iterations: CountOrZero | None = None
    """Iterations with L_seg [paper: 30,000 VOC, 80,000 COCO]; null = from the number of images:
    at least 500, and the paper's for VOC and COCO [0037]."""
    batch: Annotated[Count, Field(le=4096)] = 16
    """Crops per iteration."""
    micro_batch: Count | None = None
    """Crops on the device at once; gradients add up to the batch. null = the batch."""
    pairs: Annotated[Count, Field(le=100_000)] = 128
    """(image, class) pairs per iteration when they come from the cache."""
    cmpa_lr: Positive = 3e-4
    """Learning rate of ISA, TSA and τ."""
    decoder_lr: Positive = 2e-3
    """Learning rate of the decoder; do not scale it with the batch [WeCLIP]."""
    weight_decay: NotNegative = 2e-3
    """AdamW's weight decay [paper]; none on τ."""
    warmup: CountOrZero = 50
    """Iterations of linear warm-up [WeCLIP]."""
    power: NotNegative = 1.0
    """Exponent of the polynomial decay [WeCLIP]."""
    seg_weight: NotNegative = 0.1
    """γ of Eq. 12 [paper]; without effect under AdamW [0014]."""
    affinity_weight: NotNegative = 0.0
    """Weight of the affinity loss beside L_seg [WeCLIP: 0.1]; 0 = off [0033]."""
    affinity_radius: Annotated[CountOrZero, Field(le=64)] = 8
    """Rows and columns between two patches that it compares, at most [WeCLIP]."""
    features: Literal["auto", "cached", "online"] = "auto"
    """CLIP's features and pseudo masks for the decoder: kept on disk, some views of each image, or
    made anew for every crop (paper). auto = cached on a CPU, if every image is seen often and the
    disk allows it [0038]."""
    features_gb: NotNegative = 20.0
    """Disk that cached features may take, in GB."""
    views: Annotated[tuple[Zoom, ...], Field(min_length=1, max_length=16)] = (1.0, 0.75)
    """Sizes of an image whose features are cached, those of test.scales; the second, fourth ... of
    its mirror image if data.flip. The pseudo mask is made at the first [0038]."""
    save_every: Count | None = None
    """Iterations between checkpoints; null = a tenth of ``iterations``, at most 1,000."""
    seed: CountOrZero = 0
    """Seed of everything random."""


@dataclass(frozen=True, config=STRICT)
class TestConfig:
    """Prediction."""

    __test__ = False  # not a test case, whatever pytest thinks of the name

    long_side: Side = 512
    """Longer side of the image in pixels before the scales."""
    scales: Annotated[tuple[Zoom, ...], Field(min_length=1, max_length=100)] = (1.0, 0.75)
    """Sizes whose logits are averaged."""
    flip: bool = True
    """Average with the mirror image."""
    crf: bool = True
    """Refine with a DenseCRF."""
    crf_parameters: Crf = (3.0, 3.0, 64.0, 5.0, 4.0)
    """Gaussian reach and weight, bilateral reach, colour reach, weight [WeCLIP]."""
    crf_iterations: Annotated[Rounds, Field(ge=1)] = 10
    """Mean-field iterations."""


@dataclass(frozen=True, config=STRICT)
class Config:
    """All settings of a run; saved with it and inside its checkpoints."""

    data: DataConfig = DataConfig()
    backbones: BackboneConfig = BackboneConfig()
    prompts: PromptConfig = PromptConfig()
    cam: CamConfig = CamConfig()
    cmpa: CmpaConfig = CmpaConfig()
    affinity: AffinityConfig = AffinityConfig()
    sgc: SgcConfig = SgcConfig()
    pseudo: PseudoConfig = PseudoConfig()
    decoder: DecoderConfig = DecoderConfig()
    optim: OptimConfig = OptimConfig()
    test: TestConfig = TestConfig()

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionary, ready for YAML or JSON."""
        plain: dict[str, Any] = to_jsonable_python(self)
        return plain

    def to_yaml(self) -> str:
        """The whole resolved configuration."""
        return dump_yaml(self.to_dict())


def uses_decoder(config: Config) -> bool:
    """Whether the CAMs are refined by a trained decoder, if there is one (WeCLIP's RFM)."""
    affinity = config.affinity
    attention = affinity.kind == "attention" and affinity.power > 0 and affinity.clip_weight > 0
    return attention and affinity.rfm_after is not None


def uses_dino(config: Config) -> bool:
    """Whether DINO's attention has a weight."""
    return config.affinity.kind == "attention" and config.affinity.dino_weight > 0


def deciding_settings(config: Config, ignored: Iterable[str] = ()) -> dict[str, Any]:
    """Settings by dotted key that decide a result, encoders and prompts by name left out.

    Args:
        ignored: Keys, or whole sections, that have no part in it.
    """
    out = {*ignored} | BY_CONTENT | SPEED_KEYS
    return {
        f"{section}.{key}": value
        for section, values in config.to_dict().items()
        for key, value in values.items()
        if section not in out and f"{section}.{key}" not in out
    }


def describe() -> list[tuple[str, str, str]]:
    """(key, default, meaning) of every setting: the docstrings above, and what may be chosen."""
    defaults = Config()
    return [
        (f"{section.name}.{name}", str(info.default), _meaning(info))
        for section in fields(Config)
        for name, info in getattr(defaults, section.name).__pydantic_fields__.items()
    ]


def _meaning(info: FieldInfo) -> str:
    text = " ".join((info.description or "").split())
    if get_origin(info.annotation) is Literal:
        text += f" One of: {', '.join(get_args(info.annotation))}."
    return text


def known_keys() -> list[str]:
    """Every dotted key, such as ``sgc.min_ratio``."""
    return [key for key, _, _ in describe()]


def preset_names() -> list[str]:
    """Presets that come with the package."""
    return sorted(file.stem for file in PRESETS.glob("*.yaml"))


def config_of(config: Config | str) -> Config:
    """Settings, or those of a preset by its name."""
    return config if isinstance(config, Config) else load_config(config)


def load_config(
    preset: str = "ssr",
    file: str | Path | None = None,
    overrides: str | Iterable[str] | Mapping[str, Any] | None = (),
    base: object = None,
) -> Config:
    """Preset, then a file, then overrides; the last one wins.

    Args:
        preset: See ``preset_names``.
        file: YAML of the same shape; only what differs.
        overrides: ``section.key=value``, the value written as in YAML; one may stand by itself. Or
            values by ``section.key``.
        base: A saved configuration to start from instead of the preset.

    Raises:
        ConfigError: If a preset, file or key does not exist or a value is out of its range; all
            wrong keys and values are named at once, each with where it is from.
    """
    layers = [
        (f"preset {preset}", _preset(preset))
        if base is None
        else ("saved settings", _sections("saved settings", base))
    ]
    if file is not None:
        layers.append((f"settings file {file} (--config)", _read(file)))
    layers += [("settings (--set)", table) for table in _overrides(overrides)]
    merged: dict[str, Any] = {}
    origins: dict[tuple[str, str], str] = {}  # of each key's last value
    for origin, table in layers:
        for section, values in table.items():
            for name, value in values.items():
                merged.setdefault(section, {})[name] = value
                origins[section, name] = origin
    known, faults = known_keys(), []
    for (section, name), origin in origins.items():
        if (key := f"{section}.{name}") not in known:
            near = did_you_mean(key, known)
            faults.append(f'{origin}: there is no setting "{_cut(key)}".{near}')
            del merged[section][name]
    try:
        config = Config(**{section: values for section, values in merged.items() if values})
    except ValidationError as error:
        faults += [_explain(fault, origins) for fault in error.errors()]
    if faults:
        more = [f"... and {len(faults) - _SHOWN} more."] if faults[_SHOWN:] else []
        end = "`ssrseg config` lists every setting."
        raise ConfigError(" ".join([*faults[:_SHOWN], *more, end]))
    cmpa = config.cmpa
    moves_texts = cmpa.symmetric or cmpa.text_gradient or cmpa.loss == "feature"
    if cmpa.trained == "tsa" and not moves_texts:
        raise ConfigError(
            "cmpa.trained = tsa cannot be combined with cmpa.symmetric = false: no gradient would"
            " reach TSA, and nothing would be learned. Set cmpa.text_gradient=true, or"
            " cmpa.symmetric=true."
        )
    if cmpa.aligns_patches:
        if cmpa.cam_source == "refined":
            raise ConfigError(
                "cmpa.cam_source = refined cannot be combined with cmpa.map_order ="
                " project_then_pool: crops are pooled before they are rectified. Set"
                " cmpa.map_order=pool_then_project."
            )
        if cmpa.bg_prototypes != "none":
            raise ConfigError(
                f"cmpa.bg_prototypes = {cmpa.bg_prototypes} cannot be combined with cmpa.map_order"
                " = project_then_pool: the background word of an image is that of CLIP's own"
                " feature, which is not kept there. Set cmpa.bg_prototypes=none."
            )
    return config


def _preset(name: str) -> dict[str, Any]:
    known = preset_names()
    if name not in known:
        near = did_you_mean(str(name), known)
        raise ConfigError(
            f'preset "{name}" (--preset) does not exist.{near} There are: {", ".join(known)}.'
        )
    return _sections(f"preset {name}", read_yaml(PRESETS / f"{name}.yaml"))


def _read(file: object) -> dict[str, dict[str, Any]]:
    if not isinstance(file, (str, os.PathLike)):
        raise ConfigError(f"the settings file (--config) is {_brief(file)}, which is no path.")
    path, origin = Path(os.path.expanduser(file)), f"settings file {file} (--config)"
    if not os.path.isfile(path):  # of any text, also one that no path can be
        raise ConfigError(f"{origin}: there is no such file.")
    try:
        return _sections(origin, read_yaml(path))
    except YamlError as error:
        raise ConfigError(f"{origin} is not YAML as settings are: {error}.") from error


def _sections(origin: str, table: object) -> dict[str, dict[str, Any]]:
    """A table of sections, each a table of keys, which are texts; an empty one for None."""
    table = {} if table is None else table
    if not isinstance(table, Mapping) or not all(isinstance(v, Mapping) for v in table.values()):
        raise ConfigError(f"{origin}: expected sections with keys, such as\nsgc:\n  min_ratio: 0.4")
    return {
        str(section): {str(name): value for name, value in values.items()}
        for section, values in table.items()
    }


def _overrides(given: Any) -> list[dict[str, dict[str, Any]]]:
    if isinstance(given, Mapping):
        return [_one(str(key), value, str(key)) for key, value in given.items()]
    try:
        return [_parse(str(each)) for each in ([given] if isinstance(given, str) else given or ())]
    except TypeError as error:
        raise ConfigError(
            f"overrides = {_brief(given)}: expected texts such as sgc.min_ratio=0.4."
        ) from error


def _parse(override: str) -> dict[str, dict[str, Any]]:
    """``section.key=value`` as a table of sections."""
    key, sign, text = override.partition("=")
    try:
        return _one(key if sign else "", parse_yaml(text), override)
    except YamlError as error:
        raise ConfigError(
            f'setting "{_cut(override)}" (--set): the value is not YAML ({error}).'
        ) from error


def _one(key: str, value: Any, written: str) -> dict[str, dict[str, Any]]:
    section, dot, name = key.strip().partition(".")
    if not dot:
        near = did_you_mean(written.partition("=")[0], known_keys())
        raise ConfigError(
            f'setting "{_cut(written)}" (--set): expected section.key=value, such as'
            f" sgc.min_ratio=0.4.{near}"
        )
    return {section: {name: value}}


def _cut(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


def _brief(value: object) -> str:
    """The value in a few words, whatever it is."""
    try:
        return _cut(brief(value) if not isinstance(value, str) else repr(_cut(value)))
    except ValueError:  # more digits than Python prints
        return f"a value of type {type(value).__name__}"


def _explain(fault: ErrorDetails, origins: dict[tuple[str, str], str]) -> str:
    """A wrong value in words."""
    section, name, *rest = fault["loc"]
    section, name = str(section), str(name)
    # of what lies deeper a place in a list alone means something to a user
    key = ".".join([section, name, *(str(part) for part in rest if isinstance(part, int))])
    return f"{origins[section, name]}: {key} = {_brief(fault['input'])}: {fault['msg']}."
