"""Pages as a parser and as a browser see them, and a folder of masks to report on."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssrseg.config import load_config
from ssrseg.data.csv_lines import csv_line
from ssrseg.data.stamped_mask import write_mask
from ssrseg.kept_cams import KeptCams, write_cams
from ssrseg.manifest import COLUMNS

CLASSES = ("cat", "<dog>", "sheep")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="needs Chromium: apt-get install chromium"
)


def browser_path() -> str:
    """Chromium; a test that was not skipped fails without it."""
    if BROWSER is None:
        pytest.fail(f"none of {', '.join(BROWSERS)} is there: apt-get install chromium")
    return BROWSER


SIZE = (60, 80)
VOID = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """Elements in order as (tag, attributes, path of open tags), and the text of each path."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> list[str]:
        return [data for name, data in self.texts if name == tag]


def masks_folder(root: Path, names: tuple[str, ...], **cells: dict[str, str]) -> Path:
    """Photographs, CAMs and masks, made without an encoder.

    Image i is labelled with class i mod 3, and its mask has it in the upper 6 (i + 1) rows.

    Args:
        cells: By column of the manifest, values by name of the image.
    """
    out = root / "out"
    lines = [csv_line(COLUMNS)]
    for index, name in enumerate(names):
        photo = root / "photos" / f"{name}.jpg"
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1], (20 * index % 256, 90, 30)).save(photo)
        ids = torch.zeros(SIZE, dtype=torch.uint8)
        ids[: 6 * (index % 10 + 1)] = index % 3 + 1
        write_mask(out / "masks" / f"{name}.png", ids, "0" * 16)
        label = CLASSES[index % 3]
        maps = torch.linspace(0, 1, 20).reshape(1, 4, 5)
        write_cams(
            out / "cams" / f"{name}.npz", KeptCams((label,), maps, maps, {label: 0.5}), "0" * 16
        )
        row = dict.fromkeys(COLUMNS, "") | {
            "name": name, "labels": label, "mask": f"masks/{name}.png",
            "image": f"../photos/{name}.jpg", "made_by": "ssrseg",
        }  # fmt: skip
        row |= {column: values[name] for column, values in cells.items() if name in values}
        lines.append(csv_line(row.values()))
    out.mkdir(parents=True, exist_ok=True)
    (out / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    (out / "config.yaml").write_text(load_config(overrides=["sgc.min_ratio=0.25"]).to_yaml())
    (out / "manifest.csv").write_text("".join(lines), encoding="utf-8")
    return out


def in_browser(page: Path, script: str = "0") -> dict[str, object]:
    """What a browser makes of a page: its faults, and the value of a script.

    The script runs behind the page's own, which its policy would not allow: a copy without one is
    opened beside it.
    """
    text = page.read_text(encoding="utf-8")
    text = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    before = "<script>window.faults = []; onerror = what => { faults.push(what); };</script>"
    after = f"""<script>
    const key = (name, target = document.activeElement) => target.dispatchEvent(
        new KeyboardEvent("keydown", {{key: name, bubbles: true, cancelable: true}}));
    const all = query => [...document.querySelectorAll(query)];
    const value = (() => {script})();
    document.body.textContent = JSON.stringify({{value, faults}}) + "END";
    </script>"""
    copy = page.with_name("probe.html")
    copy.write_text(text.replace("<body>", f"<body>{before}").replace("</body>", f"{after}</body>"))
    return json.loads(html.unescape(_dump(copy).split("<body>")[1].split("END")[0]))


def dumped(page: Path) -> str:
    """The page's elements when its own script, and nothing else, has run."""
    return _dump(page)


def _dump(page: Path) -> str:
    command = [browser_path(), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    found = subprocess.run([*command, page.as_uri()], capture_output=True, timeout=120)
    return found.stdout.decode("utf-8")


def pictures(source: str) -> list[np.ndarray]:
    """The pictures that a page embeds, in order, with their opacity."""
    found = re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]*)"', source)
    files = (io.BytesIO(base64.b64decode(each, validate=True)) for each in found)
    return [np.asarray(Image.open(file).convert("RGBA")) for file in files]
