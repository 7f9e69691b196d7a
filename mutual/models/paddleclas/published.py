"""Where PaddleClas publishes the weights of its models (ImageNet-1k), and how they are fetched; imports no torch until then."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mutual.recipe.datasets import IMAGENET_MEAN, IMAGENET_STD

ADDRESS = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph/legendary_models/"
PUBLISHED_INPUT: Mapping[str, Any] = MappingProxyType(
    {"size": (224, 224), "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "interpolation": "bilinear"}
)
"""What the published weights were trained for."""
NUM_CLASSES = 1000
_MOST_BYTES = 2**30
"""Of a file; the largest one has a third of that."""
_BLOCK = 2**20


def published_name(model: str) -> str | None:
    """Returns what PaddleClas calls a model of ours that has its architecture; None where none of theirs has.

    Example:
        >>> published_name("paddleclas/ResNet50_vd"), published_name("pplcnet_x1_0"), published_name("small_cnn")
        ('ResNet50_vd', 'PPLCNet_x1_0', None)
    """
    if model.startswith("pplcnet_"):
        return model.replace("pplcnet_", "PPLCNet_")
    family, _, rest = model.partition("/")
    return rest if family == "paddleclas" and rest else None


def model_called(name: str) -> str:
    """Returns what we call the model that PaddleClas calls `name`; `name` itself where that is one of our names.

    Example:
        >>> model_called("ResNet50_vd"), model_called("PPLCNet_x1_0"), model_called("torchvision/resnet18")
        ('paddleclas/ResNet50_vd', 'pplcnet_x1_0', 'torchvision/resnet18')
    """
    if name.startswith("PPLCNet_"):
        return name.replace("PPLCNet_", "pplcnet_")
    return f"paddleclas/{name}" if name.startswith(("ResNet", "MobileNetV3")) else name


def imagenet_classes() -> list[str]:
    """Returns the names of the classes of ImageNet-1k, in their order."""
    from torchvision.models import ResNet18_Weights

    return list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def fetch(name: str, *, ssld: bool) -> Path:
    """Returns the published weights file of the model that PaddleClas calls `name`; it is fetched once, into torch's hub folder.

    Raises:
        OSError: it cannot be fetched, or is no whole file of weights; urllib's errors are OSErrors.
    """
    import torch.hub

    from mutual.models.reading import read_tensors

    file = f"{name}_{'ssld_' if ssld else ''}pretrained.pdparams"
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    temp_path = path.with_name(f"{path.stem}.{os.getpid()}.unfinished.pdparams")
    try:
        _download(ADDRESS + file, temp_path)
        try:
            read_tensors(temp_path)  # no checksums are published, and a connection that ends early is no error of urllib's
        except ValueError as error:
            raise OSError(f"what {ADDRESS} answers is no whole weights file") from error
        temp_path.replace(path)
    finally:
        temp_path.unlink(missing_ok=True)
    return path


def _download(address: str, path: Path) -> None:
    """Writes what `address` answers to a file; torch's function would fill the disk with an answer that never ends.

    Raises:
        OSError: there is no answer, or more than any weights file has.
    """
    request = urllib.request.Request(address, headers={"User-Agent": "mutual"})
    with urllib.request.urlopen(request) as answer, path.open("wb") as file:
        while block := answer.read(_BLOCK):
            file.write(block)
            if file.tell() > _MOST_BYTES:
                raise OSError(f"what {address} answers is larger than any weights file there")
