"""CAMs are made once, masks from them as often as one likes; what has changed is said."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_tiny import tiny_folder
from PIL import Image
from tiny_encoders import tiny_clip, tiny_config, tiny_dino

from ssrseg import cam_source, mask_folder
from ssrseg.config import Config, load_config
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages
from ssrseg.errors import BackboneError, ConfigError, SSRError
from ssrseg.kept_cams import KeptCams, read_cams
from ssrseg.pseudo_masks import make_masks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    """cat; dog; red car, dog; none."""
    return open_labelled(tiny_folder(tmp_path_factory.mktemp("own") / "data", n=4))


@pytest.fixture(scope="module")
def config(clip_dir: Path, dino_dir: Path) -> Config:
    return tiny_config(clip_dir, dino_dir, "cam.mode=clip")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, folder: LabelledImages, config: Config) -> Path:
    """Masks of the folder."""
    out = tmp_path_factory.mktemp("masks") / "out"
    make_masks(folder, out, config)
    return out


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy of them."""
    return Path(shutil.copytree(whole, tmp_path / "out"))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """``cam NAME`` and ``mask NAME`` in the order in which they are written."""
    names: list[str] = []
    cams, mask = cam_source.write_cams, mask_folder.write_mask

    def noting_cams(path: Path, found: KeptCams, made_for: str) -> None:
        names.append(f"cam {path.stem}")
        cams(path, found, made_for)

    def noting_mask(path: Path, *content: Any) -> None:
        names.append(f"mask {path.stem}")
        mask(path, *content)

    monkeypatch.setattr(cam_source, "write_cams", noting_cams)
    monkeypatch.setattr(mask_folder, "write_mask", noting_mask)
    return names


def with_pseudo(config: Config, **settings: Any) -> Config:
    return replace(config, pseudo=replace(config.pseudo, **settings))


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "report.html"  # which says how long it took
    }


def masks(folder: Path) -> dict[str, bytes]:
    return {name: held for name, held in files(folder).items() if name.endswith(".png")}


def correct_by_hand(path: Path) -> bytes:
    mask = Image.open(path)
    mask.load()
    mask.paste(1, (0, 0, 9, 9))
    mask.save(path)
    return path.read_bytes()


# ---------------------------------------------------------------- masks from kept CAMs


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 3.0},
        {"refine": "none"},
        {"refine": "crf", "crf": (1.0, 2.0, 50.0, 4.0, 3.0)},
        {"par_iterations": 3, "par_dilations": (1, 5)},
        {"min_score": 0.7},
    ],
)
def test_masks_from_kept_cams_are_those_made_in_one_go(
    folder: LabelledImages,
    config: Config,
    made: list[str],
    out: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    capfd: pytest.CaptureFixture[str],
) -> None:
    first = masks(out)
    made.clear()
    capfd.readouterr()
    other = with_pseudo(config, **settings)
    result = make_masks(folder, out, other)
    names = [sample.name for sample in folder.samples]
    assert made == [f"mask {name}" for name in names]
    assert (result.written, result.from_kept_cams, result.renewed, result.skipped) == (4, 4, 0, 0)
    said = capfd.readouterr().err
    for key in settings:
        assert f"pseudo.{key} changed from " in said
    assert ": masks are made again from the kept CAMs." in said
    assert said.count("Note:") == 1

    made.clear()
    whole = make_masks(folder, tmp_path / "one", other)
    assert (whole.written, whole.from_kept_cams) == (4, 0)
    assert made[:2] == [f"cam {names[0]}", f"mask {names[0]}"]
    assert files(tmp_path / "one") == files(out)
    assert masks(tmp_path / "one") != first


def test_the_note_says_the_old_and_the_new_value(
    folder: LabelledImages, config: Config, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    make_masks(folder, out, with_pseudo(config, alpha=2.0, min_score=0.5))
    assert (
        "Note: pseudo.alpha changed from 1.0 to 2.0; pseudo.min_score changed from null to 0.5:"
        " masks are made again from the kept CAMs.\n"
    ) in capfd.readouterr().err


def test_no_encoder_is_opened(folder: LabelledImages, tmp_path: Path) -> None:
    clip, dino = tiny_clip(tmp_path / "clip"), tiny_dino(tmp_path / "dino")
    config = tiny_config(clip, dino, "cam.mode=clip")
    make_masks(folder, tmp_path / "out", config)
    run = (
        "import sys\n"
        "from ssrseg.config import load_config\n"
        "from ssrseg.pseudo_masks import make_masks\n"
        "data, out, alpha = sys.argv[1:]\n"
        "config = load_config(file=f'{out}/config.yaml', overrides=['pseudo.alpha=' + alpha])\n"
        "result = make_masks(data, out, config)\n"
        "assert result.from_kept_cams == result.written == 4, result\n"
        "assert 'transformers' not in sys.modules\n"
        "assert 'ssrseg.model' not in sys.modules\n"
    )

    def again(alpha: str) -> str:
        words = [sys.executable, "-c", run, folder.root, tmp_path / "out", alpha]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert "not needed" not in again("2.0")
    moved = clip.rename(tmp_path / "elsewhere")
    assert f"clip {clip} is not here; as long as all CAMs are kept, it is not needed." in again("3")
    expected = with_pseudo(config, alpha=3.0)
    expected = replace(expected, backbones=replace(config.backbones, clip=str(moved)))
    make_masks(folder, tmp_path / "whole", expected)
    assert masks(tmp_path / "whole") == masks(tmp_path / "out")


def test_an_encoder_that_is_gone_and_needed(
    folder: LabelledImages, tmp_path: Path, made: list[str], dino_dir: Path
) -> None:
    clip, out = tiny_clip(tmp_path / "clip"), tmp_path / "out"
    config = tiny_config(clip, dino_dir, "cam.mode=clip")
    make_masks(folder, out, config)
    clip.rename(tmp_path / "elsewhere")
    assert make_masks(folder, out, config).skipped == 4
    (out / "cams" / "photo_1.npz").unlink()
    made.clear()
    with pytest.raises(BackboneError, match="there is no such directory"):
        make_masks(folder, out, with_pseudo(config, alpha=2.0))
    assert made == ["mask photo_0", "mask photo_2", "mask photo_3"]
    assert sorted(masks(out)) == [f"masks/photo_{index}.png" for index in (0, 2, 3)]


def test_masks_corrected_by_hand_stay(
    folder: LabelledImages, config: Config, made: list[str], out: Path
) -> None:
    corrected = correct_by_hand(out / "masks" / "photo_1.png")
    made.clear()
    result = make_masks(folder, out, with_pseudo(config, alpha=2.0))
    assert made == ["mask photo_0", "mask photo_2", "mask photo_3"]
    assert (result.corrected, result.skipped) == (("photo_1",), 1)
    assert (out / "masks" / "photo_1.png").read_bytes() == corrected
    sure = make_masks(folder, out, with_pseudo(config, alpha=2.0), confidence=True)
    assert (sure.written, sure.from_kept_cams) == (3, 3)  # a confidence is made of it all the same
    assert (out / "masks" / "photo_1.png").read_bytes() == corrected
    rows = (out / "manifest.csv").read_text().splitlines()
    assert [",person," in row for row in rows] == [False, False, True, False, False]


def test_overwrite_makes_cams_again(
    folder: LabelledImages, config: Config, made: list[str], out: Path
) -> None:
    made.clear()
    result = make_masks(folder, out, config, overwrite=True)
    assert (len(made), result.from_kept_cams, result.renewed) == (8, 0, 0)


# ---------------------------------------------------------------- never a mixture


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_stopped_half_way(
    folder: LabelledImages,
    config: Config,
    made: list[str],
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kept: int,
) -> None:
    other = with_pseudo(config, alpha=3.0)
    before = masks(out)
    made.clear()
    write = mask_folder.write_mask

    def killed(path: Path, *content: Any) -> None:
        if len(made) == kept:
            raise KeyboardInterrupt
        write(path, *content)

    with monkeypatch.context() as patched:
        patched.setattr(mask_folder, "write_mask", killed)
        with pytest.raises(KeyboardInterrupt):
            make_masks(folder, out, other)
    assert not before.items() & masks(out).items()  # what is there is of the new settings
    assert len(masks(out)) == kept
    listed = (out / "manifest.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in listed] == [f"photo_{i}" for i in range(kept)]

    result = make_masks(folder, out, other)
    assert (result.written, result.skipped) == (4 - kept, kept)
    make_masks(folder, tmp_path / "straight", other)
    assert files(out) == files(tmp_path / "straight")


def test_no_page_shows_masks_that_are_gone(
    folder: LabelledImages, config: Config, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_masks(folder, out, config, report=False)  # nothing to do: the page is right
    assert (out / "report.html").is_file()
    make_masks(folder, out, with_pseudo(config, alpha=3.0), report=False)
    assert not (out / "report.html").exists()

    make_masks(folder, out, config)
    assert (out / "report.html").is_file()

    def killed(path: Path, *content: Any) -> None:
        assert not (out / "report.html").exists()  # as after a SIGKILL
        raise KeyboardInterrupt

    monkeypatch.setattr(mask_folder, "write_mask", killed)
    with pytest.raises(KeyboardInterrupt):
        make_masks(folder, out, with_pseudo(config, alpha=3.0))
    assert not (out / "report.html").exists()


def test_stopped_while_the_old_masks_are_removed(
    folder: LabelledImages, config: Config, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = with_pseudo(config, alpha=3.0)
    whole = files(out)
    unlink = Path.unlink

    def killed(path: Path, *, missing_ok: bool = False) -> None:
        if path.name == "photo_2.png":
            raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            make_masks(folder, out, other)
    assert sorted(masks(out)) == ["masks/photo_2.png", "masks/photo_3.png"]
    assert masks(out).items() <= whole.items()
    assert files(out)["config.yaml"] == whole["config.yaml"]  # as are the masks
    assert make_masks(folder, out, config).from_kept_cams == 2
    assert files(out) == whole


def test_masks_that_the_call_would_leave(folder: LabelledImages, config: Config, out: Path) -> None:
    before = files(out)
    fewer = replace(folder, samples=folder.samples[1:])
    for overwrite in (False, True):
        with pytest.raises(ConfigError) as caught:
            make_masks(fewer, out, with_pseudo(config, alpha=2.0), overwrite=overwrite)
        assert str(caught.value) == (
            f"{out} holds masks made with other settings (pseudo.alpha = 1.0 there, 2.0 now),"
            " such as photo_0.png, which this call would leave. Use the same ones to go on, or"
            " another folder (--out) to begin anew."
        )
    assert files(out) == before


def test_a_photograph_that_is_gone_leaves_no_old_mask(
    config: Config, made: list[str], tmp_path: Path
) -> None:
    data = open_labelled(tiny_folder(tmp_path / "data", n=3))
    make_masks(data, tmp_path / "out", config)
    data.samples[1].image.unlink()
    result = make_masks(data, tmp_path / "out", with_pseudo(config, alpha=2.0))
    assert [each.name for each in result.failures] == ["photo_1"]
    assert sorted(masks(tmp_path / "out")) == ["masks/photo_0.png", "masks/photo_2.png"]


# ---------------------------------------------------------------- files of CAMs


def test_damaged_and_foreign_cams_are_made_again(
    folder: LabelledImages, config: Config, made: list[str], out: Path
) -> None:
    path = out / "cams" / "photo_2.npz"
    whole = path.read_bytes()
    with np.load(path) as found:
        arrays = dict(found)
    flipped = bytearray(whole)
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("refined_cam.npy")
    flipped[member.header_offset + 30 + len(member.filename) + member.compress_size // 2] ^= 0xFF
    strange: list[bytes | dict[str, Any]] = [
        b"",
        whole[:300],
        bytes(flipped),
        (out / "cams" / "photo_0.npz").read_bytes(),
        b"no archive",
        {**arrays, "made_for": np.array("0" * 16)},
        {**arrays, "refined_cam": np.array([object()])},
        {**arrays, "refined_cam": arrays["refined_cam"] * 2},
        {**arrays, "refined_cam": arrays["refined_cam"] * np.float32("nan")},
        {**arrays, "refined_cam": arrays["refined_cam"][:1]},
        {**arrays, "refined_cam": arrays["refined_cam"].astype(np.float64)},
        {**arrays, "cam": arrays["cam"][:, :1]},
        {key: value for key, value in arrays.items() if key != "refined_cam"},
    ]
    right = str(arrays["made_for"])
    assert read_cams(path, right) is not None
    for content in strange:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.savez_compressed(path, **content)
        assert read_cams(path, right) is None, content
    for damage in (bytes(flipped), strange[3]):
        assert isinstance(damage, bytes)
        path.write_bytes(damage)
        made.clear()
        result = make_masks(folder, out, config)
        assert made == ["cam photo_2", "mask photo_2"]
        assert (result.skipped, result.from_kept_cams, path.read_bytes()) == (3, 0, whole)
    made.clear()
    assert make_masks(folder, out, config).skipped == 4


def test_a_small_file_of_large_arrays_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(5):
            archive.writestr(f"{index}.npy", bytes(1 << 26))
    assert (tmp_path / "bomb.npz").stat().st_size < 1 << 20
    assert read_cams(tmp_path / "bomb.npz") is None


def test_cams_and_other_samples_in_each_others_place(config: Config, tmp_path: Path) -> None:
    data = open_labelled(tiny_folder(tmp_path / "data", n=2))
    one, other = data.samples
    samples = (replace(one, name="a"), replace(other, name="a.npz/b"))
    result = make_masks(replace(data, samples=samples), tmp_path / "out", config)
    assert (result.written, [each.name for each in result.failures]) == (1, ["a.npz/b"])
    assert "has no place at cams/a.npz/b.npz" in result.failures[0].reason


# ---------------------------------------------------------------- classes, prompts, labels


def test_a_class_at_the_end_concerns_the_images_that_carry_it(
    folder: LabelledImages,
    config: Config,
    made: list[str],
    out: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = masks(out)
    relabelled = replace(folder.samples[1], labels=(1, 3))
    samples = (folder.samples[0], relabelled, *folder.samples[2:])
    more = replace(folder, classes=(*folder.classes, "zebra"), samples=samples)
    made.clear()
    capfd.readouterr()
    result = make_masks(more, out, config)
    assert made == ["cam photo_1", "mask photo_1"]
    assert (result.written, result.skipped) == (1, 3)
    assert 'Note: "zebra" added to the classes.' in capfd.readouterr().err
    assert (out / "classes.txt").read_text() == "cat\ndog\nred car\nzebra\n"
    assert len(before.items() & masks(out).items()) == 3
    made.clear()
    assert make_masks(more, out, config).skipped == 4
    assert "added" not in capfd.readouterr().err


def test_a_class_that_leaves_out_a_background_word_concerns_all(
    folder: LabelledImages,
    config: Config,
    made: list[str],
    out: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    more = replace(folder, classes=(*folder.classes, "tree"))
    made.clear()
    result = make_masks(more, out, config)
    assert (result.written, result.from_kept_cams, len(made)) == (4, 0, 8)
    said = capfd.readouterr().err
    assert 'Note: "tree" added to the classes.' in said
    assert 'background texts: "a clean origami tree." left out: all masks are made again' in said


def test_where_every_text_counts_a_class_concerns_all(
    folder: LabelledImages, clip_dir: Path, dino_dir: Path, made: list[str], tmp_path: Path
) -> None:
    config = tiny_config(clip_dir, dino_dir, "cam.mode=clip", "affinity.cda_temperature=0.01")
    make_masks(folder, tmp_path / "out", config)
    more = replace(folder, classes=(*folder.classes, "zebra"))
    made.clear()
    make_masks(more, tmp_path / "out", config)
    assert len(made) == 8
    make_masks(more, tmp_path / "fresh", config)
    assert files(tmp_path / "out") == files(tmp_path / "fresh")


def test_a_prompt_concerns_the_images_that_carry_its_class(
    folder: LabelledImages,
    config: Config,
    made: list[str],
    out: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    dogs = [each.name for each in folder.samples if 1 in each.labels]
    assert 0 < len(dogs) < 4
    asked = replace(folder, prompts={"dog": "hound"})
    made.clear()
    make_masks(asked, out, config)
    assert made == [f"{what} {name}" for name in dogs for what in ("cam", "mask")]
    assert (
        'prompt of "dog" = "a clean origami dog." there, "a clean origami hound." now: masks of'
        " images that show it are made again."
    ) in capfd.readouterr().err
    fewer = replace(folder, samples=folder.samples[1:])
    with pytest.raises(ConfigError, match=r'prompt of "dog" = .*which this call would leave'):
        make_masks(fewer, out, config)


def test_a_label_concerns_one_image(
    folder: LabelledImages, config: Config, made: list[str], out: Path
) -> None:
    relabelled = replace(folder.samples[0], labels=(0, 2))
    made.clear()
    result = make_masks(replace(folder, samples=(relabelled, *folder.samples[1:])), out, config)
    assert made == ["cam photo_0", "mask photo_0"]
    assert (result.renewed, result.skipped) == (1, 3)


# ---------------------------------------------------------------- what is refused, and how


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (("dog", "cat", "red car"), 'class 1 = "cat" there, "dog" now; class 2 = "dog" there'),
        (("ant", "cat", "dog", "red car"), "classes.txt is copied beside the labels and new ones"),
        (("cat", "hound", "red car"), 'class 2 = "dog" there, "hound" now'),
        (("cat", "dog"), 'class 3 = "red car" there, none now'),
    ],
)
def test_other_classes_are_refused(
    folder: LabelledImages, config: Config, tmp_path: Path, classes: tuple[str, ...], said: str
) -> None:
    two = replace(folder, samples=(folder.samples[0], folder.samples[3]))
    make_masks(two, tmp_path, config)
    before = files(tmp_path)
    with pytest.raises(ConfigError) as caught:
        make_masks(replace(two, classes=classes), tmp_path, config)
    assert said in str(caught.value)
    assert files(tmp_path) == before
    assert make_masks(replace(two, classes=classes), tmp_path, config, overwrite=True).written == 2


def test_what_differs_is_said(folder: LabelledImages, config: Config, out: Path) -> None:
    sgc = replace(config.sgc, high=0.7, axis="row")
    other = replace(
        with_pseudo(config, alpha=2.0), sgc=sgc, prompts=replace(config.prompts, set="coco")
    )
    with pytest.raises(ConfigError) as caught:
        make_masks(replace(folder, prompts={"dog": "hound"}), out, other)
    said = str(caught.value)
    assert (
        'sgc.high = 0.4 there, 0.7 now; sgc.axis = "col" there, "row" now; background texts:'
        in said
    )
    assert "pseudo.alpha" in said or "more)" in said
    assert "--overwrite to replace all of them" in said


def test_nothing_says_what_the_masks_were_made_with(
    folder: LabelledImages, config: Config, made: list[str], out: Path
) -> None:
    settings = out / "config.yaml"
    for line in ("# made with: 0123456789abcdef\n", '# made with: {"classes": 3}\n'):
        settings.write_text(config.to_yaml() + line)  # the first is that of version 0.1
        with pytest.raises(ConfigError, match=r"\(nothing that can be read says which\)"):
            make_masks(folder, out, config)
    settings.unlink()  # every mask says it, too
    made.clear()
    result = make_masks(folder, out, with_pseudo(config, alpha=2.0))
    assert (result.from_kept_cams, len(made)) == (4, 4)


def test_settings_changed_by_hand_are_settings(
    folder: LabelledImages, config: Config, made: list[str], out: Path
) -> None:
    own = out / "config.yaml"
    own.write_text(own.read_text().replace("alpha: 1.0", "alpha: 2.0"))
    made.clear()
    assert make_masks(folder, out, load_config(file=own)).from_kept_cams == 4
    assert load_config(file=own).pseudo.alpha == 2.0


def test_other_weights_under_the_name_of_those_that_were_gone(
    folder: LabelledImages, tmp_path: Path, dino_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, out = tiny_clip(tmp_path / "clip"), tmp_path / "out"
    config = tiny_config(clip, dino_dir, "cam.mode=clip")
    make_masks(folder, out, config)
    shutil.rmtree(clip)
    tiny_clip(clip, seed=3)
    with pytest.raises(ConfigError, match="another clip"):
        make_masks(folder, out, config)
    # known by its name alone, when it could not be looked at
    monkeypatch.setattr(cam_source, "files_digest", lambda source: "")
    assert make_masks(folder, out, config).skipped == 4
    (out / "cams" / "photo_1.npz").unlink()
    with pytest.raises(ConfigError, match=r"holds CAMs of other encoders than .*clip"):
        make_masks(folder, out, config)


def test_a_model_that_was_never_there(folder: LabelledImages, config: Config, out: Path) -> None:
    with pytest.raises(SSRError, match="--model"):
        make_masks(folder, out, config, model=out / "nowhere")
