"""The processes that train one model together: all that knows of ``torch.distributed``.

Between them go three kinds of things: objects and numbers of the host, by gloo, where a process may
be hours behind another; numbers of the device, by NCCL on GPUs; and gradients, by DDP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from ssrseg.console import silent
from ssrseg.errors import ConfigError, ProcessError, SSRError
from ssrseg.launch import Place, meeting_point, place

Item = TypeVar("Item")
Result = TypeVar("Result")

MEET = timedelta(minutes=10)
"""Time in which all processes have to be there."""
WAIT = timedelta(hours=12)
"""Time that one may be behind on the host, such as with its share of a large data set."""


@dataclass(frozen=True)
class Group:
    """A process among those that train one model; alone where there is only one.

    What a method gives is the same in all processes, and all of them have to call it, but for
    ``share``, ``device``, ``wrap`` and ``together``.

    Attributes:
        rank: Number of this process, from 0.
        size: How many there are.
        place: As it was started.
        host: For objects and numbers on the host.
    """

    rank: int = 0
    size: int = 1
    place: Place | None = None
    host: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this one writes and speaks for all."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """What this process does of some work: every ``size``-th piece."""
        return items[self.rank :: self.size] if self.size > 1 else items

    def gathered(self, mine: Sequence[Item]) -> list[Item]:
        """Results for the shares of all, in the order of the pieces."""
        if self.size == 1:
            return list(mine)
        parts = self.all(list(mine))
        count = sum(map(len, parts))
        return [parts[index % self.size][index // self.size] for index in range(count)]

    def all(self, mine: Item) -> list[Item]:
        """What each process has, by their ranks."""
        if self.size == 1:
            return [mine]
        found: list[Any] = [None] * self.size
        with together():
            distributed.all_gather_object(found, mine, group=self.host)
        return found

    def first(self, function: Callable[[], Result]) -> Result:
        """What a function gives in the first process, the only one that calls it.

        Raises:
            SSRError: In all processes, if it does there.
        """
        if self.size == 1:
            return function()
        told: list[Any] = [None, None]
        if self.is_first:
            try:
                told[0] = function()
            except SSRError as error:
                told[1] = error
        with together():
            distributed.broadcast_object_list(told, src=0, group=self.host)
        if told[1] is not None:
            raise told[1]
        result: Result = told[0]
        return result

    def most(self, number: int) -> int:
        """The largest of the processes' numbers; no GPU is waited for."""
        if self.size == 1:
            return number
        numbers = torch.tensor([number])
        with together():
            distributed.all_reduce(numbers, distributed.ReduceOp.MAX, group=self.host)
        return int(numbers)

    def sum(self, numbers: Tensor) -> Tensor:
        """Sum over the processes, where the numbers are; a GPU is not waited for."""
        if self.size == 1:
            return numbers
        total = numbers.detach().clone()
        with together():
            distributed.all_reduce(total, group=self.host if total.device.type == "cpu" else None)
        return total

    def joined(self, rows: Tensor) -> Tensor:
        """The rows of all processes, by their ranks; each has as many."""
        if self.size == 1:
            return rows
        # gloo and NCCL know no bool
        sent = rows.to(torch.uint8) if rows.dtype == torch.bool else rows
        sent = sent.detach().contiguous()
        found = [torch.empty_like(sent) for _ in range(self.size)]
        with together():
            distributed.all_gather(found, sent, self.host if sent.device.type == "cpu" else None)
        return torch.cat(found).to(rows.dtype)

    def equalise(self, tensors: Iterable[Tensor]) -> None:
        """Bring tensors to what they are in the first process, in place."""
        if self.size > 1:
            with together(), torch.no_grad():
                for each in tensors:
                    on_host = each.device.type == "cpu"
                    distributed.broadcast(each, 0, group=self.host if on_host else None)

    def refuse_differences(self, facts: dict[str, object]) -> None:
        """Raise ConfigError if the processes do not see the same."""
        each = self.all({name: str(fact) for name, fact in facts.items()})
        for rank, theirs in enumerate(each):
            for name, fact in theirs.items():
                if fact != each[0][name]:
                    raise ConfigError(
                        f"the processes do not work on the same: {name} is {each[0][name]} in the"
                        f" first one, and {fact} in process {rank}. Give all machines the same"
                        " files, packages and settings."
                    )

    def device(self, name: str) -> str:
        """``cuda`` becomes the GPU of this process; other names stay.

        Raises:
            ConfigError: If it has none of its own.
        """
        if self.size == 1 or not name.startswith("cuda"):
            return name
        return _own_gpu(self.place, name, torch.cuda.device_count())

    def wrap(self, step: Step, *, some_unused: bool) -> nn.Module:
        """The step with gradients averaged over the processes, by DDP; alone, as it is.

        Args:
            some_unused: A loss may leave a weight out.
        """
        if self.size == 1:
            return step
        with together():
            return DistributedDataParallel(step, find_unused_parameters=some_unused)


ALONE = Group()


class Step(nn.Module):
    """The weights of parts that are trained, and a call of whatever computes a loss from them.

    DDP wants a module: it averages the gradients of its parameters once a loss is its output.
    Running means stay out, which it would send around at every call: they are the same anyway.
    """

    def __init__(self, *parts: nn.Module | None) -> None:
        super().__init__()
        trained = (part for part in parts if part is not None)
        self.weights = nn.ParameterList(each for part in trained for each in part.parameters())

    def forward(self, loss: Callable[[], Tensor]) -> Tensor:
        """The loss."""
        return loss()


def unsynchronised(step: nn.Module) -> AbstractContextManager[None]:
    """A block whose gradients only add up in this process."""
    if not isinstance(step, DistributedDataParallel):
        return nullcontext()
    return step.no_sync()


@contextmanager
def started(device: str) -> Iterator[Callable[[], bool]]:
    """Meet the others that torchrun or srun has started; all but the first are silent.

    Nothing happens where this process is alone, or has met the others before. At the end of the
    block they part, however it ends, so that nobody waits for one that failed.

    Args:
        device: Decides how numbers travel: ``auto``, ``cpu`` or ``cuda``.

    Yields:
        Asked once a process has failed: whether none has failed before it, so that it should say
        why.

    Raises:
        ConfigError: If the environment makes no sense.
        ProcessError: If the others do not come.
    """
    found = place()
    if found is None or not distributed.is_available() or distributed.is_initialized():
        yield lambda: True
        return
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if cuda:
        torch.cuda.set_device(_own_gpu(found, "cuda", torch.cuda.device_count()))
    meeting = meeting_point()
    try:
        with together():
            store, _, _ = next(rendezvous(meeting, found.rank, found.size, timeout=MEET))
            distributed.init_process_group(
                "nccl" if cuda else "gloo",
                store=PrefixStore("ssrseg", store),
                rank=found.rank,
                world_size=found.size,
                timeout=MEET,
            )
    except ProcessError as error:
        raise ProcessError(
            f"process {found.rank} of {found.size} did not meet the others within"
            f" {MEET.seconds // 60} minutes ({error.__cause__}). Start all of them, with one"
            " MASTER_ADDR and MASTER_PORT that every machine reaches."
        ) from error

    def first_to_fail() -> bool:
        try:
            return bool(store.add("ssrseg-failed", 1) == 1)
        except RuntimeError:  # its keeper is gone
            return True

    try:
        with nullcontext() if found.rank == 0 else silent():
            yield first_to_fail
    finally:
        distributed.destroy_process_group()


@contextmanager
def joined() -> Iterator[Group]:
    """The processes that have met, as ``started`` or the caller's own script has it."""
    if not distributed.is_available() or not distributed.is_initialized():
        yield ALONE
        return
    rank, size = distributed.get_rank(), distributed.get_world_size()
    if size == 1:
        yield ALONE
        return
    with together():
        host = distributed.new_group(backend="gloo", timeout=WAIT)
    with nullcontext() if rank == 0 else silent():
        yield Group(rank, size, place(), host)


@contextmanager
def together() -> Iterator[None]:
    """Say in a sentence that another process has ended, which libraries say in many ways.

    Raises:
        ProcessError: If a message could not be sent or received.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        raise ProcessError(
            "Another process of this run has ended, or its machine; so this one ends, too. What it"
            " said stands above, or its launcher says how it ended. The same command goes on from"
            " the last checkpoint, also with another number of processes."
        ) from error


def _own_gpu(found: Place | None, name: str, gpus: int) -> str:
    """The GPU of this process, of so many that it sees."""
    if name != "cuda":
        raise ConfigError(
            f'device "{name}" (--device) names one GPU for several processes. Use cuda, which gives'
            " each its own, or cpu."
        )
    local = 0 if found is None else found.local_rank
    if found is not None and found.sees_one_gpu and gpus == 1:
        return "cuda:0"  # srun --gpus-per-task=1
    if local >= gpus:
        raise ConfigError(
            f"process {local} of this machine (counted from 0) has no GPU of its own: there are"
            f" {gpus}. Start as many processes as there are GPUs (--nproc-per-node={max(gpus, 1)}),"
            " or compute on the CPU (--device cpu)."
        )
    return f"cuda:{local}"
