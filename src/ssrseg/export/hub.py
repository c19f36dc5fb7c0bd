"""A trained model for others: a folder with its card, and the hub."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from ssrseg.checkpoint import model_digest
from ssrseg.console import note
from ssrseg.data.files import only_writer, user_path
from ssrseg.errors import ConfigError, OutputError
from ssrseg.export.output import Output
from ssrseg.export.trained import export_folder, find_trained
from ssrseg.model import SSR
from ssrseg.model_card import read_figures
from ssrseg.packaged import PACKAGED

_KIND = "hub"


@dataclass(frozen=True)
class HubExport:
    """Where the model is.

    Attributes:
        folder: model.safetensors, config.json and README.md, the card.
        url: Of what was uploaded; None = nothing was.
    """

    folder: Path
    url: str | None


def export_to_hub(
    model: str | Path,
    out: str | Path | None = None,
    *,
    repo: str | None = None,
    private: bool = False,
    license: str | None = None,
    scores: str | Path | None = None,
    clip: str | Path | None = None,
    dino: str | Path | None = None,
) -> HubExport:
    """Write a model with its card into a folder, and upload it if a repository is named.

    Args:
        model: Run folder, model.safetensors, or hub id.
        out: Folder; by default export/hub in the run folder (of a hub's model, here).
        repo: ``name/model`` on the hub, made if it is not there. Needs a login (``hf auth login``).
        private: Make it for yourself alone.
        license: Of the model, such as ``mit``, for the card.
        scores: A file of ``ssrseg evaluate --json``, for the card.
        clip: Hub id of CLIP, where training had a folder of this machine.
        dino: The same for DINO.

    Raises:
        CheckpointError: If there is no model, or it was trained with another encoder.
        BackboneError: If an encoder cannot be loaded.
        ConfigError: If the name of the repository is none.
        DataError: If the scores are not this model's.
        OutputError: If somebody's file is in the way, or the upload failed.
    """
    if repo is not None and (repo.count("/") != 1 or not all(repo.split("/"))):
        raise ConfigError(f"--repo {repo!r} is no name on the hub: name/model is expected.")
    source = find_trained(model)
    folder = export_folder(model, source, _KIND)
    if out is not None:
        folder = user_path(out, "a model", OutputError)
    ssr = SSR.from_pretrained(source, clip=clip, dino=dino, device="cpu")
    figures = None
    if scores is not None:
        path = user_path(scores, "the scores")
        figures = read_figures(path, ssr.classes, model_digest(source))
    backbones = ssr.config.backbones
    for name, place in (("clip", backbones.clip), ("dino", backbones.dino)):
        if name in ssr.encoders and not place.startswith(PACKAGED) and Path(place).is_absolute():
            note(
                f"{name.upper()} is {place}, a folder of this machine, and that path is in the"
                f" settings. Others have to say where theirs is; with --{name} NAME/MODEL the"
                " settings name the hub's, if its weights are the same."
            )
    if license is None:
        note("the card states no licence of the model: --license mit, for example.")
    described = {"repo_id": repo, "license": license, "figures": figures}
    with only_writer(folder):
        output = Output(folder, _KIND)
        with tempfile.TemporaryDirectory() as saved:
            ssr.save_pretrained(saved, model_card_kwargs=described)
            for path in sorted(Path(saved).iterdir()):
                output.write(path.name, path.read_bytes())
        output.finish()
        url = None if repo is None else _upload(folder, repo, private=private)
    return HubExport(folder, url)


def _upload(folder: Path, repo: str, *, private: bool) -> str:
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.repo_info(repo).private:
            raise PermissionError(
                f"{repo} is there and public; make it private on the hub, or leave --private away"
            )
        written = ["model.safetensors", "config.json", "README.md"]
        message = "Model and card, by ssrseg"
        found = api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=written, commit_message=message
        )
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise OutputError(
            f"{folder} is written, but could not be uploaded as {repo} ({type(error).__name__}:"
            f" {reason}). Log in with a token that may write (hf auth login), then: hf upload"
            f" {repo} {folder}"
        ) from error
    return str(found)
