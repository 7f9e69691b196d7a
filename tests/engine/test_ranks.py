"""Several processes are exact: W ranks with batch b train and evaluate as one process with batch W*b."""

import json

import pytest
import safetensors.torch
import torch
import yaml
from support import environment, run, tiny_document

pytestmark = pytest.mark.slow


def train(tmp_path, name, document, *overrides, processes):
    recipe = tmp_path / f"{name}.yaml"
    recipe.write_text(yaml.safe_dump({**document, "name": name}))
    done = run("mutual.train", recipe, f"output={tmp_path}", *overrides, processes=processes)
    folder = tmp_path / name
    weights = {path.stem: safetensors.torch.load_file(path) for path in (folder / "last").iterdir()}
    return weights, json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1]), done


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
@pytest.mark.parametrize("num_train", [40, 37, 33])
def test_two_ranks_equal_one(tmp_path, update, num_train):
    """Invariant 4 in float64, short last windows included: 33 leaves one rank of the last window without an image."""
    document = tiny_document(train={"epochs": 2, "update": update, "progress": False})
    document["data"] |= {"num_train": num_train, "num_val": 13}
    two, metrics_two, done = train(tmp_path, "two", document, "data.batch_size=4", "train.accumulate=2", processes=2)
    one, metrics_one, _ = train(tmp_path, "one", document, "data.batch_size=16", processes=1)
    assert "2 processes" in done.stdout
    for peer, tensors in one.items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(two[peer][name], tensor, rtol=1e-10, atol=1e-10)
    for member, row in metrics_one["eval"].items():
        assert metrics_two["eval"][member] == pytest.approx(row, abs=1e-6), member
    assert metrics_two["train"]["objectives"] == pytest.approx(metrics_one["train"]["objectives"], abs=1e-6)


def test_two_ranks_equal_one_with_adapters_gates_and_averages(tmp_path):
    """Adapters are averaged with their learner; contrasts see the images of both ranks, also where one has none."""
    objectives = [
        {"loss": "cross_entropy"},
        {"loss": "hint", "at": "body"},
        {"loss": "crd", "at": "body"},
        {"loss": "mcl", "at": "body", "gate": "correct"},
        {"loss": "kd", "sources": "ema"},
        {"loss": "dml", "sources": "ensemble", "ensemble": {"weighting": "naive", "own": True}},
    ]
    train_section = {"epochs": 2, "progress": False, "ema": 0.9, "evaluate_ema": False, "pause": {"peer": "a", "versus": "b"}}
    document = tiny_document(objectives=objectives, train=train_section)
    document["data"] |= {"num_train": 33}
    two, metrics_two, _ = train(tmp_path, "two", document, "data.batch_size=8", processes=2)
    one, metrics_one, _ = train(tmp_path, "one", document, "data.batch_size=16", processes=1)
    for peer, tensors in one.items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(two[peer][name], tensor, rtol=1e-6, atol=1e-6)
    assert metrics_two["train"]["objectives"] == pytest.approx(metrics_one["train"]["objectives"], abs=1e-6)


def test_a_peer_that_learns_by_features_alone(tmp_path):
    """Its classifier gets no loss, and DDP must not wait for one."""
    objectives = [{"loss": "cross_entropy", "learners": ["a"]}, {"loss": "l2", "at": "body", "learners": ["b"]}]
    document = tiny_document(objectives=objectives, train={"epochs": 2, "progress": False})
    two, _, _ = train(tmp_path, "two", document, "data.batch_size=4", processes=2)
    one, _, _ = train(tmp_path, "one", document, processes=1)
    for name, tensor in one["b"].items():
        torch.testing.assert_close(two["b"][name], tensor, rtol=1e-10, atol=1e-10)


def test_a_rank_without_validation_images(tmp_path):
    """Every sample is counted once, also where there are fewer samples than ranks."""
    document = tiny_document(train={"epochs": 1, "progress": False})
    document["data"] |= {"num_val": 1}
    _, two, _ = train(tmp_path, "two", document, "data.batch_size=4", processes=2)
    _, one, _ = train(tmp_path, "one", document, processes=1)
    assert two["eval"]["a"] == pytest.approx(one["eval"]["a"], abs=1e-6)


def test_the_world_of_two_processes(tmp_path):
    """Collectives, averaged buffers and the stop poll, checked from inside (tests/world_checks.py)."""
    done = run("world_checks", processes=2)
    assert done.stdout.count("world checks hold") == 2


def test_processes_that_cannot_find_each_other_are_refused(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tiny_document()))
    done = run("mutual.train", recipe, f"output={tmp_path}", expect=2, OMPI_COMM_WORLD_SIZE="4")
    assert "mutual: Accelerate cannot start: " in done.stderr
    assert "MASTER_ADDR" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_process_where_more_were_asked_for_says_so(tmp_path):
    """`accelerate launch --cpu --num_processes 2` starts a single process."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tiny_document(train={"epochs": 1, "progress": False})))
    arguments = ["launch", "--cpu", "--num_processes", "2", "-m", "mutual.train", recipe, f"output={tmp_path}"]
    done = run("accelerate.commands.accelerate_cli", *arguments)
    assert "asked for several processes, but this run is 1" in done.stderr
    assert "torchrun" in done.stderr
    assert "MASTER_ADDR" not in environment()
