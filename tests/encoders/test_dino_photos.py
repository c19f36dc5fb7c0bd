"""What the photo DINO is taught, against slow forms, and what it is when it is exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_photos import DINO
from torch import Tensor

from encoders import dino_photos
from encoders.dino import encode_patches
from encoders.dino_photos import PhotoDinoObjective, corrupt, resemblance
from encoders.photos import MID, Photo, StemViews, frozen_stem, join, places
from encoders.pretrain import Pretraining
from ssrseg.networks.dino import FrozenDINO


@pytest.fixture
def objective(
    lite0: dict[str, Tensor], photos: tuple[Photo, ...], cache: Path
) -> PhotoDinoObjective:
    return PhotoDinoObjective(DINO, photos, cache)


def test_corruption_touches_only_what_it_reports() -> None:
    generator = torch.Generator().manual_seed(0)
    channels = torch.randn(60, 25, 8, generator=generator)
    corrupted, which = corrupt(channels, generator)
    assert torch.equal(corrupted[~which], channels[~which])
    assert (corrupted[which] != channels[which]).any(-1).float().mean() > 0.99
    clean = (~which).all(1).float().mean()
    assert 0.1 < clean < 0.35  # a fifth, and few by chance
    assert 0.27 < which.float().mean() < 0.45  # 0.8 * 0.45 on average
    assert which.float().mean(1).max() < 1


def test_corrupted_patches_are_the_mean_another_patch_or_noisy() -> None:
    generator = torch.Generator().manual_seed(1)
    channels = torch.randn(60, 25, 8, generator=generator)
    corrupted, which = corrupt(channels, generator)
    wrong, right = corrupted[which], channels[which]
    zero = (wrong == 0).all(-1)
    known = {tuple(row) for row in channels.flatten(0, 1).tolist()}
    moved = torch.tensor([tuple(row) in known for row in wrong.tolist()])
    shares = [part.float().mean().item() for part in (zero, moved, ~zero & ~moved)]
    assert shares == pytest.approx([0.4, 0.3, 0.3], abs=0.06)
    noise = (wrong - right)[~zero & ~moved]
    assert noise.mean().item() == pytest.approx(0, abs=0.05)
    assert noise.std().item() == pytest.approx(1, abs=0.05)


def test_resemblance_against_its_slow_form() -> None:
    generator = torch.Generator().manual_seed(0)
    channels = torch.randn(2, 5, MID, generator=generator) + 0.5
    found = resemblance(channels, temperature=0.2)
    assert torch.allclose(found.sum(-1), torch.ones(2, 5))
    for view, patches in enumerate(channels.double().numpy()):
        free = patches - patches.mean(0)
        units = [patch / np.linalg.norm(patch) for patch in free]
        for row, one in enumerate(units):
            cosines = np.exp([one @ other / 0.2 for other in units])
            expected = torch.tensor(cosines / cosines.sum()).float()
            assert torch.allclose(found[view, row], expected, atol=1e-5)


def test_resemblance_ignores_what_a_view_has_in_common_and_joins_parts() -> None:
    parts = torch.arange(16) // 4
    basis = torch.randn(4, MID)
    channels = (basis[parts] + 0.1 * torch.randn(3, 16, MID)).contiguous()
    found = resemblance(channels, DINO.temperature)
    lit = channels + 5 * torch.randn(3, 1, MID)
    assert torch.allclose(found, resemblance(lit, DINO.temperature), atol=1e-4)
    same = parts[:, None] == parts[None]
    assert (found * same).sum(-1).min() > 0.95


def test_the_losses_of_a_step(
    objective: PhotoDinoObjective, photos: tuple[Photo, ...], cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def corrupt_firsts(channels: Tensor, generator: object) -> tuple[Tensor, Tensor]:
        which = (torch.arange(400) < 100).expand(len(channels), -1)
        return torch.where(which[..., None], 0.0, channels), which

    seen: list[tuple[Tensor, Tensor]] = []
    encode = encode_patches
    monkeypatch.setattr(dino_photos, "corrupt", corrupt_firsts)
    monkeypatch.setattr(
        dino_photos, "encode_patches",
        lambda model, *given: (seen.append(given), encode(model, *given))[1],
    )  # fmt: skip
    model = objective.build_model()
    found = objective.losses(model, model, 2)
    ((channels, where),) = seen
    # the views of the step, whitened by the moments
    views = StemViews(cache, photos, DINO.kept, DINO.seed)
    rng = np.random.default_rng([DINO.seed, 2])
    index = rng.choice(len(photos), 4, replace=False)
    features = views[rng.integers(2, size=4), index]
    mean, deviation = views.moments(DINO.seed)
    clean = ((join(features) - mean) / deviation).flatten(2).mT
    assert torch.equal(channels[:, 100:], clean[:, 100:, :MID]) and (channels[:, :100] == 0).all()
    assert torch.equal(where, places(features.boxes, 20, DINO.grid).flatten(1))
    # both terms
    with torch.no_grad():
        tokens, maps = encode(model["encoder"], channels, where)
        off = (model["decoder"](tokens[:, 1:]) - clean).abs()
    error = torch.where(off < 0.5, off**2, off - 0.25).mean(-1)  # Huber's over 0.5
    denoise = (error[:, :100].sum() + 0.3 * error[:, 100:].sum()) / (4 * 400)
    target = resemblance(clean[..., :MID], DINO.temperature)
    kept = [each / each.sum(-1, keepdim=True) for each in maps]
    relation = sum((target * (target / each).log()).sum(-1).mean() for each in kept) / 2
    assert found["denoise"].item() == pytest.approx(denoise.item(), rel=1e-4)
    assert found["relation"].item() == pytest.approx(relation.item(), rel=1e-3)
    assert found["loss"].item() == pytest.approx((2 * denoise + relation).item(), rel=1e-3)


def test_gradients_reach_the_encoder_and_the_decoder(objective: PhotoDinoObjective) -> None:
    run = Pretraining(objective)
    objective.losses(run.model, run.average, 0)["loss"].backward()
    still = [
        name for name, value in run.model.named_parameters()
        if value.grad is None or value.grad.abs().max() < 1e-9
    ]  # fmt: skip
    # softmax does not see what all keys have in common
    assert all(name.endswith("k_proj.bias") for name in still), still
    assert not [name for name, _ in run.model.named_parameters() if "depthwise" in name]


def test_losses_fall_on_the_same_views(objective: PhotoDinoObjective) -> None:
    run, values = Pretraining(objective), []
    for _ in range(25):
        run.step = 1
        values.append(run.advance())
    assert values[-1]["denoise"] < 0.93 * values[0]["denoise"]
    assert values[-1]["relation"] < 0.95 * values[0]["relation"]


def test_the_exported_folder_is_the_trained_model_on_pixels(
    objective: PhotoDinoObjective, lite0: dict[str, Tensor], tmp_path: Path
) -> None:
    run = Pretraining(objective)
    for _ in range(2):
        run.advance()
    objective.export(run.model, tmp_path)
    dino = FrozenDINO.load(tmp_path)
    assert "patch embedding by EfficientNet-Lite0 (11 blocks)" in dino.description
    assert dino.pixels.numbers == ((127 / 255,) * 3, (128 / 255,) * 3)
    pixels = torch.randn(2, 3, 128, 128)
    mean, deviation = objective._mean[:MID], objective._deviation[:MID]
    with torch.no_grad():
        channels = (frozen_stem()(pixels)[:, :MID] - mean) / deviation
        where = torch.arange(64).expand(2, -1)
        expected, maps = encode_patches(run.model["encoder"], channels.flatten(2).mT, where)
    found = dino.features(pixels).flatten(0, 1)
    for one, other in zip(found, expected[:, 1:].flatten(0, 1), strict=True):
        assert (one - other).norm() < 0.05 * other.norm()  # files are in half precision
    attention = torch.stack(maps).mean(0)
    assert (dino.attention(pixels) - attention).abs().max() < 0.02 * attention.max()
    stored = load_file(tmp_path / "model.safetensors")
    assert not [name for name in stored if "decoder" in name]
    kept = {name.split("projection.", 1)[1] for name in stored if ".projection." in name}
    assert "blocks.10.project.weight" in kept and "blocks.11.project.weight" not in kept
    for name in kept - {"projection.weight", "projection.bias"}:
        value = stored[f"embeddings.patch_embeddings.projection.{name}"]
        assert torch.equal(value, lite0[name].half()), name
