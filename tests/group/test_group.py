"""A group's forward: whom it runs, what it asks of the exchange between ranks, and what it gives back."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from support import build, tiny_document

from mutual.data import mixed
from mutual.group import EdgeLosses, Group, GroupOutput, MicroBatchContext, merge_outputs
from mutual.group.edges import EdgeBatch
from mutual.group.exchange import Placement

THREE = {name: {"model": "support:double"} for name in "abc"}


class Handle:
    """An exchange under way that brings nothing, and counts who waits for it."""

    def __init__(self, brings):
        self.brings, self.waits = brings, 0

    def wait(self):
        self.waits += 1
        return self.brings


class Exchange:
    """What stands for the exchange: gives `handle` and keeps what was sent."""

    transfer_plan = SimpleNamespace(split_peers=())

    def __init__(self, brings=None):
        self.handle, self.sent = Handle(brings or {}), []

    def start(self, outputs, *, size):
        self.sent.append((sorted(outputs), size))
        return self.handle


def first_batch(data):
    window = next(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1))
    return mixed(window.batches[0], num_classes=data.info.num_classes)


def forward(group, data, **context):
    group.train()
    images, labels = first_batch(data)
    return group.forward(images, labels, MicroBatchContext(**{"num_valid": len(labels), "seed": 0, "global_batch_size": 17} | context))


@pytest.mark.parametrize("objectives", [[{"loss": "cross_entropy"}], [{"loss": "cross_entropy"}, {"loss": "dml"}]])
def test_an_exchange_is_waited_for_though_no_edge_reads_what_it_brings(objectives):
    """What is sent must not be freed before it has gone: gloo keeps it for itself, nccl need not."""
    _, data, group, _ = build(tiny_document(objectives=objectives))
    group.exchange = Exchange()
    forward(group, data)
    assert group.exchange.sent == [(["a", "b"], 17)]
    assert group.exchange.handle.waits == 1


def half(group, name, exchange):
    """What a rank holds of `group` where each peer has one of its own."""
    ranks = {peer: (rank,) for rank, peer in enumerate(group.peers)}
    losses = {index: loss for index, loss in group.local_losses.items() if loss.edge.learner == name}
    return Group(
        {name: group.peers[name]},
        group.edges,
        losses,
        inputs=group.inputs,
        classes={},
        autocast=nullcontext,
        placement=Placement(len(ranks), ranks, ranks, is_replicated=False),
        rank=ranks[name][0],
        loss_exchange=exchange,
        score_exchange=lambda peers: exchange,
    )


def test_what_comes_from_other_ranks_is_read_when_it_has_arrived(monkeypatch):
    """Edges of sources that are here are evaluated while the others' outputs travel."""
    _, data, group, _ = build(tiny_document(objectives=[{"loss": "dml"}, {"loss": "cross_entropy"}]))
    whole = forward(group, data)
    images, _ = first_batch(data)
    exchange = Exchange({"b": group.forward_peer("b", images, seed=0)})
    alone = half(group, "a", exchange)
    order = []
    forward_batch = EdgeBatch.forward
    monkeypatch.setattr(EdgeBatch, "forward", lambda self, *args, **more: order.extend(self.indices) or forward_batch(self, *args, **more))
    wait = exchange.handle.wait
    monkeypatch.setattr(exchange.handle, "wait", lambda: order.append("wait") or wait())
    found = forward(alone, data)
    assert [index if index == "wait" else group.edges[index].name for index in order] == ["cross_entropy", "wait", "dml"]
    torch.testing.assert_close(found.losses["a"], whole.losses["a"])
    assert found.edge_losses == {index: whole.edge_losses[index] for index in alone.local_losses}
    assert alone.trainable == [group.peers["a"]]
    assert found.logits.keys() == {"a"}
    found.losses["a"].backward()
    assert all(parameter.grad is None for parameter in group.peers["b"].parameters())


def test_averages_of_ones_own_peers_travel_too():
    objectives = [{"loss": "cross_entropy"}, {"loss": "l2", "sources": "peers_ema"}]
    _, data, group, _ = build(tiny_document(objectives=objectives, train={"ema": 0.9}))
    images, _ = first_batch(data)
    exchange = Exchange({"b.ema": group.forward_without_side_effects("b.ema", images, seed=0)})
    whole, found = forward(group, data), forward(half(group, "a", exchange), data)
    assert exchange.sent == [(["a", "a.ema"], 17)]
    torch.testing.assert_close(found.losses["a"], whole.losses["a"])


def test_outputs_of_several_turns_are_one():
    turns = [GroupOutput({name: i}, EdgeLosses([((i,), torch.tensor([float(i)]))]), {name: i}) for i, name in enumerate("ab")]
    merged = merge_outputs(turns)
    assert (merged.losses, merged.edge_losses, merged.logits) == ({"a": 0, "b": 1}, {0: 0.0, 1: 1.0}, {"a": 0, "b": 1})


def test_the_losses_of_some_learners_alone_are_computed():
    _, data, group, _ = build(tiny_document(objectives=[{"loss": "cross_entropy"}, {"loss": "dml"}]))
    images, labels = first_batch(data)
    outputs = {name: group.forward_peer(name, images, seed=0) for name in "ab"}
    found = group.compute_losses(outputs, outputs, labels, MicroBatchContext(len(labels), seed=0), learners=["b"])
    assert found.losses.keys() == {"b"}
    assert {group.edges[index].learner for index in found.edge_losses} == {"b"}


def test_predictions_of_other_ranks_stand_beside_ones_own():
    _, data, group, _ = build(tiny_document())
    group.eval()
    images, _ = first_batch(data)
    whole = group.predict(images, "ab", global_batch_size=8)
    exchange = Exchange({"b": {"logits": whole["b"]}})
    alone = half(group, "a", exchange)
    found = alone.predict(images, "ab", global_batch_size=9)
    assert exchange.sent == [(["a"], 9)]
    assert found.keys() == {"a", "b"}
    for name, logits in found.items():
        assert torch.equal(logits, whole[name])
        assert (logits.dtype, logits.requires_grad) == (torch.float32, False)


def test_a_groups_output_holds_valid_images_without_graphs():
    _, data, group, _ = build(tiny_document())
    found = forward(group, data, num_valid=5)
    assert all(logits.shape == (5, 4) and logits.dtype == torch.float32 for logits in found.logits.values())
    assert all(loss.requires_grad for loss in found.losses.values())
    detached = found.detached()
    tensors = [*detached.losses.values(), *found.edge_losses.values(), *found.logits.values()]
    assert not any(tensor.requires_grad for tensor in tensors)
    assert detached.losses == {name: loss.detach() for name, loss in found.losses.items()}
    assert (detached.edge_losses, detached.logits) == (found.edge_losses, found.logits)


def test_padding_is_read_by_no_loss():
    _, data, group, _ = build(tiny_document())
    images, labels = first_batch(data)
    group.train()
    padded = group.forward(images, labels, MicroBatchContext(num_valid=5, seed=0))
    alone = group.forward(images[:5], labels[:5], MicroBatchContext(num_valid=5, seed=0))
    assert padded.edge_losses == alone.edge_losses
    assert all(loss.isfinite() for loss in forward(group, data, num_valid=0).losses.values())


def test_a_source_that_is_not_available_weighs_nothing():
    _, data, group, _ = build(tiny_document())
    group.unavailable_sources = {"b"}
    found = forward(group, data)
    by_edge = {str(edge): found.edge_losses[index] for index, edge in enumerate(group.edges)}
    torch.testing.assert_close(found.losses["a"].detach(), by_edge["cross_entropy (a <- labels)"])
    torch.testing.assert_close(found.losses["b"].detach(), by_edge["cross_entropy (b <- labels)"] + by_edge["dml (b <- a)"])


def test_a_learners_sources_are_named_once_and_without_itself():
    objectives = [
        {"loss": "cross_entropy"},
        {"loss": "dml", "learners": ["a"], "sources": ["c"]},
        {"loss": "kd", "learners": ["a"], "sources": ["c", "b"]},
        {"loss": "hint", "learners": ["a"], "sources": "self", "at": "stem", "source_at": "body"},
        {"loss": "l2", "learners": ["b"], "sources": "ema"},
    ]
    _, _, group, _ = build(tiny_document(peers=THREE, objectives=objectives, train={"ema": 0.9}))
    assert [group.sources_of(name) for name in "abc"] == [["c", "b"], ["b.ema"], []]


def test_every_forward_is_within_the_contexts_of_its_peer():
    """A stopwatch counts a peer's forwards of an update; the other context counts all of them."""
    _, data, group, _ = build(tiny_document(objectives=[{"loss": "cross_entropy"}, {"loss": "l2", "sources": "ema"}], train={"ema": 0.9}))
    images, _ = first_batch(data)
    entered = []

    @contextmanager
    def noted(*what):
        entered.append(what)
        yield

    group.peer_context = lambda name: noted("peer", name)
    group.forward_context = lambda: noted("forward")
    group._autocast = lambda: noted("autocast")
    group.forward_peer("a", images, seed=0)
    assert entered == [("peer", "a"), ("forward",), ("autocast",)]
    entered.clear()
    group.forward_without_side_effects("a", images, seed=0)
    group.forward_without_side_effects("a.ema", images, seed=0)
    assert entered == [("peer", "a"), ("autocast",), ("peer", "a.ema"), ("autocast",)]
    entered.clear()
    group.predict(images, "ab", global_batch_size=8)
    assert entered == [("peer", "a"), ("autocast",), ("peer", "b"), ("autocast",)]


def test_modes_are_those_of_all_peers():
    _, _, group, _ = build(tiny_document(peers={**THREE, "t": {"model": "support:double", "frozen": True}}))
    group.train()
    assert [peer.model.training for peer in group.peers.values()] == [True, True, True, False]
    group.eval()
    assert not any(peer.model.training for peer in group.peers.values())


def test_each_peer_has_its_own_view_or_all_have_one():
    _, _, group, _ = build(tiny_document())
    views = torch.arange(2, dtype=torch.uint8)[:, None, None, None, None].expand(2, 3, 1, 8, 8)
    expected = [(shade / 255 - 0.5) / 0.29 for shade in (0, 1)]
    assert [group.view(name, views).unique().item() for name in "ab"] == pytest.approx(expected)
    assert all(group.view(name, views[0]) is not None and group.view(name, views[1]).shape == (3, 1, 8, 8) for name in "ab")
