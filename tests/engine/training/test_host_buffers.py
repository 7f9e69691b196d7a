"""Copies of a state that later changes do not reach, in memory that is used again."""

import torch

from mutual.engine.training.host_buffers import HostBuffers

CPU = torch.device("cpu")


def state():
    weight = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    return {
        "weight": weight,
        "same": weight,
        "groups": [{"rate": 0.1, "parameters": [0, 1]}, (torch.tensor(3), "text", None)],
        "expanded": torch.ones(1, 3).expand(2, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }


def pointers(copied):
    return [copied["weight"].data_ptr(), copied["groups"][1][0].data_ptr(), copied["expanded"].data_ptr()]


def test_a_copy_is_of_this_moment():
    buffers, source = HostBuffers(CPU), state()
    expected = source["weight"].clone()
    copied = buffers.copy("a", source)
    buffers.wait()
    source["weight"].zero_()
    source["groups"][0]["rate"] = 0.2
    source["groups"][0]["parameters"].append(2)
    with torch.no_grad():
        source["parameter"].zero_()
    assert torch.equal(copied["weight"], expected)
    assert copied["weight"].stride() == expected.stride(), "in its memory format"
    assert copied["same"] is copied["weight"]
    assert copied["groups"][0] == {"rate": 0.1, "parameters": [0, 1]}
    assert copied["groups"][1][:2] == (3, "text")
    assert copied["expanded"].tolist() == [[1, 1, 1]] * 2
    assert copied["parameter"].tolist() == [1, 1]
    assert isinstance(copied["parameter"], torch.nn.Parameter)


def test_memory_is_used_again():
    buffers = HostBuffers(CPU)
    first = pointers(buffers.copy("a", state()))
    other = pointers(buffers.copy("b", state()))
    assert pointers(buffers.copy("a", state())) == first
    assert not {*first} & {*other}, "what is under another key is kept"
    assert buffers.copy("a", {"weight": torch.zeros(5)})["weight"].tolist() == [0] * 5, "of another shape it is new"


def test_keys_that_read_alike_are_different():
    copied = HostBuffers(CPU).copy("a", {1: torch.tensor(1), "1": torch.tensor(2), "b": {"c": torch.tensor(3)}, "b/c": torch.tensor(4)})
    assert copied == {1: 1, "1": 2, "b": {"c": 3}, "b/c": 4}


def test_memory_may_be_reserved_before():
    buffers, source = HostBuffers(CPU), state()
    buffers.reservation("a", source)()
    reserved = {path: buffer.data_ptr() for path, (_, buffer) in buffers._buffers.items()}
    assert len(reserved) == 4
    copied = buffers.copy("a", source)
    assert {*pointers(copied)} <= {*reserved.values()}
    assert torch.equal(copied["weight"], source["weight"])
