"""dry_run: checks peers on two images before training, and finds parameters that no output depends on."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mutual.group.edges import Edge
from mutual.group.peers import Outputs, Peer, TappedModel
from mutual.recipe import EMA, EMBEDDING, LOGITS, Recipe, RecipeError, derive_seed, first_line

_NUM_FORWARDS = 8
"""A parameter that this many forwards in training mode leave unused is taken to be unused in all."""


@dataclass
class DryRun:
    """Result of a dry run.

    Attributes:
        outputs: outputs of each peer and moving average for two images in eval mode.
        notes: lines for the user.
    """

    outputs: dict[str, Outputs] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def dry_run(recipe: Recipe, edges: Iterable[Edge], peers: list[Peer], num_classes: int, *, num_replicas: Mapping[str, int]) -> DryRun:
    """Runs every peer and moving average on two images, trainable peers in training mode too, and leaves no trace.

    Parameters of a trainable peer that reach none of the outputs that are read are excluded from training: without a gradient they would
    stay as they are on one process, and DDP would wait for them on several. `num_replicas` says on how many processes each peer is trained.

    Raises:
        RecipeError: a peer fails, its outputs are no tensors, of other classes or no embeddings, or it has nothing that can be trained.
    """
    result = DryRun()
    edges = list(edges)
    for peer in peers:
        images = torch.zeros(2, *peer.input.model_input.shape)
        if peer.classes.columns is not None:
            _check_columns(recipe, peer, images)
        result.outputs[peer.name] = _run_in_eval_mode(recipe, peer, peer.tapped, images)
        if peer.average is not None:
            result.outputs[f"{peer.name}.{EMA}"] = _run_in_eval_mode(recipe, peer, peer.average.tapped, images)
        if recipe.peers[peer.name].head == "none":
            _check_embedding(recipe, peer, result.outputs[peer.name][EMBEDDING])
        else:
            _check_classes(recipe, peer, result.outputs[peer.name], num_classes)
        if not peer.frozen:
            paths = {LOGITS, *(at for edge in edges if edge.learner == peer.name for at in edge.learner_at)}
            result.notes += _exclude_unused(recipe, peer, paths, images, num_classes, num_replicas=num_replicas[peer.name])
    _check_no_shared_parameters(recipe, peers)
    return result


def input_mismatch_error(recipe: Recipe, name: str, images: Tensor, error: Exception, *, mode: str = "") -> RecipeError:
    """Returns the error that says why peer `name` cannot take `images`."""
    size = "x".join(str(side) for side in images.shape[1:])
    kind = "" if isinstance(error, RuntimeError | ValueError | TypeError) else f"{type(error).__name__}: "
    return recipe.error(f"peers.{name}.model", f"{recipe.peers[name].model} cannot take images of {size}{mode}: {kind}{first_line(error)}")


def _run_in_eval_mode(recipe: Recipe, peer: Peer, tapped: TappedModel, images: Tensor) -> Outputs:
    tapped.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            outputs = tapped.probe(images)
        except Exception as error:  # the user's model, which may raise anything
            raise input_mismatch_error(recipe, peer.name, images, error) from error
    _check_tensors(recipe, peer, outputs)
    return outputs


def _check_columns(recipe: Recipe, peer: Peer, images: Tensor) -> None:
    """Refuses classes of a peer that its outputs cannot stand for."""
    where, columns, named = f"peers.{peer.name}.classes", peer.classes.columns or (), peer.classes.num_outputs
    peer.tapped.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            logits = peer.model(images)
        except Exception as error:  # the user's model, which may raise anything
            raise input_mismatch_error(recipe, peer.name, images, error) from error
    width = logits.shape[1] if isinstance(logits, Tensor) and logits.dim() == 2 else 0
    if width and named not in (None, width):
        raise recipe.error(where, f"{named} names for the model's {width} outputs; give one for each")
    if width and max(columns) >= width:
        raise recipe.error(where, f"output {max(columns)} is not there: the model has {width}")


def _exclude_unused(recipe: Recipe, peer: Peer, paths: set[str], images: Tensor, num_classes: int, *, num_replicas: int) -> list[str]:
    """Excludes parameters on which no output at `paths` depends from training; returns lines for the user."""
    model = recipe.peers[peer.name].model
    unused = {name: parameter for name, parameter in peer.model.named_parameters() if parameter.requires_grad}
    if not unused:
        raise recipe.error(f"peers.{peer.name}.model", f"{model} has no parameter to train; a peer that only teaches is frozen: true")
    num_parameters = len(unused)
    ever_unused: dict[str, nn.Parameter] = {}
    for draw in range(_NUM_FORWARDS):
        used, fixed_paths = _which_are_used(recipe, peer, paths, images, num_classes, list(unused.values()), draw=draw)
        unused = {name: parameter for (name, parameter), is_used in zip(unused.items(), used, strict=True) if not is_used}
        ever_unused = ever_unused or unused
        if not unused:
            break
    if len(unused) == num_parameters:
        raise recipe.error(f"peers.{peer.name}.model", f"no parameter of {model} reaches its outputs; does its forward detach them?")
    _check_taught(recipe, peer, fixed_paths)
    sometimes = [name for name in ever_unused if name not in unused]
    if sometimes and num_replicas > 1:
        raise recipe.error(
            f"peers.{peer.name}.model",
            f"{model} uses {format_names(sometimes)} in some forwards only, and gradients are averaged over {num_replicas} processes, "
            "which wait for all of them; train it on one, or add 0 * parameter.sum() to its logits",
        )
    for parameter in unused.values():
        parameter.requires_grad_(False)
    if not unused:
        return []
    return [
        f"peers.{peer.name}.model: no output of {model} that is read depends on {format_names(list(unused))}, in {_NUM_FORWARDS} forwards "
        "in training mode; taken to be unused in all, excluded from training"
    ]


def _check_taught(recipe: Recipe, peer: Peer, fixed_paths: Iterable[str]) -> None:
    """Refuses a peer with frozen parts whose objectives read what only these give: they would teach it nothing."""
    spec = recipe.peers[peer.name]
    for path in fixed_paths if spec.train_only or spec.freeze else ():
        key = "train_only" if spec.train_only else "freeze"
        raise recipe.error(
            f"peers.{peer.name}.{key}", f"no parameter that is trained reaches {path!r} of {spec.model}, by which {peer.name!r} is to learn"
        )


def _which_are_used(
    recipe: Recipe, peer: Peer, paths: set[str], images: Tensor, num_classes: int, parameters: list[nn.Parameter], *, draw: int
) -> tuple[list[bool], list[str]]:
    """Returns for each parameter whether an output at `paths` depends on it in a forward in training mode, and outputs without gradient."""
    mode = " in training mode"
    with state_restored(peer.tapped, seed=derive_seed(recipe.seed, "probe", peer.name, draw)):
        try:
            outputs: Outputs = peer.tapped(torch.randn_like(images))
        except Exception as error:  # the user's model, which may raise anything
            raise input_mismatch_error(recipe, peer.name, images, error, mode=mode) from error
        _check_tensors(recipe, peer, outputs, mode=mode)
        _check_classes(recipe, peer, outputs, num_classes, mode=mode)
        roots = [outputs[path].sum() for path in sorted(paths) if outputs[path].requires_grad]
        fixed_paths = [path for path in sorted(paths) if not outputs[path].requires_grad]
        if not roots:
            return [False] * len(parameters), fixed_paths
        try:
            gradients = torch.autograd.grad(roots, parameters, allow_unused=True)
        except Exception as error:  # of backward functions that the user wrote, too
            raise input_mismatch_error(recipe, peer.name, images, error, mode=" backward") from error
    return [gradient is not None for gradient in gradients], fixed_paths


def _check_tensors(recipe: Recipe, peer: Peer, outputs: Mapping[str, object], *, mode: str = "") -> None:
    for at, output in outputs.items():
        if not isinstance(output, Tensor):
            kind = type(output).__name__
            raise recipe.error(
                f"peers.{peer.name}.model", f"output {at!r} of {recipe.peers[peer.name].model} is a {kind}{mode}, not a tensor"
            )


def _check_classes(recipe: Recipe, peer: Peer, outputs: Outputs, num_classes: int, *, mode: str = "") -> None:
    result, model = tuple(outputs[LOGITS].shape), recipe.peers[peer.name].model
    if result != (2, num_classes if peer.classes.known is None else len(peer.classes.known)):
        raise recipe.error(
            f"peers.{peer.name}.model",
            f"class counts differ: {model} gives logits of shape {result[1:]}{mode}, the data have {num_classes} classes",
        )


def _check_embedding(recipe: Recipe, peer: Peer, embedding: Tensor) -> None:
    model, shape = recipe.peers[peer.name].model, tuple(embedding.shape)
    if len(shape) != 2 or shape[0] != 2 or shape[1] == 0 or not embedding.is_floating_point():
        hint = "called with num_classes=0 it must leave its classifier out" if shape == (2, 0) else "wanted is a vector of each image"
        kind = str(embedding.dtype).removeprefix("torch.")
        raise recipe.error(f"peers.{peer.name}.model", f"head: none, and {model} gives {kind} of shape {shape[1:]} for an image; {hint}")


def _check_no_shared_parameters(recipe: Recipe, peers: list[Peer]) -> None:
    """Refuses peers that have a parameter in common, as two models of a factory that returns the same one twice."""
    owners: dict[int, str] = {}
    for peer in peers:
        for name, parameter in peer.model.named_parameters():
            other = owners.setdefault(id(parameter), peer.name)
            if other != peer.name:
                raise recipe.error(
                    f"peers.{peer.name}.model",
                    f"{name} is also a parameter of peer {other!r}: {recipe.peers[peer.name].model} must build a new model at every call",
                )


@contextmanager
def state_restored(module: nn.Module, *, seed: int) -> Iterator[None]:
    """Context in which `module` is in training mode with seeded random numbers; restores its modes, its buffers and the generators."""
    layers = list(module.modules())
    modes = [layer.training for layer in layers]
    buffers = [(layer, name, buffer, buffer.clone()) for layer in layers for name, buffer in layer._buffers.items() if buffer is not None]
    python_state = random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        module.train()
        for layer in layers:
            if isinstance(layer, nn.SyncBatchNorm):
                layer.eval()  # in training mode it asks for GPUs and the other processes
        try:
            yield
        finally:
            random.setstate(python_state)
            for layer, mode in zip(layers, modes, strict=True):
                layer.training = mode
            with torch.no_grad():
                for layer, name, buffer, value in buffers:
                    layer._buffers[name] = buffer.copy_(value)


def format_names(names: list[str]) -> str:
    """Returns how many parameters there are, and the first of their names."""
    plural = "s" if len(names) > 1 else ""
    return f"{len(names)} parameter{plural} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
