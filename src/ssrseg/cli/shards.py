"""Masks of more images than one process makes: what masks, predict and merge have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

from ssrseg.cli.app import SPEED, Count
from ssrseg.console import echo
from ssrseg.errors import ConfigError, counted

if TYPE_CHECKING:
    from ssrseg.scale.making import ShardResult
    from ssrseg.scale.shard import Shard
    from ssrseg.scale.sources import Source
    from ssrseg.scale.work import Work

_CHUNK = 500
_SHOWN = 10


@Parameter(name="*", group=SPEED)
@dataclass(frozen=True, kw_only=True)
class Spread:
    """How work is spread over processes and machines."""

    shard: str | None = None
    """i/n: make the i-th of n parts, in shards/ of --out; ssrseg merge joins them."""
    ray: str | None = None
    """Address of a Ray cluster to work on; local: start one here."""
    chunk: Count | None = None
    """Images at a time, on a cluster or from or to a store. Default: 500."""

    def is_wanted(self, data: Path | str | None, out: Path | str) -> bool:
        """Whether masks are made in shards, be it for where the images are or for where they go."""
        from ssrseg.scale.packed import is_beyond_a_folder
        from ssrseg.scale.place import is_address
        from ssrseg.scale.shard import parse_shard

        if self.shard is not None:
            parse_shard(self.shard)  # before any image is looked for
        far = is_address(out) or (data is not None and is_beyond_a_folder(data))
        if self.chunk is not None and not (far or self.ray is not None):
            raise ConfigError(
                "--chunk is an option for --ray, and for images or --out in a store. Leave it out."
            )
        return far or self.shard is not None or self.ray is not None


def make_in_shards(
    work: Work, source: Source, out: Path | str, spread: Spread, *, report: bool
) -> int:
    """Make the masks that are asked for, and merge them unless other shards are made elsewhere.

    Returns:
        The exit code.
    """
    from ssrseg.scale.making import is_merged, make_shard, make_shards
    from ssrseg.scale.place import place
    from ssrseg.scale.shard import Shard, parse_shard

    if spread.shard is not None and spread.ray is not None:
        raise ConfigError(
            "--shard is one job of several, and --ray makes all of them. Give one of the two."
        )
    there = place(out)
    job = Shard(1, 1) if spread.shard is None else parse_shard(spread.shard)
    in_chunks = spread.ray is not None or source.about.staged or there.local is None
    parts = source.parts(job.of, (spread.chunk or _CHUNK) if in_chunks else None)
    if is_merged(there, work, source.about, parts):
        more = "" if source.about.staged else " (photographs were not looked at again)"
        echo(f"All of it was made and merged before{more}: {there}")
        return 0
    mine = job.parts_of(parts)
    if spread.ray is not None:
        from ssrseg.scale.on_ray import make_on_ray

        code = _echo_shards(make_on_ray(work, source, mine, there, spread.ray), mine)
    elif in_chunks:
        code = _echo_shards(make_shards(work, source, mine, there), mine)
    else:
        photographs = source.part(job).read()
        made_for = work.digest(source.about.vocabulary)
        made = make_shard(
            work, source.about, job, photographs, there, made_for=made_for, trusting=False
        )
        code = _echo_shards([made], mine)
    if spread.shard is not None:
        echo(f"When all {job.of} are made: ssrseg merge {there}")
        return code
    return echo_merged(out, report=report)


def _echo_shards(results: Iterable[ShardResult], shards: Sequence[Shard]) -> int:
    """What is made, as it is made; the exit code."""
    from ssrseg.failures import EXIT_CODE

    failed = written = skipped = 0
    for number, each in enumerate(results, 1):
        written, skipped = written + each.written, skipped + each.skipped
        echo(
            f"Shard {each.shard} ({number} of {len(shards)} here):"
            f" {counted(each.written, 'mask', 'masks')} written,"
            f" {counted(each.skipped, 'was', 'were')} there already."
        )
        for failure in each.failures[:_SHOWN]:
            echo(f"  {failure.reason}")
        if each.failures[_SHOWN:]:
            echo(f"  ... and {len(each.failures) - _SHOWN} more.")
        failed += len(each.failures)
    return EXIT_CODE if failed else 0


def echo_merged(out: Path | str, *, report: bool) -> int:
    """Merge, and say what came of it; the exit code."""
    from ssrseg.failures import EXIT_CODE
    from ssrseg.scale.merging import merge_shards

    result = merge_shards(out, report=report)
    echo(
        f"{counted(result.shards, 'shard', 'shards')} merged:"
        f" {counted(result.masks, 'mask', 'masks')} in {result.out}"
        + (
            f"; {counted(result.failures, 'image', 'images')} could not be used (failures.csv)."
            if result.failures
            else "."
        )
    )
    return EXIT_CODE if result.failures else 0
