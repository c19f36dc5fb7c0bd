"""A server on a port of this machine, asked as its clients ask."""

from __future__ import annotations

import io
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import tifffile
import torch
from command import exit_code
from make_tiny import tiny_voc
from PIL import Image
from pycocotools import mask as coco
from tiny_encoders import tiny_config

from ssrseg.data.class_ids import read_class_ids
from ssrseg.data.open import open_labelled
from ssrseg.errors import BackboneError, ConfigError
from ssrseg.local_server import HOST, answered, listening
from ssrseg.model import SSR
from ssrseg.prediction import Predictor, load_predictor, predict
from ssrseg.serving.answers import accepted_form
from ssrseg.serving.app import make_app
from ssrseg.serving.limits import Limits
from ssrseg.serving.service import Service
from ssrseg.training import train

OF_PYCOCOTOOLS = "ignore:__array__ implementation:DeprecationWarning"
WAIT = 30.0  # seconds: long enough for a machine that others use


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photographs of two sizes, and a PNG of 16 bits."""
    tree = tiny_voc(tmp_path_factory.mktemp("voc") / "tree", n=3)
    found = sorted((tree / "JPEGImages").iterdir())
    wide = tree / "wide.png"
    Image.open(found[0]).resize((90, 40)).save(wide)
    deep = tree / "deep.png"
    values = np.random.default_rng(0).integers(0, 60_000, (48, 64), dtype=np.uint16)
    Image.fromarray(values).save(deep)
    return [*found, wide, deep]


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, photos: list[Path], clip_dir: Path, dino_dir: Path
) -> Path:
    """A model trained for a few iterations on true masks, so that it does not say background."""
    config = tiny_config(
        clip_dir, dino_dir, "cam.mode=clip", "optim.iterations=25", "optim.decoder_lr=0.003"
    )
    tree = photos[0].parents[1]
    out = tmp_path_factory.mktemp("run")
    return train(open_labelled(tree), out, config, supervision="full").run


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return load_predictor(run, device="cpu")


@pytest.fixture(scope="module")
def masks(run: Path, photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What ``predict`` writes of them."""
    out = tmp_path_factory.mktemp("predicted")
    predict(photos, out, run, device="cpu", report=False)
    return [out / "masks" / f"{photo.stem}.png" for photo in photos]


@contextmanager
def served(predictor: Predictor | None, **limits: Any) -> Iterator[httpx2.Client]:
    """A client of a server with these limits."""
    with listening(0) as listener, Service(Limits(**{"seconds": WAIT, **limits})) as service:
        service.predictor = predictor
        with answered(make_app(service, "tiny"), listener, 5.0):
            address = f"http://{HOST}:{listener.getsockname()[1]}"
            with httpx2.Client(base_url=address, timeout=WAIT) as client:
                wait_until(lambda: responds(client))
                yield client


@pytest.fixture(scope="module")
def client(predictor: Predictor) -> Iterator[httpx2.Client]:
    with served(predictor) as found:
        yield found


def responds(client: httpx2.Client) -> bool:
    try:
        return client.get("/health").status_code in (200, 503)
    except httpx2.TransportError:
        return False


def wait_until(true: Any) -> None:
    until = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def metric(client: httpx2.Client, name: str) -> float:
    """A number of /metrics; 0 if nothing was counted."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def post(client: httpx2.Client, photo: Path | bytes, path: str = "", **more: Any) -> Any:
    content = photo if isinstance(photo, bytes) else photo.read_bytes()
    return client.post(f"/v1/segment{path}", content=content, **more)


def test_the_mask_is_the_file_of_predict(
    client: httpx2.Client, photos: list[Path], masks: list[Path]
) -> None:
    for photo, mask in zip(photos, masks, strict=True):
        found = post(client, photo)
        assert (found.status_code, found.headers["content-type"]) == (200, "image/png")
        assert found.content == mask.read_bytes()
    as_form = client.post("/v1/segment", files={"image": photos[0].read_bytes()})
    assert as_form.content == masks[0].read_bytes()
    assert len({mask.read_bytes() for mask in masks}) == len(masks)
    assert any(len(read_class_ids(mask).unique()) > 1 for mask in masks)


@pytest.mark.filterwarnings(OF_PYCOCOTOOLS)
def test_run_lengths(client: httpx2.Client, photos: list[Path], masks: list[Path]) -> None:
    accept = {"accept": "application/vnd.ssrseg.rle+json"}
    for photo, mask in zip(photos, masks, strict=True):
        found, ids = post(client, photo, headers=accept), read_class_ids(mask).numpy()
        assert found.headers["content-type"] == "application/vnd.ssrseg.rle+json"
        table, drawn = found.json(), np.zeros_like(ids)
        for each in table["classes"]:
            inside = coco.decode(each["segmentation"]).astype(bool)
            assert each["area"] == inside.sum() > 0
            drawn[inside] = each["id"]
        assert np.array_equal(drawn, ids)
        assert (table["height"], table["width"]) == ids.shape and "undecided" not in table


def test_a_table_of_classes(
    client: httpx2.Client, predictor: Predictor, photos: list[Path], masks: list[Path]
) -> None:
    table = post(client, photos[0], "?as=json").json()
    ids = read_class_ids(masks[0])
    found = predictor.model.segment_photo(predictor.read(photos[0]), crf=predictor.crf)
    numbers, pixels = ids.unique(return_counts=True)
    assert [each["id"] for each in table["classes"]] == numbers.tolist()
    assert [each["pixels"] for each in table["classes"]] == pixels.tolist()
    names = ("background", *predictor.model.classes)
    for each in table["classes"]:
        assert each["name"] == names[each["id"]]
        assert each["share"] == pytest.approx(each["pixels"] / ids.numel(), abs=1e-6)
        mean = found.confidence[ids == each["id"]].mean().item()
        assert each["confidence"] == pytest.approx(mean, abs=1e-4)
    assert (table["height"], table["width"], table["undecided"]) == (*ids.shape, 0)
    assert table["score"] == found.review.score and table["reasons"] == [*found.review.reasons]


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("*/*", "png"),
        ("image/*", "png"),
        ("application/json", "json"),
        ("application/vnd.ssrseg.rle+json, */*;q=0.1", "rle"),
        ("image/png;q=0.2, application/json;q=0.7", "json"),
        ("image/png;q=0, */*", "rle"),
        ("text/html", None),
        ("image/png;q=much", None),
        ("", None),
    ],
)
def test_accept(accept: str, form: str | None) -> None:
    assert accepted_form(accept) == form


@pytest.mark.filterwarnings(OF_PYCOCOTOOLS)
def test_pixels_without_data_are_undecided(
    client: httpx2.Client, run: Path, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).random((48, 64, 3), dtype=np.float32)
    values[:20] = np.nan
    tifffile.imwrite(tmp_path / "scene.tif", values, photometric="rgb")
    predict(tmp_path / "scene.tif", tmp_path / "out", run, device="cpu", report=False)
    ids = read_class_ids(tmp_path / "out" / "masks" / "scene.png").numpy()
    table = post(client, tmp_path / "scene.tif", "?as=rle").json()
    assert np.array_equal(coco.decode(table["undecided"]).astype(bool), ids == 255)
    assert (ids == 255).sum() == 20 * 64
    assert post(client, tmp_path / "scene.tif", "?as=json").json()["undecided"] == 20 * 64


def test_a_large_image_is_seen_in_tiles(run: Path, photos: list[Path], tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    Image.open(photos[0]).resize((200, 150)).save(large)
    predict(large, tmp_path / "out", run, tile=96, device="cpu", report=False)
    ids = read_class_ids(tmp_path / "out" / "masks" / "large.png")
    with served(load_predictor(run, tile=96, device="cpu")) as client:
        (tmp_path / "found.png").write_bytes(post(client, large).content)
    assert torch.equal(read_class_ids(tmp_path / "found.png"), ids)
    assert len(ids.unique()) > 1


@pytest.mark.parametrize(
    ("content", "status", "text"),
    [
        (b"", 400, "There is no image: send one as the body"),
        (b"hello", 415, "The image that was sent is not an image"),
        (b"%PDF-1.7 and more", 415, "The image that was sent is a PDF document"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, 415, "The image that was sent is not an image"),
        ("cut", 422, "The image that was sent is damaged or cut short"),
        ("tiny", 422, "is 9 x 9 pixels, smaller than one patch"),
        ("bomb", 413, "The image has 60,000 x 60,000 pixels. That is more than the 25 megapixels"),
        ("many", 413, "The image has 6,000 x 5,000 pixels."),
        (b"x" * 20_000_001, 413, "The image has more than the 20 MB that this server takes"),
    ],
    ids=("empty", "words", "pdf", "no-png", "cut", "tiny", "bomb", "many-pixels", "many-bytes"),
)
def test_what_is_refused(
    client: httpx2.Client, photos: list[Path], tmp_path: Path, content: Any, status: int, text: str
) -> None:
    if content == "cut":
        whole = photos[0].read_bytes()
        content = whole[: len(whole) // 2]
    elif content == "tiny":
        Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
        content = (tmp_path / "a.png").read_bytes()
    elif content == "bomb":  # a header alone: nobody shall read further
        head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
        content = b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT" + b"\0" * 13
    elif content == "many":
        Image.new("1", (6000, 5000)).save(tmp_path / "a.png")
        content = (tmp_path / "a.png").read_bytes()
    found = post(client, content)
    assert (found.status_code, set(found.json())) == (status, {"error"})
    assert text in found.json()["error"]
    assert "ssrseg-" not in found.text and "Traceback" not in found.text


def test_requests_that_are_wrong(client: httpx2.Client, photos: list[Path]) -> None:
    before = metric(client, 'ssrseg_errors_total{kind="address"}')
    wrong = post(client, photos[0], "?as=gif")
    assert wrong.status_code == 400 and "as: Input should be 'png', 'rle'" in wrong.json()["error"]
    wrong = post(client, photos[0], headers={"accept": "text/html"})
    assert wrong.status_code == 406 and "Answers are image/png" in wrong.json()["error"]
    wrong = post(client, b"no form", headers={"content-type": "multipart/form-data; boundary=x"})
    assert wrong.status_code == 400
    wrong = post(client, b"no form", headers={"content-type": "multipart/form-data"})
    assert wrong.status_code == 400 and "The form cannot be read" in wrong.json()["error"]
    no_file = client.post("/v1/segment", files={"note": (None, "words")})
    assert no_file.status_code == 400 and "There is no image" in no_file.json()["error"]
    assert client.get("/v1/segment").status_code == 405
    assert set(client.get("/nowhere").json()) == {"error"}
    assert metric(client, 'ssrseg_errors_total{kind="address"}') == before + 2


def test_a_body_without_a_length(client: httpx2.Client, photos: list[Path]) -> None:
    def pieces(content: bytes) -> Iterator[bytes]:
        for first in range(0, len(content), 1 << 20):
            yield content[first : first + (1 << 20)]

    found = client.post("/v1/segment", content=pieces(photos[0].read_bytes()))
    assert found.content == post(client, photos[0]).content
    assert client.post("/v1/segment", content=pieces(b"x" * 21_000_000)).status_code == 413


def test_what_the_server_says_of_itself(client: httpx2.Client, predictor: Predictor) -> None:
    about = client.get("/").json()
    assert about["classes"] == list(predictor.model.classes)
    assert about["digest"] == predictor.made_with.model
    assert about["limits"]["megapixels"] == 25 and "curl --data-binary" in about["example"]
    assert client.get("/health").json() == {"status": "ready"}
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/", "/health", "/metrics", "/v1/segment"}
    asked = paths["/v1/segment"]["post"]
    assert {"image/*", "multipart/form-data"} == set(asked["requestBody"]["content"])
    assert set(asked["responses"]) >= {"200", "400", "413", "415", "422", "503"}


def test_before_the_model_is_loaded(photos: list[Path]) -> None:
    with served(None) as client:
        assert client.get("/health").status_code == 503
        found = post(client, photos[0])
        assert found.status_code == 503 and found.headers["retry-after"] == "5"
        assert client.get("/").json()["classes"] is None


@pytest.mark.parametrize("batch", [1, 4])
def test_many_clients_at_once(
    predictor: Predictor, photos: list[Path], masks: list[Path], batch: int
) -> None:
    wanted = [read_class_ids(mask) for mask in masks]
    with served(predictor, batch=batch, wait_ms=200.0) as client, ThreadPoolExecutor(16) as pool:
        numbers = [number % len(photos) for number in range(32)]
        answers = list(pool.map(lambda number: post(client, photos[number]), numbers))
        assert [each.status_code for each in answers] == [200] * 32
        assert metric(client, "ssrseg_batch_size_sum") == 32
        batches = metric(client, "ssrseg_batch_size_count")
        assert batches == 32 if batch == 1 else 8 <= batches < 32
        assert metric(client, 'ssrseg_requests_total{form="png"}') == 32
        assert metric(client, "ssrseg_request_seconds_count") == 32
        assert metric(client, "ssrseg_queue_length") == 0
    for number, answer in zip(numbers, answers, strict=True):
        if batch == 1:
            assert answer.content == masks[number].read_bytes()
        ids = np.array(Image.open(io.BytesIO(answer.content)))
        assert (ids == wanted[number].numpy()).mean() > 0.999  # sums may differ in their last bits


@contextmanager
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A model that waits for an event before each batch, which is set at the end."""
    event, see = threading.Event(), SSR.segment_photos

    def waiting(*arguments: Any, **more: Any) -> Any:
        assert event.wait(WAIT)
        return see(*arguments, **more)

    monkeypatch.setattr(SSR, "segment_photos", waiting)
    try:
        yield event
    finally:
        event.set()


def test_a_full_queue(
    predictor: Predictor, photos: list[Path], masks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        served(predictor, queue=2) as client,
        held(monkeypatch) as event,
        ThreadPoolExecutor(2) as pool,
    ):
        waiting = [pool.submit(post, client, photo) for photo in photos[:2]]
        wait_until(lambda: metric(client, "ssrseg_queue_length") == 1)
        refused = post(client, photos[2])
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
        assert "2 requests are worked on or wait" in refused.json()["error"]
        large = post(client, b"x" * 5_000_000)  # which nobody reads
        assert large.status_code == 503
        assert client.get("/health").status_code == 200
        event.set()
        for future, mask in zip(waiting, masks, strict=False):
            assert future.result().content == mask.read_bytes()
        assert metric(client, 'ssrseg_errors_total{kind="busy"}') == 2
        assert post(client, photos[2]).status_code == 200


def test_time_is_limited(
    predictor: Predictor, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(predictor, seconds=1.0) as client, held(monkeypatch):
        found = post(client, photos[0])
        assert found.status_code == 503 and "no mask within 1 s" in found.json()["error"]
        assert metric(client, 'ssrseg_errors_total{kind="late"}') == 1
        with opened(client, 1000) as slow:
            slow.sendall(b"half of it")
            answer = b"".join(iter(lambda: slow.recv(1000), b""))  # to its end
        assert answer.startswith(b"HTTP/1.1 408") and b"did not come within 1 s" in answer


@contextmanager
def opened(client: httpx2.Client, length: int) -> Iterator[socket.socket]:
    """A connection that has announced an image of so many bytes."""
    port = client.base_url.port
    assert port is not None
    with socket.create_connection((HOST, port), timeout=WAIT) as found:
        head = f"POST /v1/segment HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n"
        found.sendall(head.encode())
        yield found


def test_a_client_that_goes(
    predictor: Predictor, photos: list[Path], masks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        served(predictor) as client,
        held(monkeypatch) as event,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(post, client, photos[0])
        wait_until(lambda: metric(client, "ssrseg_errors_total") == 0 and not first.done())
        content = photos[1].read_bytes()
        with opened(client, len(content)) as leaving:
            leaving.sendall(content)
            wait_until(lambda: metric(client, "ssrseg_queue_length") == 1)
        wait_until(lambda: metric(client, 'ssrseg_errors_total{kind="gone"}') == 1)
        with opened(client, len(content)) as leaving:  # in the middle of its image
            leaving.sendall(content[:100])
        wait_until(lambda: metric(client, 'ssrseg_errors_total{kind="gone"}') == 2)
        event.set()
        assert first.result().content == masks[0].read_bytes()
        assert post(client, photos[2]).content == masks[2].read_bytes()
        assert metric(client, "ssrseg_batch_size_sum") == 2  # nobody computed for who has gone


def test_a_model_that_fails(
    predictor: Predictor, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise BackboneError("CLIP gives nan.")

    def break_down(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a secret of the program")

    with served(predictor) as client:
        monkeypatch.setattr(SSR, "segment_photos", fail)
        found = post(client, photos[0])
        assert (found.status_code, found.json()) == (500, {"error": "CLIP gives nan."})
        monkeypatch.setattr(SSR, "segment_photos", break_down)
        found = post(client, photos[0])
        assert found.status_code == 500 and "secret" not in found.text
        monkeypatch.undo()
        assert post(client, photos[0]).status_code == 200


def test_limits_that_are_none() -> None:
    for name, nothing in vars(Limits(wait_ms=0.0)).items():
        if name != "wait_ms":
            nothing = type(nothing)(0)
            with pytest.raises(ConfigError, match=f"--{name} is {nothing}: give more than 0"):
                Limits(**{name: nothing})
    with pytest.raises(ConfigError, match="--seconds is inf: give a finite number"):
        Limits(seconds=float("inf"))
    with pytest.raises(ConfigError, match="--wait-ms is 70000: give 0 to 60000"):
        Limits(wait_ms=70_000.0)


def test_sigterm_lets_what_is_going_on_end(
    run: Path, photos: list[Path], masks: list[Path]
) -> None:
    command = [sys.executable, "-m", "ssrseg", "serve", str(run), "--port", "0", "--device", "cpu"]
    command += ["--batch", "2", "--wait-ms", "1500"]  # in which nobody joins
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as it,
        ThreadPoolExecutor(1) as pool,
    ):
        try:
            assert it.stdout is not None and it.stderr is not None
            lines = [it.stdout.readline() for _ in range(2)]
            address = re.search(r"http://127\.0\.0\.1:\d+", lines[1])
            assert address and lines[1].startswith("Ready")
            with httpx2.Client(base_url=address[0], timeout=WAIT) as client:
                answer = pool.submit(post, client, photos[0])
                wait_until(lambda: metric(client, "ssrseg_queue_length") == 1)
                it.send_signal(signal.SIGTERM)
                assert answer.result().content == masks[0].read_bytes()
                assert it.wait(WAIT) == 0
                with pytest.raises(httpx2.TransportError):
                    client.get("/health")
            assert it.stderr.read() == ""
        finally:
            it.kill()


def test_the_command(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said() -> str:
        return " ".join(capsys.readouterr().err.split())

    assert exit_code("serve", tmp_path, "--port", 0) == 2
    assert "model.safetensors" in said()
    assert exit_code("serve", run, "--batch", 0) == 2
    assert "--batch is 0: give more than 0." in said()
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        assert exit_code("serve", run, "--port", port) == 2
    assert f"port {port} of 127.0.0.1 cannot be used" in said()
    assert exit_code("serve", tmp_path, "--host", "0.0.0.0", "--port", 0) == 2
    assert "there is no authentication. Put it behind a proxy" in said()
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    for name in ("app", "service", "metrics"):
        monkeypatch.delitem(sys.modules, f"ssrseg.serving.{name}")
    assert exit_code("serve", run, "--port", 0) == 2
    assert "prometheus_client, which is not installed: pip install 'ssrseg[serve]'" in said()
