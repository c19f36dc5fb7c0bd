"""Which settings decide what is measured.

Imports no torch, so that the rows of an ablation are known before anything is computed.
"""

from __future__ import annotations

from typing import Any

from ssrseg.config import Config, deciding_settings
from ssrseg.paper.experiments import Measure
from ssrseg.schedule import Supervision

_DECODER = {
    "optim.decoder_lr",
    "optim.seg_weight",
    "optim.affinity_weight",
    "optim.affinity_radius",
    "optim.features",  # resolved when a run begins
    "optim.views",
}
_CROPS = {"data.crop", "data.scale", "data.flip"}


def head_settings(config: Config) -> dict[str, Any]:
    """The settings that decide ISA, TSA and τ.

    The corrected CAM takes part only where it pools the features (``cmpa.cam_source=refined``), and
    crops only where every patch is projected first. The decoder learns after the heads or beside
    them, and never changes them.
    """
    ignored = {"decoder", "pseudo", "test"} | _DECODER
    if config.optim.schedule == "staged":
        ignored |= {"optim.iterations"}
    if config.cmpa.map_order == "pool_then_project":
        ignored |= _CROPS | {"optim.batch", "optim.micro_batch"}
    if config.cmpa.cam_source != "refined":
        ignored |= {"affinity", "sgc"}
    if config.cmpa.cam_source != "cmpa":
        ignored |= {"cam.readout", "cmpa.image_feature"}
    return deciding_settings(config, ignored)


def run_settings(config: Config, supervision: Supervision = "labels") -> dict[str, Any]:
    """The settings that decide a trained decoder; on true masks CAMs have no part in it."""
    full = {"cam", "cmpa", "affinity", "sgc", "pseudo"} if supervision == "full" else set()
    return deciding_settings(config, {"test"} | full)


def scoring_settings(config: Config, measure: Measure) -> dict[str, Any]:
    """The settings that decide a figure when the trained parts are there."""
    if measure == "segmentation":
        data = ("norm", "max_side", "tile", "tile_overlap", "range", "bands")
        sections = ("test", "backbones", *(f"data.{key}" for key in data))
        kept = deciding_settings(config, set())
        return {key: value for key, value in kept.items() if key.startswith(sections)}
    ignored = _CROPS | {"optim", "decoder", "test"}
    if measure == "seeds":  # every pixel is decided, and exponents are swept but for the CRF's
        ignored |= {"pseudo.min_score"}
        ignored |= {"pseudo.alpha"} if config.pseudo.refine != "crf" else set()
    if config.pseudo.refine != "par":
        ignored |= {"pseudo.par_iterations", "pseudo.par_dilations"}
    if config.pseudo.refine != "crf":
        ignored |= {"pseudo.crf"}
    # of CMPA, only how its CAM is read
    return {
        key: value
        for key, value in deciding_settings(config, ignored).items()
        if not key.startswith("cmpa.") or key == "cmpa.image_feature"
    }
