from __future__ import annotations

import pytest

from ssrseg.markdown import markdown_text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("dog", "dog"),
        ("red car", "red car"),
        ("fire_hydrant", "fire_hydrant"),
        ("_dog_", r"\_dog\_"),
        ("a|b", r"a\|b"),
        ("<script>alert(1)</script>", r"\<script\>alert(1)\</script\>"),
        ("[x](javascript:y)", r"\[x\](javascript:y)"),
        ("![x](http://y)", r"!\[x\](http://y)"),
        ("a\nb\x1b[1m", r"a\\nb\\x1b\[1m"),
        ("# a", r"\# a"),
        ("1. a", r"1\. a"),
        ("`$x$`", r"\`\$x\$\`"),
    ],
)
def test_markdown_shows_it_as_it_is(text: str, written: str) -> None:
    assert markdown_text(text) == written
