"""What the tests share: tiny models, tiny recipes, and how to run a verb in processes of its own."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from forks import Job
from torch import nn

from mutual.data import mixed
from mutual.engine.runtime import Environment
from mutual.engine.training import build_training
from mutual.group import Communicator, DataSpec, PeerInput, create_peer_model
from mutual.models import ModelInput
from mutual.recipe import parse_recipe

ROOT = Path(__file__).parents[1]
WORLD = Communicator(0, 1, torch.device("cpu"))
IDENTITY = PeerInput(ModelInput((8, 8), (0.0,), (1.0,), channels=1), is_identity=True)


class TinyNet(nn.Module):
    """Two convolutions without BatchNorm; computes in the precision of its weights, whatever the images' is."""

    def __init__(
        self, num_classes: int, in_channels: int, *, width: int = 4, double: bool = False, norm: bool = False, dropout: float = 0.0
    ):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.body = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, num_classes)
        if double:
            self.double()

    def forward(self, images):
        hidden = torch.tanh(self.norm(self.stem(images.to(self.stem.weight.dtype))))
        hidden = torch.tanh(self.body(hidden))
        return self.head(self.dropout(hidden.mean(dim=(2, 3))))


def tiny(num_classes, in_channels, **args):
    """The factory that recipes name `support:tiny`."""
    return TinyNet(num_classes, in_channels, **args)


def double(num_classes, in_channels, **args):
    """The same in float64: exactness then shows as equality."""
    return TinyNet(num_classes, in_channels, double=True, **args)


class EmbeddingNet(TinyNet):
    """Has no classifier: gives its features, `scale` times as large."""

    def __init__(self, in_channels, *, width=5, scale=1.0, norm=True):
        super().__init__(1, in_channels, width=width, double=True, norm=norm)
        self.head = nn.Identity()
        self.scale = scale

    def forward(self, images):
        return self.scale * super().forward(images)


def embedding(in_channels, **args):
    """The factory `support:embedding`; its net knows no classes."""
    return EmbeddingNet(in_channels, **args)


def bodied(num_classes, in_channels, **args):
    """The factory `support:bodied`: the tiny net, which for no classes gives what its classifier would be given."""
    net = TinyNet(num_classes or 1, in_channels, **args)
    if not num_classes:
        net.head = nn.Identity()
    return net


def stubborn(num_classes, in_channels):
    """The factory `support:stubborn`: its model has nine outputs, whatever it is asked for."""
    return TinyNet(9, in_channels)


def colourful(num_classes, in_channels):
    """The factory `support:colourful`: its model reads colour, whatever the data are."""
    model = TinyNet(num_classes, 3)
    model.input = {"channels": 3, "mean": [0.5]}
    return model


class _RootAtZero(torch.autograd.Function):
    """A finite value with a gradient that is not."""

    @staticmethod
    def forward(context, value):
        return value.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient / 0


class Poisoned(TinyNet):
    """Its loss is finite and its gradient is not."""

    def forward(self, images):
        return _RootAtZero.apply(super().forward(images))


def poisoned(num_classes, in_channels):
    """The factory `support:poisoned`."""
    return Poisoned(num_classes, in_channels)


class Diverging(TinyNet):
    """Its logits are infinite from the second update on."""

    forwards = 0

    def forward(self, images):
        logits = super().forward(images)
        self.forwards += self.training and len(images) > 2  # not when the group is built
        return logits if self.forwards < 2 else logits * torch.inf


def diverging(num_classes, in_channels):
    """The factory `support:diverging`."""
    return Diverging(num_classes, in_channels)


def tiny_document(**sections):
    """A recipe of two tiny peers on fake images, as a dict; `sections` replace its own. It draws no pictures unless they are asked for."""
    document = {
        "name": "tiny",
        "data": {"dataset": "fake", "num_train": 40, "num_val": 12, "image_size": 8, "channels": 1, "num_classes": 4, "batch_size": 8},
        "peers": {"a": {"model": "support:double"}, "b": {"model": "support:double"}},
        "objectives": [{"loss": "cross_entropy"}, {"loss": "dml"}],
        "optimizer": {"name": "sgd", "lr": 0.5, "momentum": 0.9},
        "schedule": {"name": "constant"},
        "train": {"epochs": 2, "progress": False},
    }
    document |= sections
    return {**document, "train": {"pictures": False, **document["train"]}}


def build(document):
    """Builds the group of a recipe, its data, and the step that trains it."""
    recipe = parse_recipe(document)
    training = build_training(recipe, Environment(None, WORLD, recipe.train.precision or "no"))
    for optimizer in training.optimizers.values():  # a scale at which tiny nets do not overflow
        optimizer.scaler = torch.amp.GradScaler("cpu", enabled=recipe.train.precision == "fp16", init_scale=2.0**10)
    return recipe, training.data, training.group, training.train_step


def initial_model(recipe, name, *, num_classes=4, class_names=()):
    """A peer's model before its first update, for grey images of 8 x 8, and the lines that building it gives."""
    data = DataSpec(num_classes, tuple(class_names), ModelInput((8, 8), (0.0,), (1.0,), channels=1))
    created = create_peer_model(recipe, name, data)
    return created.model, created.notes


def inputs_of(batch, info):
    """What a peer reads that has no input of its own, and the labels, as a plain loop computes them; mixed where the batch says so."""
    pixels, labels = mixed(batch, num_classes=info.num_classes)
    mean, std = (torch.tensor(values)[:, None, None] for values in (info.mean, info.std))
    return (pixels.float() / 255 - mean) / std, labels


def images_of_epoch(data, epoch, *, start=0, world_size=1):
    """The images of an epoch of `data` by their index, over all ranks; closes it."""
    found = {}
    for rank in range(world_size):
        for window in data.train_windows(epoch, start=start, world_size=world_size, shard=(rank, world_size), accumulate=1):
            for batch in window.batches:
                found |= {int(key[0]): image for key, image in list(zip(batch.keys_B2, batch.images, strict=True))[: batch.num_valid]}
    data.close()
    return found


def train_epochs(document, *, epochs=1):
    """Trains in this process without a run folder and returns the group."""
    recipe, data, group, train_step = build(document)
    update = 0
    group.train()
    for epoch in range(epochs):
        for window in data.train_windows(epoch, start=0, world_size=1, shard=(0, 1), accumulate=recipe.train.accumulate):
            train_step(window, update, measure=False)
            update += 1
    data.close()
    return group


def weights(group):
    """All parameters of all peers, by name."""
    return {f"{name}.{key}": value for name, peer in group.peers.items() for key, value in peer.model.state_dict().items()}


def assert_equal_weights(found, expected, *, tolerance=0.0):
    """Compares two results of `weights`."""
    assert found.keys() == expected.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=tolerance, atol=tolerance, msg=lambda text, key=key: f"{key}: {text}")


def digests(folder):
    """Hashes of everything a run is judged by: weights, last and best, and the metrics without their speeds."""
    found = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*/*.safetensors"))
    }
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.get("train", {}).pop("images_per_second", None)  # epoch 0 has scores alone
    if (folder / "test_scores.json").exists():
        found["test"] = (folder / "test_scores.json").read_text()
    return {**found, "metrics": lines, "best": json.loads((folder / "best" / "best.json").read_text())}


def charted(folder):
    """The points of a run's charts in TensorBoard: by tag, with the member behind it where it is one's."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    places = [("", folder), ("", folder / "hparams"), *((f"/{path.name}", path) for path in sorted((folder / "charts").glob("*")))]
    events = [(end, EventAccumulator(str(place)).Reload()) for end, place in places if place.exists()]
    return {f"{tag}{end}": each.Scalars(tag) for end, each in events for tag in each.Tags()["scalars"]}


def environment(**extra):
    """The environment of a subprocess: one thread, our modules importable, no launcher's variables."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "MASTER_", "WORLD_", "RANK", "LOCAL_"))
    }
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **extra}


def command(module, *arguments, processes=1):
    """The command line that runs `python -m module` in `processes` processes."""
    if processes == 1:
        return [sys.executable, "-m", module, *map(str, arguments)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [*launcher, "-m", module, *map(str, arguments)]


def run_launched(module, *arguments, processes=1, expect=0, **extra):
    """What `run` does, by the command line of a user, with torchrun where there are several processes: slower by some seconds."""
    line, variables = command(module, *arguments, processes=processes), environment(**extra)
    done = subprocess.run(line, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=600)
    assert done.returncode == expect, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def start(module, *arguments, processes=1, cwd=ROOT, prepare=None, stdout=None, **extra):
    """Starts `python -m module` in `processes` processes, forked; `prepare` is called first in the one or in rank 0."""
    words, variables = [str(argument) for argument in arguments], environment(**extra)
    return Job(module, words, cwd=cwd, variables=variables, processes=processes, prepare=prepare, stdout=stdout)


def run(module, *arguments, processes=1, cwd=ROOT, expect=0, prepare=None, timeout=600, **extra):
    """Runs a verb to its end, asserts its exit code and returns it with what it wrote."""
    job = start(module, *arguments, processes=processes, cwd=cwd, prepare=prepare, **extra)
    code = job.wait(timeout=timeout)
    assert code == expect, f"exit code {code}\n{job.stdout}\n{job.stderr}"
    return job


def run_and_kill(module, *arguments, when, number=signal.SIGKILL, processes=1):
    """Starts a verb, sends the signal to all its processes as soon as `when()` is true, and returns its exit code."""
    job = start(module, *arguments, processes=processes)
    deadline = time.monotonic() + 120
    while job.poll() is None and not when():
        assert time.monotonic() < deadline, "the moment to kill never came"
        time.sleep(0.005)
    job.kill(number)
    return job.wait(timeout=180)
