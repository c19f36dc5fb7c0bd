"""``ssrseg review``: the page of a folder, on this machine alone, until it is stopped."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ssrseg.console import echo, note
from ssrseg.data.files import user_path
from ssrseg.errors import ConfigError, PackageError, counted
from ssrseg.interruption import until_stopped
from ssrseg.manifest import ACCEPTED, REJECTED
from ssrseg.reviewing.encoders import EncoderOptions
from ssrseg.reviewing.folder import open_review
from ssrseg.reviewing.labelstudio import take_over

HOST = "127.0.0.1"
_PATIENCE = 5  # seconds in which what is going on may end


@dataclass(frozen=True)
class Left:
    """Numbers of masks at the end of a review."""

    accepted: int
    rejected: int
    open: int


def serve_review(
    folder: str | Path,
    port: int = 8765,
    *,
    images: str | Path | None = None,
    labelstudio: str | Path | None = None,
    encoders: EncoderOptions = EncoderOptions(),  # noqa: B008  # it is frozen
) -> Left:
    """Serve the page of a folder of masks on 127.0.0.1 until a signal stops it.

    Args:
        folder: Written by ``masks`` or ``predict``; nobody else can write there meanwhile.
        port: 0 = any that is free.
        images: Folder of the photographs, if they are not where manifest.csv says.
        labelstudio: Label Studio's JSON export, whose masks are taken over first and accepted.
        encoders: Where they are.

    Raises:
        PackageError: If FastAPI or uvicorn is not installed.
        ConfigError: If the port is taken.
        DataError: If the folder holds no masks, or the export none of them.
        OutputError: If somebody else writes into the folder, such as another review.
    """
    try:
        import uvicorn

        from ssrseg.reviewing.app import make_app, new_token
    except ImportError as error:
        raise PackageError(
            f"the page of a review needs the package {error.name}, which is not installed:"
            " pip install 'ssrseg[review]'."
        ) from error
    with open_review(folder, images, encoders) as reviewed, _listening(port) as listener:
        if reviewed.missing:
            masks = counted(reviewed.missing, "mask is", "masks are")
            note(f"{masks} listed in manifest.csv and not there; the same `ssrseg masks` goes on.")
        if labelstudio is not None:
            taken = take_over(reviewed, user_path(labelstudio, "Label Studio's export"))
            masks = counted(len(taken.accepted), "mask", "masks")
            echo(f"{masks} taken over from {labelstudio} and accepted.")
            for failure in taken.failures:
                note(f"{failure.name} was not taken over: {failure.reason}")
        token = new_token()
        server = uvicorn.Server(
            uvicorn.Config(
                make_app(reviewed, token),
                lifespan="off",
                log_level="warning",
                server_header=False,
                timeout_graceful_shutdown=_PATIENCE,
            )
        )
        # not in this thread: its signals are not the server's
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        with until_stopped() as stop:
            thread.start()
            masks = counted(len(reviewed.names), "mask", "masks")
            echo(f"{masks} to look at: http://{HOST}:{listener.getsockname()[1]}/?token={token}")
            echo("Ctrl-C ends the review. What is decided is saved at once.")
            while thread.is_alive() and not stop.requested:
                thread.join(0.2)
            server.should_exit = True
            thread.join(2 * _PATIENCE)
        found = Counter(reviewed.summary(index)["decision"] for index in range(len(reviewed.names)))
    return Left(found[ACCEPTED], found[REJECTED], found[""])


def _listening(port: int) -> socket.socket:
    """A socket of this machine; ConfigError if the port is taken."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"port {port} of {HOST} cannot be used ({error.strerror}), perhaps by another review."
            " Choose another one (--port), or --port 0 for any that is free."
        ) from error
    return listener
