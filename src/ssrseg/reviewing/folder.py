"""A folder of masks while a person reviews it: what is shown, and what is written at once.

The manifest holds every decision. A mask that a person has changed has no stamp, so that no later
call takes it for ssrseg's own; what ssrseg had made is kept in ``review/NAME.png``.
"""

from __future__ import annotations

import io
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from ssrseg.checkpoint import STATE_FILE
from ssrseg.console import printable
from ssrseg.data.class_ids import check_class_ids, read_class_ids, write_class_ids
from ssrseg.data.classes import NO_CLASS, read_classes_txt
from ssrseg.data.files import atomic_write, content_digest, only_writer, user_path, writing
from ssrseg.data.find_images import images_like
from ssrseg.data.images import read_image
from ssrseg.data.large import small_photo, tiling_of, undecide_absent, upright_size
from ssrseg.data.naming import name_fault
from ssrseg.data.sample import Sample
from ssrseg.data.stamped_mask import (
    MaskState,
    digest_of,
    mask_made_for,
    mask_note,
    mask_state,
    write_confidence,
    write_mask,
)
from ssrseg.data.text import quoted
from ssrseg.data.transforms import limit_side, to_unit
from ssrseg.errors import DataError, SSRError
from ssrseg.kept_cams import KeptCams, cams_path, read_cams, write_cams
from ssrseg.manifest import ACCEPTED, Manifest, confidence_path, mask_path
from ssrseg.manifest import FILE as MANIFEST
from ssrseg.method.evidence import pixel_confidence
from ssrseg.pixel_scores import enlarged, enlarged_ids, mask_of_cam
from ssrseg.report.page import PAGE
from ssrseg.report.settings import mask_facts
from ssrseg.review import Review, review_mask
from ssrseg.reviewing.encoders import EncoderOptions, Encoders

AS_MADE = "review"
"""Folder of the masks as ssrseg made them, of those that a person has changed since."""

_SIDE = 2048  # pixels of the longer side of a photograph on the page
_KEPT = 4  # photographs and masks in memory
_KEPT_CAMS = 256  # CAMs of labels that were tried, so that these can be taken back at once

_OUTDATED = (
    "this mask was made for other labels or settings than the image has now. Run `ssrseg masks`"
    " again, which makes the mask anew, or paint it here."
)

Ids = UInt8[Tensor, "height width"]


class Stale(Exception):
    """Mask, labels or decision on the disk are not those that the page has shown."""


@dataclass(frozen=True)
class _Photo:
    """A photograph, and what is kept of it in memory.

    Attributes:
        digest: Of the content of its file.
        size: Height and width.
        small: At most ``data.max_side`` pixels a side: masks from labels are made from it.
        shown: As JPEG, for the page.
        tiled: Its mask is made in tiles, which only ``masks`` and ``predict`` do.
    """

    path: Path
    digest: str
    size: tuple[int, int]
    small: UInt8[Tensor, "height width 3"]
    shown: bytes
    tiled: bool


@dataclass(frozen=True)
class _Mask:
    """A mask in memory.

    Attributes:
        digest: Of the content of its file.
        edited: Whether a person has made or changed it.
    """

    digest: str
    ids: Ids
    edited: bool


class ReviewFolder:
    """The masks of a folder, in the order of review; use ``open_review``.

    Images are known by their place in ``names``. Several threads may use it.

    Attributes:
        names: The mask that is expected to be worst first, those without a score last.
        classes: Class index i has id i + 1 in the masks.
        images: Folder of the photographs, if they are not where the manifest says.
        encoders: Make CAMs for other labels.
        missing: Number of masks that the manifest lists and that are not there.
    """

    def __init__(self, folder: Path, images: Path | None, encoders: Encoders) -> None:
        self.folder, self.images, self.encoders = folder, images, encoders
        self.classes = read_classes_txt(folder / "classes.txt").names
        self._index = {name: place for place, name in enumerate(self.classes)}
        self._range, self._bands = mask_facts(folder)[1]
        self._manifest = Manifest(folder / MANIFEST, self.classes)
        listed = [name for name in self._manifest.rows if not name_fault(name)]
        there = [name for name in listed if (folder / mask_path(name)).is_file()]
        self.missing = len(listed) - len(there)
        if not there:
            raise DataError(
                f"{folder} holds no mask that {MANIFEST} lists. Run `ssrseg masks` or `ssrseg"
                " predict` to its end first."
            )
        made_with = encoders.made_with
        if made_with is not None and made_with.classes != self.classes:
            encoders.why_not = "classes.txt has changed since the masks were made"
        self.names = tuple(sorted(there, key=lambda name: (self._score(name), name)))
        self._found: dict[str, Path] = {}
        if images is not None:
            self._found = images_like(self.names, images, skip=folder / "masks")
        self._lock = threading.RLock()
        self._masks: OrderedDict[int, _Mask] = OrderedDict()
        self._photos: OrderedDict[int, _Photo] = OrderedDict()
        self._cams: OrderedDict[str, KeptCams] = OrderedDict()

    @property
    def alpha(self) -> float | None:
        """The exponent of the background score that the masks were made with, if known."""
        config = self.encoders.config
        return None if config is None else config.pseudo.alpha

    def summary(self, index: int) -> dict[str, Any]:
        """What the list of images says of one."""
        name = self.names[index]
        row, score = self._manifest.rows[name], self._score(name)
        return {
            "name": printable(name),
            "score": None if math.isinf(score) else score,
            "reasons": _words(row["reasons"]),
            "labels": _words(row["labels"]),
            "given": _words(row["given_labels"]) if row["given_labels"] else None,
            "decision": self._manifest.decision(name),
            "edited": row["made_by"] == "person",
        }

    def detail(self, index: int) -> dict[str, Any]:
        """The same, and what can be done with the image; no mask is made."""
        with self._lock:
            mask = self._mask(index)
            photo, cams, problem = None, None, ""
            try:
                photo = self._photo(index)
                self._check_photo(index, photo, mask.ids)
                cams = self._kept(self._sample(index, photo), photo)
            except SSRError as error:
                problem = printable(str(error))
            return self.summary(index) | {
                "edited": mask.edited,
                "outdated": self._outdated(index, mask),
                "tiled": photo is not None and photo.tiled,
                "version": self._version(index),
                "size": [mask.ids.shape[1], mask.ids.shape[0]],
                "photo": photo is not None,
                "problem": problem,
                "threshold": cams is not None and bool(cams.classes),
                "evidence": {} if cams is None else dict(cams.evidence),
                "as_made": mask.edited and self._as_made(index).is_file(),
            }

    def ids(self, index: int) -> Ids:
        """The mask as it is on the disk now."""
        with self._lock:
            return self._mask(index).ids

    def photo(self, index: int) -> bytes:
        """The photograph as JPEG, upright, small enough to be shown; DataError if it is gone."""
        with self._lock:
            return self._photo(index).shown

    def decide(self, index: int, decision: str, version: str) -> None:
        """Keep a decision on the mask that was seen.

        Raises:
            Stale: If mask, labels or decision are not of this version.
            DataError: If a mask would be accepted that is not of the labels that the image has now.
        """
        with self._lock:
            self._check_version(index, version)
            outdated = self._outdated(index, self._mask(index))
            if decision == ACCEPTED and outdated:
                raise DataError(f"{self._path(index)} is not accepted: {outdated}")
            self._manifest.decide(self.names[index], decision)

    def write(self, index: int, ids: Ids, version: str) -> None:
        """Write a mask that a person has changed; one as ssrseg made it gets its stamp back.

        Raises:
            Stale: If mask, labels or decision are not of this version.
            DataError: If the mask is not one of this photograph and these classes.
            OutputError: If the disk does not take it.
        """
        with self._lock:
            self._check_version(index, version)
            path, as_made, photo = self._path(index), self._as_made(index), self._photo(index)
            mask = self._mask(index)
            self._check_photo(index, photo, ids)
            check_class_ids(path, ids, len(self.classes))
            if torch.equal(ids, mask.ids):
                return
            self._remove_report()
            if not mask.edited:
                _copy(path, as_made)
            elif as_made.is_file() and torch.equal(ids, read_class_ids(as_made)):
                self._restore(index, photo)
                return
            write_class_ids(path, ids)
            self._masks[index] = _Mask(content_digest(path), ids, edited=True)
            self._manifest.add(self._sample(index, photo), ids, photo.digest, "person")

    def reset(self, index: int, version: str) -> None:
        """Put back the mask as ssrseg made it; DataError if that is not kept."""
        with self._lock:
            self._check_version(index, version)
            if not self._as_made(index).is_file():
                raise DataError(f"{self._as_made(index)} is not there: nothing can be put back.")
            self._remove_report()
            self._restore(index, self._photo(index))

    def with_threshold(self, index: int, alpha: float, *, refined: bool) -> Ids:
        """The mask from the kept CAMs under another exponent of the background; not written.

        Args:
            refined: With the pixel refinement of the settings; without, it takes no time.

        Raises:
            DataError: If there are no CAMs of this photograph and its labels.
        """
        with self._lock:
            photo = self._photo(index)
            sample = self._sample(index, photo)
            cams, config = self._kept(sample, photo), self.encoders.config
        if cams is None or config is None:
            raise DataError("There are no CAMs of this photograph for its labels.")
        settings = replace(config.pseudo, alpha=alpha)
        if not refined:
            settings = replace(settings, refine="none")
        ids, _ = mask_of_cam(cams.refined_cam, sample.labels, to_unit(photo.small), settings)
        return undecide_absent(enlarged_ids(ids.cpu(), photo.size), photo.path, config.data)

    def relabel(self, index: int, labels: Sequence[str], version: str) -> None:
        """Give an image other labels, and make its mask anew.

        Without encoders (``encoders.why_not``), and of an image that is seen in tiles, the mask
        stays: one as ssrseg made it cannot be accepted until the next ``ssrseg masks`` makes it
        anew; one that a person has painted is theirs under these labels, too.

        Args:
            labels: Names of classes.

        Raises:
            Stale: If mask, labels or decision are not of this version.
            DataError: If a label is no class, or the photograph cannot be used.
        """
        unknown = set(labels) - self._index.keys()
        if unknown:
            raise DataError(
                f"{quoted(min(unknown))} is no class of this folder (classes.txt). Add it at the"
                " end of the data's classes.yaml or classes.txt, and run ssrseg masks again."
            )
        if self.encoders.made_from != "labels":
            raise DataError("These masks were not made from labels, so there are none to correct.")
        with self._lock:
            self._check_version(index, version)
            photo = self._photo(index)
            earlier = self._sample(index, photo)
            places = tuple(sorted({self._index[label] for label in labels}))
            if places == earlier.labels:
                return
            self._check_photo(index, photo, self._mask(index).ids)
            sample = replace(earlier, labels=places)
            self._remember(self._kept(earlier, photo), earlier, photo)
            cams = self._kept(sample, photo)
        if cams is None and not photo.tiled:  # seconds, in which others may be looked at
            cams = self.encoders.cams(photo.small, places)
        with self._lock:
            self._check_version(index, version)
            if cams is None:
                self._keep_labels(index, sample, photo)
            else:
                self._remember(cams, sample, photo)
                self._make(index, sample, photo, cams)

    def tidy(self) -> None:
        """Leave the manifest with a line per mask, by name."""
        with self._lock:
            self._manifest.write()

    def _make(self, index: int, sample: Sample, photo: _Photo, cams: KeptCams) -> None:
        """Write CAMs, mask and line of an image whose labels a person has corrected.

        The line comes last: who is stopped before it has the earlier labels, and the next ``ssrseg
        masks`` makes their mask. Had it come first, a mask that a person had painted would have
        been kept under labels that it was never seen with.
        """
        config, made_with = self.encoders.config, self.encoders.made_with
        assert config is not None and made_with is not None
        ids, scores = mask_of_cam(
            cams.refined_cam, sample.labels, to_unit(photo.small), config.pseudo
        )
        pair = cams.cam, cams.refined_cam
        review = review_mask(scores, ids, pair, sample.labels, cams.evidence, self.classes)
        whole = undecide_absent(enlarged_ids(ids.cpu(), photo.size), photo.path, config.data)
        made_for = made_with.mask_of(sample, photo.digest)
        self._remove_report()
        write_cams(
            self.folder / cams_path(sample.name),
            cams,
            made_with.cams_of(sample, photo.digest),
        )
        if (path := self.folder / confidence_path(sample.name)).is_file():
            sure = enlarged(pixel_confidence(scores).cpu(), photo.size)
            write_confidence(path, sure, made_for)
        write_mask(self._path(index), whole, made_for, review.to_text())
        self._relabelled(index, sample, photo, whole, "ssrseg", review)
        self._forget_as_made(index)

    def _keep_labels(self, index: int, sample: Sample, photo: _Photo) -> None:
        """Keep other labels beside a mask that does not show them yet."""
        row, score = self._manifest.rows[sample.name], self._score(sample.name)
        review = None if math.isinf(score) else Review(score, tuple(_words(row["reasons"])))
        self._relabelled(index, sample, photo, self._mask(index).ids, row["made_by"], review)

    def _relabelled(
        self,
        index: int,
        sample: Sample,
        photo: _Photo,
        ids: Ids,
        made_by: str,
        review: Review | None,
    ) -> None:
        """Write the line of an image with other labels; what was decided on it counts no longer."""
        given = self._given(index)
        self._manifest.decide(sample.name, "")
        self._manifest.add(sample, ids, photo.digest, made_by, review, given=given)

    def _restore(self, index: int, photo: _Photo) -> None:
        """Move the mask as ssrseg made it to its place again."""
        path, as_made = self._path(index), self._as_made(index)
        review = Review.from_text(mask_note(as_made))
        _copy(as_made, path)
        ids = self._mask(index).ids
        self._manifest.add(self._sample(index, photo), ids, photo.digest, "ssrseg", review)
        self._forget_as_made(index)

    def _forget_as_made(self, index: int) -> None:
        path = self._as_made(index)
        with writing(path):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # others lie there, or it never was
            path.parent.rmdir()

    def _score(self, name: str) -> float:
        """The score of a mask, infinite where there is none."""
        with suppress(ValueError):
            score = float(self._manifest.rows[name]["score"])
            return score if 0 <= score <= 1 else math.inf
        return math.inf

    def _given(self, index: int) -> tuple[int, ...]:
        """The labels that the data give an image."""
        row = self._manifest.rows[self.names[index]]
        return self._places(_words(row["given_labels"] or row["labels"]))

    def _places(self, labels: Sequence[str]) -> tuple[int, ...]:
        return tuple(sorted(self._index[name] for name in labels if name in self._index))

    def _path(self, index: int) -> Path:
        return self.folder / mask_path(self.names[index])

    def _as_made(self, index: int) -> Path:
        return self.folder / AS_MADE / f"{self.names[index]}.png"

    def _mask(self, index: int) -> _Mask:
        """The mask as it is on the disk now."""
        path = self._path(index)
        digest, found = content_digest(path), self._masks.pop(index, None)
        if found is None or found.digest != digest:
            ids = read_class_ids(path, len(self.classes))
            check_class_ids(path, ids, len(self.classes))
            found = _Mask(digest, ids, mask_state(path, "")[0] is MaskState.CORRECTED)
        self._masks[index] = found
        while len(self._masks) > _KEPT:
            self._masks.popitem(last=False)
        return found

    def _outdated(self, index: int, mask: _Mask) -> str:
        """Why a mask of ssrseg's is not one of the labels that the image has now; empty if it is.

        A mask that a person has painted or accepted is theirs: the next ``ssrseg masks`` keeps it.
        """
        name, made_with = self.names[index], self.encoders.made_with
        row = self._manifest.rows[name]
        theirs = mask.edited or self._manifest.decision(name) == ACCEPTED
        if theirs or self.encoders.made_from != "labels":
            return ""
        if made_with is not None and made_with.classes == self.classes and row["photo"]:
            sample = Sample(name, Path(), self._places(_words(row["labels"])), None)
            outdated = mask_made_for(self._path(index)) != made_with.mask_of(sample, row["photo"])
        else:  # nothing says what it would have to be made for
            outdated = bool(row["given_labels"])
        return _OUTDATED if outdated else ""

    def _version(self, index: int) -> str:
        """A name for mask, labels and decision as they are on the disk."""
        row = self._manifest.rows[self.names[index]]
        mask = content_digest(self._path(index))
        return digest_of(mask, row["labels"], row["decision"], row["decided_on"])

    def _check_version(self, index: int, version: str) -> None:
        if self._version(index) != version:
            raise Stale

    def _check_photo(self, index: int, photo: _Photo, ids: Ids) -> None:
        """Raise DataError unless a mask is of this photograph."""
        path = self._path(index)
        if tuple(ids.shape) != photo.size:
            raise DataError(
                f"{path} has {ids.shape[1]} x {ids.shape[0]} pixels, its photograph {photo.path}"
                f" {photo.size[1]} x {photo.size[0]}. Make the mask anew (`ssrseg masks`), or name"
                " the folder of the photographs that it was made from (--images)."
            )
        known = self._manifest.photo(self.names[index])
        if known not in (None, photo.digest):
            raise DataError(
                f"{photo.path} has changed since its mask was made. Make the mask anew (`ssrseg"
                " masks`), or name the folder of the photographs as they were (--images)."
            )

    def _image(self, index: int) -> Path:
        """Where the photograph of an image is said to be."""
        name = self.names[index]
        image = self._manifest.rows[name]["image"]
        if name in self._found:
            return self._found[name]
        if not image or "\0" in image:
            raise DataError(
                f"Nothing says where the photograph of {name} is. Name the folder of the"
                " photographs (--images)."
            )
        return Path(os.path.normpath(self.folder.resolve() / image))

    def _photo(self, index: int) -> _Photo:
        path = self._image(index)
        if not path.is_file():
            raise DataError(
                f"{path} is not there any more. If the photographs have moved, name their folder"
                " (--images)."
            )
        digest = content_digest(path)
        found = self._photos.pop(index, None)
        if found is None or found.digest != digest:
            config = self.encoders.config
            levels, size = (self._range, self._bands), upright_size(path)
            side = _SIDE if config is None else config.data.max_side
            tiled = config is not None and tiling_of(path, config.data, side) is not None
            if tiled or config is None:  # no mask is made from it here
                whole = small_photo(path, max(side, _SIDE), *levels)
            else:
                whole = read_image(path, *levels)
            found = _Photo(path, digest, size, limit_side(whole, side), _jpeg(whole), tiled)
        self._photos[index] = found
        while len(self._photos) > _KEPT:
            self._photos.popitem(last=False)
        return found

    def _sample(self, index: int, photo: _Photo) -> Sample:
        name = self.names[index]
        labels = self._places(_words(self._manifest.rows[name]["labels"]))
        return Sample(name, photo.path, labels, None)

    def _kept(self, sample: Sample, photo: _Photo) -> KeptCams | None:
        """CAMs of a photograph for just these labels, if they were made before."""
        made_with = self.encoders.made_with
        if photo.tiled or made_with is None or made_with.classes != self.classes:
            return None
        made_for = made_with.cams_of(sample, photo.digest)
        found = self._cams.get(made_for)
        return found or read_cams(self.folder / cams_path(sample.name), made_for)

    def _remember(self, cams: KeptCams | None, sample: Sample, photo: _Photo) -> None:
        """Keep CAMs in memory, so that the labels can be taken back at once."""
        if cams is not None and self.encoders.made_with is not None:
            self._cams[self.encoders.made_with.cams_of(sample, photo.digest)] = cams
            while len(self._cams) > _KEPT_CAMS:
                self._cams.popitem(last=False)

    def _remove_report(self) -> None:
        """Remove a page that shows earlier masks."""
        with writing(self.folder / PAGE):
            (self.folder / PAGE).unlink(missing_ok=True)


@contextmanager
def open_review(
    folder: str | Path, images: str | Path | None, options: EncoderOptions
) -> Iterator[ReviewFolder]:
    """Lock a folder of masks and look at what is in it; nobody else writes there meanwhile.

    Args:
        folder: Written by ``masks`` or ``predict``.
        images: Folder of the photographs, if they are not where manifest.csv says.

    Raises:
        DataError: If it is no such folder, or holds no masks.
        LabelsError: If classes.txt is faulty.
        OutputError: If somebody else writes there, such as another review.
    """
    folder = user_path(folder, "masks")
    photos = None if images is None else user_path(images, "photographs")
    if not (folder / MANIFEST).is_file():
        run = (folder / STATE_FILE).is_file()
        what = "holds a training run" if run else f"is no folder of masks: it has no {MANIFEST}"
        if not folder.is_dir():
            what = "is no folder"
        raise DataError(f"{folder} {what}. Name one that `masks` or `predict` has written.")
    with only_writer(folder):
        reviewed = ReviewFolder(folder, photos, Encoders(folder, options))
        yield reviewed
        reviewed.tidy()


def _jpeg(photo: UInt8[Tensor, "height width 3"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(limit_side(photo, _SIDE).numpy()).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _words(cell: str) -> list[str]:
    return [word for word in cell.split(";") if word and word != NO_CLASS]


def _copy(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all."""
    content = source.read_bytes()
    with atomic_write(target) as temporary:
        temporary.write_bytes(content)
