from __future__ import annotations

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssrseg.method import par
from ssrseg.method.par import pixel_adaptive_refinement, pixel_affinity
from ssrseg.method.pseudo_mask import class_ids, class_scores

W1, W2 = 0.3, 0.01


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def literal_affinity(image, dilations):
    """The formula, pixel by pixel in float64: (neighbours, height, width) and the neighbours."""
    _, height, width = image.shape
    steps = [
        (d * dy, d * dx) for d in dilations for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx
    ]
    distance = np.array([np.hypot(*step) for step in steps])
    position = softmax(-((distance / (distance.std(ddof=1) + 1e-8) / W1) ** 2))
    affinity = np.empty((len(steps), height, width))
    where = {}
    for y in range(height):
        for x in range(width):
            # replicate padding: a neighbour outside is the nearest pixel inside
            where[y, x] = [
                (min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1))
                for dy, dx in steps
            ]
            colours = np.array([image[:, ny, nx] for ny, nx in where[y, x]])
            ratio = np.abs(colours - image[:, y, x]) / (colours.std(0, ddof=1) + 1e-8) / W1
            affinity[:, y, x] = softmax(-(ratio**2).mean(1)) + W2 * position
    return affinity, where


def literal_refinement(image, scores, iterations, dilations):
    affinity, where = literal_affinity(image, dilations)
    for _ in range(iterations):
        moved = np.zeros_like(scores)
        for (y, x), places in where.items():
            for weight, (ny, nx) in zip(affinity[:, y, x], places, strict=True):
                moved[:, y, x] += weight * scores[:, ny, nx]
        scores = moved
    return scores


@pytest.mark.parametrize(
    ("size", "dilations", "iterations"),
    [((9, 13), (1, 2, 4), 3), ((5, 4), (1, 2, 4, 8, 12, 24), 2), ((1, 6), (3,), 1)],
)
def test_equals_the_pixel_by_pixel_formula(size, dilations, iterations):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, *size, generator=generator)
    scores = torch.rand(2, 4, *size, generator=generator)
    refined = pixel_adaptive_refinement(image, scores, iterations=iterations, dilations=dilations)
    assert refined.dtype == torch.float32
    for one in range(2):
        expected = literal_refinement(
            image[one].double().numpy(), scores[one].double().numpy(), iterations, dilations
        )
        np.testing.assert_allclose(refined[one].numpy(), expected, atol=1e-5)


def test_affinity_equals_the_formula():
    image = torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(1))
    expected, _ = literal_affinity(image[0].double().numpy(), (1, 3))
    actual = pixel_affinity(image, dilations=(1, 3))
    np.testing.assert_allclose(actual[:, 0, 0].numpy(), expected, atol=1e-5)


def test_a_constant_image_is_plain_smoothing():
    # no colour tells neighbours apart: uniform 1/8 plus the position term
    affinity = pixel_affinity(torch.full((1, 3, 5, 5), 0.4), dilations=(1,))
    distance = np.array([2**0.5, 1, 2**0.5, 1, 1, 2**0.5, 1, 2**0.5])
    position = softmax(-((distance / (distance.std(ddof=1) + 1e-8) / W1) ** 2))
    expected = torch.tensor(1 / 8 + W2 * position, dtype=torch.float32)
    torch.testing.assert_close(affinity[:, 0, 0], expected[:, None, None].expand(-1, 5, 5))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), height=st.integers(1, 12), width=st.integers(1, 12))
def test_weights_sum_to_one_plus_w2_and_are_not_negative(seed, height, width):
    generator = torch.Generator().manual_seed(seed)
    image = (torch.rand(2, 3, height, width, generator=generator) * 4).round() / 4
    affinity = pixel_affinity(image, dilations=(1, 2, 5))
    assert affinity.min() >= 0
    torch.testing.assert_close(affinity.sum(0), torch.full((2, 1, height, width), 1 + W2))
    scores = torch.rand(2, 2, height, width, generator=generator)
    once = pixel_adaptive_refinement(image, scores, iterations=1, dilations=(1, 2, 5)) / (1 + W2)
    assert once.min() >= scores.min() - 1e-6 and once.max() <= scores.max() + 1e-6


def test_constant_scores_stay_constant():
    image = torch.rand(1, 3, 30, 20, generator=torch.Generator().manual_seed(2))
    refined = pixel_adaptive_refinement(image, torch.full((1, 2, 30, 20), 0.5))
    torch.testing.assert_close(refined, torch.full((1, 2, 30, 20), 0.5 * (1 + W2) ** 20))


def test_scores_follow_an_edge_of_the_image():
    # black | white; the object's score leaks two columns over the edge and is drawn back
    image = torch.zeros(1, 3, 32, 32)
    image[..., 16:] = 1
    image += 0.05 * torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    scores = torch.zeros(1, 1, 32, 32)
    scores[..., 14:] = 1
    refined = pixel_adaptive_refinement(image, scores)
    assert refined[..., 14:16].max() < 0.5 * 1.01**20 < refined[..., 16:18].min()


def test_any_normalisation_of_the_image_does_the_same():
    generator = torch.Generator().manual_seed(4)
    image, scores = torch.rand(1, 3, 20, 20, generator=generator), torch.rand(1, 2, 20, 20)
    mean, deviation = torch.rand(3, 1, 1), torch.tensor([58.0, 0.2, 255.0])[:, None, None]
    torch.testing.assert_close(
        pixel_adaptive_refinement((image - mean) * deviation, scores),
        pixel_adaptive_refinement(image, scores),
        atol=1e-5,
        rtol=0,
    )


def test_batch_equals_one_by_one_and_inputs_are_untouched():
    image, scores = torch.rand(3, 3, 8, 9), torch.rand(3, 2, 8, 9, requires_grad=True)
    before = image.clone(), scores.detach().clone()
    together = pixel_adaptive_refinement(image, scores, iterations=2)
    alone = [
        pixel_adaptive_refinement(image[i : i + 1], scores[i : i + 1], iterations=2)
        for i in range(3)
    ]
    torch.testing.assert_close(together, torch.cat(alone))
    assert torch.equal(image, before[0]) and torch.equal(scores.detach(), before[1])
    assert not together.requires_grad


def test_image_by_image_without_empty_slots_is_the_batch_at_once(monkeypatch):
    image, scores = torch.rand(3, 3, 8, 9), torch.rand(3, 4, 8, 9)
    scores[0, 2:] = 0
    scores[1] = 0
    whole = par._refined(image, scores, 3, par.DILATIONS)  # as on a GPU
    sizes, original = [], par._refined

    def spy(photo, maps, *options):
        sizes.append(tuple(maps.shape[:2]))
        return original(photo, maps, *options)

    monkeypatch.setattr(par, "_refined", spy)
    torch.testing.assert_close(pixel_adaptive_refinement(image, scores, iterations=3), whole)
    assert sizes == [(1, 2), (1, 4)]


def test_sizes_must_agree(monkeypatch):
    # without the tests' shape checker, as users run it
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"\(1, 3, 8, 8\).*\(1, 2, 8, 9\)"):
        pixel_adaptive_refinement(torch.rand(1, 3, 8, 8), torch.rand(1, 2, 8, 9))


def test_weclips_pseudo_mask_is_reproduced(shared):
    folder = shared / "golden" / "weclip_2"
    image = torch.from_numpy(np.load(folder / "input.npy"))[None]
    refined_cam = torch.from_numpy(np.load(folder / "refined.npy"))[None]
    scores = class_scores(refined_cam, tuple(image.shape[2:]))
    ids = class_ids(pixel_adaptive_refinement(image, scores), torch.tensor([[7, 8]]))
    truth = torch.from_numpy(np.load(folder / "pseudo.npy"))
    assert (ids[0] == truth).float().mean() >= 0.999
