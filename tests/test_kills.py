from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the harness forks")
def test_a_few_kills() -> None:
    """The short form of ``make kills``; a process of its own, because it forks."""
    harness = Path(__file__).with_name("kills.py")
    done = subprocess.run(
        [sys.executable, harness, "--kills", "10", "--seed", "1"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("| ")]
    kills = {row[0].strip(): int(row[2]) + int(row[3]) for row in rows[1:]}
    assert kills == {
        "train": 4, "train, 2 loaders": 1, "train, cached features": 1, "masks": 2,
        "masks, other alpha": 1, "predict": 3,
    }  # fmt: skip
