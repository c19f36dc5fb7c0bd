"""Fetch large files: go on after an interruption, and take nothing that fails its checksum."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from ssrseg.data.files import writing
from ssrseg.errors import DataError

Progress = Callable[[int], None]
"""Told how many bytes are through."""

_BLOCK = 1 << 20
_BUSY = (408, 425, 429, 500, 502, 503, 504)  # worth another try, unlike 403 or 404


@dataclass(frozen=True)
class RemoteFile:
    """A file that is known before it is fetched.

    Attributes:
        url: Address, http or https.
        size: In bytes.
        sha256: In hexadecimal digits.
    """

    url: str
    size: int
    sha256: str


def download(
    file: RemoteFile,
    path: Path,
    progress: Progress = lambda _: None,
    *,
    attempts: int = 5,
    pause: float = 5.0,
    timeout: float = 60.0,
) -> None:
    """Fetch a file; it appears at ``path`` only when it is whole and its checksum fits.

    What has arrived is kept in ``<path>.part``, and the next call asks for the rest (HTTP Range).

    Args:
        path: Final place; its folder is made.
        attempts: Connections in a row that may bring nothing.
        pause: Seconds between them.
        timeout: Seconds without a byte after which a connection counts as lost.

    Raises:
        DataError: If the server cannot be reached, cannot go on in the middle of a file, offers
            another file, or the checksum is wrong.
    """
    url, size = file.url, file.size
    if fault := _address_fault(url):
        raise DataError(
            f"{url} is no web address that files are fetched from: {fault}. Give one that begins"
            " with http:// or https:// (--mirror)."
        )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    fruitless = 0
    while (have := file_size(part)) < size:
        reason = "the connection ended early"
        try:
            _receive(file, part, have, progress, timeout)
        except HTTPError as error:
            error.close()
            if error.code not in _BUSY:
                raise DataError(
                    f"{url} cannot be had: the server answers {error.code} {error.reason}. Try"
                    f" later, name another server by --mirror, or put the file into {path.parent}."
                ) from error
            reason = f"the server answers {error.code} {error.reason}"
        except (URLError, HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        fruitless = 0 if file_size(part) > have else fruitless + 1
        if fruitless == attempts:
            raise DataError(
                f"{url} cannot be reached ({reason}). {file_size(part):,} of {size:,} bytes are in"
                f" {part}; the same command goes on from there."
            )
        if fruitless:
            time.sleep(pause)
    _accept(part, path, file)


def _address_fault(url: str) -> str:
    """Why an address cannot be asked; empty if it can."""
    if strange := re.search(r"[^!-~]", url):
        return f"it holds {strange[0]!r}; write a blank as %20, and other letters likewise"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:  # brackets, or a port that is no number below 65,536
        return str(error)
    if parts.scheme not in ("http", "https"):
        return "its scheme is neither http nor https"
    if not host or port == 0 or "@" in parts.netloc:
        return "it names no host, or more than a host and a port"
    try:
        host.encode("idna")
    except UnicodeError:
        return "no host has such a name"
    return ""


class _OnTheWeb(HTTPRedirectHandler):
    """Follows a server to other web addresses, and nowhere else."""

    def redirect_request(self, request: Request, *details: Any) -> Request | None:
        url = details[-1]
        if fault := _address_fault(url):
            raise DataError(
                f"{request.full_url} sends elsewhere, to {url!r}: {fault}. Name another server by"
                " --mirror."
            )
        return super().redirect_request(request, *details)


urlopen = build_opener(_OnTheWeb).open


def check_file(path: Path, size: int, sha256: str, progress: Progress = lambda _: None) -> None:
    """Compare a file with its published size and checksum; DataError if one of them differs."""
    if (found := file_size(path)) != size:
        raise DataError(f"{path} has {found:,} bytes, the official file {size:,}. Fetch it again.")
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            done += len(block)
            progress(done)
    if digest.hexdigest() != sha256:
        raise DataError(
            f"{path} has SHA-256 {digest.hexdigest()}, the official file {sha256}. Fetch it again."
        )


def check_room(folder: Path, needed: int, purpose: str) -> None:
    """Raise DataError if a folder (it need not exist yet) has less room in bytes than needed."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise DataError(
            f"{purpose} needs {needed / 1e9:.1f} GB in {folder}, but {free / 1e9:.1f} GB are free"
            " there. Make room, or choose another disk."
        )


def _accept(part: Path, path: Path, file: RemoteFile) -> None:
    """Give a whole file its name; set another one aside, so that the next call begins anew."""
    try:
        check_file(part, file.size, file.sha256)
    except DataError as error:
        rejected = path.with_name(f"{path.name}.rejected")
        with writing(rejected):
            os.replace(part, rejected)
        raise DataError(
            f"{file.url} gave another file than the official one ({error}) It is kept as"
            f" {rejected}; delete it. The next call begins anew: try that once, then another"
            " --mirror."
        ) from error
    with writing(path):
        os.replace(part, path)


def _receive(file: RemoteFile, part: Path, have: int, progress: Progress, timeout: float) -> None:
    """One connection: append to ``part`` what it brings."""
    headers = {"User-Agent": "ssrseg"} | ({"Range": f"bytes={have}-"} if have else {})
    with _connected(urlopen, Request(file.url, headers=headers), timeout=timeout) as response:
        _check_answer(response, file, part, have)
        with writing(part):
            kept = part.open("ab")
        with kept:
            while block := _connected(response.read, _BLOCK):
                have += len(block)
                if have > file.size:
                    raise DataError(_another_file(file.url, part, f"more than {file.size:,} bytes"))
                with writing(part):
                    kept.write(block)
                    kept.flush()
                progress(have)


def _connected(call: Callable[..., Any], *arguments: object, **options: object) -> Any:
    """Any way in which a connection breaks, TLS's and routing's too, as URLError.

    The disk's errors stay what they are: another connection would not mend them.
    """
    try:
        return call(*arguments, **options)
    except (URLError, HTTPException):
        raise
    except (OSError, ValueError) as error:  # ValueError: what a server says is nonsense
        raise URLError(str(error) or type(error).__name__) from error


def _check_answer(response: HTTPResponse, file: RemoteFile, part: Path, have: int) -> None:
    """Refuse the answer to another question before a byte of it is kept."""
    url, size = file.url, file.size
    cure = f"Delete {part} to begin anew, or name another server by --mirror."
    if response.status not in (200, 206):
        raise DataError(f"{url} answers {response.status}, which is no file. {cure}")
    if have and response.status == 200:
        raise DataError(
            f"{url} ignores the request to go on after {have:,} bytes (no HTTP Range): its server"
            f" can only send the whole file. {cure}"
        )
    total = size
    if response.status == 206:
        offered = response.headers.get("Content-Range", "")
        span = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", offered)
        if span is None or int(span[1]) != have:
            raise DataError(
                f"{url} was asked to go on after {have:,} bytes and offers {offered[:100]!r}."
                f" {cure}"
            )
        total = int(span[2]) + 1 if span[3] == "*" else int(span[3])
    lengths = set(response.headers.get_all("Content-Length", ()))
    if lengths and total == size:
        told = lengths.pop().strip()
        if lengths or not re.fullmatch("[0-9]{1,18}", told):
            raise DataError(
                f"{url} does not say how long its file is (Content-Length: {told[:100]!r}). {cure}"
            )
        total = have + int(told)
    if total != size:
        raise DataError(_another_file(url, part, f"{total:,} bytes"))


def _another_file(url: str, part: Path, found: str) -> str:
    have = f" {part} keeps what has arrived so far." if part.exists() else ""
    return (
        f"{url} is another file than the official one: the server offers {found}.{have} Name"
        " another server by --mirror."
    )


def file_size(path: Path) -> int:
    """Bytes of a file, 0 if it is not there."""
    return path.stat().st_size if path.exists() else 0
