"""Write a model in half precision, as ``from_pretrained`` of the transformers library reads it."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file
from transformers import PreTrainedModel

from ssrseg.data.files import atomic_write


def write_pretrained(
    model: PreTrainedModel,
    folder: Path,
    *,
    processor: str,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    size: int,
) -> None:
    """Write weights, configuration and image processor.

    Args:
        model: What to write.
        folder: Where to; made if it is not there.
        processor: The library's name of the image processor's class.
        mean: Of RGB in [0, 1].
        std: The same.
        size: Side of the picture in pixels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "model.safetensors") as temporary:
        tensors = {name: value.half().contiguous() for name, value in model.state_dict().items()}
        save_file(tensors, temporary, metadata={"format": "pt"})
    kind = type(model).__name__
    described = {**model.config.to_dict(), "architectures": [kind], "dtype": "float16"}
    prepared = {
        "image_processor_type": processor,
        "image_mean": mean,
        "image_std": std,
        "size": {"height": size, "width": size},
    }
    for name, content in (("config", described), ("preprocessor_config", prepared)):
        with atomic_write(folder / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
