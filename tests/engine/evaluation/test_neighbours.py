"""Weighted nearest neighbours: the formula written out, ties and bounds, and that each image counts once over all ranks."""

import math

import numpy as np
import pytest
import torch
from support import WORLD, build, tiny_document

from mutual.data import Batch
from mutual.data.loading.batch import BadImage
from mutual.engine.evaluation import BANK_SIZE, knn_scores, neighbour_votes
from mutual.engine.evaluation import neighbours as module
from mutual.engine.evaluation.neighbours import _count_hits
from mutual.group import Communicator


def written_out(bank, classes, query, num_classes, k, temperature):
    """One image's class scores in plain numpy, as DINO's evaluation says."""
    cosines = [float(row @ query / (np.linalg.norm(row) * np.linalg.norm(query))) for row in bank]
    nearest = sorted(range(len(bank)), key=lambda index: -cosines[index])[:k]
    votes = np.zeros(num_classes)
    for index in nearest:
        votes[classes[index]] += math.exp(cosines[index] / temperature)
    return votes


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (3, 0.5), (100, 0.07)])
def test_votes_are_those_of_the_formula(k, temperature):
    bank, queries = rand(60, 8, seed=0), rand(7, 8, seed=1)
    classes = torch.arange(60) % 6
    found = neighbour_votes(bank, classes, queries, num_classes=6, k=k, temperature=temperature)
    for votes, query in zip(found, queries, strict=True):
        expected = written_out(bank.numpy(), classes.tolist(), query.numpy(), 6, k, temperature)
        torch.testing.assert_close(votes, torch.from_numpy(expected / expected.sum()))


def test_the_defaults_are_those_of_the_paper():
    bank, queries = rand(60, 8, seed=0), rand(7, 8, seed=1)
    classes = torch.arange(60) % 6
    expected = neighbour_votes(bank, classes, queries, num_classes=6, k=20, temperature=0.07)
    assert torch.equal(neighbour_votes(bank, classes, queries, num_classes=6), expected)
    assert BANK_SIZE == 20_000


def test_hits_are_counted_by_class_and_a_class_without_a_vote_is_no_hit():
    votes = torch.tensor([[0.5, 0.3, 0.1, 0.05, 0.03, 0.02, 0.0], [0.6, 0.4, 0.0, 0.0, 0.0, 0.0, 0.0], [0.1, 0.9, 0, 0, 0, 0, 0]])
    assert _count_hits(votes, torch.tensor([0, 1, 1])).tolist() == [2, 3, 3]
    assert _count_hits(votes, torch.tensor([4, 2, 0])).tolist() == [0, 2, 3], "the third has no vote, among the first five or not"
    assert _count_hits(votes, torch.tensor([5, 6, 6])).tolist() == [0, 0, 3], "the sixth is behind five others"


def training(**data):
    document = tiny_document(
        peers={
            "s": {"model": "support:double"},
            "t": {"model": "support:embedding", "frozen": True, "head": "none", "standardize": True},
            "u": {"model": "small_cnn", "frozen": True, "head": "none"},
        },
        objectives=[{"loss": "cross_entropy"}, {"loss": "similarity", "sources": ["t"], "at": "body", "source_at": "embedding"}],
    )
    document["data"] |= {"num_classes": 7, "num_train": 45, "num_val": 23, **data}
    _, module_of_data, group, _ = build(document)
    return module_of_data, group


def scored(data, group, comm=WORLD, shard=(0, 1), **changes):
    ranks = {"world_size": comm.size, "shard": shard}
    bank, val = data.sample_batches(BANK_SIZE, **ranks), data.eval_batches(**ranks)
    return knn_scores(group, bank, val, data.info, comm, **{"names": ("t", "u"), **changes})


def images_of(batches, info):
    mean, std = (torch.tensor(values)[:, None, None] for values in (info.mean, info.std))
    rows = [((batch.images.float() / 255 - mean) / std, batch.labels) for batch in batches]
    return torch.cat([images for images, _ in rows]), torch.cat([labels for _, labels in rows])


def test_scores_are_those_of_all_images_at_once():
    """Of the embeddings as the models give them, standardised or not."""
    data, group = training()
    (bank, bank_labels), (val, val_labels) = (
        images_of(batches, data.info)
        for batches in (data.sample_batches(99, world_size=1, shard=(0, 1)), data.eval_batches(world_size=1, shard=(0, 1)))
    )
    assert (len(bank), len(val)) == (45, 23)
    found = scored(data, group)
    for name in ("t", "u"):
        model = group.peers[name].model.eval()
        with torch.no_grad():
            votes = neighbour_votes(model(bank), bank_labels, model(val), num_classes=7)
        rank = (votes > votes.gather(1, val_labels[:, None])).sum(dim=1)
        voted = votes.gather(1, val_labels[:, None])[:, 0] > 0
        assert found[name] == {
            "top1": pytest.approx(float((votes.argmax(dim=1) == val_labels).double().mean())),
            "top5": pytest.approx(float(((rank < 5) & voted).double().mean())),
        }


class Halves(Communicator):
    """Stands for one of two ranks after the other: what the first has sent is kept for the second, and given to both on a second pass."""

    sent: dict

    def all_gather_rows(self, tensors, counts=None):
        return self._exchange("rows", tensors, lambda parts: ([torch.cat(each) for each in zip(*parts, strict=True)], 0))

    def all_reduce_sum(self, tensor):
        return self._exchange("sum", tensor, sum)

    def _exchange(self, kind, local, join):
        number = self.calls[kind] = self.calls.get(kind, -1) + 1
        kept = self.sent.setdefault((kind, number), {})
        kept[self.rank] = local
        return join([kept[rank] for rank in sorted(kept)])


def test_every_image_counts_once_over_two_ranks():
    """The ranks' banks together are in the order of the images, and so their scores are those of one."""
    data, group = training()
    expected = scored(data, group)
    sent = {}
    for _ in range(2):  # on the second pass each rank receives what the other has sent on the first
        for rank in range(2):
            comm = Halves(rank, 2, torch.device("cpu"), process_group=object())
            object.__setattr__(comm, "sent", sent)
            object.__setattr__(comm, "calls", {})
            group.shard = (rank, 2)
            found = scored(data, group, comm, (rank, 2))
    assert found == expected
    counts = [int(sent[("sum", 0)][rank][2]) for rank in range(2)]
    assert sum(counts) == 23
    assert all(counts)


def test_a_rank_that_sends_no_outputs_of_a_peer_counts_none_of_it():
    """As in the parallel placement, where it learns from the same images what others are told of by another rank."""
    data, group = training()
    expected = scored(data, group)
    sent = {}
    embeds = group._embeds
    for _ in range(2):
        for rank in range(2):
            comm = Halves(rank, 2, torch.device("cpu"), process_group=object())
            object.__setattr__(comm, "sent", sent)
            object.__setattr__(comm, "calls", {})
            group._embeds = embeds if rank == 0 else []
            found = scored(data, group, comm)
    assert found == expected
    assert not sent[("sum", 0)][1].any()


@pytest.mark.parametrize(("num_classes", "metrics"), [(5, {"top1"}), (6, {"top1", "top5"})])
def test_the_first_five_are_asked_for_where_there_are_more(num_classes, metrics):
    data, group = training(num_classes=num_classes)
    assert set(scored(data, group)["t"]) == metrics


def test_places_in_the_split_go_on_from_batch_to_batch_and_shard_to_shard():
    data, group = training()
    whole = [batch.labels for batch in data.sample_batches(45, world_size=2, shard=(0, 1))]
    positions, labels = [], []
    for rank in range(2):
        group.shard = (rank, 2)
        batches = data.sample_batches(45, world_size=2, shard=group.shard)
        for batch in module.embedded(group, batches, device=torch.device("cpu")):
            positions.append(batch.positions)
            labels.append(batch.labels)
    positions, labels = torch.cat(positions), torch.cat(labels)
    assert sorted(positions.tolist()) == list(range(45))
    assert torch.equal(labels[positions.argsort()], torch.cat(whole))


def test_where_no_validation_image_can_be_read_nothing_is_right():
    data, group = training()
    bank = data.sample_batches(BANK_SIZE, world_size=1, shard=(0, 1))
    assert knn_scores(group, bank, [], data.info, WORLD, names=("t",)) == {"t": {"top1": 0.0, "top5": 0.0}}


def test_a_sample_is_stratified_bounded_and_the_same_for_all_shards():
    data, _ = training(num_train=45)
    whole = images_of(data.sample_batches(20, world_size=1, shard=(0, 1)), data.info)
    assert len(whole[1]) == 20
    first, second = (
        [image for batch in data.sample_batches(20, world_size=2, shard=(rank, 2)) for image in batch.images[: batch.num_valid]]
        for rank in range(2)
    )
    assert len(first) + len(second) == 20
    again = {tuple(image.flatten().tolist()) for image in first + second}
    assert again == {
        tuple(image.flatten().tolist())
        for batch in data.sample_batches(20, world_size=1, shard=(0, 1))
        for image in batch.images[: batch.num_valid]
    }


def test_images_that_cannot_be_read_are_left_out(monkeypatch):
    _, group = training()
    blank = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    batches = [
        Batch(torch.cat([blank, blank]), torch.tensor([0, 1, 2, 3]), 3, 3, bad=(BadImage("x", "gone", 1),)),
        Batch(blank, torch.tensor([4, 5]), 0, 2),
    ]
    kept = list(module.embedded(group, batches, device=torch.device("cpu")))
    (only,) = kept
    assert only.labels.tolist() == [0, 2]
    assert only.positions.tolist() == [0, 2]
    assert set(only.embeddings) == {"t", "u"}


def test_the_bank_is_normalised_once(monkeypatch):
    data, group = training()
    expected, rows, normalize = scored(data, group), [], module.F.normalize
    monkeypatch.setattr(module.F, "normalize", lambda tensor, **args: rows.append(len(tensor)) or normalize(tensor, **args))
    assert scored(data, group) == expected
    assert len(rows) > 4, "several batches of queries"
    assert rows.count(45) == 2, "a bank for each of two peers"
