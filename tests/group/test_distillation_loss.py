"""Losses and edges in a loop of one's own: the numbers of a group that is trained by the same objectives, and clear refusals."""

import copy

import pytest
import torch
from support import build, tiny_document
from torch import nn

import mutual
from mutual.data import mixed
from mutual.group import MicroBatchContext
from mutual.group.peers import seed_generators
from mutual.recipe import derive_seed

PAIR = {name: {"model": "support:tiny"} for name in "ab"}
TAUGHT = {
    "student": {"model": "support:tiny"},
    "teacher": {"model": "support:tiny", "args": {"width": 6, "norm": True}, "frozen": True},
}
SAME = {"student": {"model": "support:tiny"}, "teacher": {"model": "support:tiny", "frozen": True}}
THREE = {**PAIR, "c": {"model": "support:tiny"}, "teacher": {"model": "support:tiny", "frozen": True}}
PATHS = ["stem", "norm", "body", "head:input"]
SEED = 7
KD, DKD = {"loss": "kd", "temperature": 2.0}, {"loss": "dkd", "beta": 2.0, "weight": 0.5}
DML = {"loss": "dml", "temperature": 2.0, "weight": 3.0}
CASES = {
    "kd": (TAUGHT, [KD]),
    "dkd": (TAUGHT, [DKD]),
    "l2": (SAME, [{"loss": "l2", "at": "body", "weight": 4.0}]),
    "hint": (TAUGHT, [{"loss": "hint", "at": "body", "kernel_size": 3}]),
    "mgd": (TAUGHT, [{"loss": "mgd", "at": "body", "lambda_mgd": 0.5}]),
    "pefd": (TAUGHT, [{"loss": "pefd", "at": "head:input"}]),
    "rkd_distance": (TAUGHT, [{"loss": "rkd_distance", "at": "head:input"}]),
    "rkd_angle": (TAUGHT, [{"loss": "rkd_angle", "at": {"student": "head:input", "teacher": "stem"}}]),
    "dml": (PAIR, [DML]),
    "crd": (TAUGHT, [{"loss": "crd", "at": "head:input", "dim": 8}]),
    "cross_entropy": (SAME, [{"loss": "cross_entropy", "label_smoothing": 0.1}]),
}
SEVERAL = {
    "kd and hint": (TAUGHT, [{"loss": "cross_entropy"}, KD, {"loss": "hint", "at": "body", "weight": 0.3}]),
    "a pair with features": (PAIR, [{"loss": "cross_entropy"}, DML, {"loss": "l2", "at": ["stem", "body"]}]),
    "several sources": (THREE, [{"loss": "cross_entropy"}, DML, {**KD, "reduce": "sum"}, {"loss": "mgd", "at": "stem"}]),
    "an ensemble": (THREE, [{**KD, "sources": ["ensemble"], "ensemble": {"weighting": "linear"}}]),
    "sources together": (THREE, [{"loss": "cross_entropy"}, {"loss": "okddip", "at": "head:input", "dim": 4}]),
    "overhaul": (TAUGHT, [{"loss": "ofd", "at": {"student": ["norm"], "teacher": ["norm"]}}]),
    "gated": (TAUGHT, [{"loss": "l1", "at": "logits", "gate": "correct"}, KD]),
    "itself": (TAUGHT, [{"loss": "cosine", "sources": ["self"], "source_at": "norm", "at": "stem"}, KD]),
}


class Loop:
    """A loop of the user's own on copies of a group's models, and what the group gives for the same batch."""

    def __init__(self, peers, objectives):
        document = tiny_document(peers=peers, objectives=objectives)
        self.recipe, data, self.group, self.train_step = build(document)
        self.group.train()
        self.window = next(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1))
        self.images, self.labels = mixed(self.window.batches[0], num_classes=4)
        data.close()
        self.frozen = [name for name, spec in peers.items() if spec.get("frozen")]
        self.models = {name: copy.deepcopy(peer.model) for name, peer in self.group.peers.items()}
        self.taps = {name: mutual.Taps(model, PATHS) for name, model in self.models.items()}

    def outputs(self):
        found = {}
        for name, model in self.models.items():
            model.train(name not in self.frozen)
            logits = model(self.group.view(name, self.images))
            found[name] = {"logits": logits, **self.taps[name].take()}
        return found

    def criterion(self, objectives, **options):
        outputs = self.outputs()
        learners = {name: each for name, each in outputs.items() if name not in self.frozen}
        sources = {name: outputs[name] for name in self.frozen}
        return mutual.DistillationLoss(objectives, learners=learners, sources=sources, seed=self.recipe.seed, **options)

    def group_output(self):
        context = MicroBatchContext(num_valid=len(self.labels), seed=SEED, global_batch_size=len(self.labels))
        output = self.group.forward(self.images, self.labels, context)
        sum(output.losses.values()).backward()
        return output

    def check_gradients(self, adapters):
        for name, peer in self.group.peers.items():
            for key, expected in peer.model.named_parameters():
                close(dict(self.models[name].named_parameters())[key].grad, expected.grad)
            if name not in self.frozen:
                found = dict(adapters[name].named_parameters())
                assert found.keys() == dict(peer.tapped.adapters.named_parameters()).keys()
                for key, expected in peer.tapped.adapters.named_parameters():
                    close(found[key].grad, expected.grad)


def close(found, expected):
    if found is None or expected is None:  # a module that no loss reads; DDP waits for a gradient of each, and a group gives zeros
        assert all(each is None or not each.any() for each in (found, expected))
    else:
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_a_loss_by_itself_equals_that_of_a_group(case):
    peers, (objective,) = CASES[case]
    loop = Loop(peers, [objective])
    output = loop.group_output()
    outputs, total = loop.outputs(), 0.0
    adapters = nn.ModuleDict({name: nn.ModuleDict() for name in peers})
    arguments = {key: value for key, value in objective.items() if key not in ("loss", "at", "weight")}
    for index, edge in enumerate(loop.group.edges):
        learner = outputs[edge.learner][edge.learner_at[0]]
        source = outputs[edge.source][edge.source_at[0][0]] if edge.source else None
        shapes = {} if source is None else {"learner_shape": learner.shape[1:], "source_shape": source.shape[1:]}
        loss = mutual.build_loss(objective["loss"], **shapes, **arguments)
        if loss.loss_spec.has_adapter:
            (trained,) = loop.group.peers[edge.learner].tapped.adapters.values()
            loss.load_state_dict(trained.state_dict())
            adapters[edge.learner]["0_0"] = loss
        seed_generators(derive_seed(SEED, edge.learner, f"0.{edge.source}"), learner.device)
        value = loss(learner, source, loop.labels)
        close(value, output.edge_losses[index])
        total = total + edge.weight * value
    close(total, sum(output.losses.values()))
    total.backward()
    loop.check_gradients(adapters)


@pytest.mark.parametrize("case", {**CASES, **SEVERAL})
def test_a_recipes_objectives_give_the_losses_and_gradients_of_a_group(case):
    peers, objectives = {**CASES, **SEVERAL}[case]
    loop = Loop(peers, objectives)
    output = loop.group_output()
    criterion = loop.criterion(objectives, models={name: loop.models[name] for name in loop.frozen})
    losses = criterion(loop.outputs(), loop.labels, seed=SEED)
    assert list(losses) == list(dict.fromkeys(f"{edge.learner}/{edge.name}" for edge in loop.group.edges))
    for name, found in losses.items():
        edges = [(index, edge) for index, edge in enumerate(loop.group.edges) if f"{edge.learner}/{edge.name}" == name]
        close(found.detach(), sum(edge.weight * output.edge_losses[index] for index, edge in edges))
    sum(losses.values()).backward()
    loop.check_gradients(criterion.adapters)


def test_an_update_of_a_plain_loop_is_that_of_the_engine():
    peers, objectives = SEVERAL["kd and hint"]
    objectives = [*objectives, {"loss": "rkd_distance", "at": "head:input"}, {"loss": "pefd", "at": "stem"}]
    loop = Loop(peers, objectives)
    criterion = loop.criterion(objectives)
    optimizer = torch.optim.SGD([*loop.models["student"].parameters(), *criterion.parameters()], lr=0.5, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        sum(criterion(loop.outputs(), loop.labels).values()).backward()
        optimizer.step()
    for update in range(2):
        loop.train_step(loop.window, update, measure=False)
    student = loop.group.peers["student"].tapped
    for found, trained in ((loop.models["student"], student.model), (criterion.adapters["student"], student.adapters)):
        for value, expected in zip(found.parameters(), trained.parameters(), strict=True):
            close(value, expected)


def outputs_of(rows=4, **widths):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(rows, width, generator=generator) for name, width in widths.items()}


def pair(objectives, **options):
    return mutual.DistillationLoss(
        objectives, learners={"student": outputs_of(logits=3, body=4)}, sources={"teacher": outputs_of(logits=3, body=5)}, **options
    )


def test_sources_get_no_gradient_and_may_be_of_inference_mode():
    criterion = pair([KD, {"loss": "hint", "at": "body"}])
    outputs = {"student": outputs_of(logits=3, body=4), "teacher": outputs_of(logits=3, body=5)}
    leaves = [each.requires_grad_() for some in outputs.values() for each in some.values()]
    sum(criterion(outputs).values()).backward()
    assert [leaf.grad is not None for leaf in leaves] == [True, True, False, False]
    with torch.inference_mode():
        outputs["teacher"] = outputs_of(logits=3, body=5)
    loss = mutual.build_loss("l2")
    sum(criterion(outputs).values()).backward()
    loss(outputs["student"]["logits"], outputs["teacher"]["logits"]).backward()


def test_losses_are_in_float32_under_autocast_as_in_a_group():
    objectives = [{**KD, "sources": ["ensemble"], "ensemble": {"weighting": "linear"}}, {"loss": "hint", "at": "body"}]
    draw = torch.Generator().manual_seed(0)
    names = ("student", "teacher", "second", "third")
    outputs = {name: {"logits": 3 * torch.randn(8, 5, generator=draw), "body": torch.randn(8, 4, generator=draw)} for name in names}
    learners, labels = {"student": outputs["student"]}, torch.arange(8) % 5
    criterion = mutual.DistillationLoss(objectives, learners=learners, sources={name: outputs[name] for name in names[1:]})
    plain = criterion(outputs, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = criterion(outputs, labels)
    assert {loss.dtype for loss in found.values()} == {torch.float32}
    assert found["student/kd"].equal(plain["student/kd"])
    assert not found["student/hint@body"].equal(plain["student/hint@body"]), "an adapter runs as its learner does"
    torch.testing.assert_close(found["student/hint@body"], plain["student/hint@body"], rtol=0.05, atol=0.01)


def test_a_stochastic_loss_draws_anew_and_advances_the_callers_generator_by_one_number():
    maps = {"body": torch.randn(4, 4, 3, 3)}
    criterion = mutual.DistillationLoss([{"loss": "mgd", "at": "body"}], learners={"a": maps}, sources={"b": maps})
    outputs = {"a": maps, "b": maps}
    torch.manual_seed(3)
    first, second, after = criterion(outputs)["a/mgd@body"], criterion(outputs)["a/mgd@body"], torch.rand(2)
    assert not first.equal(second)
    torch.manual_seed(3)
    assert criterion(outputs)["a/mgd@body"].equal(first)
    torch.manual_seed(3)
    torch.randint(2**62, ()), torch.randint(2**62, ())
    assert torch.rand(2).equal(after)
    assert criterion(outputs, seed=5)["a/mgd@body"].equal(criterion(outputs, seed=5)["a/mgd@body"])


def test_building_adapters_leaves_the_generators_alone_and_depends_on_the_seed():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one, same, other = (pair([{"loss": "hint", "at": "body"}], seed=seed) for seed in (0, 0, 1))
    assert torch.rand(2).equal(expected)
    weights = [next(each.parameters()) for each in (one, same, other)]
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])


def test_a_weight_follows_its_schedule():
    schedule = {"name": "linear", "until_epoch": 4.0}
    outputs = {"student": outputs_of(logits=3), "teacher": outputs_of(7, logits=3)}
    outputs["teacher"] = {"logits": outputs["teacher"]["logits"][3:]}
    criterion = pair([{**KD, "schedule": schedule}, {"loss": "l1", "gate": "linear"}], epochs=8)
    half, whole = (criterion(outputs, epoch=epoch) for epoch in (2.0, 4.0))
    torch.testing.assert_close(half["student/kd"] * 2, whole["student/kd"])
    torch.testing.assert_close(half["student/l1"] * 2, whole["student/l1"])
    assert whole["student/kd"] > 0


def test_a_copy_and_a_saved_one_are_the_same():
    criterion = pair([KD, {"loss": "hint", "at": "body"}])
    outputs = {"student": outputs_of(logits=3, body=4), "teacher": outputs_of(logits=3, body=5)}
    expected = criterion(outputs)
    copied, fresh = copy.deepcopy(criterion), pair([KD, {"loss": "hint", "at": "body"}], seed=9)
    fresh.load_state_dict(criterion.state_dict())
    with torch.no_grad():
        next(criterion.parameters()).zero_()
    for each in (copied, fresh):
        found = each(outputs)
        assert all(found[name].equal(value) for name, value in expected.items())
    assert "kd (student <- teacher), weight 1\n" in repr(criterion)


def test_weights_of_classes_are_taken_as_they_are():
    outputs, labels, weights = {"student": outputs_of(logits=3)}, torch.tensor([0, 1, 2, 2]), [1.0, 4.0, 0.5]
    criterion = mutual.DistillationLoss([{"loss": "cross_entropy", "class_weight": weights}], learners=outputs)
    expected = nn.functional.cross_entropy(outputs["student"]["logits"], labels, torch.tensor(weights), reduction="none").mean()
    torch.testing.assert_close(criterion(outputs, labels)["student/cross_entropy"], expected)


def test_images_with_several_labels():
    outputs = {"student": outputs_of(logits=3)}
    learner = outputs["student"]["logits"]
    criterion = mutual.DistillationLoss([{"loss": "bce"}], learners=outputs, multi_label=True)
    flags = torch.eye(3)[[0, 1, 2, 0]]
    expected = nn.functional.binary_cross_entropy_with_logits(learner, flags)
    torch.testing.assert_close(criterion(outputs, flags)["student/bce"], expected)
    with pytest.raises(ValueError, match=r"^objectives\.0\.loss: bce is for images with several labels each"):
        mutual.DistillationLoss([{"loss": "bce"}], learners=outputs)


def test_a_loss_of_ones_own_needs_no_logits():
    outputs = {"student": outputs_of(body=4), "teacher": outputs_of(body=4)}
    options = {"learners": {"student": outputs["student"]}, "sources": {"teacher": outputs["teacher"]}}
    criterion = mutual.DistillationLoss([{"loss": "own_losses:kd_mean", "at": "body"}], **options)
    assert criterion(outputs)["student/own_losses:kd_mean@body"] == 0


def test_a_loss_of_ones_own_is_tried_and_what_there_is_to_say_is_said():
    with pytest.warns(UserWarning, match=r"^objectives\.0\.loss: no gradient reaches 2 parameters .*; excluded from training"):
        criterion = pair([{"loss": "own_losses:Spare", "at": "body"}])
    assert [parameter.requires_grad for parameter in criterion.parameters()] == [True, True, False, False]


@pytest.mark.parametrize(
    ("objectives", "options", "message"),
    [
        ([{"loss": "kdd"}], {}, r"objectives\.0\.loss: .*'kdd'.*did you mean 'kd'"),
        ([KD, {**KD, "temprature": 2.0}], {}, r"objectives\.1\.temprature: .*did you mean 'temperature'"),
        ([{"loss": "hint", "at": "bod"}], {}, r"objectives\.0\.at: 'student' has no output 'bod'; did you mean 'body'\?"),
        (
            [{"loss": "l2", "at": "body"}],
            {},
            r"objectives\.0\.at: student\.body has shape \(4,\) and teacher\.body has shape \(5,\); l2@body",
        ),
        ([{**KD, "sources": ["tacher"]}], {}, r"objectives\.0\.sources: 'tacher' is no peer; did you mean 'teacher'"),
        ([{**KD, "sources": ["ema"]}], {}, r"objectives\.0\.sources: 'student\.ema': give the outputs of a moving average a name"),
        ([{**KD, "schedule": {"name": "linear"}}], {}, r"objectives\.0: its weight depends on when the training ends; give epochs"),
        ([{**KD, "gate": "linear"}], {}, r"objectives\.0: its weight depends on when the training ends; give epochs"),
        (
            [{"loss": "cross_entropy", "class_weight": "balanced"}],
            {},
            r"objectives\.0\.class_weight: 'balanced' is for a recipe, whose data say how frequent classes are; give a number",
        ),
        (
            [KD, {"loss": "focal", "alpha": [1.0, 2.0]}],
            {},
            r"objectives\.1\.alpha: 2 numbers, and the logits of 'student' have shape \(3,\); give one for each class",
        ),
        ([KD], {"learners": {}}, "peers: no learner is given"),
        (
            [{**KD, "gate": "cutoff"}],
            {},
            "peers.student: no objective trains 'student'; name it among some learners or give it among the s",
        ),
        ([KD], {"sources": {"student": outputs_of(logits=3)}}, "'student' is among learners and sources"),
        (
            [{"loss": "cross_entropy"}],
            {"learners": {"student": outputs_of(body=4)}},
            r"objectives\.0\.at: 'student' has no output 'logits'",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_line(objectives, options, message):
    given = {"learners": {"student": outputs_of(logits=3, body=4)}, "sources": {"teacher": outputs_of(logits=3, body=5)}, **options}
    with pytest.raises(ValueError, match=f"^{message}") as raised:
        mutual.DistillationLoss(objectives, **given)
    assert "\n" not in str(raised.value)


def test_a_loss_that_reads_its_sources_weights_is_given_them():
    maps = {"norm": torch.randn(2, 3, 4, 4)}
    objectives = [{"loss": "ofd", "at": ["norm"]}]
    with pytest.raises(ValueError, match=r"^objectives\.0: ofd reads the weights of its source; give models=\{'b': \.\.\.\}"):
        mutual.DistillationLoss(objectives, learners={"a": maps}, sources={"b": maps})
    with pytest.raises(ValueError, match=r"^objectives\.0\.at: ofd takes its margin from the source's BatchNorm"):
        mutual.DistillationLoss(objectives, learners={"a": maps}, sources={"b": maps}, models={"b": nn.ModuleDict({"norm": nn.Identity()})})


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        ({}, torch.zeros(4, dtype=torch.long), r"cross_entropy \(student <- labels\) reads 'logits' of 'student', which is not among"),
        ({"student": outputs_of(logits=3)}, None, r"cross_entropy \(student <- labels\) reads labels, and none are given"),
        ({"student": outputs_of(logits=3)}, torch.zeros(3).long(), "'logits' of 'student' is of 4 images, and others are of 3"),
    ],
)
def test_what_is_missing_in_a_batch_is_said_in_a_line(outputs, labels, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        pair([{"loss": "cross_entropy"}, KD])(outputs, labels)


@pytest.mark.parametrize("name", ["keys", "forward", "training"])
def test_a_learner_that_is_called_as_a_part_of_a_module_is_one_line(name):
    with pytest.raises(ValueError, match=f"'{name}' is what a torch module calls something of its own|'{name}' cannot name a peer"):
        mutual.DistillationLoss([{"loss": "cross_entropy"}], learners={name: {"logits": torch.zeros(2, 3)}})
