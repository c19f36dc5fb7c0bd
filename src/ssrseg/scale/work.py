"""What is done with the images of a shard: masks from their labels, or by a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ssrseg.cam_source import encoder_files
from ssrseg.checkpoint import model_digest, model_file
from ssrseg.config import Config
from ssrseg.data.sample import Sample
from ssrseg.data.stamped_mask import digest_of
from ssrseg.loaded_once import LoadedOnce
from ssrseg.prediction import PredictResult, predict
from ssrseg.pseudo_masks import MasksResult, make_masks
from ssrseg.scale.sources import Vocabulary


@runtime_checkable
class Work(Protocol):
    """Makes the masks of some images; encoders are loaded once for all shards of a process.

    Attributes:
        made_from: A key of ``made_with.MADE_FROM``.
        confidence: Whether a confidence is wanted beside each mask.
        overwrite: Whether finished shards are made anew.
    """

    made_from: str

    @property
    def confidence(self) -> bool:
        """See above."""

    @property
    def overwrite(self) -> bool:
        """See above."""

    def digest(self, vocabulary: Vocabulary) -> str:
        """Of all that decides the masks beside photographs and labels."""

    def make(
        self, vocabulary: Vocabulary, samples: Sequence[Sample], out: Path, superpixels: Path
    ) -> MasksResult | PredictResult:
        """Write the masks of these images into a folder.

        Args:
            superpixels: Where these are kept, unless the user has named a place.

        Raises:
            SSRError: As ``make_masks`` and ``predict``.
        """


@dataclass(frozen=True)
class FromLabels:
    """``ssrseg masks``."""

    config: Config
    model: Path | None = None
    cache: Path | None = None
    device: str = "auto"
    confidence: bool = False
    overwrite: bool = False
    strict: bool = False
    loaded: LoadedOnce = field(default_factory=LoadedOnce, compare=False)
    made_from = "labels"

    def digest(self, vocabulary: Vocabulary) -> str:
        """Of settings, words and weights."""
        words = (
            vocabulary.classes,
            sorted((vocabulary.prompts or {}).items()),
            vocabulary.background,
        )
        # of a hub id nothing but the name: whether its files are here already decides nothing
        found = encoder_files(self.config).items()
        weights = {name: digest for name, (where, digest) in found if Path(where).is_dir()}
        model = "" if self.model is None else model_digest(model_file(self.model))
        return digest_of(self.config.to_yaml(), repr(words), repr(weights), model)

    def make(
        self, vocabulary: Vocabulary, samples: Sequence[Sample], out: Path, superpixels: Path
    ) -> MasksResult:
        """By ``make_masks``."""
        return make_masks(
            vocabulary.data(samples, out),
            out,
            self.config,
            model=self.model,
            confidence=self.confidence,
            cache=superpixels if self.cache is None else self.cache,
            device=self.device,
            overwrite=self.overwrite,
            strict=self.strict,
            report=False,
            loaded=self.loaded,
        )


@dataclass(frozen=True)
class ByModel:
    """``ssrseg predict``.

    Attributes:
        options: ``crf``, ``value_range``, ``bands`` and ``tile`` of ``predict``.
    """

    model: str
    clip: str | None = None
    device: str = "auto"
    confidence: bool = False
    overwrite: bool = False
    strict: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    loaded: LoadedOnce = field(default_factory=LoadedOnce, compare=False)
    made_from = "model"

    def digest(self, vocabulary: Vocabulary) -> str:
        """Of weights and settings."""
        return digest_of(model_digest(model_file(self.model)), repr(sorted(self.options.items())))

    def make(
        self, vocabulary: Vocabulary, samples: Sequence[Sample], out: Path, superpixels: Path
    ) -> PredictResult:
        """By ``predict``."""
        return predict(
            {sample.name: sample.image for sample in samples},
            out,
            self.model,
            clip=self.clip,
            confidence=self.confidence,
            device=self.device,
            overwrite=self.overwrite,
            strict=self.strict,
            report=False,
            loaded=self.loaded,
            **self.options,
        )
