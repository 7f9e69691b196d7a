"""The section Loss of a config as objectives: what each says, what is named, and what is an error."""

from inspect import cleandoc

import pytest
import yaml

from mutual.recipe import RecipeError
from mutual.recipe.paddleclas.architectures import Model
from mutual.recipe.paddleclas.losses import convert_losses
from mutual.recipe.paddleclas.section import Notes, Section


def convert(text, *models, data=None):
    """The objectives of a config's losses, and its notes."""
    notes = Notes()
    section = Section(yaml.safe_load(cleandoc(text)), "Loss", notes)
    objectives = convert_losses(section, models or (TEACHER, STUDENT), data)
    section.name_untaken()
    return objectives, notes


def model(name, *, frozen=False, **more):
    return Model(name, {"model": "m"} | ({"frozen": True} if frozen else {}), 10, **more)


STUDENT = model("Student", outputs={"blocks[1]": "blocks.1", "blocks[7]": "blocks.7", "avg_pool": "avg_pool"})
TEACHER = model("Teacher", frozen=True, outputs={"blocks[3]": "blocks.3", "blocks[15]": "blocks.15", "avg_pool": "avg_pool"})
TAUGHT = {"learners": ["Student"], "sources": ["Teacher"]}
TRUTH = {"loss": "cross_entropy", "weight": 1.0, "learners": ["Student"]}


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("CELoss: {weight: 0.5}", {"loss": "soft_label", "weight": 0.5, "temperature": 1.0}),
        ("DMLLoss: {weight: 2.0}", {"loss": "dml", "weight": 2.0, "form": "js"}),
        ("DMLLoss: {weight: 2.0, act: sigmoid, name: x}", {"loss": "dml", "weight": 2.0, "form": "sigmoid_present"}),
        ("DMLLoss: {weight: 2.0, sum_across_class_dim: true}", {"loss": "dml", "weight": 20.0, "form": "js"}),
        ("DistanceLoss: {weight: 1.0}", {"loss": "l2", "weight": 1.0}),
        ("DistanceLoss: {weight: 1.0, mode: l1, key: avg_pool}", {"loss": "l1", "weight": 1.0, "at": "avg_pool"}),
        ("DistanceLoss: {weight: 1.0, mode: smooth_l1, delta: 2.0}", {"loss": "smooth_l1", "weight": 2.0, "beta": 2.0}),
        ("KLDivLoss: {weight: 0.9, key: output}", {"loss": "kd", "weight": 0.9, "temperature": 4.0}),
        ("DKDLoss: {weight: 1.0, temperature: 1}", {"loss": "dkd", "weight": 1.0, "temperature": 1.0, "alpha": 1.0, "beta": 1.0}),
        ("WSLLoss: {weight: 2.5}", {"loss": "wsl", "weight": 2.5, "temperature": 2.0}),
        ("SKDLoss: {weight: 1.0}", {"loss": "skd", "weight": 1.0, "temperature": 1.0, "multiplier": 2.0, "alpha": 0.9}),
        ("DISTLoss: {weight: 2.0, beta: 3}", {"loss": "dist", "weight": 2.0, "beta": 3.0, "gamma": 1.0}),
        (
            "PairLoss: {weight: 1.0, base_loss_name: MGDLoss, s_key: 'blocks[7]', t_key: 'blocks[15]', student_channels: 4}",
            {"loss": "mgd", "at": {"Student": "blocks.7", "Teacher": "blocks.15"}, "weight": 1.0, "alpha_mgd": 1.756, "lambda_mgd": 0.15},
        ),
        (
            "PairLoss: {weight: 1.0, base_loss_name: MGDLoss, s_keys: ['blocks[7]'], t_keys: ['blocks[15]'], student_channels: 4}",
            {"loss": "mgd", "at": {"Student": "blocks.7", "Teacher": "blocks.15"}, "weight": 1.0, "alpha_mgd": 1.756, "lambda_mgd": 0.15},
        ),
        (
            "PairLoss: {weight: 25.0, base_loss_name: PEFDLoss, s_key: avg_pool, t_key: avg_pool, num_projectors: 2}",
            {"loss": "pefd", "weight": 25.0, "at": "avg_pool", "num_projectors": 2},
        ),
    ],
)
def test_a_loss_between_a_student_and_a_frozen_teacher_is_one_objective(loss, expected):
    name, arguments = loss.split(": ", 1)
    truth = "{DistillationGTCELoss: {weight: 1.0, model_names: [Student]}}"
    pair = f"{{Distillation{name}: {arguments[:-1]}, model_name_pairs: [[Student, Teacher]]}}}}"
    objectives, notes = convert(f"Train: [{truth}, {pair}]\nEval: [CELoss: {{weight: 1.0}}]")
    assert objectives == [TRUTH, TAUGHT | expected]
    assert notes.left_out == []
    assert "Loss.Eval" in notes.unneeded


def test_relations_are_of_angles_and_of_distances():
    objectives, notes = convert("""
        Train:
          - DistillationGTCELoss: {weight: 1.0, model_names: [Student]}
          - DistillationRKDLoss:
              weight: 0.5
              avgpool: false
              model_name_pairs: [[Student, Teacher]]
              student_keepkeys: ["blocks[1]", "blocks[7]"]
              teacher_keepkeys: ["blocks[3]", "blocks[15]"]
    """)
    layers = [{"Student": "blocks.1", "Teacher": "blocks.3"}, {"Student": "blocks.7", "Teacher": "blocks.15"}]
    relations = [{"loss": loss, "weight": 0.5, **TAUGHT, "at": at} for loss in ("rkd_angle", "rkd_distance") for at in layers]
    assert objectives == [TRUTH, *relations]
    assert notes.left_out == []


def test_attention_reads_the_layers_of_the_models_transforms():
    student = model("Student", attention={"paths": ["blocks.0", "blocks.1"], "qk_dim": 64})
    teacher = model("Teacher", frozen=True, attention={"paths": ["blocks.0", "blocks.2", "blocks.5"], "qk_dim": 64})
    text = """
        Train:
          - DistillationGTCELoss: {weight: 1.0, model_names: [Student], key: logits}
          - AFDLoss:
              weight: 50.0
              model_name_pair: [Student, Teacher]
              student_keys: [bilinear_key, value]
              teacher_keys: [query, value]
              s_shapes: [[64, 56, 56], [64, 56, 56]]
              t_shapes: [[64, 56, 56], [128, 28, 28], [256, 14, 14]]
    """
    objectives, notes = convert(text, teacher, student)
    at = {"Student": ["blocks.0", "blocks.1"], "Teacher": ["blocks.0", "blocks.2", "blocks.5"]}
    assert objectives == [TRUTH, {"loss": "afd", "weight": 50.0, **TAUGHT, "at": at, "qk_dim": 64}]
    assert notes.left_out == []
    with pytest.raises(RecipeError, match="Student is no AttentionModel with a LinearTransform, which AFDLoss reads"):
        convert(text, teacher, STUDENT)


def test_three_models_that_learn_from_each_other_are_one_objective():
    text = """
        Train:
          - DistillationGTCELoss: {weight: 1.0, model_names: [a, b, c], epsilon: 0.1}
          - DistillationDMLLoss: {weight: 1.0, model_name_pairs: [[a, b], [b, c], [a, c]]}
    """
    objectives, _ = convert(text, *map(model, "abc"))
    assert objectives == [
        {"loss": "cross_entropy", "weight": 1.0, "learners": ["a", "b", "c"], "label_smoothing": 0.1},
        {"loss": "dml", "weight": 1.0, "learners": ["a", "b", "c"], "reduce": "sum", "form": "js"},
    ]
    objectives, _ = convert(text.replace(", [a, c]", ""), *map(model, "abc"))
    dml = {"loss": "dml", "weight": 1.0, "form": "js"}
    assert objectives[1:] == [
        dml | {"learners": ["a", "c"], "sources": ["b"]},
        dml | {"learners": ["b"], "sources": ["a", "c"], "reduce": "sum"},
    ]


def test_a_model_that_no_loss_trains_is_frozen():
    untrained = model("Teacher")
    objectives, notes = convert("Train: [DistillationGTCELoss: {weight: 1.0, model_names: [Student, Teacher]}]", STUDENT, untrained)
    assert objectives == [TRUTH]
    assert untrained.document["frozen"] is True
    assert notes.remarks[-1] == "Loss.Train: no loss trains Teacher, there as here, so that it is frozen"


def test_a_loss_that_cannot_train_anything_frozen_is_remarked():
    truth = "DistillationGTCELoss: {weight: 1.0, model_names: [Student, Teacher]}"
    objectives, notes = convert(f"""
        Train:
          - {truth}
          - DistillationKLDivLoss: {{weight: 1.0, model_name_pairs: [[Teacher, Student]]}}
    """)
    assert objectives == [TRUTH]
    assert notes.remarks == [
        "Loss.Train.0.DistillationGTCELoss.model_names: Teacher is frozen, so that the loss trains nothing of it, there as here",
        "Loss.Train.1.DistillationKLDivLoss.model_name_pairs: [Teacher, Student] trains nothing, there as here: Teacher is frozen",
    ]


@pytest.mark.parametrize(
    ("loss", "line"),
    [
        ("TripletLossV2: {weight: 1.0, margin: 0.5}", "TripletLossV2: {'weight': 1.0, 'margin': 0.5}: a loss of metric learning"),
        ("GoogLeNetLoss: {weight: 1.0}", "models here have one classifier"),
        ("DistilationDMLLoss: {weight: 1.0}", "no loss of PaddleClas' that is known here; did you mean 'DistillationDMLLoss'"),
        (
            "DistillationPairLoss: {weight: 1.0, base_loss_name: ReviewKDLoss, model_name_pairs: [[Student, Teacher]]}",
            "ReviewKDLoss has no",
        ),
        ("DistillationPairLoss: {weight: 1.0, base_loss_name: DKDLoss, model_name_pairs: [[Student, Teacher]]}", "prediction as the label"),
        ("DistillationCELoss: {weight: 1.0, epsilon: 0.1, model_name_pairs: [[Student, Teacher]]}", "without a softmax"),
        ("DistillationDistanceLoss: {weight: 1.0, act: softmax, model_name_pairs: [[Student, Teacher]]}", "without a softmax or a sigmoid"),
        ("DistillationDistanceLoss: {weight: 1.0, reduction: sum, model_name_pairs: [[Student, Teacher]]}", "no other reduction"),
    ],
)
def test_a_loss_without_a_counterpart_is_named_and_alone_an_error(loss, line):
    objectives, notes = convert(f"Train: [{{DistillationGTCELoss: {{weight: 1.0, model_names: [Student]}}}}, {{{loss}}}]")
    assert objectives == [TRUTH]
    (found,) = notes.left_out
    assert found.startswith(f"Loss.Train.1.{loss.split(':')[0]}: ")
    assert line in found
    with pytest.raises(RecipeError) as caught:
        convert(f"Train: [{{{loss}}}]")
    assert str(caught.value).startswith("Loss.Train: no loss is left that trains a model: Loss.Train.0.")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("loss", "line"),
    [
        ("DMLLoss: {weight: 1.0, weight_ratio: true", "weight_ratio: true: the divergence of a class is not weighted"),
        ("DKDLoss: {weight: 1.0, use_target_as_gt: true", "use_target_as_gt: true: the labels are taken; their code takes the class"),
        ("KLDivLoss: {weight: 1.0, mode: attention", "mode: 'attention': has no counterpart"),
        (
            "RKDLoss: {weight: 1.0, target_size: 1, student_keepkeys: [avg_pool], teacher_keepkeys: [avg_pool]",
            "target_size: 1: feature maps",
        ),
    ],
)
def test_an_argument_without_a_counterpart_is_named(loss, line):
    _, notes = convert(f"Train: [{{Distillation{loss}, model_name_pairs: [[Student, Teacher]]}}}}]")
    (found,) = notes.left_out
    assert f".{line}" in found


def test_several_labels_are_weighted_by_their_fractions():
    text = "Train: [{DistillationMultiLabelLoss: {weight: 0.5, model_names: [Student], weight_ratio: true, size_sum: true, key: logits}}]"
    objectives, notes = convert(text)
    assert objectives == [{"loss": "bce", "weight": 10.0, "learners": ["Student"], "class_fraction": "data"}]
    assert notes.left_out == []
    _, notes = convert("Train: [MultiLabelLoss: {weight: 1.0, epsilon: 0.1}]", STUDENT)
    assert notes.left_out == ["Loss.Train.0.MultiLabelLoss.epsilon: 0.1: labels are not smoothed here where an image has several"]


@pytest.mark.parametrize(("reduction", "num_left_out"), [("mean", 0), ("none", 1)])
def test_losses_are_means_over_the_images(reduction, num_left_out):
    objectives, notes = convert(f"Train: [CELoss: {{weight: 1.0, reduction: {reduction}}}]", model("model"))
    assert objectives == [{**TRUTH, "learners": ["model"]}]
    assert len([line for line in notes.left_out if line.startswith("Loss.Train.0.CELoss.reduction: ")]) == num_left_out


def test_mixed_labels_are_not_softened():
    text = "Train: [CELoss: {weight: 1.0%s}]"
    _, notes = convert(text % "", STUDENT, data={"mixup": 0.2})
    assert notes.left_out[0].startswith("Loss.Train.0.CELoss: mixed labels are taken as they are; their code")
    for plain, cutmix in ((", epsilon: 0.1", 0.2), ("", 0.0)):
        assert convert(text % plain, STUDENT, data={"cutmix": cutmix})[1].left_out == []
    assert convert("Train: [SoftTargetCrossEntropy: {weight: 1.0}]", STUDENT, data={"mixup": 0.2})[1].left_out == []


@pytest.mark.parametrize("epsilon", [0, 1, -0.1, 2])
def test_an_epsilon_outside_of_its_range_smooths_nothing(epsilon):
    objectives, _ = convert(f"Train: [CELoss: {{weight: 1.0, epsilon: {epsilon}}}]", STUDENT)
    assert objectives == [TRUTH]


@pytest.mark.parametrize(
    ("losses", "error"),
    [
        ("{Eval: []}", "Loss.Train: is missing"),
        ("{Train: [CELoss]}", "Loss.Train.0.CELoss.weight: is missing; each loss needs one"),
        ("{Train: [CELoss: {weight: -1}]}", "Loss.Train.0.CELoss.weight: -1 is negative"),
        (
            "{Train: [CELoss: {weight: 1}]}",
            "Loss.Train.0.CELoss: is for a single model; take the Distillation... loss that names Teacher, Student",
        ),
        ("{Train: [DistillationGTCELoss: {weight: 1}]}", "model_names: names no model; there are Teacher, Student"),
        ("{Train: [DistillationGTCELoss: {weight: 1, model_names: [Studnet]}]}", "'Studnet' is no model of Arch; did you mean 'Student'?"),
        (
            "{Train: [DistillationKLDivLoss: {weight: 1, model_name_pairs: [[Student, Tutor]]}]}",
            "model_name_pairs: 'Tutor' is no model of Arch",
        ),
        ("{Train: [DistillationKLDivLoss: {weight: 1, model_name_pairs: [[Student]]}]}", "is no pair of names"),
        (
            "{Train: [DistillationDistanceLoss: {weight: 1, key: 'blocks[2]', model_name_pairs: [[Student, Teacher]]}]}",
            "DistillationDistanceLoss.key: Student does not return 'blocks[2]'; name it in its return_patterns; did you mean",
        ),
        ("{Train: [DistillationDMLLoss: {weight: 1, act: tanh, model_name_pairs: [[Student, Teacher]]}]}", "act: 'tanh' is neither"),
        (
            "{Train: [DistillationDistanceLoss: {weight: 1, mode: cosine, model_name_pairs: [[Student, Teacher]]}]}",
            "mode: 'cosine' is none of",
        ),
        ("{Train: [DistillationGTCELoss: {weight: 1, model_names: [Teacher]}]}", "Loss.Train: no loss is left that trains a model"),
        (
            "{Train: [DistillationRKDLoss: {weight: 1, student_keepkeys: [avg_pool], teacher_keepkeys: []}]}",
            "student_keepkeys: names 1 outputs, and teacher_keepkeys 0",
        ),
        (
            "{Train: [DistillationPairLoss: {weight: 1, base_loss_name: MGDLoss, s_key: [avg_pool, avg_pool], t_key: avg_pool, "
            "model_name_pairs: [[Student, Teacher]]}]}",
            "s_key: names 2 outputs, and t_key 1",
        ),
        (
            "{Train: [DistillationPairLoss: {weight: 1, base_loss_name: MGDLoss, s_key: [avg_pool, avg_pool], t_key: [avg_pool, avg_pool], "
            "model_name_pairs: [[Student, Teacher]]}]}",
            "s_key: MGDLoss compares one output of each end",
        ),
        (
            "{Train: [DistillationGTCELoss: {weight: 1, model_names: [Student]}, "
            "DistillationPairLoss: {weight: 1, base_loss_name: ATLoss, s_keys: [], t_keys: [], model_name_pairs: [[Student, Teacher]]}]}",
            "Loss.Train.1.DistillationPairLoss.s_key: names 0 outputs, and t_key 0",
        ),
    ],
)
def test_a_mistake_is_one_line_that_says_where(losses, error):
    with pytest.raises(RecipeError) as caught:
        convert(losses)
    assert error in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
