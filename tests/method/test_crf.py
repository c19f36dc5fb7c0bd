from __future__ import annotations

from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ssrseg.method.crf import _simplex, dense_crf, gaussian_filter
from ssrseg.method.pseudo_mask import class_ids, class_scores


def photo(height, width, seed=0):
    """Smooth colours with a red disc: like a photograph, no two pixels tie."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 10 + 2, width // 10 + 2, generator=generator)
    image = 60 + 60 * functional.interpolate(coarse, (height, width), mode="bicubic")[0]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    disc = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (min(height, width) / 3) ** 2
    image[0, disc] += 100
    noise = 4 * torch.randn(3, height, width, generator=generator)
    return (image + noise).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous(), disc


def blurry_probabilities(labels, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = 3 * torch.randn(1, labels, height // 15 + 2, width // 15 + 2, generator=generator)
    return functional.interpolate(coarse, (height, width), mode="bilinear")[0].softmax(0)


def exact_kernel(features):
    """D^-1/2 K D^-1/2 as a full matrix in float64."""
    kernel = torch.exp(-torch.cdist(features.T.double(), features.T.double()).square() / 2)
    scale = kernel.sum(1).rsqrt()
    return scale[:, None] * kernel * scale


def exact_mean_field(image, probabilities, iterations=10):
    height, width = image.shape[:2]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    position = torch.stack([columns.flatten(), rows.flatten()]).double()
    colour = image.flatten(0, 1).T.double()
    message = 3 * exact_kernel(position / 3)
    message += 4 * exact_kernel(torch.cat([position / 64, colour / 5]))
    evidence = probabilities.double().clamp(1e-5, 1).log().flatten(1).T
    marginals = evidence.softmax(1)
    for _ in range(iterations):
        marginals = (evidence + message @ marginals).softmax(1)
    return marginals.T.reshape(probabilities.shape)


@pytest.mark.parametrize("dim", [2, 5])
def test_filter_approximates_the_exact_gaussian(dim):
    extent = {2: 12, 5: 3}[dim]
    features = extent * torch.rand(dim, 400, generator=torch.Generator().manual_seed(dim))
    actual = gaussian_filter(features)(torch.eye(400)).double()
    exact = exact_kernel(features)
    assert (actual - exact).norm() / exact.norm() < 0.2
    # the same Gaussian twice as wide would be far off: the lattice has the right scale
    assert (actual - exact_kernel(features / 2)).norm() / exact.norm() > 0.4
    assert (actual - exact_kernel(features * 2)).norm() / exact.norm() > 0.4


def test_filter_of_far_points_is_the_identity():
    features = torch.tensor([[0.0, 100.0, -300.0], [50.0, 0.0, 7.0]])
    torch.testing.assert_close(gaussian_filter(features)(torch.eye(3)), torch.eye(3))


def test_filter_of_equal_points_is_their_mean():
    # K = 1 for every pair, so D^-1/2 K D^-1/2 = 1 / n
    values = torch.rand(6, 2, generator=torch.Generator().manual_seed(0))
    actual = gaussian_filter(torch.tensor([[0.3], [-1.7], [2.2]]).expand(3, 6))(values)
    torch.testing.assert_close(actual, values.mean(0).expand(6, 2))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), dim=st.integers(1, 5), pixels=st.integers(1, 60))
def test_filter_is_positive_and_its_transpose_blurs_in_reverse(seed, dim, pixels):
    """Each blur is symmetric; the product of all need not be, where the lattice has holes."""
    features = 4 * torch.randn(dim, pixels, generator=torch.Generator().manual_seed(seed))
    forth = gaussian_filter(features)
    kernel = forth(torch.eye(pixels))
    assert kernel.min() >= 0 and kernel.diagonal().min() > 0
    back = replace(forth, chains=forth.chains.flip(0), chain_weights=forth.chain_weights.flip(0))
    torch.testing.assert_close(back(torch.eye(pixels)), kernel.T)


def test_filter_is_symmetric_where_the_lattice_has_no_holes():
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(8.0), indexing="ij")
    features = torch.stack([rows.flatten(), columns.flatten()]) / 3  # several pixels a cell
    inner = ((rows - 4).abs() < 2).logical_and((columns - 4).abs() < 2).flatten()
    kernel = gaussian_filter(features)(torch.eye(72))[inner][:, inner]
    torch.testing.assert_close(kernel, kernel.T, atol=1e-6, rtol=0)
    assert kernel.max() > 0.02


def test_equals_the_exact_mean_field_where_the_case_is_clear():
    image, disc = photo(30, 36)
    probabilities = torch.where(disc, 0.7, 0.2)
    probabilities[13:17, 16:20] = 0.4  # a hole in the object
    probabilities[2:4, 3:5] = 0.6  # a speck in the background
    probabilities = torch.stack([1 - probabilities, probabilities])
    actual, exact = dense_crf(image, probabilities), exact_mean_field(image, probabilities)
    assert torch.equal(actual.argmax(0), exact.argmax(0))
    assert torch.equal(actual.argmax(0), disc.long())
    assert not torch.equal(probabilities.argmax(0), disc.long())
    assert (actual.double() - exact).abs().mean() < 0.01


def test_like_colours_agree_across_a_distance():
    # two red squares, 24 pixels apart; only the left one is known to be an object
    image = torch.full((24, 60, 3), 40, dtype=torch.uint8)
    image[6:18, 6:18, 0] = image[6:18, 42:54, 0] = 220
    probability = torch.full((24, 60), 0.1)
    probability[6:18, 6:18], probability[6:18, 42:54] = 0.95, 0.45
    probabilities = torch.stack([1 - probability, probability])
    actual, exact = dense_crf(image, probabilities), exact_mean_field(image, probabilities)
    assert exact[1, 6:18, 42:54].min() > 0.9 > 0.1 > exact[1, :, 19:41].max()
    assert actual[1, 6:18, 42:54].min() > 0.9 > 0.1 > actual[1, :, 19:41].max()
    alone = dense_crf(image, probabilities, bilateral_xy=3.0)
    assert alone[1, 6:18, 42:54].max() < 0.5


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), dim=st.integers(1, 5))
def test_simplex_weights_interpolate(seed, dim):
    features = 10 * torch.randn(dim, 50, generator=torch.Generator().manual_seed(seed))
    _, weights, _ = _simplex(features)
    assert weights.min() > -1e-5
    torch.testing.assert_close(weights.sum(1), torch.ones(50))
    # the key is linear in the coordinates, so its interpolation at a midpoint is the mean, up to
    # the offset that each call chooses: one call for all three points
    half = torch.cat([features[:, :1], features[:, 1:2], features[:, :2].mean(1, keepdim=True)], 1)
    keys, weights, steps = _simplex(half)
    first, second, middle = (keys.double() * weights.double()).sum(1)
    torch.testing.assert_close(middle, (first + second) / 2, atol=1e-3 * steps.max().item(), rtol=0)


@pytest.mark.parametrize("labels", [3, 21])
@pytest.mark.parametrize(
    "setting", [(3.0, 3.0, 64.0, 5.0, 4.0), (1.0, 3.0, 67.0, 3.0, 4.0), (1.0, 1.0, 121.0, 5.0, 4.0)]
)
def test_agrees_with_pydensecrf(labels, setting):
    pydensecrf = pytest.importorskip("pydensecrf.densecrf")
    height, width = 75, 101
    gaussian_xy, gaussian_weight, bilateral_xy, bilateral_rgb, bilateral_weight = setting
    image, _ = photo(height, width)
    probabilities = blurry_probabilities(labels, height, width)
    peer = pydensecrf.DenseCRF2D(width, height, labels)
    peer.setUnaryEnergy(-probabilities.clamp(1e-5, 1).log().flatten(1).contiguous().numpy())
    peer.addPairwiseGaussian(sxy=gaussian_xy, compat=gaussian_weight)
    peer.addPairwiseBilateral(
        sxy=bilateral_xy, srgb=bilateral_rgb, rgbim=image.numpy(), compat=bilateral_weight
    )
    expected = torch.tensor(np.array(peer.inference(10))).view(labels, height, width)
    actual = dense_crf(
        image,
        probabilities,
        gaussian_xy=gaussian_xy,
        gaussian_weight=gaussian_weight,
        bilateral_xy=bilateral_xy,
        bilateral_rgb=bilateral_rgb,
        bilateral_weight=bilateral_weight,
    )
    assert (actual.argmax(0) == expected.argmax(0)).float().mean() >= 0.999
    assert (actual - expected).abs().max() < 1e-3


def test_without_iterations_or_weights_nothing_moves():
    image, _ = photo(20, 30)
    probabilities = blurry_probabilities(4, 20, 30)
    torch.testing.assert_close(dense_crf(image, probabilities, iterations=0), probabilities)
    torch.testing.assert_close(dense_crf(image, 0.5 * probabilities, iterations=0), probabilities)
    still = dense_crf(image, probabilities, gaussian_weight=0.0, bilateral_weight=0.0)
    torch.testing.assert_close(still, probabilities)


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 9), width=st.integers(1, 9), labels=st.integers(1, 4), flat=st.booleans()
)
def test_marginals_are_probabilities_and_follow_their_label(height, width, labels, flat):
    image = torch.full((height, width, 3), 255, dtype=torch.uint8)
    if not flat:
        image, _ = photo(height, width)
    probabilities = blurry_probabilities(labels, height, width)
    probabilities[0] = 0  # certain absence must not become nan
    before = probabilities.clone()
    marginals = dense_crf(image, probabilities)
    assert torch.equal(probabilities, before)
    torch.testing.assert_close(marginals.sum(0), torch.ones(height, width))
    turned = dense_crf(image, probabilities.flip(0).contiguous())
    torch.testing.assert_close(turned, marginals.flip(0), atol=1e-4, rtol=0)


def test_a_kernel_too_narrow_to_number_is_refused():
    with pytest.raises(ValueError, match="kernel too narrow"):
        gaussian_filter(1e5 * torch.rand(5, 20, generator=torch.Generator().manual_seed(0)))


def test_sizes_must_agree(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"\(4, 5, 3\).*\(2, 5, 4\)"):
        dense_crf(torch.zeros(4, 5, 3, dtype=torch.uint8), torch.full((2, 5, 4), 0.5))


@pytest.mark.parametrize("case", ["clipes_1", "clipes_2"])
def test_clip_ess_pseudo_mask_is_reproduced(shared, case):
    image_file = pytest.importorskip("PIL.Image")
    golden = shared / "golden"
    image = np.array(image_file.open(golden / "JPEGImages" / "2007_000001.jpg").convert("RGB"))
    # CLIP-ES filters the BGR image with its mean taken off and wrapped into uint8
    image = (image[..., ::-1] - np.array([104.008, 116.669, 122.675])).astype(np.int64) % 256
    name = f"{golden}/{case}/2007_000001"
    refined_cam = torch.from_numpy(np.load(f"{name}_refined.npy"))[None]
    probabilities = class_scores(refined_cam, image.shape[:2])[0]
    marginals = dense_crf(
        torch.from_numpy(image.astype(np.uint8)),
        probabilities,
        gaussian_xy=1.0,
        gaussian_weight=3.0,
        bilateral_xy=67.0,
        bilateral_rgb=3.0,
        bilateral_weight=4.0,
    )
    present = torch.from_numpy(np.load(f"{name}_keys.npy").astype(np.int64))
    ids = class_ids(marginals[None], present[None], min_score=0.95)[0]
    truth = torch.from_numpy(np.load(f"{name}_pseudo.npy"))
    assert (ids == truth).float().mean() >= 0.999
