"""The figures of the paper's tables, as printed there (arXiv 2512.01701), and what is odd in them.

They were measured by others, on VOC 2012 and COCO 2014 with pretrained encoders. None is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

Cells = tuple[float | str | None, ...]


@dataclass(frozen=True)
class Published:
    """A row of a table in the paper.

    Attributes:
        name: The method, or the variant in an ablation.
        cells: Its figures in the order of the table's columns; None = not given.
        group: Heading it stands under.
        ours: Row of ours that measures the same thing.
    """

    name: str
    cells: Cells
    group: str = ""
    ours: str = ""


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper.

    Attributes:
        title: What it shows.
        columns: Names of the figures.
        rows: As printed, the paper's own last.
        notes: What a reader should know before trusting a figure.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Published, ...]
    notes: tuple[str, ...] = ()


_NO_TARGET = (
    "Precision and recall are no targets, mIoU is: the last row of Table 3 (CAM seeds on train:"
    " 87.9 / 89.1) repeats Table 5's SSR (segmentation on val: .879 / .891), so one of the two is a"
    " slip of copying."
)
_UNLIKELY = (
    "Table 3 from its second to its third row: precision -0.9 and recall -2.7, yet mIoU +1.7."
    " Table 5: MoRe has lower precision and recall than SeCo and 2.4 more mIoU. Different settings"
    " (with and without CRF) are the likely reason."
)
_MARGINS = (
    'The text\'s margins: 3.1 over "the best baseline MoRe" (WeCLIP ties with it); 0.6 over'
    " multi-stage methods is VOC test against VPL (on val it is 0.2); 0.3 over ExCEL is COCO (on"
    " VOC it is 1.1)."
)
_SLIPS = "Table 6 gives CLIP-ES 72.2, Table 1 gives 73.8. VPL is AAAI 2025, ToCo CVPR 2023."

_MULTI, _SINGLE = "multi-stage", "single-stage"
TABLE_1 = PaperTable(
    "Table 1: semantic segmentation, mIoU in %",
    ("VOC val", "VOC test", "COCO val"),
    (
        Published("SIPE", (68.8, 69.7, 43.6), _MULTI),
        Published("CLIMS", (70.4, 70.0, None), _MULTI),
        Published("WeakTr", (78.4, 79.0, 50.3), _MULTI),
        Published("CLIP-ES", (73.8, 73.9, 45.4), _MULTI),
        Published("PSDPM", (74.1, 74.9, 47.2), _MULTI),
        Published("CPAL", (74.5, 74.7, 46.8), _MULTI),
        Published("CTI", (74.1, 73.2, 45.4), _MULTI),
        Published("WeakCLIP", (74.0, 73.8, 47.4), _MULTI),
        Published("VPL", (79.3, 79.0, 49.8), _MULTI),
        Published("DIAL", (74.5, 74.9, 44.4), _SINGLE),
        Published("DuPL", (73.3, 72.8, 44.6), _SINGLE),
        Published("WeCLIP", (76.4, 77.2, 47.1), _SINGLE),
        Published("MoRe", (76.4, 75.0, 47.4), _SINGLE),
        Published("ExCEL", (78.4, 78.5, 50.3), _SINGLE),
        Published("SSR without CRF", (78.2, 78.1, 49.2), _SINGLE, "decoder"),
        Published("SSR", (79.5, 79.6, 50.6), _SINGLE, "decoder + CRF"),
    ),
    (_MARGINS, _SLIPS),
)

TABLE_2 = PaperTable(
    "Table 2: CAM seeds on VOC train, mIoU in %",
    ("supervision", "network", "mIoU"),
    (
        Published("MCTformer", ("I", "DeiT", 61.7)),
        Published("CLIMS", ("I+L", "R", 56.6)),
        Published("WeakTr", ("I", "DeiT", 66.2)),
        Published("POLE", ("I+L", "R", 59.0)),
        Published("CLIP-ES", ("I+L", "V", 70.8), "", "CLIP CAM, CLIP attention, box"),
        Published("ToCo", ("I", "V", 71.6)),
        Published("CPAL", ("I+L", "R", 71.9)),
        Published("CTI", ("I", "DeiT", 69.5)),
        Published("SeCo", ("I", "V", 74.8)),
        Published("DuPL", ("I", "V", 75.0)),
        Published("WeCLIP", ("I+L", "V", 75.4)),
        Published("DIAL", ("I+L", "V", 75.2)),
        Published("WeakCLIP", ("I+L", "V", 61.7)),
        Published("VPL", ("I+L", "V", 77.8)),
        Published("MoRe", ("I", "V", 77.0)),
        Published("ExCEL", ("I+L", "V", 78.0)),
        Published("SSR", ("I+L+D", "V", 78.7), "", "+ SGC"),
    ),
    ("I: image-level labels, L: language (CLIP), D: DINO. R: ResNet, V: ViT.",),
)

TABLE_3 = PaperTable(
    "Table 3: what SGC adds, CAM seeds on VOC train",
    ("precision", "recall", "mIoU"),
    (
        Published("CMPA", (72.8, 84.6, 63.3), "", "CMPA CAM"),
        Published("CMPA, CLIP attention", (85.2, 88.9, 74.6), "", "+ CLIP attention"),
        Published("CMPA, CLIP and DINO attention", (84.3, 86.2, 76.3), "", "+ DINO attention"),
        Published("CMPA, CLIP and DINO attention, SGC", (87.9, 89.1, 78.7), "", "+ SGC"),
    ),
    (_NO_TARGET, _UNLIKELY),
)

TABLE_4 = PaperTable(
    "Table 4: the loss of CMPA, initial CAM on VOC train, mIoU in %",
    ("mIoU",),
    (
        Published("CLIP", (58.6,), "", "CLIP CAM"),
        Published("L_feature", (53.5,), "", "L_feature, gradcam"),
        Published("L_in_modal", (57.8,), "", "L_in_modal, gradcam"),
        Published("L_crossmodal", (63.3,), "", "L_crossmodal, gradcam"),
    ),
    (
        "The paper does not define L_feature and L_in_modal; ours are in method/objective.py.",
        "The paper reads every CAM by GradCAM.",
    ),
)

TABLE_5 = PaperTable(
    "Table 5: segmentation on VOC val",
    ("mIoU", "precision", "recall", "confusion ratio"),
    (
        Published("SeCo", (74.0, 84.0, 84.9, 0.232)),
        Published("WeCLIP", (76.4, 84.4, 86.1, 0.237)),
        Published("MoRe", (76.4, 83.7, 84.7, 0.239)),
        Published("SSR", (79.5, 87.9, 89.1, 0.198), "", "decoder + CRF"),
    ),
    (_NO_TARGET, _UNLIKELY, "The paper prints shares (.795), here percent; the ratio is FP / TP."),
)

TABLE_6 = PaperTable(
    "Table 6: against full supervision, VOC val",
    ("mIoU", "% of full supervision"),
    (
        Published("DeepLabV2, ResNet101, full supervision", (77.7, None)),
        Published("DeepLabV2, ViT-B, full supervision", (82.3, None)),
        Published("CLIMS, ResNet101", (70.4, 90.6)),
        Published("CLIP-ES, ResNet101", (72.2, 92.9)),
        Published("CPAL, ResNet101", (74.5, 95.9)),
        Published("ToCo, ViT-B", (71.1, 86.4)),
        Published("DuPL, ViT-B", (73.3, 89.1)),
        Published("SeCo, ViT-B", (74.0, 89.9)),
        Published("DIAL, ViT-B", (74.5, 90.5)),
        Published("WeCLIP, ViT-B*", (76.4, 93.6)),
        Published("ExCEL, ViT-B*", (78.4, 96.1)),
        Published("SSR, ViT-B*", (79.5, 97.4), "", "decoder + CRF"),
    ),
    (
        "ViT-B*: the fully supervised figure behind these is not printed; 79.5 / 0.974 = 81.6. Ours"
        " is the same decoder trained on true masks.",
        _SLIPS,
    ),
)

PAPER = {1: TABLE_1, 2: TABLE_2, 3: TABLE_3, 4: TABLE_4, 5: TABLE_5, 6: TABLE_6}
