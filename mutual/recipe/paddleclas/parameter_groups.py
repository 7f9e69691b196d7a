"""groups_of: the groups of a peer's parameters that have a learning rate or a weight decay of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mutual.recipe.paddleclas.architectures import Model


def groups_of(model: Model, heeds_regularizers: bool, exempt: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the entries of `optimizer.groups` for a model; a parameter belongs to the first that has it.

    Args:
        model: says which learning rates and regularizers its parameters have by themselves.
        heeds_regularizers: whether a parameter's own regularizer takes it out of the weight decay.
        exempt: patterns of names that have no weight decay; the model need not have them.
    """
    undecayed = list(model.undecayed) if heeds_regularizers else []
    without_decay = [*undecayed, *exempt]
    both = []
    for scale in model.lr_scales:
        shared = [path for module in scale["modules"] for pattern in without_decay for path in _in_both(module, pattern)]
        if shared:
            both.append({**scale, "modules": list(dict.fromkeys(shared)), "weight_decay": 0.0, "may_be_empty": True})
    groups = [*both, *map(dict, model.lr_scales)]
    groups += [{"modules": undecayed, "weight_decay": 0.0}] if undecayed else []
    groups += [{"modules": list(exempt), "weight_decay": 0.0, "may_be_empty": True}] if exempt else []
    return groups


def _in_both(module: str, pattern: str) -> Iterator[str]:
    """Yields patterns of what `module` and `pattern` have in common; `module` is a path, `pattern` may begin with any text.

    Example:
        >>> list(_in_both("blocks2", "*.bn")), list(_in_both("blocks2", "blocks2.0")), list(_in_both("blocks2", "fc"))
        (['blocks2.*.bn', 'blocks2.bn'], ['blocks2.0'], [])
    """
    if pattern.startswith("*"):
        yield f"{module}.{pattern}"
        if pattern.startswith("*."):
            yield f"{module}{pattern[1:]}"
    elif f"{pattern}.".startswith(f"{module}."):
        yield pattern
    elif f"{module}.".startswith(f"{pattern}."):
        yield module
