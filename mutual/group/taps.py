"""TappedModel: a model whose forward also returns the outputs of some of its modules."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from mutual.recipe import LOGITS

Outputs = dict[str, Tensor]
"""What a peer says of a batch: `logits` `[B, C]`, and by module path whatever is tapped, `[B, ...]`."""


class TappedModel(nn.Module):
    """Runs `model` and keeps what the modules at `paths` return, through forward hooks.

    The hooks are installed here, before any torch.compile or DDP wrapping, and are part of neither state_dict nor export.
    """

    def __init__(self, model: nn.Module, paths: Iterable[str] = ()) -> None:
        """Taps `paths`, each a module path such as "layer3.1".

        Raises:
            ValueError: the model has no module at a path; the message lists the near ones.
        """
        super().__init__()
        self.model = model
        self._features: Outputs = {}
        tapped = [path for path in dict.fromkeys(paths) if path != LOGITS]
        self._handles = [find_module(model, path).register_forward_hook(self._keep(path)) for path in tapped]

    def forward(self, images: Tensor) -> Outputs:
        """Returns the logits and every tapped output of `images` `[B, C, H, W]`."""
        self._features.clear()
        logits = self.model(images)
        outputs = {LOGITS: logits, **self._features}
        self._features.clear()
        return outputs

    def remove(self) -> nn.Module:
        """Takes the hooks away and returns the bare model."""
        for handle in self._handles:
            handle.remove()
        return self.model

    def _keep(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._features[path] = output

        return hook


def find_module(model: nn.Module, path: str) -> nn.Module:
    """Returns the module of `model` at `path`.

    Raises:
        ValueError: there is none; the message lists the near ones.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    if path in modules:
        return modules[path]
    near = difflib.get_close_matches(path, modules, n=6, cutoff=0.5)
    choices = near or [name for name in modules if "." not in name]
    raise ValueError(f"no module {path!r}; near: {', '.join(choices)}")
