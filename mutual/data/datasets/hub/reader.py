"""The reader of `hfds/NAME_OR_FOLDER`: a data set of Hugging Face `datasets`, its splits by their names, its columns by their types."""

from __future__ import annotations

from mutual.data.datasets.hub.columns import LabelColumn, image_column, label_column, read_labels
from mutual.data.datasets.hub.source import Tables, open_tables
from mutual.data.datasets.hub.table_split import TableSplit, table_split
from mutual.data.datasets.splits import ReadSplits
from mutual.recipe import Data, did_you_mean, format_value
from mutual.recipe.data import Columns

_TRAIN = ("train", "training")
_VAL = ("validation", "valid", "val", "dev", "eval", "evaluation", "test", "testing")


def read_hub(data: Data) -> ReadSplits:
    """Returns the data set that `data` names.

    Raises:
        ValueError: it is not there, or is not as it should be; one line says what to do.
        OSError: the disk or the machine failed.
    """
    tables = open_tables(data)
    train, val, test = (_chosen_split(tables, data, key) for key in ("train", "val", "test"))
    assert train is not None, "there is always one"
    columns = data.columns or Columns()
    dataset = tables.splits[train]
    image = image_column(dataset, columns.image, data.dataset)
    label = label_column(dataset, columns.label, data.dataset, several=data.multi_label)

    def read(split: str, num_classes: int | None) -> TableSplit:
        return _read_split(tables, split, image, label, data, num_classes=num_classes)

    train_split = read(train, data.num_classes)
    class_names = label.class_names
    if class_names is None:
        class_names = tuple(map(str, range(int(train_split.labels.max()) + 1)))
    num_classes = data.num_classes or len(class_names)
    val_split, test_split = (None if split is None else read(split, num_classes) for split in (val, test))
    return ReadSplits(train_split, val_split, class_names, test_split)


def _chosen_split(tables: Tables, data: Data, key: str) -> str | None:
    """Returns the name of the split that is `data.KEY`, or None where there is none, or it is a fraction of the training images.

    Raises:
        ValueError: there is no split of the name that is given, or it is the split of another key, too.
    """
    named, splits = getattr(data, key), tables.splits
    others = [other for part in ("train", "val", "test") if part != key and isinstance(other := getattr(data, part), str)]
    if isinstance(named, str):
        if named not in splits:
            raise ValueError(f"data.{key}: {data.dataset} has no split {format_value(named)}{did_you_mean(named, splits)}")
        if named in others:
            raise ValueError(f"data.{key}: the split {format_value(named)} is named twice; give each key its own")
        return named
    if isinstance(named, float) or key == "test":
        return None
    found = next((name for name in (_TRAIN if key == "train" else _VAL) if name in splits and name not in others), None)
    if key == "train" and found is None:
        if len(splits) > 1:
            raise ValueError(f"{data.dataset} has no split train; name one in data.train{did_you_mean('train', splits)}")
        return next(iter(splits))
    return found


def _read_split(tables: Tables, split: str, image: str, label: LabelColumn, data: Data, *, num_classes: int | None) -> TableSplit:
    title, dataset = f"{split} in {data.dataset}", tables.splits[split]
    if not len(dataset):
        raise ValueError(f"{title} holds no image; name another split in data.train, data.val or data.test")
    labels = read_labels(dataset, label, title, num_classes=num_classes)
    if image not in dataset.column_names:
        raise ValueError(f"{title} has no column {format_value(image)}, which holds the training images")
    return table_split(dataset.data, image, labels, channels=data.num_channels, title=title, folder=tables.folder)
