"""Shards on a Ray cluster, as a pipeline of Ray Data: read by tasks, masks by actors, written."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from ssrseg.errors import ConfigError, PackageError, SSRError
from ssrseg.scale.making import ShardResult, asked_of, is_done, make_shard
from ssrseg.scale.place import Place, place
from ssrseg.scale.record import read_record
from ssrseg.scale.shard import Shard
from ssrseg.scale.sources import About, Source
from ssrseg.scale.work import Work

_STORE = 200_000_000  # bytes of objects in a cluster that is started here
_ACTOR_CPUS = 0.4  # actors that took whole CPUs would leave none to read for them: a deadlock
_READER_CPUS = 0.5
_PATIENCE = 10.0  # seconds

LOCAL = "local"
"""Address of a cluster that is started here, and stopped at the end."""


def make_on_ray(
    work: Work, source: Source, shards: Sequence[Shard], out: Place, address: str
) -> Iterator[ShardResult]:
    """Make shards on a cluster: one object is one shard's photographs, still encoded, or paths.

    Tasks read, an actor per GPU (without one: per CPU) holds the encoders and makes the masks. What
    is lost with a process or a machine is made again: a shard that was finished is passed over, and
    one that was begun is gone on with.

    Args:
        out: In a store, or on a disk that all machines see at the same path.
        address: Of the cluster; ``local`` = one that is started here.

    Yields:
        Results, as shards become ready.

    Raises:
        PackageError: If Ray is not installed.
        ConfigError: If the cluster cannot be reached.
        SSRError: As ``make_shard``.
    """
    try:
        import ray
        from ray.data import ActorPoolStrategy, DataContext
    except ImportError as error:
        raise PackageError(
            f"--ray needs the package {error.name}, which is not installed: pip install"
            " 'ssrseg[ray]'."
        ) from error
    asked, made_for = (
        asked_of(work, source.about, shards[0].of),
        work.digest(source.about.vocabulary),
    )
    todo = []
    for shard in shards:
        record = read_record(out, shard)
        if record is not None and is_done(record, asked, made_for) and not work.overwrite:
            yield ShardResult(shard, 0, len(record.names), ())
        else:
            part = pickle.dumps(source.part(shard))
            todo.append({"number": shard.number, "of": shard.of, "part": part})
    if not todo:
        return
    own = not ray.is_initialized()
    if own:
        _connect(ray, address)
    try:
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.verbose_progress = False
        gpus = int(ray.cluster_resources().get("GPU", 0))
        actors = gpus or max(1, int(ray.cluster_resources().get("CPU", 1)))
        done = (
            ray.data.from_items(todo, override_num_blocks=len(todo))
            .map(_read, num_cpus=_READER_CPUS)
            .map_batches(
                _Maker,
                fn_constructor_args=(work, source.about, str(out)),
                batch_size=1,
                compute=ActorPoolStrategy(min_size=1, max_size=min(actors, len(todo))),
                num_cpus=_ACTOR_CPUS,
                num_gpus=1 if gpus else 0,
            )
        )
        for row in done.iter_rows():
            result = pickle.loads(row["result"])
            if isinstance(result, SSRError):
                raise result
            yield result
    finally:
        if own:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    quiet = {"logging_level": "warning", "log_to_driver": False}
    try:
        if address == LOCAL:
            ray.init(include_dashboard=False, object_store_memory=_STORE, **quiet)
        else:
            host, colon, port = address.rpartition("://")[2].rpartition(":")
            if colon and port.isdecimal():  # Ray itself would try for many minutes
                socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
            ray.init(address=address, **quiet)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--ray {address}: no Ray cluster answers there ({' '.join(str(error).split())[:300]})."
            " Give the address that `ray start --head` names, auto on a machine of the cluster, or"
            " local."
        ) from error


def _read(row: dict[str, Any]) -> dict[str, Any]:
    """The photographs of a shard, as they are in their files."""
    try:
        found: Any = list(pickle.loads(row.pop("part")).read())
    except SSRError as error:
        found = error
    return row | {"photographs": pickle.dumps(found)}


class _Maker:
    """An actor: encoders that are loaded once, and make the masks of one shard after another."""

    def __init__(self, work: Work, about: About, out: str) -> None:
        self.work, self.about, self.out = work, about, place(out)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        shard = Shard(int(batch["number"][0]), int(batch["of"][0]))
        found: Any = pickle.loads(batch["photographs"][0])
        if not isinstance(found, SSRError):
            try:
                found = make_shard(self.work, self.about, shard, found, self.out)
            except SSRError as error:
                found = error
        return {"result": [pickle.dumps(found)]}
