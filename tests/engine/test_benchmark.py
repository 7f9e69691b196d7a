"""The benchmark counts memory and compares recipes in turn; its times are not asserted."""

import json

import pytest
import yaml
from support import run, tiny_document

from mutual import bench
from mutual.engine import compare
from mutual.recipe import parse_recipe

ALONE = {"peers": {"a": {"model": "support:tiny"}}, "objectives": [{"loss": "cross_entropy"}]}


def test_twins_cost_the_same_memory_and_two_peers_twice_that_of_one():
    pair = {"peers": dict.fromkeys("ab", ALONE["peers"]["a"]), "objectives": ALONE["objectives"]}
    one, twin, two = compare([parse_recipe(tiny_document(**sections)) for sections in (ALONE, ALONE, pair)], rounds=2)
    assert (one.step_ratio, one.memory_ratio) == (1, 1)
    assert (twin.state_bytes, twin.saved_bytes) == (one.state_bytes, one.saved_bytes)
    assert two.state_bytes == 2 * one.state_bytes
    assert one.saved_bytes > 0


def test_the_state_is_weights_gradients_and_momentum():
    (cost,) = compare([parse_recipe(tiny_document(**ALONE))], rounds=1)
    parameters = (4 * 9 + 4) + (16 * 9 + 4) + (16 + 4)
    assert cost.state_bytes == 3 * 4 * parameters


def test_a_frozen_teacher_saves_nothing_and_an_adapter_adds():
    peers = {"a": {"model": "support:tiny"}, "t": {"model": "support:tiny", "frozen": True}}
    kd, hint = (
        parse_recipe(tiny_document(name=objective["loss"], peers=peers, objectives=[{"loss": "cross_entropy"}, objective]))
        for objective in ({"loss": "kd"}, {"loss": "hint", "at": "body"})
    )
    alone, taught, regressed = compare([parse_recipe(tiny_document(**ALONE)), kd, hint], rounds=1)
    assert taught.saved_bytes - alone.saved_bytes < alone.saved_bytes / 4
    assert regressed.state_bytes - taught.state_bytes == 3 * 4 * (16 + 4)


def test_the_verb_prints_ratios(tmp_path, capsys):
    for name in ("first", "second"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(tiny_document(**{**ALONE, "name": name})))
    paths = [str(tmp_path / "first.yaml"), str(tmp_path / "second.yaml")]
    assert bench.main([*paths, "--rounds", "1", "data.batch_size=4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("first")
    assert lines[2].startswith("second")
    assert bench.main([paths[0], "--rounds", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["step_ratio"] == 1
    assert bench.main(["nowhere.yaml"]) == 2
    with pytest.raises(SystemExit):
        bench.main(["train.epochs=1"])


@pytest.mark.slow
def test_both_placements_are_measured_side_by_side(tmp_path):
    peers = {name: {"model": "support:tiny"} for name in "ab"}
    (tmp_path / "pair.yaml").write_text(yaml.safe_dump(tiny_document(peers=peers)))
    done = run("mutual.bench", tmp_path / "pair.yaml", "--placements", "--rounds", "2", "--json", processes=2)
    replicated, parallel = json.loads(done.stdout.splitlines()[-1])
    assert (replicated["placement"], parallel["placement"]) == ("replicated", "parallel")
    assert replicated["state_bytes"] == 2 * parallel["state_bytes"]
    assert (replicated["exchange_bytes"], parallel["gradient_bytes"]) == (0, 0)
    assert parallel["exchange_bytes"] == 16 * 4 * 4, "the logits of 16 images, 4 classes, float32"
