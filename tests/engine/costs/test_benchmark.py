"""The benchmark counts memory and compares recipes in turn; its times are not asserted."""

import json
from dataclasses import replace

import pytest
import torch
import yaml
from support import TinyNet, run, tiny_document

from mutual import bench
from mutual.bench import table
from mutual.engine import Link, compare_costs, store_variants
from mutual.engine.costs import Links, PeerProfile, predict_cost
from mutual.group import TransferPlan, expand_objectives, parallel, replicated
from mutual.recipe import RecipeError, parse_recipe

ALONE = {"peers": {"a": {"model": "support:tiny"}}, "objectives": [{"loss": "cross_entropy"}]}


def test_twins_cost_the_same_memory_and_two_peers_twice_that_of_one():
    pair = {"peers": dict.fromkeys("ab", ALONE["peers"]["a"]), "objectives": ALONE["objectives"]}
    one, twin, two = compare_costs([parse_recipe(tiny_document(**sections)) for sections in (ALONE, ALONE, pair)], rounds=2)
    assert (one.step_ratio, one.memory_ratio) == (1, 1)
    assert (twin.state_bytes, twin.saved_bytes) == (one.state_bytes, one.saved_bytes)
    assert two.state_bytes == 2 * one.state_bytes
    assert one.saved_bytes > 0


def test_the_state_is_weights_gradients_and_momentum():
    (cost,) = compare_costs([parse_recipe(tiny_document(**ALONE))], rounds=1)
    parameters = (4 * 9 + 4) + (16 * 9 + 4) + (16 + 4)
    assert cost.state_bytes == 3 * 4 * parameters


def test_a_frozen_teacher_saves_nothing_and_an_adapter_adds():
    peers = {"a": {"model": "support:tiny"}, "t": {"model": "support:tiny", "frozen": True}}
    kd, hint = (
        parse_recipe(tiny_document(name=objective["loss"], peers=peers, objectives=[{"loss": "cross_entropy"}, objective]))
        for objective in ({"loss": "kd"}, {"loss": "hint", "at": "body"})
    )
    alone, taught, regressed = compare_costs([parse_recipe(tiny_document(**ALONE)), kd, hint], rounds=1)
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


@pytest.mark.parametrize("channels_last", [True, False])
def test_updates_and_profiles_are_measured_in_the_memory_format_that_is_trained(monkeypatch, channels_last):
    is_channels_last, forward = [], TinyNet.forward

    def recording(self, images):
        if len(images) > 2:  # not when the group is built
            is_channels_last.append(images.is_contiguous(memory_format=torch.channels_last))
        return forward(self, images)

    monkeypatch.setattr(TinyNet, "forward", recording)
    data = {**tiny_document()["data"], "channels": 3}
    compare_costs([parse_recipe(tiny_document(**ALONE, data=data, train={"channels_last": channels_last}))], rounds=1, predicts=True)
    assert set(is_channels_last) == {channels_last}


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
    for cost in (replicated, parallel):
        predicted = cost["predicted"]
        assert predicted["gradient_bytes"] == pytest.approx(cost["gradient_bytes"])
        assert predicted["exchange_bytes"] == cost["exchange_bytes"]
        assert predicted["memory_bytes"] == pytest.approx(cost["state_bytes"] + cost["saved_bytes"], rel=0.2)


PROFILE = PeerProfile(fixed_seconds=1.0, image_seconds=0.5, step_seconds=0.25, gradient_bytes=1000, state_bytes=3000, saved_bytes=10.0)


def predicted(size, placement, *, replicas, all_ranks, frozen=False, **sections):
    """What two such peers, or a student and a teacher, are expected to take on `size` ranks of 4 images each, logits of 4 classes."""
    recipe = parse_recipe(
        tiny_document(**{"peers": {"a": {"model": "support:tiny"}, "b": {"model": "support:tiny", "frozen": frozen}}, **sections})
    )
    placed = replicated(recipe, size) if placement == "replicated" else parallel(recipe, size, {"a": 1.0, "b": 1.0})
    specs = {(name, "logits"): ((4,), torch.float32) for name in "ab"}
    return predict_cost(
        placed,
        TransferPlan.of(placed, expand_objectives(recipe), specs, dtype="exact"),
        {"a": PROFILE, "b": PROFILE},
        Links(replicas, all_ranks),
        batch_size=4,
        accumulate=2,
        backward=recipe.train.backward,
    )


def test_a_teacher_that_two_ranks_share_costs_each_half_of_the_images():
    """By hand: each rank trains its peer on 8 images and computes 4 of the teacher's; their logits travel, 16 bytes an image."""
    peers = {name: {"model": "support:tiny", "frozen": name == "t"} for name in "abt"}
    recipe = parse_recipe(tiny_document(peers=peers, objectives=[{"loss": "cross_entropy"}, {"loss": "kd", "sources": ["t"]}]))
    placed = parallel(recipe, 2, dict.fromkeys("abt", 1.0))
    plan = TransferPlan.of(placed, expand_objectives(recipe), {(name, "logits"): ((4,), torch.float32) for name in "abt"}, dtype="exact")
    frozen = replace(PROFILE, step_seconds=0.0, gradient_bytes=0)
    free = Link(latency=0.0, bandwidth=float("inf"))
    found = predict_cost(placed, plan, {"a": PROFILE, "b": PROFILE, "t": frozen}, Links(free, free), batch_size=4, accumulate=1)
    assert found.step_seconds == pytest.approx((1 + 8 * 0.5 + 0.25) + (1 + 4 * 0.5))
    assert found.exchange_bytes == 4 * 16


def test_a_prediction_is_the_computation_and_what_the_link_takes():
    """By hand: W = 4 ranks, N = 2 peers, b = 4 images, k = 2 micro-batches, P = 1000 bytes of gradients, 16 bytes of logits an image."""
    links = {"replicas": Link(latency=2.0, bandwidth=100.0), "all_ranks": Link(latency=3.0, bandwidth=10.0)}
    found = predicted(4, "replicated", **links)
    assert found.gradient_bytes == 2 * 2 * 3 / 4 * 1000
    assert found.exchange_bytes == 0
    assert found.memory_bytes == 2 * (3000 + 4 * 10)
    assert predicted(4, "replicated", **links, train={"backward": "per_peer"}).memory_bytes == 2 * 3000 + 4 * 10
    assert found.step_seconds == pytest.approx(2 * (2 * (1 + 4 * 0.5) + 0.25) + 3000 / 100 + 2 * 2.0)
    found = predicted(4, "parallel", **links)
    assert found.gradient_bytes == 2 * 1 / 2 * 1000
    assert found.exchange_bytes == 2 * 8 * 16, "each rank sends what its peer says of 8 images to one rank of the other"
    assert found.memory_bytes == 3000 + 8 * 10
    assert found.step_seconds == pytest.approx(2 * (1 + 8 * 0.5) + 0.25 + 1000 / 100 + 2.0 + 256 / 10 + 2 * 3.0)


def test_a_frozen_peer_is_predicted_beside_its_learner():
    found = predicted(
        2,
        "parallel",
        replicas=Link(0.0, 1e9),
        all_ranks=Link(0.0, 1e9),
        frozen=True,
        objectives=[{"loss": "cross_entropy"}, {"loss": "kd"}],
    )
    assert found.exchange_bytes == 0
    assert found.memory_bytes == 2 * (3000 + 4 * 10)


def test_updates_are_forecast_for_more_ranks_than_there_are(tmp_path, capsys):
    (tmp_path / "pair.yaml").write_text(yaml.safe_dump(tiny_document()))
    assert bench.main([str(tmp_path / "pair.yaml"), "--predict", "2,64", "--bandwidth", "0.001", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["processes"], each["placement"]) for each in found] == [
        (2, "replicated"),
        (2, "parallel"),
        (64, "replicated"),
        (64, "parallel"),
    ]
    parameters = 2 * 208
    assert found[0]["prediction"]["gradient_bytes"] == 8 * parameters
    assert found[1]["prediction"]["gradient_bytes"] == 0
    assert found[2]["prediction"]["gradient_bytes"] == pytest.approx(2 * 63 / 64 * 8 * parameters)
    assert found[3]["prediction"]["gradient_bytes"] == pytest.approx(2 * 31 / 32 * 4 * parameters)
    assert found[2]["prediction"]["step_seconds"] > found[3]["prediction"]["step_seconds"], "1 MB/s"
    assert bench.main([str(tmp_path / "pair.yaml"), "--predict", "8"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:3] == ["tiny", "8", "parallel"]
    with pytest.raises(SystemExit):
        bench.main([str(tmp_path / "pair.yaml"), "--predict", "0"])
    assert "argument --predict: invalid ranks value: '0'" in capsys.readouterr().err


STORED = {
    "a": {"model": "support:tiny"},
    "b": {"model": "support:tiny"},
    "t": {"model": "support:tiny", "args": {"width": 32}, "frozen": True},
}


def test_a_recipe_is_compared_with_its_students_alone_and_with_its_teacher_in_a_store(tmp_path):
    distilled = [{"loss": "dml", "learners": ["a"], "sources": ["b"]}, {"loss": "kd", "sources": ["t"]}]
    recipe = parse_recipe(tiny_document(peers=STORED, objectives=distilled))
    alone, computed, stored = store_variants(recipe, tmp_path)
    assert [each.name for each in (alone, computed, stored)] == ["tiny-alone", "tiny-computed", "tiny-stored"]
    assert list(alone.peers) == ["a", "b"]
    assert [objective.loss for objective in alone.objectives] == ["dml", "cross_entropy"], "b has nothing else to learn from"
    assert computed == recipe.model_copy(update={"name": "tiny-computed"})
    assert stored.stores["t"].folder == str(tmp_path / "t")
    costs = compare_costs([alone, computed, stored], rounds=1)
    assert [cost.store_bytes for cost in costs] == [0, 0, 16 + 4 + 2 * 4], "ten of four classes are all"
    assert len(list((tmp_path / "t").glob("shard_*"))) == 1
    assert "store B/view" in table(costs)
    assert "store B/view" not in table(costs[:2])


def test_a_recipe_without_a_teacher_has_nothing_to_store(tmp_path):
    with pytest.raises(RecipeError, match="none is frozen"):
        store_variants(parse_recipe(tiny_document()), tmp_path)
