"""Encoders on a stem: loaded, run and refused. The stem itself: tests/encoders/test_lite0.py."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_encoders import WIDTH, tiny_clip, tiny_dino
from transformers import CLIPModel, CLIPTokenizer, ViTModel

from ssrseg.errors import BackboneError
from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.dino import FrozenDINO
from ssrseg.networks.stem import Stem, find_stem, with_stem


@pytest.fixture(scope="module")
def clip_on_stem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("stem") / "clip", stem_blocks=16)


@pytest.fixture(scope="module")
def dino_on_stem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_dino(tmp_path_factory.mktemp("stem") / "dino", stem_blocks=11)


def some_pixels(height: int, width: int) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_a_clip_on_a_stem_equals_the_library(clip_on_stem: Path) -> None:
    library = with_stem(CLIPModel).from_pretrained(clip_on_stem).eval()
    pixels = some_pixels(64, 64)
    with torch.no_grad():
        expected = library.get_image_features(pixels).pooler_output
        vision = library.vision_model(pixels, output_hidden_states=True)
    clip = FrozenCLIP.load(clip_on_stem)
    view = clip.encode(pixels)
    assert view.grid == (4, 4)
    for found, hidden in zip(view.tokens, vision.hidden_states[1:-1], strict=True):
        assert (found - hidden).abs().max() < 1e-4 * hidden.abs().max()
    with torch.no_grad():
        last = clip.model.vision_model.encoder.layers[-1](view.tokens[-1], attention_mask=None)
        cls = clip.model.visual_projection(clip.model.vision_model.post_layernorm(last[:, 0]))
    assert expected.std() > 0.1
    assert (cls - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("size", [(64, 64), (48, 112)])
def test_a_vit_on_a_stem_equals_the_library(dino_on_stem: Path, size: tuple[int, int]) -> None:
    kind = with_stem(ViTModel)
    library = kind.from_pretrained(
        dino_on_stem, add_pooling_layer=False, attn_implementation="eager"
    ).eval()
    pixels = some_pixels(*size)
    with torch.no_grad():
        out = library(pixels, interpolate_pos_encoding=True, output_attentions=True)
    dino = FrozenDINO.load(dino_on_stem)
    features, hidden = dino.features(pixels), out.last_hidden_state[:, 1:]
    assert features.shape == (2, size[0] * size[1] // 256, WIDTH)
    assert (features - hidden).abs().max() < 1e-4 * hidden.abs().max()
    expected = torch.stack([each.mean(1)[:, 1:, 1:] for each in out.attentions]).mean(0)
    assert (dino.attention(pixels) - expected).abs().max() < 1e-5


def test_what_exceeds_whole_patches_is_cut_off() -> None:
    torch.manual_seed(0)
    stem = Stem(8, 16).requires_grad_(False)
    pixels = some_pixels(61, 79)
    assert torch.equal(stem(pixels), stem(pixels[:, :, :48, :64]))
    assert stem(pixels).shape == (2, 8, 3, 4)
    with pytest.raises(ValueError, match="a stem has 11 or 16 blocks, not 12"):
        Stem(8, 12)


def test_half_precision_files_bf16_and_texts(clip_on_stem: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    with_stem(CLIPModel).from_pretrained(clip_on_stem).half().save_pretrained(half)
    CLIPTokenizer.from_pretrained(clip_on_stem).save_pretrained(half)
    shutil.copy(clip_on_stem / "preprocessor_config.json", half)
    stored = load_file(half / "model.safetensors")
    texts, pixels = ("a cat.", "a dog."), some_pixels(64, 80)
    whole, lean = FrozenCLIP.load(half), FrozenCLIP.load(half, texts=texts)
    bf16 = FrozenCLIP.load(half, precision="bf16")
    place = "vision_model.embeddings.patch_embedding."
    for clip in (whole, lean, bf16):
        stem = find_stem(clip)
        assert stem is not None
        assert clip.digest == whole.digest
        for name, value in stem.state_dict().items():
            assert value.dtype == torch.float32
            assert torch.equal(value, stored[place + name].float()), name
    assert torch.equal(lean.text_features(texts), whole.text_features(texts))
    assert torch.equal(lean.encode(pixels).tokens[-1], whole.encode(pixels).tokens[-1])
    exact, near = whole.encode(pixels).tokens[-1], bf16.encode(pixels).tokens[-1]
    assert 0 < (near - exact).abs().max() < 0.1 * exact.abs().max()
    exact = FrozenCLIP.load(clip_on_stem).encode(pixels).tokens[-1]
    assert (whole.encode(pixels).tokens[-1] - exact).abs().max() < 0.02 * exact.abs().max()


def test_digests_and_descriptions(clip_on_stem: Path, dino_on_stem: Path, tmp_path: Path) -> None:
    for load, folder, count in (
        (FrozenCLIP.load, clip_on_stem, 16),
        (FrozenDINO.load, dino_on_stem, 11),
    ):
        before = load(folder)
        said = f"patches of 16 pixels, patch embedding by EfficientNet-Lite0 ({count} blocks), "
        assert said in before.description
        changed = Path(shutil.copytree(folder, tmp_path / f"changed{count}"))
        weights = load_file(changed / "model.safetensors")
        name = next(each for each in weights if each.endswith("blocks.7.depthwise.weight"))
        weights[name][3, 0, 1, 1] += 1e-3
        save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
        assert load(changed).digest != before.digest
        stem = find_stem(before)
        assert stem is not None
        del before.digest  # the weights alone do not say it all
        stem.settings = ("efficientnet-lite9", count)
        assert before.digest not in {load(folder).digest, load(changed).digest}


def test_files_have_the_names_of_the_library(
    clip_on_stem: Path, dino_on_stem: Path, dino_dir: Path, tmp_path: Path
) -> None:
    config = json.loads((clip_on_stem / "config.json").read_text())
    assert config["architectures"] == ["CLIPModel"]
    vision = config["vision_config"]
    assert (vision["stem"], vision["stem_blocks"]) == ("efficientnet-lite0", 16)
    # the library saves a ViT by its old names, as those on the hub have; the new ones are read too
    stored, usual = (load_file(folder / "model.safetensors") for folder in (dino_on_stem, dino_dir))
    place = "embeddings.patch_embeddings.projection."
    assert "encoder.layer.0.attention.attention.query.weight" in usual
    assert {name for name in stored if not name.startswith(place)} == {
        name for name in usual if not name.startswith(place)
    }
    dino = FrozenDINO.load(dino_on_stem)
    new = Path(shutil.copytree(dino_on_stem, tmp_path / "new"))
    own = dino.model.state_dict()
    assert "layers.0.attention.q_proj.weight" in own
    save_file(own, new / "model.safetensors", metadata={"format": "pt"})
    assert FrozenDINO.load(new).digest == dino.digest


def test_encoders_without_a_stem_are_the_librarys_own(clip_dir: Path, dino_dir: Path) -> None:
    clip, dino = FrozenCLIP.load(clip_dir).model, FrozenDINO.load(dino_dir).model
    assert (type(clip), type(dino)) == (CLIPModel, ViTModel)
    assert find_stem(clip) is find_stem(dino) is None


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"stem": "resnet-50"}, r"stem = 'resnet-50', .* efficientnet-lite0 is expected"),
    ({"stem": ["efficientnet-lite0"]}, r"stem = \['efficientnet-lite0'\], "),
    ({"stem": ""}, r"stem = '', "),
    ({"stem_blocks": 12}, r"stem_blocks = 12, .* 11 or 16 is expected"),
    ({"stem_blocks": 16.0}, r"stem_blocks = 16\.0, .* 11 or 16 is expected"),
    ({"stem_blocks": None}, r"stem_blocks = None, .* 11 or 16 is expected"),
    ({"patch_size": 8}, r"patch_size = 8, .* 16 is expected"),
]


def test_other_families_stand_on_no_stem(tmp_path: Path) -> None:
    folder = tiny_dino(tmp_path / "dino", "dinov2", patch=14)
    config = json.loads((folder / "config.json").read_text())
    config |= {"stem": "efficientnet-lite0", "stem_blocks": 16, "patch_size": 16}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError, match=r"names a stem, but the model_type dinov2: only clip"):
        FrozenDINO.load(folder)


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_settings_that_are_none(
    clip_on_stem: Path, dino_on_stem: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    cases: list[tuple[Callable[[Path], object], Path, str]] = [
        (FrozenCLIP.load, clip_on_stem, "vision_config"),
        (FrozenDINO.load, dino_on_stem, ""),
    ]
    for load, source, section in cases:
        folder = Path(shutil.copytree(source, tmp_path / source.name))
        table = json.loads((folder / "config.json").read_text())
        (table[section] if section else table).update(change)
        (folder / "config.json").write_text(json.dumps(table))
        where = rf"{source.name}/config\.json: {section}{'.' if section else ''}"
        with pytest.raises(
            BackboneError, match=where + said + r".*\. Copy config\.json from where"
        ):
            load(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        # the weights of a stem, and a configuration of none; of another one; and the reverse
        ({"stem": None}, r"1 weight of a CLIPModel missing .*patch_embedding\.weight"),
        ({"stem_blocks": 11}, r"1 weight of a CLIPModel .*shape .*patch_embedding\.projection"),
        (None, r"2 weights of a CLIPModel missing .*patch_embedding\.blocks\.3\.project\.bias"),
    ],
)
def test_weights_that_are_not_the_stems(
    clip_on_stem: Path, tmp_path: Path, change: dict[str, Any] | None, said: str
) -> None:
    folder = Path(shutil.copytree(clip_on_stem, tmp_path / "clip"))
    if change:
        table = json.loads((folder / "config.json").read_text())
        table["vision_config"].update(change)
        (folder / "config.json").write_text(json.dumps(table))
    else:
        weights = load_file(folder / "model.safetensors")
        kept = {name: value for name, value in weights.items() if ".3.project." not in name}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=rf"clip is not a clip: {said}.*\. Give a hub id"):
        FrozenCLIP.load(folder)
