"""`train.backward: per_peer` and `activation_checkpointing`: less memory, the same update."""

import gc
import weakref

import pytest
import torch
from support import assert_equal_weights, build, tiny_document, train_epochs

from mutual.engine.costs.memory import saved_bytes
from mutual.group import merge_outputs
from mutual.recipe import RecipeError, parse_recipe

NORMED = {"model": "support:double", "args": {"norm": True, "dropout": 0.5}}
PAIR = {"a": NORMED, "b": {**NORMED, "args": {**NORMED["args"], "width": 6}}}
TRIO = dict.fromkeys("abc", NORMED)
TEACHER = {"model": "support:double", "frozen": True, "args": {"norm": True, "width": 5}}
CE = {"loss": "cross_entropy"}
CASES = {
    "logits": {"peers": PAIR, "objectives": [CE, {"loss": "dml"}]},
    "features": {"peers": TRIO, "objectives": [CE, {"loss": "dml"}, {"loss": "l2", "at": "body"}]},
    "adapters": {"peers": PAIR, "objectives": [CE, {"loss": "hint", "at": "body"}, {"loss": "afd", "at": ["stem", "body"]}]},
    "ensembles and gates": {
        "peers": TRIO,
        "objectives": [
            CE,
            {"loss": "kd", "sources": "ensemble", "ensemble": {"weighting": "min_logit", "own": True}},
            {"loss": "dml", "gate": "correct"},
            {"loss": "hint", "sources": "self", "at": "stem", "source_at": "body"},
        ],
    },
    "averages and a frozen peer": {
        "peers": {**PAIR, "t": TEACHER},
        "objectives": [CE, {"loss": "kd", "sources": "ema"}, {"loss": "dml", "sources": "peers_ema"}, {"loss": "kd", "sources": ["t"]}],
        "train": {"ema": 0.9},
    },
    "joint and gathered losses, accumulated": {
        "peers": TRIO,
        "objectives": [CE, *({"loss": loss, "at": "body"} for loss in ("okddip", "crd", "mcl", "similarity"))],
        "train": {"accumulate": 3, "clip_grad_norm": 0.5},
    },
    "one who teaches nobody, and a pause": {
        "peers": TRIO,
        "objectives": [CE, {"loss": "dml", "learners": ["a", "b"], "sources": ["c"]}, {"loss": "kd", "learners": ["b"], "sources": ["a"]}],
        "train": {"pause": {"peer": "a", "versus": "b"}},
    },
    "features alone": {"peers": TRIO, "objectives": [{**CE, "learners": ["a"]}, {"loss": "l2", "at": "stem", "learners": ["b", "c"]}]},
    "buffers of their own": {"peers": {name: {"model": "odd_models:spectral"} for name in "ab"}, "objectives": [CE, {"loss": "dml"}]},
}


def state(group):
    """What an update changes: weights, statistics, adapters and averages."""
    modules = {f"{name}.{index}": module for name, peer in group.peers.items() for index, module in enumerate(peer.modules)}
    return {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}


def trained(case, *, backward="joint", checkpointed=False):
    document = tiny_document(**{**case, "train": {**case.get("train", {}), "backward": backward}})
    document["data"] |= {"num_train": 37}
    if checkpointed:
        document["peers"] = {
            name: peer if peer.get("frozen") else {**peer, "activation_checkpointing": True} for name, peer in document["peers"].items()
        }
    return state(train_epochs(document))


@pytest.mark.parametrize("case", CASES)
def test_a_backward_for_each_peer_is_the_same_update(case):
    assert_equal_weights(trained(CASES[case], backward="per_peer"), trained(CASES[case]), tolerance=1e-12)


def test_each_peer_has_its_own_views_and_forwards_draw_the_same():
    data = {**tiny_document()["data"], "views": "per_peer", "augment": [{"name": "random_crop", "padding": 2}]}
    case = {**CASES["logits"], "data": data}
    assert_equal_weights(trained(case, backward="per_peer"), trained(case), tolerance=1e-12)


@pytest.mark.parametrize("backward", ["joint", "per_peer"])
def test_checkpointed_activations_are_the_same_update_bit_for_bit(backward):
    objectives = [CE, {"loss": "dml"}, {"loss": "hint", "at": ["blocks1.1", "blocks3"]}]
    case = {"peers": {name: {"model": "small_cnn"} for name in "ab"}, "objectives": objectives, "train": {"ema": 0.9}}
    assert_equal_weights(trained(case, backward=backward, checkpointed=True), trained(case, backward=backward))


def test_peers_in_fp16_keep_their_own_loss_scales():
    case = {"peers": {name: {"model": "small_cnn"} for name in "ab"}, "objectives": [CE, {"loss": "dml"}], "train": {"precision": "fp16"}}
    assert_equal_weights(trained(case, backward="per_peer"), trained(case), tolerance=1e-6)


def forwards(backward, objectives=CASES["features"]["objectives"]):
    """By peer the forwards of an update with and without a graph, in their order, and how many graphs there were at once."""
    _, data, group, train_step = build(tiny_document(peers=TRIO, objectives=objectives, train={"backward": backward}))
    order, graphs, most = [], weakref.WeakSet(), 0

    def noted(name):
        def hook(_module, _inputs, outputs):
            nonlocal most
            order.append(name.upper() if torch.is_grad_enabled() else name)
            if torch.is_grad_enabled():
                graphs.add(outputs["body"])
                most = max(most, len(graphs))

        return hook

    for name, peer in group.peers.items():
        peer.tapped.register_forward_hook(noted(name))
    group.train()
    gc.disable()
    try:
        train_step(next(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1)), 0, measure=False)
    finally:
        gc.enable()
    data.close()
    return "".join(order), most


def test_one_peers_graph_is_there_at_a_time_and_only_who_must_runs_twice():
    assert forwards("joint") == ("ABC", 3)
    assert forwards("per_peer") == ("bcABC", 1)
    assert forwards("per_peer", [CE, {"loss": "l2", "at": "body", "learners": ["a", "c"], "sources": ["b"]}])[0] == "BAC"
    assert forwards("per_peer", [CE, {"loss": "hint", "sources": "self", "at": "body", "source_at": "stem"}])[0] == "ABC"


def test_all_that_joint_outputs_hold_is_there():
    _, data, group, train_step = build(tiny_document(**CASES["averages and a frozen peer"]))
    group.train()
    window = next(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1))
    (joint,) = train_step.forward_only(window)
    micro_batch = train_step._micro_batch(window, 0, update=0)
    merged = merge_outputs(group.forward_per_peer(micro_batch.images, micro_batch.labels, micro_batch.context))
    data.close()
    for found, expected in ((merged.losses, joint.losses), (merged.edge_losses, joint.edge_losses), (merged.logits, joint.logits)):
        assert found.keys() == expected.keys()
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name])


def saved(backward, *, peers=PAIR, **peer):
    peers = {name: {**each, **peer} for name, each in peers.items()}
    _, data, group, train_step = build(tiny_document(peers=peers, objectives=[CE], train={"backward": backward}))
    group.train()
    window = next(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1))
    parameters = [parameter for each in group.peers.values() for parameter in each.tapped.parameters()]
    counted = saved_bytes(lambda: train_step.forward_only(window), parameters)
    data.close()
    return counted


def test_what_is_saved_is_that_of_the_largest_peer():
    one, other = (saved("joint", peers={name: PAIR[name]}) for name in "ab")
    assert saved("per_peer") == max(one, other)
    assert saved("joint") > 0.9 * (one + other), "they share the images"


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"train": {"backward": "per_peer", "update": "alternating"}}, "train.backward: alternating peers run one after another as it is"),
        (
            {"peers": {"a": {"model": "pplcnet_x0_25", "activation_checkpointing": True}, "b": NORMED}, "train": {"compile": True}},
            "peers.a.activation_checkpointing: train.compile decides by itself",
        ),
        (
            {"peers": {"a": {**TEACHER, "activation_checkpointing": True}, "b": NORMED}},
            "peers.a.activation_checkpointing: peer 'a' is frozen and keeps nothing for a backward",
        ),
    ],
)
def test_what_does_not_go_together_is_told(sections, line):
    with pytest.raises(RecipeError, match=line):
        parse_recipe(tiny_document(**sections))


def test_a_model_without_blocks_cannot_be_checkpointed():
    with pytest.raises(RecipeError, match=r"peers\.a\.activation_checkpointing: support:double: it has no blocks"):
        build(tiny_document(peers={"a": {**NORMED, "activation_checkpointing": True}, "b": NORMED}))
