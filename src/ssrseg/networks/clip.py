"""CLIP's two towers, frozen: tokens and attention of every block, the last block as a function.

The blocks are the library's own modules, called one by one, because SSR needs what lies between
them; a test holds the result against the library's own forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, CLIPTokenizer
from transformers.activations import QuickGELUActivation

from ssrseg.errors import BackboneError, ConfigError
from ssrseg.method.gradcam_closed_form import (
    BlockTrace,
    BlockWeights,
    quick_gelu_with_slope_,
    trace_block,
    with_slope,
)
from ssrseg.networks.attention import NAME, resolve_layers, run_block
from ssrseg.networks.frozen import (
    Frozen,
    PixelNorm,
    Precision,
    load_pretrained,
    model_type,
    quiet,
    read_pixel_norm,
    refuse_not_finite,
    weights_digest,
)
from ssrseg.networks.stem import Stem, find_stem

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's own normalisation of RGB in [0, 1]."""
USUAL_PIXELS = PixelNorm(PIXEL_MEAN, PIXEL_STD)

_EXAMPLE = "openai/clip-vit-base-patch16"
_OLD_EOS = 2
"""What the library wrote as eos_token_id for years: it pools at the highest id of a text then."""


@dataclass(frozen=True)
class ClipFeatures:
    """What the frozen image tower computes before its last block.

    Attributes:
        tokens: Output of blocks 1 .. L-1, CLS first, one tensor per block.
        grid: Patch rows and columns.
        layers: 0-based blocks whose attention was asked for.
        attention: Maps of those of them that are not the last block, in their order.
    """

    tokens: tuple[Float[Tensor, "batch tokens dim"], ...]
    grid: tuple[int, int]
    layers: tuple[int, ...]
    attention: tuple[Float[Tensor, "batch patches patches"], ...]


class FrozenCLIP(Frozen):
    """CLIP ViT (image + text) without a trainable parameter.

    Position embeddings are resized to other grids by ``pos_interpolation``: CLIP-ES and WeCLIP use
    bilinear, the library's own forward bicubic. ``precision`` is that of all blocks but the last,
    which GradCAM differentiates.

    Attributes:
        logit_scale: exp(logit_scale), CLIP's own inverse temperature (100 for OpenAI's weights).
        patch_size: Side of a patch in pixels.
        depth: Blocks of the image tower (12 for ViT-B).
        width: Length of a token (768 for ViT-B).
        dim: d1, length of the space shared by images and texts (512 for ViT-B).
        pixels: Mean and deviation of its input.
    """

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: CLIPTokenizer,
        *,
        pos_interpolation: Literal["bilinear", "bicubic"] = "bilinear",
        precision: Precision = "fp32",
        pixels: PixelNorm = USUAL_PIXELS,
    ) -> None:
        model.vision_model.set_attn_implementation(NAME)
        super().__init__()
        vision = model.config.vision_config
        self.model = model
        self.tokenizer, self.pixels = tokenizer, pixels
        self.pos_interpolation = pos_interpolation
        self.logit_scale = float(model.logit_scale.detach().exp())
        self.patch_size = vision.patch_size
        self.depth, self.width = len(self._blocks), vision.hidden_size
        self.dim = model.config.projection_dim
        self._known_texts: dict[tuple[str, ...], Tensor] = {}
        self.freeze()
        if precision != "fp32":
            _ = self.digest  # of the weights as they are in the file
        self.keep(self._blocks[:-1], precision)

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        pos_interpolation: Literal["bilinear", "bicubic"] = "bilinear",
        precision: Precision = "fp32",
        texts: tuple[str, ...] | None = None,
    ) -> FrozenCLIP:
        """Load from a hub id or from a directory written by ``save_pretrained``.

        ``texts`` are all that will ever be asked; they are embedded now, and the text tower (a
        quarter of a gigabyte) is let go. None keeps it.

        Raises:
            BackboneError: If ``source`` is not a CLIP, or cannot be read.
        """
        _refuse_siglip(source)
        model = load_pretrained(CLIPModel, source, "clip", _EXAMPLE)
        tokenizer = load_pretrained(CLIPTokenizer, source, "CLIP tokenizer", _EXAMPLE)
        _refuse_foreign_tokenizer(model, tokenizer, source)
        asked = texts is None or len(texts) > 0
        used = model.state_dict().items()
        used = {name: value for name, value in used if asked or not name.startswith("text_")}
        refuse_not_finite(used, source, "clip")
        options: Any = {"pos_interpolation": pos_interpolation, "precision": precision}
        options["pixels"] = read_pixel_norm(source, USUAL_PIXELS)
        clip = cls(model.float(), tokenizer, **options)
        if texts is not None:
            features = clip.text_features(texts) if texts else None
            text_digest = clip.text_digest if texts else None
            # Weights are mapped from the file, and what was read stays in memory: map it anew.
            del model, clip, used
            model = load_pretrained(CLIPModel, source, "clip", _EXAMPLE)
            clip = cls(model.float(), tokenizer, **options)
            clip.model.text_model = None
            if features is not None:
                clip._known_texts[texts] = features
            clip.text_digest = text_digest
        return clip

    @cached_property
    def digest(self) -> str:
        """A name for the weights that images pass through, 16 hexadecimal digits."""
        # older digests mean the usual pixels, and no stem
        more: tuple[object, ...] = ()
        if self.pixels.numbers != USUAL_PIXELS.numbers:
            more += (self.pixels.numbers,)
        if self._stem is not None:
            more += (self._stem.settings,)
        return self._digest(
            self.model.config.vision_config,
            ("vision_model", "visual_projection"),
            more=more,
        )

    @cached_property
    def text_digest(self) -> str | None:
        """The same of what texts pass through, tokenizer and ``logit_scale`` included.

        None if ``load`` was told that no text will be asked.
        """
        if self.model.text_model is None:
            return None
        owners = ("text_model", "text_projection", "logit_scale")
        words = sorted(self.tokenizer.get_vocab().items())
        return self._digest(self.model.config.text_config, owners, words)

    def _digest(
        self,
        config: Any,
        owners: tuple[str, ...],
        words: object = (),
        more: tuple[object, ...] = (),
    ) -> str:
        weights = self.model.state_dict().items()
        own = {name: value for name, value in weights if name.split(".")[0] in owners}
        settings = (config.num_attention_heads, config.hidden_act, config.layer_norm_eps)
        return weights_digest(own, settings=settings + more, words=words)

    @property
    def description(self) -> str:
        """What it is, in a line."""
        act, text_act = (
            config.hidden_act
            for config in (self.model.config.vision_config, self.model.config.text_config)
        )
        return ", ".join(
            [
                "CLIP",
                f"{self.depth} blocks",
                f"patches of {self.patch_size} pixels",
                *([self._stem.description] if self._stem else []),
                act if act == text_act else f"{act} for images and {text_act} for texts",
                f"{self.dim} numbers shared with texts of up to {self._most_tokens} tokens",
                self.pixels.said("CLIP's usual"),
            ]
        )

    @property
    def _blocks(self) -> Any:  # the library's blocks: their parts have no types
        return self.model.vision_model.encoder.layers

    @property
    def _stem(self) -> Stem | None:
        return find_stem(self.model.vision_model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.logit_scale.device

    def _positions(self, grid: tuple[int, int]) -> Float[Tensor, "tokens dim"]:
        table = self.model.vision_model.embeddings.position_embedding.weight
        side = round((len(table) - 1) ** 0.5)
        if grid == (side, side):
            return table
        square = table[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        mode = self.pos_interpolation
        resized = functional.interpolate(square, size=grid, mode=mode, align_corners=False)
        return torch.cat([table[:1], resized.flatten(2)[0].T])

    @torch.no_grad()
    def encode(
        self,
        pixels: Float[Tensor, "batch 3 height width"],
        attention_layers: int | tuple[int, ...] = (),
    ) -> ClipFeatures:
        """Run all blocks but the last.

        Args:
            pixels: Normalised by ``pixels`` of this object; sides at least one patch (what
                exceeds a whole number of patches is cut off at the right and bottom).
            attention_layers: Blocks whose attention is wanted: ``-8`` for the last eight, or
                0-based indices. That of the last block comes from ``attention``.
        """
        vision = self.model.vision_model
        layers: tuple[int, ...] = ()
        if attention_layers != ():
            layers = resolve_layers(attention_layers, self.depth, "affinity.clip_layers")
        # patches -> tokens (batch, 1 + grid_h * grid_w, dim), CLS first
        embedded = vision.embeddings.patch_embedding(pixels)
        grid = (embedded.shape[2], embedded.shape[3])
        cls = vision.embeddings.class_embedding.expand(pixels.shape[0], 1, -1)
        hidden = torch.cat([cls, embedded.flatten(2).mT], dim=1) + self._positions(grid)
        hidden = vision.pre_layrnorm(hidden)
        # blocks 1 .. L-1
        tokens, maps = [], []
        with self.reduced(hidden.device):
            for index, block in enumerate(self._blocks[:-1]):
                hidden, attention = run_block(block, hidden, keep=index in layers)
                tokens.append(hidden)
                if attention is not None:
                    maps.append(attention)
        return ClipFeatures(tuple(tokens), grid, layers, tuple(maps))

    def last_norm(self, features: ClipFeatures) -> Float[Tensor, "batch tokens dim"]:
        """ln_1 of the last block: the activations that GradCAM looks at."""
        return self._blocks[-1].layer_norm1(features.tokens[-1])

    def last_block(
        self, features: ClipFeatures, normed: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch patches dim1"]:
        """Last block, final LayerNorm and projection: the patch features V, not normalised.

        Their mean over patches is the image feature v. Differentiable in ``normed``, the output of
        ``last_norm``.
        """
        block, vision = self._blocks[-1], self.model.vision_model
        attended, _ = block.self_attn(hidden_states=normed, attention_mask=None)
        hidden = features.tokens[-1] + attended
        hidden = hidden + block.mlp(block.layer_norm2(hidden))
        return self.model.visual_projection(vision.post_layernorm(hidden[:, 1:]))

    @property
    def last_block_weights(self) -> BlockWeights:
        """The last block, the final LayerNorm and the projection as plain tensors."""
        block, post = self._blocks[-1], self.model.vision_model.post_layernorm
        attention, mlp = block.self_attn, block.mlp
        inputs = (attention.q_proj, attention.k_proj, attention.v_proj)
        quick = isinstance(mlp.activation_fn, QuickGELUActivation)
        return BlockWeights(
            qkv_weight=torch.cat([linear.weight for linear in inputs]),
            qkv_bias=torch.cat([linear.bias for linear in inputs]),
            out_weight=attention.out_proj.weight,
            out_bias=attention.out_proj.bias,
            norm_weight=block.layer_norm2.weight,
            norm_bias=block.layer_norm2.bias,
            fc1_weight=mlp.fc1.weight,
            fc1_bias=mlp.fc1.bias,
            fc2_weight=mlp.fc2.weight,
            fc2_bias=mlp.fc2.bias,
            post_weight=post.weight,
            post_bias=post.bias,
            projection=self.model.visual_projection.weight,
            heads=attention.num_heads,
            eps=block.layer_norm2.eps,
            activation=quick_gelu_with_slope_ if quick else with_slope(mlp.activation_fn),
        )

    def trace_last_block(self, features: ClipFeatures) -> BlockTrace:
        """``last_block`` with all that GradCAM's closed form needs."""
        normed = self.last_norm(features)
        return trace_block(self.last_block_weights, features.tokens[-1], normed)

    def attention(
        self, features: ClipFeatures, trace: BlockTrace
    ) -> tuple[Float[Tensor, "batch patches patches"], ...]:
        """Attention of every block that ``encode`` was asked for, averaged over heads."""
        if self.depth - 1 not in features.layers:
            return features.attention
        return (*features.attention, trace.attention.mean(1)[:, :, 1:])

    @property
    def _most_tokens(self) -> int:
        return self.model.config.text_config.max_position_embeddings

    def _refuse_long(self, texts: tuple[str, ...]) -> None:
        """Raise ConfigError for a text of which the tower would see the beginning only."""
        with quiet():  # the library says so, too, and goes on
            tokens = self.tokenizer(list(texts))["input_ids"]
        for text, found in zip(texts, tokens, strict=True):
            # the last token marks the end; without a full stop nothing is lost
            lost = self.tokenizer.decode(found[self._most_tokens - 1 : -1]).strip()
            if len(found) > self._most_tokens and any(map(str.isalnum, lost)):
                raise ConfigError(
                    f'CLIP would be asked "{shorten(text, 200)}", which is {len(found)} tokens'
                    f" long, and its text tower reads {self._most_tokens}: its end,"
                    f' "{shorten(lost, 100)}", would be lost. Shorten the prompt of that class'
                    " (classes.yaml, --prompts)."
                )

    def unknown(self, text: str) -> bool:
        """True if a text holds something that the tokenizer has no token for."""
        return (
            self.tokenizer.unk_token_id
            in self.tokenizer(text, add_special_tokens=False)["input_ids"]
        )

    @torch.no_grad()
    def text_features(self, texts: tuple[str, ...]) -> Float[Tensor, "words dim1"]:
        """Unit-norm features of texts, in their order; computed once.

        Raises:
            ConfigError: If a text is longer than the text tower reads.
            ValueError: If ``load`` was not given these texts, and has let the tower go.
        """
        device = self.device
        if not texts:
            return torch.zeros(0, self.dim, device=device)
        if texts not in self._known_texts:
            if self.model.text_model is None:
                raise ValueError(f"the text tower was let go before {texts} were asked")
            self._refuse_long(texts)
            tokens = self.tokenizer(
                list(texts),
                padding=True,
                truncation=True,
                max_length=self._most_tokens,
                return_tensors="pt",
            ).to(device)
            output = self.model.get_text_features(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            )
            self._known_texts[texts] = functional.normalize(output.pooler_output, dim=-1)
        return self._known_texts[texts].to(device)


def _refuse_siglip(source: str | Path) -> None:
    """Raise BackboneError for a model that is much like a CLIP and cannot be one here."""
    found = model_type(source, "clip", _EXAMPLE)
    if found in ("siglip", "siglip2"):
        raise BackboneError(
            f"{source} is a SigLIP ({found}), not a clip. It was trained with a sigmoid for each"
            " pair, so that its scale means nothing in the softmax over texts that the CAM needs,"
            " and it has no CLS token: its image feature comes from an attention of its own over"
            " the patches, where SSR takes the projected mean of the patches. Give a CLIP"
            f" trained with the softmax: {_EXAMPLE}, or one of LAION's or DataComp's such as"
            " laion/CLIP-ViT-B-16-laion2B-s34B-b88K."
        )


def _refuse_foreign_tokenizer(
    model: CLIPModel, tokenizer: CLIPTokenizer, source: str | Path
) -> None:
    """Raise BackboneError if texts would not end where the text tower looks for their end."""
    words, rows = len(tokenizer), model.config.text_config.vocab_size
    # without its files the library hands out an empty tokenizer
    if not rows / 2 < words <= rows:
        raise BackboneError(
            f"{source} has no tokenizer that fits its CLIP ({words} tokens; the text tower"
            f" knows {rows}). Copy tokenizer.json, or vocab.json and merges.txt, from where the"
            " model is from: CLIPTokenizer.from_pretrained(...).save_pretrained(...) writes"
            " them."
        )
    end, pooled = tokenizer("a")["input_ids"][-1], model.config.text_config.eos_token_id
    if pooled == _OLD_EOS:
        pooled = max(tokenizer.get_vocab().values())
    if end != pooled:
        raise BackboneError(
            f"{source}: its tokenizer ends a text with token {end}, and its text tower looks for"
            f" token {pooled} (text_config.eos_token_id in config.json), so that every text would"
            " be read at its beginning. Copy config.json and the tokenizer's files from where the"
            " model is from."
        )
