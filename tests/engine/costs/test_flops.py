"""FLOPs are counted as by hand: forward once, backward twice, a frozen peer's forward, a store's views once, a teacher's training."""

import random
import shutil

import numpy as np
import pytest
import torch
from support import TinyNet, tiny_document
from torch.utils.flop_counter import FlopCounterMode

import mutual
from mutual.engine import RunFolder, count_forward_flops, count_training_flops
from mutual.engine.costs import measured_training, source_peers
from mutual.engine.costs.flops import _by_size
from mutual.models import create_model
from mutual.recipe import RecipeError, parse_recipe

STEM, BODY, HEAD = 2 * 16 * 4 * 9, 2 * 4 * 4 * 4 * 9, 2 * 4 * 4
"""Of an image of 1 x 8 x 8 in the tiny net: two convolutions of stride 2, with 4 channels, and 4 classes."""
FORWARD = STEM + BODY + HEAD
BACKWARD = STEM + 2 * (BODY + HEAD)
"""The images need no gradient."""
TINY = {"model": "support:tiny"}
RESNET50 = ("paddleclas/ResNet50", "torchvision/resnet50")
CROSS_ENTROPY = {"loss": "cross_entropy"}


def document(peers, *objectives, **sections):
    return tiny_document(peers=peers, objectives=[CROSS_ENTROPY, *objectives], **sections)


def counted(*arguments, teacher_flops=None, **sections):
    return count_training_flops(parse_recipe(document(*arguments, **sections)), teacher_flops=teacher_flops)


def fit(tmp_path, name, peers, *objectives, **sections):
    recipe = parse_recipe(document(peers, *objectives, name=name, output=str(tmp_path), **sections))
    return mutual.fit(recipe).folder


def test_one_image_s_forward_is_counted_and_the_model_stays_as_it_is():
    model = TinyNet(4, 1, norm=True, dropout=0.5).train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert count_forward_flops(model, (1, 8, 8)) == FORWARD
    assert (model.training, model.norm.training, model.dropout.training) == (True, False, True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert count_forward_flops(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5)), (3, 2, 2)) == 2 * 12 * 5
    assert count_forward_flops(torch.nn.Conv2d(3, 8, 3, padding=1), (3, 10, 6)) == 2 * 3 * 8 * 9 * 60


def test_a_resnet_of_paddleclas_is_counted_as_torchvisions():
    theirs, torchvisions = (count_forward_flops(create_model(name, num_classes=9), (3, 64, 64)) for name in RESNET50)
    assert theirs == torchvisions


def test_a_training_is_forward_and_backward_of_every_image():
    flops = counted({"a": TINY}, train={"epochs": 3, "accumulate": 2})
    assert (flops.images, flops.epochs, flops.note, flops.teachers) == (3 * 40, 3, "", 0)
    assert flops.flops == flops.images * (FORWARD + BACKWARD)
    assert flops.per_epoch == flops.flops / 3
    assert count_training_flops(parse_recipe(document({"a": TINY})), epochs=5).epochs == 5


def test_two_peers_take_twice_as_much_and_a_frozen_one_its_forward():
    pair = counted({"a": TINY, "b": TINY}, {"loss": "dml"})
    assert pair.flops == pair.images * 2 * (FORWARD + BACKWARD)
    taught = counted({"a": TINY, "t": {**TINY, "frozen": True}}, {"loss": "kd"})
    assert taught.flops == taught.images * (2 * FORWARD + BACKWARD)


@pytest.mark.gpu
@pytest.mark.cuda_only
def test_backwards_on_a_gpu_are_counted_as_well():
    assert counted({"a": TINY, "b": TINY}, {"loss": "dml"}).flops == 80 * 2 * (FORWARD + BACKWARD)


def test_what_saves_memory_is_not_counted_and_other_forwards_are():
    peers = {"a": TINY, "b": TINY}
    joint = counted(peers, {"loss": "dml"}).flops
    assert counted(peers, {"loss": "dml"}, train={"epochs": 2, "backward": "per_peer", "precision": "bf16"}).flops == joint
    blocks = {"model": "pplcnet_x0_25"}
    assert counted({"a": {**blocks, "activation_checkpointing": True}}).flops == counted({"a": blocks}).flops
    alternating = counted(peers, {"loss": "dml"}, train={"epochs": 2, "update": "alternating"})
    assert alternating.flops == joint + alternating.images * 2 * FORWARD
    averages = counted({"a": TINY}, {"loss": "kd", "sources": "ema"}, train={"epochs": 2, "ema": 0.9})
    assert averages.flops == averages.images * (2 * FORWARD + BACKWARD)


def test_an_adapter_is_counted_and_several_views():
    hint = counted({"a": TINY, "t": {**TINY, "frozen": True}}, {"loss": "hint", "at": "body"})
    adapter = 2 * 4 * 4 * 4
    assert hint.flops == hint.images * (2 * FORWARD + BACKWARD + 3 * adapter)
    views = counted({"a": TINY, "b": TINY}, {"loss": "dml"}, data={**tiny_document()["data"], "views": "per_peer"})
    assert views.flops == views.images * 2 * (FORWARD + BACKWARD)


@pytest.mark.parametrize(
    "objective", [{"loss": "rkd_angle"}, {"loss": "crd", "dim": 8}, {"loss": "similarity"}, {"loss": "dist"}], ids=lambda each: each["loss"]
)
def test_losses_that_compare_the_images_of_a_batch_are_counted_as_real_batches_are(objective):
    data = {**tiny_document()["data"], "num_train": 21}  # an epoch's last batch is smaller
    recipe = parse_recipe(document({"a": TINY, "t": {**TINY, "frozen": True}}, objective, data=data))
    with measured_training(recipe) as (training, _), FlopCounterMode(display=False) as counter:
        for window in training.windows(0):
            training.train_step(window, 0, measure=False)
    assert count_training_flops(recipe).per_epoch == counter.get_total_flops()


def test_a_function_that_is_no_polynomial_is_asked_itself():
    asked = []

    def flops(size):
        asked.append(size)
        return size**5

    assert _by_size(flops, [16, 7])(16) == 16**5
    assert {16, 7} <= set(asked)
    asked.clear()
    assert _by_size(lambda size: 5 + size + 3 * size**3, [64])(64) == 5 + 64 + 3 * 64**3
    assert asked == []


def test_a_store_computes_each_view_once(tmp_path):
    def taught(epochs, views):
        teacher = {**TINY, "frozen": True, "store": {"folder": str(tmp_path / "store"), "views": views, "topk": "all"}}
        return counted({"a": TINY, "t": teacher}, {"loss": "kd"}, train={"epochs": epochs})

    alone = 40 * (FORWARD + BACKWARD)
    assert taught(5, 2).flops == 5 * alone + 2 * 40 * FORWARD
    assert taught(2, 50).flops == taught(2, "epoch").flops == 2 * alone + 2 * 40 * FORWARD
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_and_no_generator_moves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def states():
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002

    before = states()
    counted({"a": TINY, "b": TINY}, {"loss": "dml"}, output=str(tmp_path / "runs"))
    assert states() == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_training_of_a_teacher_is_counted_with_that_of_its_own_teacher(tmp_path):
    grand = fit(tmp_path, "grand", {"g": TINY}, train={"epochs": 1})
    teacher = {"t": TINY, "g": {**TINY, "frozen": True, "weights": str(grand)}}
    folder = fit(tmp_path, "teacher", teacher, {"loss": "kd"}, train={"epochs": 3})
    spec = {**TINY, "frozen": True, "weights": str(folder / "best" / "t.safetensors")}
    flops = counted({"a": TINY, "t": spec, "u": {**spec, "weights": str(folder)}}, {"loss": "kd"})
    own = flops.images * (3 * FORWARD + BACKWARD)
    teachers = 3 * 40 * (2 * FORWARD + BACKWARD) + 40 * (FORWARD + BACKWARD)  # a run that gave two teachers counts once
    assert (flops.flops, flops.teachers, flops.note) == (own + teachers, teachers, "")
    run = RunFolder(folder)
    run.write_summary(run.read_summary().model_copy(update={"epoch": 2}))  # as where patience was exhausted
    assert counted({"a": TINY, "t": spec}, {"loss": "kd"}).teachers == teachers - 40 * (2 * FORWARD + BACKWARD)


@pytest.mark.slow
def test_what_is_not_known_of_a_teacher_is_said_and_can_be_given(tmp_path):
    folder = fit(tmp_path, "teacher", {"t": TINY}, train={"epochs": 1})
    copy = tmp_path / "copy.safetensors"
    shutil.copy(folder / "best" / "t.safetensors", copy)
    peers = {"a": TINY, "t": {**TINY, "frozen": True, "weights": str(copy)}}
    flops = counted(peers, {"loss": "kd"})
    assert flops.teachers == 0
    assert flops.note == "without the training of t: its weights are of no run folder; give --teacher-flops"
    given = counted(peers, {"loss": "kd"}, teacher_flops=1e9)
    assert (given.flops, given.note) == (flops.flops + 1e9, "the training of t as given, 1e+09")
    assert counted({"a": TINY}, teacher_flops=1e9).teachers == 0
    known = {"a": TINY, "t": {**TINY, "frozen": True, "weights": str(folder)}}
    assert counted(known, {"loss": "kd"}, teacher_flops=1e9).teachers == 40 * (FORWARD + BACKWARD)
    assert counted({"a": known["t"] | {"frozen": False}}).teachers == 0  # others begin with it, too


def test_a_run_folder_chooses_no_code(tmp_path):
    folder = fit(tmp_path, "teacher", {"t": {"model": "small_cnn"}, "u": TINY}, train={"epochs": 1})
    spec = {"model": "small_cnn", "frozen": True, "weights": str(folder / "best" / "t.safetensors")}
    flops = counted({"a": {"model": "small_cnn"}, "t": spec}, {"loss": "kd"})
    assert flops.teachers == 0
    assert "runs code that this recipe does not name (support:tiny)" in flops.note


def test_a_recipe_that_cannot_be_built_is_one_line():
    with pytest.raises(RecipeError, match=r"peers\.a\.model"):
        counted({"a": {"model": "support:nowhere"}})


def test_source_peers_are_those_that_others_learn_from():
    peers = {"a": TINY, "b": TINY, "t": {**TINY, "frozen": True}}
    assert source_peers(parse_recipe(document(peers))) == ()
    assert source_peers(parse_recipe(document(peers, {"loss": "kd", "learners": ["a"], "sources": ["t"]}))) == ("t",)
    assert source_peers(parse_recipe(document(peers, {"loss": "kd", "learners": ["a"], "sources": "ensemble"}))) == ("b", "t")
