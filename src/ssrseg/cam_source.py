"""The CAMs of photographs with their labels: those that are kept, else new ones by the encoders.

Neither the model nor the library of the encoders is imported before a CAM is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ssrseg.checkpoint import model_digest
from ssrseg.config import Config, PseudoConfig, deciding_settings, uses_dino
from ssrseg.console import note
from ssrseg.data.classes import check_class_names
from ssrseg.data.files import content_digest, sweep
from ssrseg.data.large import Tiling, open_large, tiling_of
from ssrseg.data.photos import PhotoBatch, UnreadablePhoto, read_photos
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.errors import ConfigError, DataError, SSRError
from ssrseg.kept_cams import KeptCams, cams_path, read_cams, write_cams
from ssrseg.loaded_once import LoadedOnce
from ssrseg.made_with import MadeWith, folder_made_with
from ssrseg.networks.frozen import files_digest
from ssrseg.networks.vocabulary import build_vocabulary
from ssrseg.tiled import Look, tiled_look

if TYPE_CHECKING:
    from ssrseg.photo_masks import PhotoMask

_IN_TRAINING = ("data.crop", "data.scale", "data.flip", "decoder", "optim", "test")
"""Settings without a part in masks."""


@dataclass(frozen=True)
class PhotoCams:
    """A photograph and its CAMs, all that its mask is made from.

    Attributes:
        photo: RGB in [0, 1], at most ``data.max_side`` pixels a side.
        size: Height and width of the photograph itself.
        digest: Of the content of its file, from before it was read.
        kept: Whether the CAMs are those of an earlier call.
    """

    sample: Sample
    cams: KeptCams
    photo: Float[Tensor, "3 height width"]
    size: tuple[int, int]
    digest: str
    kept: bool


@dataclass(frozen=True)
class TiledCams:
    """A photograph that is seen in tiles, and its CAMs; its mask is made in windows.

    Attributes:
        tiling: How the photograph is cut.
        digest: Of the content of its file, from before it was read.
        kept: Whether the CAMs are those of an earlier call.
    """

    sample: Sample
    cams: KeptCams
    tiling: Tiling
    digest: str
    kept: bool


@dataclass(frozen=True)
class Unusable:
    """A sample whose photograph cannot be used, and why."""

    sample: Sample
    error: SSRError


class CamSource:
    """The CAMs that one call asks for, kept in ``cams/`` of a folder of masks.

    Attributes:
        made_with: All that decides them, and the masks.
    """

    def __init__(
        self,
        data: LabelledImages,
        out: Path,
        config: Config,
        run: Path | None,
        *,
        superpixels: Path,
        device: str,
        anew: bool,
        loaded: LoadedOnce | None = None,
    ) -> None:
        """Find out what decides the CAMs; encoders are loaded if they are not known by their files.

        Args:
            run: Whose heads, or decoder, are used; None = training-free.
            superpixels: Folder in which they are kept.
            anew: Use no CAM that is there.
            loaded: What earlier calls have loaded.

        Raises:
            SSRError: As ``SSR.for_data``.
        """
        self._loaded = loaded or LoadedOnce()
        self._data, self._out, self._config, self._run = data, out, config, run
        self._superpixels, self._device, self._anew = superpixels, device, anew
        names = check_class_names(data.classes)
        vocabulary = build_vocabulary(names, config.prompts.set, data.prompts, data.background)
        wanted = MadeWith(
            names,
            deciding_settings(config, _IN_TRAINING),
            texts=vocabulary.texts[: len(names)],
            background=vocabulary.texts[len(names) :],
            model="" if run is None else model_digest(run),
            files=encoder_files(config),
        )
        self._encoders: dict[str, str] | None = None if anew else _known_encoders(wanted, out)
        if self._encoders is None:
            self._encoders = self._model.encoders
            wanted = replace(wanted, files=encoder_files(config))  # they may have been fetched now
        self.made_with = replace(wanted, encoders=self._encoders)

    @cached_property
    def _model(self) -> Any:
        """An SSR that makes no masks worth mentioning."""
        config = replace(self._config, pseudo=PseudoConfig(refine="none"))
        model = self._loaded.for_data(config, self._data, self._run, self._device)
        if self._encoders not in (None, model.encoders):
            raise ConfigError(
                f"{self._out} holds CAMs of other encoders than {config.backbones.clip} and"
                f" {config.backbones.dino} are now. Use the same ones to go on, or another folder"
                " (--out) to begin anew, or --overwrite to replace all of them."
            )
        return model

    def has(self, sample: Sample, digest: str) -> bool:
        """Whether the CAMs of a sample are kept; ``digest`` is that of its photograph."""
        return self._kept(sample, digest) is not None

    def _kept(self, sample: Sample, digest: str) -> KeptCams | None:
        return read_cams(self._path(sample), self.made_with.cams_of(sample, digest))

    def _path(self, sample: Sample) -> Path:
        return self._out / cams_path(sample.name)

    def of(
        self, samples: Sequence[Sample], behind: Callable[..., None]
    ) -> Iterator[PhotoCams | TiledCams | Unusable]:
        """The CAMs of samples: first those that are kept, then the others, then those in tiles.

        Args:
            behind: Told a function and its arguments, calls it while the next CAMs are made, and
                before what it is told later. New CAMs are written by it.

        Raises:
            SSRError: If an encoder is needed and cannot be loaded.
            OutputError: If the disk takes nothing.
        """
        kept: list[Sample] = []
        missing: list[Sample] = []
        tiled: list[tuple[Sample, Tiling]] = []
        settings = self._config.data
        for sample in samples:
            tiling = tiling_of(sample.image, settings, settings.max_side)
            if tiling is not None:
                tiled.append((sample, tiling))
                continue
            there = not self._anew and self._path(sample).is_file()
            (kept if there else missing).append(sample)
        for batch in read_photos(kept, self._config.data, 1, None, torch.device(self._device)):
            if isinstance(batch, UnreadablePhoto):
                yield Unusable(kept[batch.index], batch.error)
                continue
            for row, index in enumerate(batch.index):
                cams = self._kept(kept[index], batch.digests[row])
                if cams is None:
                    missing.append(kept[index])
                else:
                    yield _photo_cams(kept[index], cams, batch, row, kept=True)
        if missing:
            yield from self._made(missing, behind)
        for sample, tiling in tiled:
            try:
                yield self._tiled(sample, tiling, behind)
            except DataError as error:
                yield Unusable(sample, error)

    def _tiled(self, sample: Sample, tiling: Tiling, behind: Callable[..., None]) -> TiledCams:
        """CAMs of a photograph that is seen in tiles, kept or new.

        Raises:
            DataError: If it cannot be read.
        """
        settings, digest = self._config.data, content_digest(sample.image)
        kept = None if self._anew else self._kept(sample, digest)
        if kept is not None:
            return TiledCams(sample, kept, tiling, digest, True)
        with open_large(sample.image, settings.range, settings.bands) as image:
            found = tiled_look(
                image,
                tiling,
                sample.labels,
                settings.max_side,
                lambda photos: self._model.looks(photos, sample.labels),
            )
        cams = cams_to_keep(found, self.made_with.classes)
        behind(self._keep, sample, cams, digest)
        return TiledCams(sample, cams, tiling, digest, False)

    def _keep(self, sample: Sample, cams: KeptCams, digest: str) -> None:
        """Write the CAMs of a sample; ``digest`` is that of its photograph."""
        write_cams(self._path(sample), cams, self.made_with.cams_of(sample, digest))

    def _made(
        self, samples: Sequence[Sample], behind: Callable[..., None]
    ) -> Iterator[PhotoCams | Unusable]:
        """New CAMs."""
        from ssrseg.photo_masks import photo_masks

        model, sgc = self._model, self._config.sgc
        sweep(self._superpixels)
        superpixels = SuperpixelCache.of(self._superpixels, sgc)
        wanted = superpixels if model.wants_superpixels else None
        settings = self._config.data
        for batch in read_photos(samples, settings, model.patch_size, wanted, model.device):
            if isinstance(batch, UnreadablePhoto):
                yield Unusable(samples[batch.index], batch.error)
                continue
            # the batch's tokens are let go before anything is made from its CAMs
            names = self.made_with.classes
            found = [cams_to_keep(each, names) for each in photo_masks(model, batch)]
            for row, cams in enumerate(found):
                sample = samples[batch.index[row]]
                behind(self._keep, sample, cams, batch.digests[row])
                yield _photo_cams(sample, cams, batch, row, kept=False)


def cams_to_keep(found: PhotoMask | Look, classes: Sequence[str]) -> KeptCams:
    """What is kept of the CAMs of a photograph: mask and review depend on nothing else.

    Args:
        classes: Names of all classes.
    """
    evidence = found.evidence.half().tolist()  # the numbers that the file holds, as for the CAM
    return KeptCams(
        tuple(classes[index] for index in found.labels),
        found.cam.half().float(),
        found.refined_cam,
        dict(zip(classes, evidence, strict=True)),
    )


def _photo_cams(
    sample: Sample, cams: KeptCams, batch: PhotoBatch, row: int, *, kept: bool
) -> PhotoCams:
    height, width = batch.originals[row].shape[:2]
    digest = batch.digests[row]
    return PhotoCams(sample, cams, batch.small[row], (height, width), digest, kept)


def encoder_files(config: Config) -> dict[str, tuple[str, str]]:
    """Where the encoders are that the settings use, and a digest of their files."""
    used = {"clip": config.backbones.clip}
    used |= {"dino": config.backbones.dino} if uses_dino(config) else {}
    return {name: (source, files_digest(source)) for name, source in used.items()}


def _known_encoders(wanted: MadeWith, out: Path) -> dict[str, str] | None:
    """Digests of the weights, as a folder of CAMs has them; None if they have to be loaded.

    They are known if the CAMs there differ in nothing else and the files of the encoders are as
    they were then, wherever they lie, or, where there are none now, would lie at the same place.
    """
    earlier = folder_made_with(out, "labels")
    if earlier is None or not earlier.has_cams_as(wanted):
        return None
    for name, (source, digest) in wanted.files.items():
        then, known = earlier.files.get(name, ("", ""))
        if digest != known if digest else source != then:
            return None
        if not digest:
            note(f"{name} {source} is not here; as long as all CAMs are kept, it is not needed.")
    return earlier.encoders
