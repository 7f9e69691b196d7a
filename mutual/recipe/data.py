"""The `data` section of a recipe: which images, at which size, how batched and augmented."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt

from mutual.recipe.base import (
    MAX_TRANSFORMS,
    BatchSize,
    Crops,
    Deviation,
    MadeUpImages,
    NonNegativeFloat,
    Number,
    NumClasses,
    Positive,
    Prefetch,
    Probability,
    Seed,
    Size,
    Spec,
    Workers,
)
from mutual.recipe.datasets import DATASET_FORMS, DATASETS, LUMA, DatasetKind, DatasetName, family_of_dataset
from mutual.recipe.transforms import AnyTransform, BuiltInTransform, RandomErasing, Resize, TimmAugment, Transform, UsersTransform

Fraction = Annotated[StrictFloat, Field(gt=0, lt=1)]
SplitName = Annotated[str, Field(min_length=1)]
HeldOut = SplitName | Fraction
Augment = Annotated[list[AnyTransform], Field(max_length=MAX_TRANSFORMS)]
Preprocess = Annotated[list[BuiltInTransform], Field(max_length=MAX_TRANSFORMS)]


class Statistics(Spec):
    """Mean and standard deviation of each channel, of pixel values in 0 .. 1."""

    mean: tuple[Number, ...]
    """Mean of each channel."""
    std: tuple[Deviation, ...]
    """Standard deviation of each channel."""


class Sampler(Spec):
    """Which images an epoch takes; one of the two."""

    weights: str | None = None
    """Images are drawn by weights: a text file with a number a line, one for each class or one for each training image, in their order
    (before `subset`, and without those that are held out). Each image is drawn the whole number of times that is expected, and the rest by
    chance; one of weight 0 never."""
    repeated: Annotated[StrictInt, Field(ge=2, le=1_000_000)] | None = None
    """So many images of a class are next to one another, so that each batch of b images has b / repeated classes with as many images each;
    for losses that compare the images of a batch. Classes are equally frequent. Its images are different where a class has as many, and its
    classes where b / repeated is at most three quarters of them, or divides their number (an epoch's last batches aside)."""


class Columns(Spec):
    """Which columns of a table hold what; one that is not named is found by its type."""

    image: str | None = None
    """The images: of Hugging Face's type Image, contents of image files, paths in the data's folder, or arrays of pixels."""
    label: str | None = None
    """The labels: of Hugging Face's type ClassLabel, whole numbers or texts; with `multi_label` a list of them for each image."""


class Data(Spec):
    """Where the images come from and what happens to them before they reach the peers."""

    dataset: DatasetName = "digits"
    """Name of the data set. image_folder and image_list are files of your own; fake are random images. hfds/NAME_OR_FOLDER is a data set of
    Hugging Face `datasets`: a folder of parquet or arrow files, one such file, what `save_to_disk` wrote, or the hub's NAME, of which
    NAME:CONFIGURATION is one of several and NAME@REVISION one state. wds/PATH/{000..127}.tar are WebDataset shards. package.module:name is
    a function of yours that returns map-style Datasets."""
    args: dict[str, Any] = Field(default_factory=dict)
    """package.module:name: what the function is called with, besides those of `root`, `image_size`, `channels`, `num_classes`,
    `multi_label`, `download` and the recipe's `seed` that its signature names."""
    root: str | None = None
    """Folder of the data: for image_folder it holds train/ and val/ (see `train`), for image_list the images that the lists name; for hfds
    and wds the folder in which a relative one lies."""
    columns: Columns | None = None
    """hfds: which columns hold the images and the labels; the default finds them by their types."""
    download: StrictBool = False
    """Fetch the data set into `root` when it is not there (mnist, fashion_mnist, cifar10, cifar100)."""
    train_list: str | None = None
    """image_list: text file with a line `path label` for each training image."""
    val_list: str | None = None
    """image_list: the same for the validation images."""
    val_root: str | None = None
    """image_list: folder of the images that `val_list` names; the default is `root`."""
    delimiter: Annotated[str, Field(min_length=1, max_length=8)] | None = None
    """image_list: what stands between path and label in a line of a list; the default is a space or a tab."""
    relabel: StrictBool = False
    """image_list: class numbers need not begin with 0, nor follow on one another: those of the training images are numbered anew in their
    order, and are the classes' names."""
    class_names: str | None = None
    """image_list: a text file that names the classes: a name a line, or lines `NUMBER name`."""
    train: SplitName | None = None
    """Where the training images are. image_folder: a folder in `root`, by default `train`; `.` is `root` itself, a folder of classes that
    are not split. hfds: the split's name."""
    val: HeldOut | None = None
    """Where the validation images are, which choose the best weights: a folder, split or shards as `train` and `dataset` name them
    (image_folder: by default `val`), or a fraction of the training images, which is held out by `split_seed`, as many of each class and
    at least one. Of data sets that hold images out themselves (digits, mnist, fashion_mnist, cifar10, cifar100, fake) these are the
    validation images; with a fraction here they are the test images."""
    test: HeldOut | None = None
    """The same of the test images, which choose nothing and are scored once, at the end, by the best weights (image_list: a list as
    `val_list`). The default is none."""
    split_seed: Seed | None = None
    """Which images fractions hold out, by their names, in whatever order they are found; the default is the recipe's seed."""
    unlabelled: str | None = None
    """Files, hfds and wds: a folder of images, a text file with a path a line, or shards (`wds/...`), mixed into the training images;
    objectives that read labels pass them over (they count as 0 in a mean over all images)."""
    unlabelled_root: str | None = None
    """Folder of the images that a list in `unlabelled` names; the default is `root`."""
    label_field: str | None = None
    """wds: key of the label in the .json of each image. The default is the number in its .cls, or else `label`, `cls` or `class` of
    its .json."""
    multi_label: StrictBool = False
    """Images have several labels each: image_list then reads lines `path 0,1,1,0`, a flag for each class; hfds and wds lists of classes."""
    image_size: Size | None = None
    """Height and width in pixels (one number: square); the default is the data set's own size, 224 for folders and lists."""
    channels: Literal[1, 3] | None = None
    """1 grey, 3 colour; the default is the data set's own."""
    batch_size: BatchSize = 64
    """Images per process and micro-batch."""
    eval_batch_size: BatchSize | None = None
    """Images per process in evaluation; the default is batch_size."""
    workers: Workers | None = None
    """Loader processes for each training process; 0 loads in the training process. The default is 0 for images in memory, and for files
    one for each core of a process but one, at most 8 and one for each 16 batches of an epoch. It changes no number."""
    prefetch: Prefetch = 2
    """Batches that each loader process is ahead of the training."""
    decoded: str | None = None
    """image_folder, image_list: a folder that keeps the images decoded, as the transforms leave them that come before the first random one.
    It is made before the first update, by all cores, and serves all runs that decode and resize alike. It changes no number. `augment` is
    then null, or begins with a resize or a center_crop."""
    on_bad_image: Literal["error", "skip"] = "error"
    """An image that cannot be read ends the run (error), or the next readable image of the epoch's order stands in for it (skip);
    evaluation then leaves it out of the scores. Such files are named, once each, and counted."""
    sampler: Literal["shuffle", "balanced"] | Sampler = "shuffle"
    """Which images an epoch takes, by (seed, epoch) alone. shuffle: each once; balanced: of each class as many, and each image of a class
    before any again, also from epoch to epoch; {weights: FILE}: by weights; {repeated: k}: k images of a class next to one another. An
    image that occurs several times in an epoch is augmented differently each time."""
    epoch_size: Annotated[StrictInt, Field(gt=0, le=100_000_000)] | None = None
    """Images in an epoch; the default is as many as there are (`repeated`: as far as k divides them)."""
    subset: Positive | None = None
    """Train on this number of images only: stratified by class, drawn by the recipe's seed or by `subset_seed`."""
    subset_seed: Seed | None = None
    """Seed of the subset; the default is the recipe's seed."""
    num_train: MadeUpImages = 1024
    """fake: number of training images."""
    num_val: MadeUpImages = 256
    """fake: number of validation images."""
    num_classes: NumClasses | None = None
    """Number of classes; the default is what the data hold (fake: 10)."""
    views: Literal["shared", "per_peer"] = "shared"
    """shared: all peers see the same augmentation of an image; per_peer: one augmentation for each, from one decoding."""
    crops_per_image: Crops = 1
    """An epoch has each training image so many times, each time augmented by itself (arXiv:1901.09335), one behind the other, so that each
    is decoded once for all of them where they are in one batch. They count as images in batch_size, and in the length of an epoch."""
    augment: Augment | None = None
    """Transforms of the training images, in their order. The default only brings them to image_size, as `preprocess` does, but with the
    whole of each image in the crop. Images of data sets that are no files are resized to image_size first, unless a resize or a
    random_resized_crop begins the list. package.module:name is a transform of yours; its arguments stand beside its name."""
    preprocess: Preprocess | None = None
    """Transforms of the evaluation images: resize and center_crop only. The default brings them to image_size: folders and lists by a
    resize of the shorter side to image_size / 0.875 (of both sides where they differ) and a centre crop, other data sets by a resize."""
    normalize: Literal["auto", "none"] | Statistics = "auto"
    """What is subtracted from pixel values in 0 .. 1, and what they are then divided by. auto: the statistics of the data set (see the
    table of data sets; folders and lists have ImageNet's), brought to the number of channels; none: pixel values stay in 0 .. 1."""
    mixup: NonNegativeFloat = 0.0
    """MixUp (arXiv:1710.09412): the Beta distribution's alpha; 0 is off."""
    cutmix: NonNegativeFloat = 0.0
    """CutMix (arXiv:1905.04899): the Beta distribution's alpha; 0 is off. With mixup on too, a fair coin chooses for each pair."""
    mixup_p: Probability | None = None
    """Probability that a pair is mixed by MixUp. The default is what `cutmix_p` leaves; where neither is given, 1, or 0.5 with both on.
    What both leave of 1 are pairs that are not mixed."""
    cutmix_p: Probability | None = None
    """The same for CutMix."""

    @property
    def kind(self) -> DatasetKind:
        """What holds for every recipe with this data set."""
        return (DATASETS | DATASET_FORMS)[self.family]

    @property
    def family(self) -> str:
        """The name of the data set, or the form of its name: `hfds`, `wds` or `own`."""
        return family_of_dataset(self.dataset)

    @property
    def title(self) -> str:
        """What readers know the images by: the folder of images in files, else the data set."""
        return (Path(self.root).name if self.kind.in_files and self.root else "") or self.dataset

    @property
    def split_folders(self) -> dict[str, str]:
        """By split the folder of image_folder that holds it, in `root` or absolute; no split that is held out of the training images."""
        folders = {"train": self.train or "train", "val": "val" if self.val is None else self.val, "test": self.test}
        return {split: folder for split, folder in folders.items() if isinstance(folder, str)}

    @property
    def tests_on_official_part(self) -> bool:
        """Whether the images that a data set holds out itself are its test split, as `val` is a fraction of its training images."""
        return self.family in DATASETS and not self.kind.in_files and isinstance(self.val, float)

    @property
    def height_width(self) -> tuple[int, int]:
        """Image size as (height, width)."""
        size = self.kind.image_size if self.image_size is None else self.image_size
        return (size, size) if isinstance(size, int) else size

    @property
    def group_size(self) -> int:
        """So many images of a class are next to one another in an epoch's order."""
        return (self.sampler.repeated or 1) if isinstance(self.sampler, Sampler) else 1

    @property
    def num_channels(self) -> Literal[1, 3]:
        """Channels of the images."""
        return self.channels or self.kind.channels

    @property
    def statistics(self) -> Statistics:
        """What `normalize` says; for auto, the data set's statistics brought to the number of channels."""
        if isinstance(self.normalize, Statistics):
            return self.normalize
        if self.normalize == "none":
            return Statistics(mean=(0.0,) * self.num_channels, std=(1.0,) * self.num_channels)
        mean, std = self.kind.mean, self.kind.std
        if len(mean) == self.num_channels:
            return Statistics(mean=mean, std=std)
        if self.num_channels == 3:
            return Statistics(mean=mean * 3, std=std * 3)
        grey_mean, grey_std = (sum(weight * value for weight, value in zip(LUMA, values, strict=True)) for values in (mean, std))
        return Statistics(mean=(grey_mean,), std=(grey_std,))

    @property
    def mix_probabilities(self) -> tuple[float, float]:
        """The probabilities that a pair of images is mixed by MixUp, and by CutMix."""
        given = {name: getattr(self, f"{name}_p") for name in ("mixup", "cutmix") if getattr(self, name) > 0}
        unsaid = [name for name, probability in given.items() if probability is None]
        rest = max(0.0, 1 - sum(filter(None, given.values())))
        given |= dict.fromkeys(unsaid, rest / max(1, len(unsaid)))
        return given.get("mixup", 0.0), given.get("cutmix", 0.0)

    @property
    def filled_augment(self) -> list[Transform] | None:
        """The transforms of `augment`, with the data's statistics in those that take their colours from them by default."""
        mean, std = self.statistics.mean, self.statistics.std
        fill = tuple(min(255, max(0, round(255 * value))) for value in mean)
        filled: list[Transform] = []
        for transform in self.augment or ():
            update: dict[str, Any] = {}
            if isinstance(transform, TimmAugment) and transform.fill is None:
                update = {"fill": fill}
            elif isinstance(transform, RandomErasing) and transform.value in ("normal", "normal_color"):
                update = {"mean": transform.mean or mean, "std": transform.std or std}
            filled.append(transform.model_copy(update=update))
        return None if self.augment is None else filled

    @property
    def has_users_transforms(self) -> bool:
        """Whether `augment` names transforms of the user's own."""
        return len(self.last_transforms) < len(self.augment or ())

    @property
    def last_transforms(self) -> list[Spec]:
        """The transforms of `augment` behind the last one of the user's own; all where none is."""
        transforms: list[Spec] = list(self.augment or ())
        own = [index for index, transform in enumerate(transforms) if isinstance(transform, UsersTransform)]
        return transforms[own[-1] + 1 :] if own else transforms

    def without_users_transforms(self) -> Data:
        """Returns this section with an `augment` that gives images of the same size, and needs no code of the user's."""
        if not self.has_users_transforms:
            return self
        return self.model_copy(update={"augment": [Resize(name="resize"), *self.last_transforms]})

    def resolved(self, *, seed: int) -> Data:
        """Returns this section with what null and auto stand for, as far as it follows from the recipe; `seed` is the recipe's."""
        update: dict[str, object] = {
            "image_size": self.image_size or self.kind.image_size,
            "channels": self.num_channels,
            "normalize": self.statistics,
        }
        update["eval_batch_size"] = self.eval_batch_size or self.batch_size
        if self.subset is not None and self.subset_seed is None:
            update["subset_seed"] = seed
        if self.split_seed is None and any(isinstance(part, float) for part in (self.val, self.test)):
            update["split_seed"] = seed
        return self.model_copy(update=update)
