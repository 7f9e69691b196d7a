"""open_stores: the stores of a recipe's frozen peers, made or checked."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch

from mutual.data import DataModule
from mutual.engine.teacher_store.fingerprint import fingerprint, open_folder
from mutual.engine.teacher_store.layout import FeatureLayout, RecordLayout
from mutual.engine.teacher_store.shards import Shards
from mutual.engine.teacher_store.store import TeacherStore
from mutual.group import Communicator, Edge, Group, OutputKey
from mutual.objectives import SourcePayload, vector_width
from mutual.recipe import LOGITS, InputError, OwnLoss, Precision, Recipe

_MAX_EPOCHS = 1_000_001


def open_stores(recipe: Recipe, group: Group, data: DataModule, comm: Communicator, precision: Precision) -> dict[str, TeacherStore]:
    """Returns by name the stores of the frozen peers that this rank holds. Collective: all ranks must call it.

    Raises:
        RecipeError: a store is another one's, or would have to keep feature maps.
        OSError: a folder cannot be made or read.
    """
    stores = {}
    with comm.raise_together(names_rank=True):
        for name, spec in recipe.stores.items():
            if name in group.peers:
                layout = _layout(recipe, group, name)
                folder = Path(spec.folder)
                try:
                    open_folder(folder, fingerprint(recipe, group.peers[name], data, layout, precision), data)
                except InputError as error:
                    raise recipe.error(f"peers.{name}.store.folder", str(error)) from error
                shards = Shards(
                    folder,
                    num_bytes=layout.num_bytes,
                    num_images=data.info.num_train,
                    num_views=_MAX_EPOCHS if spec.views == "epoch" else spec.views,
                    rank=comm.rank,
                    size=comm.size,
                )
                stores[name] = TeacherStore(folder, layout, shards, device=comm.device, tolerance=_tolerance(precision, comm.device))
    return stores


def _layout(recipe: Recipe, group: Group, name: str) -> RecordLayout:
    """Returns how the outputs of a peer are kept: the logits, and what edges read besides."""
    specs = group.exchange.transfer_plan.specs
    features: dict[str, FeatureLayout] = {}
    dtypes: dict[str, torch.dtype] = {}
    num_classes = 0
    if OutputKey(name, LOGITS) in specs:
        (num_classes,), dtype = specs[OutputKey(name, LOGITS)]
        dtypes[LOGITS] = torch.promote_types(dtype, torch.float32)
    for path, only_means in _read_paths(group.edges, name).items():
        shape, dtype = specs[OutputKey(name, path)]
        is_mean = only_means and len(shape) > 1
        if len(shape) > 1 and not is_mean:
            _check_feature_map(recipe, name, path, shape)
        features[path] = FeatureLayout((vector_width(shape),) if is_mean else tuple(shape), is_mean)
        dtypes[path] = torch.promote_types(dtype, torch.float32)
    topk = recipe.stores[name].topk
    temperature = _temperature(group.edges, name)
    return RecordLayout(num_classes, num_classes if topk == "all" else topk, features, dtypes, temperature)


def _temperature(edges: Sequence[Edge], name: str) -> float:
    """Returns the temperature at which losses read the logits of `name`; with top-K, a recipe has one."""
    reading = [edge.objective for edge in edges if OutputKey(name, LOGITS) in edge.required_outputs]
    temperatures = (objective.loss_arguments().get("temperature", 1.0) for objective in reading if not isinstance(objective, OwnLoss))
    return next(map(float, temperatures), 1.0)


def _read_paths(edges: Sequence[Edge], name: str) -> dict[str, bool]:
    """Returns by module path of each tapped output of `name` that some edge reads, whether all read no more than a mean over positions."""
    only_means: dict[str, bool] = {}
    for edge in edges:
        for key, payload in edge.required_outputs.items():
            if key.peer == name and key.path != LOGITS:
                only_means[key.path] = only_means.get(key.path, True) and payload is SourcePayload.VECTOR
    return dict(sorted(only_means.items()))


def _check_feature_map(recipe: Recipe, name: str, path: str, shape: tuple[int, ...]) -> None:
    size = f"{path} is {' x '.join(map(str, shape))}, {2 * prod(shape):,} bytes for each view of each image"
    if not recipe.stores[name].feature_maps:
        raise recipe.error(f"peers.{name}.store.feature_maps", f"{size}; set it to true, or read a vector (`fc:input`)")
    warnings.warn(f"the store of {name!r}: {size}", stacklevel=2)


def _tolerance(precision: Precision, device: torch.device) -> float:
    """Returns what rounding to float16, and sums in another order, explain between an image in a batch and by itself."""
    if precision == "bf16":
        return 2.0**-4
    return 2.0**-9 if precision == "no" and device.type == "cpu" else 2.0**-5  # GPUs round float32 to TF32's 10 bits in convolutions
