from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_encoders import clip_config, stir, tiny_clip, tiny_tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPModel, CLIPTokenizer

from ssrseg.errors import BackboneError, ConfigError
from ssrseg.method.cam import allowed_words, gradcam, word_probability
from ssrseg.method.gradcam_closed_form import gradcam_closed_form
from ssrseg.networks import attention
from ssrseg.networks.attention import mean_attention
from ssrseg.networks.clip import ClipFeatures, FrozenCLIP

SIZES = [(320, 320), (96, 160)]


def cosine(found: Tensor, expected: Tensor) -> float:
    return float(functional.cosine_similarity(found, expected, dim=-1).min())


@pytest.fixture(scope="module")
def vit_b() -> CLIPModel:
    """The image tower of ViT-B/16 with a small text tower, random weights, eager attention."""
    text = {
        "vocab_size": 100,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = clip_config(width=768, heads=12, depth=12, dim=512, text=text, image_size=224)
        config._attn_implementation = "eager"
        model = CLIPModel(config)
        stir(model)
    return model.eval()


@pytest.fixture(scope="module")
def ours(vit_b: CLIPModel) -> FrozenCLIP:
    """Our wrapper around a copy in memory that shares nothing but the weights."""
    copy = CLIPModel(deepcopy(vit_b.config))
    copy.load_state_dict(vit_b.state_dict())
    return FrozenCLIP(copy, tiny_tokenizer(), pos_interpolation="bicubic")


@pytest.mark.parametrize("size", SIZES)
def test_parity_with_the_library_at_vit_b_size(
    vit_b: CLIPModel, ours: FrozenCLIP, size: tuple[int, int]
) -> None:
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        library = vit_b.vision_model(
            pixels,
            interpolate_pos_encoding=True,
            output_hidden_states=True,
            output_attentions=True,
        )
        last = vit_b.vision_model.post_layernorm(library.last_hidden_state[:, 1:])
        features = vit_b.visual_projection(last)
    view = ours.encode(pixels, -12)
    found = ours.last_block(view, ours.last_norm(view))

    assert view.grid == (size[0] // 16, size[1] // 16)
    assert (ours.depth, ours.width, ours.dim, ours.patch_size) == (12, 768, 512, 16)
    assert len(view.tokens) == 11
    for tokens, hidden in zip(view.tokens, library.hidden_states[1:], strict=False):
        assert cosine(tokens, hidden) > 0.999
        assert (tokens - hidden).abs().max() < 1e-4 * hidden.abs().max()
    assert cosine(found, features) > 0.999
    assert (found - features).abs().max() < 1e-4 * features.abs().max()

    collected = all_maps(ours, view)
    assert len(view.attention) == 11
    assert view.layers == tuple(range(12))
    for mine, maps in zip(collected, library.attentions, strict=True):
        expected = maps.mean(1)[:, 1:, 1:]
        assert expected.max() > 1.5 * expected.mean()  # not a flat map, which everything matches
        assert (mine - expected).abs().max() < 1e-5
    mean = torch.stack([maps.mean(1)[:, 1:, 1:] for maps in library.attentions]).mean(0)
    assert (mean_attention(collected) - mean).abs().max() < 1e-5


def all_maps(clip: FrozenCLIP, features: ClipFeatures) -> tuple[Tensor, ...]:
    return clip.attention(features, clip.trace_last_block(features))


def test_bilinear_positions_are_an_explicit_interpolation(clip_dir: Path) -> None:
    bilinear, bicubic = (
        FrozenCLIP.load(clip_dir, pos_interpolation=kind) for kind in ("bilinear", "bicubic")
    )
    table = bilinear.model.vision_model.embeddings.position_embedding.weight
    square = table[1:].T.reshape(1, 64, 4, 4)  # the tiny CLIP was made for 64 x 64 pixels
    resized = functional.interpolate(square, size=(3, 5), mode="bilinear", align_corners=False)
    expected = torch.cat([table[:1], resized[0].flatten(1).T])

    assert torch.equal(bilinear._positions((3, 5)), expected)
    assert (bilinear._positions((3, 5)) - bicubic._positions((3, 5))).abs().max() > 1e-2
    assert torch.equal(bilinear._positions((4, 4)), table)  # the native grid is left alone

    pixels = torch.randn(1, 3, 48, 80, generator=torch.Generator().manual_seed(2))
    found = bilinear.encode(pixels).tokens[0]
    embedded = bilinear.model.vision_model.embeddings
    patches = embedded.patch_embedding(pixels).flatten(2).mT
    cls = embedded.class_embedding.expand(1, 1, -1)
    hidden = bilinear.model.vision_model.pre_layrnorm(torch.cat([cls, patches], 1) + expected)
    by_hand = bilinear.model.vision_model.encoder.layers[0](hidden, None)
    assert (found - by_hand).abs().max() < 1e-5
    assert (found - bicubic.encode(pixels).tokens[0]).abs().max() > 1e-2


def test_positions_of_a_grid_that_is_not_square_are_not_transposed(clip_dir: Path) -> None:
    clip = FrozenCLIP.load(clip_dir)
    table = clip.model.vision_model.embeddings.position_embedding.weight
    with torch.no_grad():  # a position embedding that says its row
        table[1:] = torch.arange(4.0).repeat_interleave(4)[:, None]
    rows = clip._positions((4, 6))[1:, 0].view(4, 6)
    assert torch.allclose(rows, torch.arange(4.0)[:, None].expand(4, 6))


def test_sides_that_are_no_multiple_of_a_patch_are_cut_off(clip_dir: Path) -> None:
    clip = FrozenCLIP.load(clip_dir)
    pixels = torch.randn(1, 3, 79, 65, generator=torch.Generator().manual_seed(3))
    view = clip.encode(pixels)
    assert view.grid == (4, 4)
    assert torch.equal(view.tokens[-1], clip.encode(pixels[..., :64, :64]).tokens[-1])


def test_images_of_a_batch_do_not_interact(clip_dir: Path) -> None:
    clip = FrozenCLIP.load(clip_dir)
    pixels = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(4))
    both = clip.encode(pixels, -2)
    features = clip.last_block(both, clip.last_norm(both))
    for index in range(2):
        alone = clip.encode(pixels[index : index + 1], -2)
        single = clip.last_block(alone, clip.last_norm(alone))
        assert (features[index] - single[0]).abs().max() < 1e-5
        for mine, other in zip(all_maps(clip, both), all_maps(clip, alone), strict=True):
            assert (mine[index] - other[0]).abs().max() < 1e-6


def test_text_features_equal_the_librarys(clip_dir: Path) -> None:
    texts = ["a clean origami bird avian.", "sky", "a clean origami person with clothes,people."]
    model = CLIPModel.from_pretrained(clip_dir).eval()
    tokenizer = CLIPTokenizer.from_pretrained(clip_dir)
    with torch.no_grad():
        expected = torch.cat(
            [
                model.get_text_features(
                    **tokenizer([text], padding="max_length", return_tensors="pt")
                ).pooler_output
                for text in texts
            ]
        )
    found = FrozenCLIP.load(clip_dir).text_features(tuple(texts))
    assert found.shape == (3, 32)
    assert torch.allclose(found.norm(dim=-1), torch.ones(3))
    assert (found - functional.normalize(expected, dim=-1)).abs().max() < 1e-5
    assert (found @ found.T).triu(1).max() < 0.999  # the texts differ


def test_a_text_longer_than_the_tower_is_refused_with_what_would_be_lost(
    clip_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clip = FrozenCLIP.load(clip_dir)
    longest = "a " * 75  # and a token for each end
    clip.text_features((longest,))
    clip.text_features((longest + ".",))  # no word of it is lost
    for text, lost in ((longest + "dog.", "dog ."), ("x" * 100, "x" * 25)):
        with pytest.raises(ConfigError) as caught:
            clip.text_features(("a cat", text))
        assert f'its text tower reads 77: its end, "{lost}", would be lost' in str(caught.value)
    assert "longer" not in capfd.readouterr().err  # what the library says


def test_logit_scale_is_the_models_own(clip_dir: Path) -> None:
    assert FrozenCLIP.load(clip_dir).logit_scale == pytest.approx(float(torch.tensor(3.0).exp()))


def test_frozen_whatever_is_asked_of_it(clip_dir: Path) -> None:
    clip = FrozenCLIP.load(clip_dir)
    assert not any(parameter.requires_grad for parameter in clip.parameters())
    before = {name: value.clone() for name, value in clip.state_dict().items()}

    whole = nn.ModuleDict({"clip": clip, "head": nn.Linear(32, 2)}).train()
    assert whole.training
    assert not clip.training
    assert not any(module.training for module in clip.modules())
    view = clip.encode(torch.rand(1, 3, 64, 64))
    loss = whole["head"](clip.last_block(view, clip.last_norm(view)).mean(1)).square().sum()
    loss.backward()
    torch.optim.SGD(whole.parameters(), lr=1.0, weight_decay=0.5).step()

    assert all(torch.equal(value, before[name]) for name, value in clip.state_dict().items())
    assert whole["head"].weight.grad is not None  # the step did train something


def test_gradient_reaches_the_last_blocks_input_only(clip_dir: Path) -> None:
    clip = FrozenCLIP.load(clip_dir)
    view = clip.encode(torch.rand(1, 3, 64, 64), -2)
    assert not any(tokens.requires_grad for tokens in view.tokens)
    normed = clip.last_norm(view).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(clip.last_block(view, normed).mean(1).sum(), normed)
    assert gradient.abs().max() > 0
    assert not any(maps.requires_grad for maps in all_maps(clip, view))


def test_only_the_chosen_maps_are_collected(clip_dir: Path) -> None:
    clip = FrozenCLIP.load(clip_dir)
    pixels = torch.rand(1, 3, 64, 80)
    assert clip.encode(pixels).attention == ()
    view = clip.encode(pixels, (0, 2))
    assert view.layers == (0, 2)
    assert [maps.shape for maps in all_maps(clip, view)] == [(1, 20, 20)] * 2
    every = clip.encode(pixels, -4)
    assert (view.attention[1] - every.attention[2]).abs().max() < 1e-6
    view = clip.encode(pixels, -2)
    assert len(view.attention) == 1  # the last block has not run yet
    assert [maps.shape for maps in all_maps(clip, view)] == [(1, 20, 20)] * 2
    assert (all_maps(clip, view)[1] - all_maps(clip, every)[3]).abs().max() < 1e-6
    assert len(view.attention) == 1  # nothing is left behind in it


def test_maps_do_not_change_what_the_blocks_compute(clip_dir: Path) -> None:
    clip = FrozenCLIP.load(clip_dir)
    pixels = torch.rand(1, 3, 64, 80)
    plain, watched = clip.encode(pixels), clip.encode(pixels, -4)
    assert (plain.tokens[-1] - watched.tokens[-1]).abs().max() < 1e-5


def test_per_head_maps_are_never_all_alive(clip_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    original = torch.softmax

    def spy(*arguments: Any, **options: Any) -> Tensor:
        result = original(*arguments, **options)
        shapes.append(tuple(result.shape))
        return result

    monkeypatch.setattr(torch, "softmax", spy)
    FrozenCLIP.load(clip_dir).encode(torch.rand(1, 3, 64, 64), (1,))
    assert shapes == [(1, 17, 17)] * 4  # one head at a time, one block


@pytest.mark.parametrize(
    ("layers", "depth", "chosen"),
    [
        (-8, 12, tuple(range(4, 12))),
        (-8, 4, (0, 1, 2, 3)),
        (-1, 4, (3,)),
        (-12, 4, (0, 1, 2, 3)),
        ((3, 1, 1), 4, (1, 3)),
    ],
)
def test_layer_settings(layers: int | tuple[int, ...], depth: int, chosen: tuple[int, ...]) -> None:
    assert attention.resolve_layers(layers, depth, "affinity.clip_layers") == chosen


@pytest.mark.parametrize("layers", [0, 3, (4,), (-1,), (), -13, -99])
def test_layer_settings_that_do_not_fit(layers: int | tuple[int, ...]) -> None:
    with pytest.raises(
        ConfigError, match=r"affinity\.clip_layers = .*4 blocks.*-12 to -1.*between 0 and 3"
    ):
        attention.resolve_layers(layers, 4, "affinity.clip_layers")


def test_rows_of_attention_lack_what_cls_took(clip_dir: Path) -> None:
    clip = FrozenCLIP.load(clip_dir)
    view = clip.encode(torch.rand(1, 3, 64, 64), (0,))
    rows = view.attention[0].sum(-1)
    assert rows.max() < 1
    assert rows.min() > 0


def test_round_trip_of_half_precision_weights(clip_dir: Path, tmp_path: Path) -> None:
    model = CLIPModel.from_pretrained(clip_dir).half()
    model.save_pretrained(tmp_path / "half")
    CLIPTokenizer.from_pretrained(clip_dir).save_pretrained(tmp_path / "half")
    clip = FrozenCLIP.load(tmp_path / "half")
    assert {parameter.dtype for parameter in clip.parameters()} == {torch.float32}
    for name, value in clip.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name].to(value.dtype)), name


def test_a_clip_with_other_sizes(tmp_path: Path) -> None:
    clip = FrozenCLIP.load(tiny_clip(tmp_path / "other", width=32, depth=3, dim=16))
    assert (clip.depth, clip.width, clip.dim) == (3, 32, 16)
    view = clip.encode(torch.rand(1, 3, 32, 32), -8)
    assert clip.last_block(view, clip.last_norm(view)).shape == (1, 4, 16)
    assert [maps.shape for maps in all_maps(clip, view)] == [(1, 4, 4)] * 3


def test_a_clip_without_its_tokenizer(clip_dir: Path, tmp_path: Path) -> None:
    CLIPModel.from_pretrained(clip_dir).save_pretrained(tmp_path / "bare")
    wanted = r"bare has no tokenizer that fits its CLIP \(2 tokens.*83\).*tokenizer\.json"
    with pytest.raises(BackboneError, match=wanted):
        FrozenCLIP.load(tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer_config.json").write_bytes(
        (clip_dir / "tokenizer_config.json").read_bytes()
    )
    with pytest.raises(BackboneError, match="has no tokenizer that fits its CLIP"):
        FrozenCLIP.load(tmp_path / "bare")


def test_texts_are_embedded_before_the_tower_is_let_go(clip_dir: Path) -> None:
    texts = ("a cat.", "a dog.")
    whole = FrozenCLIP.load(clip_dir)
    lean = FrozenCLIP.load(clip_dir, texts=texts)
    assert torch.equal(lean.text_features(texts), whole.text_features(texts))
    assert sum(p.numel() for p in lean.parameters()) < sum(p.numel() for p in whole.parameters())
    with pytest.raises(ValueError, match=r"let go before .*a horse"):
        lean.text_features(("a horse.",))


# ---- CLIPs of other makers


def test_the_activation_is_that_of_the_file(tmp_path: Path) -> None:
    """LAION's CLIPs have GELU, OpenAI's QuickGELU; taken for the other, features are wrong."""
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    found = {}
    for act in ("gelu", "quick_gelu"):
        folder = tiny_clip(tmp_path / act, act=act)
        clip, library = FrozenCLIP.load(folder), CLIPModel.from_pretrained(folder).eval()
        assert f"patches of 16 pixels, {act}, 32 numbers shared with" in clip.description
        view = clip.encode(pixels)
        found[act] = clip.last_block(view, clip.last_norm(view))
        vision = library.vision_model
        with torch.no_grad():
            hidden = vision(pixels).last_hidden_state[:, 1:]
            expected = library.visual_projection(vision.post_layernorm(hidden))
        assert (found[act] - expected).abs().max() < 1e-4 * expected.abs().max()
    difference = (found["gelu"] - found["quick_gelu"]).abs().max()
    assert difference > 5e-3 * found["gelu"].abs().max()
    mixed = json.loads((tmp_path / "gelu" / "config.json").read_text())
    mixed["text_config"]["hidden_act"] = "quick_gelu"
    (tmp_path / "gelu" / "config.json").write_text(json.dumps(mixed))
    said = FrozenCLIP.load(tmp_path / "gelu").description
    assert "gelu for images and quick_gelu for texts" in said


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("patch", [14, 32])
def test_closed_form_gradcam_of_other_clips_is_autograds(
    tmp_path: Path, act: str, patch: int
) -> None:
    clip = FrozenCLIP.load(tiny_clip(tmp_path / "clip", act=act, patch=patch))
    size = (3 * patch, 5 * patch)
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    text = functional.normalize(torch.randn(5, 32, generator=torch.Generator().manual_seed(3)))
    present = torch.tensor([[0, 2], [1, -1]])
    allowed = allowed_words(present, 3, 5)
    view = clip.encode(pixels)
    assert view.grid == (3, 5)

    def probability(v: Tensor) -> Tensor:
        return word_probability(v, text, 10.0, allowed)

    normed = clip.last_norm(view)
    closed = gradcam_closed_form(
        clip.last_block_weights,
        clip.trace_last_block(view),
        normed,
        probability,
        present,
        view.grid,
    )
    literal = gradcam(lambda a: clip.last_block(view, a), normed, probability, present, view.grid)
    assert literal[0].amax((1, 2)).min() > 0.999
    assert (closed - literal).abs().max() < 1e-4


def test_texts_end_where_old_configurations_say(tmp_path: Path) -> None:
    """eos_token_id = 2, as in OpenAI's, LAION's and DataComp's files: the highest id of a text."""
    texts = ("a cat.", "a red car.")
    old = FrozenCLIP.load(tiny_clip(tmp_path / "old", old_eos=True)).text_features(texts)
    new = FrozenCLIP.load(tiny_clip(tmp_path / "new")).text_features(texts)
    assert torch.equal(old, new)
    assert (old[0] - old[1]).abs().max() > 1e-2


@pytest.mark.parametrize("eos", [5, 2, None])
def test_a_text_tower_that_pools_elsewhere_is_refused(tmp_path: Path, eos: int | None) -> None:
    folder = tiny_clip(tmp_path / "clip")
    table = json.loads((folder / "config.json").read_text())
    table["text_config"]["eos_token_id"] = eos
    (folder / "config.json").write_text(json.dumps(table))
    if eos == 2:  # the highest id of a text, so the highest of all has to end it
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(["later"])
        tokenizer.save_pretrained(folder)
        table["text_config"]["vocab_size"] = len(tokenizer)
        (folder / "config.json").write_text(json.dumps(table))
        weights = load_file(folder / "model.safetensors")
        name = "text_model.embeddings.token_embedding.weight"
        weights[name] = torch.cat([weights[name], weights[name][:1]])
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        BackboneError, match=r"ends a text with token 82, .*would be read at its beg"
    ):
        FrozenCLIP.load(folder)


def test_a_text_tower_of_another_length(tmp_path: Path) -> None:
    clip = FrozenCLIP.load(tiny_clip(tmp_path / "short", positions=12))
    assert "texts of up to 12 tokens" in clip.description
    assert clip.text_features(("a cat.", "a" * 10)).shape == (2, 32)
    with pytest.raises(ConfigError, match="its text tower reads 12"):
        clip.text_features(("a" * 11,))
