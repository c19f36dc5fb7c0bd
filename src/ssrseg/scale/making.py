"""Make shards: each a folder of masks of its own, which the same command goes on with."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ssrseg.console import note
from ssrseg.data.csv_lines import rows_by_name
from ssrseg.data.files import scratch_folder, user_path, write_text
from ssrseg.data.sample import Sample
from ssrseg.errors import ConfigError, DataError, SSRError, counted
from ssrseg.failures import Failure, read_failures, write_failures
from ssrseg.interruption import Interrupted
from ssrseg.manifest import FILE as MANIFEST
from ssrseg.manifest import manifest_text
from ssrseg.scale.place import Place, is_address
from ssrseg.scale.record import MERGED, Asked, Record, read_merged, read_record, write_record
from ssrseg.scale.shard import Shard, shard_of_folder
from ssrseg.scale.sources import About, Photograph, Source
from ssrseg.scale.work import Work

MARK = "shards/merge.json"
"""Says that the shards beside it are being merged."""


@dataclass(frozen=True)
class ShardResult:
    """What a call has made of a shard.

    Attributes:
        written: Masks that were made now.
        skipped: Masks that were there already.
        failures: Images that could not be used.
    """

    shard: Shard
    written: int
    skipped: int
    failures: tuple[Failure, ...]


def asked_of(work: Work, about: About, of: int) -> Asked:
    """What all shards of a call agree on."""
    return Asked(of, about.digest, about.images, work.made_from, work.confidence)


def is_merged(out: Place, work: Work, about: About, of: int) -> bool:
    """Whether the masks of just this call have been made and merged.

    Raises:
        ConfigError: If shards cannot be made here: there are other masks, or shards of another
            number or being merged.
    """
    merged = read_merged(out, MERGED)
    if merged is not None:
        same = merged.asked == asked_of(work, about, merged.asked.of)
        if same and merged.made_for == work.digest(about.vocabulary) and not work.overwrite:
            return True
        raise ConfigError(
            f"{out} holds merged masks, of other images or made with other settings than now."
            " Choose another folder (--out). (A merged folder of this machine is one like any"
            " other: without --shard, masks and predict go on with it.)"
        )
    if out.read_text(MARK) is not None:
        raise ConfigError(f"The shards of {out} are being merged. Finish that: ssrseg merge {out}")
    if out.read_text(MANIFEST) is not None:
        raise ConfigError(
            f"{out} holds masks that were made without shards. Go on without --shard, or choose"
            " another folder (--out)."
        )
    for name in out.folders("shards"):
        there = shard_of_folder(name)
        if there is not None and there.of != of:
            raise ConfigError(
                f"{out}/shards holds a shard {there}, but now there are {of}. Use the same number"
                " and the same images for all shards, remove that folder, or choose another one"
                " (--out)."
            )
    return False


def make_shard(
    work: Work,
    about: About,
    shard: Shard,
    photographs: Iterable[Photograph],
    out: Place,
    *,
    made_for: str,
    trusting: bool = True,
) -> ShardResult:
    """Write the masks of a shard into its folder below ``out``, and its record last.

    Images of a store or of packed files wait in a temporary folder until their masks are made, and
    so do masks on their way to a store.

    Args:
        about: All images of the call.
        photographs: Those of the shard; they are not touched if there is nothing to do.
        made_for: ``work.digest`` of the vocabulary.
        trusting: Leave a shard as it is that is finished and was asked for the same; else look at
            every image of it again.

    Raises:
        SSRError: As ``make_masks`` and ``predict``; and if a store cannot be reached.
    """
    asked = asked_of(work, about, shard.of)
    record = read_record(out, shard)
    if trusting and is_done(record, asked, made_for) and not work.overwrite:
        assert record is not None
        return ShardResult(shard, 0, len(record.names), ())
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(scratch_folder()))
        samples, origins = _samples(photographs, scratch / "images")
        names = tuple(sample.name for sample in samples)
        write_record(out, Record(asked, shard.number, False, made_for, names, {}))
        local = out.local
        folder = scratch / "out" if local is None else local / shard.folder
        superpixels = scratch / "superpixels" if local is None else local / "superpixels"
        written, skipped = 0, 0
        failures: tuple[Failure, ...] = ()
        if samples:
            try:
                result = work.make(about.vocabulary, samples, folder, superpixels)
            except Interrupted as stopped:
                if local is not None:
                    raise
                raise Interrupted(
                    stopped.signum,
                    f"Stopped. Shard {shard} begins anew with the same command; those that were"
                    f" finished stay in {out}.",
                ) from None
            written, skipped = result.written, result.skipped
            if local is None or about.staged:
                _name_origins(folder, origins, relative=local is not None)
            failures = read_failures(folder)
        if local is None:
            out.remove(shard.folder)  # what an earlier attempt has left
            if samples:
                out.put(folder, shard.folder)
        files = out.sizes(shard.folder)
        kept = {name: size for name, size in files.items() if not name.startswith((".", "shard."))}
        write_record(out, Record(asked, shard.number, True, made_for, names, kept))
    return ShardResult(shard, written, skipped, failures)


def is_done(record: Record | None, asked: Asked, made_for: str) -> bool:
    """Whether a shard is finished, and was asked for just this."""
    return (
        record is not None
        and record.finished
        and (record.asked, record.made_for)
        == (
            asked,
            made_for,
        )
    )


def make_shards(
    work: Work, source: Source, shards: Iterable[Shard], out: Place
) -> Iterator[ShardResult]:
    """Make one shard after the other; encoders are loaded once.

    Raises:
        SSRError: As ``make_shard``; if what is wrong is in the images of a shard, not before all
            others are made.
    """
    made_for, faults = work.digest(source.about.vocabulary), Faults()
    for shard in shards:
        photographs = source.part(shard).read()
        try:
            made = make_shard(work, source.about, shard, photographs, out, made_for=made_for)
        except SSRError as error:
            faults.add(shard, error)
        else:
            yield made
    faults.end()


class Faults:
    """Shards that could not be made, while the others go on."""

    def __init__(self) -> None:
        self._first: SSRError | None = None
        self._shards: list[Shard] = []

    def add(self, shard: Shard, error: SSRError) -> None:
        """Say what is wrong with a shard, and go on.

        Raises:
            SSRError: ``error``, if it is no fault of the images, so that all shards have it.
        """
        if not isinstance(error, DataError):
            raise error
        note(f"Shard {shard} could not be made: {error}")
        self._first = self._first or error
        self._shards.append(shard)

    def end(self) -> None:
        """Raise DataError if there are any."""
        if self._first is not None:
            shards = ", ".join(map(str, self._shards[:5])) + (", ..." if self._shards[5:] else "")
            raise DataError(
                f"{counted(len(self._shards), 'shard', 'shards')} could not be made ({shards}); the"
                f" others were. The first fault: {self._first} The same command then goes on."
            )


def _samples(
    photographs: Iterable[Photograph], folder: Path
) -> tuple[list[Sample], dict[str, tuple[Path, str]]]:
    """Photographs as files; and by name where each is, and where it is from."""
    samples, origins = [], {}
    for number, each in enumerate(photographs):
        if isinstance(each.image, Path):
            file = each.image
        else:
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"{number:08d}{each.suffix}"
            file.write_bytes(each.image)
        samples.append(Sample(each.name, file, each.labels, None))
        origins[each.name] = file, each.origin
    return samples, origins


def _name_origins(folder: Path, origins: Mapping[str, tuple[Path, str]], *, relative: bool) -> None:
    """Say in the tables where photographs are from, instead of where they lay for a while."""
    rows = rows_by_name(folder / MANIFEST)
    for name, row in rows.items():
        if name in origins:
            row["image"] = _place(origins[name][1], folder if relative else None)
    write_text(folder / MANIFEST, manifest_text(rows))
    failures = []
    for each in read_failures(folder):
        file, origin = origins[each.name]
        failures.append(Failure(each.name, origin, each.reason.replace(str(file), origin)))
    write_failures(folder, failures)


def _place(origin: str, folder: Path | None) -> str:
    """An address as it is; a path as seen from a folder, or absolute."""
    if is_address(origin):
        return origin
    path = os.path.realpath(user_path(origin, "an image"))
    seen = path if folder is None else os.path.relpath(path, os.path.realpath(folder))
    return Path(seen).as_posix()
