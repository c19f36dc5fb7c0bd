"""Standard output and error that no run ever ends for."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class _Forgiving(io.RawIOBase):
    """Writes to another stream; faults of some kinds are swallowed, as nobody is left to read."""

    def __init__(self, stream: io.TextIOWrapper, forgiven: type[OSError]) -> None:
        self._stream, self._forgiven = stream, forgiven

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, data: bytes) -> int:  # type: ignore[override]
        # past the stream's own buffer: what it could not write it would try again at the very end
        file: Any = getattr(self._stream.buffer, "raw", self._stream.buffer)
        written = 0
        with suppress(self._forgiven):
            while written < len(data):
                written += file.write(data[written:])
        return len(data)


@contextmanager
def forgiving_streams() -> Iterator[None]:
    r"""Let neither what is printed nor its reader end what is going on.

    Streams that are closed lead nowhere, so that no file of ours gets their number. Characters that
    a console does not have (a Windows code page, a log file of it) are printed as
    ``\u72ac``. A closed pipe (``| head``) is no fault. On standard error, which holds progress and
    notes, no fault is: a terminal that was closed must not end a run that goes on without it. On
    standard output a full disk is one, as results would be lost.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed: no file of ours may get its number
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
    before = sys.stdout, sys.stderr
    for name, forgiven in (("stdout", BrokenPipeError), ("stderr", OSError)):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):  # not None (no console) nor what others put there
            stream.flush()
            raw: Any = _Forgiving(stream, forgiven)
            lines = stream.line_buffering or name == "stderr"
            made = io.TextIOWrapper(raw, stream.encoding, "backslashreplace", line_buffering=lines)
            setattr(sys, name, made)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.flush()
        sys.stdout, sys.stderr = before
