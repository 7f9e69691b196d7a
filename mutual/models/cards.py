"""Weights files with a card: what they hold can be rebuilt from the file alone, where it is a model of the zoo."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors.torch
import torch
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass
from safetensors import safe_open
from torch import Tensor, nn

from mutual.models.files import check_file, is_shortage
from mutual.models.loading import load_weights
from mutual.models.model_input import ModelInput
from mutual.models.program_archive import card_text
from mutual.models.reading import CARD, UNREADABLE, digest_of
from mutual.models.zoo import create_model, is_in_zoo
from mutual.recipe import PROGRAM_SUFFIX, InputError, first_line, is_users_name
from mutual.recipe.transforms import CenterCrop, Interpolation, Resize

_LARGEST = 2**24
"""No number in a card's `args` is larger: sizes of layers, not of the machine's memory."""
_FETCHING = frozenset(["weights", "weights_backbone", "progress", "checkpoint_path", "cache_dir", "scriptable", "exportable", "no_jit"])
"""Arguments of zoo models that say where weights come from or switch something for the whole process, besides `pretrained...`."""

_Count = Annotated[int, Field(ge=1, le=_LARGEST)]


def _short(value: Any) -> str:
    """Returns `value`, a text; unlike pydantic's it may stand for bytes that are no UTF-8, as a folder's name may."""
    if not isinstance(value, str) or len(value) > 4096:
        raise ValueError("no text, or one that is too long")
    return value


_Text = Annotated[str, PlainValidator(_short)]


def _plain(value: Any) -> Any:
    """Returns `value` with lists in place of tuples, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _bounded(value: Any, depth: int = 0) -> Any:
    """Returns `value`; raises a ValueError for a number, a text or a nesting that no model's argument has."""
    if isinstance(value, dict | list):
        if depth > 6 or len(value) > 1000:
            raise ValueError("nested too deeply, or too long")
        for entry in value.values() if isinstance(value, dict) else value:
            _bounded(entry, depth + 1)
    elif isinstance(value, str) and len(value) > 4096:
        raise ValueError("a text is too long")
    elif isinstance(value, int | float) and math.isfinite(value) and abs(value) > _LARGEST:
        raise ValueError(f"a number is larger than {_LARGEST:,}")
    return value


_TRANSFORMS: TypeAdapter[list[Resize | CenterCrop]] = TypeAdapter(list[Annotated[Resize | CenterCrop, Field(discriminator="name")]])


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class ModelCard:
    """What rebuilds a model and prepares its images: stands in the metadata of every weights file that we write.

    An image is decoded with `loaded_channels`, goes through `preprocess` (`resize` and `center_crop` as recipes have them), is resized to
    `image_size` (height, width) by `interpolation` where it has another size, its values are brought from 0 .. 255 to `pixel_range`, and
    `mean` is subtracted and by `std` divided, channel by channel in `channel_order`. Cards of before have neither `preprocess` nor
    `loaded_channels`. With `multi_label` the logits are for a sigmoid each, not for a softmax. `args` are plain JSON values.
    """

    model: Annotated[str, Field(min_length=1, max_length=256)]
    num_classes: _Count
    in_channels: _Count
    image_size: tuple[_Count, _Count]
    mean: Annotated[tuple[FiniteFloat, ...], Field(min_length=1)]
    std: Annotated[tuple[Annotated[FiniteFloat, Field(ge=0)], ...], Field(min_length=1)]
    class_names: tuple[_Text, ...]
    args: Annotated[dict[_Text, JsonValue], BeforeValidator(_plain), AfterValidator(_bounded)] = field(default_factory=dict)
    multi_label: bool = False
    interpolation: Interpolation = "bilinear"
    channel_order: Literal["RGB", "L"] = "RGB"
    pixel_range: tuple[float, float] = (0.0, 1.0)
    preprocess: Annotated[list[JsonValue] | None, BeforeValidator(_plain), AfterValidator(_bounded)] = None
    loaded_channels: _Count | None = None

    @model_validator(mode="after")
    def _lengths(self) -> ModelCard:
        if len(self.class_names) != self.num_classes:
            raise ValueError(f"{len(self.class_names)} class_names for {self.num_classes} classes")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.in_channels):
                raise ValueError(f"{len(values)} values of {name} for {self.in_channels} channels")
        if self.preprocess is not None:
            read_preprocess(self.preprocess)
        return self

    @property
    def input(self) -> ModelInput:
        """What the model reads."""
        return ModelInput(self.image_size, self.mean, self.std, self.interpolation, self.in_channels)

    def to_json(self) -> str:
        """Returns the card as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Returns the card that `to_json` wrote.

        Raises:
            ValueError: it is no such card; one line says what is wrong.
        """
        try:
            fields = json.loads(text)
            if not isinstance(fields, dict):
                raise ValueError("no mapping")
            known: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
            return cls(**known)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(": ".join(part for part in (where, first["msg"]) if part)) from error
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def read_preprocess(steps: Sequence[Any]) -> list[Resize | CenterCrop]:
    """Returns a card's `preprocess` as sections of a recipe.

    Raises:
        ValueError: it names another transform, or an argument that a transform does not take.
    """
    return _TRANSFORMS.validate_python([{**step, "size": _pair(step.get("size"))} if isinstance(step, dict) else step for step in steps])


def _pair(size: Any) -> Any:
    return tuple(size) if isinstance(size, list) else size


def model_bytes(model: nn.Module, card: ModelCard) -> bytes:
    """Returns the contents of a safetensors file with the model's weights and buffers, its card and a checksum of both."""
    return weights_bytes(cpu_tensors(model), card)


def weights_bytes(tensors: dict[str, Tensor], card: ModelCard) -> bytes:
    """Returns the same for tensors on the CPU."""
    text = card.to_json()
    content: bytes = safetensors.torch.save(tensors, metadata={CARD: f"{digest_of(tensors, text)}\n{text}"})
    return content


def cpu_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Returns contiguous copies on the CPU of the tensors in the module's `state_dict`, as safetensors takes them."""
    return {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in module.state_dict().items()}


def architecture_args(model: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of a model's `args` that a card needs: of a zoo model not those which say where weights come from."""
    return {key: value for key, value in args.items() if not (is_in_zoo(model) and _fetches(key))}


def read_model(path: str | Path, *, factories: Collection[str] = ()) -> tuple[nn.Module, ModelCard]:
    """Returns the model in a file that `model_bytes` made, in eval mode, and its card.

    A file chooses no code: its card may name a model of the zoo, or one of `factories`, which are the user's own word.

    Raises:
        InputError: no such file, it has no card or a damaged one, or its model is not to be built or does not fit; one line says which.
    """
    try:
        card = read_card(path)
        if card is None:
            raise ValueError(f"{path} does not say which model it holds; it was not written by mutual")
        check_trusted(path, card, factories)
        arguments: dict[str, Any] = {"num_classes": card.num_classes, "in_channels": card.in_channels, **card.args}
        model = create_model(card.model, **arguments)
        load_weights(model, path)
    except ValueError as error:
        raise InputError(str(error)) from error
    return model.eval(), card


def read_card(path: str | Path) -> ModelCard | None:
    """Returns the card of a weights file or of an exported program, or None where it has none; builds and imports nothing.

    Raises:
        ValueError: there is no such file, or it or its card cannot be read.
    """
    check_file(Path(path))
    text = card_text(Path(path)) if Path(path).suffix == PROGRAM_SUFFIX else _metadata(Path(path)).get(CARD)
    if text is None:
        return None
    try:
        return ModelCard.from_json(text.rpartition("\n")[2])
    except ValueError as error:
        raise ValueError(f"the card in {path} is damaged, or of another version of mutual ({first_line(error)})") from error


def check_trusted(path: str | Path, card: ModelCard, factories: Collection[str] = ()) -> None:
    """Refuses a model whose code, or weights, a file would choose.

    Raises:
        ValueError: its card names a model that is neither of the zoo nor one of `factories`, or says where weights come from.
    """
    if is_in_zoo(card.model):
        for key in card.args:
            if _fetches(key):
                raise ValueError(f"the card in {path} sets {key!r}, which says where weights come from; a file may not")
        return
    if not is_users_name(card.model):
        raise ValueError(f"the card in {path} names {card.model!r}, which is no model of this version of mutual, torchvision or timm")
    if card.model not in factories:
        given = f" (given: {', '.join(sorted(factories))})" if factories else ""
        raise ValueError(f"{path} was trained with the model {card.model!r}; to run that code add --factory {card.model}{given}")


def _metadata(path: Path) -> dict[str, str]:
    """Returns the metadata of a safetensors file; none of another file."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except UNREADABLE as error:
        if is_shortage(error, path):
            raise
        raise ValueError(f"{path} is no whole safetensors file ({first_line(error)})") from error
    return metadata


def _fetches(argument: str) -> bool:
    return argument in _FETCHING or argument.startswith("pretrained")
