from __future__ import annotations

import errno
import hashlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from ssrseg.errors import DataError, OutputError
from ssrseg.prepare import download as module
from ssrseg.prepare.download import RemoteFile, check_file, check_room, download

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """Serves one file on this machine, as well or badly as it is told to."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.ranges = True
        self.cut: list[int | None] = []  # bytes after which each connection ends
        self.status: list[int] = []
        self.content_range = ""
        self.asked: list[str | None] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/big.tar"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        if handler.path == "/moved.tar":
            handler.send_response(301)
            handler.send_header("Location", self.url)
            handler.end_headers()
            return
        self.asked.append(wanted)
        if self.status:
            handler.send_error(self.status.pop(0))
            return
        start = 0
        if wanted and self.ranges:
            match = re.fullmatch(r"bytes=(\d+)-", wanted)
            assert match
            start = int(match[1])
            if start >= len(self.content):
                handler.send_error(416)
                return
            handler.send_response(206)
            total = len(self.content)
            usual = f"bytes {start}-{total - 1}/{total}"
            handler.send_header("Content-Range", self.content_range or usual)
        else:
            handler.send_response(200)
        body = self.content[start:]
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        stop = self.cut.pop(0) if self.cut else None
        handler.wfile.write(body[:stop])

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def fetch(server: Server, path: Path, **options: object) -> None:
    settings = {"pause": 0.0, "timeout": 10.0, **options}
    download(RemoteFile(server.url, len(CONTENT), SHA256), path, **settings)


def refusal(server: Server, path: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        fetch(server, path, **options)
    assert not path.exists()
    return str(caught.value)


def test_a_file_arrives_whole_and_its_progress_is_told(server: Server, tmp_path: Path) -> None:
    told: list[int] = []
    path = tmp_path / "deep" / "big.tar"
    fetch(server, path, progress=told.append)
    assert path.read_bytes() == CONTENT
    assert told == sorted(told)
    assert told[-1] == len(CONTENT)
    assert [file.name for file in path.parent.iterdir()] == ["big.tar"]
    assert server.asked == [None]


def test_lost_connections_are_taken_up_where_they_broke(server: Server, tmp_path: Path) -> None:
    server.cut = [1000, 0, 99_000]
    fetch(server, tmp_path / "big.tar")
    assert (tmp_path / "big.tar").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=1000-", "bytes=100000-"]


@pytest.mark.parametrize(
    "error",
    [
        ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
        OSError(errno.EHOSTUNREACH, "No route to host"),
        TimeoutError("timed out"),
        ConnectionResetError(104, "Connection reset by peer"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("where", ["open", "read"])
def test_every_way_a_connection_breaks(
    server: Server,
    tmp_path: Path,
    error: OSError,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    once = [error]
    connect = module.urlopen

    def breaking(*arguments: object, **options: object) -> object:
        if where == "open" and once:
            raise once.pop()
        response = connect(*arguments, **options)
        read = response.read

        def reading(size: int) -> bytes:
            if once:
                raise once.pop()
            return bytes(read(size))

        response.read = reading
        return response

    monkeypatch.setattr(module, "urlopen", breaking)
    fetch(server, tmp_path / "big.tar")
    assert (tmp_path / "big.tar").read_bytes() == CONTENT
    assert not once


def test_a_full_disk_is_not_the_servers_fault(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")

    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, _: bytes) -> int:
            raise full

    monkeypatch.setattr(Path, "open", lambda *_: Full())
    with pytest.raises(OutputError, match=r"big\.tar\.part cannot be written \(No space left"):
        fetch(server, tmp_path / "big.tar")
    assert len(server.asked) == 1


def test_a_server_that_sends_elsewhere_is_followed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "big.tar.part").write_bytes(CONTENT[:1000])
    url = server.url.replace("big.tar", "moved.tar")  # as the address of VOC does
    download(RemoteFile(url, len(CONTENT), SHA256), tmp_path / "big.tar")
    assert server.asked == ["bytes=1000-"]
    assert (tmp_path / "big.tar").read_bytes() == CONTENT


def test_an_interrupted_call_is_gone_on_with(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", 1000)

    def interrupt(done: int) -> None:
        if done >= 7000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server, tmp_path / "big.tar", progress=interrupt)
    part = tmp_path / "big.tar.part"
    assert part.read_bytes() == CONTENT[:7000]
    assert not (tmp_path / "big.tar").exists()
    fetch(server, tmp_path / "big.tar")
    assert server.asked == [None, "bytes=7000-"]
    assert (tmp_path / "big.tar").read_bytes() == CONTENT
    assert not part.exists()


def test_a_server_that_stays_silent_is_given_up(server: Server, tmp_path: Path) -> None:
    server.cut = [5000, *[0] * 9]
    message = refusal(server, tmp_path / "big.tar", attempts=3)
    assert message == (
        f"{server.url} cannot be reached (the connection ended early). 5,000 of 300,000 bytes are"
        f" in {tmp_path}/big.tar.part; the same command goes on from there."
    )
    assert len(server.asked) == 4  # one that brought something, three that did not
    server.cut = []
    server.status = [503, 429]
    fetch(server, tmp_path / "big.tar", attempts=3)
    assert (tmp_path / "big.tar").read_bytes() == CONTENT


def test_nobody_listens(tmp_path: Path) -> None:
    server = Server()
    server.close()
    message = refusal(server, tmp_path / "big.tar", attempts=2)
    assert "cannot be reached (" in message
    assert "refused" in message
    assert "0 of 300,000 bytes" in message


def test_a_wrong_checksum_keeps_the_file_apart(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"?"
    message = refusal(server, tmp_path / "big.tar")
    found = hashlib.sha256(server.content).hexdigest()
    assert f"SHA-256 {found}, the official file {SHA256}" in message
    assert f"kept as {tmp_path}/big.tar.rejected; delete it" in message
    assert [file.name for file in tmp_path.iterdir()] == ["big.tar.rejected"]
    server.content = CONTENT
    fetch(server, tmp_path / "big.tar")  # begins anew
    assert server.asked == [None, None]


def test_a_server_without_ranges(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "big.tar.part"
    part.write_bytes(CONTENT[:5000])
    server.ranges = False
    message = refusal(server, tmp_path / "big.tar")
    assert "ignores the request to go on after 5,000 bytes (no HTTP Range)" in message
    assert f"Delete {part} to begin anew" in message
    assert "--mirror" in message
    assert part.read_bytes() == CONTENT[:5000]
    part.unlink()
    fetch(server, tmp_path / "big.tar")


def test_another_size_is_noticed_before_a_byte_is_kept(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:1234]
    message = refusal(server, tmp_path / "big.tar")
    assert "another file than the official one: the server offers 1,234 bytes" in message
    assert list(tmp_path.iterdir()) == []
    part = tmp_path / "big.tar.part"
    part.write_bytes(CONTENT[:1000])
    message = refusal(server, tmp_path / "big.tar")
    assert f"offers 1,234 bytes. {part} keeps what has arrived so far." in message
    assert part.read_bytes() == CONTENT[:1000]
    part.write_bytes(CONTENT[:2000])  # more than the server has
    assert "answers 416" in refusal(server, tmp_path / "big.tar")


def test_a_range_that_was_not_asked_for(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "big.tar.part"
    part.write_bytes(CONTENT[:1000])
    for wrong in ("bytes 999-299999/300000", "lines 1-2", "bytes 1000-299999/300001"):
        server.content_range = wrong
        message = refusal(server, tmp_path / "big.tar")
        assert "asked to go on after 1,000 bytes" in message or "300,001 bytes" in message
    assert part.read_bytes() == CONTENT[:1000]


def test_a_part_longer_than_the_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "big.tar.part").write_bytes(CONTENT + b"more")
    message = refusal(server, tmp_path / "big.tar")
    assert "300,004 bytes, the official file 300,000" in message
    assert server.asked == []


def test_a_file_that_is_not_there(server: Server, tmp_path: Path) -> None:
    server.status = [404]
    message = refusal(server, tmp_path / "big.tar")
    assert "answers 404 Not Found" in message
    assert f"put the file into {tmp_path}" in message
    assert server.asked == [None]


def test_addresses_that_are_none(tmp_path: Path) -> None:
    for url in ("file:///etc/passwd", "big.tar", "ftp://127.0.0.1/big.tar"):
        with pytest.raises(DataError, match="is no web address"):
            download(RemoteFile(url, 1, ""), tmp_path / "big.tar")


def test_check_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    good = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    told: list[int] = []
    check_file(path, size=3, sha256=good, progress=told.append)
    assert told == [3]
    with pytest.raises(DataError, match="has 3 bytes, the official file 4"):
        check_file(path, size=4, sha256=good)
    with pytest.raises(DataError, match="has SHA-256 ba7816bf"):
        check_file(path, size=3, sha256=good.replace("b", "c"))


def test_room(tmp_path: Path) -> None:
    check_room(tmp_path / "not" / "yet", 1000, "This")
    with pytest.raises(DataError, match=r"^This needs 1000000000\.0 GB in .*, but [\d.]+ GB are"):
        check_room(tmp_path / "not" / "yet", 10**18, "This")
    assert list(tmp_path.iterdir()) == []


@contextmanager
def answering(*answers: bytes, family: socket.AddressFamily = socket.AF_INET) -> Iterator[str]:
    """A server that says these bytes, one answer per connection, and again the last one."""
    listener = socket.create_server(("", 0), family=family)

    def serve() -> None:
        waiting = list(answers)
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(10_000)
                connection.sendall(waiting.pop(0) if waiting[1:] else waiting[0])

    threading.Thread(target=serve, daemon=True).start()
    host = "[::1]" if family == socket.AF_INET6 else "127.0.0.1"
    try:
        yield f"http://{host}:{listener.getsockname()[1]}/big.tar"
    finally:
        listener.close()


def head(status: str, *lines: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1")


SMALL = RemoteFile("", 4, hashlib.sha256(b"data").hexdigest())


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (head("200 OK", "Content-Length: many"), "does not say how long"),
        (head("200 OK", "Content-Length: -4"), "does not say how long"),
        (head("200 OK", "Content-Length: " + "4" * 5000), "does not say how long"),
        (head("200 OK", "Content-Length: 4", "Content-Length: 5"), "does not say how long"),
        (head("200 OK", "Content-Length: 4, 4"), "does not say how long"),
        (head("200 OK", "Content-Length: ٤".encode().decode("latin-1")), "does not say how long"),
        (head("200 OK", "Content-Length: 400"), "another file than the official one"),
        (head("206 Partial", "Content-Length: 4"), "was asked to go on after 0 bytes"),
        (head("206 Partial", "Content-Range: bytes 2-3/4"), "was asked to go on after 0 bytes"),
        (head("206 Partial", "Content-Range: bytes 0-3/" + "9" * 5000), "was asked to go on"),
        (head("206 Partial", "Content-Range: bytes 0-9/*"), "another file than the official"),
        (head("204 No Content"), "answers 204"),
        (head("304 Not Modified"), "answers 304"),
        (head("302 Found", "Location: ftp://127.0.0.1/x"), "sends elsewhere, to 'ftp:"),
        (head("302 Found", "Location: file:///etc/passwd"), "sends elsewhere|not allowed"),
        (head("302 Found", "Location: http://[::1/x"), "sends elsewhere|cannot be"),
        (head("302 Found", "Location: http://127.0.0.1:99999/"), "sends elsewhere"),
        (head("302 Found", "Location: http://" + "a" * 70 + ".b/"), "sends elsewhere"),
        (head("302 Found", "Location: /big.tar"), "infinite loop"),
        (head("302 Found"), "answers 302"),
        (b"", "cannot be reached"),
        (b"nonsense\r\n\r\n", "cannot be reached"),
        (head("999999 OK"), "cannot be reached|cannot be had|answers"),
        (head("200 OK", *["a: b"] * 200), "cannot be reached"),
        (head("200 OK", "Transfer-Encoding: chunked") + b"zz\r\ndata", "cannot be reached"),
        (head("200 OK", "Transfer-Encoding: chunked") + b"-4\r\ndata", "cannot be reached|gave"),
        (head("200 OK") + b"datadata", "more than 4 bytes"),
        (head("200 OK", "Content-Length: 4") + b"da", "go on after 2 bytes"),
        (head("200 OK", "Content-Length: 4") + b"dada", "gave another file"),
    ],
)
def test_servers_that_talk_nonsense(answer: bytes, fault: str, tmp_path: Path) -> None:
    with answering(answer) as url, pytest.raises(DataError, match=fault):
        download(replace(SMALL, url=url), tmp_path / "big.tar", attempts=2, pause=0.0, timeout=5.0)
    assert not (tmp_path / "big.tar").exists()


@pytest.mark.parametrize(
    "answer",
    [
        head("200 OK", "Content-Length: 4", "Content-Length: 4") + b"data",
        head("200 OK") + b"data",
        head("206 Partial", "Content-Range: bytes 0-3/4") + b"data",
        head("200 OK", "Transfer-Encoding: chunked") + b"4\r\ndata\r\n0\r\n\r\n",
    ],
)
def test_odd_answers_that_hold_the_file(answer: bytes, tmp_path: Path) -> None:
    with answering(answer) as url:
        download(replace(SMALL, url=url), tmp_path / "big.tar", attempts=2, pause=0.0, timeout=5.0)
    assert (tmp_path / "big.tar").read_bytes() == b"data"


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_an_address_of_ipv6(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("needs IPv6")
    with answering(head("200 OK") + b"data", family=socket.AF_INET6) as url:
        download(replace(SMALL, url=url), tmp_path / "big.tar", timeout=5.0)
    assert (tmp_path / "big.tar").read_bytes() == b"data"


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://host/my file.tar", "write a blank as %20"),
        ("http://host/\n.tar", r"it holds '\\n'"),
        ("http://host/é.tar", "it holds 'é'"),
        ("http://[::1/big.tar", "Invalid IPv6"),
        ("http://[nothing]/big.tar", "is no web address"),
        ("http://host:99999/big.tar", "Port out of range"),
        ("http://host:a/big.tar", "Port could not be cast"),
        ("http:///big.tar", "names no host"),
        ("http://me:secret@host/big.tar", "more than a host and a port"),
        ("http://" + "a" * 70 + ".b/", "no host has such a name"),
        ("http://a..b/", "no host has such a name"),
        ("data:,data", "neither http nor https"),
        ("", "neither http nor https"),
    ],
)
def test_addresses_that_cannot_be_asked(url: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=fault):
        download(replace(SMALL, url=url), tmp_path / "big.tar")
    assert list(tmp_path.iterdir()) == []
