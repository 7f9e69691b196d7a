"""Losses that read the images of all ranks: what a rank sends, and that the ranks' losses together are that of one."""

import pytest
import torch
from support import WORLD, tiny_document

from mutual.group import MicroBatchContext, expand_objectives
from mutual.group.edges import EdgeLoss
from mutual.group.edges.selection import Selections
from mutual.objectives import build_loss
from mutual.recipe import parse_recipe

LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 3])


def outputs(seed):
    return {"logits": torch.randn(len(LABELS), 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)}


LEARNER, SOURCE = outputs(0), outputs(1)


class Gathering:
    """Stands for a rank of several: keeps what it sends, and brings the rows of all."""

    def __init__(self, size, rows, row_offset):
        self.size, self.rows, self.row_offset, self.sent = size, rows, row_offset, []

    def all_gather_rows(self, tensors, counts=None):
        self.sent.append(([tensor.clone() for tensor in tensors], counts))
        return self.rows, self.row_offset


def edge_loss(comm, name="crd", *, unlabelled=False, **fields):
    objectives = [{"loss": "cross_entropy"}, {"loss": name, "learners": ["a"], **fields}]
    edge = next(edge for edge in expand_objectives(parse_recipe(tiny_document(objectives=objectives))) if edge.objective.loss == name)
    torch.manual_seed(0)
    loss = build_loss(name, learner_shape=(4,), source_shape=(4,)).double()
    return EdgeLoss(edge, loss, lambda epoch: 1.0, comm=comm, unlabelled=unlabelled)


def rows_of(part, labels=LABELS, *, num_valid=None):
    """Arguments of a rank that computes these rows of the micro-batch."""
    learner, source = ({"logits": each["logits"][part]} for each in (LEARNER, SOURCE))
    num_valid = len(labels[part]) if num_valid is None else num_valid
    context = MicroBatchContext(num_valid, seed=0, global_batch_size=len(LABELS))
    return learner, {"b": source}, Selections(labels[part][: max(num_valid, 1)]), context


@pytest.mark.parametrize("name", ["crd", "mcl"])
def test_the_losses_of_all_ranks_are_the_loss_of_one(name):
    whole = edge_loss(WORLD, name).forward(*rows_of(slice(None)))
    everything = [SOURCE["logits"], LABELS]
    parts = [slice(0, 4), slice(4, 7)]
    total = 0
    for part in parts:
        comm = Gathering(2, everything, part.start)
        total += edge_loss(comm, name).forward(*rows_of(part)) * (part.stop - part.start)
        ((sent, counts),) = comm.sent
        assert torch.equal(sent[0], SOURCE["logits"][part])
        assert torch.equal(sent[1], LABELS[part])
        assert counts == [4, 3], "known without asking"
    torch.testing.assert_close(total / len(LABELS), whole)


def test_similarities_and_their_gradients_of_all_ranks_are_those_of_one():
    """An image's embedding counts in the divergences of other ranks' images as well."""
    learner = LEARNER["logits"].clone().requires_grad_()
    _, *others = rows_of(slice(None))
    whole = edge_loss(WORLD, "similarity").forward({"logits": learner}, *others)
    (expected,) = torch.autograd.grad(whole, learner)
    everything = [LEARNER["logits"], SOURCE["logits"], LABELS]
    total = 0
    for part in (slice(0, 4), slice(4, 7)):
        comm = Gathering(2, everything, part.start)
        own = LEARNER["logits"][part].clone().requires_grad_()
        _, *others = rows_of(part)
        loss = edge_loss(comm, "similarity").forward({"logits": own}, *others) * (part.stop - part.start) / len(LABELS)
        (found,) = torch.autograd.grad(loss, own)
        torch.testing.assert_close(found, expected[part], rtol=1e-12, atol=1e-14)
        ((sent, counts),) = comm.sent
        assert torch.equal(sent[0], own)
        assert not sent[0].requires_grad
        assert torch.equal(sent[1], SOURCE["logits"][part])
        assert counts == [4, 3]
        total += loss.detach()
    torch.testing.assert_close(total, whole.detach(), rtol=1e-12, atol=1e-14)


def test_similarities_of_feature_maps_are_sent_as_vectors():
    maps = torch.randn(7, 4, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    comm = Gathering(1, [maps.mean(dim=(2, 3)), SOURCE["logits"], LABELS], 0)
    _, *others = rows_of(slice(None))
    found = edge_loss(comm, "similarity").forward({"logits": maps}, *others)
    assert comm.sent[0][0][0].shape == (7, 4)
    torch.testing.assert_close(found, build_loss("similarity")(maps.mean(dim=(2, 3)), SOURCE["logits"]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["crd", "mcl"])
def test_contrastive_losses_of_feature_maps_send_vectors(name, dtype):
    """The mean over the positions in float32 at least, as the loss makes it of maps."""
    maps = torch.randn(7, 4, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
    of_maps = edge_loss(WORLD, name).loss(LEARNER["logits"], maps, LABELS)
    wide = maps.to(torch.promote_types(dtype, torch.float32))
    comm = Gathering(1, [wide.mean(dim=(2, 3)), LABELS], 0)
    learner, _, *others = rows_of(slice(None))
    found = edge_loss(comm, name).forward(learner, {"b": {"logits": maps}}, *others)
    ((sent, _),) = comm.sent
    assert torch.equal(sent[0], wide.mean(dim=(2, 3)))
    torch.testing.assert_close(found, of_maps)


def test_a_rank_without_images_compares_its_padding_with_itself():
    comm = Gathering(2, [LEARNER["logits"], SOURCE["logits"], LABELS], 7)
    found = edge_loss(comm, "similarity").forward(*rows_of(slice(0, 1), num_valid=0))
    assert [len(tensor) for tensor in comm.sent[0][0]] == [0, 0, 0]
    assert found == 0


def test_images_that_do_not_count_are_sent_with_a_mask():
    """So that every rank knows how many rows each other one sends, whatever the labels are."""
    hidden = torch.where(torch.arange(len(LABELS)) % 2 == 0, LABELS, -1)
    likeliest = SOURCE["logits"].argmax(dim=1)
    partly = torch.where(torch.arange(len(LABELS)) % 2 == 0, likeliest, (likeliest + 1) % 4)
    for fields, labels in (({"unlabelled": True}, hidden), ({"gate": "correct"}, partly)):
        selected = torch.arange(len(LABELS)) % 2 == 0
        comm = Gathering(1, [SOURCE["logits"], labels.clamp(min=0), selected.byte()], 0)
        found = edge_loss(comm, **fields).forward(*rows_of(slice(None), labels))
        ((sent, counts),) = comm.sent
        assert counts == [len(LABELS)]
        assert sent[2].tolist() == selected.tolist()
        learner, source = ({"logits": each["logits"][selected]} for each in (LEARNER, SOURCE))
        alone = edge_loss(WORLD).forward(learner, {"b": source}, Selections(labels[selected]), MicroBatchContext(4, seed=0))
        torch.testing.assert_close(found, alone * 4 / 7)


def test_how_many_rows_each_rank_has_is_asked_where_the_global_batch_is_not_known():
    comm = Gathering(1, [SOURCE["logits"], LABELS], 0)
    learner, source, selections, _ = rows_of(slice(None))
    edge_loss(comm).forward(learner, source, selections, MicroBatchContext(len(LABELS), seed=0))
    assert comm.sent[0][1] is None


def test_a_rank_without_images_sends_nothing_and_keeps_to_its_padding():
    comm = Gathering(2, [SOURCE["logits"], LABELS], 7)
    found = edge_loss(comm).forward(*rows_of(slice(0, 1), num_valid=0))
    assert [len(tensor) for tensor in comm.sent[0][0]] == [0, 0]
    alone = edge_loss(WORLD).forward(*rows_of(slice(0, 1)))
    torch.testing.assert_close(found, alone)


def test_a_rank_of_whose_images_none_is_selected_weighs_nothing():
    none = torch.full_like(LABELS, -1)
    comm = Gathering(2, [SOURCE["logits"], torch.zeros_like(LABELS), torch.zeros(len(LABELS), dtype=torch.uint8)], 0)
    assert edge_loss(comm, unlabelled=True).forward(*rows_of(slice(None), none)) == 0


def test_a_loss_that_draws_draws_by_the_micro_batchs_seed():
    """And not by the generator as it was left; other micro-batches draw others."""
    maps = {"stem": torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))}
    objectives = [{"loss": "cross_entropy"}, {"loss": "mgd", "learners": ["a"], "at": "stem"}]
    edge = next(edge for edge in expand_objectives(parse_recipe(tiny_document(objectives=objectives))) if edge.objective.loss == "mgd")
    loss = EdgeLoss(edge, build_loss("mgd", learner_shape=(3, 4, 4), source_shape=(3, 4, 4)), lambda epoch: 1.0, comm=WORLD)

    def value(seed):
        return loss.forward(maps, {"b": maps}, Selections(torch.zeros(6, dtype=torch.long)), MicroBatchContext(6, seed=seed))

    first = value(1)
    torch.rand(3)
    assert value(1) == first
    assert value(2) != first
