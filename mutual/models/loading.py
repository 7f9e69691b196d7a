"""load_weights: the tensors of a weights file into a model, all of them or all but the classifier's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from mutual.models.checkpoints import AUTO, COUNTER, select_tensors
from mutual.models.classifier import classifier_paths
from mutual.models.paddleclas.layout import from_paddle, is_paddle
from mutual.models.reading import read_tensors
from mutual.recipe import first_line, printable

_MAX_SHOWN = 5
_MAX_NAME = 200
_REMEDY = "`weights: {file: FILE, head: new}` begins with a new classifier"


@dataclass(frozen=True)
class LoadedWeights:
    """What `load_weights` has done.

    Attributes:
        notes: lines for the user.
        initial: names of the model's tensors that the file did not give: those of a new classifier.
    """

    notes: tuple[str, ...] = ()
    initial: tuple[str, ...] = ()


def load_weights(
    model: nn.Module,
    path: str | Path,
    *,
    prefix: str = AUTO,
    head: Literal["keep", "new", "auto"] = "keep",
    other_classes: bool = False,
    dropped: Callable[[], Collection[str]] = tuple,
) -> LoadedWeights:
    """Loads a safetensors file, a torch checkpoint or a `.pdparams` of Paddle's into `model`.

    A checkpoint may hold the weights under keys such as `state_dict`, beside others, and with prefixes that DDP, torch.compile or a
    surrounding module add; see `select_tensors`. Paddle's values are converted, see `from_paddle`.

    Args:
        model: what is loaded into.
        path: the file.
        prefix: what stands before the model's names in the file; auto: is found.
        head: keep: every tensor of the model must be in the file; new: all but its classifier's, which must differ; auto: new where it
            does.
        other_classes: the file's classifier is of other classes than the model's, whatever its width is.
        dropped: asked where the file has tensors that the model has not, and returns the names of those that may be left out.

    Raises:
        ValueError: the file is missing or unreadable, or its tensors are not those of the model; one line says which.
    """
    expected = model.state_dict()
    groups = read_tensors(Path(path))
    try:
        selection = select_tensors(groups, expected, prefix=prefix)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    notes = []
    if selection.others:
        others = ", ".join(repr(other) for other in selection.others)
        notes.append(
            f"{path} holds the model several times: what stands behind {selection.prefix!r} is taken, not {others}; `prefix` takes another"
        )
    state = from_paddle(model, selection.tensors) if is_paddle(Path(path)) else selection.tensors
    initial: tuple[str, ...] = ()
    if not state.keys() <= expected.keys():
        left_out = dropped()
        state = {name: tensor for name, tensor in state.items() if name not in left_out}
    if head == "new" or (head == "auto" and (other_classes or _differs(state, expected))):
        state, initial, note = _without_classifier(path, model, state, expected, other_classes=other_classes)
        notes.append(note)
    _check_names(path, selection.prefix, model, state, [name for name in expected if name not in initial])
    _load(path, model, state, expected)
    return LoadedWeights(tuple(notes), initial)


def _check_names(path: str | Path, prefix: str, model: nn.Module, state: Mapping[str, Tensor], expected: Sequence[str]) -> None:
    missing = [name for name in expected if name not in state and not name.endswith(COUNTER)]
    known = set(expected)
    unexpected = sorted((name for name in state if name not in known), key=lambda name: name.endswith(COUNTER))  # these say least
    if missing or unexpected:
        where = f" behind {prefix!r}" if prefix else ""
        remedy = _REMEDY if all(_is_within(name, classifier_paths(model)) for name in (*missing, *unexpected)) else ""
        message = f"{path} holds another model{where}: {_named('missing', missing)}{_named('unexpected', unexpected)}{remedy}"
        raise ValueError(message.rstrip("; "))


def _load(path: str | Path, model: nn.Module, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Loads tensors of the model's names, after checks of their shapes, kinds and values."""
    different = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    if different:
        raise ValueError(f"{path}: {_shape_message(different, state, expected)}")
    for name, tensor in state.items():
        fault = _unusual(tensor, expected[name]) if not name.endswith(COUNTER) else ""
        if fault:
            raise ValueError(f"{path}: {name} is {fault}")
    converted = {name: tensor.to(expected[name].dtype) for name, tensor in state.items()}
    _check_finite(path, converted, parameters={name for name, _ in model.named_parameters(remove_duplicate=False)})
    try:
        model.load_state_dict(converted, strict=False)
    except Exception as error:  # a user's model may load its state by code of its own
        raise ValueError(f"{path} does not load into the model: {type(error).__name__}: {first_line(error)}") from error


def _without_classifier(
    path: str | Path, model: nn.Module, state: dict[str, Tensor], expected: Mapping[str, Tensor], *, other_classes: bool
) -> tuple[dict[str, Tensor], tuple[str, ...], str]:
    """Returns the file's tensors without its classifier's, the names of the model's own classifier, and a line for the user.

    The classifier is the model's (`classifier_paths`), or else what differs in its first dimension alone, by the same two numbers
    throughout: the layers that give logits, however many there are.

    Raises:
        ValueError: the file's classifier is the model's, or something else differs, too.
    """
    paths = classifier_paths(model)
    different = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    odd = [name for name in {**expected, **state} if (name in expected) != (name in state) and not name.endswith(COUNTER)]
    reason = "the file has another, or none" if odd else "the file's is of other classes"
    if different:
        widths = {(*state[name].shape[:1], *expected[name].shape[:1]) for name in different}
        if any(state[name].shape[1:] != expected[name].shape[1:] for name in different) or len(widths) > 1:
            if not all(_is_within(name, paths) for name in different):
                raise ValueError(f"{path}: {_shape_message(different, state, expected)}; head: new leaves out a classifier alone")
        else:
            paths = tuple(dict.fromkeys(name.rpartition(".")[0] for name in different))
            reason = "the file's has {:,} classes, the model {:,}".format(*widths.pop())
    elif not odd and not other_classes:
        raise ValueError(f"head: new, but the classifier in {path} is of the model's width, and of no other classes; take head: keep")
    kept = {name: tensor for name, tensor in state.items() if not _is_within(name, paths)}
    initial = tuple(name for name in expected if _is_within(name, paths))
    begins = "; the model's begins with its initial weights" if initial else ""
    return kept, initial, f"{path}: the classifier ({', '.join(paths)}) is left out: {reason}{begins}"


def _differs(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Returns whether the file has other tensors than the model, or some of other shapes."""
    shapes = [{name: tensor.shape for name, tensor in tensors.items() if not name.endswith(COUNTER)} for tensors in (state, expected)]
    return shapes[0] != shapes[1]


def _is_within(name: str, paths: Sequence[str]) -> bool:
    return any(name.rpartition(".")[0] == path or name.startswith(f"{path}.") for path in paths)


def _unusual(actual: Tensor, expected: Tensor) -> str:
    """Returns why `actual` cannot stand for the model's tensor although their shapes are equal, or nothing."""
    if actual.layout != torch.strided or actual.is_nested:
        return f"sparse ({str(actual.layout).removeprefix('torch.')}); save it dense"
    if actual.is_quantized:
        return "quantized; save the model before quantization"
    if actual.device.type == "meta":
        return "without values (on the meta device)"
    kinds = [(tensor.is_complex(), tensor.is_floating_point()) for tensor in (actual, expected)]
    if kinds[0] != kinds[1]:
        return f"of {str(actual.dtype).removeprefix('torch.')}, the model's of {str(expected.dtype).removeprefix('torch.')}"
    return ""


def _check_finite(path: str | Path, state: dict[str, Tensor], *, parameters: set[str]) -> None:
    """Refuses NaN, and infinite parameters: every output would be NaN, and a training would stop at its first step with another cause.

    Buffers may be infinite, as attention masks are.
    """
    for name, tensor in state.items():
        if tensor.is_floating_point() or tensor.is_complex():
            checked = tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor
            bad = ~checked.isfinite() if name in parameters else checked.isnan()
            if bad.any():
                dtype = str(tensor.dtype).removeprefix("torch.")
                raise ValueError(
                    f"{path}: {name} is not finite in {dtype} ({int(bad.sum()):,} of {bad.numel():,} values); "
                    "the training that it comes from has probably diverged"
                )


def _shape_message(different: list[str], state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    shown = "; ".join(f"{name} is {tuple(state[name].shape)}, the model's {tuple(expected[name].shape)}" for name in different[:_MAX_SHOWN])
    last = list(expected)[-1]
    if (
        last in different
        and state[last].dim() == expected[last].dim() > 0
        and all(name.rpartition(".")[0] == last.rpartition(".")[0] for name in different)
    ):
        return f"class counts differ: the file has {state[last].shape[0]}, the model {expected[last].shape[0]} ({shown}); {_REMEDY}"
    return f"tensors have other shapes: {shown}"


def _named(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(printable(name, max_length=_MAX_NAME) for name in names[:_MAX_SHOWN])
    return f"{len(names)} {kind} ({shown}{', ...' if len(names) > _MAX_SHOWN else ''}); "
