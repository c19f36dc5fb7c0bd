"""Image-level labels in, semantic segmentation out: SSR (AAAI 2026) in PyTorch.

One photograph, training-free::

    import ssrseg

    model = ssrseg.SSR.from_encoders(classes=["dog", "cat"])
    found = model.rectify("photo.jpg", labels=["dog"])
    found.mask, found.refined_cam["dog"], found.overlay()

A folder, from labels to a trained model::

    ssrseg.make_masks("photos", "masks")
    ssrseg.export_masks("masks", to="coco")
    ssrseg.train("photos", "run")
    ssrseg.SSR.from_pretrained("run").segment("new.jpg").mask

The equations of the paper are in ``ssrseg.method``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "Config": "ssrseg.config",
    "Evaluation": "ssrseg.evaluation",
    "ExportResult": "ssrseg.export.run",
    "LabelledImages": "ssrseg.data.sample",
    "MasksResult": "ssrseg.pseudo_masks",
    "HubExport": "ssrseg.export.hub",
    "OnnxExport": "ssrseg.export.onnx_file",
    "PredictResult": "ssrseg.prediction",
    "Rectification": "ssrseg.model",
    "RectifiedImage": "ssrseg.results",
    "SSR": "ssrseg.model",
    "SSRError": "ssrseg.errors",
    "Sample": "ssrseg.data.sample",
    "SegmentedImage": "ssrseg.results",
    "TrainResult": "ssrseg.training",
    "evaluate": "ssrseg.evaluation",
    "examine": "ssrseg.doctor",
    "export_masks": "ssrseg.export.run",
    "export_onnx": "ssrseg.export.onnx_file",
    "export_to_hub": "ssrseg.export.hub",
    "load_config": "ssrseg.config",
    "make_masks": "ssrseg.pseudo_masks",
    "open_images": "ssrseg.data.open",
    "open_labelled": "ssrseg.data.open",
    "predict": "ssrseg.prediction",
    "prepare_coco": "ssrseg.prepare.coco",
    "prepare_voc": "ssrseg.prepare.voc",
    "read_image": "ssrseg.data.images",
    "run_demo": "ssrseg.demo.run",
    "score_seeds": "ssrseg.paper.cam_seeds",
    "train": "ssrseg.training",
    "voc_archive": "ssrseg.prepare.voc_server",
}

if TYPE_CHECKING:
    from ssrseg.config import Config as Config
    from ssrseg.config import load_config as load_config
    from ssrseg.data.images import read_image as read_image
    from ssrseg.data.open import open_images as open_images
    from ssrseg.data.open import open_labelled as open_labelled
    from ssrseg.data.sample import LabelledImages as LabelledImages
    from ssrseg.data.sample import Sample as Sample
    from ssrseg.demo.run import run_demo as run_demo
    from ssrseg.doctor import examine as examine
    from ssrseg.errors import SSRError as SSRError
    from ssrseg.evaluation import Evaluation as Evaluation
    from ssrseg.evaluation import evaluate as evaluate
    from ssrseg.export.hub import HubExport as HubExport
    from ssrseg.export.hub import export_to_hub as export_to_hub
    from ssrseg.export.onnx_file import OnnxExport as OnnxExport
    from ssrseg.export.onnx_file import export_onnx as export_onnx
    from ssrseg.export.run import ExportResult as ExportResult
    from ssrseg.export.run import export_masks as export_masks
    from ssrseg.model import SSR as SSR
    from ssrseg.model import Rectification as Rectification
    from ssrseg.paper.cam_seeds import score_seeds as score_seeds
    from ssrseg.prediction import PredictResult as PredictResult
    from ssrseg.prediction import predict as predict
    from ssrseg.prepare.coco import prepare_coco as prepare_coco
    from ssrseg.prepare.voc import prepare_voc as prepare_voc
    from ssrseg.prepare.voc_server import voc_archive as voc_archive
    from ssrseg.pseudo_masks import MasksResult as MasksResult
    from ssrseg.pseudo_masks import make_masks as make_masks
    from ssrseg.results import RectifiedImage as RectifiedImage
    from ssrseg.results import SegmentedImage as SegmentedImage
    from ssrseg.training import TrainResult as TrainResult
    from ssrseg.training import train as train

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that ``ssrseg --help`` needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ssrseg' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
