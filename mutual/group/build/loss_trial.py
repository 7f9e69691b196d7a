"""try_loss: a loss of the user's own on made-up outputs, before training: what it returns, draws and trains, and whether that can be used.

Shapes: B made-up images, C classes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutual.group.build.dry_run import format_names, state_restored
from mutual.group.edges import CommonClasses, Edge, OutputKey, Selector, TensorSpec
from mutual.objectives import Loss, Predictions, import_loss
from mutual.recipe import EMBEDDING, ENSEMBLE, LOGITS, Recipe, derive_seed, describe_error

_NUM_FORWARDS = 4
"""A parameter of a loss that draws, which so many forwards leave unused, is taken to be unused in all."""
_TOLERANCE = 1e-4


@dataclass
class _Inputs:
    """What a loss is called with.

    Attributes:
        learner: outputs of the learner, with a graph that begins at `leaves`.
        leaves: as above.
        source: outputs of the source.
        labels: `[B]` or `[B, C]`.
        mask: `[B]`, or None where all images of the run count.
    """

    learner: list[Tensor]
    leaves: list[Tensor]
    source: list[Tensor]
    labels: Tensor
    mask: Tensor | None

    def rows(self, begin: int, end: int) -> _Inputs:
        """Returns the same of some images, all of which count."""
        learner, source = ([each[begin:end] for each in outputs] for outputs in (self.learner, self.source))
        return _Inputs(learner, self.leaves, source, self.labels[begin:end], None)

    def versions(self) -> list[int]:
        """Returns how often each tensor has been changed in place."""
        return [each._version for each in (*self.learner, *self.source, self.labels)]


def try_loss(
    recipe: Recipe, edge: Edge, loss: Loss, specs: dict[OutputKey, TensorSpec], classes: CommonClasses | None, *, num_processes: int
) -> list[str]:
    """Tries the loss of an edge, and notes in its `loss_spec` whether it returns a loss for each image, and draws.

    Args:
        recipe: says where an error is, and which images count.
        edge: the edge.
        loss: its loss, on the CPU.
        specs: shape and dtype of every output.
        classes: those in common of learner and sources, where these are not all.
        num_processes: number of processes that train the learner.

    Returns:
        Lines for the user.

    Raises:
        RecipeError: what it returns cannot be trained with.
    """
    where = f"objectives.{edge.objective_index}.loss"
    inputs = _made_up(recipe, edge, specs, classes)
    with state_restored(loss, seed=derive_seed(recipe.seed, "trial", edge.objective_index)):
        try:
            result = _result(edge, loss, inputs)
            loss.loss_spec = replace(loss.loss_spec, per_image=result.dim() > 0)
            _check_mask(edge, loss, may_skip=inputs.mask is not None)
            unused = _unused_parameters(edge, loss, inputs, result)
            if loss.loss_spec.on_logits and not loss.loss_spec.is_stochastic:
                _check_pairs(edge, loss, inputs)
            is_mean = loss.loss_spec.per_image or _is_mean(edge, loss, inputs)
        except ValueError as error:
            raise recipe.error(where, f"{edge.objective.loss} {error}") from error
    for parameter in unused.values():
        parameter.requires_grad_(False)
    notes = []
    if unused:
        notes.append(f"{where}: no gradient reaches {format_names(list(unused))} of {edge.objective.loss}; excluded from training")
    if not is_mean and (num_processes > 1 or recipe.train.accumulate > 1):
        notes.append(
            f"{where}: {edge.objective.loss} gives one value that is no mean over the images: each process' micro-batch has its own, and "
            "an update takes their mean, weighted by their images"
        )
    return notes


def _made_up(recipe: Recipe, edge: Edge, specs: dict[OutputKey, TensorSpec], classes: CommonClasses | None) -> _Inputs:
    """Returns random outputs of the shapes that the edge reads; of an even number of images, which no dimension equals."""
    generator = torch.Generator().manual_seed(derive_seed(recipe.seed, "made up", edge.objective_index))
    logits_shape, _ = specs.get(OutputKey(edge.learner, LOGITS), ((2,), torch.float32))  # a loss in the user's own loop may have none
    num_classes = logits_shape[0] if classes is None else len(classes.classes)
    sources = [edge.members[0] if source == ENSEMBLE else source for source in edge.sources]
    keys = [OutputKey(edge.learner, path) for path in edge.learner_at]
    keys += [OutputKey(source, path) for source, paths in zip(sources, edge.source_at, strict=True) for path in paths]
    sizes = {size for key in keys for size in specs[key][0]} | {num_classes}
    num_images = next(number for number in range(4, 4 + 2 * len(sizes) + 2, 2) if number not in sizes)

    def output(key: OutputKey) -> Tensor:
        shape, dtype = specs[key]
        shape = (num_classes,) if key.path == LOGITS else shape
        draw = torch.randn if key.path in (LOGITS, EMBEDDING) else torch.rand  # features are often those of a ReLU
        return draw(num_images, *shape, generator=generator).to(torch.promote_types(dtype, torch.float32))

    leaves = [output(key).requires_grad_() for key in keys[: len(edge.learner_at)]]
    labels = torch.arange(num_images) % num_classes
    if recipe.data.multi_label or recipe.data.mixup or recipe.data.cutmix:
        labels = F.one_hot(labels, num_classes).float()
    selector = Selector.of(edge, unlabelled=recipe.data.unlabelled is not None, classes=classes)
    mask = None if selector == Selector() else torch.arange(num_images) > 0
    return _Inputs([leaf * 1 for leaf in leaves], leaves, [output(key) for key in keys[len(edge.learner_at) :]], labels, mask)


def _result(edge: Edge, loss: Loss, inputs: _Inputs) -> Tensor:
    """Returns what the loss gives for `inputs`; notes whether it draws.

    Raises:
        ValueError: it fails, or gives nothing that can be trained with; the message goes on behind the loss's name.
    """
    versions, states = inputs.versions(), (torch.default_generator.get_state(), random.getstate())
    result = _compute(edge, loss, inputs)
    if random.getstate() != states[1]:
        raise ValueError("draws from Python's random numbers, which no resumed run would draw again; draw by torch's generators")
    if not torch.default_generator.get_state().equal(states[0]):
        loss.loss_spec = replace(loss.loss_spec, is_stochastic=True)
    if inputs.versions() != versions:
        raise ValueError("changes what it reads in place, which other losses read as well; clone it first")
    num_images = len(inputs.labels)
    if not isinstance(result, Tensor):
        raise ValueError(f"returns {_kind(result)}; a loss is a tensor, one value or one for each image [B]")
    if tuple(result.shape) not in ((), (num_images,)) or not result.is_floating_point():
        found = f"{str(result.dtype).removeprefix('torch.')} of shape {tuple(result.shape)} for {num_images} images"
        raise ValueError(f"returns {found}; a loss is one value or one for each image [B]")
    if loss.loss_spec.per_image is not None and loss.loss_spec.per_image != bool(result.dim()):
        found = "one for each image" if result.dim() else "one value"
        raise ValueError(f"is declared per_image={loss.loss_spec.per_image}, and returns {found}")
    if not result.isfinite().all():
        raise ValueError(f"is {result[~result.isfinite()].flatten()[0].item()} for random outputs {_shapes(edge, inputs)}")
    return result


def _compute(edge: Edge, loss: Loss, inputs: _Inputs) -> Any:
    several = loss.loss_spec.multi_output
    learner = inputs.learner if several else inputs.learner[0]
    source = (inputs.source if several else inputs.source[0]) if inputs.source else None
    try:
        return loss.compute(learner, source, inputs.labels, mask=inputs.mask)
    except (Exception, SystemExit) as error:  # the user's loss, which may raise anything
        described = describe_error(error, import_loss(edge.objective.loss).function)
        raise ValueError(f"fails at {_shapes(edge, inputs)}: {described}") from error


def _check_mask(edge: Edge, loss: Loss, *, may_skip: bool) -> None:
    """Refuses a loss for all images that cannot leave out those that do not count."""
    if may_skip and not loss.loss_spec.per_image and "mask" not in loss.loss_spec.inputs:
        gate = "gate: correct" if edge.objective.gate == "correct" else "images without a label"
        raise ValueError(f"returns one value for all images, some of which do not count ({gate}); return one for each, or read `mask`")


def _unused_parameters(edge: Edge, loss: Loss, inputs: _Inputs, result: Tensor) -> dict[str, nn.Parameter]:
    """Returns the parameters of the loss that no gradient reaches.

    Raises:
        ValueError: the learner has no gradient, or not a finite one.
    """
    unused = {name: parameter for name, parameter in loss.named_parameters() if parameter.requires_grad}
    for _ in range(_NUM_FORWARDS):
        gradients = _gradients(result, [*inputs.leaves, *unused.values()])
        learner = [gradient for gradient in gradients[: len(inputs.leaves)] if gradient is not None]
        if not learner:
            raise ValueError("gives the learner no gradient; does it detach it, or only count?")
        if not all(gradient.isfinite().all() for gradient in learner):
            raise ValueError(f"gives a gradient that is not finite for random outputs {_shapes(edge, inputs)}")
        found = gradients[len(inputs.leaves) :]
        unused = {name: parameter for (name, parameter), gradient in zip(unused.items(), found, strict=True) if gradient is None}
        if not (unused and loss.loss_spec.is_stochastic):
            break
        result = _result(edge, loss, inputs)
    return unused


def _gradients(result: Tensor, of: Sequence[Tensor]) -> Sequence[Tensor | None]:
    if not result.requires_grad:
        return [None] * len(of)
    try:
        return torch.autograd.grad(result.sum(), of, allow_unused=True, retain_graph=True)
    except (Exception, SystemExit) as error:  # of backward functions that the user wrote, too
        raise ValueError(f"fails in its backward: {describe_error(error, None)}") from error


def _check_pairs(edge: Edge, loss: Loss, inputs: _Inputs) -> None:
    """Compares what the loss gives for several pairs at once with what it gives for each by itself."""
    learners = torch.stack([inputs.learner[0], inputs.learner[0].flip(0)])
    sources = torch.stack([inputs.source[0].roll(shift, 0) for shift in range(6)]).unflatten(0, (2, 3)) if inputs.source else None
    mask = None if inputs.mask is None or sources is None else inputs.mask.expand(2, 3, -1)
    try:
        found = loss.pairs(
            Predictions(learners if sources is None else learners[:, None]),
            None if sources is None else Predictions(sources),
            inputs.labels,
            inputs.mask if sources is None else mask,
        )
    except (Exception, SystemExit) as error:  # the user's loss, which may raise anything
        described = describe_error(error, import_loss(edge.objective.loss).function)
        raise ValueError(f"is declared on_logits, and fails for pairs [..., B, C]: {described}") from error
    pairs = [(learner, None) for learner in learners] if sources is None else list(_pairs_of(learners, sources))
    expected = torch.stack([loss(learner, source, inputs.labels, mask=inputs.mask) for learner, source in pairs])
    if found.numel() != len(pairs) or not torch.allclose(found.flatten(), expected, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise ValueError("is declared on_logits, and gives pairs [..., B, C] together other losses than each by itself")


def _pairs_of(learners: Tensor, sources: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    return ((learner, source) for learner, row in zip(learners, sources, strict=True) for source in row)


def _is_mean(edge: Edge, loss: Loss, inputs: _Inputs) -> bool:
    """Returns whether one value for all images is the mean of those of its parts; a loss that gathers is not asked."""
    if loss.loss_spec.gathers:
        return True
    loss.eval()  # BatchNorm and dropout are no part of the question
    middle = len(inputs.labels) // 2
    parts = [inputs.rows(*bounds) for bounds in ((0, 2 * middle), (0, middle), (middle, 2 * middle))]
    torch.manual_seed(0)
    whole, first, second = (_compute(edge, loss, part) for part in parts)
    return loss.loss_spec.is_stochastic or torch.allclose(whole, (first + second) / 2, rtol=_TOLERANCE, atol=_TOLERANCE)


def _shapes(edge: Edge, inputs: _Inputs) -> str:
    outputs = [(edge.learner, path) for path in edge.learner_at]
    outputs += [(source, path) for source, paths in zip(edge.sources, edge.source_at, strict=True) for path in paths]
    tensors = [*inputs.learner, *inputs.source]
    shown = (f"{name}.{path} {tuple(each.shape[1:])}" for (name, path), each in zip(outputs, tensors, strict=True))
    return " and ".join(shown)


def _kind(result: object) -> str:
    return "nothing" if result is None else f"a {type(result).__name__}"
