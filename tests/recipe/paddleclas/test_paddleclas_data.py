"""PaddleClas' DataLoader as a recipe's data: what is equal is shown on images, and what differs, or is not there, is named."""

import pytest
from data_configs import IMAGENET, changed, config_of, converted, paths_of, with_transforms

from mutual.recipe import RecipeError, parse_recipe
from mutual.recipe.paddleclas.architectures import Model
from mutual.recipe.paddleclas.data import convert_data
from mutual.recipe.paddleclas.images import convert_preprocess
from mutual.recipe.paddleclas.section import Notes, Section

OURS = ("data_heavy", "data_labels", "data_cifar", "data_unlabelled")


def test_lists_with_heavy_augmentation():
    data, notes = converted(config_of("data_heavy"))
    assert data == {
        "dataset": "image_list",
        "root": "./dataset/flowers/",
        "train_list": "./dataset/flowers/train.txt",
        "val_list": "./dataset/flowers/val.txt",
        "on_bad_image": "skip",
        "num_classes": 4,
        "image_size": 192,
        "augment": [
            {"name": "random_resized_crop", "scale": [0.25, 1.0], "ratio": [3 / 4, 4 / 3], "interpolation": "bicubic"},
            "horizontal_flip",
            {"name": "timm_augment", "config": "rand-m9-mstd0.5-inc1", "interpolation": "bicubic", "p": 0.5},
            {"name": "color_jitter", "brightness": 0.4, "contrast": 0.4, "p": 0.25},
            {
                "name": "random_erasing",
                "p": 0.25,
                "scale": [0.02, 0.333333333],
                "ratio": [0.3, 3.33333333],
                "value": "normal",
                "attempts": 10,
                "log_ratio": True,
            },
        ],
        "preprocess": [{"name": "resize", "size": 220, "mode": "shorter", "interpolation": "bicubic"}, {"name": "center_crop"}],
        "normalize": IMAGENET,
        "mixup": 0.8,
        "mixup_p": 0.3,
        "cutmix": 1.0,
        "cutmix_p": 0.5,
        "workers": 4,
        "batch_size": 32,
        "eval_batch_size": 64,
    }
    assert notes.left_out == []
    assert paths_of(notes.remarks) == [
        "Train.dataset.transform_ops.1.RandCropImage",
        "Train.dataset.transform_ops",  # and not once more of Eval's, which are resized by the same
        "Train.dataset.batch_transform_ops",
        "Train.sampler.drop_last",
    ]


def test_several_labels_in_lists_with_tabs():
    data, notes = converted(config_of("data_labels"))
    assert data == {
        "dataset": "image_list",
        "root": "dataset/people/",
        "train_list": "dataset/people/train.txt",
        "val_list": "dataset/people/val.txt",
        "val_root": "dataset/people_val/",
        "multi_label": True,
        "on_bad_image": "skip",
        "num_classes": 3,
        "image_size": [256, 192],
        "augment": [
            {"name": "resize", "interpolation": "bilinear"},
            {"name": "random_crop", "padding": 10, "padding_mode": "constant"},
            "half_turn",
            {
                "name": "random_erasing",
                "p": 0.4,
                "scale": [0.02, 0.333333333],
                "ratio": [0.3, 3.33333333],
                "value": [124, 116, 104],
                "attempts": 10,
                "log_ratio": True,
            },
        ],
        "preprocess": [{"name": "resize", "interpolation": "bilinear"}],
        "normalize": IMAGENET,
        "workers": 4,
        "batch_size": 64,
        "eval_batch_size": 64,
    }
    assert notes.left_out == []


def test_cifar_of_which_a_part_is_trained_on():
    data, notes = converted(config_of("data_cifar"))
    rand_augment = data["augment"].pop()
    assert data == {
        "dataset": "cifar10",
        "root": "dataset/cifar",
        "download": False,
        "subset": 500,
        "crops_per_image": 2,
        "num_classes": 10,
        "image_size": 32,
        "augment": [{"name": "horizontal_flip", "p": 0.5}, {"name": "random_crop", "padding": 4, "padding_mode": "constant"}],
        "normalize": {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2471, 0.2435, 0.2616]},
        "mixup": 0.2,
        "workers": 2,
        "batch_size": 64,
        "eval_batch_size": 100,
    }
    assert (rand_augment["config"], rand_augment["fill"], len(rand_augment["ops"])) == ("rand-m5-n2-p1", [128] * 3, 14)
    assert notes.left_out == []


def test_unlabelled_images_and_a_larger_evaluation():
    data, notes = converted(config_of("data_unlabelled"))
    assert data == {
        "dataset": "image_list",
        "root": "dataset/labelled",
        "train_list": "dataset/train.csv",
        "val_list": "dataset/val.csv",
        "delimiter": ";",
        "relabel": True,
        "on_bad_image": "skip",
        "num_classes": 4,
        "image_size": 224,
        "augment": [
            {"name": "random_resized_crop", "scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3], "interpolation": "bilinear"},
            "vertical_flip",
            "auto_augment",
        ],
        "preprocess": [{"name": "resize", "size": 249, "mode": "shorter", "interpolation": "bilinear"}, {"name": "center_crop"}],
        "normalize": IMAGENET,  # given for blue, green and red, of pixels in 0 .. 255
        "workers": 0,
        "batch_size": 128,
        "eval_batch_size": 64,
        "unlabelled": "dataset/more.csv",
        "unlabelled_root": "dataset/more",
        "epoch_size": 6400,
    }
    assert paths_of(notes.left_out) == [
        "Train.dataset.transform_ops.0.DecodeImage.to_rgb",
        "Eval.dataset.transform_ops.0.DecodeImage.to_rgb",
        "Eval.dataset.transform_ops",
    ]


def test_an_epoch_without_shuffling_is_named():
    config = config_of("data_heavy")
    config["DataLoader"]["Train"]["sampler"]["shuffle"] = False
    assert paths_of(converted(config)[1].left_out) == ["Train.sampler.shuffle"]


def test_unlabelled_images_take_neither_classes_nor_mixed_labels_nor_transforms_of_their_own():
    config = config_of("data_unlabelled")
    train, unlabelled = (config["DataLoader"][name]["dataset"] for name in ("Train", "UnLabelTrain"))
    train["batch_transform_ops"] = [{"MixupOperator": {"alpha": 0.2}}]
    config["DataLoader"]["Train"]["sampler"] = {"name": "PKSampler", "batch_size": 32, "sample_per_id": 4}
    unlabelled["transform_ops"] = [{"RandCropImage": {"size": 160}}]
    unlabelled["transform_ops_strong"] = ["RandAugment"]
    data, notes = converted(config)
    assert not {"mixup", "sampler"} & data.keys()
    found = [line for line in notes.left_out if "UnLabelTrain" in line]
    assert [part in "".join(found) for part in ("transform_ops_strong", "transform_ops:", "by class", "mixup 0.2")] == [True] * 4


def test_unlabelled_lists_have_the_delimiter_of_the_others():
    with pytest.raises(RecipeError, match=r"UnLabelTrain\.dataset\.delimiter: None is not Train's"):
        converted(changed("UnLabelTrain.dataset.delimiter", None, "data_unlabelled"))


def test_unlabelled_images_beside_others_than_files_are_named():
    config = config_of("data_cifar")
    config["DataLoader"]["UnLabelTrain"] = {"dataset": {"name": "Cifar10"}}
    assert paths_of(converted(config)[1].left_out) == ["UnLabelTrain"]


def test_cifar_without_an_archive_is_fetched():
    config = config_of("data_cifar")
    for loader in config["DataLoader"].values():
        del loader["dataset"]["data_file"], loader["dataset"]["download"]
    data, notes = converted(config)
    assert (data["root"], data["download"]) == ("data", True)
    assert "Train.dataset.data_file" in paths_of(notes.remarks)
    assert "Train.dataset.data_file" not in paths_of(converted(config_of("data_cifar"))[1].remarks)


def test_models_of_different_numbers_of_classes_leave_the_number_to_the_data():
    notes = Notes()
    config = config_of("data_heavy")
    sections = (Section(config[name], name, notes) for name in ("DataLoader", "Global"))
    assert "num_classes" not in convert_data(*sections, [Model("a", {}, 4), Model("b", {}, 9)])
    assert "models have 4 and 9 classes" in "".join(notes.remarks)


TRANSFORMS = "Train.dataset.transform_ops"


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (
            "Train.dataset.name",
            "VeriWild",
            "Train.dataset.name: 'VeriWild' has no counterpart; ImageNetDataset, MultiLabelDataset, Cifar10",
        ),
        ("Eval.dataset.name", "MultiLabelDataset", "Eval.dataset.name: MultiLabelDataset has other images than ImageNetDataset"),
        ("Train.dataset.image_root", None, "Train.dataset.image_root: is missing; it is the folder of the images"),
        ("Train.dataset", None, "Train.dataset: is missing"),
        ("Eval", None, "Eval.dataset: is missing"),
        ("Eval", {"Query": {"dataset": {}}, "Gallery": {}}, "Eval.Query: measures retrieval, which is not here"),
        ("Train.dataset.delimiter", ",", "Eval.dataset.delimiter: None here and ',' in Train"),
        ("Train.dataset.relabel", True, "Eval.dataset.relabel: is not what Train says"),
        ("Train.sampler.batch_size", "32", "Train.sampler.batch_size: '32' is no number of images"),
        (
            "Train.sampler.name",
            "MultiScaleSampler",
            "Train.sampler.name: 'MultiScaleSampler' has no counterpart; DistributedBatchSampler, PK",
        ),
        (TRANSFORMS, [{"RandFlipImage": {"flip_code": 2}}], "0.RandFlipImage.flip_code: 2 is none of 1"),
        (TRANSFORMS, [{"ResizeImage": {"size": "big"}}], "0.ResizeImage.size: 'big' is no size"),
        (TRANSFORMS, [{"ResizeImage": {"size": 4, "interpolation": "best"}}], "0.ResizeImage.interpolation: 'best' is none of cv2's"),
        (TRANSFORMS, [{"RandCropImage": {"size": 4, "scale": 0.5}}], "0.RandCropImage.scale: 0.5 are no two numbers"),
        (TRANSFORMS, [{"TimmAutoAugment": {"config_str": "auto-v0"}}], "0.TimmAutoAugment.config_str: 'auto-v0' begins with 'auto'"),
        (TRANSFORMS, [{"RandomErasing": {"mode": "blue"}}], "0.RandomErasing.mode: 'blue' is none of const, pixel and rand"),
        (TRANSFORMS, [{"RandomErasing": {"sh": "a/b"}}], "0.RandomErasing.sh: 'a/b' is no number"),
        (TRANSFORMS, [{"RandAugment": {"magnitude": 0.5}}], "0.RandAugment.magnitude: 0.5 is no whole number from 0 on"),
        (TRANSFORMS, [{"ColorJitter": {"hue": [0.1, 0.3]}}], "0.ColorJitter.hue: [0.1, 0.3] is no number"),
        (TRANSFORMS, [{"Resize": {"size": [8, 8]}}, {"Padv2": {"size": [9, 11], "pad_mode": 1}}], "1.Padv2.size: 9 x 11 is not as many"),
        (TRANSFORMS, [{"CropImage": {"size": [1, 2, 3]}}], "0.CropImage.size: [1, 2, 3] is no size"),
        (TRANSFORMS, [{"CropImage": {"size": [0, 2]}}], "0.CropImage.size: [0, 2] is no size"),
        (TRANSFORMS, [{"Resize": {"size": "1"}}], "0.Resize.size: '1' is no size; it is a number of pixels, or two"),
        (TRANSFORMS, [{"NormalizeImage": {"mean": []}}], "0.NormalizeImage.mean: [] is no list of numbers"),
        (TRANSFORMS, [{"NormalizeImage": {"std": [1, "a", 1]}}], "0.NormalizeImage.std: [1, 'a', 1] is no list of numbers"),
        (TRANSFORMS, [{"RandomErasing": {"mean": [True]}}], "0.RandomErasing.mean: [true] is no list of numbers"),
        (TRANSFORMS, [{"RandomErasing": {"r1": 0}}], "0.RandomErasing.r1: 0 is no ratio of two sides"),
        (TRANSFORMS, [{"RandAugment": {"num_layers": 0}}], "0.RandAugment.num_layers: 0 is no whole number from 1 on"),
        (TRANSFORMS, "RandCropImage", "Train.dataset.transform_ops: 'RandCropImage' is no list"),
        (
            "Train.dataset.batch_transform_ops",
            [{"OpSampler": {"MixupOperator": {"prob": 0.7}, "CutmixOperator": {"prob": 0.7}}}],
            "0.OpSampler: probabilities sum to 1.4",
        ),
    ],
)
def test_what_nothing_can_stand_for_is_one_line(path, value, expected):
    with pytest.raises(RecipeError) as caught:
        converted(changed(path, value))
    (line,) = str(caught.value).splitlines()
    assert line.startswith("DataLoader.")
    assert expected in line


def test_images_of_no_size_are_one_line():
    with pytest.raises(RecipeError, match=r"DataLoader\.Train\.dataset\.transform_ops: brings images to no size"):
        converted(with_transforms("RandFlipImage", evaluation=["NormalizeImage"]))


def test_query_and_gallery_beside_images_to_validate_by_are_named():
    config = config_of("data_heavy")
    config["DataLoader"]["Eval"]["Query"] = {"dataset": {"name": "VeriWild"}}
    assert paths_of(converted(config)[1].left_out) == ["Eval.Query"]


def test_an_entry_that_nobody_knows_is_named():
    assert paths_of(converted(changed("Train.dataset.sample_ratio", 0.5))[1].left_out) == ["Train.dataset.sample_ratio"]


@pytest.mark.parametrize("name", ["data_heavy", "data_labels"])
def test_transforms_of_infer_can_be_compared_with_evaluations(name):
    config, notes = config_of(name), Notes()
    data, _ = converted(config)
    found = convert_preprocess(Section(config["Infer"], "Infer", notes))
    assert found == {key: data[key] for key in ("image_size", "preprocess", "normalize")}
    assert (notes.left_out, notes.remarks) == ([], [])
    config["Infer"]["transforms"][1]["ResizeImage"] = {"size": 300}
    assert convert_preprocess(Section(config["Infer"], "Infer", notes)) != found
    assert convert_preprocess(Section({}, "Infer", notes)) == {}


@pytest.mark.parametrize("name", OURS)
def test_a_recipe_takes_the_data(name):
    data, _ = converted(config_of(name))
    loss = "bce" if data.get("multi_label") else "cross_entropy"
    recipe = parse_recipe({"name": "t", "peers": {"a": {"model": "small_cnn"}}, "objectives": [{"loss": loss}], "data": data})
    assert recipe.data.model_dump(exclude_unset=True)["image_size"]
