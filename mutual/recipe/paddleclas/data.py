"""convert_data: the section DataLoader as the data of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from mutual.recipe.datasets import family_of_dataset
from mutual.recipe.paddleclas.architectures import Model
from mutual.recipe.paddleclas.augmentations import convert_training
from mutual.recipe.paddleclas.batches import convert_loader, convert_mixing, convert_sampler
from mutual.recipe.paddleclas.images import Images, convert_evaluation, plain_size
from mutual.recipe.paddleclas.section import Notes, Section
from mutual.recipe.text import format_value

_LISTS = ("ImageNetDataset", "ClsDataset", "CommonDataset", "ImageNetLTDataset")
_SEVERAL_LABELS = "MultiLabelDataset"
_CIFAR = {"Cifar10": ("cifar10", 10), "Cifar100": ("cifar100", 100)}
_SIDES_OF_CIFAR = (32, 32)
_FAMILY = {**dict.fromkeys(_LISTS, "list"), _SEVERAL_LABELS: "labels", **{name: name for name in _CIFAR}}


def convert_data(loaders: Section, settings: Section, models: Sequence[Model]) -> dict[str, Any]:
    """Returns the section `data` of a recipe.

    Raises:
        RecipeError: a data set that nothing here can stand for.
    """
    loaders.pass_over("class_num")
    train, evaluation = loaders.section("Train"), loaders.section("Eval")
    dataset, eval_dataset = _dataset_of(train, "Train"), _evaluation_of(evaluation)
    name, eval_name = _name_of(dataset), _name_of(eval_dataset)
    if _FAMILY[name] != _FAMILY[eval_name]:
        raise eval_dataset.error("name", f"{eval_name} has other images than {name}, which Train has; they are of one kind here")
    data = _cifar(dataset, eval_dataset, name) if name in _CIFAR else _lists(dataset, eval_dataset, name)
    numbers = {model.num_classes for model in models}
    if len(numbers) == 1:
        (data["num_classes"],) = numbers
    elif numbers:
        dataset.remark(f"models have {' and '.join(map(str, sorted(numbers)))} classes; the data have as many as their labels say")
    images, scored = _images(dataset, eval_dataset, _SIDES_OF_CIFAR if name in _CIFAR else None)
    data |= _sized(dataset, eval_dataset, images, scored)
    data |= convert_mixing(dataset) | convert_loader(train.section("loader"))
    data |= convert_sampler(train.section("sampler"), trains=True)
    data["eval_batch_size"] = convert_sampler(evaluation.section("sampler"), trains=False)["batch_size"]
    evaluation_loader = evaluation.section("loader")
    evaluation_loader.pass_over("num_workers", "use_shared_memory", "prefetch_factor", "use_buffer_reader", "timeout")
    if "UnLabelTrain" in loaders:
        _add_unlabelled(data, loaders, images)
    if "iter_per_epoch" in settings:
        data["epoch_size"] = settings.number("iter_per_epoch") * data["batch_size"]
        settings.remark("an epoch has as many images as so many batches of one process", "iter_per_epoch")
    return data


def _dataset_of(loader: Section, name: str) -> Section:
    if "dataset" not in loader:
        raise loader.error("dataset", f"is missing; {name}.dataset says where the images are")
    return loader.section("dataset")


def _evaluation_of(loader: Section) -> Section:
    for key in ("Query", "Gallery"):
        if key in loader and "dataset" not in loader:
            raise loader.error(key, "measures retrieval, which is not here; give Eval.dataset, images with labels to validate by")
        if key in loader:
            loader.take(key)
            loader.warn("retrieval is not measured here", key)
    return _dataset_of(loader, "Eval")


def _name_of(dataset: Section) -> str:
    name = dataset.text("name")
    if name not in _FAMILY:
        raise dataset.error(
            "name", f"{format_value(name)} has no counterpart; ImageNetDataset, MultiLabelDataset, Cifar10 and Cifar100 have"
        )
    return str(name)


def _lists(dataset: Section, eval_dataset: Section, name: str) -> dict[str, Any]:
    """Returns where the images are that lists name."""
    root, train_list, delimiter = _list_of(dataset)
    val_root, val_list, eval_delimiter = _list_of(eval_dataset)
    if delimiter != eval_delimiter:
        raise eval_dataset.error("delimiter", f"{eval_delimiter!r} here and {delimiter!r} in Train; the lists have one here")
    data: dict[str, Any] = {"dataset": "image_list", "root": root, "train_list": train_list, "val_list": val_list}
    if PurePath(val_root) != PurePath(root):
        data["val_root"] = val_root
    if delimiter not in (None, " "):
        data["delimiter"] = delimiter
    if name == _SEVERAL_LABELS:
        data["multi_label"] = True
        for each in (dataset, eval_dataset):
            each.pass_over("label_ratio")  # losses say whether they read it
    relabels = [each.flag("relabel") for each in (dataset, eval_dataset)]
    if len(set(relabels)) > 1:
        raise eval_dataset.error("relabel", "is not what Train says; the classes would not be the same")
    if any(relabels):
        data["relabel"] = True
        dataset.remark("the validation labels are numbered as the training images' are", "relabel")
    return {**data, "on_bad_image": "skip"}  # there another image stands in for one that cannot be read, too


def _list_of(dataset: Section) -> tuple[str, str, str | None]:
    """Returns the folder, the list and the delimiter of a data set."""
    root, file, delimiter = dataset.text("image_root"), dataset.text("cls_label_path"), dataset.text("delimiter")
    for key, value, meaning in (("image_root", root, "the folder of the images"), ("cls_label_path", file, "a list of lines `path label`")):
        if not value:
            raise dataset.error(key, f"is missing; it is {meaning}")
    return root, file, delimiter


def _cifar(dataset: Section, eval_dataset: Section, name: str) -> dict[str, Any]:
    """Returns CIFAR in the folder of its archive, which is fetched where it is not there."""
    file = dataset.text("data_file")
    for each in (dataset, eval_dataset):
        each.pass_over("mode", "backend")
    eval_dataset.take("data_file")
    eval_dataset.take("download")
    data = {"dataset": _CIFAR[name][0], "root": str(PurePath(file).parent) if file else "data", "download": dataset.flag("download", True)}
    if not file:
        dataset.remark("its files are read from the folder data, and fetched into it", "data_file")
    if (number := dataset.number("sample_per_label")) is not None:
        data["subset"] = number * _CIFAR[name][1]
    if (number := dataset.number("expand_labels", 1)) != 1:
        data["crops_per_image"] = number
        dataset.remark("an image's copies are next to one another, each augmented by itself", "expand_labels")
    return data


def _images(dataset: Section, eval_dataset: Section, size: tuple[int, int] | None) -> tuple[Images, Images]:
    """Returns what becomes of training and of evaluation images; `size`: of all of them before."""
    for key in ("transform_ops_weak", "transform_ops_strong", "transform_ops_strong2"):
        if key in dataset:
            dataset.leave_out(key, "images are augmented once for all losses")
    return convert_training(dataset, "transform_ops", size=size), convert_evaluation(eval_dataset, "transform_ops", size=size)


def _sized(dataset: Section, eval_dataset: Section, images: Images, scored: Images) -> dict[str, Any]:
    """Returns the size of the images, the transforms and the statistics."""
    size = images.size or scored.size
    if size is None:
        raise dataset.error("transform_ops", "brings images to no size; end it with RandCropImage, CropImage or ResizeImage")
    if scored.size is not None and scored.size != size:
        _scale_evaluation(eval_dataset, scored, size)
    if scored.normalize != images.normalize or scored.is_bgr != images.is_bgr:
        eval_dataset.warn(f"images are normalised as in Train, and not by {scored.normalize}", "transform_ops")
    found: dict[str, Any] = {"image_size": plain_size(size)}
    if images.transforms:
        found["augment"] = [transform if len(transform) > 1 else transform["name"] for transform in images.without_size(size)]
    if scored.transforms:
        found["preprocess"] = scored.without_size(size)
    return {**found, "normalize": images.normalize}


def _scale_evaluation(dataset: Section, scored: Images, size: tuple[int, int]) -> None:
    """Brings evaluation to the training images' size: the same part of each image, in as many pixels."""
    assert scored.size is not None
    theirs, here = (" x ".join(map(str, each)) for each in (scored.size, size))
    why = f"peers are evaluated on images of the training's size, {here}, of the same part of each"
    dataset.warn(f"{theirs}: {why}", "transform_ops")
    factor = min(size) / min(scored.size)
    for transform in scored.transforms:
        sides = transform["size"]
        if transform["name"] == "center_crop":
            transform["size"] = plain_size(size)
        elif isinstance(sides, int):
            transform["size"] = max(round(sides * factor), min(size))
        else:
            transform["size"] = [max(round(side * factor), least) for side, least in zip(sides, size, strict=True)]
    scored.size = size


def _add_unlabelled(data: dict[str, Any], loaders: Section, images: Images) -> None:
    """Adds the images of UnLabelTrain, which are mixed into the training images."""
    if data["dataset"] != "image_list" or data.get("multi_label"):
        loaders.leave_out("UnLabelTrain", "unlabelled images stand beside images in files with one label each")
        return
    loader = loaders.section("UnLabelTrain")
    dataset = _dataset_of(loader, "UnLabelTrain")
    _name_of(dataset)
    root, file, delimiter = _list_of(dataset)
    data["unlabelled"] = f"./{file}" if family_of_dataset(file) != file else file  # a list, whatever its folder is called
    if (delimiter or " ") != data.get("delimiter", " "):
        raise dataset.error("delimiter", f"{delimiter!r} is not Train's; the lists have one here")
    dataset.take("relabel")
    if PurePath(root) != PurePath(data["root"]):
        data["unlabelled_root"] = root
    _name_their_transforms(dataset, images)
    number = convert_sampler(loader.section("sampler"), trains=True)["batch_size"]
    data["batch_size"] += number
    loader.remark(
        f"labelled and unlabelled images are mixed: a batch of {data['batch_size']} has as many of each as they are frequent, and an epoch "
        "all of both; a line is `path` or `path label`, and labels are not read"
    )
    loader.section("loader").pass_over("num_workers", "use_shared_memory", "prefetch_factor")
    _name_what_needs_classes(data, loader)


def _name_their_transforms(dataset: Section, images: Images) -> None:
    """Names transforms of unlabelled images that are others than those of images with labels."""
    for key in ("transform_ops_weak", "transform_ops_strong", "transform_ops_strong2", "batch_transform_ops"):
        if key in dataset:
            dataset.leave_out(key, "unlabelled images are augmented as those with labels are")
    if "transform_ops" in dataset:
        muted = Section({"transform_ops": dataset.take("transform_ops")}, dataset.path, Notes())
        if convert_training(muted, "transform_ops", quiet=True).transforms != images.transforms:
            dataset.warn("unlabelled images are augmented as those with labels are", "transform_ops")


def _name_what_needs_classes(data: dict[str, Any], loader: Section) -> None:
    """Takes from `data`, and names, what images without a class do not go with."""
    if data.pop("sampler", None) is not None:
        loader.warn("images without a class are not drawn by class; an epoch has each image once")
    for key in [key for key in data if key.startswith(("mixup", "cutmix"))]:
        alpha = data.pop(key)
        if not key.endswith("_p"):
            loader.warn(f"{key} {alpha:g}: labels are mixed, and unlabelled images have none")
