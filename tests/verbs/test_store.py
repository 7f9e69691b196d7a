"""`mutual.store`: fills ahead of training, goes on where it was cut, and checks what is there."""

import re
import signal
import time
from pathlib import Path

import pytest
import yaml
from attacks import fill_shards
from support import run, start, tiny_document

TEACHER = {"model": "support:double", "args": {"width": 6}, "frozen": True}


def written(folder, *, slow=False, **store):
    """A recipe's file in `folder`, with a store there."""
    document = tiny_document(output=str(folder))
    document["data"] |= {"augment": [{"name": "random_crop", "padding": 2}], "mixup": 0.4}
    teacher = {"model": "process_models:costly", "frozen": True} if slow else TEACHER
    store = {"folder": str(folder / "store"), "views": 3, "topk": 2, **store}
    document["peers"] = {"a": {"model": "support:double"}, "t": {**teacher, "store": store}}
    document["objectives"] = [{"loss": "cross_entropy"}, {"loss": "kd", "sources": ["t"]}]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document))
    return folder / "recipe.yaml"


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "store").glob("shard_*"))}


def computed(job):
    return int(re.search(r"([\d,]+) computed now", job.stdout)[1].replace(",", ""))


@pytest.mark.slow
@pytest.mark.parametrize(("views", "epochs"), [(3, 3), ("epoch", 2)])
def test_what_is_filled_ahead_is_what_a_training_would_have_written(tmp_path, views, epochs):
    recipe = written(tmp_path, views=views)
    done = run("mutual.store", recipe)
    about = f"{epochs} views of 40 images, 36 bytes each, 0.0 MB; {40 * epochs} computed now"
    assert done.stdout.startswith(f"{tmp_path / 'store'} (t): {about}")
    filled = contents(tmp_path)
    run("mutual.train", recipe, "train.epochs=2")
    assert contents(tmp_path) == filled, "the training has read all"
    other = tmp_path / "other"
    other.mkdir()
    run("mutual.train", written(other, views=views), f"train.epochs={epochs}")
    assert contents(other) == filled
    assert computed(run("mutual.store", recipe)) == 0


@pytest.mark.slow
def test_two_ranks_fill_halves_and_one_finds_nothing_left_to_do(tmp_path):
    recipe = written(tmp_path)
    assert computed(run("mutual.store", recipe, processes=2)) == 120
    assert sorted(map(len, contents(tmp_path).values())) == [60 * 36, 60 * 36]
    assert computed(run("mutual.store", recipe)) == 0
    assert "100 records are as computed now" in run("mutual.store", recipe, "--check", "100", processes=2).stdout


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_while_it_fills_it_goes_on(tmp_path, processes):
    """Again and again, at whatever moment."""
    (tmp_path / "whole").mkdir()
    run("mutual.store", written(tmp_path / "whole", slow=True), processes=processes)
    expected = contents(tmp_path / "whole")
    recipe = written(tmp_path, slow=True)
    for least in (1, 500, 1500):
        job = start("mutual.store", recipe, processes=processes)
        deadline = time.monotonic() + 60
        while sum(map(len, contents(tmp_path).values())) < least:
            assert job.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        job.kill(signal.SIGKILL)
        job.wait(60)
    assert 0 < computed(run("mutual.store", recipe, processes=processes)) < 120
    assert contents(tmp_path) == expected
    assert "records are as computed now" in run("mutual.store", recipe, "--check", "120").stdout


@pytest.mark.slow
def test_check_finds_a_record_that_is_not_what_the_peer_says(tmp_path):
    recipe = written(tmp_path)
    run("mutual.store", recipe)
    assert "t: 30 records are as computed now" in run("mutual.store", recipe, "--check", "30").stdout
    from mutual.engine.teacher_store.shards import Shards

    shards = Shards(tmp_path / "store", num_bytes=20, num_images=40, num_views=3)
    keys = shards.keys()
    records, is_there = shards.read(keys)
    assert is_there.all()
    for path in (tmp_path / "store").glob("shard_*"):
        path.unlink()
    records[7, 15] ^= 0x04  # in float16, of a log-probability, with a checksum that holds
    Shards(tmp_path / "store", num_bytes=20, num_images=40, num_views=3).append(keys, records)
    done = run("mutual.store", recipe, "--check", "120", expect=1)
    line = r"mutual: .*/store: 1 of 120 records are not what 't' says, by up to [\d.e+]+; remove .*\n"
    assert re.fullmatch(line, done.stderr), done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--check", "5"], "peers.t.store.folder: {store} is empty; fill it first"),
        (["peers.t.store=null"], "peers: no peer has a store"),
        (["peers.t.store.folder={recipe}"], "a file stands in a folder's place"),
        (["peers.t.store.folder=/proc/nowhere"], "/proc/nowhere"),
        (["peers.t.store.views=0"], "peers.t.store.views: 0 must be greater than 0"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, arguments, message):
    recipe = written(tmp_path)
    places = {"recipe": recipe, "store": tmp_path / "store"}
    done = run("mutual.store", recipe, *(word.format(**places) for word in arguments), expect=2)
    assert message.format(**places) in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("verb", ["store", "train"])
def test_a_full_disk_is_one_line_and_what_was_written_counts(tmp_path, verb, processes):
    recipe = written(tmp_path)
    done = run(f"mutual.{verb}", recipe, processes=processes, expect=1, prepare=FillShards(1000))
    lines = [line for line in done.stderr.splitlines() if "No space left on device" in line]
    assert len(lines) == 1, done.stderr
    assert "shard_00000.bin: No space left on device; free some space" in lines[0]
    assert "Traceback" not in done.stderr
    held = contents(tmp_path)["shard_00000.bin"]
    assert 0 < len(held) <= 1000
    assert len(held) % 36 == 0
    again = run("mutual.store", recipe, processes=processes)
    assert 0 < computed(again) < 120
    assert contents(tmp_path)["shard_00000.bin"].startswith(held)


class FillShards:
    """Arms the process that calls it, rank 0: the disk has room for this many bytes of shards."""

    def __init__(self, room):
        self.room = room

    def __call__(self):
        fill_shards(self.room)


@pytest.mark.slow
def test_the_recipe_of_a_training_with_a_store_says_so(tmp_path):
    recipe = written(tmp_path)
    run("mutual.train", recipe, "train.epochs=1")
    saved = yaml.safe_load(Path(tmp_path / "tiny" / "recipe.yaml").read_text())
    assert saved["peers"]["t"]["store"] == {"folder": str(tmp_path / "store"), "views": 3, "topk": 2, "seed": None, "feature_maps": False}
    done = run("mutual.train", recipe, "train.epochs=1", "peers.t.store.topk=3", "--resume", expect=2)
    assert "peers.t.store.topk: the run was started with 2" in done.stderr
    (tmp_path / "store").rename(tmp_path / "moved")
    run("mutual.train", recipe, "train.epochs=1", f"peers.t.store.folder={tmp_path / 'moved'}", "--resume")
