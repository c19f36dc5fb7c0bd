from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from command import exit_code
from pages import masks_folder

from ssrseg.errors import ConfigError, PackageError
from ssrseg.reviewing.serve import HOST, serve_review


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    return masks_folder(tmp_path, ("a", "b"))


def test_the_port_is_taken(masks: Path) -> None:
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 cannot be used .*--port"):
            serve_review(masks, port)
    assert not (masks / ".writer").exists()  # it can be reviewed now


def test_packages_that_are_not_installed(masks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(PackageError, match=r"uvicorn, .* pip install 'ssrseg\[review\]'"):
        serve_review(masks, 0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("review", tmp_path / "nowhere") == 2
    assert "nowhere is no folder. Name one that" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "photos").mkdir()
    assert exit_code("review", tmp_path / "photos") == 2
    assert "it has no manifest.csv" in " ".join(capsys.readouterr().err.split())
    assert exit_code("review", tmp_path, "--port", "70000") == 2
    assert exit_code("review", tmp_path, "--host", "0.0.0.0") == 2  # there is no such option
