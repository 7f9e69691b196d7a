"""Updates written by hand: they train what ours trains, and what an update is made of is told beside them; no time is asserted."""

import json

import pytest
import torch
import yaml
from support import run, tiny_document

from mutual import bench
from mutual.bench import report
from mutual.engine import compare_costs
from mutual.engine.costs.plain_updates import JointStep, PlainLoops, joint_obstacle
from mutual.engine.costs.time_spans import SPANS
from mutual.engine.runtime import init_environment
from mutual.engine.training import build_training
from mutual.recipe import parse_recipe

TAUGHT = {name: {"model": "support:double", "frozen": name == "t"} for name in "abt"}
CROSS_ENTROPY = {"loss": "cross_entropy"}
DML = {"loss": "dml", "temperature": 2.0}


def document(**sections):
    return tiny_document(**{"objectives": [CROSS_ENTROPY], **sections})


def trained(make, recipe, updates=3):
    """The weights after some updates, of ours and of those that `make` makes."""
    environment = init_environment(recipe)
    training = build_training(recipe, environment)
    windows = list(training.windows(0))[:updates]
    training.group.train()
    by_hand = make(recipe, training, environment)
    before = {name: peer.model.state_dict()["stem.weight"].clone() for name, peer in training.group.peers.items()}
    for number, window in enumerate(windows):
        training.train_step(window, number, measure=False)
        by_hand(window)
    ours = {name: peer.model.state_dict() for name, peer in training.group.peers.items()}
    moved = {name: not torch.equal(before[name], weights["stem.weight"]) for name, weights in ours.items()}
    assert moved == {name: not peer.frozen for name, peer in recipe.peers.items()}
    return ours, by_hand.weights()


@pytest.mark.parametrize("make", [PlainLoops, JointStep])
@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"peers": TAUGHT},
        {"data": {**tiny_document()["data"], "views": "per_peer", "augment": [{"name": "random_crop", "padding": 2}], "mixup": 0.5}},
        {"train": {"accumulate": 2, "channels_last": True, "clip_grad_norm": 0.01}},
        {"train": {"clip_parameter_norm": 0.001}},
        {"optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1, "decay_norm_and_bias": False, "args": {"foreach": True}}},
        {"optimizer": {"lr": 0.1, "weight_decay": 0.1, "layer_decay": 0.5, "groups": [{"modules": ["head"], "weight_decay": 0.0}]}},
    ],
)
def test_without_distillation_both_floors_train_as_ours_does(make, sections):
    ours, by_hand = trained(make, parse_recipe(document(**sections)))
    torch.testing.assert_close(by_hand, ours, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "objective",
    [
        DML,
        {"loss": "dml", "form": "kl"},
        {"loss": "dml", "form": "sigmoid"},
        {"loss": "dml", "form": "sigmoid_present"},
        {"loss": "kd", "sources": ["t"]},
        {"loss": "kd", "sources": ["t"], "standardize": True, "reduction": "mean"},
        {"loss": "soft_label", "reduce": "sum", "weight": 0.5},
    ],
)
def test_the_joint_step_trains_as_ours_does(objective):
    objectives = [{**CROSS_ENTROPY, "label_smoothing": 0.1}, objective]
    ours, by_hand = trained(JointStep, parse_recipe(document(peers=TAUGHT, objectives=objectives)))
    torch.testing.assert_close(by_hand, ours, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"objectives": [CROSS_ENTROPY, {"loss": "crd", "at": "body"}]}, "objectives.1: crd is not written by hand"),
        ({"objectives": [CROSS_ENTROPY, {**DML, "gate": "correct"}]}, "objectives.1: gate: correct is not written by hand"),
        ({"objectives": [CROSS_ENTROPY, {"loss": "kd", "sources": "ensemble"}]}, "objectives.1: sources: ensemble is not written by hand"),
        ({"objectives": [CROSS_ENTROPY, {"loss": "kd", "at": "head"}]}, "objectives.1: at: a module is not written by hand"),
        ({"train": {"ema": 0.9}}, "train.ema: not written by hand"),
        ({"train": {"update": "alternating"}}, "train.update: not written by hand"),
    ],
)
def test_what_is_not_written_by_hand_is_left_out_by_name(sections, reason):
    recipe = parse_recipe(document(**sections))
    environment = init_environment(recipe)
    training = build_training(recipe, environment)
    training.close()
    assert joint_obstacle(recipe, training) == reason


def test_an_objective_adds_kernels_to_our_update_and_to_the_joint_step_and_none_to_the_plain_loops():
    recipes = [parse_recipe(document(objectives=objectives)) for objectives in ([CROSS_ENTROPY], [CROSS_ENTROPY, DML])]
    costs = compare_costs(recipes, rounds=1, floors=True)
    assert sum(line.startswith("tiny ") for line in report(costs).splitlines()) == 4, "two lines for each, whose names are the same"
    without, mutual = (cost.floor for cost in costs)
    assert mutual.kernels["plain"] == without.kernels["plain"]
    assert mutual.kernels["joint"] > without.kernels["joint"] > without.kernels["plain"] / 2
    assert mutual.kernels["update"] > without.kernels["update"]
    assert (mutual.num_host_syncs, mutual.host_syncs) == (0, [])


def test_shares_of_time_cover_the_update_and_add_up_to_one():
    backward, recipe = torch.autograd.backward, parse_recipe(document(peers=TAUGHT, objectives=[CROSS_ENTROPY, DML]))
    (cost,) = compare_costs([recipe], rounds=2, floors=True)
    assert torch.autograd.backward is backward, "what was wrapped is as it was"
    assert tuple(cost.floor.shares) == SPANS
    assert sum(cost.floor.shares.values()) == pytest.approx(1)
    assert min(cost.floor.shares.values()) > 0, "each part is found under its name"


def test_a_host_synchronisation_is_told_with_its_line():
    pause = {"peer": "a", "versus": "b"}
    (cost,) = compare_costs([parse_recipe(document(train={"pause": pause}))], rounds=1, floors=True)
    assert cost.floor.num_host_syncs > 0
    assert any("peer_optimizer.py:" in sync for sync in cost.floor.host_syncs), cost.floor.host_syncs
    lines = report([cost]).splitlines()
    assert lines[1].endswith(" -"), "the joint step is left out"
    assert "tiny: no joint step: train.pause: not written by hand" in lines
    assert any(line.startswith("tiny: host synchronisation: ") for line in lines)


def written(folder, **sections):
    (folder / "pair.yaml").write_text(yaml.safe_dump(document(**sections)))
    return str(folder / "pair.yaml")


def test_the_verb_prints_both_tables_and_writes_a_trace(tmp_path, capsys):
    path = written(tmp_path, objectives=[CROSS_ENTROPY, DML])
    arguments = [path, "--floor", "--rounds", "1", "--trace", str(tmp_path / "trace.json")]
    assert bench.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("/ plain  / joint")
    assert lines[2] == ""
    assert lines[3].split() == ["cpu", "/", "plain", "/", "joint", "kernels", "plain", "joint", "syncs", *SPANS]
    assert lines[4].startswith("tiny")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = [event.get("name") for event in events]
    assert names.count("update") == 3
    assert {"loader", "forward", "losses", "backward", "optimizer", "meters", "aten::convolution"} <= set(names)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["pair.yaml", "trace.json"]
    assert bench.main(arguments) == 2
    assert "trace.json is there already" in capsys.readouterr().err
    assert bench.main([*arguments[:-1], str(tmp_path / "nowhere" / "trace.json")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_json_holds_the_floors_only_where_they_were_asked_for(tmp_path, capsys):
    arguments = [written(tmp_path), "--rounds", "1", "--json"]
    assert bench.main([*arguments, "--floor"]) == 0
    (floor,) = [each["floor"] for each in json.loads(capsys.readouterr().out)]
    assert set(floor) == {"seconds", "ratios", "cpu_ratios", "joint_left_out", "shares", "kernels", "num_host_syncs", "host_syncs"}
    assert set(floor["ratios"]) == {"plain", "joint"}
    assert bench.main(arguments) == 0
    assert json.loads(capsys.readouterr().out)[0]["floor"] is None


@pytest.mark.parametrize(
    "words", [["--floor", "--store"], ["--floor", "--placements"], ["--floor", "--predict", "2"], ["--trace", "f", "--predict", "2"]]
)
def test_options_that_do_not_go_together_are_refused_in_a_line(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.main(["recipe.yaml", *words])
    assert stopped.value.code == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.slow
def test_floors_are_measured_in_one_process(tmp_path):
    done = run("mutual.bench", written(tmp_path), "--floor", "--rounds", "1", processes=2, expect=1)  # of the launcher
    assert "--floor measures one process, and these are 2" in done.stderr
