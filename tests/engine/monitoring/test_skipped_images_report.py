"""An unreadable image ends a run in a line and in seconds, or is skipped alike on every rank; nothing of a run is left behind."""

import json
import os
import re
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image
from support import run, run_and_kill, start, tiny_document

from mutual.data import DataModule
from mutual.data.loading.plan import epoch_order
from mutual.engine.monitoring.skipped_images import SkippedImages
from mutual.group import Communicator
from mutual.recipe import InputError, parse_recipe

TRAIN, VAL = 24, 10
FIRST = epoch_order(TRAIN, seed=0, epoch=0)[0]
"""Number of the image that the first rank reads first."""


FACTORY = ("--factory", "support:double")


def dataset(folder, *, bad=(), bad_val=()):
    for part, number, damaged in (("train", TRAIN, bad), ("val", VAL, bad_val)):
        for index in range(number):
            place = folder / part / f"class{index * 2 // number}" / f"{index:02}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), (index * 37) % 256).save(place)
            if index in damaged:
                place.write_bytes(place.read_bytes()[:50])
    return folder


def recipe_of(root, output, **train):
    data = {"dataset": "image_folder", "root": str(root), "image_size": 8, "channels": 1, "batch_size": 4, "augment": ["horizontal_flip"]}
    document = tiny_document(data=data, train={"epochs": 2, "progress": False, **train}, output=str(output))
    file = root / "recipe.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def weights(folder):
    return {path.stem: safetensors.torch.load_file(path) for path in sorted((folder / "tiny" / "last").glob("*.safetensors"))}


def assert_equal(found, expected, tolerance=0.0):
    assert found.keys() == expected.keys() == {"a", "b"}
    for name, tensors in expected.items():
        for key, value in tensors.items():
            torch.testing.assert_close(found[name][key], value, rtol=tolerance, atol=tolerance)


def test_an_unreadable_image_ends_a_run_with_workers_in_one_line(tmp_path):
    """It hung for ever: the workers ignored SIGTERM, and the exit waited for them."""
    root = dataset(tmp_path, bad=[20])
    done = run("mutual.train", recipe_of(root, tmp_path), "data.workers=2", expect=2, timeout=120)
    lines = [line for line in done.stderr.splitlines() if line.startswith("mutual: ")]
    assert len(lines) == 1
    assert re.search(r"train/class1/20.png is no image that can be read: .* \(epoch 1; repair it", lines[0])
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "accumulate"), [(0, 1), (2, 1), (0, 4)])
def test_an_unreadable_image_ends_all_ranks(tmp_path, workers, accumulate):
    """Also where it is loaded in the middle of an update."""
    bad = FIRST if accumulate == 1 else epoch_order(TRAIN, seed=0, epoch=0)[2]
    root = dataset(tmp_path, bad=[bad])
    options = (f"data.workers={workers}", f"train.accumulate={accumulate}", f"data.batch_size={4 // accumulate}")
    done = run("mutual.train", recipe_of(root, tmp_path), *options, processes=2, expect=1, timeout=120)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("mutual: ")]
    assert re.search(rf"{bad:02}.png is no image .*epoch 1; .*\(rank 0 of 2\)$", line)


@pytest.mark.slow
def test_skipped_images_change_nothing_between_ranks_workers_and_cuts(tmp_path):
    root = dataset(tmp_path / "data", bad=[FIRST, 5, 6], bad_val=[2])
    file = recipe_of(root, tmp_path)

    def trained(name, *overrides, processes=1):
        output = tmp_path / name
        run("mutual.train", file, f"output={output}", "--resume", "data.on_bad_image=skip", *overrides, processes=processes)
        return weights(output), json.loads((output / "tiny" / "metrics.jsonl").read_text().splitlines()[-1])["eval"]

    expected, scores = trained("one", "data.batch_size=8")
    workers, _ = trained("workers", "data.batch_size=8", "data.workers=2")
    assert_equal(workers, expected)
    ranks, scores_of_ranks = trained("ranks", processes=2)
    assert_equal(ranks, expected, tolerance=1e-9)
    ranks_with_workers, _ = trained("both", "data.workers=2", processes=2)
    assert_equal(ranks_with_workers, ranks)
    assert scores_of_ranks["a"] == pytest.approx(scores["a"])

    arguments = (
        "mutual.train",
        file,
        f"output={tmp_path / 'cut'}",
        "data.on_bad_image=skip",
        "data.batch_size=8",
        "checkpoint.every_steps=2",
    )
    run_and_kill(*arguments, when=lambda: list((tmp_path / "cut").glob("tiny/checkpoints/step_*")))
    cut, _ = trained("cut", "data.batch_size=8")
    assert_equal(cut, expected)


def test_skipped_images_are_named_once_and_counted_and_left_out_of_the_scores(tmp_path):
    root = dataset(tmp_path / "data", bad=[5, 6], bad_val=[2, 7])
    file = recipe_of(root, tmp_path)
    done = run("mutual.train", file, "data.on_bad_image=skip", "data.workers=1")
    for name in ("train/class0/05.png", "train/class0/06.png", "val/class0/02.png", "val/class1/07.png"):
        assert done.stdout.count(f"{name} is no image that can be read") == 1
    for epoch in (1, 2):
        assert f"note: epoch {epoch}: 2 training images could not be read; the next readable ones" in done.stdout
    assert done.stdout.count("2 validation images could not be read and are left out of the scores") == 1

    refused = run("mutual.evaluate", tmp_path / "tiny", "data.on_bad_image=error", *FACTORY, expect=2)
    assert re.search(r"val/class0/02.png is no image that can be read: .* \(evaluation; repair it", refused.stderr)
    assert "Traceback" not in refused.stderr
    skipped = run("mutual.evaluate", tmp_path / "tiny", "--json", "data.eval_batch_size=3", *FACTORY)
    assert "2 validation images could not be read and are left out of the scores" in skipped.stderr
    for name in ("class0/02.png", "class1/07.png"):
        (root / "val" / name).unlink()
    expected = run("mutual.evaluate", tmp_path / "tiny", "--json", *FACTORY)
    assert expected.stderr == ""
    for member, row in json.loads(expected.stdout).items():
        assert json.loads(skipped.stdout)[member] == pytest.approx(row), member


def test_a_run_goes_on_with_skip_where_an_unreadable_image_ended_it(tmp_path):
    last = epoch_order(TRAIN, seed=0, epoch=0)[-1]
    root = dataset(tmp_path, bad=[last])
    file = recipe_of(root, tmp_path, epochs=1)
    ended = run("mutual.train", file, "checkpoint.every_steps=1", expect=2)
    assert f"{last:02}.png is no image that can be read" in ended.stderr
    steps = sorted(int(place.name.partition("_")[2]) for place in (tmp_path / "tiny" / "checkpoints").glob("step_*"))
    assert steps[-1] == TRAIN // 4 - 1, "all but the last update were done"
    done = run("mutual.train", file, "--resume", "data.on_bad_image=skip")
    assert f"{last:02}.png is no image that can be read" in done.stdout
    assert "epoch 1: 1 training image could not be read; the next readable one of the epoch's order stood in for it" in done.stdout
    assert weights(tmp_path).keys() == {"a", "b"}


def test_predict_names_the_bad_file_and_passes_over_hidden_ones(tmp_path):
    root = dataset(tmp_path / "data")
    file = recipe_of(root, tmp_path, epochs=1)
    run("mutual.train", file)
    odd = root / "val" / "class0" / os.fsdecode(b"\xff\xfe.png")
    odd.write_bytes((root / "val" / "class0" / "00.png").read_bytes())
    (root / "val" / "class0" / "._00.png").write_bytes(b"AppleDouble")
    for encoding in ("utf-8:strict", "ascii:strict"):
        images = root / "val" / "class0"
        done = run("mutual.predict", tmp_path / "tiny", images, *FACTORY, PYTHONIOENCODING=encoding)
        assert len(done.stdout.splitlines()) == 6
        assert "._00" not in done.stdout
    os.mkfifo(root / "val" / "class0" / "pipe.png")
    done = run("mutual.predict", tmp_path / "tiny", root / "val" / "class0", *FACTORY, expect=2, timeout=120)
    assert re.fullmatch(r"mutual: \S+/pipe.png is no image that can be read: it is a pipe\n", done.stderr)


@pytest.mark.slow
def test_workers_end_when_their_training_process_is_killed(tmp_path):
    file = recipe_of(dataset(tmp_path), tmp_path, epochs=10_000)
    job = start("mutual.train", file, "data.workers=2")
    (training,) = (rank.pid for rank in job.ranks)
    children = Path(f"/proc/{training}/task/{training}/children")
    deadline = time.monotonic() + 100
    while not (tmp_path / "tiny" / "best" / "best.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    workers = [int(pid) for pid in children.read_text().split()]
    assert len(workers) >= 2
    job.kill(alone=True)
    job.wait(timeout=10)
    deadline = time.monotonic() + 20  # torch's workers look for their parent every five seconds
    while (left := [pid for pid in workers if Path(f"/proc/{pid}/exe").exists()]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


class Several(Communicator):
    """A world whose other processes have found what the test says."""

    others = ()

    def all_gather_json(self, value):
        return [json.loads(json.dumps(value)), *self.others]


class Data:
    """Has met one bad image of each split."""

    def take_bad_images(self):
        return {"train": {"x.png": "it is empty"}, "val": {"y.png": "it is empty"}}


def skipped(others, *, shard):
    recipe = parse_recipe(tiny_document(data={"dataset": "fake", "on_bad_image": "skip"}))
    comm = Several(0, len(others) + 1, torch.device("cpu"))
    object.__setattr__(comm, "others", others)
    data: DataModule = Data()  # type: ignore[assignment]
    return SkippedImages(recipe, data, comm, shard=shard)


def read_by(shard, *, train=(), val=()):
    return {"shard": list(shard), "skipped": {"train": dict.fromkeys(train, "bad"), "val": dict.fromkeys(val, "bad")}}


@pytest.mark.parametrize(
    ("shard", "others"),
    [
        ((0, 2), [read_by((1, 2), train=["z.png"])]),  # each reads its half
        ((0, 1), [read_by((0, 1), train=["x.png"], val=["y.png"])]),  # both read everything, for peers of their own
        ((0, 1), [read_by((0, 2), train=["x.png"]), read_by((1, 2), val=["y.png"])]),  # one peer has two ranks
    ],
)
def test_ranks_that_agree_say_together_what_was_skipped(shard, others):
    lines = []
    report = skipped(others, shard=shard)
    report.report(lines.append, prefix="epoch 1: ")
    assert sum("x.png is no image" in line for line in lines) == 1
    assert any("epoch 1: 1 validation image could not be read and is left out" in line for line in lines)
    before = len(lines)
    report.report(lines.append)
    assert [line for line in lines[before:] if "training" not in line] == [], "named once; of images that train alone the number again"
    assert len(lines) == before + sum("training" in line for line in lines[:before])


@pytest.mark.parametrize(
    ("shard", "others", "name"),
    [
        ((0, 1), [read_by((0, 1), train=["x.png"])], "y.png"),
        ((0, 1), [read_by((0, 1), train=["x.png", "z.png"], val=["y.png"])], "z.png"),
        ((0, 1), [read_by((0, 2), train=["x.png"]), read_by((1, 2))], "y.png"),
    ],
)
def test_ranks_that_load_the_same_images_must_be_able_to_read_the_same(shard, others, name):
    with pytest.raises(InputError, match=f"some processes can read {name} and others cannot"):
        skipped(others, shard=shard).report(print)
