"""The trained model that a folder holds, where others hold masks."""

from __future__ import annotations

from pathlib import Path

from ssrseg.checkpoint import MODEL_FILE, STATE_FILE, model_file
from ssrseg.data.files import user_path
from ssrseg.errors import CheckpointError


def find_trained(source: str | Path) -> Path:
    """A run folder or model.safetensors on this disk, or the file fetched from the hub.

    Raises:
        CheckpointError: If it is a folder without a model, such as one of masks.
    """
    folder = user_path(source, "a model", CheckpointError)
    if folder.is_dir() and not (folder / MODEL_FILE).is_file():
        if (folder / STATE_FILE).is_file():
            raise CheckpointError(
                f"{folder} is a run that is not finished: there is no {MODEL_FILE} yet. Run the"
                " same `ssrseg train` command again to finish it."
            )
        holds = " but masks" if (folder / "masks").is_dir() else ""
        raise CheckpointError(
            f"{folder} holds no trained model{holds}. --to onnx and --to hub take a run folder of"
            f" `ssrseg train`, its {MODEL_FILE}, or a hub id; masks go to the other formats."
        )
    return model_file(source)


def export_folder(source: str | Path, found: Path, kind: str) -> Path:
    """Where an export goes if nobody says: into the run folder; of a hub's model, here."""
    if not user_path(source, "a model", CheckpointError).exists():
        return Path("export") / kind
    return (found if found.is_dir() else found.parent) / "export" / kind


def holds_run(folder: Path) -> bool:
    """Whether a folder is that of a run, finished or not."""
    return any((folder / name).is_file() for name in (MODEL_FILE, STATE_FILE))
