"""A folder of masks for every test, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import reviewed

from ssrseg.config import Config


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, clip_dir: Path, dino_dir: Path) -> Path:
    return reviewed.made(tmp_path_factory.mktemp("made"), clip_dir, dino_dir)


@pytest.fixture
def masks(made: Path, tmp_path: Path) -> Path:
    return reviewed.copied(made, tmp_path)


@pytest.fixture
def config(clip_dir: Path, dino_dir: Path) -> Config:
    return reviewed.config(clip_dir, dino_dir)
