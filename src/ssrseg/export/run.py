"""From a folder of masks to what another program opens."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ssrseg.console import Steps, steps
from ssrseg.data.files import only_writer, user_path
from ssrseg.data.notices import say_again
from ssrseg.errors import ConfigError, OutputError, SSRError, did_you_mean
from ssrseg.export.formats import FORMATS, Format
from ssrseg.export.labelstudio import LOCAL
from ssrseg.export.output import Output
from ssrseg.export.pictures import Pictures
from ssrseg.export.source import Mask, MasksToExport, Only, find_masks_to_export, read_mask
from ssrseg.failures import Failure
from ssrseg.interruption import Stop, until_stopped
from ssrseg.report.settings import mask_facts


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        out: Folder of the export.
        photos: Folder of the photographs.
        written: Masks that are in it.
        turned: Copies of photographs that were saved upright, because these have an EXIF
            orientation.
        changed: Names of masks whose photograph is no longer what they were made from.
        failures: Masks and images that are left out.
        then: What to do with it.
    """

    out: Path
    photos: Path
    written: int
    turned: int
    changed: tuple[str, ...]
    failures: tuple[Failure, ...]
    then: str


def export_masks(
    masks: str | Path,
    to: str | None = None,
    out: str | Path | None = None,
    *,
    images: str | Path | None = None,
    overlays: bool = False,
    sheet: bool = False,
    tolerance: float | None = None,
    url_prefix: str | None = None,
    only: Only | None = None,
) -> ExportResult:
    """Write masks in a format that other programs open; at full size, with the files' own names.

    A mask that cannot be read, or does not fit its photograph, is left out and listed. Nothing in
    ``out`` is replaced but what an earlier export wrote and nobody has changed.

    Args:
        masks: Folder written by ``masks`` or ``predict``, or with masks and classes.txt.
        to: A key of ``ssrseg.export.formats.FORMATS``; None = pictures only.
        out: Folder, for ``csv`` also a file; by default export/FORMAT beside the masks.
        images: Folder of the photographs, if they are not where manifest.csv says.
        overlays: Also write overlays/NAME.jpg, the masks over their photographs.
        sheet: Also write contact sheets, the images with the lowest score first.
        tolerance: For ``yolo`` and ``labelme``: how far in pixels a polygon may be from the border
            of its region; 0 = it is exact; by default 0 for ``yolo`` and 1 for ``labelme``.
        url_prefix: For ``labelstudio``: what stands before the path of a photograph; by default
            local files, whose document root is the folder that the photographs' folder lies in.
        only: ``accepted``: masks that a person has accepted; ``not-rejected``: all but those that
            they have rejected. None = all.

    Raises:
        ConfigError: If the format is unknown, or has no such option.
        DataError: If there are no masks, or no photographs where they are needed.
        LabelsError: If classes.txt is faulty.
        OutputError: If somebody's file is in the way, or the disk takes nothing.
    """
    pictured = overlays or sheet
    form = _format(to, pictured)
    options = _options(form, to, tolerance, url_prefix)
    say_again()
    folder = None if images is None else user_path(images, "photographs")
    needed = pictured or (form is not None and form.photos)
    source = find_masks_to_export(user_path(masks, "masks"), folder, photos=needed, only=only)
    target = _target(source, out, to)
    if "url_prefix" in options and url_prefix is None:
        options["url_prefix"] = LOCAL + quote(f"{source.photos.name}/", errors="surrogateescape")
    if to == "csv" and target.suffix.lower() == ".csv":
        target, options["file"] = target.parent, target.name
    with (
        only_writer(target),
        until_stopped() as stop,
        steps(f"Export to {to}" if to else "Export", len(source.files)) as progress,
    ):
        output, pages = Output(target, to or "none"), Output(target, "pictures")
        levels = mask_facts(source.root)[1]
        pictures = Pictures(pages, source.classes, levels, overlays=overlays, sheet=sheet)
        stream = _Stream(source, form, pictures, progress, stop, photos=needed)
        if form is not None:
            form.write(stream, output, source.classes, **options)
            output.finish()
        else:
            deque(stream, maxlen=0)
        if pictured:
            pictures.finish()
            pages.finish()
    return ExportResult(
        target,
        source.photos,
        stream.written,
        output.turned,
        tuple(stream.changed),
        tuple(stream.failures),
        form.then.format(out=target, photos=source.photos) if form else "",
    )


class _Stream:
    """The masks of a folder, opened one after the other; what is wrong with some is kept."""

    def __init__(
        self,
        source: MasksToExport,
        form: Format | None,
        pictures: Pictures,
        progress: Steps,
        stop: Stop,
        *,
        photos: bool,
    ) -> None:
        self._source, self._form, self._pictures = source, form, pictures
        self._progress, self._stop, self._photos = progress, stop, photos
        self.written, self.changed, self.failures = 0, list[str](), list(source.failures)

    def __iter__(self) -> Iterator[Mask]:
        files = self._source.files
        if self._form is not None and self._form.by_score:
            files = tuple(sorted(files, key=lambda each: 2 if each.score is None else each.score))
        for each in files:
            if self._stop.requested:
                raise self._stop.error("the export is not whole. The same command makes it anew.")
            try:
                confidence = self._form is not None and self._form.confidence
                mask = read_mask(each, self._source, photo=self._photos, confidence=confidence)
                if self._form is not None:
                    self._form.check(mask)
                self._pictures.add(mask)
            except OutputError:
                raise
            except SSRError as error:
                self.failures.append(Failure(each.name, each.photo or each.mask, str(error)))
            else:
                self.written += 1
                self.changed += [each.name] if mask.photo_changed else []
                yield mask
            self._progress.advance(each.name)


def _format(to: str | None, pictured: bool) -> Format | None:
    if to is None and pictured:
        return None
    if to not in FORMATS:
        known = ", ".join(FORMATS)
        near = did_you_mean(str(to), FORMATS) if to is not None else ""
        raise ConfigError(
            f"format {to!r} (--to) is none of {known}.{near} Without a format there are pictures"
            " only: --overlays, --sheet."
        )
    return FORMATS[to]


def _options(
    form: Format | None, to: str | None, tolerance: float | None, url_prefix: str | None
) -> dict[str, Any]:
    """What a format is told; ConfigError for what it does not take."""
    given = {"tolerance": tolerance, "url_prefix": url_prefix}
    takes = form.options if form else {}
    for name, value in given.items():
        if value is not None and name not in takes:
            users = ", ".join(key for key, each in FORMATS.items() if name in each.options)
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"{option} is an option of {users}, not of {to}. Leave it out.")
    if tolerance is not None and not 0 <= tolerance <= 100:
        raise ConfigError(f"tolerance = {tolerance} (--tolerance), but 0 .. 100 pixels are meant.")
    return {name: given[name] if given[name] is not None else takes[name] for name in takes}


def _target(source: MasksToExport, out: str | Path | None, to: str | None) -> Path:
    """Where the export goes, which is not among the masks."""
    default = source.root / "export" / (to or "")
    target = default if out is None else user_path(out, "the export", OutputError)
    if os.path.realpath(target).startswith(os.path.realpath(source.masks) + os.sep) or (
        os.path.realpath(target) == os.path.realpath(source.masks)
    ):
        raise OutputError(
            f"{target} is in the folder of the masks, where the files of the export would be taken"
            " for masks. Choose another folder (--out)."
        )
    return target
