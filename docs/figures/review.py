"""Draw docs/figures/review.jpg: the page of `ssrseg review` with the photographs of the package.

python docs/figures/review.py
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

import ssrseg

SIZE = {"width": 1280, "height": 760}


def main(out: Path) -> None:
    """Make masks, open their page, accept and reject some, and take a picture of another one."""
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))))
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        masks = Path(name) / "masks"
        ssrseg.make_masks("ssrseg:photos/sample", masks, "photos")
        command = [sys.executable, "-m", "ssrseg", "review", str(masks), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            address = re.search("http://[^ ]+", server.stdout.readline())
            assert address is not None
            options = {"executable_path": browser, "args": ["--no-sandbox"]}
            page = playwright.chromium.launch(**options).new_page(viewport=SIZE)
            page.goto(address[0].strip())
            page.select_option("[name=state]", "all")
            for image, key in (("bee", "a"), ("cat", "x"), ("panda", "a"), ("rocket", "v")):
                page.click(f".rows button:has-text('{image}')")
                expect(page.locator("h2").first).to_have_text(image)
                page.wait_for_load_state("networkidle")
                page.keyboard.press(key)
                page.wait_for_load_state("networkidle")
            page.wait_for_timeout(500)
            page.locator(".view").blur()
            shot = page.screenshot()
            server.terminate()
        Image.open(io.BytesIO(shot)).convert("RGB").save(out, quality=85)


if __name__ == "__main__":
    main(Path(__file__).with_name("review.jpg"))
