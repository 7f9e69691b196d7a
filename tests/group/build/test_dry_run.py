"""A group is run once before it is trained: in both modes, without a trace, and without parameters that nothing reads."""

import random

import pytest
import torch
from support import build, tiny_document, train_epochs

from mutual.group.build.dry_run import dry_run, format_names
from mutual.recipe import RecipeError, parse_recipe

ALONE = [{"loss": "cross_entropy"}]


def document(model, **sections):
    return tiny_document(peers={"a": {"model": f"odd_models:{model}"}}, objectives=ALONE, **sections)


def test_a_parameter_that_no_output_depends_on_is_excluded_with_a_warning():
    with pytest.warns(
        UserWarning, match=r"^peers.a.model: no output of odd_models:Spare .* depends on 2 parameters \(spare.weight, spare.bias\)"
    ):
        group = build(document("Spare"))[2]
    excluded = {name for name, parameter in group.peers["a"].model.named_parameters() if not parameter.requires_grad}
    assert excluded == {"spare.weight", "spare.bias"}
    assert not any(parameter is group.peers["a"].model.spare.weight for parameter in group.peers["a"].parameters())


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
def test_a_peer_without_such_a_parameter_is_whole(recwarn, update):
    group = build(tiny_document(train={"epochs": 1, "update": update, "progress": False}))[2]
    assert all(parameter.requires_grad for peer in group.trainable for parameter in peer.model.parameters())
    features_only = [{"loss": "cross_entropy", "learners": ["a"]}, {"loss": "l2", "at": "body", "learners": ["b"]}]
    group = build(tiny_document(objectives=features_only))[2]
    assert all(parameter.requires_grad for peer in group.trainable for parameter in peer.model.parameters())
    assert not [warning for warning in recwarn if "excluded" in str(warning.message)]


@pytest.mark.parametrize("model", ["timm/resnet10t", "torchvision/googlenet"])
def test_stochastic_depth_and_auxiliary_heads_of_the_zoos_are_not_excluded(model):
    args = {"drop_path_rate": 0.9, "drop_rate": 0.5} if model.startswith("timm") else {}
    peers = {"a": {"model": model, "args": args}}
    data = {"dataset": "fake", "num_train": 8, "num_val": 4, "image_size": 64, "channels": 3, "num_classes": 4, "batch_size": 8}
    group = build(tiny_document(peers=peers, objectives=ALONE, data=data))[2]
    assert all(parameter.requires_grad for parameter in group.peers["a"].model.parameters())


@pytest.mark.parametrize("seed", range(6))
def test_a_parameter_that_is_used_now_and_then_is_trained(seed):
    """Three forwards in four leave it out, but one draw of eight that reads it is enough."""
    group = build(document("Dropping", seed=seed))[2]
    assert all(parameter.requires_grad for parameter in group.peers["a"].model.parameters())


def test_the_dry_run_leaves_no_trace():
    torch.manual_seed(3)
    random.seed(3)
    expected = torch.rand(1), random.random()
    torch.manual_seed(3)
    random.seed(3)
    with pytest.warns(UserWarning, match="excluded"):
        group = build(document("Counting"))[2]
    assert (torch.rand(1), random.random()) == expected
    model = group.peers["a"].model
    assert model.seen == 0
    assert model.norm.num_batches_tracked == 0
    assert torch.equal(model.norm.running_mean, torch.zeros(4, dtype=torch.float64))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(layer.training for layer in model.modules()), "as the dry run in eval mode left them"


@pytest.mark.parametrize(
    ("model", "sections", "message"),
    [
        ("Auxiliary", {}, "peers.a.model: output 'logits' of odd_models:Auxiliary is a tuple in training mode, not a tensor"),
        ("Raising", {}, "peers.a.model: odd_models:Raising cannot take images of 1x8x8 in training mode: KeyError: 'targets'"),
        ("Bare", {}, "peers.a.model: odd_models:Bare has no parameter to train; a peer that only teaches is frozen: true"),
        ("Detached", {}, "peers.a.model: no parameter of odd_models:Detached reaches its outputs"),
        ("Narrowing", {}, "peers.a.model: class counts differ: odd_models:Narrowing gives logits of shape (3,) in training mode, the data"),
        ("Held", {"train": {"ema": 0.9}}, "train.ema: odd_models:Held cannot be copied: TypeError: cannot pickle"),
    ],
)
def test_a_model_that_cannot_be_trained_is_one_line(model, sections, message):
    with pytest.raises(RecipeError) as caught:
        build(document(model, **sections))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_two_peers_with_the_same_parameters_are_refused():
    peers = {name: {"model": "odd_models:shared"} for name in "ab"}
    with pytest.raises(
        RecipeError, match=r"peers.b.model: stem.weight is also a parameter of peer 'a': odd_models:shared must build a new"
    ):
        build(tiny_document(peers=peers))


def test_a_teacher_without_parameters_teaches():
    peers = {"a": {"model": "support:double"}, "t": {"model": "odd_models:Bare", "frozen": True}}
    objectives = [*ALONE, {"loss": "kd", "learners": ["a"], "sources": ["t"]}]
    group = train_epochs(tiny_document(peers=peers, objectives=objectives))
    assert all(value.isfinite().all() for value in group.peers["a"].model.state_dict().values())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("classes", "class counts differ: odd_models:Unsteady gives logits of shape (3,), the data have 4 classes"),
        ("tuple", "output 'logits' of odd_models:Unsteady is a tuple, not a tensor"),
        ("value", "odd_models:Unsteady cannot take images of 1x8x8: strange"),
        ("key", "odd_models:Unsteady cannot take images of 1x8x8: KeyError: 'strange'"),
    ],
)
def test_a_model_that_goes_wrong_when_it_is_evaluated_is_one_line(fault, message):
    peers = {"a": {"model": "odd_models:Unsteady", "args": {"fault": fault}}}
    with pytest.raises(RecipeError) as caught:
        build(tiny_document(peers=peers, objectives=ALONE))
    assert str(caught.value) == f"peers.a.model: {message}"


def trial(model, num_replicas, *, seed=0):
    """What a dry run says of a peer that so many processes train."""
    recipe, _, group, _ = build(document(model, seed=seed))
    peers = list(group.peers.values())
    for peer in peers:
        peer.model.requires_grad_(True)
    return dry_run(recipe, group.edges, peers, 4, num_replicas={"a": num_replicas}).notes


def test_a_parameter_that_is_used_now_and_then_is_refused_where_processes_would_wait_for_it():
    assert trial("Dropping", 1) == []
    with pytest.raises(
        RecipeError, match=r"odd_models:Dropping uses 2 parameters \(body.weight, body.bias\) in some forwards only, .* 2 proc"
    ):
        trial("Dropping", 2)


def test_a_parameter_that_is_never_used_is_excluded_on_several_processes_too():
    with pytest.warns(UserWarning, match="excluded"):
        (note,) = trial("Spare", 2)
    assert "depends on 2 parameters (spare.weight, spare.bias)" in note


def test_averages_are_run_too_and_parameters_are_counted():
    group = build(tiny_document(train={"ema": 0.5}))[2]
    recipe = parse_recipe(tiny_document(train={"ema": 0.5}))
    found = dry_run(recipe, group.edges, list(group.peers.values()), 4, num_replicas={"a": 1, "b": 1})
    assert found.outputs.keys() == {"a", "a.ema", "b", "b.ema"}
    assert not any(output.requires_grad for outputs in found.outputs.values() for output in outputs.values())
    assert format_names(["x"]) == "1 parameter (x)"
    assert format_names(["x", "y"]) == "2 parameters (x, y)"
    assert format_names(list("wxyz")) == "4 parameters (w, x, y, ...)"


def test_what_a_model_has_frozen_itself_stays_frozen():
    peer = build(document("Fixed"))[2].peers["a"]
    assert [name for name, parameter in peer.model.named_parameters() if not parameter.requires_grad] == ["stem.weight", "stem.bias"]
