"""Other people's weights files: loaded rightly, or refused in one line; never a hang, and nothing in them runs."""

import argparse
import errno
import os
import pathlib
import pickle
import random
import warnings
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support import run
from torch import nn

from mutual.models import ModelCard, create_model, load_weights, model_bytes, read_card
from mutual.models.reading import read_tensors


def net(seed=1):
    torch.manual_seed(seed)
    return create_model("small_cnn", num_classes=4, in_channels=1)


STATE = net().state_dict()
FIRST = next(iter(STATE))


def floats(change):
    return {name: change(value) if value.is_floating_point() else value for name, value in STATE.items()}


def refused(path, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(net(), path)
    assert "\n" not in str(caught.value)


class Marked:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": STATE, "best_acc": np.float64(93.1), "epoch": np.int64(3), "history": np.arange(3)},
        {"model": STATE, "args": argparse.Namespace(lr=0.1, output=pathlib.Path("x")), "counts": Counter("aab")},
        OrderedDict(model=OrderedDict(state_dict=OrderedDict(STATE))),
        {name: nn.Parameter(value, requires_grad=False) for name, value in STATE.items()},
        floats(torch.Tensor.double),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_what_stands_beside_the_weights_does_not_matter(tmp_path, content, zipped):
    torch.save(content, tmp_path / "net.pt", _use_new_zipfile_serialization=zipped)
    model = net(seed=2)
    load_weights(model, tmp_path / "net.pt")
    for name, value in STATE.items():
        assert torch.equal(model.state_dict()[name], value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_narrower_floats_are_widened(tmp_path, dtype):
    torch.save(floats(lambda value: value.to(dtype)), tmp_path / "net.pt")
    model = net(seed=2)
    load_weights(model, tmp_path / "net.pt")
    for name, value in STATE.items():
        expected = value.to(dtype).to(value.dtype) if value.is_floating_point() else value
        assert torch.equal(model.state_dict()[name], expected)


def nested_in_itself(key):
    content: dict = {}
    content[key] = {"model": content}
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (nested_in_itself("state_dict"), "holds no weights"),
        (nested_in_itself("model"), "holds no weights"),
        ({}, "holds no weights"),
        ([STATE], "holds no weights"),
        (torch.ones(3), "holds no weights"),
        ({0: torch.ones(2)}, "holds tensors under 0, which is no name"),
        ({**STATE, ("a", 1): torch.ones(2)}, "which is no name"),
        (net(), r"it needs the code of mutual.models.small_cnn.SmallCNN, which does not run here; save the model's state_dict\(\)"),
        ({**STATE, FIRST: STATE[FIRST].to_sparse()}, f"{FIRST} is sparse"),
        ({**STATE, FIRST: STATE[FIRST].to("meta")}, f"{FIRST} is without values"),
        ({**STATE, FIRST: STATE[FIRST].to(torch.complex64)}, f"{FIRST} is of complex64, the model's of float32"),
        ({**STATE, FIRST: STATE[FIRST].to(torch.int8)}, f"{FIRST} is of int8, the model's of float32"),
        ({**STATE, FIRST: STATE[FIRST] * float("nan")}, f"{FIRST} is not finite in float32 .144 of 144"),
        ({**STATE, FIRST: STATE[FIRST].double() * 1e300}, f"{FIRST} is not finite in float32"),
        ({**STATE, FIRST: torch.zeros(1).expand(10**12)}, "other shapes"),
        ({**STATE, list(STATE)[-1]: torch.tensor(1.0)}, "other shapes"),
    ],
)
def test_odd_contents_are_one_line(tmp_path, content, message):
    torch.save(content, tmp_path / "net.pt")
    refused(tmp_path / "net.pt", message)


def test_a_quantized_tensor_is_one_line(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, which is about to drop them
        quantized = torch.quantize_per_tensor(STATE[FIRST], 0.1, 0, torch.qint8)
        torch.save({**STATE, FIRST: quantized}, tmp_path / "net.pt")
        refused(tmp_path / "net.pt", f"{FIRST} is quantized")


def test_infinite_buffers_are_weights_like_others(tmp_path):
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.full((2, 2), float("-inf")))
    torch.save(model.state_dict(), tmp_path / "net.pt")
    load_weights(model, tmp_path / "net.pt")
    model.weight.data[0, 0] = float("inf")
    torch.save(model.state_dict(), tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"weight is not finite in float32 \(1 of 4 values\)"):
        load_weights(model, tmp_path / "net.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_runs_that_a_file_names(tmp_path, zipped):
    torch.save({"state_dict": STATE, "extra": Marked(str(tmp_path / "ran"))}, tmp_path / "net.pt", _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "net.pt", "no torch checkpoint of plain tensors")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"hello", b"PK", b"PK\x03\x04" + bytes(50), b"\x1f\x8b\x08" + b"1" * 30, b"\x80\x02}q\x00.", b"x" * 2000]
)
def test_files_of_another_kind_are_one_line(tmp_path, content, suffix):
    (tmp_path / f"net{suffix}").write_bytes(content)
    refused(tmp_path / f"net{suffix}", "is empty|is no torch checkpoint|is no whole safetensors file")


def test_programs_and_bombs_are_one_line(tmp_path):
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "net.pt")
    refused(tmp_path / "net.pt", "it is a TorchScript program; save the model's state_dict")
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(10**7))
    refused(tmp_path / "bomb.pt", "larger than the file")


class Huge:
    """Asks for more memory than there is when it is unpickled."""

    def __reduce__(self):
        return bytearray, (2**50,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_small_file_that_asks_for_much_memory_is_one_line(tmp_path, zipped):
    torch.save({**STATE, "huge": Huge()}, tmp_path / "net.pt", _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "net.pt", "it holds a bytearray")


def test_a_text_that_is_longer_than_its_file_takes_no_memory(tmp_path):
    """Under a limit of memory, as the file's word for it is 4 GB."""
    head = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {"little_endian": True}]
    text = b"\x80\x02X" + (2**32 - 1).to_bytes(4, "little") + b"abc."
    (tmp_path / "net.pt").write_bytes(b"".join(pickle.dumps(each, 2) for each in head) + text)
    code = f"""
import pathlib, resource
from mutual.models.reading import read_tensors
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
read_tensors(pathlib.Path({str(tmp_path / "net.pt")!r}))
"""
    done = run("snippet", code, expect=1)
    assert "is no torch checkpoint of plain tensors" in done.stderr.splitlines()[-1]


SHORTAGES = [
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.EMFILE, "Too many open files"),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1000 bytes. Error code 12"),
]


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda error: str(error)[:12])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_says_nothing_of_the_file_goes_up_as_it_is(tmp_path, monkeypatch, error, suffix):
    path = tmp_path / f"net{suffix}"
    if suffix == ".pt":
        torch.save(STATE, path)
    else:
        save_file(STATE, path)

    def fail(*_arguments, **_options):
        raise error

    for place in ("torch.load", "safetensors.torch.load_file", "mutual.models.cards.safe_open"):
        monkeypatch.setattr(place, fail)
    for read in (read_tensors, read_card) if suffix == ".safetensors" else (read_tensors,):
        with pytest.raises(type(error)) as caught:
            read(path)
        assert caught.value is error


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_that_cannot_be_opened_for_want_of_descriptors_is_not_called_missing(tmp_path, monkeypatch, suffix):
    path, opened = tmp_path / f"net{suffix}", pathlib.Path.open
    path.write_bytes(b"anything")
    scarce = OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    def fail(self, *arguments, **options):
        if self == path:
            raise scarce
        return opened(self, *arguments, **options)

    monkeypatch.setattr(pathlib.Path, "open", fail)
    with pytest.raises(OSError, match="Too many open files"):
        read_tensors(path)


def test_memory_that_a_file_asks_for_beyond_its_size_is_its_own_fault(tmp_path, monkeypatch):
    torch.save(STATE, tmp_path / "net.pt")

    def fail(*_arguments, **_options):
        torch.zeros(2**60, dtype=torch.uint8)

    monkeypatch.setattr("torch.load", fail)
    refused(tmp_path / "net.pt", "is no torch checkpoint of plain tensors")


def test_what_is_no_regular_file_is_one_line_and_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "fifo.pt")
    refused(tmp_path / "fifo.pt", "no regular file")
    (tmp_path / "folder.pt").mkdir()
    refused(tmp_path / "folder.pt", "is a folder")
    refused(tmp_path / f"{'n' * 300}.pt", "cannot be read: File name too long")
    (tmp_path / "dangling.pt").symlink_to(tmp_path / "gone.pt")
    refused(tmp_path / "dangling.pt", "no weights file")


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_checkpoints_are_one_line_or_another_model(tmp_path, zipped):
    """torch does not compare the checksums that it writes into its archives; a flipped bit would go unnoticed."""
    torch.save({"state_dict": STATE, "acc": np.float64(3.0)}, tmp_path / "net.pt", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "net.pt").read_bytes()
    dice = random.Random(0)
    lines = []
    for trial in range(100):
        content = bytearray(whole)
        if trial % 2:
            del content[dice.randrange(len(content)) :]
        else:
            content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        (tmp_path / "damaged.pt").write_bytes(content)
        try:
            found = read_tensors(tmp_path / "damaged.pt")
        except ValueError as error:
            lines.append(str(error))
            continue
        if zipped:
            assert all(torch.equal(found["state_dict."][name], value) for name, value in STATE.items()), (
                "a flip that no byte of the weights had"
            )
    assert not any("\n" in line for line in lines)
    assert len(lines) >= (90 if zipped else 50)


def test_a_state_that_the_model_refuses_is_one_line(tmp_path):
    class Picky(nn.Linear):
        def _load_from_state_dict(self, *_):
            raise KeyError("of its own")

    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "net.pt")
    with pytest.raises(ValueError, match="does not load into the model: KeyError: 'of its own'"):
        load_weights(Picky(2, 2), tmp_path / "net.pt")


@pytest.mark.parametrize("place", ["tensor", "card"])
def test_one_bit_of_a_file_of_ours_is_noticed_wherever_it_lies(tmp_path, place):
    """A teacher's weights are no file of the run that reads them: they carry their own checksum."""
    net = create_model("small_cnn", num_classes=2, in_channels=1)
    card = ModelCard("small_cnn", 2, 1, (8, 8), (0.1,), (0.2,), ("cat", "dog"))
    path = tmp_path / "teacher.safetensors"
    content = bytearray(model_bytes(net, card))
    path.write_bytes(content)
    load_weights(net, path)
    where = len(content) - 3 if place == "tensor" else content.index(b"dog")
    content[where] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its contents are not those of its checksum"):
        load_weights(net, path)
