"""Models for calls that follow each other: what the one has loaded the next one takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ssrseg.config import Config
from ssrseg.data.sample import LabelledImages

if TYPE_CHECKING:
    from ssrseg.model import SSR


class LoadedOnce:
    """The model that was loaded last; another one takes its place.

    The library of the encoders is imported when the first is asked for.
    """

    def __init__(self) -> None:
        self._of: object = None
        self._model: SSR | None = None

    def for_data(self, config: Config, data: LabelledImages, run: Path | None, device: str) -> SSR:
        """``SSR.for_data``, and its errors."""

        def load() -> SSR:
            from ssrseg.model import SSR

            return SSR.for_data(config, data, run, device=device)

        texts = data.classes, dict(data.prompts), data.background
        return self._same_or(("data", config, texts, run, device), load)

    def segmenter(self, run: Path, clip: str | Path | None, device: str) -> SSR:
        """``SSR.from_pretrained`` of what segments, and its errors."""

        def load() -> SSR:
            from ssrseg.model import SSR

            return SSR.from_pretrained(run, clip=clip, segment_only=True, device=device)

        return self._same_or(("run", run, clip, device), load)

    def _same_or(self, of: object, load: Callable[[], SSR]) -> SSR:
        if self._model is None or self._of != of:
            self._of, self._model = of, load()
        return self._model
