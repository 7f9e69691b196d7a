"""data.decoded: images that are kept decoded change no number, are made once, and are whole or made anew."""

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from support import build, tiny_document

import mutual.data.transforms.v2  # noqa: F401, what the forked processes would take seconds for
from mutual.data import ImageError, build_data
from mutual.data.datasets.splits import FileSplit
from mutual.data.files import image_store
from mutual.data.files.image_store import MARK, ImageBlock, ImageStore, ImageWriter, locked_folder
from mutual.data.loading import decoded as decoded_module
from mutual.recipe import Data, InputError, RecipeError, parse_recipe

PIPELINES = {
    "null": None,
    "of several sizes": [{"name": "resize", "size": 14, "mode": "shorter"}, {"name": "random_resized_crop", "size": 10}, "horizontal_flip"],
    "of one size": [{"name": "resize", "size": 12}, {"name": "random_crop", "size": 10}, {"name": "color_jitter", "brightness": 0.3}],
    "cropped": [{"name": "resize", "size": 12}, {"name": "center_crop", "size": 10}, "horizontal_flip"],
    "without resize": [{"name": "center_crop", "size": 10}, {"name": "trivial_augment"}],
}
RANKS = {"world_size": 1, "shard": (0, 1)}


@pytest.fixture
def root(tmp_path):
    """Grey and coloured images of several sizes and formats, large JPEGs among them, and one that is damaged."""
    noise = np.random.default_rng(0)
    for side, number in (("train", 17), ("val", 5)):
        for index in range(number):
            path = tmp_path / "data" / side / f"class{index % 2}" / f"{index:02}{('.jpg', '.png')[index % 3 > 0]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            shape = (20 + index, 31 - index, 3)[: 2 + index % 2]
            shape = (160, 130, 3) if index % 6 == 0 else shape
            Image.fromarray(noise.integers(0, 256, shape, dtype=np.uint8)).save(path)
    (tmp_path / "data/train/class1/03.jpg").write_bytes(b"none")
    return tmp_path / "data"


def module(root, **fields):
    defaults = {"image_size": 10, "batch_size": 4, "normalize": "none", "on_bad_image": "skip", "workers": 0}
    data = build_data(Data(dataset="image_folder", root=str(root), **{**defaults, **fields}), seed=0)
    data.keep_decoded()
    return data


def pixels_of(data, epoch=0):
    windows = list(data.train_windows(epoch, **RANKS, accumulate=1))
    batches = [batch for window in windows for batch in window.batches] + list(data.eval_batches(**RANKS))
    data.close()
    return torch.cat([batch.images.flatten() for batch in batches]), data.take_bad_images()


def assert_same(one, other, epoch=0):
    (found, bad), (expected, also_bad) = pixels_of(one, epoch), pixels_of(other, epoch)
    assert torch.equal(found, expected)
    assert bad == also_bad


def count_decodings(monkeypatch):
    found, original = [], FileSplit.source
    monkeypatch.setattr(FileSplit, "source", lambda self, index: found.append(self.name(index)) or original(self, index))
    return found


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_decoded_images_change_no_number(root, tmp_path, pipeline, channels, monkeypatch):
    fields = {"augment": PIPELINES[pipeline], "channels": channels}
    kept = module(root, decoded=str(tmp_path / "kept"), **fields)
    for epoch in (0, 2):
        assert_same(kept, module(root, **fields), epoch)
    found = count_decodings(monkeypatch)
    again = module(root, decoded=str(tmp_path / "kept"), **fields)
    found.clear()  # a first image of each split goes through the transforms before
    pixels_of(again)
    assert {name.rpartition("/")[2] for name in found} <= {"03.jpg"}, "only what could not be decoded is read again"


def test_workers_make_and_read_the_same(root, tmp_path):
    kept = module(root, decoded=str(tmp_path / "kept"), workers=2)
    assert_same(kept, module(root))
    assert multiprocessing.active_children() == []


def test_a_peer_of_a_larger_input_reads_its_own_images(root, tmp_path):
    def loaded(**fields):
        data = build_data(
            Data(dataset="image_folder", root=str(root), image_size=10, batch_size=4, workers=0, on_bad_image="skip", **fields), seed=0
        )
        data.load_for([(3, 13, 13)])
        data.keep_decoded()
        return data

    module(root, decoded=str(tmp_path / "kept"))
    kept = loaded(decoded=str(tmp_path / "kept"))
    assert_same(kept, loaded())
    assert len(list((tmp_path / "kept").iterdir())) == 4


def test_unlabelled_images_are_kept_with_the_others(root, tmp_path):
    shutil.copytree(root / "val", tmp_path / "more")
    fields = {"unlabelled": str(tmp_path / "more"), "crops_per_image": 2}
    assert_same(module(root, decoded=str(tmp_path / "kept"), **fields), module(root, **fields))


def test_an_image_that_cannot_be_read_is_the_same_error(root, tmp_path):
    lines = []
    for fields in ({}, {"decoded": str(tmp_path / "kept")}):
        with pytest.raises(ImageError) as caught:
            pixels_of(module(root, on_bad_image="error", **fields))
        lines.append(str(caught.value))
    assert lines[0] == lines[1]


def test_other_files_sizes_and_transforms_have_folders_of_their_own(root, tmp_path):
    kept = tmp_path / "kept"

    def names(**fields):
        module(root, decoded=str(kept), **fields)
        return {path.name for path in kept.iterdir()}

    first = names()
    assert len(first) == 2
    assert (
        names()
        == names(batch_size=2, augment=[{"name": "resize", "size": 11, "mode": "shorter"}, "center_crop", "horizontal_flip"][:0] or None)
        == first
    )
    assert len(names(augment=[{"name": "resize", "size": 12}, "center_crop"])) == 3
    assert len(names(channels=1)) == 5
    os.utime(root / "train/class0/00.jpg", ns=(1, 1))
    assert len(names()) == 6, "that of the validation images is the same"
    shutil.copytree(root, tmp_path / "moved")
    module(tmp_path / "moved", decoded=str(kept))
    assert len(list(kept.iterdir())) == 6, "moved with their times they are the same files"


@pytest.mark.parametrize("cut", [0, 1, 5, 100, 10_000])
def test_what_a_cut_leaves_is_gone_on_with(root, tmp_path, cut, monkeypatch):
    monkeypatch.setattr(decoded_module, "_BLOCK", 2)
    monkeypatch.setattr(image_store, "_SYNCED_BYTES", 1)
    expected = module(root, decoded=str(tmp_path / "whole"))
    append, blocks = ImageWriter.append, []

    def stop(self, block):
        blocks.append(block)
        append(self, block)
        if len(blocks) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(ImageWriter, "append", stop)
    with pytest.raises(KeyboardInterrupt):
        module(root, decoded=str(tmp_path / "cut"))
    monkeypatch.setattr(ImageWriter, "append", append)
    (folder,) = (tmp_path / "cut").iterdir()
    for name in ("images.bin", "table.bin"):
        path = folder / name
        size = path.stat().st_size
        assert size > 0
        os.truncate(path, max(0, size - cut))
    assert not (folder / "complete.json").exists()
    assert_same(module(root, decoded=str(tmp_path / "cut")), expected)
    for one, other in zip(sorted((tmp_path / "cut").iterdir()), sorted((tmp_path / "whole").iterdir()), strict=True):
        assert {path.name: path.read_bytes() for path in one.iterdir()} == {path.name: path.read_bytes() for path in other.iterdir()}


def test_a_torn_last_image_is_decoded_again(root, tmp_path, monkeypatch):
    monkeypatch.setattr(ImageWriter, "complete", lambda self: self._sync() or (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        module(root, decoded=str(tmp_path / "cut"))
    monkeypatch.undo()
    (folder,) = (tmp_path / "cut").iterdir()
    content = bytearray((folder / "images.bin").read_bytes())
    content[-1] ^= 1
    (folder / "images.bin").write_bytes(content)
    found = count_decodings(monkeypatch)
    assert_same(module(root, decoded=str(tmp_path / "cut")), module(root))
    assert any("15.jpg" in name or "16.png" in name for name in found)


def entry(kept, side="train"):
    (folder,) = kept.glob(f"{side}-*")
    return folder


def damage_table(folder):
    content = bytearray((folder / "table.bin").read_bytes())
    content[9] ^= 1
    (folder / "table.bin").write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (
            lambda folder: os.truncate(folder / "images.bin", 10),
            r"train-\w+ is damaged: its files are not those that were written; remove it",
        ),
        (damage_table, r"train-\w+ is damaged: its files are not"),
        (lambda folder: (folder / MARK).write_text("{}"), r"\.mutual-decoded\.json is damaged: .*remove the folder"),
        (lambda folder: (folder / MARK).write_text("no JSON"), r"\.mutual-decoded\.json is damaged"),
        (lambda folder: (folder / MARK).unlink(), r"train-\w+ holds files and no decoded images"),
        (lambda folder: (folder / "complete.json").write_text("{"), r"train-\w+ is damaged"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line_and_left_as_it_is(root, tmp_path, harm, line):
    module(root, decoded=str(tmp_path / "kept"))
    folder = entry(tmp_path / "kept")
    harm(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError, match=line) as caught:
        module(root, decoded=str(tmp_path / "kept"))
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_bit_that_has_changed_ends_the_run_in_a_line(root, tmp_path):
    data = module(root, decoded=str(tmp_path / "kept"))
    path = entry(tmp_path / "kept") / "images.bin"
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match="a decoded image is damaged; remove the folder"):
        pixels_of(data)


def test_a_folder_whose_mark_was_not_finished_is_filled(root, tmp_path):
    module(root, decoded=str(tmp_path / "kept"))
    folder = entry(tmp_path / "kept")
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / f".unfinished-{MARK}").write_text("{")  # its process was killed there
    module(root, decoded=str(tmp_path / "kept"))
    assert (folder / "complete.json").exists()


def test_files_of_others_are_neither_written_nor_removed(root, tmp_path):
    module(root, decoded=str(tmp_path / "kept"))
    folder = entry(tmp_path / "kept")
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "images.bin").write_text("mine")
    with pytest.raises(InputError, match="holds files and no decoded images"):
        module(root, decoded=str(tmp_path / "kept"))
    assert [path.name for path in folder.iterdir()] == ["images.bin"]


def test_a_disk_that_is_too_small_is_refused_before_anything_is_decoded(root, tmp_path, monkeypatch):
    monkeypatch.setattr(decoded_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"17 decoded images take about 4\.8 kB, and 1 kB are free") as caught:
        module(root, decoded=str(tmp_path / "kept"))
    assert caught.value.errno == errno.ENOSPC
    assert (entry(tmp_path / "kept") / "images.bin").stat().st_size == 0


def test_a_disk_that_fills_up_leaves_what_is_whole(root, tmp_path, monkeypatch):
    monkeypatch.setattr(decoded_module, "_BLOCK", 2)
    write, writes = image_store._write, []

    def full(descriptor, content):
        writes.append(content)
        if len(writes) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(descriptor, content)

    monkeypatch.setattr(image_store, "_write", full)
    with pytest.raises(OSError, match=r"No space left on device: .*kept/train-"):
        module(root, decoded=str(tmp_path / "kept"))
    monkeypatch.setattr(image_store, "_write", write)
    folder = entry(tmp_path / "kept")
    assert (folder / "images.bin").stat().st_size == (folder / "table.bin").stat().st_size == 0
    assert_same(module(root, decoded=str(tmp_path / "kept")), module(root))


def test_the_size_is_said_before(root, tmp_path, capsys):
    module(root, decoded=str(tmp_path / "kept"))
    said = capsys.readouterr().err
    assert "17 decoded images take about 4.8 kB in " in said
    module(root, decoded=str(tmp_path / "kept"))
    assert capsys.readouterr().err == ""


def make(root, kept, queue):
    complete, completed = ImageWriter.complete, []
    ImageWriter.complete = lambda self: time.sleep(0.5) or completed.append(self) or complete(self)  # the others come meanwhile
    data = module(root, decoded=str(kept))
    queue.put((len(completed), pixels_of(data)[0].sum().item()))


def test_a_disk_without_locks_is_refused_in_a_line(root, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(image_store.fcntl, "flock", flock)
    with pytest.raises(OSError, match=r"No locks available: .*kept/train-"):
        module(root, decoded=str(tmp_path / "kept"))


@pytest.mark.slow
def test_several_processes_make_it_once(root, tmp_path, capfd):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=make, args=(root, tmp_path / "kept", queue)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert len({total for _, total in found}) == 1
    assert sum(made for made, _ in found) == 2
    said = capfd.readouterr().err
    assert said.count("decoded images take about") == 2
    assert "waiting for the process that decodes images into" in said


@pytest.mark.slow
def test_one_that_is_killed_lets_the_next_go_on(root, tmp_path, monkeypatch):
    monkeypatch.setattr(decoded_module, "_BLOCK", 1)
    monkeypatch.setattr(image_store, "_SYNCED_BYTES", 1)
    append = ImageWriter.append
    monkeypatch.setattr(ImageWriter, "append", lambda self, block: time.sleep(0.05) or append(self, block))
    context = multiprocessing.get_context("fork")
    process = context.Process(target=make, args=(root, tmp_path / "kept", context.Queue()))
    process.start()
    while not list((tmp_path / "kept").glob("train-*/table.bin")) or entry(tmp_path / "kept").joinpath("table.bin").stat().st_size < 100:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    before = entry(tmp_path / "kept").joinpath("table.bin").read_bytes()
    assert_same(module(root, decoded=str(tmp_path / "kept")), module(root))
    assert entry(tmp_path / "kept").joinpath("table.bin").read_bytes().startswith(before[: len(before) // 28 * 28])


def test_an_image_comes_back_with_its_strides(tmp_path):
    images = [
        torch.arange(24, dtype=torch.uint8).view(2, 4, 3).permute(2, 0, 1),
        torch.arange(24, dtype=torch.uint8).view(3, 2, 4),
        None,
        torch.arange(24, dtype=torch.uint8).view(1, 4, 6),
        torch.arange(48, dtype=torch.uint8).view(3, 4, 4)[:, ::2],
    ]
    with locked_folder(tmp_path / "kept", {"some": "images"}):
        writer = ImageWriter(tmp_path / "kept")
        writer.append(ImageBlock(images[:3]))
        writer.append(ImageBlock(images[3:]))
        assert writer.num_images == 5
        writer.complete()
        writer.close()
    store = ImageStore(tmp_path / "kept", 5)
    for each in (store, pickle.loads(pickle.dumps(store))):
        assert each.image(2) is None
        for index in (4, 0, 1, 3):
            assert torch.equal(each.image(index), images[index])
        for index in (0, 1, 3):
            assert each.image(index).stride() == images[index].stride()
    with pytest.raises(InputError, match="is damaged"):
        ImageStore(tmp_path / "kept", 6)
    assert json.loads((tmp_path / "kept" / MARK).read_bytes()) == {"some": "images"}


def test_a_recipe_that_keeps_nothing_is_refused_in_a_line():
    def parsed(**data):
        return parse_recipe(tiny_document(data={"dataset": "image_folder", "root": "photos", "decoded": "kept", **data}))

    def refused(**data):
        with pytest.raises(RecipeError) as caught:
            parsed(**data)
        return str(caught.value)

    assert "data.decoded: keeps images of files decoded (image_folder, image_list), not digits" in refused(dataset="digits", root=None)
    assert "begin data.augment with a resize" in refused(augment=["random_resized_crop"])
    assert "before horizontal_flip" in refused(augment=["horizontal_flip", "center_crop"])
    assert "names no folder" in refused(decoded=" ")
    assert "data.decoded: keeps images of files decoded, and data.unlabelled names shards (wds/x.tar)" in refused(unlabelled="wds/x.tar")
    parsed(augment=["center_crop", "random_erasing"])


def test_a_training_makes_and_reads_it(root, tmp_path):
    data = {"dataset": "image_folder", "root": str(root), "image_size": 8, "on_bad_image": "skip", "workers": 0, "channels": 1}
    document = tiny_document(data={**data, "decoded": str(tmp_path / "kept"), "augment": ["center_crop", "horizontal_flip"]})
    _, kept, *_ = build(document)
    assert len(list((tmp_path / "kept").glob("*/complete.json"))) == 2
    shutil.rmtree(root / "val")
    assert len(list(kept.eval_batches(**RANKS))) == 1, "the files are read no longer"


@pytest.mark.parametrize("name", ["images.bin", "table.bin"])
def test_a_link_in_a_prepared_folder_is_neither_followed_nor_cut(root, tmp_path, name):
    module(root, decoded=str(tmp_path / "kept"))
    folder = entry(tmp_path / "kept")
    for each in ("images.bin", "table.bin", "complete.json"):
        (folder / each).unlink()
    (tmp_path / "precious").write_text("precious")
    (folder / name).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=r"train-\w+/" + name):
        module(root, decoded=str(tmp_path / "kept"))
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_row_that_says_no_size_of_an_image_ends_the_run_in_a_line(tmp_path):
    (tmp_path / "images.bin").write_bytes(b"1234")
    rows = np.array([(2, 1, 2, 2, 0, 0)], image_store._ROW)
    (tmp_path / "table.bin").write_bytes(rows.tobytes())
    (tmp_path / "complete.json").write_text(json.dumps(image_store._summary(rows, 4)))
    with pytest.raises(InputError, match="is damaged"):
        image_store.ImageStore(tmp_path, 1)
