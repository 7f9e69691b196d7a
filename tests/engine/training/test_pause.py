"""SwitOKD's pause: the stronger peer sits updates out in which the weaker one is too far behind."""

import math

import pytest
import torch
import torch.nn.functional as F
from support import WORLD, assert_equal_weights, build, tiny_document, weights

from mutual.engine.costs.op_counts import count_ops
from mutual.engine.training.pause import PauseSelector, threshold
from mutual.recipe import Pause, RecipeError, parse_recipe

LABELS = torch.tensor([0, 1, 2, 3])
TRUTH = F.one_hot(LABELS, 4).float()


def decide(ahead, behind, labels=LABELS, parts=1):
    pause_selector = PauseSelector(Pause(peer="a", versus="b"), WORLD)
    for logits_a, logits_b, truth in zip(ahead.chunk(parts), behind.chunk(parts), labels.chunk(parts), strict=True):
        pause_selector.add({"a": logits_a, "b": logits_b}, truth)
    return paused_peer(pause_selector)


def paused_peer(pause_selector):
    return next((name for name, pauses in pause_selector.decide().items() if pauses.item()), None)


def test_the_threshold_is_the_papers():
    def of(*errors):
        return threshold(*(torch.tensor(error, dtype=torch.float64) for error in errors)).item()

    assert of(0.4, 1.2) == pytest.approx(1.2 - math.exp(-0.4 / 1.6) * 0.4)
    assert of(0.0, 0.0) == 0
    assert of(0.1, 0.3) == pytest.approx(0.3 - math.exp(-0.25) * 0.1)


def test_a_peer_close_to_the_other_learns_and_one_far_ahead_waits():
    generator = torch.Generator().manual_seed(0)
    behind = torch.randn(4, 4, generator=generator)
    assert decide(behind + 0.1 * TRUTH, behind) is None
    far = torch.randn(4, 4, generator=generator) + 2 * TRUTH
    p, q = far.softmax(1), behind.softmax(1)
    gap, ahead_error, behind_error = ((x - y).abs().sum(1).mean().item() for x, y in ((p, q), (p, TRUTH), (q, TRUTH)))
    assert (decide(far, behind) == "a") == (gap > threshold(torch.tensor(ahead_error), torch.tensor(behind_error)).item()) == (gap > 1)


def test_the_decision_is_the_updates_and_not_a_micro_batchs():
    far, behind = 3 * TRUTH.roll(1, 1), torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    assert decide(far, behind) == decide(far, behind, parts=4) == "a"


def test_the_share_of_paused_updates_is_reported_once():
    pause_selector = PauseSelector(Pause(peer="a", versus="b"), WORLD)
    assert pause_selector.flush() == {}
    for logits in (3 * TRUTH.roll(1, 1), torch.zeros(4, 4)):
        pause_selector.add({"a": logits, "b": torch.zeros(4, 4)}, LABELS)
        pause_selector.decide()
    assert pause_selector.flush() == {"paused/a": 0.5}
    assert pause_selector.flush() == {}


def distances(logits, labels=LABELS, **spec):
    """The sums of gap, of the stronger's and of the weaker's error, and the number of images, as a selector adds them up."""
    selector = PauseSelector(Pause(peer="a", versus="b", **spec), WORLD)
    selector.add(logits, labels)
    return selector._sums.tolist()


def test_distances_are_of_softened_probabilities_and_of_labelled_images():
    logits = {name: torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)) for seed, name in enumerate("ab")}
    p, q = ((each / 2).softmax(1) for each in logits.values())
    expected = [(p - q).abs().sum(), (p - TRUTH).abs().sum(), (q - TRUTH).abs().sum(), 4]
    assert distances(logits, temperature=2.0) == pytest.approx([float(each) for each in expected])
    assert distances(logits, TRUTH, temperature=2.0) == pytest.approx([float(each) for each in expected]), "soft labels"
    padded = torch.cat([LABELS, torch.tensor([2, 2])])
    assert distances(logits, padded, temperature=2.0) == pytest.approx([float(each) for each in expected]), "padding has no logits"


def test_distances_leave_out_images_without_a_label():
    logits = {name: torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)) for seed, name in enumerate("ab")}
    labelled = {name: each[:2] for name, each in logits.items()}
    assert distances(logits, torch.tensor([0, 1, -1, -1])) == distances(labelled, torch.tensor([0, 1]))


def test_each_update_is_decided_by_its_own_images():
    generator = torch.Generator().manual_seed(1)
    behind = torch.randn(4, 4, generator=generator)
    selector = PauseSelector(Pause(peer="a", versus="b"), WORLD)
    for ahead, verdict in ((3 * TRUTH.roll(1, 1), "a"), (behind, None), (3 * TRUTH.roll(1, 1), "a")):
        selector.add({"a": ahead, "b": behind}, LABELS)
        assert paused_peer(selector) == verdict
    assert paused_peer(selector) is None, "no image has a label"
    assert selector.flush() == {"paused/a": 0.5}


def test_without_a_pause_nothing_is_added_up():
    selector = PauseSelector(None, WORLD)
    selector.add({}, LABELS)
    assert selector.decide() == {}
    assert selector.flush() == {}


def test_images_without_a_label_say_nothing():
    far, behind = 3 * TRUTH.roll(1, 1), torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, -1, -1])
    assert decide(far, behind, labels) == decide(far[:2], behind[:2], labels[:2])


@pytest.mark.parametrize("fused", [False, True])
def test_a_paused_peer_stands_still(monkeypatch, fused):
    document = tiny_document(train={"pause": {"peer": "a", "versus": "b"}})
    document["optimizer"]["args"] = {"fused": fused}
    _, data, group, train_step = build(document)
    group.train()
    for verdict, moves in ((True, False), (False, True), (True, False)):
        monkeypatch.setattr(train_step._pause_selector, "decide", lambda verdict=verdict: {"a": torch.tensor(verdict)})
        before = {name: value.clone() for name, value in weights(group).items()}
        for update, window in enumerate(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1)):
            train_step.simultaneous(window, update, measure=False)
        after = weights(group)
        of_a = {name: value for name, value in after.items() if name.startswith("a.")}
        if moves:
            assert not torch.equal(of_a["a.head.weight"], before["a.head.weight"])
        else:
            assert_equal_weights(of_a, {name: before[name] for name in of_a})
            assert all(parameter.grad is None for parameter in group.peers["a"].parameters()), "nor is it moved later by this gradient"
        assert not torch.equal(after["b.head.weight"], before["b.head.weight"])


OPTIMIZERS = [{"name": "sgd", "lr": 0.5, "momentum": 0.9}, {"name": "adam", "lr": 0.1}, {"name": "adamw", "lr": 0.1}]


@pytest.mark.parametrize("train", [{}, {"clip_grad_norm": 0.1}, {"ema": 0.9}, {"precision": "fp16"}])
@pytest.mark.parametrize("spec", OPTIMIZERS)
def test_a_pause_read_on_the_device_is_one_that_the_host_reads(spec, train):
    """Bit for bit, from the first update on: weights, state and norms; with an average or a loss scale the host reads it in any case."""
    results = []
    for pauses in ([True, False, True, False, True, True], None):
        document = tiny_document(peers={"a": {"model": "support:tiny"}}, objectives=[{"loss": "cross_entropy"}])
        document |= {"optimizer": {**spec, "args": {"fused": True}}, "train": train}
        _, _, group, train_step = build(document)
        optimizer, norms = train_step._optimizers["a"], []
        for update in range(6):
            generator = torch.Generator().manual_seed(update)
            optimizer.scale(torch.zeros(()))
            for parameter in optimizer._parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            if pauses is not None:
                optimizer.step(update, measure=True, pauses=torch.tensor(pauses[update]))
            elif update in (1, 3):
                optimizer.step(update, measure=True)
            else:
                optimizer.skip()
            norms.append(optimizer.grad_norm)
        average = optimizer.peer.average
        averages = {} if average is None else average.model.state_dict()
        results.append((weights(group) | {f"average of {name}": value for name, value in averages.items()}, optimizer.state_dict(), norms))
    assert_equal_weights(results[0][0], results[1][0])
    (actual, expected), norms = (each[1]["optimizer"]["state"] for each in results), [each[2] for each in results]
    assert norms[0] == norms[1]
    for index, values in expected.items():
        for name, value in values.items():
            assert value is actual[index][name] is None or torch.equal(actual[index][name], value)


@pytest.mark.parametrize(("fused", "train", "num_syncs"), [(True, {}, 0), (False, {}, 1), (True, {"ema": 0.9}, 1)])
def test_the_host_waits_for_no_pause_of_a_fused_optimizer(fused, train, num_syncs):
    document = tiny_document(train={"pause": {"peer": "a", "versus": "b"}, **train})
    document["optimizer"]["args"] = {"fused": fused}
    _, data, group, train_step = build(document)
    group.train()
    selector = train_step._pause_selector
    windows = list(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1))
    train_step(windows[0], 0, measure=False)
    for optimizer in train_step._optimizers.values():
        optimizer._skip_on_device(has_stepped=fused)
    with count_ops() as counts:
        selector.add({name: torch.randn(8, 4) for name in "ab"}, torch.tensor([0, 1, 2, 3, -1, 0, 1, 2]))
        train_step(windows[1], 1, measure=True)
    assert len([each for each in counts.host_syncs if "pause" in each.line or "optimizer" in each.line]) == num_syncs


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"pause": {"peer": "c", "versus": "a"}}, "train.pause.peer: 'c' is no trainable peer; choose from a, b"),
        ({"pause": {"peer": "a", "versus": "a"}}, "train.pause.versus: a peer cannot be measured against itself"),
        ({"pause": {"peer": "a", "versus": "b"}, "update": "alternating"}, "train.pause: needs all peers' predictions at once"),
    ],
)
def test_a_wrong_pause_is_one_line(train, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(tiny_document(train=train))
