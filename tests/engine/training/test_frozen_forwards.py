"""A frozen peer is computed once for each image, whoever reads it, and in the way that the recipe says of it alone."""

import json

import pytest
import torch
from support import assert_equal_weights, build, run, tiny_document, train_epochs, weights

from mutual.group.peers import Peer

OBJECTIVES = [{"loss": "cross_entropy"}, {"loss": "kd", "sources": ["t"]}, {"loss": "crd", "at": "body", "sources": ["t"]}]


def document(log, *, students="s", teacher=None, **sections):
    """Students of one teacher, which writes down its forwards."""
    model = {"model": "process_models:counted", "frozen": True, "args": {"log": str(log), "norm": True}}
    peers = {name: {"model": "support:double"} for name in students}
    return tiny_document(peers={**peers, "t": {**model, **(teacher or {})}}, objectives=OBJECTIVES, **sections)


def forwards(log):
    """The numbers of images of the teacher's forwards, after those of the dry run."""
    counts = [int(line) for line in log.read_text().split()]
    return [count for count in counts if count != 2]


def test_students_of_one_job_share_a_teachers_forwards(tmp_path):
    """Three students: each image once an epoch; three jobs pay it three times."""
    train_epochs(document(tmp_path / "one", students="abc"), epochs=2)
    for name in "abc":
        train_epochs(document(tmp_path / "each", students=name), epochs=2)
    assert sum(forwards(tmp_path / "one")) == 2 * 40
    assert sum(forwards(tmp_path / "each")) == 3 * 2 * 40


@pytest.mark.slow
def test_ranks_that_hold_the_same_images_share_a_teachers_forwards(tmp_path):
    """Two students on a rank each: every training image is computed once, and every validation image."""
    path = tmp_path / "recipe.json"
    whole = document(tmp_path / "log", students="ab", placement="parallel", output=str(tmp_path))
    whole["data"] |= {"num_train": 42, "num_val": 13, "batch_size": 3}  # no forward is of two, as the dry run's
    path.write_text(json.dumps(whole))
    run("mutual.train", path, processes=2)
    assert sum(forwards(tmp_path / "log")) == 2 * 42 + 13, "two epochs, and once before them"


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
@pytest.mark.parametrize(
    ("forward_batch", "expected"), [(None, [16]), (8, [8, 8]), (15, [12, 4]), (4, [4] * 4), (6, [4] * 4), (3, [3, 1] * 4)]
)
def test_a_window_is_computed_in_forwards_of_at_most_so_many_images(tmp_path, update, forward_batch, expected):
    """Of whole micro-batches, where these are not larger. Exact: the same weights, however grouped; the last window is shorter."""
    train = {"accumulate": 4, "update": update}
    alone = document(tmp_path / "alone", students="ab", train=train, teacher={"forward_batch": 4})
    grouped = document(tmp_path / "grouped", students="ab", train=train, teacher={"forward_batch": forward_batch})
    for each in (alone, grouped):
        each["data"] |= {"batch_size": 4, "num_train": 25}
    assert_equal_weights(weights(train_epochs(grouped)), weights(train_epochs(alone)), tolerance=1e-12)
    counts = forwards(tmp_path / "grouped")
    assert counts[: len(expected)] == expected
    assert sum(counts) == 25


def test_by_default_a_forward_is_of_at_most_256_images_or_of_a_micro_batch(tmp_path):
    for batch_size, accumulate, expected in ((100, 3, [200, 100]), (60, 5, [240, 60]), (300, 1, [300])):
        whole = document(tmp_path / str(batch_size), train={"accumulate": accumulate})
        whole["data"] |= {"batch_size": batch_size, "num_train": 300}
        train_epochs(whole)
        assert forwards(tmp_path / str(batch_size)) == expected


def test_views_of_its_own_are_kept_apart(tmp_path):
    """With a view for each peer, micro-batches of the teacher's own are put together."""
    whole = document(tmp_path / "log", students="ab", train={"accumulate": 2})
    whole["data"] |= {"views": "per_peer", "augment": [{"name": "random_crop", "padding": 2}]}
    whole["peers"]["t"]["forward_batch"] = 8
    expected = weights(train_epochs(whole))
    whole["peers"]["t"]["forward_batch"] = None
    assert_equal_weights(weights(train_epochs(whole)), expected, tolerance=1e-12)


def outputs_of(teacher, **train):
    """By peer its logits in training and in evaluation, and the group."""
    peers = {"s": {"model": "small_cnn"}, "t": {"model": "small_cnn", "frozen": True, **teacher}}
    colour = {**tiny_document()["data"], "channels": 3}
    _, data, group, train_step = build(tiny_document(data=colour, peers=peers, objectives=OBJECTIVES[:2], train=train))
    seen = {}
    for name, peer in group.peers.items():
        peer.train_module.register_forward_hook(lambda _, images, outputs, name=name: seen.update({name: (images[0], outputs["logits"])}))
    window = next(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1))
    group.train()
    (output,) = train_step.forward_only(window)
    data.close()
    return seen, output, group


@pytest.mark.parametrize(("own", "of_the_run"), [("bf16", "no"), ("no", "bf16"), (None, "bf16"), (None, "no")])
def test_a_frozen_peer_has_a_precision_of_its_own(own, of_the_run, monkeypatch):
    seen, output, group = outputs_of({"precision": own}, precision=of_the_run)
    dtypes = {"no": torch.float32, "bf16": torch.bfloat16}
    assert seen["s"][1].dtype is dtypes[of_the_run]
    assert seen["t"][1].dtype is dtypes[own or of_the_run]
    assert output.losses["s"].dtype is torch.float32
    evaluated, predict = {}, Peer.predict
    monkeypatch.setattr(Peer, "predict", lambda self, images: evaluated.setdefault(self.name, predict(self, images)))
    group.eval()
    assert group.predict(torch.zeros(2, 3, 8, 8), "st", global_batch_size=2)["t"].dtype is torch.float32
    assert {name: logits.dtype for name, logits in evaluated.items()} == {name: seen[name][1].dtype for name in "st"}


@pytest.mark.parametrize(("own", "of_the_run"), [(True, False), (False, True), (None, True)])
def test_a_frozen_peer_has_a_memory_format_of_its_own(own, of_the_run):
    seen, _, group = outputs_of({"channels_last": own}, channels_last=of_the_run)
    for name, is_last in (("s", of_the_run), ("t", of_the_run if own is None else own)):
        weight = next(parameter for parameter in group.peers[name].model.parameters() if parameter.dim() == 4 and min(parameter.shape) > 1)
        for tensor in (weight, seen[name][0]):
            assert tensor.is_contiguous(memory_format=torch.channels_last) is is_last, name


@pytest.mark.parametrize(("own", "of_the_run"), [(True, False), (False, True), (None, True), (None, False)])
def test_a_frozen_peer_is_compiled_or_not_by_its_own_word(own, of_the_run, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: compiled.append(self))
    _, _, group = outputs_of({"compile": own}, compile=of_the_run)
    assert [group.peers[name].tapped in compiled for name in "st"] == [of_the_run, of_the_run if own is None else own]
