"""Photo encoders without the package that has Lite0's weights: a random stem of its shape."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_photos import AROUND, THINGS, random_lite0, write_photos
from torch import Tensor

from encoders.photos import Photo, open_photos


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Random numbers of a test are the same in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def lite0() -> Iterator[dict[str, Tensor]]:
    """Random weights in Lite0's place, wherever they are loaded."""
    weights = random_lite0()
    with pytest.MonkeyPatch.context() as patch:
        for module in ("photos", "teachers"):
            patch.setattr(f"encoders.{module}.load_lite0", lambda: dict(weights))
        yield weights


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Six photographs of things, and four whose backgrounds are labelled too."""
    root = tmp_path_factory.mktemp("photographs")
    return write_photos(root / "things", THINGS, 1), write_photos(root / "around", AROUND, 2)


@pytest.fixture(scope="session")
def photos(folders: tuple[str, str]) -> tuple[Photo, ...]:
    """Those of both folders."""
    return open_photos(folders)


@pytest.fixture(scope="session")
def cache(lite0: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for features of views; the first who needs them fills it."""
    return tmp_path_factory.mktemp("views")


@pytest.fixture
def hasty(lite0: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher of tags learns for five steps only."""
    monkeypatch.setattr("encoders.teachers.STEPS", 5)
