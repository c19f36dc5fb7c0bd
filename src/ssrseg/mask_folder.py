"""A folder that masks go into: what is done already, what a person has corrected, what failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from jaxtyping import UInt8
from torch import Tensor

from ssrseg.checkpoint import STATE_FILE
from ssrseg.console import track
from ssrseg.data.class_ids import read_class_ids
from ssrseg.data.files import content_digest, only_writer, write_text, writing
from ssrseg.data.images import image_size
from ssrseg.data.notices import note_once, say_again
from ssrseg.data.sample import Sample
from ssrseg.data.stamped_mask import MaskState, digest_of, mask_state, write_mask
from ssrseg.errors import ConfigError, DataError, OutputError, SSRError, counted
from ssrseg.failures import Failure, write_failures
from ssrseg.interruption import Stop
from ssrseg.manifest import FILE as MANIFEST
from ssrseg.manifest import Manifest, mask_path
from ssrseg.report.masks import write_masks_report

HasRest = Callable[[Sample, str], bool]

MADE_FROM = {"labels": "config.yaml", "model": "settings.txt"}
"""File of the settings that masks were made with: from labels, or predicted by a model."""


_IDENTITY = "# made with: "  # the last line of that file


class MaskFolder:
    """The masks of one call, made once each; use ``open_masks``.

    Attributes:
        todo: Samples whose mask is to be made now.
        corrected: Names of masks that a person has changed, as keys; these are never written.
        done: Masks that were there already, those of a person included.
        written: Masks that were made now.
        renewed: How many of these replace a mask of another photograph or of other labels.
        failures: What could not be used.
    """

    def __init__(self, out: Path, classes: tuple[str, ...], identity: str, *, strict: bool) -> None:
        self.out, self.classes, self.identity, self.strict = out, classes, identity, strict
        self.todo: list[Sample] = []
        self.corrected: dict[str, None] = {}
        self.done = self.written = self.renewed = 0
        self._stale: set[str] = set()
        self.failures: list[Failure] = []
        self.manifest = Manifest(out / MANIFEST, classes)

    def look(self, samples: Sequence[Sample], has_rest: HasRest, *, overwrite: bool) -> None:
        """Sort samples into those to do, those done, and those that a person has corrected."""
        there = (self.out / "masks").is_dir() and not overwrite
        taken = {mask_path(sample.name) for sample in samples}
        title = "Masks that are there"
        for sample in track(samples, title, len(samples)) if there else samples:
            path = self.out / mask_path(sample.name)
            try:
                if not _is_there(path, sample, taken) or overwrite:
                    self.todo.append(sample)
                    continue
                photo = content_digest(sample.image)
                made_for = self._made_for(sample, photo)
                state, ids = mask_state(path, made_for)
                if state is MaskState.CORRECTED:
                    self._keep(sample, path, photo)
                    self.done += 1
                    if has_rest(sample, made_for):
                        continue
                elif state is MaskState.DONE and ids is not None and has_rest(sample, made_for):
                    self.manifest.add(sample, ids, photo, "ssrseg")
                    self.done += 1
                    continue
                elif state is MaskState.STALE:
                    self._stale.add(sample.name)
                self.todo.append(sample)
            except SSRError as error:
                self.fail(sample, error)

    def _keep(self, sample: Sample, path: Path, photo: str) -> None:
        """Keep what a person has made, if it is of this photograph."""
        ids = read_class_ids(path)
        size = image_size(sample.image)
        if self.manifest.photo(sample.name) not in (None, photo) or tuple(ids.shape) != size:
            raise DataError(
                f"{path} was corrected by hand, for another photograph than {sample.image} is now."
                " It was left as it is. Move it away, or choose another folder (--out)."
            )
        if self.manifest.photo(sample.name) is None:
            note_once(
                "correction",
                f"{path} was corrected by hand, and nothing says for which photograph: it is taken"
                f" for one of {sample.image} as it is now. So are others that {MANIFEST} does not"
                " know.",
            )
        self.manifest.add(sample, ids, photo, "person")
        self.corrected[sample.name] = None

    def _made_for(self, sample: Sample, photo: str) -> str:
        labels = "\n".join(self.classes[index] for index in sample.labels)
        return digest_of(self.identity, labels, photo)

    def write(self, sample: Sample, ids: UInt8[Tensor, "height width"], photo: str) -> str:
        """Write a mask, unless it is a person's, then its line; returns what it was made for.

        ``photo`` is the digest of the photograph from before it was read.
        """
        made_for = self._made_for(sample, photo)
        if sample.name not in self.corrected:
            write_mask(self.out / mask_path(sample.name), ids, made_for)
            self.manifest.add(sample, ids, photo, "ssrseg")
            self.written += 1
            self.renewed += sample.name in self._stale
        return made_for

    def stop_if_asked(self, stop: Stop) -> None:
        """Raise Interrupted between two images if somebody wants the work to end."""
        if stop.requested:
            raise stop.error(
                f"{self.written:,} masks were written to {self.out / 'masks'} now. The same command"
                " goes on from there."
            )

    def fail(self, sample: Sample, error: SSRError) -> None:
        """Go on without a sample; in strict mode, stop.

        Raises:
            SSRError: ``error`` in strict mode; a disk that takes nothing always ends the run.
        """
        if self.strict or isinstance(error, OutputError):
            raise error
        self.failures.append(Failure(sample.name, sample.image, str(error)))


@contextmanager
def open_masks(
    out: Path,
    samples: tuple[Sample, ...],
    classes: tuple[str, ...],
    settings: str,
    identity: str,
    *,
    made_from: str,
    overwrite: bool,
    strict: bool,
    has_rest: HasRest | None = None,
    report: bool = True,
) -> Iterator[MaskFolder]:
    """Lock a folder, see what is done, and leave manifest.csv and failures.csv whole at the end.

    A block that comes to its end also leaves a report.

    Args:
        out: Made if it is not there.
        samples: Images that are to have a mask.
        settings: Text of the settings, for people.
        identity: Digest of all that decides a mask beside the photograph and its labels.
        made_from: A key of ``MADE_FROM``.
        overwrite: Make all masks anew, also those that a person has corrected.
        strict: Stop at the first file that cannot be used.
        has_rest: Told a sample and what its mask was made for: True if what else is written of it
            is there; None = nothing else is.
        report: Write report.html.

    Raises:
        ConfigError: If the folder holds something else, or masks made with other settings.
        OutputError: If another process writes there, or the disk takes nothing.
    """
    start = time.monotonic()
    _refuse_other(out, made_from)
    say_again()
    with only_writer(out):
        _refuse_other(out, made_from)
        file = out / MADE_FROM[made_from]
        _refuse_mixture(out, samples, file, identity, overwrite=overwrite)
        write_text(file, f"{settings}{_IDENTITY}{identity}\n")
        write_text(out / "classes.txt", "".join(f"{name}\n" for name in classes))
        folder = MaskFolder(out, classes, identity, strict=strict)
        try:
            folder.look(samples, has_rest or (lambda _, __: True), overwrite=overwrite)
            yield folder
        finally:
            folder.manifest.write()
            write_failures(out, folder.failures)
        if report:
            spent = time.monotonic() - start
            made = f"{counted(folder.written, 'mask', 'masks')} made in {spent:.0f} s"
            write_masks_report(out, call=f"{made}, {folder.done:,} were there already")


def _is_there(path: Path, sample: Sample, taken: Collection[str]) -> bool:
    """DataError if the mask cannot have its place: ``taken`` are those of all masks."""
    folders = [str(each) for each in PurePosixPath(mask_path(sample.name)).parents]
    try:
        if any(folder in taken for folder in folders) or path.is_dir():
            raise DataError(
                f"The mask of {sample.image} has no place at {path}, where something else is or is"
                " going to be. Rename the image, or move away what is there."
            )
        if path.exists() and path.samefile(sample.image):
            raise DataError(
                f"{sample.image} lies where its own mask would be written. Choose another folder"
                " (--out)."
            )
        return path.exists()
    except OSError as error:  # most often too long
        raise DataError(
            f"The mask of {sample.image} cannot be named {path.name} ({error.strerror}). Shorten"
            " the name of the image."
        ) from error


def _refuse_other(out: Path, made_from: str) -> None:
    """Raise ConfigError for the folder of a training run, or of masks made in the other way."""
    holds = "a training run" if (out / STATE_FILE).is_file() else ""
    for source, name in MADE_FROM.items():
        if source != made_from and (out / name).is_file() and not holds:
            holds = f"masks made from {'labels' if source == 'labels' else 'a model alone'}"
    if holds:
        raise ConfigError(f"{out} holds {holds}. Choose another folder (--out) for these masks.")


def _refuse_mixture(
    out: Path, samples: tuple[Sample, ...], file: Path, identity: str, *, overwrite: bool
) -> None:
    """Raise ConfigError if masks of other settings would lie beside the new ones."""
    if not file.is_file():
        return
    there = {path for path in (out / "masks").rglob("*.png") if not path.name.startswith(".")}
    try:
        earlier = file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror or error}).") from error
    if _IDENTITY not in earlier and not there:
        raise ConfigError(
            f"{file} was not written by ssrseg, and the settings of these masks would replace it."
            " Choose another folder (--out)."
        )
    if earlier.endswith(f"{_IDENTITY}{identity}\n"):
        return
    if overwrite:
        there -= {out / mask_path(sample.name) for sample in samples}
    if there:
        raise ConfigError(
            f"{out} holds masks made with other settings, classes, prompts, encoders or another"
            f" model (see {file})"
            + (f", such as {min(there).name}, which this call would leave" if overwrite else "")
            + ". Use the same ones to go on, or another folder (--out) to begin anew"
            + ("." if overwrite else ", or --overwrite to replace all of them.")
        )
    for sample in samples if overwrite else ():  # an interrupted call must not leave a mixture
        with writing(mask := out / mask_path(sample.name)):
            mask.unlink(missing_ok=True)
