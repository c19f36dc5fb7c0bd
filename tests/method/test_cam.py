from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from ssrseg.method.cam import (
    allowed_words,
    gradcam,
    min_max,
    patch_cam,
    word_probability,
)

GRID, DIM, OUT, WORDS, CLASSES = (3, 4), 8, 6, 7, 4
PATCHES = GRID[0] * GRID[1]


class ToyBlock(nn.Module):
    """What follows ln_1 in a transformer's last block, then a norm and a projection."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.attention = nn.MultiheadAttention(DIM, 2, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(DIM), nn.Linear(DIM, 16), nn.GELU(), nn.Linear(16, DIM)
        )
        self.project = nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, OUT, bias=False))
        self.residual = torch.randn(1, 1 + PATCHES, DIM)

    def forward(self, normed: Tensor) -> Tensor:
        x = self.residual + self.attention(normed, normed, normed, need_weights=False)[0]
        return self.project(x + self.mlp(x))[:, 1:]


@pytest.fixture(scope="module")
def block() -> ToyBlock:
    return ToyBlock().eval()


@pytest.fixture
def text() -> Tensor:
    return torch.randn(WORDS, OUT, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def normed() -> Tensor:
    return torch.randn(3, 1 + PATCHES, DIM, generator=torch.Generator().manual_seed(2))


PRESENT = torch.tensor([[2, 0], [1, -1], [3, 1]])


def run(block: ToyBlock, normed: Tensor, text: Tensor, present: Tensor) -> Tensor:
    allowed = allowed_words(present, CLASSES, WORDS)
    return gradcam(block, normed, lambda v: word_probability(v, text, 10.0, allowed), present, GRID)


def literal_gradcam(
    block: ToyBlock, tokens: Tensor, text: Tensor, classes: list[int], wanted: int
) -> Tensor:
    """One class of one image by plain autograd, the competing texts written out."""
    tokens = tokens.clone().requires_grad_()
    feature = block(tokens[None])[0].mean(0)
    logits = []
    for word in [*classes, *range(CLASSES, WORDS)]:
        cosine = feature @ text[word] / (feature.norm() * text[word].norm())
        logits.append(10.0 * cosine)
    exponents = [logit.exp() for logit in logits]
    (exponents[classes.index(wanted)] / sum(exponents)).backward()
    cam = torch.zeros(PATCHES)
    for k in range(DIM):
        alpha = sum(tokens.grad[1 + p, k] for p in range(PATCHES)) / PATCHES
        for p in range(PATCHES):
            cam[p] += alpha * tokens[1 + p, k].item()
    cam = cam.clamp(min=0)
    for _ in range(2):
        cam = (cam - cam.min()) / ((cam - cam.min()).max() + 1e-7)
    return cam.view(GRID)


def test_gradcam_equals_plain_autograd_class_by_class_and_image_by_image(block, normed, text):
    cams = run(block, normed, text, PRESENT)
    assert cams.shape == (3, 2, *GRID)
    for image, slots in enumerate(PRESENT.tolist()):
        classes = [c for c in slots if c >= 0]
        for slot, wanted in enumerate(classes):
            literal = literal_gradcam(block, normed[image], text, classes, wanted)
            assert literal.max() > 0.99
            assert (cams[image, slot] - literal).abs().max() < 1e-4


def test_an_empty_slot_gives_zero(block, normed, text):
    assert run(block, normed, text, PRESENT)[1, 1].abs().max() == 0


def test_an_image_without_classes_and_backgrounds_gives_zero_not_nan(block, normed, text):
    present = torch.tensor([[0], [-1], [1]])
    allowed = allowed_words(present, WORDS, WORDS)  # no background text at all
    cams = gradcam(block, normed, lambda v: word_probability(v, text, 10.0, allowed), present, GRID)
    assert cams[1].abs().max() == 0
    assert cams.isfinite().all()
    features = torch.randn(3, PATCHES, OUT)
    assert patch_cam(features, text, 10.0, allowed, present, GRID)[1].abs().max() == 0


def test_a_batch_equals_its_images_one_by_one(block, normed, text):
    together = run(block, normed, text, PRESENT)
    for image in range(3):
        alone = run(block, normed[image : image + 1], text, PRESENT[image : image + 1])
        torch.testing.assert_close(alone[0], together[image], atol=1e-5, rtol=0)


def test_neither_slot_order_nor_empty_slots_matter(block, normed, text):
    cams = run(block, normed[:1], text, torch.tensor([[2, 0]]))
    swapped = run(block, normed[:1], text, torch.tensor([[0, -1, 2]]))
    torch.testing.assert_close(swapped[:, [2, 0]], cams, atol=1e-5, rtol=0)


def test_gradcam_works_under_no_grad_and_leaves_no_graph(block, normed, text):
    block.zero_grad()
    with torch.no_grad():
        cams = run(block, normed, text, PRESENT)
    assert not cams.requires_grad
    assert all(parameter.grad is None for parameter in block.parameters())


def test_a_linear_head_has_the_closed_form():
    """p_c = softmax of W·mean(a): ∂p_c/∂a_p = (p_c/n)(W_c - Σ_k p_k W_k), the same for every p."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 1 + PATCHES, DIM, generator=generator)
    weight = torch.randn(WORDS, DIM, generator=generator)
    present = torch.tensor([[1, 3]])
    cams = gradcam(lambda a: a[:, 1:], tokens, lambda v: (v @ weight.T).softmax(-1), present, GRID)
    patches = tokens[0, 1:]
    probability = (weight @ patches.mean(0)).softmax(-1)
    for slot, c in enumerate([1, 3]):
        alpha = probability[c] / PATCHES * (weight[c] - probability @ weight)
        raw = (patches @ alpha).clamp(min=0).view(GRID)
        torch.testing.assert_close(cams[0, slot], min_max(min_max(raw)), atol=1e-5, rtol=0)


def test_the_class_token_takes_no_part_in_weights_or_map():
    tokens = torch.randn(1, 1 + PATCHES, DIM, generator=torch.Generator().manual_seed(5))
    loud = tokens.clone()
    loud[:, 0] *= 1000

    def cam(x: Tensor) -> Tensor:
        return gradcam(
            lambda a: a[:, 1:],
            x,
            lambda v: v[:, :2].softmax(-1),
            torch.tensor([[0]]),
            GRID,
        )

    torch.testing.assert_close(cam(tokens), cam(loud))


def test_softmax_runs_over_the_allowed_words_only():
    present = torch.tensor([[2, 0], [1, -1]])
    allowed = allowed_words(present, CLASSES, WORDS)
    assert allowed.tolist() == [
        [True, False, True, False, True, True, True],
        [False, True, False, False, True, True, True],
    ]
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, OUT, generator=generator)
    text = torch.randn(WORDS, OUT, generator=generator)
    probability = word_probability(features, text, 5.0, allowed)
    for image in range(2):
        words = allowed[image].nonzero()[:, 0]
        cosine = torch.stack([torch.cosine_similarity(features[image], text[w], 0) for w in words])
        torch.testing.assert_close(probability[image, words], (5.0 * cosine).softmax(0))
        assert probability[image, ~allowed[image]].abs().max() == 0


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    size=st.floats(0.01, 100.0),
    scale=st.sampled_from([0.5, 20.0, 100.0]),
)
def test_probabilities_sum_to_one_and_ignore_norms(seed, size, scale):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, PATCHES, OUT, generator=generator)
    text = torch.randn(WORDS, OUT, generator=generator)
    allowed = allowed_words(torch.tensor([[0, 1], [3, -1]]), CLASSES, WORDS)
    probability = word_probability(features, text, scale, allowed)
    torch.testing.assert_close(probability.sum(-1), torch.ones(2, PATCHES))
    rescaled = word_probability(features * size, text / size, scale, allowed)
    torch.testing.assert_close(probability, rescaled, atol=1e-4, rtol=0)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), shift=st.floats(-5, 5), gain=st.floats(0.1, 50))
def test_min_max_fills_the_unit_range_and_ignores_shift_and_gain(seed, shift, gain):
    maps = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    scaled = min_max(maps)
    assert scaled.amin((-2, -1)).abs().max() == 0
    assert (scaled.amax((-2, -1)) - 1).abs().max() < 1e-6
    torch.testing.assert_close(min_max(gain * maps + shift), scaled, atol=1e-4, rtol=0)


def test_min_max_of_a_constant_map_is_zero():
    assert min_max(torch.full((1, 2, 2), 7.0)).tolist() == [[[0, 0], [0, 0]]]


def test_patch_cam_reads_each_patch_by_a_loop():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, PATCHES, OUT, generator=generator)
    text = torch.randn(WORDS, OUT, generator=generator)
    present = torch.tensor([[2, 0], [1, -1]])
    allowed = allowed_words(present, CLASSES, WORDS)
    cams = patch_cam(features, text, 5.0, allowed, present, GRID)
    for image, slot, c in [(0, 0, 2), (0, 1, 0), (1, 0, 1)]:
        literal = torch.zeros(GRID)
        for p in range(PATCHES):
            cosine = functional.cosine_similarity(features[image, p][None], text)
            e = (5.0 * cosine).exp() * allowed[image]
            literal[p // GRID[1], p % GRID[1]] = e[c] / e.sum()
        literal = (literal - literal.min()) / (literal.max() - literal.min() + 1e-7)
        torch.testing.assert_close(cams[image, slot], literal)
    assert cams[1, 1].abs().max() == 0
