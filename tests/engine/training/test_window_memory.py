"""What an update keeps: pixels and outputs of some micro-batches at a time, each input made once, and nothing when it has ended."""

import weakref

import pytest
import torch
from support import build, tiny_document

from mutual.engine.training import train_step as module
from mutual.group import Group, PeerInput
from mutual.recipe import parse_recipe

UPDATES = ["simultaneous", "alternating"]


def document(*, teachers="t", update="simultaneous", accumulate=4, forward_batch=None, **sections):
    """Two students, whose micro-batches are of 4 images, and teachers that read the same input as they."""
    teacher = {"model": "support:double", "frozen": True, "forward_batch": forward_batch}
    peers = {**{name: {"model": "support:double"} for name in "ab"}, **dict.fromkeys(teachers, teacher)}
    objectives = [{"loss": "cross_entropy"}, *({"loss": "kd", "sources": [name]} for name in teachers)]
    whole = tiny_document(peers=peers, objectives=objectives, train={"accumulate": accumulate, "update": update}, **sections)
    whole["data"] |= {"batch_size": 4, "num_train": 4 * accumulate}
    return whole


def built(whole):
    """The group, the step and the first window."""
    _, data, group, train_step = build(whole)
    accumulate = parse_recipe(whole).train.accumulate
    window = next(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=accumulate))
    data.close()
    group.train()
    return group, train_step, window


@pytest.fixture
def made(monkeypatch):
    """Weak references to every input that was made."""
    references, convert = [], PeerInput.__call__

    def noted(self, pixels):
        images = convert(self, pixels)
        references.append(weakref.ref(images))
        return images

    monkeypatch.setattr(PeerInput, "__call__", noted)
    return references


@pytest.fixture
def pixels(monkeypatch):
    """Weak references to the pixels of every micro-batch, which are copies, as on a GPU."""
    references, original = [], module.mixed

    def copied(batch, *, num_classes):
        images, labels = original(batch, num_classes=num_classes)
        images = images.clone()
        references.append(weakref.ref(images))
        return images, labels

    monkeypatch.setattr(module, "mixed", copied)
    return references


def num_alive(references):
    return sum(reference() is not None for reference in references)


@pytest.mark.parametrize(("forward_batch", "bound"), [(8, 2), (4, 1), (3, 1), (11, 2), (None, 8)])
def test_accumulation_bounds_what_is_on_the_device(forward_batch, bound, pixels, made, monkeypatch):
    """Pixels, inputs and frozen outputs are those of the micro-batches that a frozen forward takes, and of the one before them."""
    _, train_step, window = built(document(accumulate=8, forward_batch=forward_batch))
    outputs, counts, forward = [], [], Group.forward

    def noted(self, images, labels, context, frozen_outputs):
        outputs.append(weakref.ref(frozen_outputs["t"]["logits"]))
        counts.append((num_alive(pixels), num_alive(made), num_alive(outputs)))
        return forward(self, images, labels, context, frozen_outputs)

    monkeypatch.setattr(Group, "forward", noted)
    train_step(window, 0, measure=False)
    assert len(counts) == 8
    assert max(alive for alive, _, _ in counts) <= bound
    assert max(alive for _, alive, _ in counts) <= bound
    assert max(alive for _, _, alive in counts) == 1, "those that were used are gone"


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize(("teachers", "forward_batch"), [("t", None), ("tu", None), ("tu", 8), ("tu", 4)])
def test_each_input_is_made_once_for_all_peers(update, teachers, forward_batch, made):
    _, train_step, window = built(document(teachers=teachers, update=update, forward_batch=forward_batch))
    train_step(window, 0, measure=False)
    assert len(made) == 4


@pytest.mark.parametrize("update", UPDATES)
def test_alternating_or_not_students_alone_share_inputs_too(update, made):
    whole = document(teachers="", update=update)
    whole["objectives"].append({"loss": "dml"})
    _, train_step, window = built(whole)
    train_step(window, 0, measure=False)
    assert len(made) == 4


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("teachers", ["", "tu"])
def test_an_update_leaves_no_pixels_and_no_inputs_behind(update, teachers, made, pixels):
    _, train_step, window = built(document(teachers=teachers, update=update))
    train_step(window, 0, measure=False)
    assert (num_alive(made), num_alive(pixels)) == (0, 0)


def test_an_update_that_fails_leaves_nothing_behind_either(made, pixels, monkeypatch):
    group, train_step, window = built(document())
    monkeypatch.setattr(group, "compute_losses", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_step(window, 0, measure=False)
    assert not group.shared_inputs.num_kept


@pytest.mark.parametrize("update", UPDATES)
def test_a_window_that_is_repeated_is_converted_again(update, made):
    """As `mutual.bench` and `placement: auto` repeat it: what they measure is a whole update."""
    _, train_step, window = built(document(update=update))
    counts = []
    for index in range(3):
        train_step(window, index, measure=False)
        counts.append(len(made))
    assert counts == [4, 8, 12]


def test_evaluation_leaves_no_inputs_behind_and_shares_them(made):
    headless = {"model": "support:embedding", "frozen": True, "head": "none"}
    whole = document()
    whole["peers"] |= dict.fromkeys("ef", headless)
    whole["objectives"].append({"loss": "similarity", "sources": ["e", "f"], "at": "body", "source_at": "embedding"})
    group, train_step, window = built(whole)
    group.eval()
    images = window.batches[0].images
    group.predict(images, "abt", global_batch_size=4)
    assert (len(made), num_alive(made)) == (1, 0)
    assert group.embed(images).keys() == {"e", "f"}
    assert (len(made), num_alive(made)) == (2, 0)
    assert len(list(train_step.forward_only(window))) == 1
    assert len(made) == 3
    assert not group.shared_inputs.num_kept


@pytest.mark.parametrize(("own", "of_the_run"), [("bf16", "no"), ("no", "bf16"), (None, "bf16"), (None, "no")])
def test_a_peer_without_a_head_embeds_in_its_own_precision(own, of_the_run, monkeypatch):
    headless = {"model": "support:embedding", "frozen": True, "head": "none", "precision": own}
    peers = {"a": {"model": "small_cnn"}, "e": headless}
    objectives = [{"loss": "cross_entropy"}, {"loss": "similarity", "sources": ["e"], "at": "blocks4", "source_at": "embedding"}]
    whole = tiny_document(peers=peers, objectives=objectives, train={"precision": of_the_run})
    _, data, group, _ = build(whole)
    data.close()
    seen, embed = [], type(group.peers["e"]).embed

    def noted(self, images):
        seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32)
        return embed(self, images)

    monkeypatch.setattr(type(group.peers["e"]), "embed", noted)
    group.embed(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    assert seen == [{"no": torch.float32, "bf16": torch.bfloat16}[own or of_the_run]]
