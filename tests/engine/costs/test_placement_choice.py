"""The choice of a placement leaves nothing behind of what it has measured."""

import gc
import weakref

import pytest
import torch
from support import tiny_document

from mutual.engine.costs import benchmark, placement_choice
from mutual.engine.costs.memory import release_memory, saved_bytes
from mutual.engine.runtime import Environment
from mutual.group import Communicator
from mutual.recipe import parse_recipe

TWO = Communicator(0, 2, torch.device("cpu"))


@pytest.fixture
def built(monkeypatch):
    """Weak references to the tensors of every training that is built to be measured."""
    references = []
    build_training = benchmark.build_training

    def build_and_note(*arguments):
        training = build_training(*arguments)
        peers = training.group.peers.values()
        tensors = [tensor for peer in peers for module in peer.modules for tensor in module.state_dict(keep_vars=True).values()]
        references.extend(map(weakref.ref, [*tensors, *(each.optimizer for each in training.optimizers.values())]))
        return training

    monkeypatch.setattr(benchmark, "build_training", build_and_note)
    return references


def test_no_tensor_that_was_measured_with_survives_the_choice(built, monkeypatch, capsys):
    """Each placement's training is built once, in this process for both, and gone when the one that is trained is built."""
    monkeypatch.setattr(placement_choice, "ROUNDS", 1)
    document = tiny_document(placement="auto", train={"epochs": 1, "ema": 0.5})
    recipe = placement_choice.resolve_placement(parse_recipe(document), Environment(None, TWO, "no"))
    assert recipe.placement in capsys.readouterr().out
    assert len(built) > 2 * 2 * 12
    assert not [reference() for reference in built if reference() is not None]


def test_what_is_saved_for_a_backward_is_freed_when_it_was_counted():
    """Also what an operation saves of its own output."""
    linear = torch.nn.Linear(3, 4)
    outputs = []

    def run():
        output = torch.tanh(linear(torch.ones(2, 3)))
        outputs.append(weakref.ref(output))
        return [output]

    assert saved_bytes(run, linear.parameters()) == 4 * (2 * 3 + 2 * 4)
    gc.collect()
    assert outputs[0]() is None


@pytest.mark.parametrize(("device", "calls"), [("cpu", 0), ("cuda", 1)])
def test_a_gpus_memory_is_given_back(device, calls, monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(device))
    release_memory(torch.device(device))
    assert len(emptied) == calls
