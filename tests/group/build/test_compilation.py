"""Compiled peers: how many graphs there are, which of them a batch runs, and that the numbers are the eager ones."""

import pytest
import torch
import torch._dynamo
from support import assert_equal_weights, build, run, tiny_document, train_epochs, weights

from mutual.group import room_for_graphs
from mutual.group.build import compilation
from mutual.recipe import parse_recipe

limits = torch._dynamo.config
LIMIT = "recompile_limit" if hasattr(limits, "recompile_limit") else "cache_size_limit"


class Graphs:
    """A backend that keeps the graphs and notes which of them are run."""

    def __init__(self):
        self.inputs, self.runs = [], []

    def __call__(self, graph, inputs):
        number = len(self.inputs)
        self.inputs.append(inputs)

        def run_graph(*arguments):
            self.runs.append(number)
            return graph.forward(*arguments)

        return run_graph


@pytest.fixture
def graphs(monkeypatch):
    torch._dynamo.reset()
    graphs = Graphs()
    monkeypatch.setattr(compilation, "BACKEND", graphs)
    yield graphs
    torch._dynamo.reset()


def document(widths, *, num_train=20, **train):
    peers = {name: {"model": "support:double", "args": {"width": width}} for name, width in zip("abcdefgh", widths, strict=False)}
    base = tiny_document(peers=peers, train={"compile": True, **train})
    return {**base, "data": {**base["data"], "num_train": num_train}}


def trained(whole, graphs, *, epochs):
    """The graphs that each update of these epochs ran."""
    _, data, group, train_step = build(whole)
    group.train()
    updates = []
    for epoch in range(epochs):
        for window in data.train_windows(epoch, start=0, world_size=1, shard=(0, 1), accumulate=1):
            graphs.runs.clear()
            train_step(window, len(updates), measure=False)
            updates.append(list(graphs.runs))
    data.close()
    return updates


def test_a_full_batch_runs_its_own_graph_again_after_a_shorter_one(graphs):
    """And not one for all sizes, which would take over; two epochs of 8, 8 and 4 images compile twice for each peer."""
    updates = trained(document([3, 4]), graphs, epochs=2)
    assert updates == [[0, 1], [0, 1], [2, 3], [0, 1], [0, 1], [2, 3]]
    assert not any(isinstance(each, torch.SymInt) for inputs in graphs.inputs for each in inputs)


def test_peers_with_equal_layers_share_their_graphs(graphs):
    assert trained(document([4, 4, 4]), graphs, epochs=1) == [[0, 0, 0], [0, 0, 0], [1, 1, 1]]


def test_eight_peers_of_eight_kinds_have_room_for_their_graphs(graphs):
    whole = document(range(3, 11), num_train=12)
    before = getattr(limits, LIMIT)
    with room_for_graphs([parse_recipe(whole)]):
        assert getattr(limits, LIMIT) == 16 * 8
        updates = trained(whole, graphs, epochs=1)
    assert updates == [list(range(8)), list(range(8, 16))], "all are compiled, the shorter batch too"
    assert getattr(limits, LIMIT) == before


@pytest.mark.parametrize(("own", "of_the_run", "expected"), [(None, False, 0), (True, False, 1), (None, True, 2), (False, True, 1)])
def test_room_is_made_for_what_is_compiled(own, of_the_run, expected):
    teacher = {"model": "support:double", "frozen": True, "compile": own}
    recipe = parse_recipe(tiny_document(peers={"a": {"model": "support:double"}, "t": teacher}, train={"compile": of_the_run}))
    before = getattr(limits, LIMIT)
    with room_for_graphs([recipe]):
        assert getattr(limits, LIMIT) == (16 * expected or before)


@pytest.mark.parametrize("train", [{}, {"update": "alternating"}, {"ema": 0.5}])
def test_a_compiled_training_gives_the_eager_numbers(train, graphs):
    whole = document([3, 4], **train)
    whole["objectives"] += [{"loss": "hint", "at": "body"}, {"loss": "kd", "sources": "ema" if "ema" in train else None}]
    compiled = weights(train_epochs(whole, epochs=2))
    assert graphs.inputs
    eager = weights(train_epochs({**whole, "train": train}, epochs=2))
    assert_equal_weights(compiled, eager, tolerance=1e-12)


def test_the_moving_average_is_compiled_where_it_is_evaluated(graphs):
    _, data, group, _ = build(document([4], ema=0.5) | {"objectives": [{"loss": "cross_entropy"}]})
    data.close()
    group.eval()
    images = torch.rand(8, 1, 8, 8)
    predicted = group.predict(images, ["a"], global_batch_size=8)["a"]
    assert graphs.runs == [0]
    torch.testing.assert_close(predicted, group.peers["a"].average.model.eval()(group.view("a", images)).float())


def test_outputs_that_a_gpu_would_write_over_are_copied(monkeypatch):
    """As a replayed graph does, the backend writes what it returns into the same memory each time."""
    torch._dynamo.reset()

    def backend(graph, inputs, **options):
        kept = []

        def replay(*arguments):
            outputs = graph.forward(*arguments)
            kept[:] = kept or [output.detach().clone() for output in outputs]
            for memory, output in zip(kept, outputs, strict=True):
                memory.copy_(output.detach())
            return kept

        return replay

    monkeypatch.setattr(compilation, "BACKEND", backend)
    objectives = [{"loss": "cross_entropy"}, {"loss": "l2", "at": "body", "sources": "ema"}]
    _, data, group, _ = build(document([4]) | {"objectives": objectives, "train": {"ema": 0.5}})
    data.close()
    peer = group.peers["a"]
    images = [torch.rand(8, 1, 8, 8), torch.rand(8, 1, 8, 8)]
    group.eval()
    with torch.no_grad():
        expected = [module(each) for module in peer.modules for each in images]
        compilation.compile_peer(peer, mode="reduce-overhead")
        found = [module(each) for module in peer.modules for each in images]
    torch.testing.assert_close(found, expected)
    torch._dynamo.reset()


@pytest.mark.slow
def test_ddp_averages_a_compiled_peers_gradients_bucket_by_bucket():
    """The gradients are the eager ones, and the graph is divided where a bucket is full, which lets its averaging overlap."""
    done = run("compile_checks", processes=2)
    assert "compile checks hold" in done.stdout
