"""OwnTransform: a transform of the user's own, called on one image, with everything that it may draw from seeded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mutual.data.seeding import seeded_generators
from mutual.recipe import call_users, describe_error, import_users


class OwnTransform(nn.Module):
    """Calls what `package.module:name` gives for `args`; draws its seed from torch's default generator, which who calls it has seeded.

    Args:
        name: the user's own word.
        args: what the callable is called with.

    Raises:
        ValueError: there is no such callable, it fails, or it gives nothing that can be called.
    """

    def __init__(self, name: str, args: dict[str, Any]) -> None:
        super().__init__()
        self._name = name
        self._users_code = import_users(name, kind="transform")
        transform = call_users(name, self._users_code, **args)
        if not callable(transform):
            raise ValueError(f"{name} gives {type(transform).__name__}, which cannot be called on an image")
        self._transform: Callable[[Tensor], object] = transform

    def forward(self, image: Tensor) -> Tensor:
        """Returns the image, uint8 `[C, h, w]`.

        Raises:
            ValueError: the transform fails, or gives something else.
        """
        seed = int(torch.randint(2**63 - 1, ()))
        try:
            with seeded_generators(seed):
                found = self._transform(image.clone())  # other views may be made of it, too
        except (Exception, SystemExit) as error:  # the user's code, which may raise anything
            raise ValueError(f"{self._name}: {describe_error(error, self._users_code)}") from error
        if not isinstance(found, Tensor):
            raise ValueError(f"{self._name} gives {type(found).__name__}, no tensor")
        if found.dtype != torch.uint8 or found.dim() != 3 or len(found) != len(image) or found.numel() == 0:
            form = f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)}"
            raise ValueError(f"{self._name} gives {form}, not uint8 [{len(image)}, height, width]")
        return found.as_subclass(Tensor).contiguous()
