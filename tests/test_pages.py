from __future__ import annotations

import pages
import pytest


def test_without_a_browser_no_test_of_a_page_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "BROWSER", None)
    with pytest.raises(pytest.fail.Exception, match="apt-get install chromium"):
        pages.browser_path()
