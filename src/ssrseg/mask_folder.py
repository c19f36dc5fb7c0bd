"""A folder that masks go into: what is done already, what a person has corrected, what failed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ssrseg.checkpoint import STATE_FILE
from ssrseg.console import note, track
from ssrseg.data.class_ids import check_class_ids, read_class_ids
from ssrseg.data.files import content_digest, only_writer, write_text, writing
from ssrseg.data.large import upright_size
from ssrseg.data.notices import note_once, say_again
from ssrseg.data.png_rows import RowsPng
from ssrseg.data.sample import Sample
from ssrseg.data.stamped_mask import (
    MaskState,
    has_confidence,
    mask_ids,
    mask_note,
    mask_state,
    write_confidence,
    write_mask,
)
from ssrseg.errors import ConfigError, DataError, OutputError, SSRError, counted
from ssrseg.failures import Failure, write_failures
from ssrseg.interruption import Stop
from ssrseg.made_with import (
    MADE_FROM,
    Change,
    MadeWith,
    change,
    is_ours,
    read_made_with,
    settings_file,
)
from ssrseg.manifest import ACCEPTED, Manifest, confidence_path, mask_path
from ssrseg.manifest import FILE as MANIFEST
from ssrseg.report.masks import write_masks_report
from ssrseg.report.page import PAGE
from ssrseg.review import Review, review_order, write_doubts


@dataclass(frozen=True)
class Making:
    """How the masks of a folder are made.

    Attributes:
        made_from: A key of ``MADE_FROM``.
        made_with: All that decides a mask beside the photograph and its labels.
        settings: Text of the settings, for people.
        has_rest: Told a sample and the digest of its photograph: True if what else is written of it
            is there.
        places: Told the name of a sample: where what is written of it lies.
        confidence: Whether a confidence is wanted beside each mask.
    """

    made_from: str
    made_with: MadeWith
    settings: str
    has_rest: Callable[[Sample, str], bool] = lambda _, __: True
    places: Callable[[str], Sequence[str]] = lambda name: [mask_path(name)]
    confidence: bool = False


_WAITING = 4  # files that are made and not yet written: CAMs and masks
_LARGE = 4_000_000  # pixels of a mask beside which no other one is made: they take memory
_SHOWN = 8  # differences in one message
_UNKNOWN = Change(("nothing that can be read says which",), refused=True, spares_others=False)


class MaskFolder:
    """The masks of one call, made once each; use ``open_masks``.

    A thread writes them, one after the other, while the next one is made: a disk takes its time.
    What depends on them, as ``written`` and ``reviews`` do, is true after ``finish``.

    Attributes:
        todo: Samples whose mask is to be made now.
        corrected: Names of masks that a person has changed or accepted, as keys; these are never
            written.
        done: Masks that were there already, those of a person included.
        written: Masks that were made now.
        renewed: How many of these replace a mask of another photograph or of other labels.
        reviews: What is to be said of the masks of ours, by name.
        failures: What could not be used.
    """

    def __init__(self, out: Path, making: Making, *, strict: bool) -> None:
        self.out, self.making, self.strict = out, making, strict
        self.todo: list[Sample] = []
        self.corrected: dict[str, None] = {}
        self.done = self.written = self.renewed = 0
        self._stale: set[str] = set()
        self._wrong: dict[str, Path] = {}  # masks that are there and no longer wanted
        self.reviews: dict[str, Review] = {}
        self.failures: list[Failure] = []
        self.manifest = Manifest(out / MANIFEST, making.made_with.classes)
        self._writer = ThreadPoolExecutor(1)
        self._waiting: deque[Future[object]] = deque()

    def look(self, samples: Sequence[Sample], *, overwrite: bool) -> None:
        """Sort samples into those to do, those done, and those that a person has corrected.

        A mask that a person has accepted is theirs like one that they have corrected.
        """
        there = (self.out / "masks").is_dir() and not overwrite
        if overwrite and (lost := self.manifest.by_person(samples)):
            masks = counted(len(lost), "mask", "masks")
            note(f"{masks} corrected or accepted by hand will be replaced, such as {lost[0]}.")
        places, has_rest = self.making.places, self._has_rest
        taken = {place for sample in samples for place in places(sample.name)}
        title = "Masks that are there"
        for sample in track(samples, title, len(samples)) if there else samples:
            path = self.out / mask_path(sample.name)
            try:
                _refuse_taken(places(sample.name), sample, taken)
                if not _is_there(path, sample) or overwrite:
                    self._wrong |= {sample.name: path} if overwrite else {}
                    self.todo.append(sample)
                    continue
                photo = content_digest(sample.image)
                state, ids = mask_ids(path, self.making.made_with.mask_of(sample, photo))
                accepted = state is MaskState.STALE and self._is_accepted(sample)
                if state is MaskState.CORRECTED or accepted:
                    self._keep(sample, path, photo, "accepted" if accepted else "corrected")
                    self.done += 1
                    if has_rest(sample, photo):
                        continue
                elif state is MaskState.DONE and ids is not None and has_rest(sample, photo):
                    self._list(sample, ids, photo, Review.from_text(mask_note(path)))
                    self.done += 1
                    continue
                elif state is MaskState.STALE:
                    self._stale.add(sample.name)
                    self._wrong[sample.name] = path
                self.todo.append(sample)
            except SSRError as error:
                if _is_ours(path) and not self._is_accepted(sample):
                    self._wrong[sample.name] = path
                self.fail(sample, error)

    def _is_accepted(self, sample: Sample) -> bool:
        return self.manifest.decision(sample.name) == ACCEPTED

    def _has_rest(self, sample: Sample, photo: str) -> bool:
        """Whether all is there that is wanted beside the mask."""
        if self.making.confidence:
            path = self.out / confidence_path(sample.name)
            if not has_confidence(path, self.making.made_with.mask_of(sample, photo)):
                return False
        return self.making.has_rest(sample, photo)

    def remove_wrong(self) -> None:
        """Remove masks that were made with something else, before others lie beside them."""
        self.remove_report()
        for name, path in self._wrong.items():
            with writing(path):
                path.unlink(missing_ok=True)
            self.manifest.forget(name)
        self.manifest.write()
        self._stale.clear()

    def _keep(self, sample: Sample, path: Path, photo: str, how: str) -> None:
        """Keep what a person has made or accepted, if it is of this photograph."""
        ids = read_class_ids(path)
        check_class_ids(path, ids, len(self.making.made_with.classes))
        height, width = upright_size(sample.image)
        if tuple(ids.shape) != (height, width):
            raise DataError(
                f"{path} was {how} by hand, and has {ids.shape[1]} x {ids.shape[0]} pixels, but"
                f" {sample.image} has {width} x {height}. It was left as it is. Save it at the size"
                " of the photograph, move it away, or choose another folder (--out)."
            )
        if self.manifest.photo(sample.name) not in (None, photo):
            raise DataError(
                f"{path} was {how} by hand, for another photograph than {sample.image} is now."
                " It was left as it is. Move it away, or choose another folder (--out)."
            )
        if self.manifest.photo(sample.name) is None:
            note_once(
                "correction",
                f"{path} was {how} by hand, and nothing says for which photograph: it is taken"
                f" for one of {sample.image} as it is now. So are others that {MANIFEST} does not"
                " know.",
            )
        if how == "accepted":
            self._list(sample, ids, photo, Review.from_text(mask_note(path)))
        else:
            self.manifest.add(sample, ids, photo, "person")
        self.corrected[sample.name] = None

    def remove_report(self) -> None:
        """Remove a page that shows earlier masks."""
        with writing(self.out / PAGE):
            (self.out / PAGE).unlink(missing_ok=True)

    def _list(
        self,
        sample: Sample,
        ids: UInt8[Tensor, "height width"],
        photo: str,
        review: Review | None,
    ) -> None:
        """Write the line of a mask of ours, and keep its review."""
        self.manifest.add(sample, ids, photo, "ssrseg", review)
        if review is not None:
            self.reviews[sample.name] = review

    def write(
        self,
        sample: Sample,
        ids: UInt8[Tensor, "height width"] | RowsPng,
        photo: str,
        review: Review,
        confidence: Float[Tensor, "height width"] | RowsPng | None,
    ) -> None:
        """Have a mask written, unless it is a person's, then its line.

        Args:
            ids: The mask, or what has got it row by row; that, like a large mask, is written before
                this returns.
            photo: Digest of the photograph from before it was read.
            confidence: Written too; None = one of an earlier mask is removed.

        Raises:
            OutputError: If the disk takes nothing, of this mask or of one before.
            DataError: In strict mode, if a photograph is no longer there.
        """
        self.behind(self._write, sample, ids, photo, review, confidence)
        if isinstance(ids, RowsPng) or ids.numel() > _LARGE:
            self.finish()

    def behind(self, call: Callable[..., object], *arguments: object) -> None:
        """Have something done by the thread that writes, after all that it was told before.

        Raises:
            OutputError: If the disk takes nothing, of this or of something before.
        """
        self._waiting.append(self._writer.submit(call, *arguments))
        self._wait(_WAITING)

    def finish(self) -> None:
        """Wait until everything is written.

        Raises:
            OutputError: If the disk takes nothing.
        """
        self._wait(0)

    def _wait(self, most: int) -> None:
        while len(self._waiting) > most:
            self._waiting.popleft().result()

    def close(self) -> None:
        """Wait until the thread has done what it was told; ``finish`` tells whether it could."""
        self._writer.shutdown()

    def _write(
        self,
        sample: Sample,
        ids: UInt8[Tensor, "height width"] | RowsPng,
        photo: str,
        review: Review,
        confidence: Float[Tensor, "height width"] | RowsPng | None,
    ) -> None:
        made_for = self.making.made_with.mask_of(sample, photo)
        path = self.out / confidence_path(sample.name)
        try:
            if confidence is not None:
                write_confidence(path, confidence, made_for)
            else:
                with writing(path):
                    path.unlink(missing_ok=True)
            if sample.name not in self.corrected:
                write_mask(self.out / mask_path(sample.name), ids, made_for, review.to_text())
                shown = ids if isinstance(ids, Tensor) else torch.from_numpy(ids.shown)[None]
                self._list(sample, shown, photo, review)
                self.written += 1
                self.renewed += sample.name in self._stale
        except DataError as error:
            self.fail(sample, error)

    def reviewed(self) -> dict[str, Review]:
        """The reviews, the first to look at first."""
        return review_order(self.reviews)

    def stop_if_asked(self, stop: Stop) -> None:
        """Raise Interrupted between two images if somebody wants the work to end."""
        if stop.requested:
            self.finish()
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
    making: Making,
    *,
    overwrite: bool,
    strict: bool,
    report: bool = True,
) -> Iterator[MaskFolder]:
    """Lock a folder, see what is done, and leave manifest.csv and failures.csv whole at the end.

    Masks that settings have made wrong are removed before the first new one is written, so that a
    folder never holds a mixture; those that a person has corrected stay. A block that comes to its
    end also leaves a report; one that shows earlier masks is removed in any case.

    Args:
        out: Made if it is not there.
        samples: Images that are to have a mask.
        making: How they are made.
        overwrite: Make all masks anew, also those that a person has corrected.
        strict: Stop at the first file that cannot be used.
        report: Write report.html.

    Raises:
        ConfigError: If the folder holds something else, or masks made with other settings.
        OutputError: If another process writes there, or the disk takes nothing.
    """
    start = time.monotonic()
    _refuse_other(out, making.made_from)
    say_again()
    with only_writer(out):
        _refuse_other(out, making.made_from)
        changed = _refuse_mixture(out, samples, making, overwrite=overwrite)
        folder = MaskFolder(out, making, strict=strict)
        try:
            folder.look(samples, overwrite=overwrite)
            if changed:
                folder.remove_wrong()
            classes = making.made_with.classes
            write_text(out / "classes.txt", "".join(f"{name}\n" for name in classes))
            write_text(
                settings_file(out, making.made_from), making.settings + making.made_with.line()
            )
            yield folder
            folder.finish()
        finally:
            try:
                folder.close()
            finally:  # a disk may never answer, and somebody not wait for it
                folder.manifest.write()
                write_doubts(out, folder.reviews)
                write_failures(out, folder.failures)
                if folder.written:
                    folder.remove_report()
        if report:
            spent = time.monotonic() - start
            made = f"{counted(folder.written, 'mask', 'masks')} made in {spent:.0f} s"
            write_masks_report(out, call=f"{made}, {folder.done:,} were there already")


def _refuse_taken(places: Sequence[str], sample: Sample, taken: Collection[str]) -> None:
    """Raise DataError if a file of a sample would lie below one of another: ``taken`` are all."""
    for place in places:
        if any(str(folder) in taken for folder in PurePosixPath(place).parents):
            raise _no_place(place, sample)


def _no_place(place: str | Path, sample: Sample) -> DataError:
    return DataError(
        f"The mask of {sample.image} has no place at {place}, where something else is or is going"
        " to be. Rename the image, or move away what is there."
    )


def _is_there(path: Path, sample: Sample) -> bool:
    """DataError if the mask cannot have its place."""
    try:
        if path.is_dir():
            raise _no_place(path, sample)
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


def _is_ours(path: Path) -> bool:
    """Whether a mask is one of ours, whatever it was made for."""
    try:
        return mask_state(path, "")[0] is MaskState.STALE
    except (DataError, OSError):
        return False


def _refuse_other(out: Path, made_from: str) -> None:
    """Raise ConfigError for the folder of a training run, or of masks made in the other way."""
    holds = "a training run" if (out / STATE_FILE).is_file() else ""
    for source, name in MADE_FROM.items():
        if source != made_from and (out / name).is_file() and not holds:
            holds = f"masks made from {'labels' if source == 'labels' else 'a model alone'}"
    if holds:
        raise ConfigError(f"{out} holds {holds}. Choose another folder (--out) for these masks.")
    if next(out.glob("shards/*/shard.json"), None) is not None:
        raise ConfigError(
            f"{out} holds shards that are not merged. Merge them first (ssrseg merge {out}), or"
            " choose another folder (--out)."
        )


def _refuse_mixture(
    out: Path, samples: tuple[Sample, ...], making: Making, *, overwrite: bool
) -> bool:
    """Raise ConfigError if masks of other settings would lie beside the new ones.

    Returns:
        Whether masks that do not fit have to be removed first.
    """
    file = settings_file(out, making.made_from)
    there = {path for path in (out / "masks").rglob("*.png") if not path.name.startswith(".")}
    if not file.is_file():
        return bool(there)
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror or error}).") from error
    if not there and not is_ours(text):
        raise ConfigError(
            f"{file} was not written by ssrseg, and the settings of these masks would replace it."
            " Choose another folder (--out)."
        )
    earlier = read_made_with(text)
    found = _UNKNOWN if earlier is None else change(earlier, making.made_with)
    if found == Change() or not there:
        return False
    others = there - {out / mask_path(sample.name) for sample in samples}
    left = others and not found.spares_others
    if (found.refused and not overwrite) or left:
        what = "; ".join(found.differences[:_SHOWN])
        what += (
            f"; and {len(found.differences) - _SHOWN} more" if found.differences[_SHOWN:] else ""
        )
        raise ConfigError(
            f"{out} holds masks made with other settings ({what})"
            + (f", such as {min(others).name}, which this call would leave" if left else "")
            + ". Use the same ones to go on, or another folder (--out) to begin anew"
            + ("." if left else ", or --overwrite to replace all of them.")
            + (_keep_ids(out) if earlier is not None and _moved(earlier, making) else "")
        )
    for line in () if overwrite else found.notes:
        note(f"{line}.")
    return True


def _moved(earlier: MadeWith, making: Making) -> bool:
    """Whether all classes are still there, and some have another id."""
    before, now = earlier.classes, making.made_with.classes
    return set(before) <= set(now) and now[: len(before)] != before


def _keep_ids(out: Path) -> str:
    return (
        f" Classes keep their ids if {out / 'classes.txt'} is copied beside the labels and new ones"
        " are added at its end."
    )
