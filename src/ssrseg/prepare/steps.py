"""Make a data set ready: what is missing and where it comes from, archives, superpixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from ssrseg.config import Config
from ssrseg.console import CheckResult, steps
from ssrseg.data.files import atomic_write
from ssrseg.data.images import read_image
from ssrseg.data.sample import Sample
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.data.transforms import limit_side
from ssrseg.errors import DataError
from ssrseg.prepare.archives import Archive, unpack
from ssrseg.prepare.download import At, check_file, check_room, download
from ssrseg.prepare.workers import in_processes

_SHOWN = 3


@dataclass(frozen=True)
class Prepared:
    """What a data set has and what it lacks.

    Attributes:
        root: Its folder.
        findings: One line per part; those with a cure are missing.
    """

    root: Path
    findings: tuple[CheckResult, ...]

    @property
    def complete(self) -> bool:
        """True if nothing is missing."""
        return not any(finding.cure for finding in self.findings)


@dataclass(frozen=True)
class Origin:
    """Where missing archives come from.

    Attributes:
        downloads: Folder of archives; one that lies there is used without a network.
        fetch: Download what does not lie there.
        mirror: Address under which the archives lie by their names, instead of the official ones.
    """

    downloads: Path
    fetch: bool = False
    mirror: str | None = None


@dataclass(frozen=True)
class Gap:
    """Files that a data set lacks.

    Attributes:
        what: Such as "images".
        total: How many there should be.
        missing: Their names.
        archive: What provides them.
    """

    what: str
    total: int
    missing: tuple[str, ...]
    archive: Archive

    def finding(self, origin: Origin, listed: Path | None) -> CheckResult:
        """As a line of the report; ``listed`` is the file with the names that do not fit there."""
        shown = ", ".join(self.missing[:_SHOWN])
        if self.missing[_SHOWN:]:
            shown += ", ..." if listed is None else f", ... (all in {listed})"
        archive = self.archive
        size = f" ({archive.size / 1e9:.1f} GB)" if archive.size else ""
        where = f"put {archive.name}{size} into {origin.downloads} and run the same command again"
        if archive.url and not origin.fetch:
            where = f"run the same command with --download, or {where}"
        return CheckResult(
            self.what,
            f"{len(self.missing):,} of {self.total:,} missing",
            f"{shown}: {where}." if self.missing else f"{where}.",
        )


def report_gaps(gaps: Sequence[Gap], origin: Origin) -> list[CheckResult]:
    """Lines of the report; names that do not fit there go into missing.txt beside the archives.

    Its lines say what is missing, and after a tab its name. A tree that cannot be written to goes
    without.
    """
    path = origin.downloads / "missing.txt"
    listed = None
    with suppress(OSError):
        if any(gap.missing[_SHOWN:] for gap in gaps):
            lines = (f"{gap.what}\t{name}\n" for gap in gaps for name in gap.missing)
            with atomic_write(path) as temporary:
                temporary.write_text("".join(lines), encoding="utf-8")
            listed = path
        elif path.exists():
            path.unlink()
    return [gap.finding(origin, listed) for gap in gaps]


def obtain(archive: Archive, folder: Path, origin: Origin) -> bool:
    """Fetch an archive if that is wanted, check it, and unpack it into ``folder``.

    Args:
        archive: The archive.
        folder: What the archive's ``top`` becomes.
        origin: Where archives come from.

    Returns:
        False if the archive is not there and may not be fetched.

    Raises:
        DataError: If it cannot be fetched, is another file, is damaged, or the disk is too small.
    """
    path = origin.downloads / archive.name
    if path.is_file():
        size = path.stat().st_size
        check_room(folder, size, f"Unpacking {archive.name}")
        if archive.sha256:
            with _megabytes(f"Checking {archive.name}", size) as at:
                check_file(path, size=archive.size, sha256=archive.sha256, at=at)
    elif origin.fetch and archive.url:
        part = path.with_name(f"{path.name}.part")
        have = part.stat().st_size if part.exists() else 0
        check_room(folder, 2 * archive.size - have, f"{archive.name}, packed and unpacked,")
        url = f"{origin.mirror.rstrip('/')}/{archive.name}" if origin.mirror else archive.url
        with _megabytes(f"Fetching {archive.name}", archive.size, have) as at:
            download(url, path, size=archive.size, sha256=archive.sha256, at=at)
    else:
        return False
    with _megabytes(f"Unpacking {archive.name}", path.stat().st_size) as at:
        unpack(path, folder, top=archive.top, wanted=archive.wanted, at=at)
    return True


def store_superpixels(
    samples: Sequence[Sample], folder: Path, config: Config, *, workers: int = 1
) -> None:
    """Compute the superpixels that training and masks will ask for; skip those that are there.

    Args:
        samples: Images.
        folder: The cache; give ``train`` and ``masks`` the same one.
        config: ``sgc.n_segments``, ``sgc.compactness`` and ``data.max_side`` decide.
        workers: Processes.

    Raises:
        DataError: If an image cannot be read or the disk is too small.
    """
    cache = SuperpixelCache(
        folder, n_segments=config.sgc.n_segments, compactness=config.sgc.compactness
    )
    check_room(folder, _superpixel_bytes(samples, folder, config), "The superpixels")
    work = partial(_store, cache=cache, max_side=config.data.max_side)
    with steps("Superpixels", len(samples)) as progress:
        for name in in_processes(work, samples, workers):
            progress.advance(name)


def counted(what: str, names: Sequence[str], published: int) -> CheckResult:
    """A list of the data set beside its published length, which a part of it will not have."""
    note = "" if len(names) == published else f"; the published list has {published:,}"
    return CheckResult(what, f"{len(names):,} images{note}")


def check_root(
    root: Path, what: str, *, own: Sequence[str], inner: Sequence[str], may_be_new: bool
) -> None:
    """Refuse a folder that is not there, or one too high.

    Args:
        root: The data set's folder.
        what: Name of the data set.
        own: Folders of which a tree has at least one.
        inner: Where the data set may lie below ``root``, if the user means its parent.
        may_be_new: It will be filled by downloads.

    Raises:
        DataError: With the folder that was probably meant.
    """
    if root.is_file():
        raise DataError(f"--data {root} is a file, but a folder for {what} is expected.")
    deeper = next((root / name for name in inner if (root / name).is_dir()), None)
    if deeper is not None and not any((root / name).is_dir() for name in own):
        raise DataError(f"--data {root} is a folder too high. Give {deeper}.")
    if not root.is_dir() and not may_be_new:
        raise DataError(
            f"--data {root}: there is no such folder. Give the one that holds {what}, or make it by"
            " --download."
        )


def _store(sample: Sample, *, cache: SuperpixelCache, max_side: int) -> str:
    cache(limit_side(read_image(sample.image), max_side), sample.name)
    return sample.name


def _superpixel_bytes(samples: Sequence[Sample], folder: Path, config: Config) -> int:
    """Two bytes a pixel, by the first images, less what is there already."""
    pixels = []
    for sample in samples[:20]:
        with Image.open(sample.image) as image:
            shrink = min(1.0, config.data.max_side / max(image.size))
            pixels.append(image.size[0] * image.size[1] * shrink**2)
    there = sum(file.stat().st_size for file in folder.rglob("*.npy")) if folder.is_dir() else 0
    return max(0, round(2 * sum(pixels) / max(len(pixels), 1) * len(samples)) - there)


@contextmanager
def _megabytes(title: str, size: int, done: int = 0) -> Iterator[At]:
    """Progress in megabytes, told in bytes."""
    with steps(f"{title} (MB)", -(-size // 10**6), done=done // 10**6) as progress:
        shown = done // 10**6

        def at(position: int) -> None:
            nonlocal shown
            while shown < -(-position // 10**6):
                progress.advance()
                shown += 1

        yield at
