"""Names inside Markdown: a class may be called ``*`` or ``<script>``."""

from __future__ import annotations

import re

from ssrseg.console import printable

_SYNTAX = re.compile(r"[\\`*\[\]<>&|~$]|(?<!\w)_|_(?!\w)|^[#+-]|(?<=^\d)[.)]")


def markdown_text(text: str) -> str:
    """Text in one line that Markdown shows as it is, also inside a table."""
    return _SYNTAX.sub(r"\\\g<0>", printable(text))
