"""Where the image of an address, as label tools write it, may lie on this machine."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of a file


def is_address(text: str) -> bool:
    """True for a URL, or a path on the server of Label Studio."""
    return "://" in text or text.startswith(("/data/upload/", "/data/local-files/"))


def paths_of(address: str) -> tuple[str, ...]:
    """Paths that an image may have here, the likeliest first; of a plain path that path is one."""
    path, name = _path(address) if is_address(address) else address, name_in(address)
    return tuple(dict.fromkeys((path, name, without_upload_code(name))))


def without_upload_code(name: str) -> str:
    """The name of a file as it was before it was uploaded to Label Studio."""
    return _UPLOADED.sub("", name, count=1)


def name_in(address: str) -> str:
    """The name of the file that an address or a path ends in."""
    path = _path(address) if is_address(address) else address
    return PurePosixPath(path.replace("\\", "/")).name


def _path(address: str) -> str:
    """The path in an address: of local files, of an upload, or in a cloud."""
    try:
        parts = urlsplit(address)
        local = parse_qs(parts.query).get("d", [""])[0]
    except ValueError:  # such as http://[
        return address
    return local or unquote(parts.path)
