"""PeerOptimizer: one peer's optimizer with its schedule, loss scaler, clipping and moving average."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mutual.engine.training.clipping import clip_parameter_norms
from mutual.engine.training.paddle_rmsprop import PaddleRMSProp
from mutual.engine.training.parameter_groups import parameter_groups
from mutual.engine.training.users_optimizer import UsersOptimizer, seeded_step
from mutual.group import Peer
from mutual.recipe import InputError, Optimizer, PeerSpec, Precision, Recipe, derive_seed, did_you_mean, first_line, is_users_name

_UNSUPPORTED = {
    "lbfgs": "it computes the loss several times in a step",
    "sparseadam": "its gradients must be sparse",
    "adahessian": "it needs second derivatives (backward with create_graph)",
}
"""Optimizers that cannot train a peer, and why."""
_SKIPS_ON_DEVICE = "_step_supports_amp_scaling"
"""The attribute by which GradScaler knows an optimizer that reads on the device whether gradients have overflowed."""
_FUSED = ("sgd", "adam", "adamw")
"""Optimizers that have a fused kernel on GPUs."""
_OWN_ARGUMENTS = ("momentum", "nesterov", "betas", "eps", "fused", "foreach")
"""Fields of the section that are passed on where they are given."""
_SETTINGS = ("weight_decay", "momentum", "nesterov", "betas", "eps")
"""What a recipe says of groups of parameters, which an extended run may say otherwise."""
_TRIAL_STEPS = 3
_TORCH = {
    name.lower(): value
    for name, value in vars(torch.optim).items()
    if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
} | {"paddle_rmsprop": PaddleRMSProp}


class PeerOptimizer:
    """Turns one peer's gradients into its next weights.

    Args:
        peer: whose parameters `optimizer` trains.
        optimizer: sets the step; its learning rate is overwritten.
        learning_rate: the rate as a function of the update (0 is the first). A group of parameters that was built with another rate than
            the optimizer has the same multiple of it throughout.
        scaler: this peer's own fp16 loss scaler, disabled in other precisions.
        clip_grad_norm: the largest norm of the gradient; None for no limit.
        clip_parameter_norm: the largest norm of each parameter's gradient; None for no limit.
        lr: the rate that `optimizer` was built with; None: its default.
        seed: what the random draws of an optimizer of the user's own depend on, besides the peer and the update; None: it draws nothing.

    Attributes:
        grad_norm: norm of the gradient before clipping, a scalar on the device; None before it is measured.

    Example:
        >>> from mutual.group import PeerInput, TappedModel
        >>> from mutual.models import ModelInput
        >>> peer_input = PeerInput(ModelInput((1, 2), mean=(0.5,), std=(0.5,), channels=1))
        >>> peer = Peer("a", TappedModel(nn.Linear(2, 1), ()), frozen=False, input=peer_input)
        >>> optimizer = PeerOptimizer(
        ...     peer, torch.optim.SGD(peer.parameters()), lambda update: 0.1, scaler=torch.amp.GradScaler(enabled=False)
        ... )
        >>> optimizer.scale(peer.model(torch.ones(1, 2)).sum()).backward()
        >>> optimizer.step(update=0, measure=True)
        >>> optimizer.learning_rate, round(optimizer.grad_norm.item(), 2)
        (0.1, 1.73)
    """

    def __init__(
        self,
        peer: Peer,
        optimizer: torch.optim.Optimizer,
        learning_rate: Callable[[int], float],
        *,
        scaler: torch.amp.GradScaler,
        clip_grad_norm: float | None = None,
        clip_parameter_norm: float | None = None,
        lr: float | None = None,
        seed: int | None = None,
    ) -> None:
        self.peer = peer
        self.optimizer = optimizer
        self.scaler = scaler
        self.grad_norm: Tensor | None = None
        self._learning_rate = learning_rate
        self._seed = seed
        self._lr: Any = optimizer.defaults.get("lr") if lr is None else lr
        self._group_lrs: list[Any] = [group.get("lr", self._lr) for group in optimizer.param_groups]
        self._settings = [{key: group[key] for key in _SETTINGS if key in group} for group in optimizer.param_groups]
        self._max_norm = math.inf if clip_grad_norm is None else clip_grad_norm
        self._max_parameter_norm = clip_parameter_norm
        self._parameters = peer.parameters()
        self._has_fused_kernel = bool(getattr(optimizer, _SKIPS_ON_DEVICE, False))
        if self._has_fused_kernel:
            self._skip_on_device(has_stepped=False)
            optimizer.register_step_post_hook(lambda *_: self._skip_on_device(has_stepped=True))

    def scale(self, loss: Tensor) -> Tensor:
        """Returns the loss times this peer's own fp16 loss scale (1 in other precisions)."""
        return self.scaler.scale(loss)

    def step(self, update: int, *, measure: bool = False, pauses: Tensor | None = None) -> None:
        """Unscales, clips, steps with the learning rate of `update` (0 is the first) and clears the gradients.

        An overflow skips this peer's step and halves its loss scale; other peers are not affected. A fused optimizer skips it on the
        device, from its second step on; for others the host waits to know. With `measure`, or where the norm is clipped, `grad_norm` is
        set.

        Args:
            update: its index in the training.
            measure: measure the gradient's norm.
            pauses: a flag on the device; where it is true, nothing but the gradients changes. A fused optimizer without a loss scale and a
                moving average reads it there, from its second step on; for others the host waits to know.
        """
        if pauses is not None and not self._pauses_on_device:
            if pauses.item():
                self.skip()
                return
            pauses = None
        rate = self._learning_rate(update)
        for group, lr in zip(self.optimizer.param_groups, self._group_lrs, strict=True):
            group["lr"] = rate if lr == self._lr else rate / self._lr * lr
        self.scaler.unscale_(self.optimizer)
        if measure or self._max_norm < math.inf:
            norm = nn.utils.clip_grad_norm_(self._parameters, self._max_norm)
            self.grad_norm = norm if pauses is None or self.grad_norm is None else torch.where(pauses, self.grad_norm, norm)
        if self._max_parameter_norm is not None:
            clip_parameter_norms(self._parameters, self._max_parameter_norm)
        with nullcontext() if pauses is None else _skipped(self.optimizer, pauses), self._seeded(update):
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.peer.average is not None:
            self.peer.average.update(self.peer.model, update=update)

    def skip(self) -> None:
        """Clears the gradients without a step."""
        self.optimizer.zero_grad(set_to_none=True)

    def _skip_on_device(self, *, has_stepped: bool) -> None:
        """Has a fused optimizer's own kernel skip the steps that overflow, but not the first ones, before it has stepped.

        Skipped there, the first step of torch's fused SGD leaves a momentum behind that is allocated and not written.
        """
        is_fused = all(group["fused"] for group in self.optimizer.param_groups)  # a checkpoint may say that it is not
        setattr(self.optimizer, _SKIPS_ON_DEVICE, has_stepped and is_fused)

    def _seeded(self, update: int) -> AbstractContextManager[object]:
        if self._seed is None:
            return nullcontext()
        return seeded_step(derive_seed(self._seed, "step", self.peer.name, update), self.optimizer)

    @property
    def _pauses_on_device(self) -> bool:
        return getattr(self.optimizer, _SKIPS_ON_DEVICE, False) and not self.scaler.is_enabled() and self.peer.average is None

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last step; of parameters that have another one it says nothing."""
        groups = self.optimizer.param_groups
        for group, lr in zip(groups, self._group_lrs, strict=True):
            if lr == self._lr:
                return float(group["lr"])
        return next((float(group["lr"] / lr * self._lr) for group, lr in zip(groups, self._group_lrs, strict=True) if lr), 0.0)

    @property
    def learning_rate_range(self) -> tuple[float, float] | None:
        """The lowest and the highest learning rate of the last step; None where all parameters have the same."""
        rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        return (min(rates), max(rates)) if len(set(self._group_lrs)) > 1 else None

    def state_dict(self) -> dict[str, Any]:
        """Returns what a bitwise resume needs besides the weights."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(), "settings": self._settings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; what the recipe now says otherwise of the groups (weight decay, momentum) holds.

        What an optimizer has itself made of these settings since it was built is a part of its state.

        Raises:
            InputError: the parameters were divided into other groups.
        """
        groups = self.optimizer.param_groups
        sizes, saved_sizes = ([len(group["params"]) for group in each] for each in (groups, state["optimizer"]["param_groups"]))
        if sizes != saved_sizes:
            raise InputError(
                f"the optimizer of peer {self.peer.name!r} has groups of {sizes} parameters, in the checkpoint of {saved_sizes}; "
                "with decay_norm_and_bias: false, weight_decay cannot become zero, nor be zero before"
            )
        self.optimizer.load_state_dict(state["optimizer"])
        before: list[dict[str, Any]] = state.get("settings") or [{}] * len(groups)  # earlier versions wrote none
        for group, given, saved in zip(self.optimizer.param_groups, self._settings, before, strict=True):
            group.update((key, value) for key, value in given.items() if key not in saved or saved[key] != value)
        if self._has_fused_kernel:
            self._skip_on_device(has_stepped=bool(self.optimizer.state))
        if state["scaler"]:  # of a scaler that was disabled there is none
            self.scaler.load_state_dict(state["scaler"])


def build_optimizer(spec: Optimizer, parameters: list[nn.Parameter], model: nn.Module | None = None) -> torch.optim.Optimizer:
    """Builds the optimizer that `spec` names, of torch, timm or the user's own, after a trial with small parameters of the same kinds.

    Where `spec` has groups of parameters or a decay by layers, `model` says which is which.

    Raises:
        ValueError: no such optimizer, an argument that it does not take, or it cannot be built or stepped here.
    """
    given = {key: getattr(spec, key) for key in _OWN_ARGUMENTS if getattr(spec, key) is not None}
    arguments = {"lr": spec.lr, **given, **spec.args}
    if is_users_name(spec.name):
        return _build_users(spec, arguments, parameters, model)
    build = _find_factory(spec.name, arguments)
    try:
        _try_out(lambda groups: build(groups, **arguments), spec, parameters)
        return build(parameter_groups(spec, parameters, model), **arguments)
    except Exception as error:  # of torch, of timm and of the packages behind it, which raise anything where they cannot work
        reason = first_line(error)
        kind = "" if isinstance(error, TypeError | ValueError) else f"cannot be used here: {type(error).__name__}: "
        kind = kind.removesuffix(f"{reason}: ")  # of an error that says nothing the kind is the reason
        raise ValueError(f"{spec.name}: {kind}{reason}") from error


def _build_users(
    spec: Optimizer, arguments: dict[str, Any], parameters: list[nn.Parameter], model: nn.Module | None
) -> torch.optim.Optimizer:
    users = UsersOptimizer(spec.name, weight_decay=spec.weight_decay)

    def build(each: Iterable[nn.Parameter], model: nn.Module | None = None) -> torch.optim.Optimizer:
        return users.build(parameter_groups(spec, list(each), model), arguments)

    with _small_copies(parameters) as small:
        users.try_out(build(small), build)
    return build(parameters, model)


def with_fused_steps(recipe: Recipe, precision: Precision, device: torch.device) -> Recipe:
    """Returns `recipe` with fused optimizers where an overflow or a pause may skip a step on a GPU: no host then waits to know of it.

    An optimizer whose arguments say in which form it steps stays as it is.
    """
    if device.type != "cuda":
        return recipe
    if precision == "fp16":
        peers = {name: _with_fused_step(recipe, name) for name, peer in recipe.peers.items() if peer.optimizer is not None}
        return recipe.model_copy(update={"optimizer": _fused(recipe.optimizer), "peers": {**recipe.peers, **peers}})
    if recipe.train.pause is not None:
        name = recipe.train.pause.peer
        return recipe.model_copy(update={"peers": {**recipe.peers, name: _with_fused_step(recipe, name)}})
    return recipe


def _with_fused_step(recipe: Recipe, name: str) -> PeerSpec:
    spec, peer = recipe.optimizer_of(name), recipe.peers[name]
    return peer if _fused(spec) == spec else peer.model_copy(update={"optimizer": _fused(spec)})


def _fused(spec: Optimizer) -> Optimizer:
    if spec.name.lower() not in _FUSED or not spec.is_form_open or spec.args.keys() & {"capturable", "differentiable"}:
        return spec
    return spec.model_copy(update={"fused": True})


@contextmanager
def _skipped(optimizer: Any, skips: Tensor) -> Iterator[None]:
    """Context in which a fused optimizer skips its step if `skips` is true, in the way in which GradScaler tells it of an overflow."""
    optimizer.grad_scale, optimizer.found_inf = None, skips.float()
    try:
        yield
    finally:
        del optimizer.grad_scale, optimizer.found_inf


def takes_argument(spec: Optimizer, name: str) -> bool:
    """Returns whether the optimizer that `spec` names is one of torch that takes an argument `name`.

    Example:
        >>> takes_argument(Optimizer(name="adamw"), "fused"), takes_argument(Optimizer(name="rprop"), "fused")
        (True, False)
    """
    return spec.name.lower() in _TORCH and name in inspect.signature(_TORCH[spec.name.lower()]).parameters


def _find_factory(name: str, arguments: Collection[str]) -> Callable[..., torch.optim.Optimizer]:
    """Returns what builds the optimizer `name`, of torch.optim or else of timm, from groups of parameters and keyword arguments.

    Raises:
        ValueError: no such optimizer, it cannot train a peer, or it does not take one of `arguments`.
    """
    lower_name = name.lower()
    if lower_name in _UNSUPPORTED:
        raise ValueError(f"{name} cannot train a peer: {_UNSUPPORTED[lower_name]}; take another, such as adamw")
    if lower_name in _TORCH:
        known = set(inspect.signature(_TORCH[lower_name]).parameters) - {"params"}
        for key in arguments:
            if key not in known:
                raise ValueError(f"{name} takes no {key!r}{did_you_mean(key, known)}")
        return _TORCH[lower_name]
    import timm.optim  # a second, and most recipes name an optimizer of torch

    others: list[str] = timm.optim.list_optimizers()
    if lower_name not in others:
        raise ValueError(f"{name!r} is no optimizer{did_you_mean(lower_name, {*_TORCH, *others} - set(_UNSUPPORTED))}")
    return lambda groups, **options: timm.optim.create_optimizer_v2(groups, lower_name, **options)


def _try_out(build: Callable[[list[dict[str, Any]]], torch.optim.Optimizer], spec: Optimizer, parameters: list[nn.Parameter]) -> None:
    """Steps an optimizer of small parameters, one of each kind in `parameters`: what cannot step raises here and not in a training."""
    with _small_copies(parameters) as small:
        optimizer = build(parameter_groups(spec, small))
        for _ in range(_TRIAL_STEPS):
            for parameter in small:
                parameter.grad = torch.rand_like(parameter)
            optimizer.step()


@contextmanager
def _small_copies(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Context with small parameters, one of each kind in `parameters`, which leaves torch's generators as they are."""
    kinds = {(parameter.dim(), parameter.dtype, parameter.device): None for parameter in parameters}
    devices = [device for _, _, device in kinds if device.type == "cuda"]
    # without compiling what an optimizer compiles (kron): the shapes are others
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.simplefilter("ignore")  # the real one says it again
        yield [nn.Parameter(torch.rand((2,) * dim, dtype=dtype, device=device)) for dim, dtype, device in kinds]
