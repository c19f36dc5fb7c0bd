"""How a batch is shared by processes, and what a group does where it is alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ssrseg.config import OptimConfig
from ssrseg.errors import ConfigError
from ssrseg.processes import ALONE, Group
from ssrseg.training_run import check_shares


@pytest.mark.parametrize(
    ("batch", "micro", "processes"),
    [(16, None, 4), (16, 16, 4), (16, 100, 8), (16, 2, 8), (16, 3, 1), (5, None, 1), (12, 2, 3)],
)
def test_batches_that_can_be_shared(batch: int, micro: int | None, processes: int) -> None:
    check_shares(replace(OptimConfig(), batch=batch, micro_batch=micro), processes)


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "said"),
    [
        (6, None, 4, r"batch = 6 .* by 4 processes .* \(1, 2, 3, 6\), or set .* multiple of 4"),
        (16, 8, 4, r"micro_batch = 8 does not divide the 4 crops .* Start 1, 2 of them"),
        (16, 3, 2, r"micro_batch = 3 does not divide the 8 crops .* Start one of them"),
    ],
)
def test_batches_that_cannot(batch: int, micro: int | None, processes: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_shares(replace(OptimConfig(), batch=batch, micro_batch=micro), processes)


def test_shares_are_every_nth_piece() -> None:
    groups = [Group(rank, 3) for rank in range(3)]
    pieces = list(range(8))
    assert [list(group.share(pieces)) for group in groups] == [[0, 3, 6], [1, 4, 7], [2, 5]]


def test_alone_nothing_travels() -> None:
    numbers = torch.arange(3)
    assert ALONE.share([1, 2]) == [1, 2]
    assert ALONE.gathered([1, 2]) == [1, 2]
    assert ALONE.first(lambda: 5) == ALONE.most(5) == 5
    assert ALONE.sum(numbers) is ALONE.joined(numbers) is numbers
    ALONE.refuse_differences({"torch": 1})
    assert ALONE.is_first
