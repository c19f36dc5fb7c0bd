"""The files of a folder of masks, to be compared with another one."""

from __future__ import annotations

import re
from pathlib import Path

LAST_CALL = rb"<div><dt>last call</dt>.*?</div>"


def files(folder: Path) -> dict[str, bytes]:
    """Every file but what says how it came about."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "merged.json"
    }
    if "report.html" in found:
        page = re.sub(LAST_CALL, b"", found["report.html"])
        found["report.html"] = page.replace(folder.name.encode(), b"OUT")
    return found
