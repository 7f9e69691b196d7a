"""Who owns whom: a mesh where ranks and peers divide, an owner map where they do not."""

import pytest
import torch
from support import tiny_document

from mutual.group import expand_objectives
from mutual.group.edges import OutputKey
from mutual.group.exchange.placement import needs_costs, parallel, replicated
from mutual.group.exchange.transfer_plan import TransferPlan, learner_requirements
from mutual.objectives import distances
from mutual.recipe import RecipeError, parse_recipe


def recipe_of(names="ab", frozen="", ranks=None, own="", cost=None, objectives=({"loss": "cross_entropy"}, {"loss": "dml"})):
    peers = {
        name: {
            "model": "support:tiny",
            "frozen": name in frozen,
            "rank": "own" if name in own else None,
            "ranks": (ranks or {}).get(name),
            "cost": cost,
        }
        for name in names
    }
    return parse_recipe(tiny_document(peers=peers, objectives=list(objectives), placement="parallel"))


def teams(recipe, size, **costs):
    return parallel(recipe, size, {**dict.fromkeys(recipe.peers, 1.0), **costs}).replica_ranks


def test_ranks_that_divide_make_a_mesh_of_neighbours():
    assert teams(recipe_of("ab"), 2) == {"a": (0,), "b": (1,)}
    assert teams(recipe_of("ab"), 4, a=100.0) == {"a": (0, 1), "b": (2, 3)}
    assert teams(recipe_of("abc"), 6) == {"a": (0, 1), "b": (2, 3), "c": (4, 5)}


def test_costs_are_asked_for_only_where_they_decide():
    assert not needs_costs(recipe_of("ab"), 4)
    assert needs_costs(recipe_of("ab"), 3)
    assert not needs_costs(recipe_of("ab", cost=1.0), 3), "the recipe says them"
    assert not needs_costs(recipe_of("ab", ranks={"a": 1}), 3), "what is left is one peer's"
    assert needs_costs(recipe_of("abc"), 2)
    assert not needs_costs(recipe_of("abcd", ranks={"a": 1}), 4), "three are left for three"
    assert needs_costs(recipe_of("abc", ranks={"a": 2}), 5), "three are left for two"
    assert needs_costs(recipe_of("ab", ranks={"a": 1, "b": 1}), 3), "which do not fit; it is said where they are placed"
    assert not needs_costs(recipe_of("abt", frozen="t"), 2)
    assert not needs_costs(recipe_of("abt", frozen="t", ranks={"t": 1}), 3)
    assert not needs_costs(recipe_of("at", frozen="t", own="t"), 2)
    assert needs_costs(recipe_of("at", frozen="t", own="t"), 4), "a frozen peer's share is what it costs, not a half"


def test_more_ranks_go_to_the_costlier_peer():
    assert teams(recipe_of("ab"), 3, b=2.0) == {"a": (0,), "b": (1, 2)}
    assert teams(recipe_of("ab"), 5, a=4.0) == {"a": (0, 1, 2, 3), "b": (4,)}
    assert teams(recipe_of("ab"), 5, a=3.0, b=2.0) == {"a": (0, 1, 2), "b": (3, 4)}
    assert teams(recipe_of("ab", ranks={"a": 1, "b": 2}), 3, a=9.0) == {"a": (0,), "b": (1, 2)}
    assert teams(recipe_of("ab", ranks={"a": 2}), 3, b=9.0) == {"a": (0, 1), "b": (2,)}


def test_more_peers_than_ranks_share_them_by_cost():
    assert teams(recipe_of("abc"), 2, c=3.0) == {"a": (1,), "b": (1,), "c": (0,)}
    assert teams(recipe_of("ab"), 1) == {"a": (0,), "b": (0,)}


def test_a_frozen_peer_is_held_by_those_who_read_it_or_has_ranks_of_its_own():
    kd = [{"loss": "cross_entropy"}, {"loss": "kd", "sources": ["t"], "learners": ["b"]}]
    beside = recipe_of("abt", frozen="t", objectives=kd)
    assert teams(beside, 2) == {"a": (0,), "b": (1,), "t": (1,)}
    assert teams(recipe_of("abt", frozen="t"), 2) == {"a": (0,), "b": (1,), "t": (0, 1)}
    assert teams(recipe_of("abt", frozen="t", objectives=kd), 3, t=5.0) == {"a": (0,), "b": (1, 2), "t": (1, 2)}, "it costs its learner"
    assert teams(recipe_of("at", frozen="t", own="t"), 2) == {"a": (0,), "t": (1,)}
    assert teams(recipe_of("at", frozen="t", own="t"), 4, a=3.0) == {"a": (0, 1, 2), "t": (3,)}
    assert parallel(recipe_of("abt", frozen="t"), 2, dict.fromkeys("abt", 1.0)).sender_ranks["t"] == (0,), "one team speaks for it"
    assert teams(recipe_of("abt", frozen="t", ranks={"t": 1}, objectives=kd), 3) == {"a": (0,), "b": (1,), "t": (2,)}


def test_a_frozen_peer_is_charged_once_to_each_learner_and_in_parts_where_it_is_split():
    def read(names, **fields):
        return [{"loss": "cross_entropy"}, *({"loss": "kd", "sources": ["t"], "learners": [name], **fields} for name in names)]

    twice = recipe_of("abt", frozen="t", objectives=read("bb"))
    assert teams(twice, 3, a=2.5) == {"a": (0, 1), "b": (2,), "t": (2,)}, "two objectives do not make its forward cost twice"
    split = recipe_of("abct", frozen="t", objectives=read("ab"))
    assert teams(split, 4, t=2.0, c=2.5) == {"a": (0,), "b": (1,), "c": (2, 3), "t": (0, 1)}, "each learner's ranks compute a half"
    maps = recipe_of("abct", frozen="t", objectives=read("ab", loss="l2", at="body"))
    assert teams(maps, 4, t=2.0, c=2.5) == {"a": (0, 1), "b": (2,), "c": (3,), "t": (0, 1, 2)}, "each computes all of it"


def test_a_frozen_peer_that_nobody_reads_is_held_by_all():
    alone = [{"loss": "cross_entropy"}, {"loss": "dml", "sources": ["b"], "learners": ["a"]}]
    assert teams(recipe_of("abt", frozen="t", objectives=alone), 2) == {"a": (0,), "b": (1,), "t": (0, 1)}


def test_a_rank_computes_its_part_for_all_peers_that_it_holds():
    placement = parallel(recipe_of("abt", frozen="t"), 4, dict.fromkeys("abt", 1.0))
    assert [placement.shard(rank) for rank in range(4)] == [(0, 2), (1, 2), (0, 2), (1, 2)]
    assert [placement.peers_on(rank) for rank in (0, 2)] == [["a", "t"], ["b", "t"]]
    assert [replicated(recipe_of("ab"), 2).shard(rank) for rank in range(2)] == [(0, 2), (1, 2)]


@pytest.mark.parametrize(
    ("ranks", "size", "message"),
    [
        ({"a": 2}, 2, "their ranks do not fit: 2 are asked for, 1 peers ask for none, the run has 2"),
        ({"a": 1, "b": 1}, 3, "their ranks do not fit"),
        ({"a": 1}, 1, "peers.a.ranks: 2 peers on 1 ranks share them"),
    ],
)
def test_ranks_that_do_not_fit_are_one_line(ranks, size, message):
    with pytest.raises(RecipeError, match=message):
        teams(recipe_of("ab", ranks=ranks), size)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"placement": "parallel", "train": {"update": "alternating"}}, "train.update: alternating peers wait for each other"),
        ({"placement": "parallel", "train": {"pause": {"peer": "a", "versus": "b"}}}, "train.pause: is decided where both peers are"),
        ({"peers": {"a": {"model": "support:tiny", "ranks": 2}}, "objectives": [{"loss": "cross_entropy"}]}, "peers.a.ranks: every rank"),
        (
            {"placement": "parallel", "peers": {"a": {"model": "support:tiny", "cost": 2.0}, "b": {"model": "support:tiny"}}},
            "peers.b.cost: say what every peer costs, or of none",
        ),
        (
            {"placement": "parallel", "peers": {name: {"model": "support:tiny", "rank": "own"} for name in "ab"}},
            "peers.a.rank: 'a' is trained and has ranks of its own anyway",
        ),
    ],
)
def test_what_cannot_be_parallel_is_one_line(sections, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(tiny_document(**sections))


def plan_of(size, *objectives, **ranks):
    recipe = recipe_of("ab", ranks=ranks, objectives=[{"loss": "cross_entropy"}, *objectives])
    placement = parallel(recipe, size, {"a": 1.0, "b": 1.0})
    shapes = {"logits": (5,), "body": (6, 2, 2)}
    specs = {(name, path): (shape, torch.float32) for name in "ab" for path, shape in shapes.items()}
    return TransferPlan(placement, learner_requirements(placement, expand_objectives(recipe)), specs)


RKD = {"loss": "rkd_distance", "at": "body"}


@pytest.mark.parametrize(
    ("objectives", "size", "shapes"),
    [
        ([{"loss": "dml"}], 8, [("logits", (8, 5))]),
        ([{"loss": "l2", "at": "body"}], 8, [("body", (8, 6, 2, 2))]),
        ([{"loss": "crd", "at": "body"}], 8, [("body", (8, 6))]),
        ([{"loss": "crd", "at": "body"}, {"loss": "l2", "at": "body"}], 8, [("body", (8, 6, 2, 2))]),
        ([RKD], 8, [("body:distances", (8, 8))]),
        ([RKD], 24, [("body", (24, 6, 2, 2))]),
        ([RKD, {"loss": "crd", "at": "body"}], 8, [("body", (8, 6, 2, 2))]),
        ([RKD, {"loss": "rkd_angle", "at": "body", "gate": "correct"}], 8, [("body:distances", (8, 8)), ("logits", (8, 5))]),
    ],
)
def test_an_output_travels_as_the_least_that_its_readers_need(objectives, size, shapes):
    """Distances where these are fewer numbers than the outputs, vectors where all readers average."""
    assert [(transfer.received_key.path, transfer.shape) for transfer in plan_of(2, *objectives).transfers(0, 1, size)] == shapes


def test_distances_travel_only_from_a_rank_that_has_all_images_of_the_receiver():
    transfer_plan = plan_of(3, RKD, a=1)
    sent = {
        pair: [(transfer.received_key.path, transfer.rows) for transfer in transfer_plan.transfers(*pair, 6)]
        for pair in ((0, 1), (0, 2), (1, 0), (2, 0), (1, 2))
    }
    assert sent[0, 1] == [("body:distances", (0, 3))]
    assert sent[0, 2] == [("body:distances", (3, 6))]
    assert sent[1, 0] == [("body", (0, 3))]
    assert sent[2, 0] == [("body", (3, 6))]
    assert sent[1, 2] == []
    assert transfer_plan.full_feature_maps == {("b", "body"): 96}
    assert transfer_plan.sent_bytes(0, 6) == 4 * 2 * 9
    assert transfer_plan.sent_bytes(2, 6) == 4 * 3 * 24


def test_a_transfer_holds_the_receivers_rows_alone():
    (transfer,) = plan_of(3, RKD, a=1).transfers(0, 2, 6)
    output = torch.randn(6, 6, 2, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(transfer.pack({"a": {"body": output}}), torch.cdist(output[3:].flatten(1), output[3:].flatten(1)))
    assert torch.equal(transfer.pack({"a": {"body": output}}), distances(output[3:]))


def shared(size, *objectives, **ranks):
    """The plan of two learners and a teacher that their ranks share."""
    recipe = recipe_of("abt", frozen="t", ranks=ranks, objectives=[{"loss": "cross_entropy"}, *objectives])
    placement = parallel(recipe, size, {"a": 1.0, "b": 1.0, "t": 1.0})
    shapes = {"logits": (5,), "body": (6, 2, 2), "head:input": (7,)}
    specs = {OutputKey(name, path): (shape, torch.float32) for name in "abt" for path, shape in shapes.items()}
    return TransferPlan.of(placement, expand_objectives(recipe), specs, dtype="exact")


TAUGHT = {"loss": "kd", "sources": ["t"]}


@pytest.mark.parametrize("num_images", [1, 2, 5, 6, 7, 60])
@pytest.mark.parametrize("ranks", [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 3}, {"a": 4, "b": 1}])
def test_each_image_of_a_shared_teacher_is_computed_once(ranks, num_images):
    size = sum(ranks.values())
    plan = shared(size, TAUGHT, **ranks)
    assert plan.split_peers == ("t",)
    computed = [(row, rank) for rank in range(size) for rows in plan.computed_rows(rank, "t", num_images) for row in range(*rows)]
    assert sorted(row for row, _ in computed) == list(range(num_images))
    assert all(plan.rows(rank, num_images)[0] <= row < plan.rows(rank, num_images)[1] for row, rank in computed), "no pixels travel"
    counts = [sum(rank == other for _, other in computed) for rank in range(size)]
    assert max(counts) <= num_images / size + sum(ranks.values()), "the ranks compute equally many, but for what does not divide"
    arrived = {
        receiver: sorted(
            row for sender in range(size) for each in plan.transfers(sender, receiver, num_images) for row in range(*each.rows)
        )
        for receiver in range(size)
    }
    assert arrived == {rank: list(range(*plan.rows(rank, num_images))) for rank in range(size)}


def test_a_shared_teachers_logits_are_what_travels():
    """Half of the images of each of two ranks, in float32; what a rank computes for itself does not travel."""
    plan = shared(2, TAUGHT)
    assert [plan.computed_rows(rank, "t", 8) for rank in (0, 1)] == [[(0, 4)], [(4, 8)]]
    assert [plan.sent_bytes(rank, 8) for rank in (0, 1)] == [4 * 4 * 5] * 2
    assert not plan.full_feature_maps


def test_uneven_ranks_compute_equally_many_images_of_a_shared_teacher():
    plan = shared(3, TAUGHT, a=1, b=2)
    assert [plan.computed_rows(rank, "t", 12) for rank in range(3)] == [[(0, 2), (6, 8)], [(2, 6)], [(8, 12)]]


@pytest.mark.parametrize(
    ("objectives", "is_split"),
    [
        ([{**TAUGHT, "loss": "crd", "at": "body"}], True),  # vectors of feature maps
        ([{**TAUGHT, "loss": "rkd_distance", "at": "head:input"}], True),
        ([{**TAUGHT, "loss": "l2", "at": "body"}], False),
        ([TAUGHT, {**TAUGHT, "loss": "l2", "at": "body"}], False),
        ([{**TAUGHT, "loss": "rkd_distance", "at": "body"}], False),
        ([{"loss": "dml", "sources": ["a", "b"], "learners": ["a"]}], False),  # nobody reads it
        ([{**TAUGHT, "learners": ["a"]}], False),  # one rank computes it anyway
    ],
)
def test_feature_maps_of_a_shared_teacher_stay_where_they_are_read(objectives, is_split):
    objectives = [{**each, "sources": ["b"]} if each["loss"] == "dml" else each for each in objectives]
    plan = shared(2, *objectives)
    assert plan.split_peers == (("t",) if is_split else ())
    if not is_split:
        assert [plan.computed_rows(rank, "t", 8) for rank in (0, 1)] == [[(0, 8)]] * 2


def test_a_teacher_on_ranks_of_its_own_is_not_shared():
    recipe = recipe_of("abt", frozen="t", own="t", objectives=[{"loss": "cross_entropy"}, TAUGHT])
    assert parallel(recipe, 3, dict.fromkeys("abt", 1.0)).shared == ()
    assert parallel(recipe_of("abt", frozen="t"), 2, dict.fromkeys("abt", 1.0)).shared == ("t",)


def test_what_is_computed_of_a_shared_teacher_is_divided_once_for_each_size(monkeypatch):
    plan = shared(3, TAUGHT, a=1, b=2)
    calls, rows = [], TransferPlan.rows
    monkeypatch.setattr(TransferPlan, "rows", lambda self, *args: calls.append(args) or rows(self, *args))
    expected = {size: [plan.computed_rows(rank, "t", size) for rank in range(3)] for size in (12, 7)}
    assert len(calls) == 2 * 3, "each rank's rows, once"
    for _ in range(5):
        assert {size: [plan.computed_rows(rank, "t", size) for rank in range(3)] for size in (12, 7)} == expected
    assert len(calls) == 2 * 3
