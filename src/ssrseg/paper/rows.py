"""The rows of the paper's tables, their variants and their controls, as experiments.

Settings are written on top of a preset, so that the same rows serve VOC, COCO, the demo world and
any data. A row whose settings are empty is the preset as it stands.
"""

from __future__ import annotations

from ssrseg.config import Config
from ssrseg.paper.experiments import Experiment, Heads, Training

READOUTS = ("gradcam", "patch", "combined")
MASKS = ("none", "box", "slic", "box_and_slic")

PLAIN = "pseudo.refine=none"
_CLIP, _CMPA, _CENTRE = "cam.mode=clip", "cam.mode=cmpa", "cam.mode=centre"
CLIP = (_CLIP, "cam.clip_readout=gradcam")  # CLIP-ES's CAM
RAW = ("affinity.kind=none", "affinity.mask=none", PLAIN)
# the paper's weights, and CLIP-ES's square
_ATTENTION = (
    *("affinity.kind=attention", "affinity.power=2", "affinity.rfm_after=null"),
    PLAIN,
)
CLIP_ONLY = ("affinity.clip_weight=1.0", "affinity.dino_weight=0.0", *_ATTENTION)
DINO_ONLY = ("affinity.clip_weight=0.0", "affinity.dino_weight=1.0", *_ATTENTION)
FUSED = ("affinity.clip_weight=0.4", "affinity.dino_weight=0.6", *_ATTENTION)
KERNEL = ("affinity.kind=kernel", PLAIN)
BOX, SLIC = "affinity.mask=box", "affinity.mask=slic"

SSR_TRAINING = Training("ssr")
CMPA = Training("ssr", (_CMPA,))  # the same run, unless the preset has no CMPA
FULL = Training("full", supervision="full")
_ALONE = ("cmpa.bg_pairs=0", "cmpa.bg_prototypes=none")
LOSS_TRAININGS = {
    "L_feature": Training("L_feature", (_CMPA, "cmpa.loss=feature", *_ALONE)),
    "L_in_modal": Training("L_in_modal", (_CMPA, "cmpa.loss=in_modal", *_ALONE)),
    "L_crossmodal": Training("L_crossmodal", (_CMPA, "cmpa.loss=crossmodal", *_ALONE)),
    "L_crossmodal + background pairs": Training(
        "L_crossmodal-pairs", (_CMPA, "cmpa.loss=crossmodal", "cmpa.bg_pairs=1.0")
    ),
}
"""Table 4: the losses alone, and the last one with background pairs, which are our addition."""

_PAIRS = (_CMPA, "cmpa.loss=crossmodal", "cmpa.bg_pairs=1.0")
READINGS = {
    "Eq. 6 as printed": Training(
        "eq6",
        (_CMPA, "cmpa.loss=crossmodal", "cmpa.symmetric=false", "cmpa.bg_negatives=false", *_ALONE),
    ),
    "heads of two layers": Training("layers-2", (*_PAIRS, "cmpa.depth=2")),
    "P_I by K-means": Training("kmeans", (*_PAIRS, "cmpa.proto=kmeans")),
    "K = C": Training("K-classes", (*_PAIRS, "cmpa.bg_prototypes=none")),
    "background texts pulled": Training("pull", (*_PAIRS, "cmpa.bg_prototypes=pull")),
    "TSA alone, background texts pulled, P_T moves": Training(
        "tsa-alone",
        (*_PAIRS, "cmpa.trained=tsa", "cmpa.bg_prototypes=pull", "cmpa.text_gradient=true"),
    ),
}
"""Readings of L_crossmodal; all but the first with background pairs."""

CLIP_CAM = Experiment("CLIP CAM", (*CLIP, *RAW))
CENTRE_PRIOR = Experiment("centre prior, no image", (_CENTRE, *RAW))
CMPA_CAM = Experiment("CMPA CAM", RAW, CMPA)
STEPS = (
    CMPA_CAM,
    Experiment("+ CLIP attention", (*CLIP_ONLY, BOX), CMPA),
    Experiment("+ DINO attention", (*FUSED, BOX), CMPA),
    Experiment("+ SGC", (*FUSED, SLIC), CMPA),
)
"""Table 3's four rows; those before SGC have CLIP-ES's boxes, which SGC replaces."""

AS_SET = Experiment("the preset's own affinity and mask", (PLAIN,), CMPA)
WITH_PAR = Experiment("+ PAR", ("pseudo.refine=par",), CMPA)
WITH_CRF = Experiment("+ CRF", ("pseudo.refine=crf",), CMPA)

ATTENTIONS = {
    "no attention": RAW,
    "CLIP attention": CLIP_ONLY,
    "DINO attention": DINO_ONLY,
    "fused 0.4 : 0.6": FUSED,
}
GRID = tuple(
    Experiment(f"{name}, {mask}", (*settings, f"affinity.mask={mask}"), CMPA)
    for name, settings in ATTENTIONS.items()
    for mask in MASKS
)
"""Table 3 in full: who propagates, and from where."""

_CLIP_ES = (
    *(*CLIP, *CLIP_ONLY[:2], *_ATTENTION[:3], BOX),
    *("affinity.sinkhorn=3", "affinity.cda_temperature=null", "sgc.axis=col"),
)
CLIP_ES = Experiment("CLIP CAM, CLIP attention, box", (*_CLIP_ES, PLAIN))
CONTROLS = (
    CENTRE_PRIOR,
    Experiment(
        "centre prior, SGC without propagation", (_CENTRE, "affinity.kind=none", SLIC, PLAIN)
    ),
    CLIP_CAM,
    Experiment("CLIP CAM, combined", (_CLIP, "cam.clip_readout=combined", *RAW)),
    Experiment("untrained CMPA CAM", RAW, CMPA, heads="untrained"),
    CLIP_ES,
    Experiment("CLIP CAM, fused attention, box", (*CLIP, *FUSED, BOX)),
    Experiment("CLIP CAM, fused attention, SGC", (*CLIP, *FUSED, SLIC)),
    Experiment("CLIP CAM, SGC without propagation", (*CLIP, "affinity.kind=none", SLIC, PLAIN)),
    Experiment("CMPA CAM, SGC without propagation", ("affinity.kind=none", SLIC, PLAIN), CMPA),
    Experiment("the preset without CMPA", (_CLIP, PLAIN)),
    Experiment("the preset without a mask", ("affinity.mask=none", PLAIN), CMPA),
    Experiment("CLIP CAM + PAR (nothing of SSR)", (*CLIP, *RAW[:2], "pseudo.refine=par")),
    Experiment("colour-position kernel, no mask", (*KERNEL, "affinity.mask=none"), CMPA),
    Experiment("colour-position kernel + SGC", (*KERNEL, SLIC), CMPA),
)
"""What each gain has to be held against."""


def by_readout(name: str, training: Training, heads: Heads = "trained") -> tuple[Experiment, ...]:
    """The initial CAM of CMPA with some heads, by every read-out."""
    return tuple(
        Experiment(f"{name}, {readout}", (f"cam.readout={readout}", *RAW), training, heads=heads)
        for readout in READOUTS
    )


LOSSES = tuple(row for name, each in LOSS_TRAININGS.items() for row in by_readout(name, each))
UNTRAINED = by_readout("untrained projector", CMPA, "untrained")
TEMPERATURE = by_readout("CLIP at CMPA's temperature", CMPA, "temperature")
READING_ROWS = tuple(row for name, each in READINGS.items() for row in by_readout(name, each))
PROTOTYPES = by_readout("image prototypes as texts", CMPA, "prototypes")
"""P_I in CLIP's space in the place of T, nothing trained: is it the prototypes, or the heads?"""
CLIP_READ = tuple(
    Experiment(f"CLIP, {readout}", (_CLIP, f"cam.clip_readout={readout}", *RAW))
    for readout in READOUTS[1:]
)
"""Frozen CLIP by the read-outs of CMPA; by GradCAM it is ``CLIP_CAM``."""

DECODER = Experiment("decoder", training=SSR_TRAINING, measure="segmentation")
DECODER_CRF = Experiment("decoder + CRF", training=SSR_TRAINING, measure="segmentation", crf=True)
FULL_DECODER = Experiment("decoder, full supervision", training=FULL, measure="segmentation")
FULL_DECODER_CRF = Experiment(
    "decoder, full supervision + CRF", training=FULL, measure="segmentation", crf=True
)
CLIP_ES_TRAINING = Training("clip-es", _CLIP_ES)
CLIP_ES_DECODER = Experiment(
    "the same decoder on CLIP-ES's CAMs + CRF",
    training=CLIP_ES_TRAINING,
    measure="segmentation",
    crf=True,
)


def coco_settings(config: Config) -> tuple[str, ...]:
    """What COCO 2014 has otherwise than VOC: prompts, τ_hi (CLIP-ES's 0.7), the schedules.

    Args:
        config: The settings; the paper's batch counts where CMPA learns from crops and not from
            cached pairs, and WeCLIP's schedule where the decoder refines CAMs.
    """
    chosen = ["prompts.set=coco", "sgc.high=0.7", "optim.iterations=80000", "optim.pairs=256"]
    if config.cmpa.map_order == "project_then_pool":
        chosen.append("optim.batch=256")
    if config.affinity.rfm_after is not None:
        chosen += ["affinity.rfm_after=40000", "affinity.rfm_layers=-10"]
    return tuple(chosen)


TABLES: dict[int, tuple[Experiment, ...]] = {
    1: (DECODER, DECODER_CRF, CLIP_ES_DECODER),
    2: (STEPS[-1], AS_SET, WITH_PAR, WITH_CRF, CLIP_ES),
    3: (*STEPS, AS_SET, *GRID, *CONTROLS),
    4: (
        *(CENTRE_PRIOR, CLIP_CAM, *CLIP_READ, *LOSSES, *READING_ROWS),
        *(*UNTRAINED, *TEMPERATURE, *PROTOTYPES),
    ),
    5: (DECODER, DECODER_CRF),
    6: (DECODER, DECODER_CRF, FULL_DECODER, FULL_DECODER_CRF),
}
"""Everything that a table of the paper needs here."""
