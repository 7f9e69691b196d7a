"""PeerProfile, Link: time and memory of each peer by itself on this machine, and the speed of the link between the ranks.

Predictions depend on these alone; `compare_costs` measures whole updates.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mutual.data import DataInfo
from mutual.engine.costs.memory import num_bytes, saved_bytes, state_bytes
from mutual.engine.runtime import Environment
from mutual.engine.training import make_optimizer
from mutual.group import (
    Communicator,
    DataSpec,
    Group,
    PeerInput,
    checkpoint_peer_activations,
    create_peer_model,
    input_mismatch_error,
    replica_comm,
)
from mutual.models import ModelInput
from mutual.recipe import Recipe

ROUNDS = 5
_PROBE_SIZE = 2_000_000


@dataclass(frozen=True)
class PeerProfile:
    """Time and memory of one peer.

    Attributes:
        fixed_seconds: forward and (if it is trained) backward of n images take `fixed_seconds + n * image_seconds`.
        image_seconds: see `fixed_seconds`.
        step_seconds: an optimizer step.
        gradient_bytes: of its gradients; 0 if it is frozen.
        state_bytes: parameters, buffers, gradients and optimizer state, and the moving average.
        saved_bytes: what the forward of one image saves for the backward.
    """

    fixed_seconds: float
    image_seconds: float
    step_seconds: float
    gradient_bytes: int
    state_bytes: int
    saved_bytes: float

    def seconds(self, num_images: int) -> float:
        """Returns the seconds of a micro-batch."""
        return self.fixed_seconds + num_images * self.image_seconds


@dataclass(frozen=True)
class Link:
    """What connects ranks: a message of n bytes takes `latency + n / bandwidth` seconds.

    Attributes:
        latency: in seconds.
        bandwidth: in bytes a second.

    Example:
        >>> Link(latency=0.5, bandwidth=100.0).seconds(200, messages=2)
        3.0
    """

    latency: float
    bandwidth: float

    def seconds(self, num_bytes: float, *, messages: int) -> float:
        """Returns the seconds that `num_bytes` bytes in `messages` messages take."""
        return messages * self.latency + num_bytes / self.bandwidth


@dataclass(frozen=True)
class Links:
    """The links of a run.

    Attributes:
        replicas: between the ranks that train one peer; that of the slowest such group.
        all_ranks: between all ranks.
    """

    replicas: Link
    all_ranks: Link


def profile_peers(recipe: Recipe, environment: Environment, info: DataInfo) -> dict[str, PeerProfile]:
    """Measures every peer on all ranks at the same time, as in a training; its profile is that of the slowest rank.

    Collective: all ranks must call it.

    Raises:
        RecipeError: a model or its weights cannot be loaded, it cannot take the images, or its optimizer cannot be built.
    """
    return {name: _profile_peer(recipe, environment, info, name) for name in recipe.peers}


def measure_links(group: Group, comm: Communicator) -> Links:
    """Measures the links by all-reduces. Collective: all ranks must call it."""
    local = [_measure_link(replica_comm(peer)) for peer in group.trainable]
    slowest = [max([link.latency for link in local], default=0.0), min([link.bandwidth for link in local], default=math.inf)]
    latencies, bandwidths = zip(*comm.all_gather_json(slowest), strict=True)
    return Links(replicas=Link(max(latencies), min(bandwidths)), all_ranks=_measure_link(comm))


def _measure_link(comm: Communicator) -> Link:
    if comm.size == 1:
        return Link(0.0, math.inf)
    small, large = (torch.zeros(size, device=comm.device) for size in (1, _PROBE_SIZE))
    latency = _seconds(lambda: comm.all_reduce_sum(small), comm)
    seconds = _seconds(lambda: comm.all_reduce_sum(large), comm)
    sent = 2 * (comm.size - 1) / comm.size * num_bytes([large])
    return Link(latency, sent / max(seconds - latency, 1e-9))


def _profile_peer(recipe: Recipe, environment: Environment, info: DataInfo, name: str) -> PeerProfile:
    comm, spec = environment.comm, recipe.peers[name]
    frozen, channels_last = spec.frozen, recipe.channels_last_of(name)
    data_input = ModelInput(info.image_size, info.mean, info.std, channels=info.channels)
    created = create_peer_model(recipe, name, DataSpec(info.num_classes, info.class_names, data_input))
    model = created.model.to(comm.device)
    if spec.activation_checkpointing:
        checkpoint_peer_activations(recipe, name, model)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    model.train(not frozen)
    if frozen:
        model.requires_grad_(False)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = None if frozen else make_optimizer(recipe, name, model, parameters)

    def forward(images: Tensor) -> Tensor:
        with environment.autocast(spec.precision), torch.set_grad_enabled(not frozen):
            logits: Tensor = model(images)
        return logits.float().square().mean()

    def update(images: Tensor) -> None:
        loss = forward(images)
        if not frozen:
            loss.backward()

    peer_input = PeerInput(created.input, is_identity=True, channels_last=channels_last)
    batch_size = max(recipe.data.batch_size, 2)  # BatchNorm asks for two in training
    small = peer_input(torch.rand(batch_size, *created.input.shape, device=comm.device))
    large = peer_input(torch.cat([small, small]))
    try:
        forward(small)
    except (RuntimeError, ValueError, TypeError) as error:
        raise input_mismatch_error(recipe, name, small, error) from error
    times = [_seconds(partial(update, images), comm) for images in (small, large)]
    step_seconds = 0.0 if optimizer is None else _seconds(optimizer.step, comm)
    image_seconds = min(max(times[1] - times[0], 0.0), times[1] / 2) / len(small)
    return PeerProfile(
        fixed_seconds=max(times[0] - len(small) * image_seconds, 0.0),
        image_seconds=image_seconds,
        step_seconds=step_seconds,
        gradient_bytes=num_bytes(parameters),
        state_bytes=state_bytes([model] if frozen or recipe.train.ema is None else [model, model], optimizer),
        saved_bytes=saved_bytes(lambda: [forward(small)], model.parameters()) / len(small),
    )


def _seconds(run: Callable[[], object], comm: Communicator) -> float:
    """Returns the median seconds of `run` on the slowest rank; all start together."""
    times = []
    for _ in range(ROUNDS + 1):
        comm.barrier()
        synchronize(comm.device)
        start = time.perf_counter()
        run()
        synchronize(comm.device)
        times.append(time.perf_counter() - start)
    median = torch.tensor([statistics.median(times[1:])], dtype=torch.float32, device=comm.device)  # the first warms up
    return float(comm.all_gather(median).max())


def synchronize(device: torch.device) -> None:
    """Waits until `device` has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
