"""parameter_groups: which of a peer's parameters have a learning rate or a weight decay of their own.

The layers of a model, for `layer_decay`, are what its method `group_matcher` says (timm's models have one). Those of any other model are
its top-level modules in the order in which they are defined, which is that of the forward in ours and torchvision's:

- A Sequential or ModuleList counts entry by entry, at any depth, as does a top-level module that holds one such list, of several blocks of
  one class (the encoder of a vision transformer).
- A module whose parameters all have fewer than two dimensions (a normalisation) belongs to the layer before it, as do parameters that
  lie in no such module; those of the model itself, such as a class token, belong to the first layer.

So torchvision's ResNet18 has ten, conv1, the eight blocks and fc, and its ViT-B/16 fourteen: the same as timm's.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from mutual.recipe import Optimizer, ParameterGroup

_CONTAINERS = (nn.Sequential, nn.ModuleList)


def parameter_groups(spec: Optimizer, parameters: Sequence[nn.Parameter], model: nn.Module | None = None) -> list[dict[str, Any]]:
    """Returns the groups that an optimizer is built with; one with `lr` has another than `spec.lr`.

    Args:
        spec: the optimizer's section.
        parameters: what is trained, adapters among it.
        model: has the names of its parameters, and its layers; not needed where `spec` has neither groups nor a decay by layers.
    """
    if model is None or not is_grouped(spec):
        return _groups_by_decay(spec, parameters)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    scales = {} if spec.layer_decay is None else layer_scales(model, spec.layer_decay)
    exempt = _without_decay(model) if spec.layer_decay is not None else frozenset()
    groups: dict[tuple[float, int, bool], dict[str, Any]] = {}  # not by rates and decays, which an extended run may change
    for parameter in parameters:
        name = names.get(id(parameter), "")  # of an adapter there is none
        index = next((number for number, group in enumerate(spec.groups) if name and _is_in(name, group)), -1)
        is_exempt = not spec.decay_norm_and_bias and (parameter.dim() < 2 or name in exempt)
        key = scales.get(name, 1.0), index, is_exempt
        if key not in groups:
            own = spec.groups[index] if index >= 0 else None
            rate = _rate(spec, own, key[0])
            groups[key] = {"params": [], "weight_decay": 0.0 if is_exempt else _weight_decay(spec, own)}
            groups[key] |= {} if rate == spec.lr else {"lr": rate}
        groups[key]["params"].append(parameter)
    return list(groups.values())


def is_grouped(spec: Optimizer) -> bool:
    """Returns whether parameters have rates or decays by their names."""
    return bool(spec.groups) or spec.layer_decay is not None


def unknown_paths(spec: Optimizer, model: nn.Module) -> Iterator[tuple[int, str]]:
    """Yields for each path of `spec.groups` at which `model` has nothing the group's index, and a message that lists the near ones."""
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    for index, group in enumerate(spec.groups):
        for pattern in () if group.may_be_empty else group.modules:
            if not any(_matches(name, pattern) for name in names):
                known = list(dict.fromkeys(prefix for name in names for prefix in _prefixes(name)))
                near = difflib.get_close_matches(pattern, known, n=6) or [path for path in known if "." not in path]
                yield index, f"no module {pattern!r} with parameters; near: {', '.join(near)}"


def layer_scales(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """Returns by the parameter's name the factor of its learning rate: 1 in the last layer, `layer_decay` times less in each before it."""
    layers = _layers(model)
    last = max(layers.values(), default=0)
    return {name: layer_decay ** (last - layer) for name, layer in layers.items()}


def _layers(model: nn.Module) -> dict[str, int]:
    """Returns by the parameter's name the index of its layer; 0 is the one that reads the images."""
    group_matcher: Any = getattr(model, "group_matcher", None)
    if callable(group_matcher):
        from timm.models import group_parameters  # a second, and most recipes need it not

        layers: dict[str, int] = group_parameters(model, group_matcher(coarse=False), reverse=True)
        return layers
    layers, last = {}, -1
    for is_new, prefix, parameters in _parts(model):
        last += is_new
        layers |= {f"{prefix}{name}": max(last, 0) for name in parameters}
    return layers


def _parts(module: nn.Module, prefix: str = "", *, is_top: bool = True) -> Iterator[tuple[bool, str, list[str]]]:
    """Yields the parts of a model in their order: whether each begins a layer, its path with a dot, and its parameters' names."""
    yield False, prefix, [name for name, _ in module.named_parameters(recurse=False)]
    for name, child in module.named_children():
        if isinstance(child, _CONTAINERS) or (is_top and _holds_one_chain(child)):
            yield from _parts(child, f"{prefix}{name}.", is_top=False)
        else:
            parameters = dict(child.named_parameters())
            is_layer = any(parameter.dim() > 1 for parameter in parameters.values())
            yield is_layer, f"{prefix}{name}.", list(parameters)


def _holds_one_chain(module: nn.Module) -> bool:
    """Returns whether one of the module's children, and no other, is a container, of several blocks of one class."""
    containers = [child for child in module.children() if isinstance(child, _CONTAINERS)]
    blocks = [type(block) for container in containers for block in container.children() if next(block.children(), None) is not None]
    return len(containers) == 1 and len(blocks) > 1 and len(set(blocks)) == 1


def _groups_by_decay(spec: Optimizer, parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    if spec.decay_norm_and_bias or spec.weight_decay == 0:
        return [{"params": list(parameters), "weight_decay": spec.weight_decay}]
    decayed = [parameter for parameter in parameters if parameter.dim() >= 2]
    exempt = [parameter for parameter in parameters if parameter.dim() < 2]
    groups = [{"params": decayed, "weight_decay": spec.weight_decay}, {"params": exempt, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _rate(spec: Optimizer, own: ParameterGroup | None, layer_scale: float) -> float:
    if own is not None and own.lr is not None:
        return own.lr
    return spec.lr * ((1.0 if own is None or own.lr_scale is None else own.lr_scale) * layer_scale)


def _weight_decay(spec: Optimizer, own: ParameterGroup | None) -> float:
    return spec.weight_decay if own is None or own.weight_decay is None else own.weight_decay


def _without_decay(model: nn.Module) -> frozenset[str]:
    """Returns the names of the parameters that the model itself (timm's) leaves out of weight decay, such as position embeddings."""
    method = getattr(model, "no_weight_decay", None)
    return frozenset(method()) if callable(method) else frozenset()


def _is_in(name: str, group: ParameterGroup) -> bool:
    return any(_matches(name, pattern) for pattern in group.modules)


def _matches(name: str, pattern: str) -> bool:
    """Returns whether the parameter `name`, or a module that holds it, is the path `pattern`, in which * stands for any text."""
    return any(fnmatchcase(prefix, pattern) for prefix in _prefixes(name))


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
