"""A web server in a thread of this process, until a signal ends it; uvicorn answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ssrseg.console import printable_lines
from ssrseg.errors import ConfigError
from ssrseg.interruption import Stop

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI, Response

HOST = "127.0.0.1"
"""This machine alone."""

_LOOK = 0.2  # seconds between two looks whether a signal has come


def listening(port: int, host: str = HOST, perhaps: str = "another program") -> socket.socket:
    """A socket at an address of this machine.

    Args:
        port: 0 = any that is free.
        perhaps: Who may have taken the port, for the message.

    Raises:
        ConfigError: If the port is taken, or the address is none of this machine.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"port {port} of {host} cannot be used ({error.strerror}), perhaps by {perhaps}."
            " Choose another one (--port), or --port 0 for any that is free."
        ) from error
    return listener


@contextmanager
def answered(app: FastAPI, listener: socket.socket, patience: float) -> Iterator[threading.Thread]:
    """Answer requests in a thread of its own while the block lasts.

    At its end nobody new is let in, and what is going on may go on for ``patience`` seconds.
    """
    import uvicorn

    server = uvicorn.Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=max(1, round(patience)),
        )
    )
    # not in this thread: its signals are not the server's
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        server.should_exit = True
        thread.join(2 * patience)


def wait_until(stop: Stop, thread: threading.Thread) -> None:
    """Wait until somebody wants the server to end, or it has."""
    while thread.is_alive() and not stop.requested:
        thread.join(_LOOK)


def fault(text: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """What is wrong, in a paragraph for a person."""
    from fastapi.responses import JSONResponse

    return JSONResponse({"error": printable_lines(text)}, status, headers)
