"""A run that was cut, by a signal or a kill, ends bitwise as the uninterrupted one."""

import random
import signal
import time
from functools import partial

import pytest
import safetensors.torch
import yaml
from attacks import die_in_write
from support import ROOT, digests, run, run_and_kill, tiny, tiny_document

RECIPE = tiny_document(
    data={
        "dataset": "digits",
        "image_size": 8,
        "batch_size": 16,
        "eval_batch_size": 71,
        "subset": 240,
        "augment": [{"name": "random_crop", "padding": 1}],
    },
    peers={
        "a": {"model": "support:tiny", "args": {"norm": True, "dropout": 0.3, "width": 16}},
        "b": {"model": "support:tiny", "args": {"norm": True, "width": 12}, "optimizer": {"name": "adam", "lr": 0.01}},
    },
    objectives=[
        {"loss": "cross_entropy"},
        {"loss": "dml", "schedule": {"name": "ramp_up", "until_epoch": 2}},
        {"loss": "mgd", "at": "body"},
        {"loss": "ofd", "at": ["norm"], "weight": 0.001},
        {"loss": "kd", "sources": "ema", "gate": "correct"},
    ],
    schedule={"name": "cosine", "warmup_epochs": 1},
    train={"epochs": 4, "accumulate": 2, "ema": 0.9, "progress": False},
    checkpoint={"every_steps": 3, "keep": 2},
)


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What the uninterrupted run gives."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    run("mutual.train", folder / "recipe.yaml", f"output={folder}")
    return digests(folder / "tiny")


def finish(recipe_file, output, *extra, processes=1):
    run("mutual.train", recipe_file, f"output={output}", "--resume", *extra, processes=processes)
    return digests(output / "tiny")


@pytest.mark.slow
def test_killed_again_and_again_it_ends_bitwise_equal(recipe_file, tmp_path, whole):
    """Invariant 7: SIGKILL at random moments after a checkpoint: in the middle of epochs, windows and evaluations."""
    output = tmp_path / "cut"
    moments = random.Random(0)
    for _ in range(4):
        seen = set(output.glob("tiny/checkpoints/step_*"))

        def now(seen=seen):
            if set(output.glob("tiny/checkpoints/step_*")) <= seen:
                return False
            time.sleep(moments.uniform(0, 0.1))
            return True

        assert run_and_kill("mutual.train", recipe_file, f"output={output}", "--resume", when=now) != 0
    assert finish(recipe_file, output) == whole


@pytest.mark.slow
@pytest.mark.parametrize("write", [4, 7, 13, 22, 30, 37])
def test_killed_in_the_middle_of_a_write(recipe_file, tmp_path, whole, write):
    """Invariants 7 and 10: half a file is on the disk, of a checkpoint, of weights or of the metrics."""
    run("mutual.train", recipe_file, f"output={tmp_path}", expect=-signal.SIGKILL, prepare=partial(die_in_write, write))
    assert [path for path in tmp_path.rglob("*") if "unfinished" in path.name]
    assert finish(recipe_file, tmp_path) == whole


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_and_exits(recipe_file, tmp_path, whole, number, workers):
    output = tmp_path / "cut"
    only_at_the_end = "checkpoint={every_epochs: null, every_steps: null}"
    code = run_and_kill(
        "mutual.train",
        recipe_file,
        f"output={output}",
        only_at_the_end,
        f"data.workers={workers}",
        when=(output / "tiny" / "best").exists,
        number=number,
    )
    assert code == 1
    assert len(list(output.glob("tiny/checkpoints/step_*"))) == 1
    assert finish(recipe_file, output, only_at_the_end) == whole


@pytest.mark.slow
def test_two_processes_killed_and_resumed(recipe_file, tmp_path):
    expected = finish(recipe_file, tmp_path / "whole", processes=2)
    killed, stopped = tmp_path / "killed", tmp_path / "stopped"

    def two_checkpoints():
        return len(list(killed.glob("tiny/checkpoints/step_*"))) > 1

    assert run_and_kill("mutual.train", recipe_file, f"output={killed}", when=two_checkpoints, processes=2) != 0
    assert finish(recipe_file, killed, processes=2) == expected

    only_at_the_end = "checkpoint={every_epochs: null, every_steps: null}"
    arguments = ("mutual.train", recipe_file, f"output={stopped}", only_at_the_end)
    assert run_and_kill(*arguments, when=(stopped / "tiny" / "best" / "best.json").exists, number=signal.SIGTERM, processes=2) != 0
    assert len(list(stopped.glob("tiny/checkpoints/step_*"))) == 1, "both ranks agreed to stop and wrote a checkpoint"
    assert finish(recipe_file, stopped, only_at_the_end, processes=2) == expected


@pytest.mark.slow
def test_workers_change_nothing(recipe_file, tmp_path, whole):
    """Invariant 6: the same run with loader processes."""
    assert finish(recipe_file, tmp_path, "data.workers=2") == whole


def test_a_run_folder_that_holds_a_checkpoint_is_refused(recipe_file, tmp_path):
    arguments = ("mutual.train", recipe_file, f"output={tmp_path}", "train.epochs=1")
    run(*arguments)
    before = (tmp_path / "tiny" / "metrics.jsonl").read_bytes()
    done = run(*arguments, expect=2)
    assert "holds a checkpoint; add --resume" in done.stderr
    assert "Traceback" not in done.stderr
    changed = run(*arguments, "optimizer.lr=0.3", "--resume", expect=2)
    assert "optimizer.lr: the run was started with 0.5 and cannot go on with 0.3" in changed.stderr
    finished = run(*arguments, "--resume")
    assert "done" in finished.stdout
    assert (tmp_path / "tiny" / "metrics.jsonl").read_bytes() == before
    run(*arguments, "--overwrite")
    assert (ROOT / "tests").exists()


def test_a_run_does_not_go_on_with_another_teacher(tmp_path):
    peers = {"a": RECIPE["peers"]["a"], "t": {"model": "support:tiny", "frozen": True, "weights": str(tmp_path / "t.safetensors")}}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {**RECIPE, "peers": peers, "objectives": [{"loss": "kd"}], "train": {"epochs": 1, "progress": False, "pictures": False}}
        )
    )
    for expect, resume in ((0, []), (2, ["--resume"])):
        teacher = tiny(num_classes=10, in_channels=1)
        (tmp_path / "t.safetensors").write_bytes(safetensors.torch.save(teacher.state_dict()))
        done = run("mutual.train", recipe, f"output={tmp_path}", *resume, expect=expect)
    assert "peers.t.weights: these are not the weights that the run was started with" in done.stderr


def test_training_the_resolved_recipe_again_gives_the_same_run(recipe_file, tmp_path):
    run("mutual.train", recipe_file, f"output={tmp_path / 'first'}", "train.epochs=1")
    run("mutual.train", tmp_path / "first" / "tiny" / "recipe.yaml", f"output={tmp_path / 'second'}")
    assert digests(tmp_path / "first" / "tiny") == digests(tmp_path / "second" / "tiny")
