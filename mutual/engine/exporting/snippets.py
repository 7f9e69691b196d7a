"""Python in a model card: how an image becomes what a peer reads, and how each exported file is loaded. A test runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mutual.engine.exporting.card_facts import CardFacts
from mutual.models import ModelCard, read_preprocess
from mutual.recipe.transforms import CenterCrop, Resize

IMAGE = "image.png"
"""What the image is called in the snippets."""


def preparation(card: ModelCard, preprocess: Sequence[Any], *, as_pixels: bool) -> str:
    """Returns the program that prepares an image file, as evaluation does, with Pillow and torchvision.

    Args:
        card: the peer's.
        preprocess: the transforms of evaluation images, as sections of a recipe that leave nothing open.
        as_pixels: up to uint8 pixels of the card's size; else normalised.
    """
    steps = read_preprocess(preprocess)
    loaded = card.loaded_channels or card.in_channels
    lines = ["v2.PILToTensor(),  # uint8", *(f"{_step(step)}," for step in steps)]
    if loaded != card.in_channels:
        lines.append(f"v2.Grayscale({card.in_channels}),")
    if _size_after(steps) != card.image_size:
        lines.append(f"{_resize(card.image_size, card.interpolation)},")
    if not as_pixels:
        mean, std = (list(values) * (card.in_channels // len(values)) for values in (card.mean, card.std))
        lines += ["v2.ToDtype(torch.float32, scale=True),  # 0 .. 1", f"v2.Normalize({mean}, {std}),"]
    body = "\n".join(f"        {line}" for line in lines)
    return f"""import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

prepare = v2.Compose(
    [
{body}
    ]
)
image = ImageOps.exif_transpose(Image.open({IMAGE!r})).convert({"L" if loaded == 1 else "RGB"!r})
images = prepare(image)[None]  # {"uint8" if as_pixels else "float32"} [1, {card.in_channels}, {card.image_size[0]}, {card.image_size[1]}]
"""


def loading(facts: CardFacts, format_name: str, file: str) -> str:
    """Returns the program that loads an exported file and applies it to `images`, behind `preparation`."""
    if format_name == "safetensors":
        own = f", factories={list(facts.factories)!r}" if facts.factories else ""
        return f"""from mutual.models import read_model

model, card = read_model({file!r}{own})  # in eval mode
with torch.no_grad():
    logits = model(images)
print(card.class_names[logits.argmax()])
"""
    if format_name == "torch":
        return f"""import json

extra = {{"card.json": ""}}
program = torch.export.load({file!r}, extra_files=extra).module()
with torch.no_grad():
    logits = program(images)
print(json.loads(extra["card.json"])["class_names"][logits.argmax()])
"""
    name = "pixels" if facts.takes_pixels else "images"
    return f"""import json

import onnxruntime

session = onnxruntime.InferenceSession({file!r})
(logits,) = session.run(["logits"], {{{name!r}: images.numpy()}})
print(json.loads(session.get_modelmeta().custom_metadata_map["mutual"])["class_names"][logits.argmax()])
"""


def timm_loading(facts: CardFacts, folder: str) -> str:
    """Returns the program that loads a peer by timm, with timm's transforms, from its folder."""
    mode = "L" if facts.card.in_channels == 1 else "RGB"
    return f"""import timm
import torch
from PIL import Image, ImageOps

model = timm.create_model({"local-dir:" + folder!r}, pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
image = ImageOps.exif_transpose(Image.open({IMAGE!r})).convert({mode!r})
with torch.no_grad():
    logits = model(transform(image)[None])
print(model.pretrained_cfg["label_names"][logits.argmax()])
"""


def older_timm_loading(facts: CardFacts, folder: str) -> str:
    """Returns the call that loads the same weights by a timm that does not know safetensors behind `local-dir:`."""
    assert facts.timm is not None
    arguments = "".join(f", {name}={value!r}" for name, value in facts.timm.arguments.items())
    return f'timm.create_model({facts.timm.architecture!r}, checkpoint_path="{folder}/model.safetensors"{arguments})'


def _step(step: Resize | CenterCrop) -> str:
    if isinstance(step, CenterCrop):
        return f"v2.CenterCrop({_sides(step.size)})"
    sides = _sides(step.size)
    return _resize(min(sides) if step.mode == "shorter" else sides, step.interpolation)


def _resize(size: Any, interpolation: str) -> str:
    mode = {"nearest": "NEAREST_EXACT"}.get(interpolation, interpolation.upper())
    return f"v2.Resize({list(size) if isinstance(size, tuple) else size}, interpolation=v2.InterpolationMode.{mode}, antialias=True)"


def _sides(size: int | tuple[int, int] | None) -> list[int]:
    assert size is not None, "a resolved preprocess leaves no size open"
    return [size, size] if isinstance(size, int) else list(size)


def _size_after(steps: Sequence[Resize | CenterCrop]) -> tuple[int, int] | None:
    """Returns the size of what the transforms give, or None where it depends on the image."""
    last = steps[-1] if steps else None
    if last is None or last.size is None or (isinstance(last, Resize) and last.mode == "shorter"):
        return None
    return (last.size, last.size) if isinstance(last.size, int) else last.size
