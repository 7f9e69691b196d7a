"""Checkpointer: turns the state of a training into the files of a checkpoint, and back."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from mutual.data import data_changes
from mutual.engine.evaluation import ChurnMeter
from mutual.engine.monitoring import NonFiniteLossError, Scores, TrainMeter
from mutual.engine.storage import Content, RunFolder, content_bytes, sha256, state_content, tensor_content
from mutual.engine.training.best_weights import BestWeights
from mutual.engine.training.early_stopping import EarlyStopping
from mutual.engine.training.host_buffers import HostBuffers
from mutual.engine.training.peer_collector import PeerCollector
from mutual.engine.training.peer_optimizer import PeerOptimizer
from mutual.group import Communicator, Group, Peer, flatten, float_buffers, replica_comm, unflatten_
from mutual.models import cpu_tensors
from mutual.recipe import InputError, Recipe, program_file

_TENSORS = ".safetensors"


@dataclass
class Progress:
    """How far a training is: epochs that are done, windows of the current epoch that are done, updates that are done."""

    epoch: int = 0
    window: int = 0
    update: int = 0


@dataclass(frozen=True)
class Restored:
    """The part of a checkpoint that belongs to the loop: progress, the last scores, and the lines of metrics.jsonl so far."""

    progress: Progress
    scores: Scores
    lines: list[str]


class Checkpointer:
    """Saves and restores everything that a bitwise resume needs, in either placement.

    Args:
        recipe: what is trained.
        group: the peers that this rank holds.
        optimizers: theirs, by peer.
        meter: the sums of the current epoch.
        best_weights: the best scores so far.
        early_stopping: how long no peer has improved.
        churn: the predictions of the last evaluation.
        comm: the ranks of the run.
        collector: brings peers' files to the main process.
        window_size: number of images of an update over all ranks; a resumed run must have the same.
        fingerprint: of the data; a resumed run must have the same.
    """

    def __init__(
        self,
        recipe: Recipe,
        group: Group,
        optimizers: Mapping[str, PeerOptimizer],
        meter: TrainMeter,
        best_weights: BestWeights,
        early_stopping: EarlyStopping,
        churn: ChurnMeter,
        *,
        comm: Communicator,
        collector: PeerCollector,
        window_size: int,
        fingerprint: Mapping[str, Any],
    ) -> None:
        self._recipe = recipe
        self._group = group
        self._optimizers = optimizers
        self._meter = meter
        self._best_weights = best_weights
        self._early_stopping = early_stopping
        self._churn = churn
        self._comm = comm
        self._collector = collector
        self._window_size = window_size
        self._fingerprint = dict(fingerprint)
        self._buffers = HostBuffers(comm.device)
        self._frozen_digests: dict[str, str] | None = None

    def restore(self, files: Mapping[str, bytes], folder: RunFolder) -> Restored:
        """Restores the state that a checkpoint's files hold, and returns the part that belongs to the loop.

        Args:
            files: of the checkpoint.
            folder: of the run that it is of.

        Raises:
            InputError: its updates are of another number of images, or the data or a frozen peer's weights have changed.
        """
        state = torch.load(io.BytesIO(files["training.pt"]), map_location="cpu", weights_only=True)
        if state["window_size"] != self._window_size:
            raise InputError(
                f"the checkpoint's updates are of {state['window_size']} images (batch_size x processes x accumulate), this run's of "
                f"{self._window_size}; start as many processes as before, or set data.batch_size so that they agree"
            )
        if state["data"] != self._fingerprint:
            changes = data_changes(state["data"], self._fingerprint)
            raise self._recipe.error(
                "data", f"these are not the data that the run was started with: {changes}; give them back, or --overwrite"
            )
        for name, digest in self.frozen_digests().items():
            if digest != state["frozen"][name]:
                key = "weights" if program_file(self._recipe.peers[name].model) is None else "model"
                what = "weights and classes" if name in self._group.classes else "weights"
                raise self._recipe.error(
                    f"peers.{name}.{key}", f"these are not the {what} that the run was started with; give the old file"
                )
        self._meter.load_state_dict(state["meter"])
        self._best_weights.load_state_dict(state["best"])
        if "early_stopping" in state:  # not in what earlier versions wrote
            self._early_stopping.load_state_dict(state["early_stopping"])
        self._churn.load_state_dict(state.get("predictions", {}))  # likewise
        for peer in self._group.trainable:
            peer_state = torch.load(io.BytesIO(files[f"{peer.name}.pt"]), map_location="cpu", weights_only=True)
            peer.tapped.load_state_dict(safetensors.torch.load(files[f"{peer.name}.safetensors"]))
            if peer.average is not None:
                peer.average.model.load_state_dict(safetensors.torch.load(files[f"{peer.name}.average.safetensors"]))
            self._optimizers[peer.name].load_state_dict(peer_state["optimization"])  # key kept: format 3
            buffers = float_buffers(peer.modules)
            if buffers:
                unflatten_(buffers, _local_buffers(peer_state["buffers"], replica_comm(peer)).to(self._comm.device))
        self._best_weights.check_files(folder)
        return Restored(Progress(**state["progress"]), state["scores"], state["lines"])

    def files(self, progress: Progress, scores: Scores, lines: Sequence[str]) -> dict[str, Content]:
        """Returns on the main process a checkpoint's files by name, elsewhere none. Collective: all ranks must call it.

        They are copies, to be written after `wait_for_copies`, which hold until the next call; peers of other ranks come as bytes.
        """
        state = {
            "window_size": self._window_size,
            "progress": asdict(progress),
            "scores": scores,
            "lines": list(lines),
            "data": self._fingerprint,
            "meter": self._meter.state_dict(),
            "best": self._best_weights.state_dict(),
            "early_stopping": self._early_stopping.state_dict(),
            "frozen": self.frozen_digests(),
            "predictions": self._churn.state_dict(),
        }
        files = {"training.pt": state_content(self._buffers.copy("training.pt", state))} if self._comm.is_main else {}
        buffers = {}
        for peer in self._group.trainable:
            tensors = float_buffers(peer.modules)
            buffers[peer.name] = replica_comm(peer).all_gather(flatten(tensors)) if tensors else None
        for name in self._recipe.trainable:
            for file, make in self._peer_states(name, buffers).items():
                content = self._collector.collect_to_main(name, partial(self._content, file, make))
                if content is not None:
                    files[file] = content
        return files

    def wait_for_copies(self) -> None:
        """Waits until the copies in `files` are done; in any thread."""
        self._buffers.wait()

    def reservation(self) -> Callable[[], None]:
        """Returns a function that allocates memory for the copies of `files`, after the first update; for a thread."""
        names = [name for name in self._recipe.trainable if name in self._group.peers] if self._comm.is_main else []
        no_buffers: dict[str, Tensor | None] = dict.fromkeys(names)
        states = [(file, make()) for name in names for file, make in self._peer_states(name, no_buffers).items()]
        steps = [self._buffers.reservation(file, state) for file, state in states]

        def reserve() -> None:
            for step in steps:
                step()

        return reserve

    def _peer_states(self, name: str, buffers: Mapping[str, Tensor | None]) -> dict[str, Callable[[], dict[str, Any]]]:
        """Returns by file functions that return what is saved of a peer; to be called on ranks that hold it."""
        peers, optimizers = self._group.peers, self._optimizers
        states: dict[str, Callable[[], dict[str, Any]]] = {
            f"{name}{_TENSORS}": lambda: dict(peers[name].tapped.state_dict()),
            f"{name}.pt": lambda: {"optimization": optimizers[name].state_dict(), "buffers": buffers[name]},
        }
        if self._recipe.train.ema is not None:
            states[f"{name}.average{_TENSORS}"] = lambda: dict(_average(peers[name]).state_dict())
        return states

    def _content(self, file: str, make: Callable[[], dict[str, Any]]) -> Content:
        """Returns the content of a file: on the main process of a copy, elsewhere as bytes, which are sent at once."""
        content = tensor_content if file.endswith(_TENSORS) else state_content
        return content(self._buffers.copy(file, make())) if self._comm.is_main else content_bytes(content(make()))

    def check_weights(self, update: int) -> None:
        """Checks that all weights are finite, as losses may be finite where gradients are not.

        Raises:
            NonFiniteLossError: some weights are not.
        """
        peers = self._group.trainable
        is_finite = [torch.stack([_is_finite(parameter.detach()) for parameter in peer.parameters()]).all() for peer in peers]
        flags = torch.stack(is_finite).tolist() if peers else []  # one transfer from the device
        finite = {peer.name: flag for peer, flag in zip(peers, flags, strict=True)}
        for name, all_finite in self._collector.all_gather_dict(finite).items():
            if not all_finite:
                where = f"step {update}: the weights of peer {name!r}"
                raise NonFiniteLossError(f"{where} are not finite; lower the learning rate or clip gradients")

    def frozen_digests(self) -> dict[str, str]:
        """Returns by frozen peer the sha256 of its weights, and of what else its logits depend on. Collective: all ranks must call it.

        It takes long the first time; frozen weights never change.
        """
        if self._frozen_digests is None:
            refreshed = self._recipe.exchange.reads
            frozen = {name: peer for name, peer in self._group.peers.items() if peer.frozen and name not in refreshed}
            self._frozen_digests = self._collector.all_gather_dict({name: self._digest(peer) for name, peer in frozen.items()})
        return self._frozen_digests

    def _digest(self, peer: Peer) -> str:
        content, program = _tensor_bytes(peer.tapped), program_file(self._recipe.peers[peer.name].model)
        if program is not None:  # other operators with the same weights
            content += Path(program).read_bytes()
        if peer.classes.columns is not None:
            content += json.dumps([peer.classes.columns, peer.classes.known]).encode()
        return sha256(content)


def _average(peer: Peer) -> torch.nn.Module:
    assert peer.average is not None, "the recipe has a decay"
    return peer.average.model


def _is_finite(tensor: Tensor) -> Tensor:
    """Returns whether all elements are finite, a scalar on the device."""
    if tensor.numel() == 0 or tensor.is_complex():
        return tensor.isfinite().all()
    return torch.stack(torch.aminmax(tensor)).isfinite().all()  # a NaN is both of them; on a CPU a ninth of the time of `isfinite`


def _local_buffers(buffers: Tensor, comm: Communicator) -> Tensor:
    """Returns this rank's row of the buffers `[g, ...]` that g ranks have saved; their mean where the number of ranks has changed."""
    if len(buffers) == comm.size:
        return buffers[comm.rank]
    is_equal = (buffers == buffers[0]).all(dim=0)  # as those of frozen parts are, whose mean may differ in the last bit
    return torch.where(is_equal, buffers[0], buffers.mean(dim=0))


def _tensor_bytes(module: torch.nn.Module) -> bytes:
    content: bytes = safetensors.torch.save(cpu_tensors(module))
    return content
