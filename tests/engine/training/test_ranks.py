"""Several processes are exact: W ranks with batch b train and evaluate as one process with batch W*b."""

import json

import pytest
import safetensors.torch
import torch
import yaml
from support import environment, run, tiny_document

import mutual
from mutual.recipe import parse_recipe

pytestmark = pytest.mark.slow

ADAPTERS_AND_GATES = [
    {"loss": "cross_entropy"},
    {"loss": "hint", "at": "body"},
    {"loss": "crd", "at": "body"},
    {"loss": "mcl", "at": "body", "gate": "correct"},
    {"loss": "kd", "sources": "ema"},
    {"loss": "dml", "sources": "ensemble", "ensemble": {"weighting": "naive", "own": True}},
]
PAUSED = {"epochs": 2, "progress": False, "ema": 0.9, "evaluate_ema": False, "pause": {"peer": "a", "versus": "b"}}
FEATURES_ALONE = [{"loss": "cross_entropy", "learners": ["a"]}, {"loss": "l2", "at": "body", "learners": ["b"]}]
SMALL = {"model": "small_cnn", "args": {"norm": "none"}}
CHECKPOINTED = {**SMALL, "activation_checkpointing": True}
HEADLESS = {"model": "support:embedding", "frozen": True, "head": "none", "standardize": True}
EMBEDDED = {
    "peers": {"a": {"model": "support:double"}, "b": {"model": "support:double", "args": {"width": 6}}, "t": HEADLESS},
    "objectives": [
        {"loss": "cross_entropy"},
        {"loss": "similarity", "at": "body", "sources": ["t"], "source_at": "embedding"},
        {"loss": "similarity", "at": "body", "sources": ["a"], "learners": ["b"]},
        {"loss": "pefd", "at": "body", "sources": ["t"], "source_at": "embedding"},
    ],
}


def document(batch_size, *, num_train=40, num_val=12, **sections):
    whole = tiny_document(**{"train": {"epochs": 2, "progress": False}, **sections})
    return {**whole, "data": {**whole["data"], "num_train": num_train, "num_val": num_val, "batch_size": batch_size}}


def accumulated(update, num_train):
    train = {"epochs": 2, "update": update, "progress": False}
    two = document(4, num_train=num_train, num_val=13, train={**train, "accumulate": 2})
    return two, document(16, num_train=num_train, num_val=13, train=train)


def balanced(batch_size, accumulate, *, sampler):
    objectives = [{"loss": "cross_entropy", "class_weight": "balanced"}, {"loss": "focal", "alpha": [1, 2, 3, 4]}, {"loss": "dml"}]
    train = {"epochs": 2, "accumulate": accumulate, "progress": False}
    whole = document(batch_size, num_train=43, num_val=13, objectives=objectives, train=train)
    return {**whole, "data": {**whole["data"], "mixup": 0.4, "augment": [{"name": "random_crop", "padding": 1}], "sampler": sampler}}


SHORT = {f"{update} {number}": accumulated(update, number) for update in ("simultaneous", "alternating") for number in (40, 37, 33)}
CASES = {
    **SHORT,
    "adapters, gates and averages": tuple(document(size, num_train=33, objectives=ADAPTERS_AND_GATES, train=PAUSED) for size in (8, 16)),
    "backward per peer": (
        document(8, num_train=33, objectives=ADAPTERS_AND_GATES, train={**PAUSED, "backward": "per_peer"}),
        document(16, num_train=33, objectives=ADAPTERS_AND_GATES, train=PAUSED),
    ),
    "checkpointed activations": (
        document(4, peers=dict.fromkeys("ab", CHECKPOINTED), train={**PAUSED, "backward": "per_peer"}),
        document(8, peers=dict.fromkeys("ab", SMALL), train=PAUSED),
    ),
    "a teacher without a head": tuple(document(size, num_train=33, **EMBEDDED) for size in (8, 16)),
    "features alone": tuple(document(size, objectives=FEATURES_ALONE) for size in (4, 8)),
    "balanced classes": (balanced(4, 2, sampler="balanced"), balanced(16, 1, sampler="balanced")),
    "repeated classes": (balanced(4, 2, sampler={"repeated": 2}), balanced(16, 1, sampler={"repeated": 2})),
    "one validation image": tuple(document(size, num_val=1, train={"epochs": 1, "progress": False}) for size in (4, 8)),
}
"""By case what two processes train, and what one does."""


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """The folder of what two processes trained: every case, one after another in one job."""
    folder = tmp_path_factory.mktemp("two")
    paths = []
    for number, (two, _) in enumerate(CASES.values()):
        path = folder / f"{number}.yaml"
        path.write_text(yaml.safe_dump({**two, "name": str(number), "output": str(folder)}))
        paths.append(path)
    done = run("train_all", *paths, processes=2)
    assert done.stdout.count("2 processes on cpu") == len(CASES)
    (folder / "stdout").write_text(done.stdout)
    return folder


def trained(folder):
    weights = {path.stem: safetensors.torch.load_file(path) for path in (folder / "last").iterdir()}
    return weights, json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


def compared(case, two_ranks, tmp_path, *, tolerance):
    """Both runs' last metrics, after their weights were found equal."""
    result = mutual.fit(parse_recipe({**CASES[case][1], "output": str(tmp_path)}))
    (one, metrics_one), (two, metrics_two) = trained(result.folder), trained(two_ranks / str(list(CASES).index(case)))
    for peer, tensors in one.items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(two[peer][name], tensor, rtol=tolerance, atol=tolerance)
    return metrics_one, metrics_two


@pytest.mark.parametrize("case", [*SHORT, "balanced classes", "repeated classes"])
def test_two_ranks_equal_one(tmp_path, two_ranks, case):
    """Invariant 4 in float64, short last windows included: 33 leaves one rank of the last window without an image."""
    one, two = compared(case, two_ranks, tmp_path, tolerance=1e-10)
    for member, row in one["eval"].items():
        assert two["eval"][member] == pytest.approx(row, abs=1e-6), member
    assert two["train"]["objectives"] == pytest.approx(one["train"]["objectives"], abs=1e-6)


@pytest.mark.parametrize("case", ["adapters, gates and averages", "backward per peer"])
def test_two_ranks_equal_one_with_adapters_gates_and_averages(tmp_path, two_ranks, case):
    """Adapters are averaged with their learner; contrasts see the images of both ranks, also where one has none."""
    one, two = compared(case, two_ranks, tmp_path, tolerance=1e-6)
    assert two["train"]["objectives"] == pytest.approx(one["train"]["objectives"], abs=1e-6)


def test_checkpointed_activations_on_two_ranks(tmp_path, two_ranks):
    """Blocks run once more in a backward that averages gradients."""
    compared("checkpointed activations", two_ranks, tmp_path, tolerance=1e-5)


def test_similarities_to_the_images_of_all_ranks(tmp_path, two_ranks, capsys):
    """An image stands among those that images of other ranks are compared with: its gradient comes from them as well."""
    one, two = compared("a teacher without a head", two_ranks, tmp_path, tolerance=1e-10)
    assert two["train"]["objectives"] == pytest.approx(one["train"]["objectives"], abs=1e-6)
    (scored,) = (line for line in capsys.readouterr().out.splitlines() if line.endswith("nearest training images"))
    assert (two_ranks / "stdout").read_text().splitlines().count(scored) == 1, "by its neighbours, too, it is scored once, and as on one"


def test_a_peer_that_learns_by_features_alone(tmp_path, two_ranks):
    """Its classifier gets no loss, and DDP must not wait for one."""
    compared("features alone", two_ranks, tmp_path, tolerance=1e-10)


def test_a_rank_without_validation_images(tmp_path, two_ranks):
    """Every sample is counted once, also where there are fewer samples than ranks."""
    one, two = compared("one validation image", two_ranks, tmp_path, tolerance=1e-10)
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
