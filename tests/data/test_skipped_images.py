"""data.on_bad_image: an unreadable image is an error that says where, or others stand in for it by (seed, epoch, index) alone."""

import errno
import multiprocessing
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from support import inputs_of, run
from torchvision.transforms.v2 import RandomCrop

import mutual.data.loading.images
from mutual.data import ImageError, build_data
from mutual.data.loading.plan import epoch_order
from mutual.data.loading.views import TransformError
from mutual.recipe import Data

BAD = (3, 4, 17, 22)
"""Numbers of the damaged training images; two of them follow each other in the folder."""
AUGMENT = [{"name": "random_crop", "size": 8, "padding": 1}, {"name": "color_jitter", "brightness": 0.3}]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """30 training images of 3 classes, each of one grey that is its number, and 9 validation images of which two are damaged."""
    folder = tmp_path_factory.mktemp("data")
    for part, number in (("train", 30), ("val", 9)):
        for index in range(number):
            place = folder / part / f"class{index * 3 // number}" / f"{index:02}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), index * 4).save(place)
            if part == "train" and index in BAD:
                place.write_bytes(place.read_bytes()[:50])
            if part == "val" and index in (1, 5):
                place.write_bytes(b"")
    return folder


def module(root, **fields):
    defaults = {"dataset": "image_folder", "image_size": 8, "channels": 1, "batch_size": 4, "normalize": "none", "on_bad_image": "skip"}
    return build_data(Data(root=str(root), **{**defaults, "augment": AUGMENT, **fields}), seed=0)


def epoch_of(data, epoch=0, *, start=0, world_size=1, accumulate=1):
    """All real images and labels of an epoch in its order."""
    ranks = [
        list(data.train_windows(epoch, start=start, world_size=world_size, shard=(rank, world_size), accumulate=accumulate))
        for rank in range(world_size)
    ]
    data.close()
    cells = []
    for windows in zip(*ranks, strict=True):
        for batches in zip(*(window.batches for window in windows), strict=True):
            cells += [(*inputs_of(batch, data.info), batch.num_valid) for batch in batches]
    return tuple(torch.cat([cell[part][: cell[2]] for cell in cells]) for part in (0, 1))


def assert_same(found, expected):
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_next_readable_image_of_the_epochs_order_is_the_substitute_with_its_own_label(root):
    plain = {"augment": [{"name": "random_crop", "size": 8, "padding": 0}]}  # draws that change nothing
    for epoch in (0, 1, 5):
        order = epoch_order(30, seed=0, epoch=epoch)
        images, labels = epoch_of(module(root, **plain), epoch)
        for place, index in enumerate(order):
            following = order[place:] + order[:place]
            taken = next(each for each in following if each not in BAD)
            assert round(images[place].mean().item() * 255) == taken * 4
            assert labels[place] == taken // 10
            assert (taken != index) == (index in BAD)


def test_an_epochs_order_is_drawn_once_for_all_its_bad_images(root, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        mutual.data.loading.images, "epoch_order", lambda *sizes, **of: drawn.append(of["epoch"]) or epoch_order(*sizes, **of)
    )
    data = module(root)
    for epoch in (4, 5):
        list(data.train_windows(epoch, world_size=1, shard=(0, 1), accumulate=1))
        assert data.take_bad_images()["train"].keys() == {data._train._images.name(index) for index in BAD}
    assert drawn == [4, 5]


@pytest.mark.parametrize("mixing", [{}, {"mixup": 0.4}, {"cutmix": 1.0}])
@pytest.mark.parametrize(("batch_size", "world_size", "accumulate"), [(4, 2, 1), (2, 2, 2), (3, 3, 1), (8, 1, 1)])
def test_substitutes_are_the_same_on_any_number_of_ranks(root, mixing, batch_size, world_size, accumulate):
    whole = batch_size * world_size * accumulate
    expected = epoch_of(module(root, batch_size=whole, **mixing), 3)
    found = epoch_of(module(root, batch_size=batch_size, **mixing), 3, world_size=world_size, accumulate=accumulate)
    assert_same(found, expected)


def test_substitutes_are_the_same_in_worker_processes_and_after_a_cut(root):
    expected = epoch_of(module(root), 2)
    assert_same(epoch_of(module(root, workers=2), 2), expected)
    cut = epoch_of(module(root), 2, start=3)
    assert_same(cut, tuple(part[12:] for part in expected))


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_images_are_known_by_their_names(root, workers):
    data = module(root, workers=workers)
    assert len(list(data.train_windows(0, world_size=1, shard=(0, 1), accumulate=1))) == 8
    batches = list(data.eval_batches(world_size=1, shard=(0, 1)))
    data.close()
    found = data.take_bad_images()
    assert {Path(path).name for path in found["train"]} == {f"{index:02}.png" for index in BAD}
    assert {Path(path).name: reason for path, reason in found["val"].items()} == {"01.png": "it is empty", "05.png": "it is empty"}
    assert [[bad.row for bad in batch.bad] for batch in batches] == [[1], [1], []]
    assert [batch.num_valid for batch in batches] == [4, 4, 1], "rows stay in their places, so that ranks agree on how many there are"
    assert data.take_bad_images() == {"train": {}, "val": {}}


@pytest.mark.parametrize("workers", [0, 2])
def test_otherwise_the_first_is_an_error_that_names_file_and_epoch(root, workers):
    data = module(root, workers=workers, on_bad_image="error")
    with pytest.raises(
        ImageError, match=r"train/class\d/\d\d.png is no image .*\(epoch 7; repair it .*data.on_bad_image: skip\)"
    ) as caught:
        list(data.train_windows(6, world_size=1, shard=(0, 1), accumulate=1))
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None, "no traceback of a worker"
    data.close()
    data = module(root, workers=workers, on_bad_image="error")
    with pytest.raises(ImageError, match=r"val/class0/01.png is no image that can be read: it is empty \(evaluation;"):
        list(data.eval_batches(world_size=1, shard=(0, 1)))
    data.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failing_disk_is_an_error_and_nothing_is_skipped(root, workers, monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    data = module(root, workers=workers)
    monkeypatch.setattr(Path, "read_bytes", fail)  # workers are forks
    with pytest.raises(OSError, match=r"\[Errno 5\] Input/output error: '.*png'") as caught:
        list(data.train_windows(0, world_size=1, shard=(0, 1), accumulate=1))
    assert not isinstance(caught.value, ImageError)
    data.close()


def test_where_no_image_can_be_read_the_run_ends(tmp_path):
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        for index in range(5):
            (tmp_path / part / "a" / f"{index}.jpg").write_bytes(b"x")
    with pytest.raises(ImageError, match="nor can the 4 images be read that follow it"):
        module(tmp_path)


def test_an_image_that_the_transforms_do_not_take_is_named(tmp_path):
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.new("L", (60_000, 1)).save(tmp_path / part / "a" / "strip.png")
    with pytest.raises(ValueError, match=r"train/a/strip.png: .* 60,000 x 1 pixels; with its shorter side brought to 64"):
        module(tmp_path, image_size=64, augment=None, on_bad_image="error")
    crop = [{"name": "random_crop", "size": 8, "padding": 0}]
    with pytest.raises(ValueError, match=r"train/a/strip.png: the transforms do not take its 60000 x 1 pixels: "):
        module(tmp_path, augment=crop, preprocess=["resize"], on_bad_image="error")


PADDED = {"augment": [{"name": "random_crop", "size": 8, "padding": 4, "padding_mode": "reflect"}]}


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("augment", "reason"),
    [(PADDED, "[Pp]adding size should be less"), ({"augment": [{"name": "random_crop", "size": 8, "padding": 0}]}, "crop size")],
)
def test_a_transform_that_fails_in_an_epoch_is_reported_with_file_and_epoch(root, tmp_path, workers, augment, reason, on_bad_image):
    shutil.copytree(root, tmp_path / "data")
    Image.new("L", (3, 3)).save(tmp_path / "data" / "train" / "class1" / "15.png")
    data = module(tmp_path / "data", workers=workers, on_bad_image="skip", **augment)
    data._spec = data._spec.model_copy(update={"on_bad_image": on_bad_image})
    with pytest.raises(TransformError) as caught:
        list(data.train_windows(4, world_size=1, shard=(0, 1), accumulate=1))
    data.close()
    assert re.search(
        rf"train/class1/15.png: the transforms do not take its 3 x 3 pixels: .*{reason}.* \(epoch 5\); "
        "add a resize before it, or take the image out$",
        str(caught.value),
    )
    assert "data.check" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_where_images_are_skipped_already_it_is_not_proposed(root, tmp_path):
    shutil.copytree(root, tmp_path / "data")
    data = module(tmp_path / "data")
    for path in (tmp_path / "data" / "train").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ImageError, match=r"nor can the 29 images .*\(epoch 1; repair it or take it out, .*data.check` finds all") as caught:
        list(data.train_windows(0, world_size=1, shard=(0, 1), accumulate=1))
    assert "on_bad_image" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_too_little_memory_for_a_transform_is_the_machines_fault(root, workers, monkeypatch):
    data = module(root, workers=workers)

    def exhausted(image):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(data._train._transforms, "random", exhausted)
    with pytest.raises(OSError, match="not enough memory") as caught:
        list(data.train_windows(0, world_size=1, shard=(0, 1), accumulate=1))
    assert caught.value.errno == errno.ENOMEM
    data.close()


def test_an_error_without_a_message_is_reported_too(root, monkeypatch):
    def silent(*_):
        raise RuntimeError

    monkeypatch.setattr(RandomCrop, "transform", silent)
    with pytest.raises(ValueError, match=r"augment cannot be applied to the first image: .*: RuntimeError"):
        module(root)


# --- worker processes


def workers_of(data):
    iterator = data.train_windows(0, world_size=1, shard=(0, 1), accumulate=1)
    next(iterator)
    return iterator, multiprocessing.active_children()


def wait_until_gone(processes, seconds=10):
    deadline = time.monotonic() + seconds
    while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [process.pid for process in processes if process.is_alive()]


def test_workers_outlive_a_signal_to_the_job_and_end_with_the_loader(root):
    data = module(root, workers=2, batch_size=1)
    iterator, workers = workers_of(data)
    assert len(workers) == 2
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        for worker in workers:
            os.kill(worker.pid, number)
    assert len(list(iterator)) == 29, "they go on to load"
    assert all(worker.is_alive() for worker in workers)
    begun = time.monotonic()
    data.close()
    assert wait_until_gone(workers) == []
    assert time.monotonic() - begun < 5


def test_a_signal_that_comes_before_a_worker_has_its_handlers_waits():
    done = run("early_signal")
    assert done.stdout == "[0, 2]\n", done.stderr


def test_workers_obey_once_the_loader_is_closed_even_if_torchs_iterator_lives_on(root):
    """As the frames of a traceback would hold it."""
    data = module(root, workers=2, batch_size=1)
    _, workers = workers_of(data)
    held = data._loader._iterator
    data.close()
    for worker in workers:
        worker.terminate()
    assert wait_until_gone(workers) == []
    assert held is not None


def images_of(batches):
    return torch.cat([batch.images for batch in batches])


def test_the_same_workers_load_epochs_and_evaluations(root):
    data, alone = module(root, workers=2, batch_size=4), module(root, workers=0, batch_size=4)
    shard = {"world_size": 1, "shard": (0, 1)}
    iterator, workers = workers_of(data)
    for epoch in range(2):
        both = [[window.batches[0] for window in each.train_windows(epoch, **shard, accumulate=1)] for each in (data, alone)]
        assert torch.equal(*map(images_of, both))
        for worker in workers:
            os.kill(worker.pid, signal.SIGTERM)
        assert torch.equal(*(images_of(each.eval_batches(**shard)) for each in (data, alone)))
        next(data.eval_batches(**shard))  # what else was loaded for this one is not the next one's
    assert len(list(data.train_windows(0, world_size=2, shard=(0, 2), accumulate=1))) == 4
    assert multiprocessing.active_children() == workers
    with pytest.raises(AssertionError, match="no other requests have begun"):
        next(iterator)
    data.close()
    assert wait_until_gone(workers) == []


def test_more_workers_are_started_where_more_batches_come(root, monkeypatch):
    monkeypatch.setattr("mutual.data.module.default_workers", lambda num_batches: int(num_batches > 20))
    data = module(root, batch_size=1)
    assert len(list(data.eval_batches(world_size=1, shard=(0, 1)))) == 9
    assert multiprocessing.active_children() == []
    _, workers = workers_of(data)
    assert len(workers) == 1
    assert len(list(data.eval_batches(world_size=1, shard=(0, 1)))) == 9
    data.load_for([(3, 8, 8)])
    assert wait_until_gone(workers) == [], "they would go on to load images as they were wanted before"
    assert next(workers_of(data)[0]).batches[0].images.shape[1:] == (3, 8, 8)
