"""Image-level labels in, semantic segmentation out: SSR (AAAI 2026) in PyTorch.

The verbs of the command line, as functions that return plain dataclasses::

    import ssrseg
    from pathlib import Path

    data = ssrseg.open_labelled(Path("photos"))
    config = ssrseg.load_config("ssr")
    ssrseg.masks(data, Path("masks"), config)
    ssrseg.train(data, Path("run"), config)
    segmenter = ssrseg.load_segmenter(Path("run"))
    ids = segmenter.predict(ssrseg.read_image(Path("new.jpg"))).ids

The maths of the paper is in :mod:`ssrseg.method`, one file per section.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "Config": "ssrseg.config",
    "Evaluation": "ssrseg.engine.evaluate",
    "LabelledImages": "ssrseg.data.sample",
    "MasksResult": "ssrseg.engine.masks",
    "PhotoMask": "ssrseg.engine.masks",
    "PredictResult": "ssrseg.engine.predict",
    "Prediction": "ssrseg.engine.predict",
    "Rectifier": "ssrseg.engine.rectify",
    "SSRError": "ssrseg.errors",
    "Sample": "ssrseg.data.sample",
    "Segmenter": "ssrseg.engine.predict",
    "SuperpixelCache": "ssrseg.data.cache",
    "TrainResult": "ssrseg.engine.train",
    "evaluate": "ssrseg.engine.evaluate",
    "examine": "ssrseg.engine.doctor",
    "load_config": "ssrseg.settings",
    "load_rectifier": "ssrseg.engine.rectify",
    "load_segmenter": "ssrseg.engine.predict",
    "masks": "ssrseg.engine.masks",
    "open_images": "ssrseg.data.open",
    "open_labelled": "ssrseg.data.open",
    "predict": "ssrseg.engine.predict",
    "prepare_coco": "ssrseg.engine.prepare_coco",
    "prepare_voc": "ssrseg.engine.prepare_voc",
    "read_image": "ssrseg.data.images",
    "rectify_photo": "ssrseg.engine.masks",
    "run_demo": "ssrseg.demo.run",
    "score_seeds": "ssrseg.engine.seeds",
    "train": "ssrseg.engine.train",
    "voc_archive": "ssrseg.engine.archive",
}

if TYPE_CHECKING:
    from ssrseg.config import Config as Config
    from ssrseg.data.cache import SuperpixelCache as SuperpixelCache
    from ssrseg.data.images import read_image as read_image
    from ssrseg.data.open import open_images as open_images
    from ssrseg.data.open import open_labelled as open_labelled
    from ssrseg.data.sample import LabelledImages as LabelledImages
    from ssrseg.data.sample import Sample as Sample
    from ssrseg.demo.run import run_demo as run_demo
    from ssrseg.engine.archive import voc_archive as voc_archive
    from ssrseg.engine.doctor import examine as examine
    from ssrseg.engine.evaluate import Evaluation as Evaluation
    from ssrseg.engine.evaluate import evaluate as evaluate
    from ssrseg.engine.masks import MasksResult as MasksResult
    from ssrseg.engine.masks import PhotoMask as PhotoMask
    from ssrseg.engine.masks import masks as masks
    from ssrseg.engine.masks import rectify_photo as rectify_photo
    from ssrseg.engine.predict import Prediction as Prediction
    from ssrseg.engine.predict import PredictResult as PredictResult
    from ssrseg.engine.predict import Segmenter as Segmenter
    from ssrseg.engine.predict import load_segmenter as load_segmenter
    from ssrseg.engine.predict import predict as predict
    from ssrseg.engine.prepare_coco import prepare_coco as prepare_coco
    from ssrseg.engine.prepare_voc import prepare_voc as prepare_voc
    from ssrseg.engine.rectify import Rectifier as Rectifier
    from ssrseg.engine.rectify import load_rectifier as load_rectifier
    from ssrseg.engine.seeds import score_seeds as score_seeds
    from ssrseg.engine.train import TrainResult as TrainResult
    from ssrseg.engine.train import train as train
    from ssrseg.errors import SSRError as SSRError
    from ssrseg.settings import load_config as load_config

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that ``ssrseg --help`` needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ssrseg' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
