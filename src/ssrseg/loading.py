"""How an SSR is built from its encoders, loaded from a run or the hub, and saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import ModelCard, PyTorchModelHubMixin
from jaxtyping import Float
from torch import Tensor

from ssrseg.checkpoint import (
    MODEL_FILE,
    Checkpoint,
    changed_texts,
    check_same_classes,
    check_same_encoders,
    load_checkpoint,
    model_file,
    save_checkpoint,
)
from ssrseg.config import Config, load_config, uses_decoder, uses_dino
from ssrseg.console import note
from ssrseg.data.classes import check_background, check_class_names
from ssrseg.data.files import user_path
from ssrseg.data.sample import LabelledImages
from ssrseg.device import pick_device, settled_precision
from ssrseg.errors import CheckpointError, ConfigError
from ssrseg.method.cmpa import Alignment
from ssrseg.model_card import Figures, card_text
from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.decoder import Decoder
from ssrseg.networks.dino import FrozenDINO
from ssrseg.networks.frozen import PixelNorm, folder_on_disk, read_names
from ssrseg.networks.vocabulary import (
    Vocabulary,
    build_vocabulary,
    describe_unlearnt,
    refuse_lone_texts,
)
from ssrseg.packaged import PACKAGED
from ssrseg.safe_json import JsonError, read_json
from ssrseg.trained_parts import load_alignment, load_decoder

Model = TypeVar("Model", bound="Loadable")
_OWN: Any = object()  # a part that with_config leaves as it is


class Loadable(
    PyTorchModelHubMixin,
    library_name="ssrseg",
    tags=["image-segmentation", "weakly-supervised", "clip"],
    pipeline_tag="image-segmentation",
    paper_url="https://arxiv.org/abs/2512.01701",
):
    """The ways to come by an ``ssrseg.SSR``, and to keep it."""

    config: Config
    clip: FrozenCLIP
    dino: FrozenDINO | None
    vocabulary: Vocabulary
    text_features: Float[Tensor, "words dim1"]
    alignment: Alignment | None
    decoder: Decoder | None
    origin: Checkpoint | None

    @classmethod
    def from_encoders(
        cls: type[Model],
        classes: Sequence[str],
        *,
        clip: str | Path | None = None,
        dino: str | Path | None = None,
        preset: str = "ssr",
        settings: Sequence[str] = (),
        prompts: Mapping[str, str] | None = None,
        background: Sequence[str] = (),
        device: str = "auto",
    ) -> Model:
        """A training-free model: frozen CLIP and DINO, and the names of the classes.

        Args:
            classes: Class names, such as ``["dog", "cat"]``.
            clip: Hub id of CLIP, or a folder written by ``save_pretrained``; None = the preset's
                (ViT-B/16).
            dino: The same for DINO, DINOv2 or DINOv3 (DINO's ViT-S/16).
            preset: Named settings, see ``ssrseg config``.
            settings: Single settings, ``"section.key=value"``.
            prompts: By class name, what CLIP is asked instead of the name.
            background: Words for what is no class, instead of the prompt set's.
            device: ``auto``, ``cpu`` or ``cuda``.

        Raises:
            LabelsError: If the class names or background words cannot be used.
            BackboneError: If an encoder cannot be loaded.
            ConfigError: If a preset or setting does not exist.
        """
        config = _with_encoders(load_config(preset, overrides=settings), clip, dino)
        return cls.from_config(
            config, classes, prompts=prompts, background=background, device=pick_device(device)
        )

    @classmethod
    def from_config(
        cls: type[Model],
        config: Config,
        classes: Sequence[str],
        *,
        prompts: Mapping[str, str] | None = None,
        background: Sequence[str] = (),
        device: str = "cpu",
    ) -> Model:
        """Load the encoders of the settings and embed the texts; nothing is trained yet.

        Args:
            config: All settings.
            classes: Class names of the data.
            prompts: By class name, what CLIP is asked instead of the name.
            background: Words for what is no class, instead of the prompt set's.
            device: ``cpu`` or ``cuda``.

        Raises:
            BackboneError: If an encoder cannot be loaded.
            ConfigError: If the prompt set cannot be read or the layers do not fit.
        """
        config = settled_precision(config, device)
        names = check_class_names(classes)
        words = check_background(background)
        vocabulary = build_vocabulary(names, config.prompts.set, prompts, words)
        if vocabulary.dropped:
            pairs = zip(vocabulary.dropped, vocabulary.dropped_for, strict=True)
            left_out = ", ".join(f'"{word}" (class "{name}")' for word, name in pairs)
            note(f"background words left out because they mean a class: {left_out}.")
        model = cls(config, *_load_encoders(config, vocabulary.texts, device), vocabulary)
        for doubt in _doubtful_texts(model):
            note(doubt)
        return model

    @classmethod
    def for_data(
        cls: type[Model],
        config: Config,
        data: LabelledImages,
        run: Path | None = None,
        *,
        device: str = "cpu",
    ) -> Model:
        """The encoders for a data set under some settings, with what a run has trained.

        Args:
            config: Says what of the run is used: CMPA's heads, and the decoder for WeCLIP's RFM.
            data: For its classes, prompts and background words.
            run: Run folder or checkpoint; None = training-free.
            device: ``cpu`` or ``cuda``.

        Raises:
            CheckpointError: If the run is of other classes, prompts or CLIP, or the settings use
                nothing of it.
            ConfigError: If images with a single label meet no background text.
        """
        if config.cam.mode != "centre":
            vocabulary = build_vocabulary(
                data.classes, config.prompts.set, data.prompts, data.background
            )
            refuse_lone_texts(vocabulary, {each.name: each.labels for each in data.samples})
        model = cls.from_config(
            config,
            data.classes,
            prompts=data.prompts,
            background=data.background,
            device=device,
        )
        if run is None:
            if uses_decoder(config):
                note(
                    f"affinity.rfm_after = {config.affinity.rfm_after}, but no trained model is"
                    " given (--model): no decoder refines the CAMs, as in the first iterations of"
                    " WeCLIP."
                )
            return model
        return model._with_run(run, data.root)

    @classmethod
    def from_texts(
        cls: type[Model],
        config: Config,
        vocabulary: Vocabulary,
        run: Path | None = None,
        *,
        device: str = "cpu",
    ) -> Model:
        """The encoders for texts that are known, such as those that earlier masks were made with.

        Args:
            config: As for ``for_data``.
            vocabulary: Class names and texts.
            run: Run folder or checkpoint; None = training-free.
            device: ``cpu`` or ``cuda``.

        Raises:
            BackboneError: If an encoder cannot be loaded.
            CheckpointError: As for ``for_data``.
        """
        model = cls(config, *_load_encoders(config, vocabulary.texts, device), vocabulary)
        return model if run is None else model._with_run(run, "the folder")

    def _with_run(self: Model, run: Path, asking: str | Path) -> Model:
        """What of a run the settings use; CheckpointError if nothing, or it does not fit."""
        config = self.config
        checkpoint = load_checkpoint(run)
        check_same_classes(checkpoint.classes, self.vocabulary.classes, run)
        has_heads = config.cam.mode == "cmpa" and bool(checkpoint.part("alignment"))
        gates = uses_decoder(config)
        if not has_heads and not gates:
            raise CheckpointError(
                f"{run} cannot help here: "
                + (
                    f"the settings ask for CAMs without CMPA (cam.mode = {config.cam.mode})"
                    if config.cam.mode != "cmpa"
                    else "the run trained no CMPA (another cam.mode, or full supervision)"
                )
                + ". Leave the model (--model) away for training-free masks, or segment with"
                " `ssrseg predict`."
            )
        texts = changed_texts(checkpoint.classes, checkpoint.texts, self.vocabulary.texts)
        if texts:
            more = f"; and {len(texts) - 8} more" if texts[8:] else ""
            raise CheckpointError(
                f"{run} was trained with other prompts than {asking} asks for"
                f" ({'; '.join(texts[:8])}{more}). Use the"
                " classes.yaml and prompts (--prompts) of its training; if they are the same,"
                " another version of ssrseg left out other background words: train anew."
            )
        # heads and decoder read CLIP alone
        read = {key: digest for key, digest in checkpoint.encoders.items() if key != "dino"}
        check_same_encoders(read, self.encoders, config.backbones, run)
        return self._with_trained(checkpoint, run, alignment=has_heads, decoder=gates)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls: type[Model],
        source: str | Path,
        *,
        clip: str | Path | None = None,
        dino: str | Path | None = None,
        segment_only: bool = False,
        device: str = "auto",
        **hub: Any,
    ) -> Model:
        """A trained model.

        Args:
            source: A run folder, a folder written by ``save_pretrained``, a ``model.safetensors``,
                or a hub id.
            clip: Where CLIP is, if not where it was in training: hub id or folder.
            dino: The same for DINO.
            segment_only: Load what ``segment`` needs and nothing else: neither DINO nor texts.
            device: ``auto``, ``cpu`` or ``cuda``.
            hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``,
                for a model on the hub.

        Raises:
            CheckpointError: If there is no model, or it was trained with another encoder.
            BackboneError: If an encoder cannot be loaded.
        """
        file = model_file(source, **hub)
        checkpoint = load_checkpoint(file)
        device = pick_device(device)
        config = settled_precision(_with_encoders(checkpoint.config, clip, dino), device)
        clip_tower, dino_tower = _load_encoders(
            config,
            () if segment_only else checkpoint.texts,
            device,
            with_dino=not segment_only,
        )
        model = cls(
            config,
            clip_tower,
            dino_tower,
            Vocabulary(checkpoint.classes, checkpoint.texts),
            text_features=clip_tower.text_features(()) if segment_only else None,
            origin=replace(checkpoint, tensors={}),
        )
        check_same_encoders(checkpoint.encoders, model.encoders, config.backbones, file)
        return model._with_trained(
            checkpoint,
            file,
            alignment=bool(checkpoint.part("alignment")),
            decoder=bool(checkpoint.part("decoder")),
        )

    def with_config(
        self: Model, config: Any, *, alignment: Any = _OWN, decoder: Any = _OWN
    ) -> Model:
        """The same encoders and texts under other settings; both models share them.

        Args:
            config: All settings; encoders and prompts have to be those of this model.
            alignment: CMPA's heads to use instead of this model's; None = without.
            decoder: The same of the decoder.

        Raises:
            ConfigError: If ``config`` is none.
            ValueError: If the settings ask for other encoders or prompts.
        """
        if not isinstance(config, Config):
            raise ConfigError(
                f"with_config takes settings, not {config!r}. Give ssrseg.load_config(preset,"
                " overrides=[...]), or dataclasses.replace(model.config, ...)."
            )
        if config.backbones.precision == "auto":  # settled, when the encoders were loaded
            settled = replace(config.backbones, precision=self.config.backbones.precision)
            config = replace(config, backbones=settled)
        for section in ("backbones", "prompts"):
            if getattr(config, section) != getattr(self.config, section):
                raise ValueError(
                    f"with_config shares encoders and texts, but {section} differs. Build a new SSR"
                    " (from_config, from_encoders) for other ones."
                )
        return type(self)(
            config,
            self.clip,
            self.dino,
            self.vocabulary,
            alignment=self.alignment if alignment is _OWN else alignment,
            decoder=self.decoder if decoder is _OWN else decoder,
            text_features=self.text_features,
            origin=self.origin,
        )

    def _with_trained(
        self: Model, checkpoint: Checkpoint, origin: Path, *, alignment: bool, decoder: bool
    ) -> Model:
        """This model with parts of a checkpoint."""
        texts = self.text_features
        return self.with_config(
            self.config,
            alignment=load_alignment(checkpoint, texts, origin) if alignment else None,
            decoder=load_decoder(checkpoint, self.clip, origin) if decoder else None,
        )

    @property
    def encoders(self) -> dict[str, str]:
        """Digests of the weights: ``clip``, ``clip_text`` and ``dino``, as far as loaded."""
        found = {
            "clip": self.clip.digest,
            "clip_text": self.clip.text_digest,
            "dino": None if self.dino is None else self.dino.digest,
        }
        return {name: digest for name, digest in found.items() if digest is not None}

    def trained_tensors(self) -> dict[str, Tensor]:
        """Heads and decoder by name: ``alignment.*``, ``decoder.*``; not the frozen encoders."""
        parts = {"decoder": self.decoder, "alignment": self.alignment}
        return {
            f"{name}.{key}": value
            for name, part in parts.items()
            if part is not None
            for key, value in part.state_dict().items()
        }

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write heads, decoder, settings and classes, with a model card; not the frozen encoders.

        Args:
            save_directory: A folder; a model of ours in it is replaced.
            options: ``push_to_hub`` and ``repo_id``, see ``huggingface_hub``.

        Raises:
            CheckpointError: If the folder holds a model of something else, or cannot be written.
        """
        folder = user_path(save_directory, "a model", CheckpointError)
        _refuse_foreign(folder)
        try:
            return super().save_pretrained(folder, **options)
        except OSError as error:
            raise CheckpointError(
                f"{folder} cannot be written ({error.strerror or error}). Choose another folder."
            ) from error

    def _save_pretrained(self, save_directory: Path) -> None:
        made = replace(self._described(), tensors=self.trained_tensors())
        save_checkpoint(save_directory / MODEL_FILE, made)

    def _described(self) -> Checkpoint:
        """All of a checkpoint but its tensors."""
        if self.origin is not None:
            return replace(self.origin, config=self.config)
        vocabulary = self.vocabulary
        return Checkpoint(
            {}, self.config, vocabulary.classes, vocabulary.texts, encoders=self.encoders
        )

    def generate_model_card(
        self,
        *args: Any,
        repo_id: str | None = None,
        license: str | None = None,
        figures: Figures | None = None,
        **more: Any,
    ) -> ModelCard:
        """The README of a saved model: what it segments, how well, its data, limits and licences.

        Args:
            repo_id: Its name on the hub.
            license: Of the model; None = nothing is said.
            figures: What was measured, see ``ssrseg.model_card.read_figures``.
            more: Other entries of the head, such as ``language``.
        """
        head = copy(self._hub_mixin_info.model_card_data)
        vars(head).update(more, license=license)
        parts = {"alignment": self.alignment, "decoder": self.decoder}
        text = card_text(
            self._described(),
            parts=tuple(name for name, part in parts.items() if part is not None),
            patch=self.clip.patch_size,
            repo_id=repo_id,
            license=license,
            figures=figures,
        )
        return ModelCard(f"---\n{head}\n---\n\n{text}")


def _doubtful_texts(model: Loadable) -> list[str]:
    """What to say of classes that CLIP cannot tell apart, or does not understand."""
    cure = "Give a prompt that it knows in classes.yaml (or --prompts), such as dog for 犬."
    classes, texts = model.vocabulary.classes, model.vocabulary.texts
    found = []
    unknown = [name for name, text in zip(classes, texts, strict=False) if model.clip.unknown(text)]
    if unknown:
        shown = ", ".join(f'"{name}"' for name in unknown[:8]) + (", ..." if unknown[8:] else "")
        found.append(f"CLIP's tokenizer does not know the characters of {shown}. {cure}")
    names = read_names(model.config.backbones.clip)
    if names is not None and (unlearnt := describe_unlearnt(model.vocabulary, names)):
        found.append(unlearnt)
    # unit norm: 1 for the same direction
    cosine = model.text_features[: len(classes)] @ model.text_features.T
    twins = (cosine > 1 - 1e-6).triu(1).nonzero().tolist()
    for one, other in twins[:8]:
        kind = "class" if other < len(classes) else "background"
        name = classes[other] if other < len(classes) else texts[other]
        found.append(
            f'class "{classes[one]}" and {kind} "{name}" are the same to CLIP\'s text tower (it is'
            f' asked "{texts[one]}" and "{texts[other]}"): it cannot tell them apart. {cure}'
        )
    return found


def _refuse_foreign(folder: Path) -> None:
    """Raise CheckpointError if a folder holds the files of another model under our names."""
    config, weights = folder / "config.json", folder / MODEL_FILE
    foreign = config.is_file() and '"model_type"' in config.read_text("utf-8", "replace")
    if weights.is_file() and not foreign:
        try:
            load_checkpoint(weights)
        except CheckpointError:
            foreign = True
    if foreign:
        raise CheckpointError(
            f"{folder} holds another model ({config.name}, {weights.name}), which would be lost."
            " Choose another folder."
        )


def _load_encoders(
    config: Config, texts: tuple[str, ...], device: str, *, with_dino: bool = True
) -> tuple[FrozenCLIP, FrozenDINO | None]:
    """The encoders of the settings; DINO only where it has a weight."""
    backbones = config.backbones
    precision = backbones.precision
    assert precision != "auto"  # settled
    clip = FrozenCLIP.load(
        backbones.clip,
        pos_interpolation=backbones.pos_interpolation,
        precision=precision,
        texts=texts,
    ).to(device)
    if config.data.norm == "clip":
        _note_usual_pixels(backbones.clip, clip.pixels, "CLIP's")
    if not with_dino or not uses_dino(config):
        return clip, None
    dino = FrozenDINO.load(backbones.dino, precision=precision).to(device)
    _note_usual_pixels(backbones.dino, dino.pixels, "ImageNet's")
    return clip, dino


def _note_usual_pixels(source: str, pixels: PixelNorm, whose: str) -> None:
    """Say that nobody says how an encoder wants its pixels."""
    if not pixels.origin:
        gone = "" if _is_local(source) else ", or it cannot be fetched now"
        note(
            f"{source} has no preprocessor_config.json{gone}: it is given {whose} mean and"
            " deviation. If it was trained with others, copy that file from where it is from."
        )


@dataclass(frozen=True)
class EncodersOnDisk:
    """What can be loaded without the network.

    Attributes:
        config: Settings that name the folders of what is there.
        missing: Hub ids, or paths, of what is not.
        patch: Side of a patch in pixels; that of CLIP ViT-B/16 if CLIP is missing.
    """

    config: Config
    missing: tuple[str, ...]
    patch: int


def encoders_on_disk(config: Config) -> EncodersOnDisk:
    """Look for the encoders of the settings here; nothing is fetched or loaded."""
    backbones = config.backbones
    wanted = {"clip": backbones.clip}
    if uses_dino(config):
        wanted["dino"] = backbones.dino
    folders = {name: folder_on_disk(source) for name, source in wanted.items()}
    found = {name: folder for name, folder in folders.items() if folder is not None}
    patch = 16
    with suppress(JsonError, OSError, KeyError, TypeError, ValueError, OverflowError):
        patch = max(1, int(read_json(found["clip"] / "config.json")["vision_config"]["patch_size"]))
    missing = tuple(wanted[name] for name in wanted if name not in found)
    # hub ids in the cache by their folder, so that nobody asks the hub for a newer one
    fetched = (name for name in found if not _is_local(wanted[name]))
    local: dict[str, Any] = {name: str(found[name]) for name in fetched}
    return EncodersOnDisk(replace(config, backbones=replace(backbones, **local)), missing, patch)


def _is_local(source: str) -> bool:
    return source.startswith(PACKAGED) or Path(source).expanduser().is_dir()


def _with_encoders(config: Config, clip: str | Path | None, dino: str | Path | None) -> Config:
    """The settings with encoders from elsewhere."""
    backbones = config.backbones
    if clip is not None:
        backbones = replace(backbones, clip=_lasting(clip))
    if dino is not None:
        backbones = replace(backbones, dino=_lasting(dino))
    return replace(config, backbones=backbones)


def _lasting(source: str | Path) -> str:
    """A folder by its whole path, so that a saved model finds it; a hub id as it is."""
    folder = Path(source).expanduser()
    return str(folder.resolve()) if folder.is_dir() else str(source)
