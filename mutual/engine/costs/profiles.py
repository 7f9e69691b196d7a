"""Profiles: what each peer takes by itself on this machine, and what the link between the processes carries.

Predictions rest on these alone; whole updates are what `compare` measures.
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
from mutual.group import Communicator, Group, create_peer_model, input_mismatch_error, replica_comm
from mutual.recipe import Recipe

ROUNDS = 5
_PROBE_NUMBERS = 2_000_000


@dataclass(frozen=True)
class PeerProfile:
    """What one peer takes.

    Attributes:
        fixed_seconds: of a micro-batch of n images, forward and (if it is trained) backward take fixed + n * image seconds.
        image_seconds: see there.
        step_seconds: an optimizer step.
        gradient_bytes: what its ranks average; 0 if it is frozen.
        state_bytes: parameters, buffers, gradients and optimizer state, and the moving average.
        saved_bytes: what the forward of one image keeps for the backward.
    """

    fixed_seconds: float
    image_seconds: float
    step_seconds: float
    gradient_bytes: int
    state_bytes: int
    saved_bytes: float

    def seconds(self, images: int) -> float:
        """Returns what a micro-batch of so many images takes."""
        return self.fixed_seconds + images * self.image_seconds


@dataclass(frozen=True)
class Link:
    """What carries bytes between processes: a message of n bytes takes latency + n / bandwidth seconds."""

    latency: float
    bandwidth: float

    def seconds(self, sent: float, *, messages: int) -> float:
        """Returns what so many bytes in so many messages take."""
        return messages * self.latency + sent / self.bandwidth


@dataclass(frozen=True)
class Links:
    """What joins the ranks that train one peer together (of the slowest such group), and all ranks.

    Neighbouring ranks train one peer: where these stand on one machine, its gradients never leave it.
    """

    replicas: Link
    all_ranks: Link


def profile_peers(recipe: Recipe, environment: Environment, info: DataInfo) -> dict[str, PeerProfile]:
    """Returns the profile of every peer, of its slowest process; all measure the same peer at the same time, as in a training.

    Every process must call it.

    Raises:
        RecipeError: a model or its weights cannot be had, it cannot take the images, or its optimizer cannot be built.
    """
    return {name: _profile(recipe, environment, info, name) for name in recipe.peers}


def measure_links(group: Group, comm: Communicator) -> Links:
    """Returns the links as a sum over the processes finds them; every process must call it."""
    mine = [_measured_link(replica_comm(peer)) for peer in group.trainable]
    slowest = [max([link.latency for link in mine], default=0.0), min([link.bandwidth for link in mine], default=math.inf)]
    latencies, bandwidths = zip(*comm.all_gather_json(slowest), strict=True)
    return Links(replicas=Link(max(latencies), min(bandwidths)), all_ranks=_measured_link(comm))


def _measured_link(comm: Communicator) -> Link:
    if comm.size == 1:
        return Link(0.0, math.inf)
    small, large = (torch.zeros(numbers, device=comm.device) for numbers in (1, _PROBE_NUMBERS))
    latency = _seconds(lambda: comm.all_reduce_sum(small), comm)
    seconds = _seconds(lambda: comm.all_reduce_sum(large), comm)
    sent = 2 * (comm.size - 1) / comm.size * num_bytes([large])
    return Link(latency, sent / max(seconds - latency, 1e-9))


def _profile(recipe: Recipe, environment: Environment, info: DataInfo, name: str) -> PeerProfile:
    comm, frozen = environment.comm, recipe.peers[name].frozen
    model = create_peer_model(recipe, name, num_classes=info.num_classes, in_channels=info.channels).to(comm.device)
    if recipe.train.channels_last:
        model.to(memory_format=torch.channels_last)
    model.train(not frozen).requires_grad_(not frozen)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = None if frozen else make_optimizer(recipe, name, parameters)

    def forward(images: Tensor) -> Tensor:
        with environment.autocast(), torch.set_grad_enabled(not frozen):
            logits: Tensor = model(images)
        return logits.float().square().mean()

    def update(images: Tensor) -> None:
        loss = forward(images)
        if not frozen:
            loss.backward()

    number = max(recipe.data.batch_size, 2)  # BatchNorm asks for two in training
    small = torch.rand(number, info.channels, *info.image_size, device=comm.device)
    large = torch.cat([small, small])
    try:
        forward(small)
    except (RuntimeError, ValueError, TypeError) as error:
        raise input_mismatch_error(recipe, name, small, error) from error
    times = [_seconds(partial(update, images), comm) for images in (small, large)]
    step = 0.0 if optimizer is None else _seconds(optimizer.step, comm)
    image_seconds = min(max(times[1] - times[0], 0.0), times[1] / 2) / len(small)
    return PeerProfile(
        fixed_seconds=max(times[0] - len(small) * image_seconds, 0.0),
        image_seconds=image_seconds,
        step_seconds=step,
        gradient_bytes=num_bytes(parameters),
        state_bytes=state_bytes([model] if frozen or recipe.train.ema is None else [model, model], optimizer),
        saved_bytes=saved_bytes(lambda: forward(small), model.parameters()) / len(small),
    )


def _seconds(run: Callable[[], object], comm: Communicator) -> float:
    """Returns the median seconds of `run` on the slowest process; all begin together."""
    times = []
    for _ in range(ROUNDS + 1):
        comm.barrier()
        synchronize(comm.device)
        begin = time.perf_counter()
        run()
        synchronize(comm.device)
        times.append(time.perf_counter() - begin)
    mine = torch.tensor([statistics.median(times[1:])], dtype=torch.float32, device=comm.device)  # the first warms up
    return float(comm.all_gather(mine).max())


def synchronize(device: torch.device) -> None:
    """Waits until `device` has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
