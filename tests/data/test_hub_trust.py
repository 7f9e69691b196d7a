"""`hfds/...`: what a data set says is not trusted: it chooses no files and no code, and what is damaged ends no process."""

import json
import re

import datasets
import numpy as np
import pyarrow as pa
import pytest
from tables import FEATURES, PLAIN, data_of, encoded, plain, png, read, refusal, table, write_parquet

from mutual.data import ImageError, build_data

pytestmark = pytest.mark.usefixtures("hub_cache")


def paths(folder, *names):
    """A table of a content and of images that are files in its folder."""
    images = [{"bytes": png(0), "path": "/home/me/x.png"}, *({"bytes": None, "path": name} for name in names)]
    return plain(folder, image=images, label=[0] * len(images))


def test_files_in_the_folder_are_read(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1..2.png").write_bytes(png(7))
    folder = paths(tmp_path, "pictures/1..2.png", "pictures/none.png")
    split = read(folder).train
    assert [int(split.image(index).unique()) for index in (0, 1)] == [0, 7]
    with pytest.raises(ImageError, match=r"pictures/none.png is no image that can be read: there is no such file"):
        split.image(2)
    named = read(plain(tmp_path / "named", image=["a.png", "b.png", "c.png"]), columns={"image": "image"})
    (tmp_path / "named" / "b.png").write_bytes(png(9))
    assert int(named.train.image(1).unique()) == 9


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../secret.png",
        "a/../../secret.png",
        "https://example.com/x.png",
        "file:///etc/passwd",
        "~/x.png",
        "zip://a.png::b.zip",
        "..\\secret.png",
        "C:\\x.png",
        "\\\\host\\x.png",
        "a.png\0",
    ],
)
def test_files_elsewhere_are_never_read(name, tmp_path):
    folder = paths(tmp_path, "good.png", name)
    line = refusal(folder)
    assert line.startswith(f"train in hfds/{tmp_path}: 1 images are not in it: its file ")
    assert line.endswith(f"would lie outside {tmp_path}; name files by their paths in that folder")


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    (tmp_path / "secret.png").write_bytes(png(1))
    folder = paths(tmp_path / "data", "link.png", "inner.png", "circle.png")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "inner.png").symlink_to(folder / "real.png")
    (folder / "real.png").write_bytes(png(2))
    split = read(folder).train
    with pytest.raises(ImageError, match=r"its file 'link.png' is a link out of .*; it is not read"):
        split.image(1)
    assert int(split.image(2).unique()) == 2
    with pytest.raises(ImageError, match=r"circle.png is no image that can be read: Too many levels of symbolic links"):
        split.image(3)


@pytest.mark.parametrize("part", ["offsets", "text"])
def test_a_damaged_table_ends_no_process(part, tmp_path):
    """Positions beyond a column's end would be read from wherever they point to."""
    positions = np.array([0, 5, 10**9, 15] if part == "offsets" else [0, 5, 10, 15], dtype=np.int32)
    content = pa.py_buffer(b"12345" * 3 if part == "offsets" else b"\xff\xfe" * 8)
    kind = pa.binary() if part == "offsets" else pa.string()
    column = pa.Array.from_buffers(kind, 3, [None, pa.py_buffer(positions), content])
    datasets.DatasetDict(train=table(3), test=table(3)).save_to_disk(str(tmp_path))
    whole = pa.table({"image": column if part == "offsets" else PLAIN["image"], "label": [0, 1, 2] if part == "offsets" else column})
    for name in ("train", "test"):
        (file,) = (tmp_path / name).glob("*.arrow")
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, whole.schema) as writer:
            writer.write_table(whole)
        info = tmp_path / name / "dataset_info.json"
        info.write_text(json.dumps({"features": datasets.Features.from_arrow_schema(whole.schema).to_dict()}))
    assert re.search(r"hfds/.* is damaged: .+", refusal(tmp_path))


def test_images_that_are_missing_are_named(tmp_path):
    split = read(plain(tmp_path, image=[{"bytes": png(0), "path": "0.png"}, None, {"bytes": None, "path": None}])).train
    for index in (1, 2):
        with pytest.raises(ImageError, match=rf"image {index} of train in .*: it has no content"):
            split.image(index)
    assert len(list(split.portable_names())) == 3


def test_sound_is_no_image(tmp_path):
    features = datasets.Features(
        {"label": FEATURES["label"], "sound": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}}
    )
    each = datasets.Dataset.from_dict({"label": [0, 1], "sound": encoded([1, 2])}, features=features)
    each = datasets.Dataset(each.data, info=datasets.DatasetInfo(features=datasets.Features({**features, "sound": datasets.Audio()})))
    each.save_to_disk(str(tmp_path))
    assert "has no column of type image" in refusal(tmp_path, val=0.5)


def test_nothing_that_a_data_set_says_is_run_or_followed(tmp_path):
    """A loading script, and a README that names other files, are passed over."""
    write_parquet(tmp_path / "data")
    (tmp_path / "data" / "data.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    table(3).to_parquet(tmp_path / "other.parquet")
    (tmp_path / "data" / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: ../other.parquet\n---\n")
    assert len(read(tmp_path / "data").train.labels) == 12
    assert not (tmp_path / "executed").exists()


def saved(folder):
    datasets.DatasetDict(train=table(12), validation=table(6, first=100)).save_to_disk(str(folder))


def test_a_saved_data_set_cannot_name_files_elsewhere(tmp_path):
    saved(tmp_path / "saved")
    table(3).save_to_disk(str(tmp_path / "other"))
    state = tmp_path / "saved" / "train" / "state.json"
    state.write_text(state.read_text().replace("data-00000", "../../other/data-00000"))
    assert "which lies elsewhere; it is not read" in refusal(tmp_path / "saved")
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["../other"]}')
    assert "has a split called '../other', which is no name" in refusal(tmp_path / "saved")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_is_named_or_has_a_substitute(workers, tmp_path):
    broken = encoded(range(12))
    broken[4] = {"bytes": broken[4]["bytes"][:40], "path": None}
    broken[7] = {"bytes": b"", "path": None}
    write_parquet(tmp_path, num_val=12, image=broken)
    fields = {"batch_size": 4, "workers": workers, "val": 0.2}
    with pytest.raises(ImageError, match=rf"image [47] of train in hfds/{tmp_path} is no image .*data.on_bad_image: skip"):
        list(build_data(data_of(tmp_path, **fields), seed=0).train_windows(0, world_size=1, shard=(0, 1), accumulate=1))
    data = build_data(data_of(tmp_path, **{**fields, "on_bad_image": "skip"}), seed=0)
    list(data.train_windows(0, world_size=1, shard=(0, 1), accumulate=1))
    data.close()
    assert set(data.take_bad_images()["train"]) <= {f"image {row} of train in hfds/{tmp_path}" for row in (4, 7)}
