"""``ssrseg review``: the page of a folder, on this machine alone, until it is stopped."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ssrseg.console import echo, note
from ssrseg.data.files import user_path
from ssrseg.errors import PackageError, counted
from ssrseg.interruption import until_stopped
from ssrseg.local_server import HOST, answered, listening, wait_until
from ssrseg.manifest import ACCEPTED, REJECTED
from ssrseg.reviewing.encoders import EncoderOptions
from ssrseg.reviewing.folder import open_review
from ssrseg.reviewing.labelstudio import take_over

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
        import uvicorn  # noqa: F401  # the server needs it

        from ssrseg.reviewing.app import make_app, new_token
    except ImportError as error:
        raise PackageError(
            f"the page of a review needs the package {error.name}, which is not installed:"
            " pip install 'ssrseg[review]'."
        ) from error
    with (
        open_review(folder, images, encoders) as reviewed,
        listening(port, perhaps="another review") as listener,
    ):
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
        app = make_app(reviewed, token)
        with until_stopped() as stop, answered(app, listener, _PATIENCE) as thread:
            masks = counted(len(reviewed.names), "mask", "masks")
            echo(f"{masks} to look at: http://{HOST}:{listener.getsockname()[1]}/?token={token}")
            echo("Ctrl-C ends the review. What is decided is saved at once.")
            wait_until(stop, thread)
        found = Counter(reviewed.summary(index)["decision"] for index in range(len(reviewed.names)))
    return Left(found[ACCEPTED], found[REJECTED], found[""])
