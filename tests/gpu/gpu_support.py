"""What the tests on a GPU share: trainings on a device of their choice, and a context in which the host may not wait for it."""

from contextlib import contextmanager

import torch
from support import tiny_document, weights

from mutual.engine.runtime import Environment
from mutual.engine.training import build_training
from mutual.group import Communicator
from mutual.recipe import parse_recipe


def build_on(device, document):
    """The training of a recipe on a device, without a run folder; its switches are not applied."""
    recipe = parse_recipe(document)
    return build_training(recipe, Environment(None, Communicator(0, 1, device), recipe.train.precision or "no"))


def updates(training, *, epochs=1, most=None):
    """Trains, and yields behind each update its index."""
    training.group.train()
    update = 0
    for epoch in range(epochs):
        for window in training.windows(epoch):
            training.train_step(window, update, measure=False)
            yield update
            update += 1
            if update == most:
                return


def train_on(device, document, *, epochs=1):
    """The weights of all peers, on the CPU, after some epochs on a device."""
    training = build_on(device, document)
    for _ in updates(training, epochs=epochs):
        pass
    training.close()
    return {key: value.cpu() for key, value in weights(training.group).items()}


def document_of(*, data=None, train=None, **sections):
    """The tiny recipe with more images than fill a batch, and no progress bar."""
    document = tiny_document(**sections)
    document["data"] = {**document["data"], "num_train": 37, **(data or {})}
    document["train"] = {"epochs": 2, "progress": False, "pictures": False, **(train or {})}
    return document


@contextmanager
def no_host_sync(device):
    """Context in which whatever makes the host wait for the GPU raises a RuntimeError that names it."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def assert_close(found, expected, *, tolerance):
    """Compares two dicts of weights, each to `tolerance` times its largest value, or 1."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        scale = max(float(value.abs().max()), 1.0) if value.is_floating_point() else 1.0
        torch.testing.assert_close(found[key], value, rtol=0, atol=tolerance * scale, msg=lambda text, key=key: f"{key}: {text}")
