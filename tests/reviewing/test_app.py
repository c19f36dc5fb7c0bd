"""What the server refuses, and what it answers; all requests as a browser would send them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from reviewed import contents, copied, rows

from ssrseg.data.class_ids import read_class_ids
from ssrseg.reviewing.app import make_app
from ssrseg.reviewing.encoders import EncoderOptions
from ssrseg.reviewing.folder import ReviewFolder, open_review

HOST = "http://127.0.0.1:8765"
TOKEN = "a-secret-of-this-session"
PAGE = {"origin": HOST, "x-review-token": TOKEN}
JSON, BYTES = {"content-type": "application/json"}, {"content-type": "application/octet-stream"}


@pytest.fixture
def folder(masks: Path) -> Iterator[ReviewFolder]:
    with open_review(masks, None, EncoderOptions(device="cpu")) as found:
        yield found


@pytest.fixture
def client(folder: ReviewFolder) -> Iterator[TestClient]:
    """A browser that has opened the printed address."""
    with TestClient(make_app(folder, TOKEN), base_url=HOST) as found:
        assert found.get(f"/?token={TOKEN}").status_code == 200
        yield found


def seen(folder: ReviewFolder, name: str) -> str:
    version: str = folder.detail(folder.names.index(name))["version"]
    return version


def accept(client: TestClient, folder: ReviewFolder, **headers: str) -> Any:
    """The request of a click on "accept" at photo_1, with other headers."""
    body = {"decision": "accepted", "version": seen(folder, "photo_1")}
    path = f"/api/images/{folder.names.index('photo_1')}/decision"
    return client.post(path, json=body, headers={**PAGE, **headers})


def test_nobody_is_let_in_without_the_token(folder: ReviewFolder) -> None:
    with TestClient(make_app(folder, TOKEN), base_url=HOST) as stranger:
        for path in ("/", "/page.js", "/api/folder", "/api/images/0/photo.jpg", "/?token=guess"):
            assert stranger.get(path).status_code == 403
        assert "open the address" in stranger.get("/").text
        opened = stranger.get(f"/?token={TOKEN}", follow_redirects=False)
        cookie = opened.headers["set-cookie"].lower()
        assert opened.status_code == 303 and "httponly" in cookie and "samesite=strict" in cookie
        assert stranger.get("/api/folder").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", ""]
)
def test_a_name_that_dns_leads_here_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/api/folder", headers={"host": host}).status_code == 421
    assert client.get(f"/?token={TOKEN}", headers={"host": host}).status_code == 421


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),  # another program on this machine
        ({"origin": "null"}, 403),
        ({"x-review-token": ""}, 403),
        ({"x-review-token": "guess"}, 403),
        ({"content-type": "text/plain"}, 415),  # as a form of another page could send it
        ({"content-length": "many"}, 411),
        ({"content-length": str(1 << 20)}, 413),
    ],
)
def test_who_may_change_something(
    client: TestClient, masks: Path, folder: ReviewFolder, headers: dict[str, str], status: int
) -> None:
    assert accept(client, folder, **headers).status_code == status
    assert rows(masks)["photo_1"]["decision"] == ("accepted" if status == 200 else "")


def test_headers_of_every_answer(client: TestClient) -> None:
    for path in ("/", "/page.css", "/api/folder", "/api/images/0/mask", "/nothing"):
        headers = client.get(path).headers
        assert headers["cache-control"] == "no-store"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert "frame-ancestors 'none'" in policy and headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/api/images/4", "/api/images/-1", "/api/images/photo_1", "/api/images/..%2f..%2fmasks",
        "/api/images/0/../../../../etc/passwd", "/masks/photo_1.png", "/manifest.csv", "/docs",
        "/openapi.json", "/page.html.jinja", "/page.py",
    ],
)  # fmt: skip
def test_no_path_is_taken_from_an_address(client: TestClient, path: str) -> None:
    assert client.get(path).status_code in (400, 404)


def test_bodies_that_are_no_such_ones(
    client: TestClient, masks: Path, folder: ReviewFolder
) -> None:
    version, before = seen(folder, "photo_1"), contents(masks)
    path = f"/api/images/{folder.names.index('photo_1')}"
    wrong: list[tuple[str, object]] = [
        ("decision", {"decision": "perhaps", "version": version}),
        ("decision", {"decision": "accepted", "version": "../../etc"}),
        ("decision", {"decision": "accepted", "version": version, "path": "/etc/passwd"}),
        ("decision", [1, 2]),
        ("labels", {"labels": ["cat"] * 300, "version": version}),
        ("labels", {"labels": "cat", "version": version}),
        ("labels", {"labels": [{"cat": 1}], "version": version}),
    ]
    for what, body in wrong:
        assert client.post(f"{path}/{what}", json=body, headers=PAGE).status_code == 400
    broken = client.post(f"{path}/decision", content=b"{" * 60_000, headers={**PAGE, **JSON})
    assert broken.status_code == 400
    unknown = client.post(
        f"{path}/labels", json={"labels": ["horse"], "version": version}, headers=PAGE
    )
    assert (unknown.status_code, unknown.json()["error"][:7]) == (422, '"horse"')
    assert contents(masks) == before and rows(masks)["photo_1"]["decision"] == ""


def put(client: TestClient, index: int, ids: np.ndarray, version: str, **size: int) -> Any:
    height, width = ids.shape
    query = {"width": width, "height": height, "version": version} | size
    address = f"/api/images/{index}/mask"
    headers = {**PAGE, **BYTES}
    return client.put(address, params=query, content=ids.tobytes(), headers=headers)


def test_masks_that_are_sent(client: TestClient, masks: Path, folder: ReviewFolder) -> None:
    index, version, before = folder.names.index("photo_1"), seen(folder, "photo_1"), contents(masks)
    ids = read_class_ids(masks / "masks" / "photo_1.png").numpy().copy()
    height, width = ids.shape
    answer = client.get(f"/api/images/{index}/mask")
    assert answer.content == ids.tobytes() and answer.headers["x-size"] == f"{width} {height}"
    ids[:4, :5] = 3
    assert put(client, index, ids, version, width=width + 1).status_code == 422
    assert put(client, index, ids[1:], version).status_code == 422
    assert put(client, index, np.full_like(ids, 4), version).status_code == 422
    assert put(client, index, ids, "0" * 16).status_code == 409
    assert put(client, index, ids, version, width=0).status_code == 400
    large = client.put(
        f"/api/images/{index}/mask",
        params={"width": width, "height": height, "version": version},
        content=ids.tobytes(),
        headers={**PAGE, **BYTES, "content-length": str(1 << 30)},
    )
    assert large.status_code == 413 and contents(masks) == before
    found = put(client, index, ids, version)
    assert found.status_code == 200 and found.json()["edited"]
    assert (read_class_ids(masks / "masks" / "photo_1.png").numpy() == ids).all()
    assert found.json()["version"] == seen(folder, "photo_1")


def test_what_the_page_is_told(client: TestClient, masks: Path, folder: ReviewFolder) -> None:
    page = client.get("/").text
    assert TOKEN in page and "<script>" not in page and "onclick" not in page
    about = client.get("/api/folder").json()
    assert about["classes"] == ["cat", "dog", "red car"] and about["from_labels"]
    assert [each["name"] for each in about["images"]] == list(folder.names)
    assert len(set(about["colours"])) == 3 and about["encoders"] == {"state": "asleep", "why": ""}
    index = folder.names.index("photo_1")
    detail = client.get(f"/api/images/{index}").json()
    assert detail["version"] == seen(folder, "photo_1") and detail["labels"] == ["dog"]
    assert set(detail["evidence"]) == {"cat", "dog", "red car"} and detail["problem"] == ""
    photo = client.get(f"/api/images/{index}/photo.jpg")
    assert photo.content.startswith(b"\xff\xd8") and photo.headers["content-type"] == "image/jpeg"
    for alpha, status in (("2", 200), ("0", 400), ("nan", 400), ("1e9", 400)):
        asked = {"alpha": alpha, "refined": "true"}
        found = client.get(f"/api/images/{index}/threshold", params=asked)
        assert found.status_code == status


def test_what_is_not_there_any_more(client: TestClient, masks: Path, folder: ReviewFolder) -> None:
    index = folder.names.index("photo_1")
    (masks.parent / "data" / "images" / "photo_1.jpg").unlink()
    assert "--images" in client.get(f"/api/images/{index}").json()["problem"]
    assert client.get(f"/api/images/{index}/photo.jpg").status_code == 422
    (masks / "masks" / "photo_1.png").unlink()
    assert "photo_1.png" in client.get(f"/api/images/{index}").json()["error"]


def test_export(client: TestClient, masks: Path, folder: ReviewFolder) -> None:
    def export(to: str, only: str | None) -> Any:
        return client.post("/api/export", json={"to": to, "only": only}, headers=PAGE)

    nothing = export("voc", "accepted")
    assert nothing.status_code == 422 and "was accepted" in nothing.json()["error"]
    assert export("../voc", None).status_code == 422
    assert export("voc", "everything").status_code == 400
    accept(client, folder)
    found = export("voc", "accepted").json()
    assert (found["written"], found["failures"]) == (1, [])
    written = [path.name for path in (masks / "export" / "voc").rglob("*.png")]
    assert written == ["photo_1.png"]


def test_names_that_are_not_text(made: Path, tmp_path: Path) -> None:
    masks = copied(made, tmp_path)
    name = "caf\udce9 \x1b[31m <b>"
    for file in ("masks/photo_1.png", "cams/photo_1.npz"):
        path = masks / file
        path.rename(path.with_name(name + path.suffix))
    table = masks / "manifest.csv"
    text = (
        table.read_text().replace("\nphoto_1,", f"\n{name},").replace("photo_1.png", f"{name}.png")
    )
    table.write_text(text, errors="surrogateescape")
    with (
        open_review(masks, None, EncoderOptions()) as folder,
        TestClient(make_app(folder, TOKEN), base_url=HOST) as client,
    ):
        client.get(f"/?token={TOKEN}")
        index = folder.names.index(name)
        shown = client.get("/api/folder").json()["images"][index]["name"]
        assert shown == "caf\\udce9 \\x1b[31m <b>"
        body = {"decision": "accepted", "version": folder.detail(index)["version"]}
        address = f"/api/images/{index}/decision"
        assert client.post(address, json=body, headers=PAGE).json()["decision"] == "accepted"
