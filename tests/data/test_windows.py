"""Windows whose batches are loaded when they are asked for, and how batches come to the device."""

from contextlib import contextmanager

import pytest
import torch
from support import build, tiny_document

from mutual.data import DeviceTransfer, build_data
from mutual.data.loading import transfer as transfer_module
from mutual.data.loading.dataset import TransformedDataset
from mutual.engine.training import train_step as step_module
from mutual.group import Group
from mutual.recipe import Data

PLAN = {"world_size": 1, "shard": (0, 1), "accumulate": 4}


class Journal:
    """What happens, in its order."""

    def __init__(self, monkeypatch):
        self.events = []
        load = TransformedDataset.__getitems__
        monkeypatch.setattr(TransformedDataset, "__getitems__", lambda *args: self.events.append("load") or load(*args))

    @contextmanager
    def waiting(self):
        self.events.append("wait")
        yield
        self.events.append("go on")


@pytest.fixture
def journal(monkeypatch):
    return Journal(monkeypatch)


def module(**fields):
    return build_data(Data(**{"dataset": "digits", "subset": 37, "batch_size": 4, "augment": ["horizontal_flip"], **fields}), seed=0)


def assert_same_windows(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert (one.num_samples, list(one.sizes)) == (other.num_samples, list(other.sizes))
        assert all(torch.equal(a.images, b.images) for a, b in zip(one.batches, other.batches, strict=True))


@pytest.mark.parametrize("mixing", [{}, {"mixup": 0.4}])
@pytest.mark.parametrize(("batch_size", "world_size"), [(4, 1), (1, 3), (3, 5)])
def test_sizes_are_known_beforehand(mixing, batch_size, world_size):
    data = module(batch_size=batch_size, **mixing)
    for rank in range(world_size):
        for window in data.train_windows(0, world_size=world_size, shard=(rank, world_size), accumulate=3):
            assert list(window.sizes) == [batch.num_rows for batch in window.batches] == [len(batch.keys_B2) for batch in window.batches]


def test_a_window_is_there_when_its_first_batch_is(journal):
    windows = module().train_windows(0, **PLAN, waiting=journal.waiting)
    window = next(windows)
    assert journal.events == ["load"]
    assert len(window.batches) == 4
    first, second = window.batches[0], window.batches[1]
    assert journal.events == ["load", "wait", "load", "go on"]
    assert (window.batches[0], window.batches[1]) == (first, second)
    assert window.batches[-1] is window.batches[3]
    assert journal.events.count("load") == 4
    assert window.batches[1:3] == [second, window.batches[2]]
    with pytest.raises(IndexError):
        window.batches[4]


def test_without_a_context_a_window_is_there_when_all_are(journal):
    data = module()
    window = next(data.train_windows(0, **PLAN))
    data.close()
    assert journal.events == ["load"] * 4
    assert len(list(window.batches)) == 4


@pytest.mark.parametrize("asked_for", [0, 1, 4])
def test_batches_that_were_not_asked_for_are_not_the_next_windows(asked_for, journal):
    found = []
    for window in module().train_windows(1, start=1, **PLAN, waiting=journal.waiting):
        _ = window.batches[:asked_for]
        found.append(window)
    assert_same_windows(found, module().train_windows(1, start=1, **PLAN))


@pytest.mark.slow
def test_workers_change_nothing_of_windows_on_demand(journal):
    data = module(workers=2)
    assert_same_windows(data.train_windows(0, **PLAN, waiting=journal.waiting), module().train_windows(0, **PLAN))
    data.close()


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
def test_an_update_begins_before_its_last_batch_is_loaded(update, journal, monkeypatch):
    """Alternating updates visit all of them for each peer, and so begin with all."""
    document = tiny_document(objectives=[{"loss": "cross_entropy"}, {"loss": "dml"}], train={"accumulate": 3, "update": update})
    document["data"] |= {"batch_size": 4, "num_train": 12}
    _, data, group, train_step = build(document)
    compute_losses = Group.compute_losses
    monkeypatch.setattr(Group, "compute_losses", lambda *a, **k: journal.events.append("compute") or compute_losses(*a, **k))
    window = next(data.train_windows(0, world_size=1, shard=(0, 1), accumulate=3, waiting=journal.waiting))
    group.train()
    train_step(window, 0, measure=False)
    steps = [event for event in journal.events if event in ("load", "compute")]
    assert steps == (["load", "compute"] * 3 if update == "simultaneous" else ["load"] * 3 + ["compute"] * 6)


def test_frozen_peers_take_as_many_micro_batches_as_before(journal):
    frozen = {"model": "support:tiny", "frozen": True, "forward_batch": 8}
    document = tiny_document(
        peers={"a": {"model": "support:tiny"}, "t": frozen},
        objectives=[{"loss": "kd", "sources": ["t"]}],
        train={"accumulate": 5},
    )
    document["data"] |= {"batch_size": 4, "num_train": 20}
    _, data, group, train_step = build(document)
    window = next(data.train_windows(0, world_size=1, shard=(0, 1), accumulate=5, waiting=journal.waiting))
    group.train()
    loads_at_forwards, outputs = [], group.frozen_forwards.outputs

    def noted(micro_batches):
        loads_at_forwards.append((journal.events.count("load"), len(micro_batches)))
        return outputs(micro_batches)

    group.frozen_forwards.outputs = noted
    train_step(window, 0, measure=False)
    assert loads_at_forwards == [(2, 2), (4, 2), (5, 1)]


class Stream:
    """Stands for a stream of a GPU."""

    def __init__(self, *_):
        self.waits_for = []

    def wait_stream(self, other):
        self.waits_for.append(other)


def test_copies_to_a_gpu_have_a_stream_of_their_own(monkeypatch):
    batch = next(module(mixup=0.4).train_windows(0, **PLAN)).batches[0]
    present, entered, recorded = Stream(), [], []

    @contextmanager
    def stream(chosen):
        entered.append(chosen)
        yield
        entered.append(None)

    def to(self, device, *, non_blocking):
        assert (device.type, non_blocking, len(entered)) == ("cuda", True, 1)
        return self

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: present)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, on: recorded.append((tensor, on)))
    monkeypatch.setattr(transfer_module.Batch, "to", to)
    moved = DeviceTransfer(torch.device("cuda", 0))(batch)
    assert entered[1:] == [None]
    assert present.waits_for == entered[:1]
    assert moved is batch
    assert {id(tensor) for tensor, _ in recorded} == {
        id(tensor) for tensor in (batch.images, batch.labels, batch.mix.partner_B, batch.mix.lam_B, batch.mix.box_B4)
    }
    assert all(on is present for _, on in recorded)


def test_on_a_cpu_a_batch_is_itself():
    batch = next(module().train_windows(0, **PLAN)).batches[0]
    moved = DeviceTransfer(torch.device("cpu"))(batch)
    assert moved.images is batch.images
    assert step_module.DeviceTransfer is DeviceTransfer
