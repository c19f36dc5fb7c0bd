"""The command line inside the test process."""

from __future__ import annotations

import sys
from unittest.mock import patch

import pytest

from ssrseg.cli import main


def exit_code(*arguments: object) -> int:
    """Run ``ssrseg`` with these arguments to its end."""
    words = ["ssrseg", *map(str, arguments)]
    with patch.object(sys, "argv", words), pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code
