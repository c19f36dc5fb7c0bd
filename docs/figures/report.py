"""Draw docs/figures/report.jpg: report.html of masks of drawn scenes, in headless Chromium.

    python docs/figures/report.py

Left the gallery, right an image enlarged, with its refined CAM.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

import ssrseg
from ssrseg.demo.run import FIRST_SCENE
from ssrseg.demo.scenes import write_dataset

SCENES, SIZE, WIDTH = 24, (1000, 900), 1600
VIEWS = (
    "document.querySelectorAll('header, section:not(:has(.gallery))').forEach(e => e.remove());",
    "document.querySelectorAll('.stack')[2].click();"
    "document.querySelector('.viewer [data-layer=\"2\"]').click();"
    "document.activeElement.blur();",
)


def main(out: Path) -> None:
    """Make masks, open their page twice, and put the two pictures side by side."""
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(
            folder / "scenes",
            train=range(FIRST_SCENE, FIRST_SCENE + SCENES),
            val=range(FIRST_SCENE + SCENES, FIRST_SCENE + SCENES + 1),
        )
        ssrseg.make_masks(folder / "scenes", folder / "masks", "demo")
        page = (folder / "masks" / "report.html").read_text(encoding="utf-8")
        # a script of ours would not run under the page's policy
        page = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
        shots = []
        for number, script in enumerate(VIEWS):
            view, shot = folder / f"view-{number}.html", folder / f"view-{number}.png"
            view.write_text(
                page.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8"
            )
            window = f"--window-size={SIZE[0]},{SIZE[1]}"
            flags = ["--headless", "--no-sandbox", "--hide-scrollbars", window]
            subprocess.run([browser, *flags, f"--screenshot={shot}", view.as_uri()], check=True)
            shots.append(Image.open(shot).convert("RGB"))
        both = Image.new("RGB", (2 * SIZE[0] + 20, SIZE[1]), "#888888")
        for number, each in enumerate(shots):
            both.paste(each, (number * (SIZE[0] + 20), 0))
        height = round(both.height * WIDTH / both.width)
        both.resize((WIDTH, height), Image.Resampling.LANCZOS).save(out, quality=80)


if __name__ == "__main__":
    main(Path(__file__).with_name("report.jpg"))
