"""Datasets of the user's own: what they may return, what becomes of it, how it is counted, and what is one line."""

import pickle

import pytest
import torch
import users_data
from support import images_of_epoch, tiny_document

from mutual.data import build_data
from mutual.data.datasets.image_check import check_data
from mutual.data.datasets.own.own_split import LabelError
from mutual.data.datasets.own.reader import read_own
from mutual.recipe import RecipeError, parse_recipe

SIZE = {"image_size": 8, "batch_size": 4}


def spec(name, *, objectives=None, **fields):
    data = {"dataset": f"users_data:{name}", **SIZE, **fields}
    return parse_recipe(tiny_document(data=data, **({"objectives": objectives} if objectives else {}))).data


def built(name, *, seed=0, **fields):
    return build_data(spec(name, **fields), seed=seed)


def images(name, *, epoch=0, start=0, world_size=1, **fields):
    """The images of an epoch by their index."""
    return images_of_epoch(built(name, **fields), epoch, start=start, world_size=world_size)


def test_every_form_of_an_image_becomes_the_same_pixels():
    expected = images("make", image_size=[12, 10])
    assert expected[7].unique(dim=1).flatten().tolist() == [7] * 20 + [14] * 10
    for form in ("rgba", "array", "closed", "float_array", "tensor", "float", "half", "palette"):
        found = images("make", image_size=[12, 10], args={"form": form})
        assert all(torch.equal(image, expected[index]) for index, image in found.items()), form


def test_grey_is_what_it_is_of_a_file():
    expected = images("make", channels=1)
    for form in ("array", "tensor", "float"):
        found = images("make", channels=1, args={"form": form})
        assert all(torch.equal(image, expected[index]) for index, image in found.items()), form


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("normalized", "its image has numbers from -0.5 to -0.5; give uint8, or numbers in 0 .. 1"),
        ("nan", "its image has numbers from nan to nan"),
        ("wide", "its image is an array of uint16; give uint8"),
        ("whole", "its image is a tensor of int64; give uint8"),
        ("planes", r"its image is an array of shape \[3, 12, 10\]; arrays are \[H, W\] or \[H, W, C\], tensors \[C, H, W\]"),
        ("list", "its image is of type list; give an image of Pillow's"),
        ("depth", "its pixels are floating-point numbers, whose range is unknown"),
    ],
)
def test_what_is_no_image_is_one_line(form, message):
    with pytest.raises(ValueError, match=rf"item 0 of the train images of users_data:make .*{message}") as caught:
        built("make", args={"form": form})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mapping", "namespace"])
def test_splits_and_classes_by_name(name):
    info = built(name).info
    assert (info.num_train, info.num_val, info.class_names) == (30, 9, ("plane", "car", "bird"))
    assert len(read_own(spec(name), seed=0).test.labels) == 6


def test_splits_by_position_and_fractions():
    assert len(read_own(spec("three"), seed=0).test.labels) == 6
    assert read_own(spec("make"), seed=0).test is None
    held_out = built("alone", val=0.2, test=0.1)
    assert (held_out.info.num_train, held_out.info.num_val) == (21, 6)
    parts = built("parts")
    assert (parts.info.num_train, parts.info.num_val) == (25, 5)


def test_the_function_is_called_with_arguments_and_what_it_names():
    assert built("asked", seed=5, root="here", channels=1, args={"length": 20}).info.num_train == 20


def test_declared_labels_are_taken_without_reading_the_items():
    users_data.Declared.reads = 0
    data = built("make", args={"kind": "Declared"})
    assert data.info.class_names == ("plane", "car", "bird")
    assert users_data.Declared.reads < 2 * 2 * 8 + 4, "a few, to compare"
    assert built("make", args={"kind": "Named"}).info.num_classes == 3


def test_several_labels():
    bce = [{"loss": "bce"}]
    for kind in ("Shades", "Declared"):
        data = built("make", multi_label=True, objectives=bce, args={"kind": kind, "flags": True})
        labels = torch.cat([batch.labels for batch in data.eval_batches(world_size=1, shard=(0, 1))])
        assert labels.dtype == torch.float32
        assert labels[:2].tolist() == [[1, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize("changes", [{"batch_size": 3}, {"world_size": 2}, {"workers": 1}, {"start": 3}])
def test_what_it_draws_depends_on_seed_epoch_and_image_alone(changes):
    before = torch.get_rng_state()
    expected = images("make", epoch=1, args={"noise": True})
    assert torch.equal(torch.get_rng_state(), before)
    found = images("make", epoch=1, **{"args": {"noise": True}, **changes})
    assert found
    assert all(torch.equal(image, expected[index]) for index, image in found.items())
    other = images("make", epoch=2, args={"noise": True})
    assert not any(torch.equal(image, expected[index]) for index, image in other.items())


def test_an_item_that_raises_is_one_line_or_has_a_substitute():
    name = "item 7 of the train images of users_data:damaged"
    with pytest.raises(ValueError, match=rf"{name} is no image .*: KeyError: .* \(.*users_data.py:\d+\) \(epoch 1") as caught:
        images("damaged")
    assert "\n" not in str(caught.value)
    data = built("damaged", on_bad_image="skip")
    for _ in data.train_windows(0, world_size=1, shard=(0, 1), accumulate=1):
        pass
    assert list(data.take_bad_images()["train"]) == [name]
    assert list(check_data(spec("damaged"), workers=0).bad) == [name]


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("gone", {}, "users_data has no dataset 'gone'"),
        ("damaged", {"args": {"kind": "Undeclared"}}, "item 7 of .*its label must be known: repair it, or give the Dataset an attribute"),
        ("make", {"args": {"kind": "Mislabelled"}}, "item 29 of .*: its label is 2, and not 0, as it was or as the Dataset's `targets`"),
        ("make", {"args": {"kind": "Mislabelled"}, "on_bad_image": "skip"}, "item 29 of .*: its label is 2, and not 0"),
        ("make", {"args": {"kind": "Relabelling"}}, "item .*: its label is"),
        ("make", {"args": {"kind": "Fickle"}}, "item 0 of .* is another image when it is read again"),
        ("make", {"args": {"kind": "Keyed"}}, r"item 0 of .*it is dict, not \(image, label\)"),
        ("make", {"args": {"kind": "Endless"}}, "TypeError: unknown"),
        ("make", {"args": {"sort": 1}}, "users_data:make cannot be built with sort=1: TypeError"),
        ("alone", {}, "has no validation images; set data.val to a fraction"),
        ("make", {"val": 0.1}, "returns val images, and data.val is a fraction of the training images"),
        ("mapping", {"args": {"validation": 1}}, "returns a mapping with 'validation'"),
        ("mapping", {"args": {"train": None}}, "returns no training images"),
        ("mapping", {"args": {"classes": ["a", "b"]}}, "`classes` names 2 classes, and the labels are of 3"),
        ("mapping", {"args": {"classes": ["a", "a", "b"]}}, "`classes` holds 'a' twice"),
        ("mapping", {"args": {"classes": "abc"}}, "`classes` is str; give a list"),
        ("labelled", {"args": {"labels": ["cat", "dog"]}}, "item 0 of .*its label is 'cat'; it is to be a class number"),
        ("labelled", {"args": {"labels": [0, -1]}}, "item 1 of .*its label is -1; classes are numbered from 0"),
        ("labelled", {"args": {"labels": [[0, 1], [1, 0]]}}, r"item 0 of .*its label is \[0, 1\]; .*data.multi_label"),
        ("nothing", {}, r"users_data:nothing returns int; return Datasets as \(train, val\)"),
        ("five", {}, "users_data:five returns 5 values"),
        ("empty", {}, "the train images of users_data:empty are none"),
        ("Stream", {}, "the train images of users_data:Stream are Stream, no map-style Dataset"),
    ],
)
def test_what_is_no_data_set_is_one_line(name, fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        images(name, **fields)
    assert "\n" not in str(caught.value)


def test_flags_of_several_numbers_are_one_line():
    fields = {"multi_label": True, "objectives": [{"loss": "bce"}]}
    with pytest.raises(ValueError, match="the train images of users_data:labelled: items have 2 to 3 flags"):
        built("labelled", args={"labels": [[0, 1], [0, 1, 1]]}, **fields)
    with pytest.raises(ValueError, match=r"item 0 of .*its label is \[0, 2\]; with data.multi_label it is a vector with a 0 or 1"):
        built("labelled", args={"labels": [[0, 2]]}, **fields)


@pytest.mark.parametrize("fields", [{"crops_per_image": 2}, {"sampler": "balanced", "epoch_size": 60}])
def test_an_item_that_fails_with_some_draws_has_substitutes_whatever_is_loaded_with_it(fields):
    found = []
    for batch_size in (4, 30):
        data = built("make", args={"kind": "Unsteady", "noise": True}, on_bad_image="skip", **{**fields, "batch_size": batch_size})
        batches = [batch for window in data.train_windows(0, world_size=1, shard=(0, 1), accumulate=1) for batch in window.batches]
        found.append(torch.cat([batch.images[: batch.num_valid] for batch in batches]))
        assert any(batch.bad for batch in batches)
    assert torch.equal(*found)


def test_the_recipe_says_what_belongs_to_it():
    for fields, message in (
        ({"train": "train"}, r"data\.train: users_data:make returns its splits itself; take this away$"),
        ({"val": "val"}, r"data\.val: users_data:make returns its splits itself; give a fraction, or nothing$"),
        ({"val": "val"}, r"data\.val: .* give a fraction"),
        ({"args": {"x": float("nan")}}, r"data\.args\.x: holds \.nan"),
        ({"dataset": "digits", "args": {"x": 1}}, r"data\.args: belongs to a function of yours"),
    ):
        with pytest.raises(RecipeError, match=message):
            spec("make", **fields)


def test_the_fingerprint_tells_labels_and_images_apart():
    same, again = (built("make", args={"noise": True}).fingerprint for _ in range(2))
    assert same == again
    others = [built("make").fingerprint, built("make", args={"noise": True, "kind": "Mirrored"}).fingerprint]
    assert all(other["train"]["per_class"] == same["train"]["per_class"] for other in others)
    assert len({each["train"]["digest"] for each in (same, *others)}) == 3


def test_a_larger_peer_gets_larger_images():
    data = built("make")
    data.load_for([(3, 300, 300)])
    assert data.loaded_shape == (3, 300, 300)


def test_what_cannot_be_sent_to_other_processes_is_one_line(monkeypatch):
    monkeypatch.setattr("torch.multiprocessing.get_start_method", lambda: "spawn")
    monkeypatch.setattr(users_data.Shades, "__reduce__", lambda _: 1 / 0, raising=False)
    assert built("make").info.num_train == 30
    with pytest.raises(ValueError, match=r"the train images of users_data:make cannot be sent to loader processes .*set data.workers to 0"):
        built("make", workers=1)


def test_its_errors_are_sent_by_workers():
    error = LabelError("item 3", "its label is 2")
    assert str(pickle.loads(pickle.dumps(error))) == "item 3: its label is 2"
