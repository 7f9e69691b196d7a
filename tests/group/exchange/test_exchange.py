"""What travels between ranks arrives as the rows that were sent, whatever the placement, the size and the precision."""

import pytest
import torch
from support import tiny_document

from mutual.group import expand_objectives
from mutual.group.edges import OutputKey
from mutual.group.exchange import OutputExchange, TransferPlan, parallel, scoring_requirements
from mutual.objectives import distances
from mutual.recipe import parse_recipe

SPECS = {
    OutputKey(name, path): (shape, dtype)
    for name, dtype in (("a", torch.float64), ("b", torch.float32))
    for path, shape in (("logits", (4,)), ("body", (3, 2, 2)))
}


class Ranks:
    """Stands for ranks that exchange in one process: each starts before any waits."""

    def __init__(self, size):
        self.size, self.sent, self.dtypes, self.calls = size, {}, set(), 0

    def comm(self, rank):
        comm = type("Comm", (), {"rank": rank, "size": self.size, "device": torch.device("cpu")})()
        comm.all_gather_json = lambda names: [[str(dtype).removeprefix("torch.") for dtype in each] for each in self.announced]
        comm.all_to_all = lambda outgoing, num_sent, num_received: self._post(rank, outgoing, num_sent, num_received)
        return comm

    def _post(self, rank, outgoing, num_sent, num_received):
        self.calls += 1
        assert not outgoing.requires_grad
        self.dtypes.add(outgoing.dtype)
        assert len(self.dtypes) == 1, "also of a rank that sends nothing"
        self.sent[rank] = outgoing.split(list(num_sent))
        return type("Work", (), {"wait": lambda _: self._arrived(rank, num_received)})()

    def _arrived(self, rank, num_received):
        parts = [self.sent[sender][rank] for sender in range(self.size)]
        assert [len(part) for part in parts] == list(num_received)
        return torch.cat(parts)


def exchange(recipe, size, *, plan=None, num_images=6, specs=SPECS, given=None):
    """By rank what arrives, each peer's outputs of the whole micro-batch, and the exchanges.

    The outputs have the dtypes of `specs`, or of `given`.
    """
    ranks = Ranks(size)
    placement = parallel(recipe, size, dict.fromkeys(recipe.peers, 1.0))
    transfer_plan = (
        TransferPlan.of(placement, expand_objectives(recipe), specs, dtype=recipe.exchange.dtype) if plan is None else plan(placement)
    )
    generator = torch.Generator().manual_seed(0)
    whole = {}
    for (name, path), (shape, dtype) in specs.items():
        outputs = torch.randn(num_images, *shape, generator=generator, dtype=torch.float64).to(given or dtype)
        whole.setdefault(name, {})[path] = outputs.requires_grad_()
    exchanges = [OutputExchange(transfer_plan, ranks.comm(rank)) for rank in range(size)]
    everyones = []
    for rank in range(size):
        begin, end = transfer_plan.rows(rank, num_images)
        padded = slice(begin, max(end, begin + 1))  # a rank without an image computes one row of padding
        everyones.append({name: {path: output[padded] for path, output in whole[name].items()} for name in placement.peers_on(rank)})
    ranks.announced = [transfer_plan.sent_dtypes(rank, held) for rank, held in enumerate(everyones)]
    handles = [each.start(held, size=num_images) for each, held in zip(exchanges, everyones, strict=True)]
    rows = [slice(*transfer_plan.rows(rank, num_images)) for rank in range(size)]
    return [handle.wait() for handle in handles], whole, rows, exchanges, ranks


def recipe_of(*objectives, ranks=None, **exchanged):
    peers = {name: {"model": "support:tiny", "ranks": (ranks or {}).get(name)} for name in "ab"}
    whole = [{"loss": "cross_entropy"}, *objectives]
    return parse_recipe(tiny_document(peers=peers, objectives=whole, placement="parallel", exchange=exchanged))


@pytest.mark.parametrize("ranks", [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 1}, {"a": 2, "b": 2}, {"a": 2, "b": 3}])
@pytest.mark.parametrize("num_images", [7, 6, 3, 2])
def test_each_rank_gets_its_rows_of_what_it_reads(ranks, num_images):
    recipe = recipe_of({"loss": "dml"}, {"loss": "hint", "at": "body", "learners": ["b"]}, ranks=ranks)
    size = sum(ranks.values())
    arrived, whole, rows, exchanges, meeting = exchange(recipe, size, num_images=num_images)
    for rank in range(size):
        source, paths = ("b", {"logits"}) if rank < ranks["a"] else ("a", {"logits", "body"})
        assert arrived[rank].keys() == {source}
        assert arrived[rank][source].keys() == paths
        for path, output in arrived[rank][source].items():
            expected = whole[source][path][rows[rank]].detach()
            assert output.dtype == expected.dtype
            if len(expected):
                assert torch.equal(output, expected)
            else:
                assert torch.equal(output, torch.zeros_like(whole[source][path][:1])), "padding, for a rank without an image"
    assert meeting.calls == size
    for rank, each in enumerate(exchanges):
        assert each.sent_bytes == each.transfer_plan.sent_bytes(rank, num_images)
    assert sum(each.sent_bytes for each in exchanges) == 8 * num_images * (4 + 4 + 12), "each image once to each learner, in float64"


@pytest.mark.parametrize(("dtype", "wire"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_outputs_travel_in_the_precision_that_the_recipe_says(dtype, wire):
    arrived, whole, rows, exchanges, _ = exchange(recipe_of({"loss": "dml"}, dtype=dtype), 2)
    for rank, source in enumerate("ba"):
        expected = whole[source]["logits"][rows[rank]].detach()
        assert torch.equal(arrived[rank][source]["logits"], expected.to(wire).to(expected.dtype))
    assert [each.sent_bytes for each in exchanges] == [2 * 6 * 4] * 2


@pytest.mark.parametrize("given", [torch.bfloat16, torch.float16])
def test_what_autocast_gives_travels_as_it_is(given):
    """Recipes' peers are known to give float32; what they give under autocast takes half of that, and no value is rounded."""
    specs = {key: (shape, torch.float32) for key, (shape, _) in SPECS.items()}
    arrived, whole, rows, exchanges, _ = exchange(recipe_of({"loss": "dml"}), 2, specs=specs, given=given)
    for rank, source in enumerate("ba"):
        expected = whole[source]["logits"][rows[rank]].detach()
        assert arrived[rank][source]["logits"].dtype == torch.float32
        assert torch.equal(arrived[rank][source]["logits"], expected.float())
    assert [each.sent_bytes for each in exchanges] == [each.transfer_plan.sent_bytes(rank, 6) for rank, each in enumerate(exchanges)]
    assert [each.sent_bytes for each in exchanges] == [2 * 6 * 4] * 2


def test_distances_and_outputs_that_differ_travel_in_the_widest_dtype():
    specs = {key: (shape, torch.float32) for key, (shape, _) in SPECS.items()}
    relations = [{"loss": "rkd_distance", "at": "body", "learners": ["a"]}, {"loss": "dml"}]
    arrived, whole, _, exchanges, _ = exchange(recipe_of(*relations), 2, specs=specs, given=torch.bfloat16)
    assert exchanges[0].transfer_plan.dtype == torch.float32
    assert torch.equal(arrived[0]["b"]["body:distances"], distances(whole["b"]["body"].detach().float()))


def test_a_dtype_that_grows_is_no_exact_exchange():
    specs = {key: (shape, torch.float32) for key, (shape, _) in SPECS.items()}
    _, whole, _, exchanges, _ = exchange(recipe_of({"loss": "dml"}), 2, specs=specs, given=torch.bfloat16)
    wider = {name: {path: output.float() for path, output in outputs.items()} for name, outputs in whole.items()}
    with pytest.raises(AssertionError, match="as at first"):
        exchanges[0].start(wider, size=6)


def test_what_nobody_reads_does_not_travel():
    arrived, _, _, exchanges, ranks = exchange(recipe_of({"loss": "dml", "gate": "cutoff"}), 2)
    assert arrived == [{}, {}]
    assert ranks.calls == 0
    assert all(each.transfer_plan.is_empty and each.sent_bytes == 0 for each in exchanges)
    arrived, _, _, exchanges, ranks = exchange(recipe_of({"loss": "dml", "learners": ["a"]}), 2)
    assert [set(each) for each in arrived] == [{"b"}, set()]
    assert [each.sent_bytes for each in exchanges] == [0, 4 * 6 * 4], "of logits in float32 alone"
    assert ranks.calls == 2, "a collective that all ranks call"


def test_vectors_and_distances_travel_in_place_of_feature_maps():
    vectors = recipe_of({"loss": "pefd", "at": "body", "learners": ["a"]})
    arrived, whole, _, _, _ = exchange(vectors, 2)
    torch.testing.assert_close(arrived[0]["b"]["body"], whole["b"]["body"].detach().mean(dim=(2, 3)))
    relations = recipe_of({"loss": "rkd_distance", "at": "body", "learners": ["a"]})
    arrived, whole, _, _, _ = exchange(relations, 2)
    torch.testing.assert_close(arrived[0]["b"]["body:distances"], distances(whole["b"]["body"].detach()))


@pytest.mark.parametrize("order", [1, -1])
def test_what_one_edge_reads_whole_travels_whole(order):
    objectives = [{"loss": name, "at": "body", "learners": ["a"]} for name in ("pefd", "hint", "rkd_angle")][::order]
    arrived, whole, _, _, _ = exchange(recipe_of(*objectives), 2)
    assert torch.equal(arrived[0]["b"]["body"], whole["b"]["body"])
    assert arrived[0]["b"].keys() == {"body"}


def test_a_rank_without_an_image_gets_padding_in_the_form_that_it_reads():
    recipe = recipe_of({"loss": "pefd", "at": "body", "learners": ["b"]}, ranks={"a": 1, "b": 2})
    arrived = exchange(recipe, 3, num_images=1)[0]
    assert [each["a"]["body"].shape for each in arrived[1:]] == [(1, 3), (1, 3)]
    assert not arrived[2]["a"]["body"].any()


def test_feature_maps_that_travel_whole_are_named_with_their_bytes():
    recipe = recipe_of(
        {"loss": "dml"}, {"loss": "pefd", "at": "body", "learners": ["b"]}, {"loss": "hint", "at": "body", "learners": ["a"]}
    )
    exchanges = exchange(recipe, 2)[3]
    assert exchanges[0].transfer_plan.full_feature_maps == {OutputKey("b", "body"): 8 * 12}


def test_the_first_peers_ranks_get_everyones_logits_to_score():
    recipe = recipe_of(ranks={"a": 2, "b": 1})
    arrived, whole, rows, _, _ = exchange(
        recipe, 3, plan=lambda placement: TransferPlan(placement, scoring_requirements(placement, ["a", "b"]), SPECS)
    )
    for rank in (0, 1):
        assert torch.equal(arrived[rank]["b"]["logits"], whole["b"]["logits"][rows[rank]])
    assert arrived[2] == {}


def test_an_exchange_needs_the_number_of_images_only_where_something_travels():
    recipe = parse_recipe(tiny_document())
    placement = parallel(recipe, 2, dict.fromkeys(recipe.peers, 1.0))
    of_learners = TransferPlan.of(placement, expand_objectives(recipe), SPECS, dtype="exact")
    for size in (None, 0):
        with pytest.raises(AssertionError, match="number of images"):
            OutputExchange(of_learners, Ranks(2).comm(0)).start({}, size=size)
    nothing = TransferPlan(placement, [{}, {}], SPECS)
    assert OutputExchange(nothing, Ranks(2).comm(0)).start({}, size=None).wait() == {}
