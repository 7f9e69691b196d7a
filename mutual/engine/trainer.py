"""Trainer: the training loop, from the first window to the last, wherever it was cut."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from mutual.data import DataModule
from mutual.engine.checkpoints import Checkpoints
from mutual.engine.environment import Environment
from mutual.engine.evaluation import Evaluator, Scores
from mutual.engine.folder import RunFolder
from mutual.engine.meters import NonFiniteLossError, TrainMeter
from mutual.engine.optimization import Optimization
from mutual.engine.pausing import Pausing
from mutual.engine.stopping import StoppedError, StopSignals
from mutual.engine.tracking import Tracker
from mutual.engine.updates import Updater
from mutual.engine.weights import BestWeights
from mutual.group import Group, Peer, flatten, float_buffers, unflatten_
from mutual.recipe import InputError, Recipe


@dataclass
class Progress:
    """How far a training is: the epoch under way, its windows that are done, and all updates that are done."""

    epoch: int = 0
    window: int = 0
    update: int = 0


class Trainer:
    """Trains the group; everything it needs is built and handed in."""

    def __init__(
        self,
        recipe: Recipe,
        environment: Environment,
        data: DataModule,
        group: Group,
        optimizations: Mapping[str, Optimization],
        folder: RunFolder,
    ) -> None:
        self.recipe = recipe
        self.world = environment.world
        self.data = data
        self.group = group
        self.optimizations = optimizations
        self.progress = Progress()
        self.scores: Scores = {}
        self._environment = environment
        self._plan = {"world_size": self.world.size, "accumulate": recipe.train.accumulate}
        self._num_windows = data.num_windows(**self._plan)
        self._checkpoints = Checkpoints(folder.checkpoints, keep=recipe.checkpoint.keep)
        self._best = BestWeights(recipe, folder, group, data.info)
        self._folder = folder
        self._meter = TrainMeter(group.edges, [peer.name for peer in group.trainable], self.world)
        self._pausing = Pausing(recipe.train.pause, self.world)
        updater = Updater(
            group,
            optimizations,
            self._meter,
            world=self.world,
            info=data.info,
            seed=recipe.seed,
            updates_per_epoch=self._num_windows,
            prepare=self._prepare,
            pausing=self._pausing,
        )
        self._update = updater.alternating if recipe.train.update == "alternating" else updater.simultaneous
        info, device = data.info, self.world.device
        self._evaluator = Evaluator(
            list(recipe.peers), recipe.trainable, num_classes=info.num_classes, device=device, multi_label=info.multi_label
        )

    def run(self) -> None:
        """Trains from where `progress` stands to the end.

        Raises:
            StoppedError: SIGTERM or SIGINT came; a checkpoint has been written.
            NonFiniteLossError: a loss diverged; the last good checkpoint stays.
        """
        progress, poll = self.progress, self.world.stop_poll()
        with StopSignals() as signals:
            while progress.epoch < self.recipe.train.epochs:
                self.group.train()
                self._tracker.begin_epoch(progress.epoch, done=progress.window)
                for window in self.data.train_windows(progress.epoch, start=progress.window, rank=self.world.rank, **self._plan):
                    due = self._log_due()
                    self._update(window, progress.update, measure=due)
                    progress.window += 1
                    progress.update += 1
                    self._tracker.advance()
                    if due:
                        self._log()
                    if self._checkpoint_due():
                        self._save()
                    if poll(signals.received is not None):
                        poll.drain()
                        self._stop(signals)
                if poll.drain():
                    self._stop(signals)
                self._finish_epoch()

    def resume(self, files: Mapping[str, bytes]) -> None:
        """Takes over the state that a checkpoint holds.

        Raises:
            InputError: it was written with another number of processes, or a frozen peer has other weights now.
        """
        state = torch.load(io.BytesIO(files["training.pt"]), map_location="cpu", weights_only=True)
        if state["world_size"] != self.world.size:
            raise InputError(
                f"the checkpoint was written by {state['world_size']} processes, this run has {self.world.size}; start as many as before"
            )
        self.progress = Progress(**state["progress"])
        self.scores = state["scores"]
        for name, digest in self._frozen_digests().items():
            if digest != state["frozen"][name]:
                raise self.recipe.error(f"peers.{name}.weights", "these are not the weights that the run was begun with; give the old file")
        self._meter.load_state_dict(state["meter"])
        self._best.load_state_dict(state["best"])
        for peer in self.group.trainable:
            peer.tapped.load_state_dict(safetensors.torch.load(files[f"{peer.name}.safetensors"]))
            if peer.average is not None:
                peer.average.model.load_state_dict(safetensors.torch.load(files[f"{peer.name}.average.safetensors"]))
            self.optimizations[peer.name].load_state_dict(state["optimizations"][peer.name])
            buffers = self._local_buffers(peer.name)
            if buffers:
                unflatten_(buffers, state["buffers"][peer.name][self.world.rank].to(self.world.device))

    def open_tracker(self) -> None:
        """Begins to log, at the point where the run stands."""
        self._tracker = Tracker(
            self.recipe,
            self._environment.accelerator,
            self._folder.path,
            step=self.progress.update,
            epochs_done=self.progress.epoch,
            updates_per_epoch=self._num_windows,
        )
        self._tracker.say(self._description())
        self._tracker.begin_table()

    def close(self) -> None:
        """Closes the tracker and the loaders."""
        self._tracker.close()
        self.data.close()

    def _finish_epoch(self) -> None:
        progress = self.progress
        if self._meter.pending:
            self._log()
        self.world.average_buffers([model for peer in self.group.trainable for model in self._models(peer.name)])
        epoch = progress.epoch + 1
        evaluated = epoch % self.recipe.train.eval_every == 0 or epoch == self.recipe.train.epochs
        scores = self._evaluate() if evaluated else None
        if self.world.is_main:
            self._best.write_last()
            if scores is not None:
                self._best.update(scores, epoch)
        self._tracker.log_epoch(epoch, progress.update, self._meter.end_epoch(), scores)
        progress.epoch, progress.window = epoch, 0
        every = self.recipe.checkpoint.every_epochs
        if (every is not None and epoch % every == 0) or epoch == self.recipe.train.epochs:
            self._save()

    def _evaluate(self) -> Scores:
        self.group.eval()
        batches = self.data.eval_batches(world_size=self.world.size, rank=self.world.rank)
        self.scores = self._evaluator(self.group.predict, batches, self.data.info, prepare=self._prepare)
        return self.scores

    def _log_due(self) -> bool:
        return (self.progress.update + 1) % self.recipe.train.log_every == 0 or self.progress.window + 1 == self._num_windows

    def _log(self) -> None:
        self._tracker.log_interval(self.progress.update, self._meter.flush(), self.optimizations.values(), others=self._pausing.flush())

    def _checkpoint_due(self) -> bool:
        every = self.recipe.checkpoint.every_steps
        return every is not None and self.progress.update % every == 0

    def _stop(self, signals: StopSignals) -> None:
        self._save()
        cause = signals.received.name if signals.received is not None else "a signal to another process"
        raise StoppedError(f"stopped by {cause} after step {self.progress.update}; the checkpoint is written, go on with --resume")

    def _save(self) -> None:
        """Writes a checkpoint; every process must call it, and no weights of a diverged run get into it."""
        if self._meter.pending:
            self._log()
        self._check_weights()
        buffers = {peer.name: self._local_buffers(peer.name) for peer in self.group.trainable}
        gathered = {name: self.world.gather(flatten(tensors)).cpu() for name, tensors in buffers.items() if tensors}
        if self.world.is_main:
            self._checkpoints.save(self.progress.update, self._checkpoint_files(gathered))
        self.world.barrier()

    def _check_weights(self) -> None:
        """Raises where a gradient that was not finite has reached the weights, although every loss so far was."""
        for peer in self.group.trainable:
            finite = torch.stack([parameter.isfinite().all() for parameter in peer.parameters()]).all()
            if not finite.item():
                where = f"step {self.progress.update}: the weights of peer {peer.name!r}"
                raise NonFiniteLossError(f"{where} are not finite; lower the learning rate or clip gradients")

    def _checkpoint_files(self, buffers: dict[str, Tensor]) -> dict[str, bytes]:
        state: dict[str, Any] = {
            "world_size": self.world.size,
            "progress": asdict(self.progress),
            "scores": self.scores,
            "meter": self._meter.state_dict(),
            "best": self._best.state_dict(),
            "optimizations": {name: optimization.state_dict() for name, optimization in self.optimizations.items()},
            "buffers": buffers,
            "frozen": self._frozen_digests(),
        }
        stream = io.BytesIO()
        torch.save(state, stream)
        files = {"training.pt": stream.getvalue()}
        for peer in self.group.trainable:
            files[f"{peer.name}.safetensors"] = _tensor_bytes(peer.tapped)
            if peer.average is not None:
                files[f"{peer.name}.average.safetensors"] = _tensor_bytes(peer.average.model)
        return files

    @cache  # noqa: B019 - frozen weights never change, and a trainer lives as long as its process
    def _frozen_digests(self) -> dict[str, str]:
        return {name: hashlib.sha256(_tensor_bytes(peer.tapped)).hexdigest() for name, peer in self.group.peers.items() if peer.frozen}

    def _description(self) -> str:
        info, world = self.data.info, self.world
        learners = [f"{peer.name} ({_sizes(peer)})" for peer in self.group.trainable]
        frozen = [f"{name} (frozen)" for name, peer in self.group.peers.items() if peer.frozen]
        processes = f"{world.size} process{'es' if world.size > 1 else ''} on {world.device.type}, precision {self._environment.precision}"
        data = f"{info.num_train:,} training and {info.num_val:,} validation images, {info.num_classes} classes"
        return f"{self._folder.path}: {', '.join([*learners, *frozen])}; {data}; {processes}"

    def _models(self, name: str) -> list[torch.nn.Module]:
        peer = self.group.peers[name]
        return [peer.tapped] if peer.average is None else [peer.tapped, peer.average.model]

    def _local_buffers(self, name: str) -> list[Tensor]:
        return float_buffers(self._models(name))

    def _prepare(self, images: Tensor) -> Tensor:
        if not self.recipe.train.channels_last:
            return images
        if images.dim() == 4:
            return images.contiguous(memory_format=torch.channels_last)
        return torch.stack([view.contiguous(memory_format=torch.channels_last) for view in images])


def _sizes(peer: Peer) -> str:
    model, adapters = (sum(p.numel() for p in module.parameters()) for module in (peer.model, peer.tapped.adapters))
    return f"{model:,} parameters" + (f" and {adapters:,} in adapters" if adapters else "")


def _tensor_bytes(module: torch.nn.Module) -> bytes:
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
    content: bytes = safetensors.torch.save(tensors)
    return content
