"""from_paddle, to_paddle: names and values of a model's tensors as Paddle has them, into torch's and back.

Module paths are the same. What differs: BatchNorm's statistics are `_mean` and `_variance`, weights of linear layers are `[in, out]`, and
the dropout before the classifier of PP-LCNet and MobileNetV3 (`downscale_in_infer`) scales in evaluation, and not in training as torch's.
The same function, in training and in evaluation, is torch's dropout with the classifier's weights times 1 - p.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from torch import Tensor, nn

from mutual.models.paddleclas.mobilenet_v3 import MobileNetV3
from mutual.models.pplcnet import PPLCNet

SUFFIXES = (".pdparams", ".pdema")
"""Of Paddle's weights files."""
_NAMES = {"_mean": "running_mean", "_variance": "running_var"}
_COUNTER = "num_batches_tracked"


def is_paddle(path: PurePath) -> bool:
    """Returns True for the name of a weights file of Paddle's."""
    return path.suffix in SUFFIXES


def torch_name(name: str) -> str:
    """Returns what torch calls the tensor that Paddle calls `name`.

    Example:
        >>> torch_name("blocks.0.conv0.bn._variance")
        'blocks.0.conv0.bn.running_var'
    """
    path, _, last = name.rpartition(".")
    return f"{path}.{_NAMES[last]}" if path and last in _NAMES else name


def from_paddle(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns `tensors`, which have torch's names and Paddle's values, with torch's.

    What is scaled is float64: rounded to float32 the scaling could not be undone exactly.
    """
    values = dict(tensors)
    for name in _transposed(model, tensors):
        values[name] = values[name].T.contiguous()
    for name, scale in _scales(model).items():
        if name in values and values[name].is_floating_point():
            values[name] = values[name].double() * scale
    return values


def to_paddle(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns `tensors` of a model, which are torch's, with Paddle's names and values, in float32."""
    names = {theirs: ours for ours, theirs in _NAMES.items()}
    scales, transposed = _scales(model), set(_transposed(model, tensors))
    values = {}
    for name, tensor in tensors.items():
        path, _, last = name.rpartition(".")
        if last == _COUNTER:
            continue
        value = (tensor.double() / scales[name] if name in scales else tensor).float()
        values[f"{path}.{names[last]}" if last in names else name] = value.T.contiguous() if name in transposed else value
    return values


def _transposed(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Returns the names of the weights of linear layers: by the layer's kind, as a square weight does not show it."""
    names = (f"{path}.weight" if path else "weight" for path, module in model.named_modules() if isinstance(module, nn.Linear))
    return [name for name in names if name in tensors and tensors[name].dim() == 2]


def _scales(model: nn.Module) -> dict[str, float]:
    """Returns by what factor tensors of the model are Paddle's."""
    if isinstance(model, PPLCNet | MobileNetV3) and 0 < model.dropout.p < 1:
        return {"fc.weight": 1 - model.dropout.p}
    return {}
