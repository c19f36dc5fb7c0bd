"""Everything that is planted in a folder is found, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssrseg.config import load_config
from ssrseg.console import CheckResult
from ssrseg.data.open import open_labelled
from ssrseg.data_check import DataCheck, check_data, findings, patches_of

ROWS = {
    **{f"{number:02d}.jpg": "bird" for number in range(11)},
    "11.jpg": "brid",
    "same.png": "bird",  # the pixels of bmp.bmp in another format
    "bmp.bmp": "bird",
    "copy.jpg": "dog",  # of 01.jpg, which shows a bird
    "broken.jpg": "dog",
    "tiny.png": "tree",
    "small.png": "none",
    "huge.jpg": "tree;dog",
}
SIZES = {"tiny.png": (10, 40), "small.png": (96, 96), "huge.jpg": (300, 2600)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("check")
    images, rng = root / "images", np.random.default_rng(0)
    images.mkdir()
    for name in ROWS:
        height, width = SIZES.get(name, (120, 160))
        coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height)).save(images / name)
    Image.open(images / "bmp.bmp").save(images / "same.png")
    shutil.copy(images / "01.jpg", images / "copy.jpg")
    (images / "broken.jpg").write_bytes((images / "02.jpg").read_bytes()[:400])
    (images / "forgotten.jpg").write_bytes((images / "03.jpg").read_bytes())
    lines = ["image,labels", *(f"images/{name},{labels}" for name, labels in ROWS.items())]
    (root / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def check(root: Path, *overrides: str) -> DataCheck:
    return check_data(open_labelled(root), load_config(overrides=overrides), 16)


def names(group: tuple[object, ...]) -> list[str]:
    return sorted(getattr(each, "sample", each).image.name for each in group)  # type: ignore[attr-defined]


def test_what_is_planted_is_found(folder: Path) -> None:
    found = check(folder)
    assert found.counts == {"bird": 13, "brid": 1, "dog": 3, "tree": 2}
    assert found.without_class == 1
    assert names(found.broken) == ["broken.jpg", "tiny.png"]
    assert len(found.usable) == len(ROWS) - 2
    assert [names(group) for group in found.duplicates] == [["bmp.bmp", "same.png"]]
    assert [names(group) for group in found.contradictions] == [["01.jpg", "copy.jpg"]]
    assert names(found.small) == ["small.png"]
    assert names(found.huge) == ["huge.jpg"]
    assert [path.name for path in found.unlabelled] == ["forgotten.jpg"]
    assert found.questions == ('Is "brid" (1 image) another class than "bird"?',)
    assert not found.listed
    assert found.vocabulary is not None
    assert found.vocabulary.dropped == ("tree",)
    assert found.unseen == ()
    assert {each.sample.image.name: each.size for each in found.usable}["huge.jpg"] == (300, 2600)


def test_findings_name_their_files(folder: Path) -> None:
    found = {each.what: each for each in findings(check(folder))}
    problems = {name for name, each in found.items() if each.cure}
    assert problems == {"images", "contradictions", "names"}
    assert "broken.jpg" in found["images"].cure and "tiny.png is 40 x 10" in found["images"].cure
    assert found["images"].found == "17 of 19 images can be used, 96 x 96 to 2600 x 300 pixels"
    assert found["contradictions"].cure.startswith(
        "images/01.jpg (bird); images/copy.jpg (dog). Keep one image"
    )
    assert found["duplicates"] == CheckResult(
        "duplicates", "2 images are 1 picture: images/same.png = images/bmp.bmp", grave=False
    )
    assert found["small"].found.startswith("1 image (images/small.png): of fewer than 49 patches")
    # 2600 pixels become 640: a patch of 16 covers 65
    assert "(images/huge.jpg): shrunk to 640 pixels" in found["huge"].found
    assert "a patch covers up to 65;" in found["huge"].found
    assert "images/forgotten.jpg" in found["without labels"].found
    assert found["imbalance"].found == '"bird" is in 13 images, "brid" in 1: 13 to 1'
    assert found["rare"].found.startswith('"brid" 1, "dog" 3, "tree" 2:')
    assert found["background words"].found.endswith('"tree" ("tree")')


def test_listed_names_are_meant(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "listed"
    shutil.copytree(folder, root)
    (root / "classes.txt").write_text("bird\nbrid\ndog\ntree\nowl\n", encoding="utf-8")
    found = {each.what: each for each in findings(check(root))}
    assert not found["names"].cure
    assert found["never seen"].found == 'no image shows "owl"'
    assert found["classes"].found == "4 classes of 5 are shown"


def test_sound_data_have_nothing_to_mend(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    lines = ["image,labels"]
    for number in range(10):
        shutil.copy(folder / "images" / f"{number:02d}.jpg", tmp_path / "images")
        lines.append(f"images/{number:02d}.jpg,{('bird', 'dog')[number % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert [(each.what, each.cure) for each in findings(check(tmp_path))] == [
        ("images", ""), ("classes", ""),
    ]  # fmt: skip


def test_prompts_that_cannot_be_asked(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text('template: "a {}."\nclasses: {}\nbackground: [tree]\n', encoding="utf-8")
    found = check(folder, f"prompts.set={own}")
    (problem,) = (each for each in findings(found) if each.what == "prompts")
    assert "There is no background text" in problem.cure


def test_patches_of_a_shrunk_photograph() -> None:
    assert patches_of((480, 640), 640, 16) == 30 * 40
    assert patches_of((3000, 4000), 640, 16) == 30 * 40
    assert patches_of((17, 33), 640, 16) == 2 * 3


def test_names_that_the_encoder_has_not_learnt_want_mending(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("bird\nbird avian\ndog\ntree\n", encoding="utf-8")
    found = findings(check(folder, f"backbones.clip={tmp_path}"))
    (said,) = (each.cure for each in found if each.what == "prompts")
    assert said.startswith('CLIP has not learnt "brid", "ground", "land", "grass"')
    assert "such as brid: bird; it lists every class" in said
    assert "prompts" not in {each.what for each in findings(check(folder))}
    (tmp_path / "names.txt").write_bytes(b"\xff")
    found = findings(check(folder, f"backbones.clip={tmp_path}"))
    assert any("names.txt cannot be read" in f"{each.found} {each.cure}" for each in found)
