"""The invariants of an update: frozen, KD as the special case, exact accumulation, counted randomness, independent fp16 peers."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from support import assert_equal_weights, build, inputs_of, tiny_document, train_epochs, weights

from mutual.data import mixed
from mutual.group import MicroBatchContext
from mutual.recipe import parse_recipe

FROZEN_TEACHER = {
    "peers": {
        "student": {"model": "support:double", "args": {"dropout": 0.2}},
        "teacher": {"model": "support:double", "args": {"norm": True, "dropout": 0.5, "width": 6}, "frozen": True},
    },
    "objectives": [{"loss": "cross_entropy", "weight": 0.3}, {"loss": "kd", "temperature": 4, "weight": 0.7}],
}


def test_a_frozen_peer_never_changes():
    """Invariant 1: parameters, BatchNorm statistics and dropout stay, whatever calls train()."""
    _, data, group, train_step = build(tiny_document(**FROZEN_TEACHER))
    teacher = group.peers["teacher"]
    before = copy.deepcopy(teacher.model.state_dict())
    teacher.train_module.train()
    group.train()
    for window in data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1):
        train_step.simultaneous(window, 0, measure=False)
    assert not any(module.training for module in teacher.model.modules())
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    for name, value in teacher.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_frozen_peer_draws_nothing():
    """Invariant 1: the student's dropout is the same with a teacher beside it as without any objective that reads one."""
    with_teacher = tiny_document(**FROZEN_TEACHER)
    with_teacher["objectives"] = [{"loss": "cross_entropy"}, {"loss": "kd", "weight": 0.0}]
    alone = tiny_document(peers={"student": with_teacher["peers"]["student"]}, objectives=[{"loss": "cross_entropy"}])
    expected = weights(train_epochs(alone))
    found = {name: value for name, value in weights(train_epochs(with_teacher)).items() if name.startswith("student")}
    assert_equal_weights(found, expected)


def test_kd_is_one_trainable_peer_and_a_frozen_one():
    """Invariant 2: step by step the numbers of a plain KD script."""
    document = tiny_document(**FROZEN_TEACHER)
    document["peers"]["student"]["args"]["dropout"] = 0.0
    _, data, group, train_step = build(document)
    student, teacher = copy.deepcopy(group.peers["student"].model), copy.deepcopy(group.peers["teacher"].model).eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5, momentum=0.9)
    group.train()
    for update, window in enumerate(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1)):
        train_step.simultaneous(window, update, measure=False)
        images, labels = inputs_of(window.batches[0], data.info)
        logits, teaching = student(images), teacher(images).detach()
        kl = F.kl_div(F.log_softmax(logits / 4, 1), F.log_softmax(teaching / 4, 1), log_target=True, reduction="batchmean")
        optimizer.zero_grad()
        (0.3 * F.cross_entropy(logits, labels) + 0.7 * 16 * kl).backward()
        optimizer.step()
        assert_equal_weights(group.peers["student"].model.state_dict(), student.state_dict(), tolerance=1e-12)


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
@pytest.mark.parametrize("num_train", [40, 37, 33])
def test_accumulation_is_exact(update, num_train):
    """Invariant 3: 4 micro-batches of 4 equal 2 of 8 equal one of 16, in an epoch's short last window too."""
    results = []
    for batch_size, accumulate in ((16, 1), (8, 2), (4, 4)):
        document = tiny_document(train={"accumulate": accumulate, "update": update})
        document["data"] |= {"num_train": num_train, "batch_size": batch_size}
        results.append(weights(train_epochs(document, epochs=2)))
    assert_equal_weights(results[1], results[0], tolerance=1e-12)
    assert_equal_weights(results[2], results[0], tolerance=1e-12)


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_alternating_peers_see_the_others_steps(names):
    """Each peer's gradient is taken against what its fellows say after the steps they have made (DML, algorithm 1)."""
    document = tiny_document(train={"update": "alternating"}, optimizer={"name": "sgd", "lr": 0.5})
    document["peers"] = {name: {"model": "support:double"} for name in names}
    document["data"] |= {"num_train": 8}
    _, data, group, train_step = build(document)
    models = {name: copy.deepcopy(group.peers[name].model) for name in names}
    (window,) = data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1)
    images, labels = inputs_of(window.batches[0], data.info)
    for name, learner in models.items():
        logits = F.log_softmax(learner(images), 1)
        loss = F.nll_loss(logits, labels)
        for source in (model for other, model in models.items() if other != name):
            said = F.log_softmax(source(images).detach(), 1)
            loss = loss + ((logits.exp() - said.exp()) * (logits - said)).sum(1).mean() / 2 / (len(names) - 1)
        gradients = torch.autograd.grad(loss, list(learner.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(learner.parameters(), gradients, strict=True):
                parameter -= 0.5 * gradient
    group.train()
    train_step.alternating(window, 0, measure=False)
    for name, model in models.items():
        assert_equal_weights(group.peers[name].model.state_dict(), model.state_dict(), tolerance=1e-12)


def test_alternating_peers_see_the_others_averages_after_their_steps():
    """As of the weights: `c` learns from an average that `b` has moved since `a` heard it."""
    objectives = [{"loss": "cross_entropy"}, {"loss": "l2", "sources": "peers_ema"}]
    document = tiny_document(objectives=objectives, optimizer={"name": "sgd", "lr": 0.5}, train={"update": "alternating", "ema": 0.5})
    document["peers"] = {name: {"model": "support:double"} for name in "abc"}
    document["data"] |= {"num_train": 8}
    _, data, group, train_step = build(document)
    models, averages = ({name: copy.deepcopy(group.peers[name].model) for name in "abc"} for _ in range(2))
    (window,) = data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1)
    images, labels = inputs_of(window.batches[0], data.info)
    for name, learner in models.items():
        logits = learner(images)
        taught = [F.mse_loss(logits, average(images).detach()) for other, average in averages.items() if other != name]
        gradients = torch.autograd.grad(F.cross_entropy(logits, labels) + sum(taught) / 2, list(learner.parameters()))
        with torch.no_grad():
            for parameter, average, gradient in zip(learner.parameters(), averages[name].parameters(), gradients, strict=True):
                parameter -= 0.5 * gradient
                average += 0.5 * (parameter - average)
    group.train()
    train_step.alternating(window, 0, measure=False)
    for name, model in models.items():
        assert_equal_weights(group.peers[name].model.state_dict(), model.state_dict(), tolerance=1e-12)


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
def test_gradients_are_brought_together_once_a_window_and_peer(update):
    """In the last micro-batch; before it every backward is within `no_sync` of all peers."""
    _, data, group, train_step = build(tiny_document(train={"update": update, "accumulate": 2}))
    entered = []
    train_step._comm = SimpleNamespace(device=torch.device("cpu"), no_sync=lambda modules: entered.append(modules) or nullcontext())
    group.train()
    window = next(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=2))
    train_step(window, 0, measure=False)
    assert entered == [[peer.train_module for peer in group.trainable]] * (1 if update == "simultaneous" else 2)


def test_alternating_counts_batchnorm_statistics_once():
    document = tiny_document(train={"update": "alternating"})
    document["peers"] = {name: {"model": "support:double", "args": {"norm": True}} for name in "abc"}
    group = train_epochs(document)
    for peer in group.peers.values():
        assert peer.model.norm.num_batches_tracked == 5


def test_initial_weights_depend_on_seed_and_name_alone():
    """Invariant 6: not on which peers stand beside; and two peers never start equal."""

    def start(*names, seed=0):
        return weights(build(tiny_document(peers={name: {"model": "support:double"} for name in names}, seed=seed))[2])

    pair, reversed_trio = start("a", "b"), start("c", "b", "a")
    for name, value in pair.items():
        assert torch.equal(value, reversed_trio[name])
    assert not torch.equal(pair["a.stem.weight"], pair["b.stem.weight"])
    assert not torch.equal(pair["a.stem.weight"], start("a", "b", seed=1)["a.stem.weight"])


def test_dropout_of_a_peer_does_not_depend_on_the_peers_beside_it():
    """Invariant 6: counted, not streamed."""
    peers = {name: {"model": "support:double", "args": {"dropout": 0.5}} for name in "ba"}
    document = tiny_document(peers=peers, objectives=[{"loss": "cross_entropy"}])
    alone = tiny_document(peers={"a": peers["a"]}, objectives=[{"loss": "cross_entropy"}])
    found = {name: value for name, value in weights(train_epochs(document)).items() if name.startswith("a.")}
    assert_equal_weights(found, weights(train_epochs(alone)))


def test_training_does_not_depend_on_the_global_generator():
    document = tiny_document(peers={name: {"model": "support:double", "args": {"dropout": 0.5}} for name in "ab"})
    torch.manual_seed(1)
    first = weights(train_epochs(document))
    torch.manual_seed(2)
    assert_equal_weights(weights(train_epochs(document)), first)


def fp16_document(**sections):
    peers = {name: {"model": "support:tiny"} for name in "ab"}
    return tiny_document(peers=peers, objectives=[{"loss": "cross_entropy"}], train={"precision": "fp16"}, **sections)


def test_an_overflow_skips_the_step_of_one_peer_alone():
    """Invariant 8: peer a's scale is driven to overflow; b steps as if a were not there."""

    def step(overflow):
        _, data, group, train_step = build(fp16_document())
        peer_optimizer = train_step._optimizers["a"]
        if overflow:
            peer_optimizer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
        before = copy.deepcopy(weights(group))
        window = next(iter(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1)))
        group.train()
        train_step.simultaneous(window, 0, measure=True)
        return before, weights(group), {name: value.scaler.get_scale() for name, value in train_step._optimizers.items()}

    before, overflowed, scales = step(overflow=True)
    _, fine, fine_scales = step(overflow=False)
    for name in before:
        assert torch.equal(overflowed[name], before[name] if name.startswith("a.") else fine[name]), name
        assert not torch.equal(fine[name], before[name]), name
    assert scales == {"a": 2.0**125, "b": fine_scales["b"]}


def test_the_loss_scale_leaves_the_update_as_it_is():
    """Invariant 8: unscaled before clipping and stepping; powers of two are exact in float32."""
    results = []
    for scale in (2.0**4, 2.0**10):
        document = fp16_document()
        document["train"] |= {"clip_grad_norm": 0.05, "accumulate": 2}
        _, data, group, train_step = build(document)
        for peer_optimizer in train_step._optimizers.values():
            peer_optimizer.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        group.train()
        for update, window in enumerate(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=2)):
            train_step.simultaneous(window, update, measure=False)
        results.append(weights(group))
    assert_equal_weights(results[0], results[1], tolerance=2e-3)


def test_more_views_than_one_give_each_peer_its_own():
    document = tiny_document()
    document["data"] |= {"views": "per_peer", "augment": [{"name": "random_crop", "padding": 2}]}
    recipe, data, group, _ = build(document)
    window = next(iter(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1)))
    images, _ = mixed(window.batches[0], num_classes=data.info.num_classes)
    assert images.shape[0] == len(recipe.peers)
    assert not torch.equal(group.view("a", images), group.view("b", images))


@pytest.mark.parametrize("num_peers", [2, 3, 8])
def test_a_group_of_n_peers_averages_over_its_sources(num_peers):
    """DML eq. 8: 1 / (K - 1) for each of the other peers."""
    names = "abcdefgh"[:num_peers]
    _, data, group, train_step = build(tiny_document(peers={name: {"model": "support:double"} for name in names}))
    dml = [edge for edge in group.edges if edge.name == "dml"]
    assert len(dml) == num_peers * (num_peers - 1)
    assert all(edge.weight == 1 / (num_peers - 1) for edge in dml)
    window = next(iter(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1)))
    group.train()
    train_step.simultaneous(window, 0, measure=False)
    assert parse_recipe(tiny_document()).trainable == ("a", "b")


def test_a_peer_that_learns_by_features_alone_does_not_read_its_logits():
    """They may overflow in fp16: the loss stays finite, and every parameter has a gradient, the classifier's 0."""
    objectives = [{"loss": "cross_entropy", "learners": ["a"]}, {"loss": "l2", "at": "body", "learners": ["b"]}]
    _, data, group, _ = build(tiny_document(objectives=objectives))
    with torch.no_grad():
        group.peers["b"].model.head.weight.fill_(torch.inf)
    group.train()
    window = next(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1))
    images, labels = mixed(window.batches[0], num_classes=data.info.num_classes)
    output = group.forward(images, labels, MicroBatchContext(len(labels), seed=0, global_batch_size=len(labels)))
    assert not output.logits["b"].isfinite().any()
    assert output.losses["b"].isfinite()
    group.peers["b"].model.head.weight.data.zero_()
    output = group.forward(images, labels, MicroBatchContext(len(labels), seed=0, global_batch_size=len(labels)))
    output.losses["b"].backward()
    gradients = {name: parameter.grad for name, parameter in group.peers["b"].model.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    assert gradients["body.weight"].any()
    assert not gradients["head.weight"].any()
