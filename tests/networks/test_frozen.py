from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from tiny_encoders import tiny_clip, tiny_dino, write_pixel_norm
from transformers import CLIPModel, PreTrainedConfig, Siglip2Config, SiglipConfig
from transformers.utils import logging

from ssrseg.errors import BackboneError
from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.dino import FrozenDINO
from ssrseg.networks.frozen import PixelNorm, files_digest, load_pretrained, read_names
from ssrseg.packaged import PACKAGED

CLIP_CURE = r"Give a hub id such as openai/clip-vit-base-patch16, or a directory"
DINO_CURE = r"Give a hub id such as facebook/dino-vits16, or a directory"


@pytest.fixture
def copy(tmp_path: Path, clip_dir: Path) -> Path:
    """A CLIP directory to be damaged."""
    return Path(shutil.copytree(clip_dir, tmp_path / "copy"))


def cut_in_half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def set_config(path: Path, **values: object) -> None:
    table = json.loads(path.read_text())
    path.write_text(json.dumps(table | values))


def drop_weight(path: Path) -> None:
    weights = load_file(path)
    del weights["visual_projection.weight"]
    save_file(weights, path, metadata={"format": "pt"})


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (
        shutil.rmtree,
        r"^backbones\.clip = .*copy \(--clip\): there is no such directory, seen from .* now by"
        rf" clip=DIR \(--clip DIR\)\. {CLIP_CURE}",
    ),
    (lambda f: (f / "config.json").unlink(), rf"not a clip: .*config\.json\. {CLIP_CURE}"),
    (lambda f: (f / "model.safetensors").unlink(), rf"copy could not be read .*{CLIP_CURE}"),
    (lambda f: cut_in_half(f / "model.safetensors"), rf"copy could not be read .*{CLIP_CURE}"),
    (lambda f: cut_in_half(f / "config.json"), r"copy/config\.json is not valid JSON .*Copy"),
    (lambda f: cut_in_half(f / "tokenizer.json"), rf"tokenizer .*could not be .*{CLIP_CURE}"),
    (lambda f: (f / "config.json").write_text("[]"), r"copy is not a clip: .*no model"),
    (
        lambda f: set_config(f / "config.json", projection_dim=16),
        r"copy is not a clip: 2 weights .*shape .*text_projection",
    ),
    (
        lambda f: drop_weight(f / "model.safetensors"),
        r"copy is not a clip: 1 weight of a CLIPModel missing .*visual_projection",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_damaged_clip(
    copy: Path, capfd: pytest.CaptureFixture[str], damage: Callable[[Path], None], message: str
) -> None:
    damage(copy)
    with pytest.raises(BackboneError, match=message) as caught:
        FrozenCLIP.load(copy)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # the library's table of weights would hide the message


def test_another_model_where_a_clip_is_expected(dino_dir: Path, clip_dir: Path) -> None:
    with pytest.raises(BackboneError, match=rf"is not a clip: .*vit, not clip\. {CLIP_CURE}"):
        FrozenCLIP.load(dino_dir)
    known = r"vit \(.*\), dinov2 \(DINOv2\), dinov2_with_registers \(.*\), dinov3_vit \(DINOv3\)"
    cure = r"Give a hub id such as facebook/dino-vits16, .* or a directory"
    with pytest.raises(
        BackboneError, match=rf"is not a dino: .*describes clip, where .*: {known}\. {cure}"
    ):
        FrozenDINO.load(clip_dir)


@pytest.mark.parametrize("config", [SiglipConfig(), Siglip2Config()])
def test_a_siglip_is_refused_with_the_reason(tmp_path: Path, config: PreTrainedConfig) -> None:
    config.save_pretrained(tmp_path / "model")
    with pytest.raises(BackboneError) as caught:
        FrozenCLIP.load(tmp_path / "model")
    said = str(caught.value)
    kind = config.model_type
    assert f"model is a SigLIP ({kind}), not a clip. It was trained with a sigmoid" in said
    assert "softmax over texts" in said
    assert "no CLS token" in said
    assert "Give a CLIP trained with the softmax: openai/clip-vit-base-patch16, or" in said


def test_a_folder_of_openclip_is_refused_with_the_cure(copy: Path) -> None:
    (copy / "config.json").rename(copy / "open_clip_config.json")
    with pytest.raises(
        BackboneError, match=r"OpenCLIP's own format .*without config\.json.*Take the same weights"
    ):
        FrozenCLIP.load(copy)
    with pytest.raises(BackboneError, match=rf"not a dino: .* no config\.json\. {DINO_CURE}"):
        FrozenDINO.load(copy)


@pytest.mark.parametrize("kind", ["dinov3_convnext", "vit_mae", "resnet"])
def test_other_kinds_of_model_are_no_dino(dino_dir: Path, tmp_path: Path, kind: str) -> None:
    folder = Path(shutil.copytree(dino_dir, tmp_path / "dino"))
    set_config(folder / "config.json", model_type=kind)
    with pytest.raises(
        BackboneError, match=rf"describes {kind}, where one of these is expected: vit"
    ):
        FrozenDINO.load(folder)


def test_patches_that_are_no_square(dino_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(dino_dir, tmp_path / "dino"))
    set_config(folder / "config.json", patch_size=[16, 16])
    with pytest.raises(BackboneError, match=r"dino has patches of .16, 16. pixels; expected one"):
        FrozenDINO.load(folder)


@pytest.mark.parametrize("heads", [6, 32])
def test_heads_that_do_not_divide_a_token(tmp_path: Path, heads: int) -> None:
    folder = tiny_dino(tmp_path / "dino", "dinov3_vit")
    set_config(folder / "config.json", num_attention_heads=heads)
    with pytest.raises(BackboneError, match=rf"dino has {heads} attention heads.*of 64 numbers"):
        FrozenDINO.load(folder)


# ---- mean and deviation

HALF = ((0.5, 0.5, 0.5), (0.25, 0.5, 1.0))


def test_mean_and_deviation_are_those_of_the_file(
    copy: Path, dino_dir: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(dino_dir, tmp_path / "dino"))
    for load, where in ((FrozenCLIP.load, copy), (FrozenDINO.load, folder)):
        usual = load(where)
        assert usual.pixels.origin == "preprocessor_config.json"
        write_pixel_norm(where, *HALF)
        own = load(where)
        assert own.pixels == PixelNorm(*HALF, "preprocessor_config.json")
        assert own.digest != usual.digest  # other features come out
        # as newer libraries write it
        table = json.loads((where / "preprocessor_config.json").read_text())
        (where / "preprocessor_config.json").unlink()
        (where / "processor_config.json").write_text(json.dumps({"image_processor": table}))
        assert load(where).pixels == PixelNorm(*HALF, "processor_config.json")
        (where / "processor_config.json").unlink()
        without = load(where)
        assert without.pixels.origin == ""
        assert without.pixels.numbers == usual.pixels.numbers
        assert without.digest == usual.digest
        assert "no preprocessor_config.json" in without.description
        write_pixel_norm(where, *HALF, do_normalize=False)
        assert load(where).pixels.numbers == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    ("mean", "deviation"),
    [
        ((0.5,), (0.5, 0.5, 0.5)),
        ((0.5, 0.5, 0.5), (0.5, 0.0, 0.5)),
        ((0.5, 0.5, "x"), (0.5, 0.5, 0.5)),
        ((0.5, 0.5, 1e9), (0.5, 0.5, 0.5)),
        ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4)),
        ((-0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        (None, (0.5, 0.5, 0.5)),
    ],
)
def test_mean_and_deviation_that_cannot_be(copy: Path, mean: object, deviation: object) -> None:
    write_pixel_norm(copy, mean, deviation)
    with pytest.raises(BackboneError, match=r"preprocessor_config\.json: image_mean = .*three num"):
        FrozenCLIP.load(copy)


def test_a_damaged_file_of_mean_and_deviation(copy: Path) -> None:
    cut_in_half(copy / "preprocessor_config.json")
    with pytest.raises(BackboneError, match=r"copy/preprocessor_config\.json is not valid JSON"):
        FrozenCLIP.load(copy)


def test_an_empty_directory_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=rf"is not a dino: .*config\.json\. {DINO_CURE}"):
        FrozenDINO.load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(
        BackboneError, match=rf"dino = .*file .--dino.: .*no such dir.* {DINO_CURE}"
    ):
        FrozenDINO.load(tmp_path / "file")


class Unreachable(torch.nn.Module):
    """A model of the hub, when there is no network."""

    @staticmethod
    def from_pretrained(source: str, **_: object) -> None:
        raise OSError(f"We couldn't connect to the hub\nto load {source}")


def test_a_hub_id_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(hub_id: str, timeout: float) -> None:
        raise ConnectionError(f"{hub_id}: no route within {timeout} s")

    monkeypatch.setattr("ssrseg.networks.frozen.model_info", closed)
    with pytest.raises(BackboneError) as caught:
        load_pretrained(Unreachable, "some/model", "clip", "openai/clip-vit-base-patch16")
    assert str(caught.value) == (
        f"clip some/model is neither a directory in {Path.cwd()} nor can it be fetched from the"
        " model hub (ConnectionError). On a machine with network run `hf download some/model"
        " --local-dir clip`, copy the folder here and give clip='clip' (--clip clip). What"
        " `ssrseg demo` needs comes with the package."
    )
    with pytest.raises(BackboneError, match="hf download openai/clip-vit-base-patch16 --local"):
        load_pretrained(Unreachable, "clip", "clip", "openai/clip-vit-base-patch16")
    with pytest.raises(BackboneError, match="there is no such directory, seen from"):
        load_pretrained(Unreachable, "models/of/mine", "clip", "openai/clip-vit-base-patch16")


def out_of_reach(hub_id: str, name: str) -> str:
    raise LocalEntryNotFoundError(f"{hub_id}: {name} is out of reach")


def test_models_of_the_hub_are_told_apart_before_they_are_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By their config.json, as folders are; what is gated says so."""

    def hub(hub_id: str, name: str) -> str:
        if hub_id == "some/gated":
            raise GatedRepoError.__new__(GatedRepoError)  # it wants a server's answer otherwise
        found = {"some/siglip": "config.json", "some/openclip": "open_clip_config.json"}
        if found.get(hub_id) != name:
            return out_of_reach(hub_id, name)
        (tmp_path / name).write_text('{"model_type": "siglip"}')
        return str(tmp_path / name)

    monkeypatch.setattr("ssrseg.networks.frozen.model_info", lambda hub_id, timeout: None)
    monkeypatch.setattr("ssrseg.networks.frozen.hf_hub_download", hub)
    with pytest.raises(BackboneError, match="some/siglip is a SigLIP"):
        FrozenCLIP.load("some/siglip")
    with pytest.raises(
        BackboneError, match=r"some/siglip is not a dino: .*describes siglip, where"
    ):
        FrozenDINO.load("some/siglip")
    with pytest.raises(BackboneError, match="some/openclip is not a clip: it is in OpenCLIP's own"):
        FrozenCLIP.load("some/openclip")
    with pytest.raises(BackboneError, match=r"other is not a dino: its config.json cannot be had"):
        FrozenDINO.load("some/other")
    with pytest.raises(BackboneError, match=r"some/gated is given to .* licence.*hf auth login"):
        FrozenDINO.load("some/gated")


def test_a_hub_that_answers_and_then_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssrseg.networks.frozen.model_info", lambda hub_id, timeout: None)
    monkeypatch.setattr("ssrseg.networks.frozen.hf_hub_download", out_of_reach)
    with pytest.raises(BackboneError) as caught:
        load_pretrained(Unreachable, "some/model", "clip", "openai/clip-vit-base-patch16")
    assert str(caught.value) == (
        "clip some/model could not be fetched from the hub (We couldn't connect to the hub). Give a"
        " hub id such as openai/clip-vit-base-patch16, or a directory written by save_pretrained."
    )


def test_the_librarys_messages_are_back_after_loading(clip_dir: Path, tmp_path: Path) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    FrozenCLIP.load(clip_dir)
    with pytest.raises(BackboneError):
        FrozenCLIP.load(tmp_path)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_an_empty_name() -> None:
    for empty in ("", " "):
        with pytest.raises(
            BackboneError, match=rf"^backbones\.clip .--clip. is empty. {CLIP_CURE}"
        ):
            FrozenCLIP.load(empty)


def test_the_librarys_messages_are_back_after_threads(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    class Slow:
        """Ends after one that was begun before it."""

        @staticmethod
        def from_pretrained(source: str, seconds: float) -> float:
            time.sleep(seconds)
            return seconds

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()

    def load(number: int) -> float:
        time.sleep(0.01 * number)
        return load_pretrained(Slow, tmp_path, "clip", "name/model", seconds=0.03 * (number + 1))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(load, range(4))) == pytest.approx([0.03, 0.06, 0.09, 0.12])
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_folders_of_the_package(monkeypatch: pytest.MonkeyPatch, clip_dir: Path) -> None:
    monkeypatch.setattr("ssrseg.packaged.files", lambda _: clip_dir.parent)
    assert FrozenCLIP.load(f"{PACKAGED}{clip_dir.name}").depth == 4
    with pytest.raises(BackboneError, match=r"absent \(--clip\): there is no such directory"):
        FrozenCLIP.load(f"{PACKAGED}absent")


def test_the_embedded_demo_clip_loads() -> None:
    clip = FrozenCLIP.load("ssrseg:demo/weights/clip")
    assert clip.patch_size == 8
    features = clip.text_features(("a clean origami dog.", "a clean origami cat."))
    assert features[0] @ features[1] < 0.999


def changed(folder: Path, target: Path, name: str, value: float | None = None) -> Path:
    """A copy whose weight ``name`` has another first number."""
    weights = load_file(Path(shutil.copytree(folder, target)) / "model.safetensors")
    first = weights[name].flatten()
    first[0] = first[0] + 1e-3 if value is None else value
    weights[name] = first.reshape(weights[name].shape)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


VISION, TEXT = "vision_model.post_layernorm.bias", "text_model.final_layer_norm.bias"


def digests(folder: Path, **options: object) -> tuple[str, str | None]:
    clip = FrozenCLIP.load(folder, **options)
    return clip.digest, clip.text_digest


def test_digests_tell_weights_apart(clip_dir: Path, dino_dir: Path, tmp_path: Path) -> None:
    vision, text = digests(clip_dir)
    assert text is not None
    assert len(vision) == len(text) == 16
    assert set(vision + text) <= set("0123456789abcdef")
    other = digests(changed(clip_dir, tmp_path / "vision", VISION))
    assert other[0] != vision
    assert other[1] == text
    other = digests(changed(clip_dir, tmp_path / "text", TEXT))
    assert other[0] == vision
    assert other[1] != text
    other = digests(changed(clip_dir, tmp_path / "scale", "logit_scale"))
    assert other[0] == vision
    assert other[1] != text
    dino = FrozenDINO.load(dino_dir).digest
    assert FrozenDINO.load(tiny_dino(tmp_path / "dino", seed=5)).digest != dino
    assert digests(tiny_clip(tmp_path / "again")) == (vision, text)  # the same numbers


def test_the_same_weights_have_one_digest(clip_dir: Path, dino_dir: Path, tmp_path: Path) -> None:
    expected = digests(clip_dir)
    assert digests(clip_dir, precision="bf16") == expected
    assert digests(clip_dir, texts=("a cat", "a dog"), precision="bf16") == expected
    assert digests(clip_dir, texts=()) == (expected[0], None)
    dino = FrozenDINO.load(dino_dir)
    assert FrozenDINO.load(dino_dir, precision="bf16").digest == dino.digest
    # the older file format
    shutil.copytree(clip_dir, tmp_path / "bin")
    (tmp_path / "bin" / "model.safetensors").unlink()
    model = CLIPModel.from_pretrained(clip_dir)
    torch.save(model.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    assert digests(tmp_path / "bin") == expected


def test_what_the_weights_do_belongs_to_the_digest(clip_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(clip_dir, tmp_path / "heads")
    table = json.loads((tmp_path / "heads" / "config.json").read_text())
    table["vision_config"]["num_attention_heads"] = 2
    (tmp_path / "heads" / "config.json").write_text(json.dumps(table))
    expected, found = digests(clip_dir), digests(tmp_path / "heads")
    assert found[0] != expected[0]
    assert found[1] == expected[1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(
    clip_dir: Path, dino_dir: Path, tmp_path: Path, value: float
) -> None:
    changed(clip_dir, tmp_path / "vision", VISION, value)
    for texts in (None, (), ("a cat",)):
        with pytest.raises(BackboneError, match=rf"^clip .*vision holds .*1 weight .*{VISION}"):
            FrozenCLIP.load(tmp_path / "vision", texts=texts)
    changed(clip_dir, tmp_path / "text", TEXT, value)
    for texts in (None, ("a cat",)):
        with pytest.raises(BackboneError, match=rf"^clip .*text holds .*1 weight .*{TEXT}"):
            FrozenCLIP.load(tmp_path / "text", texts=texts)
    FrozenCLIP.load(tmp_path / "text", texts=())  # nobody asks the text tower
    changed(dino_dir, tmp_path / "dino", "layernorm.bias", value)
    with pytest.raises(BackboneError, match=r"^dino .*dino holds .*Fetch it anew"):
        FrozenDINO.load(tmp_path / "dino")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"hidden_size": 10**9}, "hidden_size = 1000000000"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers = 1000000"),
        ({"num_hidden_layers": "four"}, "num_hidden_layers"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"num_attention_heads": 0}, "could not be read"),
        ({"patch_size": [[1]]}, "patch_size"),
        ({"hidden_act": "no such"}, "no such"),
        ({"layer_norm_eps": {}}, "layer_norm_eps"),
        ({"hidden_size": float("nan")}, "NaN is no number"),
    ],
)
def test_settings_of_an_encoder_that_cannot_be(
    dino_dir: Path, tmp_path: Path, change: dict[str, object], fault: str
) -> None:
    folder = shutil.copytree(dino_dir, tmp_path / "dino")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(BackboneError, match=fault):
        FrozenDINO.load(folder)


def test_more_registers_than_memory_holds(tmp_path: Path) -> None:
    folder = tiny_dino(tmp_path / "dino", "dinov2_with_registers")
    set_config(folder / "config.json", num_register_tokens=10**8)
    with pytest.raises(BackboneError, match="num_register_tokens = 100000000"):
        FrozenDINO.load(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "[]", '"vit"', "\ufeff{}"])
def test_a_configuration_that_is_no_table(dino_dir: Path, tmp_path: Path, text: str) -> None:
    folder = shutil.copytree(dino_dir, tmp_path / "dino")
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(BackboneError, match=r"config\.json"):
        FrozenDINO.load(folder)


@pytest.mark.parametrize("name", ["/" + "a" * 5000, "./a\0b"])
def test_a_name_that_no_folder_can_have(name: str) -> None:
    with pytest.raises(BackboneError, match="there is no such directory"):
        FrozenDINO.load(name)


def test_encoders_known_by_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip_dir: Path
) -> None:
    known = files_digest(clip_dir)
    assert len(known) == 16
    copy = Path(shutil.copytree(clip_dir, tmp_path / "copy"))
    (copy / "README.md").write_text("other words")
    (copy / "pytorch_model.bin").write_bytes(b"not read where there is a safetensors file")
    assert files_digest(copy) == known
    kept = str(copy / "config.json")
    monkeypatch.setattr("ssrseg.networks.frozen.try_to_load_from_cache", lambda *_: kept)
    assert files_digest("somebody/clip") == known
    monkeypatch.undo()
    config = copy / "config.json"
    config.write_text(config.read_text().replace("quick_gelu", "gelu") + " ")
    assert files_digest(copy) != known
    for nowhere in (tmp_path / "nowhere", "no/such/hub/id", "", tmp_path):
        assert files_digest(nowhere) == ""
    assert files_digest("ssrseg:demo/weights/clip")


def test_names_beside_the_weights(copy: Path) -> None:
    assert read_names(copy) is None
    assert read_names("openai/clip-not-here") is None  # nothing is fetched
    (copy / "names.txt").write_text("Dog\n\n  Red Panda \n", encoding="utf-8-sig")
    assert read_names(copy) == {"dog", "red panda"}  # whatever case and mark an editor leaves


@pytest.mark.parametrize(
    ("content", "fault"), [(b"dog\n\xff", "cannot be read"), (b"\n", "names nothing")]
)
def test_faulty_names_beside_the_weights(copy: Path, content: bytes, fault: str) -> None:
    (copy / "names.txt").write_bytes(content)
    with pytest.raises(BackboneError, match=rf"names\.txt {fault}.*Copy the directory again"):
        read_names(copy)
