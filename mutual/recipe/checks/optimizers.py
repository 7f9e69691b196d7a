"""The checks of the optimizers' groups of parameters that need no model."""

from __future__ import annotations

from collections.abc import Iterator

from mutual.recipe.document import Recipe
from mutual.recipe.errors import Fault
from mutual.recipe.training import Optimizer


def check_parameter_groups(recipe: Recipe) -> Iterator[Fault]:
    """Yields the faults of groups that say nothing, or one thing twice."""
    sections: list[tuple[str, Optimizer]] = [("optimizer", recipe.optimizer)]
    sections += [(f"peers.{name}.optimizer", peer.optimizer) for name, peer in recipe.peers.items() if peer.optimizer is not None]
    for path, optimizer in sections:
        for index, group in enumerate(optimizer.groups):
            where = f"{path}.groups.{index}"
            if group.lr is not None and group.lr_scale is not None:
                yield Fault(f"{where}.lr_scale", "lr says the rate already; take one of the two away")
            if group.lr is None and group.lr_scale is None and group.weight_decay is None:
                yield Fault(where, "changes nothing; give lr, lr_scale or weight_decay")
            for module in group.modules:
                if not all(module.split(".")):
                    yield Fault(f"{where}.modules", f"{module!r} is no path of a module; write one such as layer4.1 or blocks.*.attn")
