"""Lists of tensors that are made once stay true, and what a step touches by them is what it touched by walking."""

import copy

import pytest
import torch
from support import TinyNet
from torch import nn

from mutual.group import MovingAverage
from mutual.group.peers import seed_generators
from mutual.group.peers.tensor_slots import buffer_slots, copies_of, parameter_slots, replaced, tensors_in


class Tied(TinyNet):
    """Two names for one layer, and a buffer of whole numbers."""

    def __init__(self):
        super().__init__(4, 1, norm=True)
        self.again = self.head
        self.register_buffer("count", torch.tensor(3))


def test_a_tensor_that_several_modules_hold_is_named_once():
    model = Tied()
    modules = list(model.modules())
    assert [id(tensor) for tensor in tensors_in(parameter_slots(modules))] == [id(parameter) for parameter in model.parameters()]
    assert [id(tensor) for tensor in tensors_in(buffer_slots(modules))] == [id(buffer) for buffer in model.buffers()]
    model.twin = nn.Linear(4, 4)
    model.twin.weight = model.head.weight
    assert len(parameter_slots(model.modules())) == len(list(model.parameters()))


def test_slots_find_what_stands_in_a_tensors_place():
    model = Tied()
    slots = [*parameter_slots(model.modules()), *buffer_slots(model.modules())]
    model.double()
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    assert {id(tensor) for tensor in tensors_in(slots)} == {id(tensor) for tensor in (*model.parameters(), *model.buffers())}


def test_what_was_replaced_comes_back_after_an_error_too():
    model = Tied()
    slots, before = buffer_slots(model.modules()), list(model.buffers())
    values = copies_of(slots)
    with replaced(slots, values):
        assert [id(buffer) for buffer in model.buffers()] == [id(value) for value in values]
        model.train()(torch.ones(2, 1, 8, 8))
    with pytest.raises(RuntimeError), replaced(slots, values):
        model(torch.ones(1))
    assert [id(buffer) for buffer in model.buffers()] == [id(buffer) for buffer in before]
    assert model.norm.num_batches_tracked == 0
    assert sum(value.equal(torch.tensor(1)) for value in values) == 1, "the copies have counted"


def test_an_average_follows_weights_and_buffers_that_are_replaced():
    model = Tied()
    average = MovingAverage(model, decay=0.75)
    for update in range(3):
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor += 1
        expected = {
            key: 0.75 * value + 0.25 * model.state_dict()[key] if value.is_floating_point() else value
            for key, value in average.model.state_dict().items()
        }
        average.update(model, update=update)
        for key, value in average.model.state_dict().items():
            torch.testing.assert_close(value, expected[key], msg=key)
        model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    other = Tied()
    average.update(other, update=3)
    before = average.model.head.weight.clone()
    average.update(other, update=4)
    torch.testing.assert_close(average.model.head.weight, 0.75 * before + 0.25 * other.head.weight)


def test_draws_are_those_of_manual_seed():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(1)
    seed_generators(7, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("device", "calls"), [("cpu", []), ("cuda:0", ["cuda"]), ("mps", ["all"])])
def test_generators_of_devices_that_are_not_in_use_are_left_alone(device, calls, monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: seeded.append("cuda"))
    monkeypatch.setattr(torch, "manual_seed", lambda seed: seeded.append("all"))
    seed_generators(7, torch.device(device))
    assert seeded == calls
