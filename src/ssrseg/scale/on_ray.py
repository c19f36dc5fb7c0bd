"""Shards on a Ray cluster, as a pipeline of Ray Data: read by tasks, masks by actors, written."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from ssrseg.errors import ConfigError, PackageError, SSRError
from ssrseg.scale.making import ShardResult, asked_of, is_done, make_shard
from ssrseg.scale.place import Place, place
from ssrseg.scale.record import read_record
from ssrseg.scale.shard import Shard
from ssrseg.scale.sources import Source
from ssrseg.scale.work import Work

_STORE = 200_000_000  # bytes of objects in a cluster that is started here
_ACTOR_CPUS = 0.4  # actors that took whole CPUs would leave none to read for them: a deadlock
_READER_CPUS = 0.5

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
    asked, made_for = asked_of(work, source, shards[0].of), work.digest(source.vocabulary)
    todo = []
    for shard in shards:
        record = read_record(out, shard)
        if record is not None and is_done(record, asked, made_for) and not work.overwrite:
            yield ShardResult(shard, 0, len(record.names), ())
        else:
            todo.append({"number": shard.number, "of": shard.of})
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
            .map(_Reader(source), num_cpus=_READER_CPUS, max_retries=-1)
            .map_batches(
                _Maker,
                fn_constructor_args=(work, source, str(out)),
                batch_size=1,
                compute=ActorPoolStrategy(min_size=1, max_size=min(actors, len(todo))),
                num_cpus=_ACTOR_CPUS,
                num_gpus=1 if gpus else 0,
                max_restarts=-1,
                max_task_retries=-1,
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
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--ray {address}: no Ray cluster answers there ({' '.join(str(error).split())[:300]})."
            " Give the address that `ray start --head` names, auto on a machine of the cluster, or"
            " local."
        ) from error


class _Reader:
    """A task: the photographs of a shard, as they are in their files."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            found: Any = list(self.source.read(Shard(int(row["number"]), int(row["of"]))))
        except SSRError as error:
            found = error
        return row | {"photographs": pickle.dumps(found)}


class _Maker:
    """An actor: encoders that are loaded once, and make the masks of one shard after another."""

    def __init__(self, work: Work, source: Source, out: str) -> None:
        self.work, self.source = work, source
        self.out = place(out)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        shard = Shard(int(batch["number"][0]), int(batch["of"][0]))
        found: Any = pickle.loads(batch["photographs"][0])
        if not isinstance(found, SSRError):
            try:
                found = make_shard(self.work, self.source, shard, self.out, found)
            except SSRError as error:
                found = error
        return {"result": [pickle.dumps(found)]}
