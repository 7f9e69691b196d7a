"""Transforms of the user's own: counted whatever they draw from, checked, and never run by what only evaluates."""

import pytest
import torch
import users_parts  # noqa: F401, importing torchvision takes seconds
from support import images_of_epoch, tiny_document

import mutual
from mutual.data import build_data
from mutual.engine.evaluation import evaluate_run
from mutual.engine.storage import RunFolder, peer_files
from mutual.recipe import Data, RecipeError, parse_recipe

FAKE = {"dataset": "fake", "num_train": 21, "num_val": 4, "image_size": 8, "batch_size": 4}


def images(*, epoch=0, start=0, world_size=1, **fields):
    """The images of an epoch by their index."""
    data = build_data(parse_recipe(tiny_document(data={**FAKE, **fields})).data, seed=0)
    return images_of_epoch(data, epoch, start=start, world_size=world_size)


@pytest.mark.parametrize(
    ("dataset", "augment"),
    [("fake", ["users_parts:Dots"]), ("digits", ["horizontal_flip", "users_parts:Dots", "vertical_flip"])],
)
def test_it_depends_on_seed_epoch_and_image_alone(dataset, augment):
    own = {"dataset": dataset, "augment": augment, "subset": 21, "channels": 3}
    expected = images(epoch=1, **own)
    assert len(expected) == 21
    for changes in ({"batch_size": 3}, {"world_size": 2}, {"workers": 1}, {"start": 3}):
        found = images(epoch=1, **{**own, **changes})
        assert found
        assert all(torch.equal(image, expected[index]) for index, image in found.items()), changes
    other = images(epoch=2, **own)
    assert not all(torch.equal(image, expected[index]) for index, image in other.items())


def test_it_is_called_with_its_arguments_on_one_image():
    assert all(
        torch.equal(image, torch.full((3, 8, 8), 7)) for image in images(augment=[{"name": "users_parts:Fill", "value": 7}]).values()
    )


def test_what_it_does_in_place_reaches_no_other_view():
    fields = {**FAKE, "augment": [{"name": "users_parts:AddInPlace"}]}
    data = build_data(parse_recipe(tiny_document(data=fields)).data, seed=0, num_views=2)
    (batch, *_) = next(data.train_windows(0, world_size=1, shard=(0, 1), accumulate=1)).batches
    assert torch.equal(batch.images[0], batch.images[1])


def test_a_crop_of_the_users_is_followed_by_one_of_ours():
    crop = {"name": "users_parts:crop", "size": 5}
    assert images(augment=[crop, {"name": "random_crop", "padding": 2}])[0].shape == (3, 8, 8)
    with pytest.raises(ValueError, match=r"augment gives images of \(3, 5, 5\), wanted are \(3, 8, 8\); end it with a crop or a resize"):
        images(augment=[crop])


def test_a_larger_peer_gets_larger_images_where_the_size_is_not_fixed():
    crop, cut = {"name": "users_parts:crop", "size": 8}, {"name": "center_crop", "size": 8}
    for augment, loaded in ((["users_parts:Dots"], (3, 12, 12)), ([crop, cut], (3, 8, 8))):
        data = build_data(parse_recipe(tiny_document(data={**FAKE, "augment": augment})).data, seed=0)
        data.load_for([(3, 12, 12)])
        assert data.loaded_shape == loaded
    data = build_data(parse_recipe(tiny_document(data={**FAKE, "augment": [crop]})).data, seed=0)
    with pytest.raises(ValueError, match=r"augment gives images of \(3, 8, 8\), wanted are \(3, 12, 12\)"):
        data.load_for([(3, 12, 12)])


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ("users_parts:Blurr", "users_parts has no transform 'Blurr'"),
        ({"name": "users_parts:crop", "sise": 5}, "users_parts:crop takes no argument 'sise'; did you mean 'size'"),
        ("users_parts:three", "users_parts:three gives int, which cannot be called on an image"),
        ("users_parts:as_float", r"users_parts:as_float gives float32 \[3, 8, 8\], not uint8 \[3, height, width\]"),
        ("users_parts:as_nothing", "users_parts:as_nothing gives NoneType, no tensor"),
        ("users_parts:raising", r"users_parts:raising: KeyError: 'x' \(.*users_parts.py:\d+\)"),
    ],
)
def test_what_gives_no_image_is_one_line_before_the_training(transform, message):
    with pytest.raises(ValueError, match=message) as caught:
        images(augment=[transform])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_images_of_several_sizes_are_one_line_that_names_one(batch_size):
    with pytest.raises(ValueError, match=r"image \d+: augment gives 4 x 8 pixels of it, wanted are 8 x 8 \(epoch 1\)"):
        images(augment=["users_parts:sometimes_half"], batch_size=batch_size)


def test_prediction_needs_no_code_of_the_users():
    for transform in ("m:Blur", {"name": "m:Blur", "radius": 1}):
        with pytest.raises(RecipeError, match=r"data\.preprocess\.0: .* is no built-in transform"):
            parse_recipe(tiny_document(data={**FAKE, "preprocess": [transform]}))
    with pytest.raises(RecipeError, match=r"data\.augment\.0\.radius: holds \.nan"):
        parse_recipe(tiny_document(data={**FAKE, "augment": [{"name": "m:Blur", "radius": float("nan")}]}))


def test_what_evaluation_reads_is_of_the_size_that_training_had_without_that_code():
    augment = ["users_parts:Dots", "horizontal_flip"]
    assert not Data(augment=["horizontal_flip"]).has_users_transforms
    for after, names in (([], ["resize", "horizontal_flip"]), (["m:Blur"], ["resize"])):
        data = Data(augment=[*augment, *after])
        assert data.has_users_transforms
        assert [transform.name for transform in data.without_users_transforms().augment] == names
        assert not data.without_users_transforms().has_users_transforms


def test_evaluating_a_run_does_not_import_its_transforms(tmp_path, monkeypatch):
    (tmp_path / "gone_transforms.py").write_text("def same():\n    return lambda image: image\n")
    monkeypatch.syspath_prepend(tmp_path)
    document = tiny_document(output=str(tmp_path), peers={"a": {"model": "small_cnn"}}, objectives=[{"loss": "cross_entropy"}])
    document["data"]["augment"] = ["gone_transforms:same"]
    document["train"] = {"epochs": 1, "progress": False, "pictures": False}
    result = mutual.fit(document)
    (tmp_path / "gone_transforms.py").unlink()
    monkeypatch.delitem(__import__("sys").modules, "gone_transforms")
    folder = RunFolder(result.folder)
    scores = evaluate_run(folder.recipe(), peer_files(folder, None))
    assert scores["a"]["top1"] == result.best_scores["a"]["top1"]
