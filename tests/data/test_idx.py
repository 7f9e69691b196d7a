"""IDX files, of MNIST and its like: read where they lie, and refused in a line when they are damaged or hostile."""

import gzip
import struct
import time

import numpy as np
import pytest
import torch

from mutual.data import build_data
from mutual.recipe import Data


def build(**fields):
    return build_data(Data(**fields), seed=0)


def write_idx(path, array, compress):
    content = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}i", *array.shape) + array.astype(np.uint8).tobytes()
    (path.with_name(path.name + ".gz") if compress else path).write_bytes(gzip.compress(content) if compress else content)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("folder", [".", "FashionMNIST/raw"])
def test_idx_files_are_read_where_they_lie(tmp_path, compress, folder):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (20, 28, 28))
    place = tmp_path / folder
    place.mkdir(parents=True, exist_ok=True)
    for part in ("train", "t10k"):
        write_idx(place / f"{part}-images-idx3-ubyte", images, compress)
        write_idx(place / f"{part}-labels-idx1-ubyte", np.arange(20) % 10, compress)
    data = build(dataset="fashion_mnist", root=str(tmp_path), batch_size=20)
    found = next(data.train_windows(0, world_size=1, shard=(0, 1), accumulate=1)).batches[0].images
    assert data.info.class_names[9] == "Ankle boot"
    assert torch.equal(found.sum(dim=(1, 2, 3)).sort().values, torch.from_numpy(images).sum(dim=(1, 2)).sort().values)


def header(*sizes, kind=8):
    return struct.pack(">HBB", 0, kind, len(sizes)) + struct.pack(f">{len(sizes)}I", *sizes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it begins with , not with 00000803"),
        (b"no IDX file", "it begins with 6e6f2049, not with 00000803"),
        (header(20), "it begins with 00000801, not with 00000803"),
        (header(20, 28, 28, kind=13) + bytes(4 * 20 * 784), "it begins with 00000d03"),
        (header(20, 28, 28)[:9], "it ends within its header"),
        (header(20, 28, 28) + bytes(100), "announces 20 x 28 x 28 bytes|fewer bytes than the 15,680"),
        (header(20, 28, 28) + bytes(15_681), "it holds more bytes than the 15,680"),
        (header(2**32 - 1, 2**32 - 1, 2**32 - 1) + bytes(20_000), "announces 4294967295 x"),
        (header(0, 28, 28), "announces 0 x 28 x 28 bytes"),
    ],
    ids=["empty", "text", "labels", "floats", "cut header", "cut", "longer", "huge", "none"],
)
@pytest.mark.parametrize("compress", [True, False])
def test_a_damaged_idx_file_is_one_line(tmp_path, content, message, compress):
    name = tmp_path / f"train-images-idx3-ubyte{'.gz' if compress else ''}"
    name.write_bytes(gzip.compress(content) if compress else content)
    with pytest.raises(ValueError, match=rf"{name.name} is no whole IDX file: .*({message})"):
        build(dataset="mnist", root=str(tmp_path))


def test_a_gzip_bomb_and_damaged_gzips_are_refused_at_once(tmp_path):
    name = tmp_path / "train-images-idx3-ubyte.gz"
    bomb = gzip.compress(header(3_000_000, 28, 28) + bytes(10**8))
    whole = gzip.compress(header(20, 28, 28) + np.random.default_rng(0).bytes(15_680))
    for content in (bomb, whole[:-9], whole[:400], b"\x1f\x8b" + whole[2:50], whole[:300] + bytes(100) + whole[400:]):
        name.write_bytes(content)
        begun = time.perf_counter()
        with pytest.raises(ValueError, match="is no whole IDX file: ") as caught:
            build(dataset="mnist", root=str(tmp_path))
        assert "\n" not in str(caught.value)
        assert time.perf_counter() - begun < 2


def test_labels_beyond_the_data_sets_classes_are_refused(tmp_path):
    for part in ("train", "t10k"):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", np.zeros((20, 28, 28)), compress=True)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", np.arange(20), compress=True)
    with pytest.raises(ValueError, match="the train labels go up to 19, MNIST has 10 classes"):
        build(dataset="mnist", root=str(tmp_path))
