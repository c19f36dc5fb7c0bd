"""What preparing VOC and COCO have in common: missing files, archives, superpixels."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ssrseg.config import Config, DataConfig
from ssrseg.console import CheckResult, steps
from ssrseg.data.files import only_writer, sweep, write_text
from ssrseg.data.images import read_image
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.data.transforms import limit_side
from ssrseg.errors import DataError, OutputError
from ssrseg.prepare.archives import Archive, unpack
from ssrseg.prepare.download import (
    Progress,
    RemoteFile,
    check_file,
    check_room,
    download,
    file_size,
)
from ssrseg.prepare.workers import in_processes

_SHOWN = 3


@dataclass(frozen=True)
class Prepared:
    """What the data set in a folder has and what it lacks: a check per part, with cures."""

    root: Path
    checks: tuple[CheckResult, ...]

    @property
    def complete(self) -> bool:
        """True if nothing is missing."""
        return not any(check.cure for check in self.checks)


@dataclass(frozen=True)
class ArchiveSource:
    """Where missing archives come from.

    Attributes:
        downloads: Folder of archives; one that lies there is used without a network.
        fetch: Download what does not lie there.
        mirror: Address under which the archives lie by their names, instead of the official ones.
    """

    downloads: Path
    fetch: bool = False
    mirror: str | None = None

    def unpack(self, archive: Archive, folder: Path) -> bool:
        """Fetch an archive if that is wanted, check it, and unpack its ``top`` as ``folder``.

        False if it is not there and may not be fetched. DataError if it cannot be fetched, is
        another file or damaged, or the disk is too small; OutputError if another process does so.
        """
        path = self.downloads / archive.name
        if not path.is_file() and not (self.fetch and archive.url):
            return False
        with only_writer(self.downloads):
            self._unpack(archive, path, folder)
        return True

    def _unpack(self, archive: Archive, path: Path, folder: Path) -> None:
        sweep(folder)
        if path.is_file():
            size = path.stat().st_size
            check_room(folder, size, f"Unpacking {archive.name}")
            if archive.sha256:
                with _megabytes(f"Checking {archive.name}", size) as progress:
                    check_file(path, archive.size, archive.sha256, progress)
        else:
            have = file_size(path.with_name(f"{path.name}.part"))
            check_room(folder, 2 * archive.size - have, f"{archive.name}, packed and unpacked,")
            url = f"{self.mirror.rstrip('/')}/{archive.name}" if self.mirror else archive.url
            with _megabytes(f"Fetching {archive.name}", archive.size, have) as progress:
                download(RemoteFile(url, archive.size, archive.sha256), path, progress)
        with _megabytes(f"Unpacking {archive.name}", path.stat().st_size) as progress:
            unpack(path, folder, top=archive.top, wanted=archive.wanted, progress=progress)


@dataclass(frozen=True)
class MissingFiles:
    """The names of files that are missing, of a total, and the archive that provides them."""

    what: str
    total: int
    names: tuple[str, ...]
    archive: Archive


def missing_files(
    what: str, names: Collection[str], there: Collection[str], archive: Archive
) -> list[MissingFiles]:
    """Those of the names that are not there, if any."""
    missing = tuple(name for name in names if name not in there)
    return [MissingFiles(what, len(names), missing, archive)] if missing else []


def report_missing(missing: Sequence[MissingFiles], source: ArchiveSource) -> list[CheckResult]:
    """Lines of the report; names that do not fit there go into missing.txt beside the archives.

    Its lines say what is missing, and after a tab its name. A tree that cannot be written to goes
    without.
    """
    path = source.downloads / "missing.txt"
    more = ", ..."
    with suppress(OSError, OutputError):
        if any(each.names[_SHOWN:] for each in missing):
            lines = (f"{each.what}\t{name}\n" for each in missing for name in each.names)
            write_text(path, "".join(lines))
            more = f", ... (all in {path})"
        elif path.exists():
            path.unlink()
    results = []
    for each in missing:
        archive = each.archive
        size = f" ({archive.size / 1e9:.1f} GB)" if archive.size else ""
        where = f" from {archive.url}" if archive.url else ""
        cure = f"put {archive.name}{size}{where} into {source.downloads} and run the same command"
        cure += " again."
        if archive.url and not source.fetch:
            cure = f"run the same command with --download, or {cure}"
        shown = ", ".join(each.names[:_SHOWN]) + (more if each.names[_SHOWN:] else "")
        found = f"{len(each.names):,} of {each.total:,} missing"
        results.append(CheckResult(each.what, found, f"{shown}: {cure}"))
    return results


def store_superpixels(
    data: Iterable[LabelledImages], folder: Path, config: Config | None, workers: int
) -> CheckResult:
    """Compute the superpixels that training and masks will ask for, where they are missing.

    Images that occur twice count once. ``folder`` is the cache that ``train`` and ``masks`` are
    given; ``sgc.n_segments``, ``sgc.compactness``, ``sgc.slic_zoom`` and ``data.max_side`` decide
    what is stored.
    """
    config = config or Config()
    samples = [*{sample.name: sample for part in data for sample in part.samples}.values()]
    sgc = config.sgc
    cache = SuperpixelCache.of(folder, sgc)
    sweep(folder)
    check_room(folder, _superpixel_bytes(samples, folder, config), "The superpixels")
    work = partial(_store, cache=cache, settings=config.data)
    faults = []
    with steps("Superpixels", len(samples)) as counter:
        for name, fault in in_processes(work, samples, workers):
            faults += [fault] if fault else []
            counter.advance(name)
    found = f"{len(samples) - len(faults):,} images in {folder}"
    more = f" ... and {len(faults) - _SHOWN} more." if faults[_SHOWN:] else ""
    return CheckResult("superpixels", found, " ".join(sorted(faults)[:_SHOWN]) + more)


def _store(sample: Sample, *, cache: SuperpixelCache, settings: DataConfig) -> tuple[str, str]:
    """The name, and what is wrong with the image."""
    try:
        cache(
            limit_side(read_image(sample.image, settings.range, settings.bands), settings.max_side)
        )
    except DataError as error:
        return sample.name, str(error)
    return sample.name, ""


def _superpixel_bytes(samples: Sequence[Sample], folder: Path, config: Config) -> int:
    """Two bytes a pixel, by the first images, less what is there already."""
    pixels = []
    for sample in samples[:20]:
        with suppress(DataError):  # said when its turn comes
            pixels.append(
                limit_side(
                    read_image(sample.image, config.data.range, config.data.bands),
                    config.data.max_side,
                )[..., 0].numel()
            )
    there = sum(file.stat().st_size for file in folder.rglob("*.npy"))
    return max(0, round(2 * sum(pixels) / max(len(pixels), 1) * len(samples)) - there)


def check_root(
    root: Path, what: str, *, own: Sequence[str], inner: Sequence[str], may_be_new: bool
) -> None:
    """Raise DataError for a folder that is not there, or one too high.

    Args:
        root: The folder.
        what: Name of the data set.
        own: Folders of which a tree has at least one.
        inner: Where the data set may lie below ``root``, if the user means its parent.
        may_be_new: It will be filled by downloads.
    """
    if root.is_file():
        raise DataError(f"{root} is a file, but a folder for {what} is expected.")
    deeper = next((root / name for name in inner if (root / name).is_dir()), None)
    if deeper is not None and not any((root / name).is_dir() for name in own):
        raise DataError(f"{root} is a folder too high. Give {deeper}.")
    if not root.is_dir() and not may_be_new:
        raise DataError(
            f"{root}: there is no such folder. Give the one that holds {what}, or make it"
            " by download=True (--download)."
        )


@contextmanager
def _megabytes(title: str, size: int, done: int = 0) -> Iterator[Progress]:
    """Progress in megabytes, told in bytes."""
    with steps(f"{title} (MB)", -(-size // 10**6), done=done // 10**6) as counter:
        shown = done // 10**6

        def progress(position: int) -> None:
            nonlocal shown
            while shown < -(-position // 10**6):
                counter.advance()
                shown += 1

        yield progress
