"""``ssrseg serve``: a trained model behind HTTP, until a signal ends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssrseg.console import echo, note
from ssrseg.errors import PackageError
from ssrseg.interruption import until_stopped
from ssrseg.local_server import HOST, answered, listening, wait_until
from ssrseg.serving.limits import Limits

_LOCAL = (HOST, "localhost", "::1")


def serve_model(
    model: str | Path,
    port: int = 8000,
    host: str = HOST,
    *,
    limits: Limits = Limits(),  # noqa: B008  # it is frozen
    **options: Any,
) -> None:
    """Answer images with masks until a signal stops it; what is being done is then finished.

    Args:
        model: Run folder, model.safetensors, or hub id.
        port: 0 = any that is free.
        host: Address to listen at; 0.0.0.0 = all of this machine's.
        options: Of ``load_predictor``.

    Raises:
        PackageError: If FastAPI, uvicorn or another package of the extra is not installed.
        ConfigError: If the port is taken.
        CheckpointError: If there is no model, or it does not fit the encoder.
    """
    try:
        import python_multipart  # noqa: F401  # files of forms
        import uvicorn  # noqa: F401  # the server needs it

        from ssrseg.serving.app import make_app
        from ssrseg.serving.service import Service
    except ImportError as error:
        raise PackageError(
            f"a server needs the package {error.name}, which is not installed:"
            " pip install 'ssrseg[serve]'."
        ) from error
    from ssrseg.prediction import load_predictor

    if host not in _LOCAL:
        note(
            f"--host {host}: whoever reaches this machine can send images, for there is no"
            " authentication. Put it behind a proxy that asks who they are."
        )
    with listening(port, host) as listener, until_stopped() as stop, Service(limits) as service:
        app = make_app(service, str(model))
        with answered(app, listener, limits.seconds) as thread:
            address = f"[{host}]" if ":" in host else host
            echo(f"Loading {model}; http://{address}:{listener.getsockname()[1]}/health says when.")
            with stop.at_once():
                service.predictor = load_predictor(model, **options)
            echo(f"Ready: http://{address}:{listener.getsockname()[1]}/ says how. Ctrl-C ends it.")
            wait_until(stop, thread)
