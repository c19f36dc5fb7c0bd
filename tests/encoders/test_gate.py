from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import torch

from encoders.gate import average_precision, cam_miou, check_clip, held_out_scenes, probe_accuracy
from ssrseg.networks.clip import FrozenCLIP


def test_average_precision_by_hand() -> None:
    present = torch.tensor([True, False, True, False])
    # ranks of the positives: 1 and 3 -> (1/1 + 2/3) / 2
    assert average_precision(torch.tensor([4.0, 3.0, 2.0, 1.0]), present) == pytest.approx(5 / 6)
    assert average_precision(torch.tensor([4.0, 1.0, 3.0, 2.0]), present) == 1.0


def test_perfect_cams_score_one_and_wrong_ones_lose() -> None:
    maps = torch.zeros(1, 12, 16, 16)
    maps[0, 2, :8] = 1.0
    truth = torch.zeros(1, 16, 16, dtype=torch.long)
    truth[0, :8] = 3
    assert cam_miou(maps, truth) == pytest.approx(1.0)
    truth[0, :8] = 4
    # the background is right (IoU 1), class 4 is never found (IoU 0)
    assert cam_miou(maps, truth) == pytest.approx(0.5)


def test_probe_generalises_or_not() -> None:
    generator = torch.Generator().manual_seed(0)
    kinds = torch.arange(240) % 12
    noise = torch.randn(240, 24, generator=generator)
    fitted = torch.arange(240) < 120
    centres = 6 * torch.randn(12, 24, generator=generator)
    assert probe_accuracy(centres[kinds] + noise, kinds, fitted) > 0.98
    assert probe_accuracy(noise, kinds, fitted) < 0.3


def test_shipped_clip_passes() -> None:
    folder = Path(str(files("ssrseg.demo") / "weights" / "clip"))
    figures = check_clip(FrozenCLIP.load(folder), held_out_scenes(40))
    assert figures["tag_map"] > 0.9
    assert figures["tag_map_cls"] > 0.9
    assert figures["cam_miou"] > 0.45
