"""What a list of PaddleClas' losses trains, the objectives train: each trained model's gradient is that of their sum."""

from inspect import cleandoc

import plain_paddleclas
import pytest
import torch
import yaml
from support import tiny_document

from mutual.group.edges import expand_objectives
from mutual.objectives import build_loss
from mutual.recipe import parse_recipe
from mutual.recipe.paddleclas.architectures import Model
from mutual.recipe.paddleclas.losses import convert_losses
from mutual.recipe.paddleclas.section import Notes, Section

SHAPES = {"logits": (5,), "low": (3, 4, 4), "high": (4, 2, 2), "avg_pool": (6, 1, 1)}
WITH_ADAPTERS = ("mgd", "pefd", "afd")


def models(trained, frozen):
    """Models whose outputs are called otherwise by `at`, so that one in the other's place shows."""
    outputs = {name: f"body.{name}" for name in SHAPES if name != "logits"}
    peers = [Model(name, {"model": "support:double"}, 5, outputs=outputs) for name in trained]
    return peers + [Model(name, {"model": "support:double", "frozen": True}, 5, outputs=outputs) for name in frozen]


def converted(text, trained="ab", frozen="t", *, has_several_labels=False):
    """The losses of a config's text, and what they are converted into: objectives, models, and notes."""
    losses, notes, peers = yaml.safe_load(cleandoc(text)), Notes(), models(trained, frozen)
    section = Section({"Train": losses}, "Loss", notes)
    objectives = convert_losses(section, peers, {"multi_label": has_several_labels})
    section.name_untaken()
    return losses, objectives, peers, notes


def leaves(names, seed):
    """Each model's outputs, by their name and by what `at` calls them: the same tensors."""
    generator = torch.Generator().manual_seed(seed)
    outputs = {}
    for name in names:
        values = {key: torch.randn(6, *shape, generator=generator, dtype=torch.float64).requires_grad_() for key, shape in SHAPES.items()}
        outputs[name] = values | {f"body.{key}": value for key, value in values.items() if key != "logits"}
    return outputs


def our_losses(objectives, peers, outputs, labels):
    """The weighted losses of all edges that a group has, and their adapters."""
    document = tiny_document(peers={peer.name: dict(peer.document) for peer in peers}, objectives=objectives)
    document["data"] |= {"multi_label": labels.is_floating_point()}
    losses, adapters = [], []
    for edge in expand_objectives(parse_recipe(document)):
        learner = [outputs[edge.learner][path] for path in edge.learner_at]
        source = [outputs[name][path] for name, paths in zip(edge.sources, edge.source_at, strict=True) for path in paths]
        shapes = {}
        if edge.objective.loss in WITH_ADAPTERS:
            torch.manual_seed(0)
            shapes = {"learner_shape": tuple(learner[0].shape[1:]), "source_shape": tuple(source[0].shape[1:])}
        loss = build_loss(edge.objective.loss, **edge.objective.loss_arguments(), **shapes).double()
        adapters += [loss.adapter] if shapes else []
        torch.manual_seed(1)
        losses.append(edge.weight * loss(learner[0], source[0] if source else None, labels))
    return losses, adapters


def gradients(loss, outputs, trained):
    """The gradient for every output of the trained models; zero where there is none."""
    wanted = [(name, key) for name in trained for key in SHAPES]
    found = torch.autograd.grad(loss, [outputs[name][key] for name, key in wanted], allow_unused=True)
    return {each: torch.zeros(()) if value is None else value for each, value in zip(wanted, found, strict=True)}


def assert_equal_gradients(text, *, trained="ab", frozen="t", labels=None, but=()):
    labels = torch.tensor([0, 1, 2, 3, 4, 0]) if labels is None else labels
    losses, objectives, peers, notes = converted(text, trained, frozen, has_several_labels=labels.is_floating_point())
    for seed in range(2):
        outputs = leaves([*trained, *frozen], seed)
        ours, adapters = our_losses(objectives, peers, outputs, labels)
        torch.manual_seed(1)
        theirs = plain_paddleclas.total(losses, outputs, labels, adapters)
        expected = gradients(theirs, outputs, trained)
        for end, found in gradients(sum(ours), outputs, trained).items():
            if end[0] not in but:  # where they divide by deviations, each adds another epsilon
                assert (found - expected[end]).norm() <= 1e-5 * expected[end].norm(), end
        assert any(value.any() for value in expected.values())
    return objectives, notes


def test_one_model_and_its_labels():
    assert_equal_gradients("- CELoss: {weight: 1.0, epsilon: 0.1}", trained="a", frozen="")
    assert_equal_gradients("- MixCELoss: {weight: 1.0, epsilon: 0.2}", trained="a", frozen="")


def test_the_only_loss_has_no_weight():
    _, notes = assert_equal_gradients("- CELoss: {weight: 3.0}", trained="a", frozen="")
    assert notes.remarks == ["Loss.Train.0.CELoss.weight: 3.0 is not applied, there as here: the list's only loss has the weight 1"]


def test_the_only_loss_has_its_first_value_alone():
    text = "- DistillationDMLLoss: {weight: 2.0, model_name_pairs: [[a, b], [a, t]]}"
    objectives, notes = assert_equal_gradients(text)
    assert objectives == [{"loss": "dml", "weight": 1.0, **each, "form": "js"} for each in (ends("a", "b"), ends("b", "a"))]
    assert "of the list's only loss their sum has the first value alone, there as here: a <- b, b <- a" in notes.remarks[1]


def ends(learner, source):
    return {"learners": [learner], "sources": [source]}


FLAGS = torch.tensor([[0.0, 1, 0, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [0, 0, 1, 0, 1], [1, 1, 0, 0, 0]]).double()


def test_several_labels():
    text = """
        - DistillationMultiLabelLoss: {weight: 0.5, model_names: [a, b], size_sum: true}
        - DistillationDMLLoss: {weight: 2.0, act: sigmoid, sum_across_class_dim: true, model_name_pairs: [[a, b], [b, t]]}
    """
    assert_equal_gradients(text, labels=FLAGS)
    assert_equal_gradients(text.replace("act: sigmoid, ", ""), labels=FLAGS)
    assert_equal_gradients("- MultiLabelLoss: {weight: 1.0, size_sum: true}", trained="a", frozen="", labels=FLAGS)
    assert_equal_gradients("- MultiLabelLoss: {weight: 1.0}", trained="a", frozen="", labels=FLAGS)


TRUTH = "- DistillationGTCELoss: {weight: 1.0, model_names: [a, b]}"
PAIRS = {
    "both trained": "[[a, b]]",
    "one frozen": "[[a, t]]",
    "one frozen, before": "[[t, a]]",
    "both ways": "[[a, b], [b, a]]",
    "all three": "[[a, b], [b, t], [a, t]]",
}


@pytest.mark.parametrize("pairs", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize(
    "loss",
    [
        "DistillationDMLLoss: {weight: 0.7, ",
        "DistillationDMLLoss: {weight: 0.7, sum_across_class_dim: true, ",
        "DistillationDistanceLoss: {weight: 0.7, key: low, ",
        "DistillationDistanceLoss: {weight: 0.7, mode: l1, key: high, ",
        "DistillationDistanceLoss: {weight: 0.7, mode: smooth_l1, delta: 0.3, key: high, ",
        "DistillationDISTLoss: {weight: 2.0, beta: 0.4, gamma: 3.0, ",
        "DistillationKLDivLoss: {weight: 0.9, ",
        "DistillationKLDivLoss: {weight: 0.9, temperature: 2.0, key: logits, ",
        "DistillationCELoss: {weight: 0.6, ",
        "DistillationDKDLoss: {weight: 0.6, ",
        "DistillationDKDLoss: {weight: 0.6, temperature: 4.0, alpha: 0.5, beta: 8.0, ",
        "DistillationRKDLoss: {weight: 0.3, student_keepkeys: [low, logits], teacher_keepkeys: [high, logits], ",
    ],
)
def test_pairs(loss, pairs):
    assert_equal_gradients(f"{TRUTH}\n- {loss}model_name_pairs: {pairs}}}")


@pytest.mark.parametrize(
    "loss",
    [
        "DistillationWSLLoss: {weight: 2.5, ",
        "DistillationWSLLoss: {weight: 2.5, temperature: 4, ",
        "DistillationSKDLoss: {weight: 0.7, ",
        "DistillationSKDLoss: {weight: 0.7, temperature: 2.0, multiplier: 3.0, alpha: 0.4, ",
        "DistillationPairLoss: {weight: 0.2, base_loss_name: MGDLoss, s_key: low, t_key: low, student_channels: 3, teacher_channels: 3, ",
        "DistillationPairLoss: {weight: 25.0, base_loss_name: PEFDLoss, s_key: avg_pool, t_key: avg_pool, student_channel: 6, ",
        "DistillationPairLoss: {weight: 9.0, base_loss_name: ATLoss, s_key: [low, high], t_key: [low, high], ",
    ],
)
def test_losses_of_a_frozen_teacher(loss):
    _, notes = assert_equal_gradients(f"{TRUTH}\n- {loss}model_name_pairs: [[a, t]]}}")
    assert notes.left_out == []


@pytest.mark.parametrize(
    "loss",
    ["WSLLoss: {weight: 1.0", "SKDLoss: {weight: 1.0", "PairLoss: {weight: 1.0, base_loss_name: MGDLoss, s_key: low, t_key: low"],
)
def test_a_gradient_for_the_teacher_that_has_no_counterpart_is_named(loss):
    _, notes = assert_equal_gradients(f"{TRUTH}\n- Distillation{loss}, model_name_pairs: [[a, b]]}}", but="b")
    (line,) = notes.left_out
    assert line.endswith("model_name_pairs: [a, b]: their loss has a gradient for b, which is trained, too; here it trains a alone")


def test_a_pair_that_stands_twice_counts_twice_where_their_sum_tells_it_apart():
    objectives, _ = assert_equal_gradients(f"{TRUTH}\n- DistillationDMLLoss: {{weight: 0.5, model_name_pairs: [[a, t], [a, t]]}}")
    assert objectives[1]["weight"] == 1.0
    objectives, _ = assert_equal_gradients(f"{TRUTH}\n- DistillationKLDivLoss: {{weight: 0.5, model_name_pairs: [[a, t], [a, t]]}}")
    assert objectives[1]["weight"] == 0.5


def test_of_two_values_of_one_name_the_later_one_is_trained_with():
    distance = "DistillationDistanceLoss: {weight: %s, key: %s, model_name_pairs: [[a, b]]}"
    both = f"{TRUTH}\n- {distance % (1.0, 'low')}\n- {distance % (0.5, 'high')}"
    objectives, notes = assert_equal_gradients(both)
    assert [objective.get("at") for objective in objectives] == [None, "body.high", "body.high"]
    (line,) = notes.remarks
    assert line.startswith("Loss.Train.1.DistillationDistanceLoss: trains nothing, there as here (a <- b, b <- a): Loss.Train.2.")
    objectives, notes = assert_equal_gradients(both.replace("key: high", "key: high, name: other_"))
    assert [objective.get("at") for objective in objectives] == [None, *["body.low"] * 2, *["body.high"] * 2]
    assert notes.remarks == []


def test_ground_truth_given_twice_counts_once():
    objectives, _ = assert_equal_gradients(f"{TRUTH}\n- DistillationGTCELoss: {{weight: 5.0, model_names: [b], key: logits}}")
    assert [(objective["learners"], objective["weight"]) for objective in objectives] == [(["a"], 1.0), (["b"], 5.0)]
