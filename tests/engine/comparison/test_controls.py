"""Controls: what each recipe becomes, whose runs it reads, and what is said where it makes no sense."""

import pytest
import support
import torch
from support import tiny_document

import mutual
from mutual.engine import count_training_flops
from mutual.engine.comparison import CONTROLS, Arm, control_arms
from mutual.engine.comparison.control_recipes import labels_only, one_peer, recipe_key, stretched, with_smoothing
from mutual.engine.comparison.target_entropy import measure_target_entropy, smoothed_entropy, smoothing_of
from mutual.engine.costs import measured_training
from mutual.objectives import build_loss
from mutual.recipe import InputError, parse_recipe

TINY = {"model": "support:tiny"}
FROZEN = {**TINY, "frozen": True}
CE, DML, KD = {"loss": "cross_entropy"}, {"loss": "dml", "temperature": 4}, {"loss": "kd", "temperature": 2}


def recipe(peers, *objectives, **sections):
    peers = dict.fromkeys(peers, TINY) if isinstance(peers, str) else peers
    return parse_recipe(tiny_document(peers=peers, objectives=list(objectives), **sections))


def arm(name, *arguments, member="mean", **sections):
    return Arm(name, recipe(*arguments, **sections), member=member)


def plan(arms, *names, baseline=None, **options):
    return control_arms(arms, baseline or arms[0].name, names, **options)


def weights_of(found):
    return [(each.loss, each.weight, each.learners) for each in found.objectives]


def taught(**teacher):
    return {"s": TINY, "t": {**FROZEN, **teacher}}


def test_labels_alone_are_what_one_would_write_by_hand():
    by_hand = recipe("ab", CE)
    assert recipe_key(labels_only(recipe("ab", CE, DML, {"loss": "l2", "at": "body"}))) == recipe_key(by_hand)
    alone = labels_only(recipe(taught(), {**CE, "weight": 0.5}, {**KD, "weight": 0.5}))
    assert recipe_key(alone) == recipe_key(recipe("s", CE))
    assert recipe_key(labels_only(recipe(taught(), {"loss": "soft_label"}))) == recipe_key(recipe("s", CE))


def test_weights_of_labels_are_fractions_of_a_learner_s_largest():
    found = labels_only(recipe("ab", {**CE, "weight": 0.2, "label_smoothing": 0.1}, {"loss": "focal", "weight": 0.05}, DML))
    assert weights_of(found) == [("cross_entropy", 1.0, None), ("focal", 0.25, None)]
    assert found.objectives[0].label_smoothing == 0.1
    assert weights_of(labels_only(recipe(taught(), {**CE, "weight": 0.0}, KD))) == [("cross_entropy", 1.0, None)]
    several = labels_only(recipe("ab", {**CE, "weight": 0.5}, {"loss": "focal", "learners": ["b"]}, DML))
    assert weights_of(several) == [("cross_entropy", 1.0, ["a"]), ("cross_entropy", 0.5, ["b"]), ("focal", 1.0, ["b"])]


def test_who_learns_from_others_alone_learns_by_cross_entropy():
    found = labels_only(recipe("ab", {**CE, "learners": ["a"], "weight": 0.3}, {**DML, "learners": ["b"]}))
    assert weights_of(found) == [("cross_entropy", 1.0, ["a"]), ("cross_entropy", 1.0, ["b"])]
    several = {**tiny_document()["data"], "multi_label": True}
    assert weights_of(labels_only(recipe("ab", {"loss": "dml", "form": "sigmoid"}, data=several))) == [("bce", 1.0, None)]


def test_what_serves_the_method_alone_goes():
    pause = {"peer": "a", "versus": "b"}
    found = labels_only(recipe("ab", {**CE, "gate": "linear", "schedule": {"until_epoch": 1}}, DML, train={"epochs": 2, "pause": pause}))
    assert (found.train.pause, found.objectives[0].schedule, found.objectives[0].gate) == (None, None, "through")
    assert labels_only(recipe("ab", CE, DML, train={"update": "alternating"})).train.update == "simultaneous"
    own = labels_only(recipe("a", CE, {**KD, "sources": "ema"}, train={"ema": 0.9}))
    assert weights_of(own) == [("cross_entropy", 1.0, None)]


def test_controls_that_are_the_same_recipe_are_one_arm_and_read_runs_that_are_there():
    arms = [arm("plain", "ab", CE), arm("dml", "ab", CE, DML), arm("udml", "ab", CE, DML, {"loss": "l2", "at": "body"})]
    (control,) = plan(arms, "independent").arms
    assert (control.name, control.control, control.control_of) == ("dml-independent", "independent", ("dml", "udml"))
    assert control.runs_of == "plain"
    (control,) = plan(arms[1:], "independent").arms
    assert (control.runs_of, control.seed_offset, control.note) == (None, 0, "the same peers on labels alone")


def test_recipes_are_the_same_whatever_seed_and_name_the_comparison_gives_them():
    data = {**tiny_document()["data"], "subset": 20}  # drawn by the seed
    first, second = arm("dml", "ab", CE, DML, data=data), arm("udml", "ab", CE, DML, data=data, seed=7, output="other")
    assert recipe_key(first.recipe) == recipe_key(second.recipe)
    assert [each.control_of for each in plan([first, second], "independent").arms] == [("dml", "udml")]
    assert recipe_key(first.recipe) != recipe_key(recipe("ab", CE, DML, data={**data, "subset_seed": 7}))


def test_an_ensemble_reads_the_runs_of_the_independent_peers():
    arms = [arm("dml", "abc", CE, DML), arm("kd", taught(), CE, KD)]
    found = plan(arms, "ensemble")
    assert [(each.name, each.member, each.runs_of) for each in found.arms] == [
        ("dml-independent", "mean", None),
        ("kd-independent", "mean", None),
        ("dml-ensemble", "ensemble", "dml-independent"),
    ]
    assert found.arms[-1].note == "the 3 independent peers together: inference costs 3 times"
    assert found.notes == ["no ensemble of kd: one peer is trained, which makes no ensemble"]


def test_a_name_that_is_taken_is_not_given_again():
    names = [each.name for each in plan([arm("dml", "ab", CE, DML), arm("dml-independent", "a", CE)], "independent").arms]
    assert names == ["dml-independent-2"]


@pytest.mark.slow
def test_longer_is_one_peer_for_as_many_epochs_as_the_compute_gives():
    arms = [arm("dml", "ab", CE, DML), arm("three", "abc", CE, DML, member="c"), arm("kd", taught(), CE, KD)]
    pair, three, student = plan(arms, "longer", teacher_flops=None).arms
    assert (list(pair.recipe.peers), pair.recipe.train.epochs, pair.control_of) == (["a"], 4, ("dml",))
    assert pair.note == "one peer (a), 4 epochs in place of 2: 2 times its compute"
    assert (list(three.recipe.peers), three.recipe.train.epochs, three.member) == (["c"], 6, "c")
    ratio = count_training_flops(arms[2].recipe).flops / count_training_flops(student.recipe).per_epoch
    assert student.recipe.train.epochs == round(ratio) == 3
    assert "without the training of t" in student.note
    given = plan(arms[2:], "longer", teacher_flops=100 * count_training_flops(student.recipe).per_epoch).arms[0]
    assert given.recipe.train.epochs == 103
    assert "as given" in given.note


def test_a_longer_training_rises_and_falls_as_the_recipe_does():
    schedule = {"name": "multistep", "milestones": [2, 3], "warmup_epochs": 0.5}
    peers = {"a": {**TINY, "schedule": {"name": "step", "step_epochs": 2}}, "b": TINY}
    found = stretched(recipe(peers, CE, schedule=schedule, train={"epochs": 4, "eval_every": 2, "patience": 1}), 10)
    assert (found.schedule.milestones, found.schedule.warmup_epochs, found.schedule.step_epochs) == ([5, 7.5], 1.25, 30)
    assert found.peers["a"].schedule.step_epochs == 5
    assert (found.train.epochs, found.train.eval_every, found.train.patience) == (10, 5, 1)  # as many evaluations


def test_one_peer_keeps_what_it_learns():
    found = one_peer(recipe("ab", CE, {"loss": "focal", "learners": ["b"], "at": {"a": "logits", "b": "logits"}}), "b")
    assert weights_of(found) == [("cross_entropy", 1.0, None), ("focal", 1.0, None)]
    assert weights_of(one_peer(recipe("ab", CE, {"loss": "focal", "learners": ["b"]}), "a")) == [("cross_entropy", 1.0, None)]


@pytest.mark.slow
def test_a_random_teacher_has_initial_weights_and_trains(tmp_path):
    torch.save(support.TinyNet(4, 1, width=5).state_dict(), tmp_path / "t.pt")
    teacher = {
        "weights": str(tmp_path / "t.pt"),
        "input": {"mean": [0.25]},
        "expect": {"top1": 0.9},
        "store": {"folder": str(tmp_path / "store"), "topk": "all"},
    }
    kd = arm("kd", taught(**teacher, args={"width": 5}), CE, KD, output=str(tmp_path), train={"epochs": 1, "progress": False})
    (control,) = plan([kd], "random-teacher").arms
    peer = control.recipe.peers["t"]
    assert (peer.weights, peer.expect, peer.store, peer.args, peer.frozen) == (None, None, None, {"width": 5}, True)
    assert (peer.input.mean, peer.input.channels, peer.input.height_width) == ((0.25,), 1, (8, 8))
    assert control.note == "t with the initial weights of the seed, which nothing has trained"
    result = mutual.fit(control.recipe)
    assert result.history[-1]["epoch"] == 1
    assert not (tmp_path / "store").exists()


def test_only_a_frozen_teacher_can_be_random():
    found = plan(
        [arm("dml", "ab", CE, DML), arm("kd", {"s": TINY, "t": {"model": "program:t.pt2", "frozen": True}}, CE, KD)], "random-teacher"
    )
    assert found.arms == []
    assert found.notes == [
        "no random-teacher of dml: no teacher is frozen",
        "no random-teacher of kd: t is an exported program, which has no initial weights",
    ]


@pytest.mark.parametrize("eps", [0.0, 0.05, 0.7, 1.0])
def test_smoothing_has_the_entropy_of_our_smoothed_labels(eps):
    target = torch.full((1, 5), eps / 5, dtype=torch.float64)
    target[0, 2] += 1 - eps
    least = build_loss("cross_entropy", label_smoothing=eps)(target.clamp(min=1e-300).log(), None, torch.tensor([2]))  # of all predictions
    assert smoothed_entropy(eps, 5) == pytest.approx(least.item(), abs=1e-12)
    assert smoothing_of(smoothed_entropy(eps, 5), 5) == pytest.approx(eps, abs=1e-4)


def test_labels_are_smoothed_to_the_entropy_of_the_mixture_with_the_teacher():
    kd = recipe(taught(), {**CE, "weight": 0.5, "label_smoothing": 0.1}, {**KD, "weight": 1.5})
    found = measure_target_entropy(kd, {})
    assert (found.learners, found.num_classes) == (("s",), 4)
    probs, labels = _teacher_s_probabilities(kd, temperature=2.0)
    mixture = 0.75 * probs + 0.25 * (0.9 * torch.nn.functional.one_hot(labels, 4) + 0.025)
    assert found.sources == pytest.approx(torch.special.entr(probs).sum(dim=1).mean().item(), abs=1e-6)
    assert found.targets == pytest.approx(torch.special.entr(mixture).sum(dim=1).mean().item(), abs=1e-6)
    soft = measure_target_entropy(recipe(taught(), {"loss": "soft_label", "temperature": 2}), {})
    assert soft.sources == soft.targets == pytest.approx(found.sources, abs=1e-6)
    (control,) = plan([Arm("kd", kd)], "smoothing").arms
    (objective,) = control.recipe.objectives
    assert (objective.weight, list(control.recipe.peers)) == (1.0, ["s"])
    assert smoothed_entropy(objective.label_smoothing, 4) == pytest.approx(found.targets, abs=1e-3)
    assert control.note.startswith(f"label_smoothing {objective.label_smoothing:g}: labels have the entropy of the method's targets")


def test_several_teachers_are_mixed_by_their_weights():
    peers = {"s": TINY, "t": FROZEN, "u": FROZEN}
    one, mixed, ensemble, each = (
        measure_target_entropy(recipe(peers, *objectives), {})
        for objectives in (
            [CE, {**KD, "sources": ["t"]}],
            [CE, KD],
            [CE, {**KD, "sources": "ensemble"}],
            [CE, {**KD, "sources": ["t"], "weight": 0.5}, {**KD, "sources": ["u"], "weight": 0.5}],
        )
    )
    assert mixed == each
    assert len({one.sources, mixed.sources, ensemble.sources}) == 3


def test_what_reads_standardized_logits_is_measured_on_them():
    kd, skd, flat = (
        measure_target_entropy(recipe(taught(), CE, objective), {}).sources
        for objective in ({**KD, "standardize": True, "temperature": 1}, {"loss": "skd", "multiplier": 1.0}, {**KD, "temperature": 1})
    )
    assert kd == pytest.approx(skd)
    assert kd != pytest.approx(flat, abs=1e-3)


def test_peers_are_measured_as_they_are_evaluated(tmp_path):
    torch.save(support.TinyNet(4, 1).state_dict(), tmp_path / "net.pt")
    found = [
        measure_target_entropy(recipe({name: {**TINY, "args": args} for name in "ab"}, CE, DML), dict.fromkeys("ab", tmp_path / "net.pt"))
        for args in ({}, {"dropout": 0.9})
    ]
    assert found[0] == found[1]


def _teacher_s_probabilities(kd, *, temperature):
    with measured_training(kd) as (training, _), torch.no_grad():
        training.group.eval()
        batches = list(training.data.sample_batches(100, world_size=1, shard=(0, 1)))
        logits = [training.group.predict(batch.images, ["t"], global_batch_size=batch.num_valid)["t"] for batch in batches]
    assert all(batch.num_valid == len(batch.labels) for batch in batches)
    return (torch.cat(logits).double() / temperature).softmax(dim=1), torch.cat([batch.labels for batch in batches])


@pytest.mark.slow
def test_peers_that_are_trained_are_measured_when_their_runs_are_finished(tmp_path):
    dml = arm("dml", "ab", CE, DML, output=str(tmp_path), train={"epochs": 1, "progress": False})
    assert plan([dml], "smoothing").arms == plan([dml], "smoothing").notes == []
    missing = plan([dml], "smoothing", "independent", stage="after")
    assert (missing.arms, missing.notes) == ([], ["no smoothing of dml: none of its runs is finished"])
    runs = {seed: mutual.fit(dml.recipe.model_copy(update={"seed": seed, "name": f"dml-{seed}"})).folder for seed in (0, 1)}
    (control,) = plan([dml], "smoothing", "a/a", "longer", stage="after", finished={"dml": runs}).arms
    found = [
        measure_target_entropy(dml.recipe.model_copy(update={"seed": seed}), {name: run / "best" / f"{name}.safetensors" for name in "ab"})
        for seed, run in runs.items()
    ]
    smoothing = smoothing_of(sum(each.targets for each in found) / 2, 4)
    assert found[0].targets != found[1].targets
    assert [each.label_smoothing for each in control.recipe.objectives] == [smoothing]
    (runs[0] / "best" / "b.safetensors").unlink()
    with pytest.raises(InputError, match="missing"):
        plan([dml], "smoothing", stage="after", finished={"dml": runs})


def test_a_method_without_soft_labels_has_no_smoothing():
    features = arm("at", taught(), CE, {"loss": "l2", "at": "body"})
    several = arm("several", "ab", {"loss": "dml", "form": "sigmoid"}, data={**tiny_document()["data"], "multi_label": True})
    assert plan([features, several], "smoothing").notes == [
        "no smoothing of at: no loss reads the logits of peers or a teacher and nothing else",
        "no smoothing of several: images have several labels, which have no label smoothing",
    ]
    again = plan([features, several, arm("further", "ab", CE, DML, extended_from={"run": "runs/first"})], "smoothing", stage="after")
    assert again.arms == again.notes == []  # what was said before
    with pytest.raises(ValueError, match="another loss than cross_entropy"):
        with_smoothing(recipe("a", {"loss": "focal"}), {"a": 0.1})
    each = with_smoothing(recipe("ab", CE), {"a": 0.1})
    assert [(one.label_smoothing, one.learners) for one in each.objectives] == [(0.1, ["a"]), (0.0, ["b"])]


def test_the_baseline_under_other_seeds():
    arms = [arm("plain", "a", CE), arm("kd", taught(), CE, KD)]
    (control,) = plan(arms, "a/a", baseline="kd").arms
    assert (control.name, control.control, control.control_of) == ("kd-a-a", "a/a", ("kd",))
    assert control.recipe == arms[1].recipe
    assert (control.seed_offset, control.runs_of) == (1_000_000, None)


def test_what_no_control_is_for_is_said_in_a_line():
    alone = arm("plain", "a", CE)
    assert plan([alone], "independent").notes == ["independent: no arm learns from peers or a teacher"]
    two = [arm("kd", taught(), CE, KD), arm("soft", taught(), {"loss": "soft_label"})]
    assert plan(two, "ensemble").notes == ["no ensemble of kd, soft: one peer is trained, which makes no ensemble"]
    further = arm("further", "ab", CE, DML, extended_from={"run": "runs/first"})
    assert plan([further], "longer").notes == ["no longer of further: it goes on from another run"]
    controls = plan([arm("dml", "ab", CE, DML)], "independent").arms
    assert plan([alone, *controls], "independent").arms == []
    with pytest.raises(InputError, match="'longre' is no control; did you mean 'longer'"):
        plan([alone], "longre")
    with pytest.raises(InputError, match="'plan' is no arm; did you mean 'plain'"):
        plan([alone], baseline="plan")
    assert list(CONTROLS) == ["independent", "longer", "ensemble", "random-teacher", "smoothing", "a/a"]
