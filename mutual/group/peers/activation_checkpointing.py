"""Activation checkpointing: of each block of a model only the input is kept; what its backward needs is computed once more.

timm's models have a switch of their own, `set_grad_checkpointing`, which is not used: the recomputation moves their BatchNorm statistics a
second time (of ResNet18 and EfficientNet-B0, say), and it keeps as many bytes or more: of what is saved without, at 64 pixels, 0.058 here
and there for ViT-Tiny, 0.137 for ResNet18, and 0.075 here and 0.134 there for ConvNeXt-Atto.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mutual.group.peers.tensor_slots import buffer_slots, copies_of, replaced

_CONTAINERS = (nn.Sequential, nn.ModuleList)


def checkpoint_activations(model: nn.Module) -> None:
    """Makes each block of `model` keep its input alone; outputs, gradients, buffers and random draws stay as they are, bit for bit.

    The blocks are the modules in a Sequential or ModuleList that are made of others, and the Sequentials of single layers. A module there
    that holds several modules of one class in such a list is a stage, and these are its blocks.

    Raises:
        ValueError: the model has no block.
    """
    blocks = list(_blocks(model))
    if not blocks:
        raise ValueError("it has no blocks: no module in a Sequential or ModuleList that is made of others")
    for block in blocks:
        block.forward = _CheckpointedForward(block)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    is_container = isinstance(module, _CONTAINERS)
    for child in module.children():
        if _is_layer(child):
            continue
        is_chain = isinstance(child, nn.Sequential) and all(map(_is_layer, child))
        if is_chain or (is_container and not isinstance(child, _CONTAINERS) and not _is_stage(child)):
            yield child
        else:
            yield from _blocks(child)


def _is_stage(module: nn.Module) -> bool:
    return any(isinstance(child, _CONTAINERS) and _repeats_one_class(child) for child in module.children())


def _repeats_one_class(container: nn.Module) -> bool:
    kinds = [type(block) for block in container.children() if not _is_layer(block)]
    return len(kinds) > 1 and len(set(kinds)) == 1 and not issubclass(kinds[0], _CONTAINERS)


def _is_layer(module: nn.Module) -> bool:
    return next(module.children(), None) is None


class _CheckpointedForward:
    """Stands in the place of a block's `forward`; a copy of the block gets a copy of its own."""

    def __init__(self, block: nn.Module) -> None:
        self._forward = block.forward
        self._buffer_slots = buffer_slots(block.modules())

    def __call__(self, *inputs: Any, **named_inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*inputs, **named_inputs)
        return checkpoint(self._forward, *inputs, use_reentrant=False, context_fn=self._contexts, **named_inputs)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Returns the contexts of a forward, which begins now, and of its recomputation, which BatchNorm statistics must not notice."""
        return nullcontext(), replaced(self._buffer_slots, copies_of(self._buffer_slots))
