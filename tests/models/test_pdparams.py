"""Paddle's weights: what paddle.save writes is read, and nothing in a file runs, whatever it asks for."""

import collections
import copyreg
import errno
import functools
import os
import pickle
import pickletools
import random
import struct
import time

import numpy as np
import pytest
import torch
from paddle_files import GOLDEN, write_pdparams
from support import run
from torch import nn

from mutual.models import load_weights
from mutual.models.paddleclas.pdparams import pdparams_bytes
from mutual.models.reading import read_tensors

STATE = {"fc.weight": np.arange(6, dtype=np.float32).reshape(3, 2), "fc.bias": np.ones(2, np.float32), "bn._mean": np.zeros(4, np.float32)}
NAMES = {"fc.weight", "fc.bias", "bn.running_mean"}


def written(tmp_path, content, name="net.pdparams"):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def refused(path, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def small_net():
    """That of which paddle.save wrote the golden files."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4))


@pytest.mark.parametrize("kind", ["protocol2", "protocol4", "nested", "bfloat16"])
def test_what_paddle_saved_is_read(kind):
    net = small_net()
    prefix = {"nested": "model."}.get(kind, "auto")
    load_weights(net, GOLDEN / f"paddle_{kind}.pdparams", prefix=prefix)
    assert net[0].weight.abs().sum() > 0
    assert torch.equal(net[1].running_var, torch.ones(4))
    expected = small_net()
    load_weights(expected, GOLDEN / "paddle_protocol4.pdparams")
    for name, tensor in net.state_dict().items():
        exact = kind != "bfloat16"
        torch.testing.assert_close(tensor, expected.state_dict()[name], rtol=0 if exact else 2**-7, atol=0 if exact else 1e-3)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8", "<i8", "|b1", "|u1"])
def test_every_protocol_and_kind_of_numbers(tmp_path, protocol, dtype):
    state = {"a": np.arange(12).reshape(3, 4).astype(dtype), "b": np.asfortranarray(np.arange(12).reshape(3, 4).astype(dtype)),
             "c": np.array(3).astype(dtype), "d": np.zeros((0, 2), dtype)}  # fmt: skip
    (found,) = read_tensors(write_pdparams(tmp_path / "net.pdparams", state, protocol=protocol)).values()
    for name, array in state.items():
        assert np.array_equal(found[name].numpy(), array)
        assert found[name].numpy().dtype == array.dtype.newbyteorder("=")


def test_the_older_form_and_that_of_single_tensors(tmp_path):
    for state in ({name: ("linear_0.w_0", array) for name, array in STATE.items()}, collections.OrderedDict(STATE)):
        groups = read_tensors(written(tmp_path, pickle.dumps(state, 2)))
        assert {*groups[""]} == NAMES
        assert torch.equal(groups[""]["fc.weight"], torch.from_numpy(STATE["fc.weight"]))


def test_what_python_2_wrote(tmp_path):
    """Its texts and bytes are of one kind."""
    data = np.array([1.5, -2.0], np.float32)
    content = (
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08"
        + data.tobytes() + b"tbs."
    )  # fmt: skip
    assert torch.equal(read_tensors(written(tmp_path, content))[""]["w"], torch.from_numpy(data))


def test_large_tensors_that_are_cut_are_joined(tmp_path):
    state = {"w@@.0": np.arange(4, dtype=np.float32), "w@@.1": np.arange(4, 6, dtype=np.float32)}
    cut = {"w": {"OriginShape": (2, 3), "slices": ["w@@.0", "w@@.1"]}}
    path = written(tmp_path, pickle.dumps({**state, "UnpackBigParamInfor@@": cut}, 2))
    assert torch.equal(read_tensors(path)[""].pop("w"), torch.arange(6.0).reshape(2, 3))
    for wrong in (
        {"OriginShape": (2, 3), "slices": ["w@@.0"] * 2},
        {"OriginShape": (7, 7), "slices": ["w@@.0"]},
        {"slices": [1]},
        3,
        {"OriginShape": (4, "x"), "slices": ["w@@.0"]},
    ):
        refused(written(tmp_path, pickle.dumps({**state, "UnpackBigParamInfor@@": {"w": wrong}}, 2)), "no file of plain arrays by Paddle")


class Calls:
    """Pickles to a call."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


class Setter:
    def __setstate__(self, state):
        os.environ["MUTUAL_ATTACKED"] = "1"

    def __getstate__(self):
        return {"a": 1}


ATTACKS = {
    "os.system": (Calls(os.system, "touch attacked"), r"it needs the code of (posix|nt)\.system, which does not run here"),
    "eval": (Calls(eval, "open('attacked', 'w')"), r"it needs the code of (__builtin__|builtins)\.eval"),
    "the form of static graphs": (Calls(eval, "data", {"data": STATE["fc.bias"]}), r"it needs the code of (__builtin__|builtins)\.eval"),
    "getattr": (Calls(getattr, "a", "b"), r"it needs the code of (__builtin__|builtins)\.getattr"),
    "copyreg": (Calls(copyreg._reconstructor, object, object, None), r"(copyreg|copy_reg)\._reconstructor"),
    "numpy.load": (Calls(np.load, "attacked.npy"), r"it needs the code of numpy.*load"),
    "a file": (Calls(np.fromfile, "/etc/hostname"), r"it needs the code of numpy.*fromfile"),
    "a partial": (functools.partial(os.system, "touch attacked"), r"it needs the code of functools\.partial"),
    "an object with a state": (Setter(), "it needs the code of|instruction NEWOBJ"),
    "a class": (collections.Counter, r"it needs the code of collections\.Counter"),
    "an array of objects": (np.array([Calls(os.system, "touch attacked")], object), "posix.system|nt.system|an array of O8"),
    "an array of nothing": (np.array([None], object), "it holds an array of O8, not of numbers"),
    "records": (np.zeros(2, [("a", "f4"), ("b", "O")]), "it holds an array of V12|an array of"),
    "texts": (np.array(["a", "bc"]), "it holds an array of U2, not of numbers"),
    "times": (np.array(["2020-01-01"], "M8[D]"), "it holds an array of M8"),
    "a masked array": (np.ma.array([1.0]), r"it needs the code of numpy.*ma"),
    "a scalar": (np.float64(3), r"it needs the code of numpy.*scalar"),
    "memory": (Calls(bytearray, 2**50), r"it needs the code of (__builtin__|builtins)\.bytearray"),
    "torch": (torch.zeros(2), r"it needs the code of torch"),
    "a set": ({1, 2}, "EMPTY_SET|builtins?(__)?.set"),
    "numbers as names": ({3: 4}, "keys that are no names"),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("attack", ATTACKS)
def test_whatever_else_a_file_holds_is_named_and_does_not_run(tmp_path, monkeypatch, attack, protocol):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MUTUAL_ATTACKED", raising=False)
    payload, message = ATTACKS[attack]
    for content in ({**STATE, "extra": payload}, {"extra": {"deep": [payload]}, **STATE}, payload):
        path = written(tmp_path, pickle.dumps(content, protocol))
        refused(path, message)
        assert [*tmp_path.iterdir()] == [path]
        assert "MUTUAL_ATTACKED" not in os.environ


def array_bytes(
    shape=b"K\x02\x85", dtype=b"X\x02\x00\x00\x00f4", state=b"K\x03X\x01\x00\x00\x00<NNN", data=b"B\x08\x00\x00\x00" + bytes(8)
):
    """The instructions for an array, of which parts are replaced."""
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR(K\x01" + shape
        + b"cnumpy\ndtype\n" + dtype + b"\x89\x88\x87R(" + state + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + data + b"tb"
    )  # fmt: skip


def entry(value):
    return b"\x80\x04}X\x01\x00\x00\x00w" + value + b"s."


LAUGHS = b")\x94" + b"".join(b"h" + bytes([n]) + b"\x86\x94" for n in range(200))  # each holds the one before twice
BOMBS = {
    "a text longer than the file": (entry(b"X" + struct.pack("<I", 2**32 - 1) + b"abc"), "."),
    "bytes longer than the file": (entry(b"\x8e" + struct.pack("<Q", 2**40) + b"abc"), "."),
    "bytes longer than any": (entry(b"\x8e" + struct.pack("<Q", 2**64 - 1) + b"abc"), "."),
    "a bytearray longer than the file": (entry(b"\x96" + struct.pack("<Q", 2**40) + b"abc"), "."),
    "a frame longer than the file": (b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.", "no tensors by name"),
    "a number of a thousand digits": (entry(b"L" + b"9" * 1000 + b"L\n"), "instruction LONG"),
    "a far memo": (entry(b"Nr\xff\xff\xff\x7f"), "holds no weights"),
    "an unknown memo": (entry(b"h\x07"), "."),
    "tuples of tuples as a name": (b"\x80\x04}" + LAUGHS + b"Ns.", "keys that are no names"),
    "tuples of tuples as a kind": (entry(array_bytes(dtype=LAUGHS)), "an array of another kind"),
    "tuples of tuples as a function": (entry(LAUGHS + LAUGHS + b"\x93"), "."),
    "tuples of tuples as a shape": (entry(array_bytes(shape=LAUGHS)), "a shape that none has"),
    "nested lists": (entry(b"]" * 50_000 + b"a" * 49_999), "holds no weights"),
    "nested tuples": (entry(b")" + b"\x85" * 50_000), "holds no weights"),
    "a huge shape": (entry(array_bytes(shape=b"\x8a\x06" + b"\xff" * 5 + b"\x7f" + b"\x85")), "an array of the shape .* with 8 bytes"),
    "a shape beyond 64 bits": (entry(array_bytes(shape=b"\x8a\x09" + b"\xff" * 8 + b"\x7f" + b"\x85")), "a shape that none has"),
    "a negative shape": (entry(array_bytes(shape=b"J\xfe\xff\xff\xff\x85")), "a shape that none has"),
    "negative shapes": (entry(array_bytes(shape=b"J\xff\xff\xff\xffJ\xfe\xff\xff\xff\x86")), "a shape that none has"),
    "forty dimensions": (entry(array_bytes(shape=b"(" + b"K\x01" * 40 + b"t")), "a shape that none has"),
    "too few bytes": (entry(array_bytes(shape=b"K\x03\x85")), r"an array of the shape \(3,\) with 8 bytes"),
    "objects behind a plain kind": (entry(array_bytes(dtype=b"X\x01\x00\x00\x00O")), "an array of O, not of numbers"),
    "a list of objects as numbers": (entry(array_bytes(data=b"]")), "an array without numbers"),
    "fields behind a plain kind": (entry(array_bytes(state=b"K\x03X\x01\x00\x00\x00|N)}")), "an array of records"),
    "a subarray behind a plain kind": (entry(array_bytes(state=b"K\x03X\x01\x00\x00\x00|)NN")), "an array of records"),
    "an unknown order": (entry(array_bytes(state=b"K\x03X\x01\x00\x00\x00?NNN")), "an array of records"),
    "an array without numbers": (entry(b"cnumpy.core.multiarray\n_reconstruct\n)R"), "an array without numbers"),
    "a class as a function": (entry(b"cnumpy\nndarray\n)R"), "calls what is no function"),
    "a text as a function": (entry(b"X\x01\x00\x00\x00a)R"), "calls what is no function"),
    "an array as a function": (entry(array_bytes() + b")R"), "calls what is no function"),
    "arguments that are no tuple": (entry(b"cnumpy\ndtype\n]R"), "calls what is no function"),
    "a kind with half a state": (entry(b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R)b"), "the state of what is no array"),
    "an array with half a state": (entry(b"cnumpy.core.multiarray\n_reconstruct\n)R)b"), "the state of what is no array"),
    "an array whose state is none": (entry(b"cnumpy.core.multiarray\n_reconstruct\n)RX\x05\x00\x00\x00abcdeb"), "the state of"),
    "a text in another encoding": (entry(b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR"), "encodes what are no bytes"),
    "bytes of a number": (entry(b"c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R"), "makes bytes of something else"),
    "an end of a text": (entry(b"X\x01\x00\x00\x00aNa"), "appends to what is no list"),
    "a state of a dict": (entry(b"}}b"), "the state of what is no array"),
    "an entry of a text": (b"\x80\x04NNNs.", "an entry of what is no dict"),
    "an extension": (entry(b"\x82\x01"), "."),
    "an identifier": (entry(b"Pevil\n"), "instruction PERSID"),
    "an instance": (entry(b"(ios\nsystem\n"), "instruction INST"),
    "the code of a name with line breaks": (entry(b"cos\x0b\x1b[31m\nsystem\n"), r"it needs the code of os\\x0b\\x1b\[31m"),
    "a dict in itself": (b"\x80\x04}\x94X\x01\x00\x00\x00wh\x00s.", "holds no weights"),
    "a dict at several places": (b"\x80\x04}X\x01\x00\x00\x00a}\x94sX\x01\x00\x00\x00bh\x00s.", "a dict at several places"),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_asks_for_memory_or_time_is_one_line(tmp_path, bomb):
    content, message = BOMBS[bomb]
    began = time.process_time()
    refused(written(tmp_path, content), message)
    assert time.process_time() - began < 10


@pytest.mark.slow
def test_what_asks_for_memory_gets_none(tmp_path):
    """Under a limit: 64 MB more than are in use."""
    for name, (content, _) in BOMBS.items():
        written(tmp_path, content, f"{name}.pdparams")
    code = f"""
import pathlib, resource
from mutual.models.reading import read_tensors
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
for path in sorted(pathlib.Path({str(tmp_path)!r}).glob("*.pdparams")):
    try:
        read_tensors(path)
    except ValueError:
        print("refused", path.stem)
"""
    assert run("snippet", code).stdout.count("refused ") == len(BOMBS)


def test_the_same_bytes_make_one_array_not_many(tmp_path):
    data = b"B" + struct.pack("<I", 8000) + bytes(8000)
    first = array_bytes(shape=b"M\xd0\x07\x85", data=data + b"\x94")
    more = b"".join(b"X\x02\x00\x00\x00" + f"{n:02}".encode() + array_bytes(shape=b"M\xd0\x07\x85", data=b"h\x00") for n in range(50))
    refused(written(tmp_path, b"\x80\x04}(X\x01\x00\x00\x00w" + first + more + b"u."), "its arrays are larger than the file")


def test_a_file_with_endless_instructions_is_one_line(tmp_path):
    refused(written(tmp_path, b"\x80\x04" + b"N" * 1_100_000 + b"."), "more than 1,000,000 instructions")


@pytest.mark.parametrize("begin", [b"\x80\x04c", b"\x80\x04}cnumpy\n", b"\x80\x00}I", b"\x80\x00}V"])
def test_a_line_without_an_end_is_not_searched_for_one(tmp_path, begin):
    """A sparse file has as many zeros as it likes and no size on the disk."""
    path = written(tmp_path, begin)
    os.truncate(path, 2**33)
    began = time.process_time()
    refused(path, "no file of plain arrays")
    assert time.process_time() - began < 2


def test_names_of_tensors_do_not_leave_their_line(tmp_path):
    model = nn.Linear(2, 2)
    path = write_pdparams(
        tmp_path / "net.pdparams", {"weight": np.zeros((2, 2)), "bias": np.zeros(2), "w\n\x1b[31m" + "x" * 500: np.zeros(2)}
    )
    with pytest.raises(ValueError, match=r"1 unexpected \(w\\n\\x1b\[31mx+\.\.\.\)") as caught:
        load_weights(model, path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello", "no file of plain arrays"),
        (b"\x80\x02}q\x00.", "holds no weights"),
        (b"\x80\x02K\x01.", "no tensors by name"),
        (pickle.dumps(STATE["fc.bias"]), "no tensors by name"),
        (b"PK\x03\x04" + bytes(50), "an archive, such as torch.save writes; call it .pt"),
        (b"\x08\x00\x00\x00__model__", "no file of plain arrays"),
    ],
)
def test_files_of_another_kind_are_one_line(tmp_path, content, message):
    refused(written(tmp_path, content), message)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_under_that_name_is_one_line(tmp_path, zipped):
    torch.save({"w": torch.zeros(2)}, tmp_path / "net.pdparams", _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "net.pdparams", "call it .pt" if zipped else "no file of plain arrays|no tensors by name")


@pytest.mark.parametrize("suffix", [".pdopt", ".pdstates", ".pdiparams", ".pdmodel"])
def test_what_paddle_writes_beside_weights_is_named(tmp_path, suffix):
    path = written(tmp_path, pickle.dumps(STATE), f"net{suffix}")
    refused(path, "of Paddle's.*; the model's weights are in a .pdparams")


def test_a_damaged_file_is_one_line_or_another_model(tmp_path):
    whole = write_pdparams(tmp_path / "net.pdparams", STATE, protocol=2).read_bytes()
    dice = random.Random(0)
    for trial in range(300):
        content = bytearray(whole)
        if trial % 2:
            del content[dice.randrange(len(content)) :]
        else:
            content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        path = written(tmp_path, bytes(content))
        try:
            read_tensors(path)
        except ValueError as error:
            assert "\n" not in str(error), trial  # noqa: PT017
            assert str(path) in str(error), trial  # noqa: PT017


def test_what_says_nothing_of_the_file_goes_up_as_it_is(tmp_path, monkeypatch):
    path = write_pdparams(tmp_path / "net.pdparams", STATE)
    for error in (OSError(errno.EIO, "Input/output error"), MemoryError()):

        def fail(*_arguments, error=error):
            raise error

        monkeypatch.setattr("mutual.models.reading.read_pdparams", fail)
        with pytest.raises(type(error)) as caught:
            read_tensors(path)
        assert caught.value is error


def test_what_is_written_is_what_pickle_makes_of_it(tmp_path):
    """Python's own unpickler reads it, as paddle.load does; ours, too."""
    tensors = {
        "a.weight": torch.randn(3, 4, 1, 1),
        "b": torch.tensor(2.5),
        "c": torch.arange(3),
        "é": torch.zeros(0, 2),
        "h": torch.ones(2).half(),
    }
    content = pdparams_bytes(tensors)
    pickletools.dis(content, out=open(os.devnull, "w"))  # noqa: SIM115 PTH123
    found, ours = pickle.loads(content), read_tensors(written(tmp_path, content))[""]
    assert list(found) == list(ours) == list(tensors)
    for name, tensor in tensors.items():
        assert isinstance(found[name], np.ndarray)
        assert found[name].dtype == tensor.numpy().dtype
        assert np.array_equal(found[name], tensor.numpy())
        assert torch.equal(ours[name], tensor)


def test_a_kind_without_an_order_is_that_of_a_small_machine(tmp_path):
    content = array_bytes(data=b"B\x08\x00\x00\x00" + struct.pack("<2f", 1.5, -2))
    start = content.index(b"(K\x03")
    content = content[:start] + content[content.index(b"b\x89", start) + 1 :]
    assert torch.equal(read_tensors(written(tmp_path, entry(content)))[""]["w"], torch.tensor([1.5, -2.0]))


def test_weights_that_are_not_averaged(tmp_path):
    """Where a training keeps an average, PaddleClas writes that as .pdparams, and what is trained as .pdema."""
    assert {*read_tensors(written(tmp_path, pickle.dumps(STATE), "net.pdema"))[""]} == NAMES
