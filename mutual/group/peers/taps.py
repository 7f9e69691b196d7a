"""TappedModel: a model whose forward also returns the outputs of some of its modules."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mutual.models import ClassIndex
from mutual.recipe import LOGITS

Outputs = dict[str, Tensor]
"""Outputs of a peer for a batch: `logits` `[B, C]` or `embedding` `[B, D]`, and by module path the tapped ones `[B, ...]`."""
INPUT = ":input"
"""Suffix of a module path: taps the input of the module's last call in place of its output."""
Keep = Callable[[nn.Module, Any], None]
"""Is given a tapped module and its output, or its input."""


class TappedModel(nn.Module):
    """Runs `model` and keeps what the modules at `paths` return, through forward hooks.

    The hooks are installed here, before any torch.compile or DDP wrapping, and are part of neither state_dict nor export.

    Args:
        model: the model.
        paths: module paths such as "layer3.1", or "fc:input" for what a module is given.
        columns: for each class the model's output that stands for it, where the model has them in another order than the data.
        output: what the model's own output is called: `logits`, or `embedding` where it has no head.

    Attributes:
        model: the bare model.
        columns: selects them; None: all, in their order.
        output: as above.
        adapters: the trainable parts of the edges that this peer learns by; trained with it and never exported.

    Raises:
        ValueError: the model has no module at a path; the message lists the near ones.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, model: nn.Module, paths: Iterable[str] = (), *, columns: Sequence[int] | None = None, output: str = LOGITS) -> None:
        super().__init__()
        self.model = model
        self.output = output
        self.adapters = nn.ModuleDict()
        self.columns = None if columns is None else ClassIndex(columns)
        self.register_buffer("mean", None, persistent=False)
        self.register_buffer("std", None, persistent=False)
        self._features: Outputs | None = None  # what is tapped, while `forward` runs
        self._paths = [path for path in dict.fromkeys(paths) if path != output]
        self._copied: frozenset[str] = frozenset()
        self._handles = [_tap(model, path, self._keep(path)) for path in self._paths]

    def forward(self, images: Tensor) -> Outputs:
        """Returns the logits or the embedding, and every tapped output, of `images` `[B, C, H, W]`."""
        features: Outputs = {}
        self._features = features
        output = self.model(images)
        self._features = None
        if self.columns is not None:
            output = self.columns(output)
        if self.mean is not None and self.std is not None:
            output = (output - self.mean) / self.std
        return {self.output: output, **features}

    def embed(self, images: Tensor) -> Tensor:
        """Returns the model's own output for `images` as it is: neither standardised nor in another order."""
        output: Tensor = self.model(images)
        return output

    def standardize(self, mean: Tensor, std: Tensor) -> None:
        """Makes `forward` subtract `mean` `[D]` from the model's output and divide it by `std` `[D]`; state_dict has neither."""
        self.mean, self.std = mean, std

    def probe(self, images: Tensor) -> Outputs:
        """Returns what `forward` does, and from then on copies the outputs that the model changes in place after the tap."""
        seen: dict[str, tuple[Tensor, int]] = {}

        def note(path: str) -> Keep:
            def keep(_module: nn.Module, output: Any) -> None:
                if isinstance(output, Tensor):
                    seen[path] = output, output._version

            return keep

        with ExitStack() as stack:
            for path in self._paths:
                stack.callback(_tap(self.model, path, note(path)).remove)
            outputs = self(images)
        self._copied = frozenset(path for path, (output, version) in seen.items() if output._version != version)
        return self(images) if self._copied else outputs

    def remove(self) -> nn.Module:
        """Removes the hooks and returns the model."""
        for handle in self._handles:
            handle.remove()
        return self.model

    def _keep(self, path: str) -> Keep:
        def keep(_module: nn.Module, output: Any) -> None:
            if self._features is not None:  # else a checkpointed block runs once more, in the backward
                self._features[path] = output.clone() if path in self._copied else output

        return keep


def find_module(model: nn.Module | Mapping[str, nn.Module], path: str) -> nn.Module:
    """Returns the module of `model`, or of modules by their paths, at `path`, which may end in ":input".

    Raises:
        ValueError: there is none; the message lists the near ones.
    """
    named = dict(model.named_modules()) if isinstance(model, nn.Module) else model
    modules = {name: module for name, module in named.items() if name}
    path = path.removesuffix(INPUT)
    if path in modules:
        return modules[path]
    near = difflib.get_close_matches(path, modules, n=6, cutoff=0.5)
    choices = near or [name for name in modules if "." not in name]
    raise ValueError(f"no module {path!r}; near: {', '.join(choices)}")


def _tap(model: nn.Module, path: str, keep: Keep) -> RemovableHandle:
    return tap(find_module(model, path), keep, reads_input=path.endswith(INPUT))


def tap(module: nn.Module, keep: Keep, *, reads_input: bool = False) -> RemovableHandle:
    """Calls `keep(module, output)` whenever `module` has run; with `reads_input`, before, with its first positional argument or None."""
    if reads_input:
        return module.register_forward_pre_hook(lambda module, inputs: keep(module, inputs[0] if inputs else None))
    return module.register_forward_hook(lambda module, _inputs, output: keep(module, output))
