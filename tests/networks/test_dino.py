from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from tiny_encoders import DEPTH, REGISTERS, WIDTH, dino_model, stir, tiny_dino
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from ssrseg.errors import ConfigError
from ssrseg.networks import attention
from ssrseg.networks.dino import FAMILIES, FrozenDINO


@pytest.fixture(scope="module")
def vit_s() -> ViTModel:
    """ViT-S/16 with random weights and eager attention."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ViTConfig(
            hidden_size=384, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=6
        )
        config._attn_implementation = "eager"
        model = ViTModel(config, add_pooling_layer=False)
        stir(model)
    return model.eval()


@pytest.mark.parametrize("size", [(320, 320), (96, 160)])
def test_parity_with_the_library_at_vit_s_size(vit_s: ViTModel, size: tuple[int, int]) -> None:
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        library = vit_s(pixels, interpolate_pos_encoding=True, output_attentions=True)
    copy = ViTModel(deepcopy(vit_s.config), add_pooling_layer=False)
    copy.load_state_dict(vit_s.state_dict())
    dino = FrozenDINO(copy)
    assert (dino.depth, dino.patch_size) == (12, 16)
    for layers, chosen in ((-8, range(4, 12)), ((0, 3), (0, 3))):
        expected = torch.stack([library.attentions[i].mean(1)[:, 1:, 1:] for i in chosen]).mean(0)
        found = dino.attention(pixels, layers)
        patches = size[0] * size[1] // 256
        assert found.shape == (1, patches, patches)
        assert expected.max() > 1.5 * expected.mean()  # not a flat map, which everything matches
        assert (found - expected).abs().max() < 1e-5


def test_loads_from_a_directory_without_making_up_a_pooler(dino_dir: Path) -> None:
    dino = FrozenDINO.load(dino_dir)
    assert not any("pooler" in name for name, _ in dino.named_parameters())
    saved = ViTModel.from_pretrained(dino_dir, add_pooling_layer=False)
    for name, value in dino.model.state_dict().items():
        assert torch.equal(value, saved.state_dict()[name])


def test_half_precision_weights_become_float32(dino_dir: Path, tmp_path: Path) -> None:
    ViTModel.from_pretrained(dino_dir, add_pooling_layer=False).half().save_pretrained(tmp_path)
    dino = FrozenDINO.load(tmp_path)
    assert {parameter.dtype for parameter in dino.parameters()} == {torch.float32}


def test_frozen(dino_dir: Path) -> None:
    dino = FrozenDINO.load(dino_dir)
    before = {name: value.clone() for name, value in dino.state_dict().items()}
    nn.ModuleList([dino]).train()
    assert not any(module.training for module in dino.modules())
    assert not any(parameter.requires_grad for parameter in dino.parameters())
    torch.optim.SGD(dino.parameters(), lr=1.0, weight_decay=0.5).step()
    assert all(torch.equal(value, before[name]) for name, value in dino.state_dict().items())


def test_blocks_behind_the_last_chosen_one_do_not_run(
    dino_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dino = FrozenDINO.load(dino_dir)
    pixels = torch.rand(1, 3, 64, 64)
    expected = dino.attention(pixels, (0, 1))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("block 2 ran")

    monkeypatch.setattr(dino.model.layers[2], "forward", refuse)
    assert torch.equal(dino.attention(pixels, (0, 1)), expected)
    with pytest.raises(AssertionError, match="block 2 ran"):
        dino.attention(pixels, -8)


def test_unknown_layer_names_the_setting(dino_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"affinity\.dino_layers"):
        FrozenDINO.load(dino_dir).attention(torch.rand(1, 3, 64, 64), (7,))


# ---- every family


@pytest.mark.parametrize("patch", [8, 14, 16])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_equals_the_library(family: str, patch: int) -> None:
    pixels = torch.randn(2, 3, 3 * patch, 5 * patch, generator=torch.Generator().manual_seed(1))
    model = dino_model(family, patch=patch)
    options = {"interpolate_pos_encoding": True} if family == "vit" else {}
    with torch.no_grad():
        library = model(pixels, output_attentions=True, **options)
    special = 1 + (REGISTERS if family in ("dinov2_with_registers", "dinov3_vit") else 0)
    assert library.attentions[0].shape[-1] == special + 15  # registers are there, if it has any
    dino = FrozenDINO(dino_model(family, patch=patch))
    assert (dino.depth, dino.patch_size, dino.special_tokens) == (DEPTH, patch, special)
    for layers, chosen in ((-8, range(DEPTH)), ((0, 2), (0, 2)), (-1, (DEPTH - 1,))):
        maps = [library.attentions[i].mean(1)[:, special:, special:] for i in chosen]
        expected = torch.stack(maps).mean(0)
        assert expected.max() > 1.5 * expected.mean()  # not a flat map, which everything matches
        found = dino.attention(pixels, layers)
        assert found.shape == (2, 15, 15)
        assert (found - expected).abs().max() < 1e-5
    features = dino.features(pixels)
    assert features.shape == (2, 15, WIDTH)
    assert (features - library.last_hidden_state[:, special:]).abs().max() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_and_says_what_it_is(family: str, tmp_path: Path) -> None:
    dino = FrozenDINO.load(tiny_dino(tmp_path / "dino", family, patch=14))
    expected = dino_model(family, patch=14).state_dict()
    assert dino.model.state_dict().keys() == expected.keys()
    for name, value in dino.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert not any(parameter.requires_grad for parameter in dino.parameters())
    said = dino.description
    assert said.startswith(f"{FAMILIES[family].name}, 4 blocks, patches of 14 pixels")
    assert ("4 registers" in said) == (family in ("dinov2_with_registers", "dinov3_vit"))
    assert "gelu, mean and deviation from preprocessor_config.json" in said
    assert len({FrozenDINO(dino_model(each)).digest for each in FAMILIES}) == len(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_files_and_bf16_arithmetic_stay_near(family: str, tmp_path: Path) -> None:
    pixels = torch.randn(1, 3, 64, 80, generator=torch.Generator().manual_seed(1))
    folder = tiny_dino(tmp_path / "dino", family)
    exact = FrozenDINO.load(folder)
    dino_model(family).half().save_pretrained(tmp_path / "half")
    half = FrozenDINO.load(tmp_path / "half")
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}
    assert {buffer.dtype for buffer in half.buffers()} <= {torch.float32}
    bf16 = FrozenDINO.load(folder, precision="bf16")
    assert bf16.digest == exact.digest
    attention, features = exact.attention(pixels), exact.features(pixels)
    for other, most in ((half, 0.02), (bf16, 0.2)):
        assert (other.attention(pixels) - attention).abs().max() < most * attention.max()
        assert (other.features(pixels) - features).abs().max() < most * features.abs().max()


def test_the_base_of_rotary_positions_belongs_to_the_digest(tmp_path: Path) -> None:
    folder = tiny_dino(tmp_path / "dino", "dinov3_vit")
    before = FrozenDINO.load(folder).digest
    file = folder / "config.json"
    table = json.loads(file.read_text())
    file.write_text(json.dumps(table | {"rope_theta": 50.0}))
    assert FrozenDINO.load(folder).digest != before


def test_rotary_queries_are_multiplied_in_the_precision_of_values() -> None:
    query, key = torch.rand(2, 1, 2, 5, 4)
    value = torch.rand(1, 2, 5, 4, dtype=torch.bfloat16)
    kept: list[Tensor] = []
    attention._attend(
        nn.Identity(), query, key, value, None, scaling=0.5, kept_attention=kept, special_tokens=1
    )
    logits = (query.bfloat16() * 0.5) @ key.bfloat16().mT
    torch.testing.assert_close(kept[0], logits.float().softmax(-1).mean(1)[:, 1:, 1:])
    assert not torch.equal(logits, ((query * 0.5) @ key.mT).bfloat16())
