"""What the masks of a folder were made with, and its encoders, loaded when a label is corrected."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import UInt8
from torch import Tensor

from ssrseg.cam_source import cams_to_keep
from ssrseg.checkpoint import model_digest, model_file
from ssrseg.config import Config, PseudoConfig, load_config
from ssrseg.data.files import user_path
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.device import pick_device
from ssrseg.errors import SSRError
from ssrseg.kept_cams import KeptCams
from ssrseg.loading import encoders_on_disk
from ssrseg.made_with import MADE_FROM, MadeWith, folder_made_with, settings_file
from ssrseg.networks.vocabulary import Vocabulary

if TYPE_CHECKING:
    from ssrseg.model import SSR


@dataclass(frozen=True)
class EncoderOptions:
    """Where the encoders are, if not where the masks' settings say.

    Attributes:
        model: The run whose heads or decoder the masks were made with.
        clip: Hub id or folder of CLIP.
        dino: The same of DINO.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    model: str | Path | None = None
    clip: str | None = None
    dino: str | None = None
    device: str = "auto"


class Encoders:
    """The model that made the masks of a folder; nothing is loaded before ``start``.

    Attributes:
        made_from: A key of ``MADE_FROM``; empty if the folder does not say.
        config: The settings of masks from labels; None if they are not known.
        made_with: What decided the masks; None if it is not known.
        why_not: Why no CAM can be made here; empty as long as nothing speaks against it.
    """

    def __init__(self, folder: Path, options: EncoderOptions) -> None:
        self._folder, self._options = folder, options
        found = [each for each in MADE_FROM if settings_file(folder, each).is_file()]
        self.made_from = found[0] if found else ""
        self.config: Config | None = None
        self.made_with: MadeWith | None = None
        self.why_not = ""
        self._model: SSR | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._look()

    def _look(self) -> None:
        """Read the settings, and see what stands against new CAMs."""
        if self.made_from != "labels":
            self.why_not = "these masks were not made from labels"
            return
        file = settings_file(self._folder, "labels")
        try:
            config = load_config(file=file)
        except SSRError as error:
            self.why_not = str(error)
            return
        backbones = config.backbones
        backbones = replace(
            backbones,
            clip=self._options.clip or backbones.clip,
            dino=self._options.dino or backbones.dino,
        )
        self.config = replace(config, backbones=backbones)
        self.made_with = folder_made_with(self._folder, "labels")
        if self.made_with is None:
            self.why_not = f"{file} does not say what the masks were made with"
        elif self.made_with.model and self._options.model is None:
            self.why_not = "the masks were made with a trained model: name its run folder (--model)"
        elif missing := encoders_on_disk(self.config).missing:
            self.why_not = (
                f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not on this"
                " machine (--clip, --dino say where)"
            )

    @property
    def state(self) -> str:
        """``ready``, ``loading``, ``asleep`` (nothing was asked of them yet) or ``missing``."""
        if self.why_not:
            return "missing"
        if self._model is not None:
            return "ready"
        return "asleep" if self._thread is None else "loading"

    def start(self) -> None:
        """Load the encoders in a thread, once."""
        with self._lock:
            if self._thread is None and not self.why_not:
                self._thread = threading.Thread(target=self._load, name="encoders", daemon=True)
                self._thread.start()

    def _load(self) -> None:
        try:
            self._model = self._loaded()
        except (SSRError, OSError, RuntimeError, MemoryError) as error:  # a GPU's are RuntimeErrors
            self.why_not = str(error) or "there is not enough memory for the encoders"

    def _loaded(self) -> SSR:
        from ssrseg.model import SSR

        config, made = self.config, self.made_with
        assert config is not None and made is not None
        run = None
        if made.model:
            run = model_file(user_path(self._options.model, "a model"))
            if model_digest(run) != made.model:
                raise SSRError(f"{run} is not the model that the masks were made with (--model)")
        model = SSR.from_texts(
            replace(encoders_on_disk(config).config, pseudo=PseudoConfig(refine="none")),
            Vocabulary(made.classes, (*made.texts, *made.background)),
            run,
            device=pick_device(self._options.device),
        )
        if model.encoders != made.encoders:
            raise SSRError(
                f"{config.backbones.clip} or {config.backbones.dino} is not what the masks were"
                " made with: its weights are others"
            )
        return model

    def cams(
        self, photo: UInt8[Tensor, "height width 3"], labels: tuple[int, ...]
    ) -> KeptCams | None:
        """CAMs of a photograph for some labels; waits for the encoders.

        Returns:
            None if ``why_not`` says that they cannot be made.

        Raises:
            SSRError: If they cannot be made of this photograph.
        """
        self.start()
        if self._thread is not None:
            self._thread.join()
        if self._model is None:
            self.why_not = self.why_not or "the encoders cannot be loaded (the terminal says why)"
            return None
        from ssrseg.photo_masks import rectify_photo

        folder = self._folder / "superpixels"
        superpixels = SuperpixelCache.of(
            folder if folder.is_dir() else None, self._model.config.sgc
        )
        with self._lock:  # one at a time: each takes all cores
            found = rectify_photo(self._model, photo, labels, superpixels)
        return cams_to_keep(found, self._model.classes)
