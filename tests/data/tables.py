"""Small data sets of Hugging Face `datasets`, as tests need them, and reading them."""

import io
import shutil

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mutual.data.datasets.readers import read_splits
from mutual.recipe import Data

FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "owl"])})


def png(value):
    """The content of a grey image of 8 x 8 pixels of this value."""
    content = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, dtype=np.uint8)).save(content, "PNG")
    return content.getvalue()


def encoded(values):
    return [{"bytes": png(value), "path": f"{value}.png"} for value in values]


def table(number, *, first=0, features=FEATURES, **columns):
    """Images whose values count from `first`, of three classes in turn; `columns` stand beside or in place of these."""
    values = range(first, first + number)
    content = {"image": encoded(values), "label": [value % 3 for value in values], **columns}
    if features is not None:
        features = datasets.Features({name: features[name] for name in content if name in features})
        known = {name: datasets.Dataset.from_dict({name: content[name]}).features[name] for name in content if name not in features}
        features = datasets.Features({**features, **known})
    return datasets.Dataset.from_dict(content, features=features)


def write_parquet(folder, number=12, num_val=6, **columns):
    """A folder of train and validation images in parquet files."""
    folder.mkdir(parents=True, exist_ok=True)
    table(number, **columns).to_parquet(folder / "train-00000-of-00001.parquet")
    table(num_val, first=100, **columns).to_parquet(folder / "validation-00000-of-00001.parquet")
    return folder


PLAIN = {"image": [png(0), png(1), png(2)], "label": [0, 1, 2]}


def plain(folder, **columns):
    """A parquet file of three rows without what `datasets` knows of types."""
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({key: value for key, value in {**PLAIN, **columns}.items() if value is not None}), folder / "train.parquet")
    shutil.copy(folder / "train.parquet", folder / "test.parquet")
    return folder


def data_of(place, **fields):
    return Data(**{"dataset": f"hfds/{place}", "channels": 1, "image_size": 8, **fields})


def read(place, **fields):
    return read_splits(data_of(place, **fields))


def values(split):
    """The grey of each image."""
    return [int(split.image(index).unique()) for index in range(len(split.labels))]


def refusal(place, **fields):
    """What is told of a data set that is refused."""
    with pytest.raises(ValueError, match=r".") as caught:
        read(place, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)
