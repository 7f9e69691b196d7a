"""Edge losses: where sources come from, which images an edge reads, what its weight is, and whose the adapters are."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from support import assert_equal_weights, build, tiny_document, train_epochs, weights

from mutual.data import mixed
from mutual.group import MicroBatchContext
from mutual.group.edges.selection import Selections, Selector
from mutual.recipe import RecipeError

CE = {"loss": "cross_entropy"}
THREE = {name: {"model": "support:double"} for name in "abc"}
AVERAGED = {"epochs": 2, "progress": False, "ema": 0.9, "evaluate_ema": False}


def first_batch(data, group):
    group.train()
    (window, *_) = data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1)
    return mixed(window.batches[0], num_classes=data.info.num_classes)


def losses_of(document, *, labels=None, epoch=0.0):
    """Each edge's loss on the first batch by (objective, learner, source), the peers' logits, and the labels."""
    _, data, group, _ = build(document)
    images, targets = first_batch(data, group)
    targets = targets if labels is None else labels(targets, group, images)
    output = group.forward(images, targets, MicroBatchContext(len(images), seed=0, epoch=epoch))
    edge_losses = {(edge.name, edge.learner, edge.source): output.edge_losses[index] for index, edge in enumerate(group.edges)}
    return edge_losses, output, targets


def test_an_ensemble_is_the_mean_of_the_other_peers_logits():
    edge_losses, output, _ = losses_of(tiny_document(peers=THREE, objectives=[CE, {"loss": "kd", "sources": "ensemble"}]))
    mean = torch.stack([output.logits[name] for name in "bc"]).mean(dim=0)
    expected = 16 * F.kl_div(F.log_softmax(output.logits["a"] / 4, 1), F.log_softmax(mean / 4, 1), reduction="batchmean", log_target=True)
    assert edge_losses["kd", "a", "ensemble"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_an_ensemble_may_hold_the_learner_and_choose_its_members():
    ensemble = {"own": True, "members": ["a", "b"]}
    edge_losses, output, _ = losses_of(
        tiny_document(peers=THREE, objectives=[CE, {"loss": "l2", "sources": "ensemble", "ensemble": ensemble}])
    )
    for name in "abc":
        members = {"a": "ab", "b": "ab", "c": "ab"}[name]
        mean = torch.stack([output.logits[member] for member in members]).mean(dim=0)
        assert edge_losses["l2", name, "ensemble"].item() == pytest.approx(F.mse_loss(output.logits[name], mean).item(), rel=1e-5)


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
def test_a_moving_average_teaches(update):
    """`ema` is the learner's own average, `peers_ema` the others'; they change by the learner's steps alone."""
    objectives = [CE, {"loss": "l2", "sources": "ema"}, {"loss": "l1", "sources": "peers_ema"}]
    document = tiny_document(objectives=objectives, train={**AVERAGED, "update": update})
    group = train_epochs(document)
    assert [edge.source for edge in group.edges] == [None, None, "a.ema", "b.ema", "b.ema", "a.ema"]
    images = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    logits_by_peer = {name: group.forward_peer(name, images, seed=0)["logits"] for name in "ab"}
    average_logits = {name: group.forward_without_side_effects(f"{name}.ema", images, seed=0)["logits"] for name in "ab"}
    output = group.compute_losses(
        {name: {"logits": logits} for name, logits in logits_by_peer.items()},
        {f"{name}.ema": {"logits": logits} for name, logits in average_logits.items()},
        torch.zeros(4, dtype=torch.long),
        MicroBatchContext(4, seed=0),
        learners="ab",
    )
    torch.testing.assert_close(output.edge_losses[2], F.mse_loss(logits_by_peer["a"], average_logits["a"]).detach())
    torch.testing.assert_close(output.edge_losses[4], F.l1_loss(logits_by_peer["a"], average_logits["b"]).detach())
    assert not torch.equal(logits_by_peer["a"], average_logits["a"])
    read = group.view("a", images)
    torch.testing.assert_close(group.peers["a"].predict(read), logits_by_peer["a"].detach())  # evaluate_ema: false


def test_a_warm_average_forgets_the_initial_weights():
    """The first update has decay 0, the second 1/2: the average is the mean of the weights so far."""
    train = {**AVERAGED, "ema": 0.999, "ema_warmup": True}
    document = tiny_document(objectives=[CE, {"loss": "l2", "sources": "ema"}], train=train)
    document["data"] |= {"num_train": 16}
    _, data, group, train_step = build(document)
    peer, seen = group.peers["a"], []
    for update, window in enumerate(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1)):
        train_step.simultaneous(window, update, measure=False)
        seen.append(copy.deepcopy(peer.model.head.weight.detach()))
    torch.testing.assert_close(peer.average.model.head.weight, (seen[0] + seen[1]) / 2)


def test_a_peer_may_teach_itself_at_another_output():
    document = tiny_document(objectives=[CE, {"loss": "hint", "sources": "self", "at": "stem", "source_at": "body"}])
    group = train_epochs(document)
    assert [str(edge) for edge in group.edges][2:] == ["hint@stem (a <- a)", "hint@stem (b <- b)"]


def test_branches_over_a_shared_trunk_learn_from_their_ensemble():
    """ONE (arXiv:1806.04606): the peer is its own source, and one trunk learns from every branch."""
    objectives = [
        CE,
        {"loss": "cross_entropy", "at": ["branches.0", "branches.1"]},
        {"loss": "kd", "sources": "self", "at": ["branches.0", "branches.1"], "source_at": "logits", "temperature": 3},
    ]
    args = {"branches": 2, "trunk": [4], "widths": [6], "strides": [2, 2]}
    edge_losses, _, _ = losses_of(tiny_document(peers={"a": {"model": "one", "args": args}}, objectives=objectives))
    assert len(edge_losses) == 3
    _, data, group, _ = build(tiny_document(peers={"a": {"model": "one", "args": args}}, objectives=objectives[2:]))
    images, labels = first_batch(data, group)
    group.forward(images, labels, MicroBatchContext(len(images), seed=0)).losses["a"].backward()
    model = group.peers["a"].model
    assert model.trunk[0].weight.grad.abs().sum() > 0
    assert model.gate[0].weight.grad.abs().sum() == 0, "the ensemble teaches and does not learn from this edge"


def test_ground_truth_may_be_read_at_another_head():
    edge_losses, _, _ = losses_of(tiny_document(objectives=[CE, {"loss": "cross_entropy", "at": "head"}]))
    assert edge_losses["cross_entropy@head", "a", None] == edge_losses["cross_entropy", "a", None]


def test_one_edge_for_each_listed_layer():
    _, _, group, _ = build(tiny_document(objectives=[CE, {"loss": "at", "at": ["stem", "body"], "learners": ["a"]}]))
    assert [edge.learner_at for edge in group.edges][2:] == [("stem",), ("body",)]
    assert [edge.weight for edge in group.edges][2:] == [1, 1]


def test_the_correct_gate_reads_images_that_the_source_knows():
    edge_losses, output, labels = losses_of(tiny_document(objectives=[CE, {"loss": "dml", "gate": "correct"}]))
    known = output.logits["b"].argmax(1) == labels
    assert 0 < known.sum() < len(labels)
    log = [F.log_softmax(output.logits[name][known].double(), 1) for name in "ab"]
    each = ((log[0].exp() - log[1].exp()) * (log[0] - log[1])).sum(1) / 2
    assert edge_losses["dml", "a", "b"].item() == pytest.approx((each.sum() / len(labels)).item(), rel=1e-5)


def test_a_source_that_knows_nothing_teaches_nothing_and_breaks_nothing():
    """No label is the one that the source predicts: the loss is 0, and the graph still reaches every parameter."""
    document = tiny_document(objectives=[CE, {"loss": "hint", "at": "body", "gate": "correct"}])
    _, data, group, _ = build(document)
    images, _ = first_batch(data, group)
    with torch.no_grad():
        guessed = group.forward_peer("b", images, seed=0)["logits"].argmax(1)
    output = group.forward(images, (guessed + 1) % 4, MicroBatchContext(len(images), seed=0))
    assert output.edge_losses[2] == 0
    output.losses["a"].backward()
    assert all(parameter.grad is not None for parameter in group.peers["a"].parameters())


def test_a_cut_off_edge_is_not_there():
    _, _, group, _ = build(tiny_document(objectives=[CE, {"loss": "dml", "gate": "cutoff"}]))
    assert {edge.name for edge in group.edges} == {"cross_entropy"}
    with pytest.raises(RecipeError, match="no objective trains 'a'"):
        build(tiny_document(objectives=[{**CE, "gate": "cutoff"}]))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, [1, 1, 1]),
        ({"gate": "linear"}, [0, 0.5, 1]),
        ({"schedule": {"name": "constant", "from_epoch": 1, "until_epoch": 2}}, [0, 1, 0]),
        ({"schedule": {"name": "linear", "start": 1, "end": 0}}, [1, 0.5, 0]),
        ({"schedule": {"name": "linear", "from_epoch": 1}}, [0, 0, 1]),
        ({"schedule": {"name": "linear", "until_epoch": 0.5}}, [0, 1, 1]),
        ({"schedule": {"name": "cosine", "start": 2, "end": 4}}, [2, 3, 4]),
        ({"schedule": {"name": "ramp_up"}}, [0, math.exp(-1.25), 1]),
        ({"schedule": {"name": "linear"}, "gate": "linear"}, [0, 0.25, 1]),
    ],
)
def test_a_weight_is_a_function_of_the_epoch(change, expected):
    _, _, group, _ = build(tiny_document(objectives=[CE, {"loss": "dml", "weight": 3, **change}]))
    edge_loss = group.local_losses[2]
    assert [edge_loss.weight(epoch) for epoch in (0, 1, 2)] == pytest.approx([3 * factor for factor in expected])


def test_a_scheduled_weight_reaches_the_gradient():
    """With the factor 0 in the first epoch and 1 in the second, the second is as if the objective had always been there."""
    plain = tiny_document(objectives=[CE])
    late = tiny_document(objectives=[CE, {"loss": "dml", "schedule": {"name": "constant", "from_epoch": 1}}])
    assert_equal_weights(weights(train_epochs(late)), weights(train_epochs(plain)), tolerance=1e-12)
    after = weights(train_epochs(late, epochs=2))
    with pytest.raises(AssertionError):
        assert_equal_weights(after, weights(train_epochs(plain, epochs=2)), tolerance=1e-12)


def test_images_without_a_label_count_nothing_where_labels_are_read():
    def hide(targets, group, images):
        return torch.where(torch.arange(len(targets)) % 2 == 0, targets, -1)

    document = tiny_document(objectives=[CE, {"loss": "dkd"}, {"loss": "ssld"}])
    document["data"] |= {"dataset": "fake"}
    _, data, group, _ = build(document)
    images, targets = first_batch(data, group)
    for edge_loss in group.local_losses.values():
        edge_loss.selector = Selector.of(edge_loss.edge, unlabelled=True)
    hidden = hide(targets, group, images)
    output = group.forward(images, hidden, MicroBatchContext(len(images), seed=0))
    known, logits = hidden >= 0, output.logits["a"]
    expected = F.cross_entropy(logits[known], targets[known]) * known.sum() / len(targets)
    assert output.edge_losses[0].item() == pytest.approx(expected.item(), rel=1e-5)
    everything = group.forward(images, targets, MicroBatchContext(len(images), seed=0))
    by_name = {edge.name: index for index, edge in enumerate(group.edges)}
    assert output.edge_losses[by_name["ssld"]] == everything.edge_losses[by_name["ssld"]]
    assert output.edge_losses[by_name["dkd"]] != everything.edge_losses[by_name["dkd"]]


def test_an_ensemble_weighted_by_the_batch_passes_images_without_a_label_over():
    """KDCL's linear weights are those of the labelled images alone."""
    ensemble = {"weighting": "linear", "own": True}
    document = tiny_document(peers=THREE, objectives=[CE, {"loss": "l2", "sources": "ensemble", "ensemble": ensemble, "learners": ["a"]}])
    _, _, group, _ = build(document)
    targets = torch.arange(8) % 4
    edge_loss = group.local_losses[3]
    edge_loss.selector = Selector.of(edge_loss.edge, unlabelled=True)
    generator = torch.Generator().manual_seed(0)
    outputs = {name: {"logits": 3 * torch.randn(len(targets), 4, generator=generator, dtype=torch.float64)} for name in "abc"}
    hidden = torch.where(torch.arange(len(targets)) < 4, targets, -1)
    actual = edge_loss.forward(outputs["a"], outputs, Selections(hidden), MicroBatchContext(len(targets), seed=0))
    labelled = {name: {"logits": each["logits"][:4]} for name, each in outputs.items()}
    expected = edge_loss.forward(labelled["a"], labelled, Selections(targets[:4]), MicroBatchContext(4, seed=0))
    torch.testing.assert_close(actual, expected * 4 / len(targets))


def test_a_single_loss_keeps_its_weight():
    """The reference drops the weight of a loss that stands alone."""
    halved = tiny_document(objectives=[{**CE, "weight": 0.5}], optimizer={"name": "sgd", "lr": 1.0})
    whole = tiny_document(objectives=[CE], optimizer={"name": "sgd", "lr": 0.5})
    assert_equal_weights(weights(train_epochs(halved)), weights(train_epochs(whole)), tolerance=1e-12)


def test_every_term_of_a_loss_counts():
    """The reference keeps the first value of a loss with several terms: there RKD's angles never reach the sum."""
    terms = [{"loss": "rkd_distance", "weight": 2}, {"loss": "rkd_angle", "weight": 3}]
    edge_losses, output, _ = losses_of(tiny_document(objectives=[CE, *terms]))
    expected = edge_losses["cross_entropy", "a", None] + 2 * edge_losses["rkd_distance", "a", "b"] + 3 * edge_losses["rkd_angle", "a", "b"]
    torch.testing.assert_close(output.losses["a"].detach(), expected)
    assert edge_losses["rkd_angle", "a", "b"] > 0


ADAPTERS = [CE, {"loss": "hint", "at": "body"}, {"loss": "mgd", "at": "stem"}, {"loss": "ofd", "at": ["norm"]}]
NORMED = {"a": {"model": "support:double", "args": {"norm": True}}, "b": {"model": "support:double", "args": {"norm": True, "width": 6}}}


def test_adapters_belong_to_the_learner():
    """They are in its optimizer and its checkpoint, and not in the model that is exported."""
    _, _, group, train_step = build(tiny_document(peers=NORMED, objectives=ADAPTERS))
    peer = group.peers["a"]
    adapters = [
        parameter for edge_loss in group.local_losses.values() if edge_loss.edge.learner == "a" for parameter in edge_loss.loss.parameters()
    ]
    assert len(adapters) == 2 + 6 + 3
    trained = {id(parameter) for parameter in peer.parameters()}
    assert {id(parameter) for parameter in adapters} < trained
    assert trained == {id(p) for group in train_step._optimizers["a"].optimizer.param_groups for p in group["params"]}
    assert any(name.startswith("adapters.") for name in peer.tapped.state_dict())
    assert not any("adapter" in name for name in peer.eval_model.state_dict())


def test_an_adapters_initial_weights_do_not_depend_on_who_stands_beside():
    def regressors(peers):
        _, _, group, _ = build(tiny_document(peers=peers, objectives=[CE, {"loss": "hint", "at": "body"}]))
        local_losses = [edge_loss for edge_loss in group.local_losses.values() if edge_loss.edge.name == "hint@body"]
        return {str(edge_loss.edge): edge_loss.loss.adapter.regressor.weight for edge_loss in local_losses}

    pair, trio = regressors({name: THREE[name] for name in "ab"}), regressors({name: THREE[name] for name in "cba"})
    for edge, weight in pair.items():
        assert torch.equal(weight, trio[edge])
    assert not torch.equal(*pair.values())


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
def test_accumulation_is_exact_with_adapters_gates_and_ensembles(update):
    """Invariant 3 for what is a mean over images; losses on relations between images are those of a micro-batch."""
    objectives = [
        CE,
        {"loss": "hint", "at": "body", "schedule": {"name": "linear"}},
        {"loss": "dml", "gate": "correct"},
        {"loss": "kd", "sources": "ensemble", "ensemble": {"weighting": "min_logit", "own": True}},
        {"loss": "okddip", "at": "body"},
        {"loss": "ssld", "sources": "peers_ema"},
    ]
    results = []
    for batch_size, accumulate in ((16, 1), (4, 4)):
        document = tiny_document(peers=THREE, objectives=objectives, train={"accumulate": accumulate, "update": update, "ema": 0.9})
        document["data"] |= {"num_train": 37, "batch_size": batch_size}
        results.append(weights(train_epochs(document, epochs=2)))
    assert_equal_weights(results[1], results[0], tolerance=1e-12)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (
            {"loss": "hint", "at": {"a": "head", "b": "body"}},
            r"a.head has shape \(4,\) and b.body has shape \(4, 2, 2\); .*cannot be joined",
        ),
        ({"loss": "afd"}, r"needs feature maps"),
        ({"loss": "ofd", "at": ["stem"]}, "there is none at 'stem'"),
        ({"loss": "okddip"}, "reads one embedding beside the logits; give its module path"),
        ({"loss": "okddip", "at": "body", "source_at": "logits", "sources": "ensemble"}, "makes its own mixture"),
        ({"loss": "at", "at": {"a": "body", "b": ["stem", "body"]}}, "a has 1 outputs there and b has 2"),
        ({"loss": "cross_entropy", "at": "body"}, r"a.body has shape \(4, 2, 2\), which are no logits"),
    ],
)
def test_shapes_that_do_not_fit_are_one_line(objective, message):
    with pytest.raises(RecipeError, match=message) as caught:
        build(tiny_document(objectives=[CE, objective]))
    assert len(str(caught.value).splitlines()) == 1
