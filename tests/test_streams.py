from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "ssrseg"]


def python(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    program = f"import sys\nfrom ssrseg.cli.streams import forgiving_streams\n{code}"
    return subprocess.run([sys.executable, "-c", program], text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_a_console_without_a_character_shows_its_number(encoding: str) -> None:
    code = """
with forgiving_streams():
    print("Größe 犬 \\udcff")
    print("犬", file=sys.stderr)
print("done")
"""
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    found = python(code, capture_output=True, env=environment, encoding="latin-1")
    shown = {
        "cp1252": "Größe \\u72ac \\udcff",
        "ascii": "Gr\\xf6\\xdfe \\u72ac \\udcff",
        "utf-8": "Größe 犬".encode().decode("latin-1") + " \\udcff",
    }
    assert (found.returncode, found.stdout) == (0, f"{shown[encoding]}\ndone\n")
    assert found.stderr.strip() in ("\\u72ac", "犬".encode().decode("latin-1"))


def test_a_closed_pipe_ends_nothing() -> None:
    code = """
import time
with forgiving_streams():
    for each in (sys.stdout, sys.stderr):
        for number in range(2000):
            print("x" * 200, file=each, flush=True)
    open(sys.argv[-1], "w").write("finished")
"""
    code = code.replace("sys.argv[-1]", repr(os.devnull))
    reading, writing = os.pipe()
    os.close(reading)
    try:
        found = python(code, stdout=writing, stderr=writing)
    finally:
        os.close(writing)
    assert found.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_below_standard_output_is_a_fault() -> None:
    with open("/dev/full", "w") as full:
        found = subprocess.run(
            [*COMMAND, "config"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
        assert found.returncode == 2
        assert found.stderr.startswith("Error: Standard output cannot be read or written (No space")
        assert "Traceback" not in found.stderr
        # below standard error nothing can be said, and nothing is
        code = "with forgiving_streams():\n    print('x', file=sys.stderr)\nprint('done')"
        assert python(code, stdout=subprocess.PIPE, stderr=full).stdout == "done\n"


def test_head() -> None:
    line = f"{sys.executable} -m ssrseg config | head -n 1"
    found = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("setting")


def test_what_is_no_stream_of_ours_stays() -> None:
    code = """
import io
sys.stdout, sys.stderr = None, io.StringIO()
kept = sys.stderr
with forgiving_streams():
    print("to nobody")
    assert sys.stderr is kept
"""
    assert python(code).returncode == 0


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell closes them")
def test_streams_that_are_closed() -> None:
    command = f'"{sys.executable}" -m ssrseg config <&- >&- 2>&-'
    assert subprocess.run(command, shell=True).returncode == 0
