"""The closed-form gradient against autograd through the library's own block."""

from __future__ import annotations

import pytest
import torch
from tiny_encoders import tiny_tokenizer
from transformers import CLIPConfig, CLIPModel

from ssrseg.method.cam import allowed_words, gradcam, word_probability
from ssrseg.method.gradcam_closed_form import gradcam_closed_form, mean_gradient
from ssrseg.networks.attention import run_block
from ssrseg.networks.clip import FrozenCLIP


@pytest.fixture(params=["quick_gelu", "gelu"])
def clip(request: pytest.FixtureRequest) -> FrozenCLIP:
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            text_config={
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
            },
            vision_config={
                "hidden_size": 64,
                "intermediate_size": 256,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "patch_size": 16,
                "image_size": 64,
                "hidden_act": request.param,
            },
            projection_dim=24,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.15 if parameter.ndim > 1 else 0.3)
    return FrozenCLIP(model, tiny_tokenizer())


def test_the_forward_pass_is_the_librarys(clip: FrozenCLIP) -> None:
    features = clip.encode(torch.randn(2, 3, 48, 80), -1)
    normed = clip.last_norm(features)
    _, attention = run_block(clip._blocks[-1].self_attn, normed, keep=True)
    trace = clip.trace_last_block(features)
    literal = clip.last_block(features, normed)
    torch.testing.assert_close(trace.patch_features, literal, atol=2e-6, rtol=1e-5)
    (found,) = clip.attention(features, trace)
    torch.testing.assert_close(found, attention, atol=1e-6, rtol=0)


def test_the_mean_gradient_is_autograds(clip: FrozenCLIP) -> None:
    features = clip.encode(torch.randn(2, 3, 48, 80))
    cotangent = torch.randn(2, 3, clip.dim)
    ours = mean_gradient(clip.last_block_weights, clip.trace_last_block(features), cotangent)
    for slot in range(3):
        normed = clip.last_norm(features).detach().requires_grad_()
        feature = clip.last_block(features, normed).mean(1)
        (feature * cotangent[:, slot]).sum().backward()
        literal = normed.grad[:, 1:].mean(1)
        assert (ours[:, slot] - literal).abs().max() < 1e-5 * literal.abs().max()


def test_the_cam_is_autograds_for_every_class_of_every_image(clip: FrozenCLIP) -> None:
    features = clip.encode(torch.randn(3, 3, 80, 112))
    text = torch.randn(9, clip.dim)
    present = torch.tensor([[0, 3, -1], [2, 1, 4], [4, -1, -1]])
    allowed = allowed_words(present, 5, 9)

    def probability(feature: torch.Tensor) -> torch.Tensor:
        return word_probability(feature, text, 20.0, allowed)

    normed = clip.last_norm(features)
    fast = gradcam_closed_form(
        clip.last_block_weights,
        clip.trace_last_block(features),
        normed,
        probability,
        present,
        features.grid,
    )
    literal = gradcam(
        lambda a: clip.last_block(features, a), normed, probability, present, features.grid
    )
    assert fast.max() > 0.99
    assert (fast - literal).abs().max() < 1e-5
    assert fast[present < 0].abs().max() == 0
