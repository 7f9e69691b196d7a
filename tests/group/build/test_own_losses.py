"""Losses of the user's own in a group: tried before training, refused in a line, and equal to ours in all that an update has."""

import re
import warnings

import own_losses
import pytest
import torch
from support import assert_equal_weights, build, tiny_document, train_epochs, weights

from mutual.group import MicroBatchContext, expand_objectives
from mutual.group.build import compilation
from mutual.group.edges import EdgeLoss, Selections, can_be_batched
from mutual.recipe import RecipeError, parse_recipe

CE = {"loss": "cross_entropy"}
PAIR = {"a": {"model": "support:double"}, "b": {"model": "support:double", "args": {"width": 6}}}
SINGLE = {name: {**spec, "model": "support:tiny"} for name, spec in PAIR.items()}
TEACHER = {"model": "support:double", "frozen": True, "args": {"norm": True, "width": 5}}


def document(*objectives, **sections):
    base = tiny_document()
    merged = {key: {**base[key], **sections.pop(key, {})} for key in ("data", "train")}
    return {**base, "peers": PAIR, **merged, "objectives": list(objectives), **sections}


def own(name, **fields):
    return {"loss": f"own_losses:{name}", **fields}


def line_of(*objectives, **sections):
    with pytest.raises(RecipeError) as error:
        build(document(*objectives, **sections))
    (line,) = str(error.value).splitlines()
    return line


REFUSED = {
    "number": "returns a float, not a tensor; a loss is a tensor, one value or one for each image [B]",
    "nothing": "returns nothing; a loss is a tensor, one value or one for each image [B]",
    "of_classes": "returns float64 of shape (6, 4) for 6 images; a loss is one value or one for each image [B]",
    "counting": "returns int64 of shape () for 6 images; a loss is one value or one for each image [B]",
    "detached": "gives the learner no gradient; does it detach it, or only count?",
    "not_finite": "is nan for random outputs a.logits (4,) and b.logits (4,)",
    "steep": "gives a gradient that is not finite for random outputs a.logits (4,) and b.logits (4,)",
    "in_place": "changes what it reads in place, which other losses read as well; clone it first",
    "failing": "fails at a.logits (4,) and b.logits (4,): KeyError: 'no such thing' (",
    "leaving": "fails at a.logits (4,) and b.logits (4,): SystemExit: 3 (",
    "drawing": "draws from Python's random numbers, which no resumed run would draw again; draw by torch's generators",
    "declared_otherwise": "is declared per_image=True, and returns one value",
    "not_of_pairs": "is declared on_logits, and gives pairs [..., B, C] together other losses than each by itself",
    "of_two_dimensions": "is declared on_logits, and fails for pairs [..., B, C]: ",
}


@pytest.mark.parametrize(("name", "message"), REFUSED.items())
def test_a_loss_that_cannot_be_trained_with_is_refused_in_a_line(name, message):
    message = message.replace("a float, not a tensor", "a float")
    assert line_of(CE, own(name)).startswith(f"objectives.1.loss: own_losses:{name} {message}")


def test_where_a_loss_fails_is_said():
    assert re.search(r"\(.*own_losses\.py:\d+\)$", line_of(CE, own("failing")))
    line = line_of(CE, own("kd", at="body"))
    assert line.startswith("objectives.1.loss: own_losses:kd fails at a.body (4, 2, 2) and b.body (6, 2, 2): RuntimeError: The size of")


WRONG = [
    (own("nope"), "objectives.1.loss: 'own_losses:nope': own_losses has no loss 'nope'"),
    (own("kd", args={"temprature": 2}), "objectives.1.loss: own_losses:kd takes no argument 'temprature'; did you mean 'temperature'?"),
    (own("Hint", args={"width": 2}), "objectives.1.loss: own_losses:Hint takes no argument 'width'"),
    (own("kd", args={"temperature": float("nan")}), "recipe: objectives.1.args.temperature: holds .nan, which equals nothing"),
    (own("kd_together", at="body"), "objectives.1.at: a.body has shape (4, 2, 2) and b.body has shape (6, 2, 2); "),
    (own("sum_of_outputs"), "objectives.1.at: a.logits has shape (4,) and b.logits has shape (4,); "),
    (own("cross_entropy", sources=["b"], learners=["a"]), "objectives.1.sources: own_losses:cross_entropy reads no source; take this away"),
    (own("cross_entropy", gate="correct"), "objectives.1.gate: 'correct' asks whether a source is right, and own_losses:cross_entropy has"),
    (own("kd_mean", gate="correct"), "objectives.1.loss: own_losses:kd_mean returns one value for all images, some of which do not count"),
    (own("bce"), "objectives.1.loss: own_losses:bce is for images with several labels each (data.multi_label); cross_entropy is for one"),
    (own("bce", at="body"), "objectives.1.loss: own_losses:bce is for images with several labels"),
]


@pytest.mark.parametrize(("objective", "line"), WRONG)
def test_what_a_recipe_and_a_loss_say_must_fit(objective, line):
    assert line_of(CE, objective).removeprefix("recipe: ").startswith(line.removeprefix("recipe: "))


def test_labels_and_heads_are_checked_once_the_loss_is_known():
    several = {"multi_label": True}
    line = line_of({"loss": "bce"}, own("kd_together"), data=several)
    assert line.startswith("objectives.1.loss: own_losses:kd_together needs one class an image; for several take bce")
    headless = {**PAIR, "t": {"model": "support:embedding", "frozen": True, "head": "none"}}
    line = line_of(CE, own("kd_together", learners=["a"]), peers=headless)
    assert line.startswith("objectives.1.sources: own_losses:kd_together reads logits, and peer 't' has none (head: none)")
    line = line_of(CE, own("kd"), peers={"a": {"model": "support:tiny"}})
    assert line == "objectives.1: own_losses:kd needs a source and 'a' has no other peer; add a peer or drop this objective"
    stored = {**PAIR, "t": {**TEACHER, "store": {"folder": "nowhere"}}}
    line = line_of(CE, own("kd"), peers=stored)
    assert line.startswith("peers.t.store.topk: 10 keeps the largest of a softmax, and objectives.1 (own_losses:kd) reads the logits")


def test_a_recipe_is_read_without_importing_its_losses():
    """What is not known then is checked where the group is built; a peer alone may learn by a loss that reads labels."""
    lone = parse_recipe(document({"loss": "no_losses:fn"}, peers={"a": {"model": "support:tiny"}}))
    assert lone.sources_of(lone.objectives[0], "a") == ()
    stored = {**PAIR, "t": {**TEACHER, "store": {"folder": "nowhere"}}}
    parse_recipe(document(CE, own("cross_entropy"), peers=stored))
    with pytest.raises(RecipeError, match=r"peers\.t\.store\.topk"):
        parse_recipe(document(CE, own("kd", sources=["t"]), peers=stored))
    with pytest.raises(RecipeError, match=re.escape("objectives.0.loss: 'no_losses:fn': cannot import 'no_losses'")):
        build(document({"loss": "no_losses:fn"}))


def test_a_loss_without_a_source_is_an_edge_without_one():
    recipe = parse_recipe(document(own("cross_entropy"), own("Centres", at="body"), own("kd", weight=3.0), peers={**PAIR, "t": TEACHER}))
    edges = expand_objectives(recipe)
    assert [(edge.learner, edge.source, edge.weight) for edge in edges] == [
        ("a", None, 1.0), ("b", None, 1.0), ("a", None, 1.0), ("b", None, 1.0),
        ("a", "b", 1.5), ("a", "t", 1.5), ("b", "a", 1.5), ("b", "t", 1.5),
    ]  # fmt: skip
    assert [edge.name for edge in edges[::2]] == ["own_losses:cross_entropy", "own_losses:Centres@body", *["own_losses:kd"] * 2]


def caught(*objectives, **sections):
    with warnings.catch_warnings(record=True) as lines:
        warnings.simplefilter("always")
        parts = build(document(*objectives, **sections))
    return [str(each.message) for each in lines], parts[2]


def test_one_value_that_is_no_mean_over_the_images_is_told_where_there_are_several_micro_batches():
    accumulated = {"train": {"accumulate": 2}}
    expected = (
        "objectives.1.loss: own_losses:added gives one value that is no mean over the images: each process' micro-batch has its own, and "
        "an update takes their mean, weighted by their images"
    )
    assert caught(CE, own("added"), **accumulated)[0] == [expected]
    assert caught(CE, own("added"))[0] == []
    for name, fields in {
        "kd": {},
        "kd_mean": {},
        "kd_masked": {},
        "similarity": {"at": "body"},
        "noisy": {},
        "Hint": {"at": "body"},
    }.items():
        assert caught(CE, own(name, **fields), **accumulated)[0] == [], name
    assert len(caught(CE, own("relation", at="body"), **accumulated)[0]) == 1


def test_weights_that_no_gradient_reaches_are_excluded_and_told():
    lines, group = caught(CE, own("Spare", learners=["a"], at="head:input"))
    assert lines == [
        "objectives.1.loss: no gradient reaches 2 parameters (adapter.module.spare.weight, adapter.module.spare.bias) of own_losses:Spare; "
        "excluded from training"
    ]
    (adapter,) = group.peers["a"].tapped.adapters.values()
    trained = {name for name, parameter in adapter.named_parameters() if parameter.requires_grad}
    assert trained == {"adapter.module.used.weight", "adapter.module.used.bias"}


@pytest.mark.parametrize(
    ("name", "at", "per_image", "draws"),
    [
        ("kd", "logits", True, False),
        ("kd_mean", "logits", False, False),
        ("noisy", "logits", True, True),
        ("Masked", "body", True, True),
        ("Hint", "body", True, False),
        ("similarity", "body", False, False),
    ],
)
def test_what_a_loss_returns_and_draws_is_found_out(name, at, per_image, draws):
    group = build(document(CE, own(name, at=at, learners=["a"])))[2]
    (edge_loss,) = (each for each in group.local_losses.values() if each.edge.objective_index == 1)
    spec = edge_loss.loss.loss_spec
    assert (spec.per_image, spec.is_stochastic) == (per_image, draws)


def test_a_trial_leaves_no_trace():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    group = build(document(CE, own("Masked", at="body")))[2]
    assert torch.get_rng_state().equal(state)
    assert all(parameter.grad is None for peer in group.peers.values() for parameter in peer.tapped.parameters())


def test_edges_are_computed_together_only_where_the_loss_says_it_may():
    group = build(document(CE, own("kd"), own("kd_together"), own("noisy_together")))[2]
    batched = {each.edge.objective_index for each in group.local_losses.values() if can_be_batched(each)}
    assert batched == {0, 2}


def test_images_without_a_label_are_left_out_of_a_loss_that_reads_labels():
    group = build(document(CE, own("cross_entropy"), own("wsl"), {"loss": "wsl"}, own("kd"), {"loss": "kd"}))[2]
    outputs = {name: {"logits": torch.randn(6, 4, generator=torch.Generator().manual_seed(len(name)))} for name in ("a", "b")}
    labels, values = torch.tensor([0, -1, 2, 3, -1, 1]), {}
    for each in group.local_losses.values():
        edge_loss = EdgeLoss(each.edge, each.loss, lambda epoch: 1.0, comm=each._comm, unlabelled=True)
        value = edge_loss.forward(outputs[each.edge.learner], outputs, Selections(labels), MicroBatchContext(6, seed=0))
        values.setdefault(each.edge.learner, []).append(value)
    for found in values.values():
        torch.testing.assert_close(found[::2], found[1::2])


EVERYWHERE = {
    "accumulated": {"train": {"accumulate": 3}, "data": {"num_train": 37}},
    "alternating": {"train": {"update": "alternating", "accumulate": 2}},
    "a backward each": {"train": {"backward": "per_peer"}},
    "bf16": {"train": {"precision": "bf16"}, "peers": SINGLE},
    "averaged": {"train": {"ema": 0.9}},
    "mixed images": {"data": {"mixup": 0.4, "cutmix": 1.0}},
    "a view each": {"data": {"views": "per_peer", "augment": [{"name": "random_crop", "padding": 2}]}},
}  # fmt: skip
FIELDS = {
    "plain": {},
    "a schedule and a gate": {"gate": "linear", "schedule": {"name": "ramp_up", "until_epoch": 1}},
    "what is correct": {"gate": "correct"},
}
ANEW = {"kd": "kd", "kd_together": "kd", "wsl": "wsl", "swapped": "kd"}


def trained(*objectives, **sections):
    return weights(train_epochs(document(*objectives, **sections)))


@pytest.mark.parametrize("name", ANEW)
@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_a_loss_on_logits_written_anew_trains_as_ours(name, fields):
    ours = trained(CE, {"loss": ANEW[name], **fields})
    assert_equal_weights(trained(CE, own(name, **fields)), ours, tolerance=1e-12)


@pytest.mark.parametrize("sections", EVERYWHERE.values(), ids=EVERYWHERE)
def test_losses_written_anew_train_as_ours_in_every_kind_of_update(sections):
    ours = [CE, {"loss": "wsl"}, {"loss": "hint", "at": "body"}]
    anew = [own("cross_entropy"), own("wsl"), own("Hint", at="body")]
    if "precision" in sections.get("train", {}):  # the gradients of several edges are rounded one by one, and of ours together
        ours, anew = ours[:1], anew[:1]
    assert_equal_weights(trained(*anew, **sections), trained(*ours, **sections), tolerance=1e-10)


def test_beside_compiled_peers_a_loss_is_as_it_was(monkeypatch):
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    objectives = [own("cross_entropy"), own("Hint", at="body"), own("noisy")]
    assert_equal_weights(trained(*objectives, train={"compile": True}), trained(*objectives), tolerance=1e-12)


@pytest.mark.parametrize(
    ("name", "at"), [("hint", "Hint"), ("crd", "Contrast"), ("mgd", "Masked"), ("similarity", "similarity"), ("rkd_distance", "relation")]
)
def test_losses_on_features_written_anew_train_as_ours(name, at):
    """Initial weights and random numbers are those of ours, too."""
    ours = trained(CE, {"loss": name, "at": "body", "gate": "correct"})
    assert_equal_weights(trained(CE, own(at, at="body", gate="correct")), ours, tolerance=1e-12)


@pytest.mark.filterwarnings("ignore:peers.t. knows 3 of the data's 4 classes")
@pytest.mark.parametrize("sources", ["ensemble", "ema", "peers_ema", ["t"]])
def test_losses_written_anew_read_every_kind_of_source(sources):
    peers, fields = {**PAIR, "t": {**TEACHER, "classes": [0, None, 2, 3]}}, {"sources": sources}
    if sources == "ensemble":
        fields["ensemble"] = {"weighting": "linear", "own": True}
    sections = {"peers": peers, "train": {"ema": 0.9}}
    ours = trained(CE, {"loss": "kd", **fields}, {"loss": "wsl", **fields}, **sections)
    for name in ("kd", "kd_together"):
        assert_equal_weights(trained(CE, own(name, **fields), own("wsl", **fields), **sections), ours, tolerance=1e-12)


def test_a_loss_reads_several_outputs_together_or_adds_them_up():
    pair = {"a": PAIR["a"], "b": PAIR["a"]}
    ours = trained(CE, {"loss": "l2", "at": ["stem", "body"]}, peers=pair)
    assert_equal_weights(trained(CE, own("sum_of_outputs", at=["stem", "body"]), peers=pair), ours, tolerance=1e-12)


def test_ground_truth_with_weights_trains_them_with_the_learner():
    group = train_epochs(document(CE, own("Centres", at="body", learners=["a"], args={"num_classes": 4})))
    (centres,) = group.peers["a"].tapped.adapters.parameters()
    assert centres.abs().sum(dim=1).min() > 0
    assert not any("centres" in name for name in group.peers["a"].model.state_dict())


def test_several_labels_an_image():
    several = {"data": {"multi_label": True}}
    assert_equal_weights(trained(own("bce"), **several), trained({"loss": "bce"}, **several), tolerance=1e-12)


def test_in_bf16_what_a_loss_reads_is_float32():
    own_losses.seen.clear()
    trained(CE, own("Precise", at="head:input", learners=["a"]), train={"precision": "bf16", "epochs": 1}, peers=SINGLE)
    assert set(own_losses.seen) == {(torch.float32, torch.float32, False, torch.float32)}
