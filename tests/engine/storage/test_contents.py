"""Files that are written piece by piece hold what the libraries' own functions write at once."""

import errno
import io

import pytest
import safetensors.torch
import torch

from mutual.engine.storage import content_bytes, state_content, tensor_content
from mutual.engine.storage import contents as module

TENSORS = {
    "weight": torch.randn(3, 4, 5).transpose(0, 2),
    "num_batches": torch.tensor(7),
    "scale": torch.tensor(0.5),
    "empty": torch.zeros(0, 3),
    "half": torch.randn(5, dtype=torch.bfloat16),
    "mask": torch.tensor([True, False, True]),
    "ü": torch.randn(2, dtype=torch.float64),
}
DTYPES = sorted(safetensors.torch._TYPES.values(), key=str)
"""What the library writes, and so buffers of users' models may be."""


def readable(tensors):
    """These tensors, but for an empty one where the library's lowest version cannot read it."""
    try:
        safetensors.torch.load(safetensors.torch.save({"empty": torch.zeros(0, 3)}))
    except ValueError:
        return {name: tensor for name, tensor in tensors.items() if name != "empty"}
    return tensors


def test_tensors_are_a_safetensors_file(monkeypatch):
    monkeypatch.setattr(module, "PIECE", 7)
    tensors = readable(TENSORS)
    loaded = safetensors.torch.load(content_bytes(tensor_content(tensors)))
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor), name


@pytest.mark.parametrize("names", [("weight", "scale", "num_batches"), ("ü", "weight", "half", "mask")])
def test_they_are_the_bytes_of_the_library(names):
    tensors = {name: TENSORS[name].contiguous() for name in names}
    assert content_bytes(tensor_content(tensors)) == safetensors.torch.save(tensors)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_every_dtype_that_the_library_knows(dtype):
    tensors = {"a": torch.tensor([0.0, 1.0, 2.0]).to(dtype)}
    assert content_bytes(tensor_content(tensors)) == safetensors.torch.save(tensors)


@pytest.mark.skipif(torch.complex64 not in DTYPES, reason="this version of safetensors knows no complex numbers")
def test_a_conjugate_is_written_as_it_reads():
    conjugate = torch.tensor([1 + 2j, 3 - 4j]).conj()
    assert torch.equal(safetensors.torch.load(content_bytes(tensor_content({"a": conjugate})))["a"], conjugate)


def test_tensors_are_read_when_they_are_written():
    tensor = torch.zeros(2)
    content = tensor_content({"a": tensor})
    tensor += 1
    assert safetensors.torch.load(content_bytes(content))["a"].tolist() == [1, 1]


def test_a_state_is_a_file_of_torch_save():
    state = {"optimizer": {0: {"average": TENSORS["weight"], "step": torch.tensor(3.0)}}, "lines": ["a"], "rate": 0.1}
    loaded = torch.load(io.BytesIO(content_bytes(state_content(state))), weights_only=True)
    assert (loaded["lines"], loaded["rate"]) == (["a"], 0.1)
    assert torch.equal(loaded["optimizer"][0]["average"], TENSORS["weight"])
    stream = io.BytesIO()
    torch.save(state, stream)
    assert content_bytes(state_content(state)) == stream.getvalue()


@pytest.mark.parametrize("number", [1, 2, 9])
def test_a_disk_that_is_full_is_said_to_be(number):
    """torch's writer says "unexpected pos" in its place."""

    class Full:
        calls = 0

        def write(self, data):
            self.calls += 1
            if self.calls == number:
                raise OSError(errno.ENOSPC, "No space left on device")
            assert self.calls < number, "nothing is written behind it"

    with pytest.raises(OSError, match="No space left"):
        state_content({"a": torch.zeros(2000), "b": torch.ones(3000)})(Full())
