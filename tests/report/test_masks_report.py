"""The page of a folder of masks: what it says, its order, its pictures, and its size."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from pages import CLASSES, Page, dumped, in_browser, masks_folder, needs_browser, pictures
from PIL import Image

from ssrseg.config import load_config
from ssrseg.data.stamped_mask import write_confidence
from ssrseg.errors import DataError
from ssrseg.manifest import ACCEPTED, REJECTED, Manifest
from ssrseg.overlay import mask_palette
from ssrseg.report import gallery
from ssrseg.report.masks import write_masks_report


def names_on(page: Path) -> list[str]:
    return [str(each["data-name"]) for each in Page(page).named("article")]


def test_the_worst_come_first_and_a_persons_last(tmp_path: Path) -> None:
    names = ("a", "b", "c", "d")
    score = {"a": "0.900", "b": "0.200", "c": "0.500", "d": "0.100"}
    reasons = {"b": "hardly looks like cat;covers almost everything"}
    out = masks_folder(tmp_path, names, score=score, reasons=reasons)
    with Image.open(out / "masks" / "d.png") as image:  # corrected: no stamp, other pixels
        ids = np.array(image)
    ids[0, 0] = 2
    Image.fromarray(ids).save(out / "masks" / "d.png")
    page = Page(write_masks_report(out))
    cards = page.named("article")
    assert [each["data-name"] for each in cards] == ["b", "c", "a", "d"]
    assert [each["data-marks"] for each in cards] == ["|c1|r0|r1|", "|c2|", "|c0|", "|c0|c1|"]
    assert page.text("h4") + page.text("a") == ["b", "c", "a", "d"]
    assert [each["href"] for each in page.named("a")] == [f"masks/{name}.png" for name in "bcad"]
    assert "score 0.20" in page.source and "corrected by hand" in page.source
    assert re.findall('class="why">([^<]*)', page.source) == [
        "hardly looks like cat; covers almost everything"
    ]
    # absent labels are a reason where there is no better one
    out = masks_folder(tmp_path / "old", ("a", "b"), absent={"b": "sheep"})
    assert names_on(write_masks_report(out)) == ["b", "a"]


def test_what_a_person_has_decided(tmp_path: Path) -> None:
    score = {"a": "0.100", "b": "0.200", "c": "0.300"}
    out = masks_folder(tmp_path, ("a", "b", "c"), score=score, reasons={"a": "low confidence"})
    manifest = Manifest(out / "manifest.csv", CLASSES)
    manifest.decide("a", ACCEPTED)
    manifest.decide("b", REJECTED)
    page = Page(write_masks_report(out))
    assert [each["data-name"] for each in page.named("article")] == ["b", "c", "a"]
    facts = dict(zip(page.text("dt"), page.text("dd"), strict=True))
    assert (facts["accepted"], facts["rejected"]) == ("1", "1")
    assert "score 0.10, accepted" in page.source and 'class="why"' not in page.source


def test_summary_and_classes(tmp_path: Path) -> None:
    score = {"a": "0.900", "b": "0.200", "d": "0.100"}
    out = masks_folder(tmp_path, ("a", "b", "c", "d"), score=score)
    (out / "failures.csv").write_text('name,image,reason\nx/<i>,x.jpg,"image x.jpg is damaged."\n')
    page = Page(write_masks_report(out, call="4 masks made in 7 s"))
    facts = dict(zip(page.text("dt"), page.text("dd"), strict=True))
    assert facts["images"] == "4, 1 more could not be used"
    assert facts["classes"] == "cat, <dog>, sheep"
    assert facts["last call"] == "4 masks made in 7 s"
    usual = load_config().sgc.min_ratio
    assert facts["settings"] == f"preset ssr; sgc.min_ratio = 0.25 (preset: {usual})"
    assert facts["x/<i>"] == "image x.jpg is damaged."
    assert facts["encoders"] == "openai/clip-vit-base-patch16, facebook/dino-vits16"
    cells = iter(page.text("td"))
    table = {name: [next(cells) for _ in range(4)] for name in CLASSES}
    # of 60 rows, a has 6 and d 24 in the first class, b 12, c 18; scores of a and d: 0.9, 0.1
    assert table == {
        "cat": ["2", "2", "25.0", "0.50"],
        "<dog>": ["1", "1", "20.0", "0.20"],
        "sheep": ["1", "1", "30.0", "-"],
    }


def test_the_layers_are_photograph_maps_and_mask(tmp_path: Path) -> None:
    out = masks_folder(tmp_path, ("a",))
    page = Page(write_masks_report(out))
    layers = [(each["class"], each.get("data-of")) for each in page.named("img")]
    assert layers == [("l0", None), ("l1", "0"), ("l2", "0"), ("l3", None)]
    photo, cam, refined, mask = pictures(page.source)
    assert photo.shape == mask.shape == (60, 80, 4)
    assert np.abs(photo[..., :3].astype(int) - (0, 90, 30)).max() <= 3
    assert cam.shape == (4, 5, 4)
    assert (cam == refined).all()
    lightness = cam[..., :3].astype(int).sum(-1).ravel()
    assert (np.diff(lightness) > 0).all() and lightness[0] < 10
    # inside the region its colour, outside nothing, a white and a black line between them
    assert mask[2, 40].tolist() == [*mask_palette()[1].tolist(), 200]
    assert mask[5, 40].tolist() == [255] * 4 and mask[6, 40].tolist() == [0, 0, 0, 255]
    assert not mask[7:, :, 3].any()


def test_what_cannot_be_read_is_said_and_breaks_nothing(tmp_path: Path) -> None:
    out = masks_folder(tmp_path, ("a", "b", "c", "d", "e"), image={"e": ""})
    (tmp_path / "photos" / "a.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (tmp_path / "photos" / "b.jpg").unlink()
    (out / "cams" / "c.npz").write_bytes(b"PK nothing")
    (out / "masks" / "c.png").write_bytes((out / "masks" / "c.png").read_bytes()[:-30])
    (out / "masks" / "d.png").unlink()  # a mask that was taken away has no card
    page = Page(write_masks_report(out))
    notes = dict(
        zip(names_on(out / "report.html"), re.findall('"note">([^<]*)', page.source), strict=True)
    )
    assert notes == {
        "a": "the photograph cannot be read any more",
        "b": "the photograph cannot be read any more",
        "c": "the mask cannot be read",
        "e": "nothing says where the photograph is",
    }
    layers = [each["class"] for each in page.named("img")]
    assert layers == [*("l1", "l2", "l3") * 2, "l0", "l1", "l2", "l3"]
    # photographs that have moved are found by their names
    (tmp_path / "photos").rename(tmp_path / "moved")
    assert write_masks_report(out).read_text().count('class="l0"') == 0
    assert write_masks_report(out, images=tmp_path / "moved").read_text().count('class="l0"') == 2


def test_names_are_text_and_links_lead_to_their_files(tmp_path: Path) -> None:
    evil = "day 1/<b>&\"'#%?</script><!--".replace("/script", "∕script")
    out = masks_folder(tmp_path, (evil,), reasons={evil: "<img src=x>"})
    page = Page(write_masks_report(out))
    assert names_on(out / "report.html") == [evil] and not page.named("b")
    assert page.text("a") == [evil]
    (link,) = (str(each["href"]) for each in page.named("a"))
    assert (out / unquote(link)).is_file()
    assert len(page.named("img")) == 4


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    out = masks_folder(tmp_path, tuple("abcdefgh"))
    one = write_masks_report(out).read_bytes()
    assert write_masks_report(out).read_bytes() == one
    # what a call says of itself is all that differs between calls
    other = write_masks_report(out, call="8 masks made in 3 s").read_bytes()
    assert re.sub(rb"<div><dt>last call</dt>.*?</div>\n", b"", other) == one != other


def test_many_pictures_lie_beside_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple(f"n{number:02d}" for number in range(12))
    out = masks_folder(tmp_path, names)
    embedded = write_masks_report(out).stat().st_size
    monkeypatch.setattr(gallery, "EMBEDDED", 11)
    monkeypatch.setattr(gallery, "FIRST", 5)
    page = Page(write_masks_report(out))
    assert (out / "report.html").stat().st_size < embedded
    assert names_on(out / "report.html") == list(names[:5])
    sources = [str(each["src"]) for each in page.named("img")]
    assert len(sources) == 20 and all((out / each).is_file() for each in sources)
    assert page.named("img")[0]["loading"] == "lazy"
    assert "The first 5 of 12 images; the others need JavaScript." in page.source
    before = {file: file.stat().st_mtime_ns for file in (out / "report").rglob("*.*")}
    # a picture that was cut short is made again, one that is not used any more goes, others stay
    (out / "report" / "mine.txt").write_text("a person's")
    victim = out / sources[3]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:20])
    (out / "masks" / "n11.png").unlink()
    monkeypatch.setattr(gallery, "EMBEDDED", 10)
    write_masks_report(out)
    assert victim.read_bytes() == whole
    after = {file: file.stat().st_mtime_ns for file in (out / "report").rglob("*.*")}
    gone = before.keys() - after.keys()
    assert len(gone) == 2 and (out / "report" / "mine.txt").is_file()  # photograph and mask
    assert all(after[file] == time for file, time in before.items() if file not in (*gone, victim))
    monkeypatch.setattr(gallery, "EMBEDDED", 300)
    (out / "report" / "mine.txt").unlink()
    write_masks_report(out)
    assert not (out / "report").exists()


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder of masks: it has no manifest\.csv"):
        write_masks_report(tmp_path)
    (tmp_path / "checkpoint.safetensors").touch()
    with pytest.raises(DataError, match="training run, whose report `ssrseg train` writes"):
        write_masks_report(tmp_path)


def test_a_folder_without_a_mask_has_a_page(tmp_path: Path) -> None:
    page = Page(write_masks_report(masks_folder(tmp_path, ())))
    assert page.text("h2") == ["Summary", "Classes", "Images"] and not page.named("article")


@needs_browser
def test_the_script_runs_under_the_pages_policy(tmp_path: Path) -> None:
    out = masks_folder(tmp_path, ("a", "b"))
    found = dumped(write_masks_report(out))
    assert re.search('<html[^>]* class="js"', found)
    assert re.search('class="count"[^>]*>2 images<', found)


@needs_browser
def test_names_of_any_characters_reach_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "EMBEDDED", 1)
    monkeypatch.setattr(gallery, "FIRST", 1)
    names = ("a", "b</i><!--<b>\"&'", "c\x7f\x1b\xad\u202e\\", "d犬é")
    page = write_masks_report(masks_folder(tmp_path, names))
    shown = """{
      all(".more")[0].click(); all(".more")[0].click(); all(".more")[0].click();
      return all(".cards h4").map(each => each.textContent);
    }"""
    assert in_browser(page, shown) == {
        "value": ["a", names[1], r"c\x7f\x1b\xad\u202e" + "\\", "d犬é"], "faults": [],
    }  # fmt: skip


@needs_browser
def test_keys_filters_and_sliders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "EMBEDDED", 8)
    monkeypatch.setattr(gallery, "FIRST", 4)
    names = tuple(f"n{number}" for number in range(9))
    out = masks_folder(
        tmp_path, names, reasons={"n4": "hardly looks like sheep", "n5": "hardly looks like <dog>"}
    )
    page = write_masks_report(out)
    found = in_browser(
        page,
        """{
        const said = [], root = document.documentElement;
        const s = () => getComputedStyle(root).getPropertyValue("--s");
        const shown = () => all(".cards .card").map(card => card.dataset.name).join(" ");
        const count = () => all(".count")[0].textContent;
        const change = (name, value, kind) => {
          const field = all(`.filters [name=${name}]`)[0];
          field.value = value;
          field.dispatchEvent(new Event(kind, {bubbles: true}));
        };
        said.push(shown(), count());
        all(".more")[0].click(); said.push(shown());
        change("class", "2", "change"); said.push(shown(), count());
        change("class", "", "change"); change("reason", "0", "change"); said.push(shown());
        change("reason", "", "change"); change("name", "N7", "input"); said.push(shown());
        change("name", "", "input");
        key("2", document.body); said.push(s());
        const slider = all(".tools input.slider")[0];
        slider.value = 2.5;
        slider.dispatchEvent(new Event("input", {bubbles: true}));
        said.push(s());
        said.push(all(".viewer input.slider")[0].value);
        key("/", document.body); said.push(document.activeElement.name);
        document.activeElement.blur();
        key("ArrowRight", document.body); key("ArrowRight");
        said.push(document.activeElement.closest(".card").dataset.name);
        document.activeElement.click(); key("ArrowRight", document.body);
        const place = all(".place")[0];
        const seen = () => `${all(".stage .card")[0].dataset.name} ${place.textContent}`;
        said.push(seen());
        for (const _ of [1, 2, 3]) key("ArrowLeft", document.body);
        said.push(seen(), all(".viewer")[0].open);
        all(".viewer .close")[0].click();
        said.push(all(".viewer")[0].open);
        said.push(getComputedStyle(all(".cards .l3")[0]).opacity);
        return said;
        }""",
    )
    assert found["faults"] == []
    assert found["value"] == [
        "n4 n5 n0 n1", "9 images", "n4 n5 n0 n1 n2 n3 n6 n7", "n5 n2 n8", "3 of 9 images", "n4 n5",
        "n7", "1", "2.5", "2.5", "name", "n5", "n0 3 of 9", "n8 9 of 9", True, False, "0.375",
    ]  # fmt: skip


@pytest.mark.parametrize("embedded", [300, 1])
def test_nothing_comes_from_outside_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded: int
) -> None:
    monkeypatch.setattr(gallery, "EMBEDDED", embedded)
    page = Page(write_masks_report(masks_folder(tmp_path, ("a", "b", "c"))))
    assert "http" not in re.sub('data:[^"]*', "", page.source).replace("http-equiv", "")
    places = [str(value) for _, each in page.elements for name, value in each.items()
              if name in ("src", "href", "srcset", "action", "data")]  # fmt: skip
    assert len(places) == 1 + 3 + 12
    start = "data:image/" if embedded == 300 else "report/"
    assert all(each.startswith(("data:,", "masks/", start)) for each in places)
    (policy,) = (str(each["content"]) for each in page.named("meta") if "http-equiv" in each)
    assert policy.startswith("default-src 'none'; img-src data: 'self' file:; style-src")


def test_a_confidence_is_a_layer_behind_the_mask(tmp_path: Path) -> None:
    out = masks_folder(tmp_path, ("a", "b"))
    values = torch.linspace(0, 1, 80).expand(60, 80)
    write_confidence(out / "confidence" / "a.png", values, "0" * 16)
    page = Page(write_masks_report(out))
    assert [each["class"] for each in page.named("img")][:5] == ["l0", "l1", "l2", "l3", "l4"]
    assert len(page.named("img")) == 9  # b has none
    confidence = pictures(page.source)[4]
    assert confidence.shape == (48, 64, 4)
    assert (np.diff(confidence[..., :3].astype(int).sum(-1), axis=1) >= 0).all()
    (slider, *_) = (each for each in page.named("input") if each.get("class") == "slider")
    assert (slider["max"], slider["value"]) == ("4", "3")  # the mask is shown at first
