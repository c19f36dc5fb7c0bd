"""The page as a person uses it, in the system's Chromium; the server is a process of its own."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reviewed
import uvicorn
from pages import browser_path, needs_browser
from PIL import Image
from reviewed import contents, rows, with_alpha

from ssrseg.config import Config
from ssrseg.data.class_ids import read_class_ids
from ssrseg.pseudo_masks import make_masks
from ssrseg.reviewing.app import make_app
from ssrseg.reviewing.encoders import EncoderOptions
from ssrseg.reviewing.folder import open_review
from ssrseg.reviewing.serve import HOST

pytestmark = needs_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = browser_path()
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@dataclass
class Review:
    """A page that is open.

    Attributes:
        page: Playwright's.
        requests: Addresses that the page has asked for.
        faults: What the browser had to complain of.
    """

    page: Any
    requests: list[str]
    faults: list[str]

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def shows(self, query: str, text: str | re.Pattern[str]) -> None:
        from playwright.sync_api import expect

        expect(self.page.locator(query).first).to_have_text(text, timeout=30_000)

    def open(self, name: str) -> None:
        self.page.click(f".rows button:has-text('{name}')")
        self.shows("h2", name)
        self.page.wait_for_load_state("networkidle")

    def saved(self) -> None:
        """Wait until all is on the disk; the page shows no fault."""
        self.shows(".status", "saved")
        assert self.page.locator(".fault").is_hidden()

    def drag(self, *points: tuple[float, float]) -> None:
        """Move the pressed pointer over the mask; points in shares of its sides."""
        box = self.page.locator("canvas").bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=4)
        self.page.mouse.up()


@contextmanager
def process(masks: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of ``ssrseg review``, and the process."""
    command = [sys.executable, "-m", "ssrseg", "review", str(masks), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (masks.parent / "log").open("w+") as log:
        server = subprocess.Popen(
            [*command, "--device", "cpu"], stdout=subprocess.PIPE, stderr=log, text=True,
            env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            assert server.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", server.stdout.readline())
            assert found, (masks.parent / "log").read_text()
            yield found[0], server
        finally:
            server.kill()
            server.wait()
            server.stdout.close()


@contextmanager
def here(masks: Path, clip: str | None = None) -> Iterator[str]:
    """The address of a server in this process, which starts at once."""
    with (
        open_review(masks, None, EncoderOptions(clip=clip, device="cpu")) as folder,
        socket.socket() as listener,
    ):
        listener.bind((HOST, 0))
        app, token = make_app(folder, "token"), "token"
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield f"http://{HOST}:{listener.getsockname()[1]}/?token={token}"
        server.should_exit = True
        thread.join()


@contextmanager
def opened(browser: Any, address: str) -> Iterator[Review]:
    """A page that shows the first mask."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    review = Review(page, [], [])
    page.on("request", lambda request: review.requests.append(request.url))
    page.on("console", lambda said: review.faults.append(said.text))
    page.on("pageerror", lambda error: review.faults.append(str(error)))
    try:
        page.goto(address)
        review.shows("h2", re.compile("."))
        page.wait_for_load_state("networkidle")
        yield review
    finally:
        context.close()


def ids_of(files: dict[str, bytes], name: str) -> np.ndarray:
    with Image.open(io.BytesIO(files[f"masks/{name}.png"])) as image:
        return np.array(image)


def ids(masks: Path, name: str) -> np.ndarray:
    found: np.ndarray = read_class_ids(masks / "masks" / f"{name}.png").numpy()
    return found


def test_a_review_from_end_to_end(
    browser: Any, masks: Path, config: Config, tmp_path: Path
) -> None:
    before, lines = contents(masks), rows(masks)
    with process(masks) as (address, server), opened(browser, address) as review:
        # a label is corrected
        review.open("photo_1")
        review.press("l")
        review.page.keyboard.type("red car")
        review.press("Enter")
        review.saved()
        review.shows(".given", "in the data: dog")
        review.press("Shift+Backspace", "l")  # "red car", the last one, is taken away again
        review.saved()
        review.page.locator("[name=label]").blur()
        review.page.click("[data-unlabel=dog]")
        review.saved()
        review.press("l")
        review.page.keyboard.type("red car")
        review.press("Enter")
        review.saved()
        assert rows(masks)["photo_1"]["labels"] == "red car"
        # and the mask is accepted; the next image comes
        review.press("a")
        review.shows(".counts", "3 to do, 1 accepted, 0 rejected")
        assert rows(masks)["photo_1"]["decision"] == "accepted"
        # another mask is brushed, and the stroke undone, redone and undone
        review.open("photo_2")
        shown = ids(masks, "photo_2")
        review.press("b", "1")
        review.drag((0.2, 0.3), (0.6, 0.3))
        review.saved()
        stroke = ids(masks, "photo_2")
        changed = stroke != shown
        height, width = shown.shape
        assert (stroke[changed] == 2).all()  # its first label is "dog"
        assert stroke[int(0.3 * height), int(0.25 * width) : int(0.55 * width)].tolist() == [2] * (
            int(0.55 * width) - int(0.25 * width)
        )
        assert not changed[int(0.7 * height) :].any()
        review.press("z")
        review.saved()
        assert contents(masks, "masks")["masks/photo_2.png"] == before["masks/photo_2.png"]
        review.press("y")
        review.saved()
        assert (ids(masks, "photo_2") == stroke).all()
        # erased, of the second class alone; the keyboard does it too
        review.press("2", "e")
        review.drag((0.1, 0.1), (0.9, 0.9))
        review.saved()
        erased = ids(masks, "photo_2")
        assert set(stroke[erased != stroke].tolist()) == {3}
        # a rejected mask, and a decision that is taken back, on another image
        review.open("photo_0")
        review.press("v", "x")
        review.shows(".counts", "2 to do, 1 accepted, 1 rejected")
        review.shows("h2", re.compile("photo_[23]"))
        review.press("a")
        review.shows(".counts", "1 to do, 2 accepted, 1 rejected")
        review.press("z")
        review.shows(".counts", "2 to do, 1 accepted, 1 rejected")
        # the server is killed: what was shown as saved is there
        server.send_signal(signal.SIGKILL)
        server.wait()
        assert all(each.startswith(("http://127.0.0.1:", "data:")) for each in review.requests)
        assert review.faults == []
    killed = rows(masks)
    with process(masks) as (address, server), opened(browser, address) as review:
        review.shows(".counts", "2 to do, 1 accepted, 1 rejected")
        assert rows(masks) == killed and (ids(masks, "photo_2") == erased).all()
        review.page.select_option("[name=state]", "all")
        review.open("photo_2")
        review.press("r")  # the mask as it was made
        review.saved()
        review.press("w")
        review.page.select_option("[name=to]", "voc")
        review.page.click("[data-do=write]")
        review.shows(".export .result", re.compile("1 mask written to"))
        review.press("Escape")
        assert review.faults == []
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0
        assert "1 accepted, 1 rejected, 2 to do" in server.stdout.read()
    # the files: photo_1 as made from the right label, the others as they were
    right = tmp_path / "right"
    data = reviewed.data(masks)
    labels = {"photo_1": (2,)}
    make_masks(reviewed.relabelled(data, labels), right, config)
    assert contents(masks) == contents(right)
    found = rows(masks)
    for name in ("photo_2", "photo_3"):
        assert found[name] == lines[name]
    decisions = {name: row["decision"] for name, row in found.items()}
    assert sorted(decisions.values()) == ["", "", "accepted", "rejected"]
    exported = list((masks / "export" / "voc").rglob("*.png"))
    assert [path.name for path in exported] == ["photo_1.png"]
    assert (read_class_ids(exported[0]).numpy() == ids(right, "photo_1")).all()


def test_the_threshold_is_moved(browser: Any, masks: Path, config: Config, tmp_path: Path) -> None:
    before = contents(masks)
    with here(masks) as address, opened(browser, address) as review:
        review.open("photo_2")
        review.press(".", ".", ".", ".")  # quarters of a doubling
        review.saved()
        review.shows("output", "α 2.00")
        make_masks(reviewed.data(masks), tmp_path / "other", with_alpha(config, 2.0))
        assert (ids(masks, "photo_2") == ids(tmp_path / "other", "photo_2")).all()
        assert rows(masks)["photo_2"]["made_by"] == "person"
        review.press("z")
        review.saved()
        assert contents(masks) == before and review.faults == []


def test_a_slider_that_is_drawn_back_leaves_no_preview(browser: Any, masks: Path) -> None:
    before, lines = contents(masks), rows(masks)
    pixels = "canvas => canvas.toDataURL()"
    with here(masks) as address, opened(browser, address) as review:
        review.open("photo_2")
        canvas = review.page.locator("canvas")
        shown = canvas.evaluate(pixels)
        box = review.page.locator("[name=threshold]").bounding_box()
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        review.page.mouse.move(*middle)
        review.page.mouse.down()
        review.page.mouse.move(middle[0] + box["width"] * 0.4, middle[1], steps=3)
        review.shows(".status", "without pixel refinement, until the slider rests")
        assert canvas.evaluate(pixels) != shown
        review.press("a")  # nobody has seen the mask that this would accept
        review.shows(".status", re.compile("is being made"))
        review.page.mouse.move(*middle, steps=3)
        review.shows("output", "α 1 as set")
        review.shows(".status", "without pixel refinement, until the slider rests")
        review.page.mouse.up()
        for _ in range(200):
            if canvas.evaluate(pixels) == shown:
                break
            review.page.wait_for_timeout(50)
        assert canvas.evaluate(pixels) == shown
        assert contents(masks) == before and rows(masks) == lines
        review.press("b", "3")
        review.drag((0.2, 0.3), (0.6, 0.3))  # on the mask that is there
        review.saved()
        changed = ids(masks, "photo_2")
        assert not (changed != ids_of(before, "photo_2"))[changed.shape[0] * 7 // 10 :].any()
        assert review.faults == []


def test_by_keyboard_alone(browser: Any, masks: Path) -> None:
    with here(masks) as address, opened(browser, address) as review:
        name = review.page.locator("h2").first.text_content()
        review.press("f")
        review.page.keyboard.type("all")
        review.press("Escape", "c")
        review.page.keyboard.type("red")  # another class than its label
        review.press("Escape")
        before = ids(masks, name)
        review.press("b", "]", "ArrowDown", " ")
        review.saved()
        after, (height, width) = ids(masks, name), before.shape
        changed = np.argwhere(after != before)
        assert (after[after != before] == 3).all() and len(changed) > 20
        radius = 0.5**2 * min(height, width) / 4
        centre = np.array([height / 2 + radius, width / 2])
        assert (np.hypot(*(changed + 0.5 - centre).T) <= radius + 1e-9).all()
        review.press("z")
        review.saved()
        assert (ids(masks, name) == before).all()
        review.press("v", "j")
        review.shows("h2", re.compile(f"^(?!{name}$)"))
        review.press("?")
        assert review.page.locator("dialog.keys").is_visible()
        review.press("Escape", "x")
        review.shows(".counts", "3 to do, 0 accepted, 1 rejected")
        (rejected,) = (row["name"] for row in rows(masks).values() if row["decision"])
        assert rejected != name and review.faults == []


def test_a_mask_that_somebody_else_changes(browser: Any, masks: Path) -> None:
    with here(masks) as address, opened(browser, address) as review:
        review.open("photo_1")
        path = masks / "masks" / "photo_1.png"
        other = (masks / "masks" / "photo_0.png").read_bytes()
        path.write_bytes(other)
        review.press("a")
        review.shows(".fault", re.compile("have changed meanwhile"))
        assert rows(masks)["photo_1"]["decision"] == "" and path.read_bytes() == other


def test_labels_whose_mask_cannot_be_made_here(browser: Any, masks: Path, tmp_path: Path) -> None:
    before, nowhere = contents(masks), str(tmp_path / "nowhere")
    with here(masks, nowhere) as address, opened(browser, address) as review:
        review.open("photo_1")
        review.shows(".encoders", re.compile("are kept, and the next `ssrseg masks` makes their"))
        assert review.page.locator(".problem").is_hidden()
        review.page.click("[data-unlabel=dog]")
        review.saved()
        review.shows(".problem", re.compile("this mask was made for other labels"))
        review.press("a")
        review.shows(".fault", re.compile("photo_1.png is not accepted: this mask was made for"))
        assert rows(masks)["photo_1"]["decision"] == "" and contents(masks) == before
        review.shows("h2", "photo_1")


def test_a_telephone(browser: Any, masks: Path) -> None:
    with here(masks) as address, opened(browser, address) as review:
        review.page.set_viewport_size({"width": 390, "height": 844})
        wide = review.page.locator("html").evaluate("each => each.scrollWidth")
        assert wide == 390  # nothing hangs out
        for name in ("accept", "reject", "next"):
            box = review.page.locator(f".decide [data-do={name}]").bounding_box()
            assert box["y"] + box["height"] <= 844 and box["height"] >= 40
