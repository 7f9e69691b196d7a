"""Logits of different classes are compared over the classes in common, conditioned on them; against the written-out formulas."""

import json

import pytest
import torch
import torch.nn.functional as F
from support import WORLD, tiny_document
from torch.utils._python_dispatch import TorchDispatchMode

import mutual
from mutual.data import build_data
from mutual.group import MicroBatchContext, build_group
from mutual.group.edges import CommonClasses
from mutual.group.edges.selection import Selector
from mutual.models import ClassIndex, ModelCard, class_columns, create_model, match_indices, match_names, model_bytes, read_model
from mutual.objectives import build_loss
from mutual.recipe import RecipeError, parse_recipe

DATA = ("ant", "bee", "cat", "dog")
IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))
LABELS = torch.tensor([0, 1, 2, 3, 2, 0])


@pytest.fixture
def teacher(tmp_path):
    def write(*names):
        torch.manual_seed(len(names))
        model = create_model("small_cnn", num_classes=len(names), in_channels=1).eval()
        with torch.no_grad():
            model.fc.weight.mul_(8)  # answers that differ
        card = ModelCard("small_cnn", len(names), 1, (8, 8), (0.0,), (1.0,), names)
        path = tmp_path / f"{len(names)}-{names[0]}.safetensors"
        path.write_bytes(model_bytes(model, card))
        return str(path), model

    return write


def group_of(objective, *paths, **teacher_fields):
    peers = {"a": {"model": "small_cnn"}, "b": {"model": "small_cnn"}}
    peers |= {f"t{index}": {"model": "small_cnn", "weights": path, "frozen": True, **teacher_fields} for index, path in enumerate(paths)}
    objectives = [{"loss": "cross_entropy"}, {"learners": ["a"], "sources": [f"t{index}" for index in range(len(paths))], **objective}]
    recipe = parse_recipe(tiny_document(peers=peers, objectives=objectives))
    return build_group(recipe, WORLD, num_classes=4, in_channels=1, image_size=(8, 8), class_names=DATA)


def run(group, labels=LABELS, num_valid=6):
    group.eval()
    output = group.forward(IMAGES, labels, MicroBatchContext(num_valid, seed=0))
    distilled = [index for index, edge in enumerate(group.edges) if edge.sources]
    return [output.edge_losses[index] for index in distilled], output.logits


def kl(learner, source, temperature):
    p, q = (F.log_softmax(logits / temperature, dim=1) for logits in (source, learner))
    return (p.exp() * (p - q)).sum(dim=1).mean() * temperature**2


def test_a_permuted_teacher(teacher):
    path, model = teacher("cat", "ant", "dog", "bee")
    (found,), logits = run(group_of({"loss": "kd", "temperature": 3.0}, path))
    expected = model(IMAGES).detach()[:, [1, 3, 0, 2]]
    torch.testing.assert_close(logits["t0"], expected)
    torch.testing.assert_close(found, kl(logits["a"], expected, 3.0))


def test_a_teacher_of_a_thousand_classes(teacher):
    names = [f"n{index}" for index in range(1000)]
    for name, index in zip(DATA, (700, 3, 999, 0), strict=True):
        names[index] = name
    path, model = teacher(*names)
    (found,), logits = run(group_of({"loss": "kd", "temperature": 2.0}, path))
    expected = model(IMAGES).detach()[:, [700, 3, 999, 0]]
    torch.testing.assert_close(logits["t0"], expected)
    torch.testing.assert_close(found, kl(logits["a"], expected, 2.0))
    (by_indices,), _ = run(group_of({"loss": "kd", "temperature": 2.0}, path, classes=[700, 3, 999, 0]))
    torch.testing.assert_close(by_indices, found)


def test_a_teacher_of_some_classes_is_compared_on_those(teacher):
    path, model = teacher("dog", "eel", "ant", "cat")
    with pytest.warns(UserWarning, match=r"peers.t0: knows 3 of the data's 4 classes \(not 'bee'\)"):
        group = group_of({"loss": "kd", "temperature": 3.0}, path)
    assert group.known_classes == {"t0": (0, 2, 3)}
    (found,), logits = run(group)
    expected = model(IMAGES).detach()[:, [2, 3, 0]]
    torch.testing.assert_close(found, kl(logits["a"][:, [0, 2, 3]], expected, 3.0))


@pytest.mark.filterwarnings("ignore:peers.t")
def test_a_loss_that_reads_labels_passes_images_of_other_classes_over(teacher):
    """dkd divides the classes into the label and the others; an image of a class that the teacher does not know has no label there."""
    path, model = teacher("dog", "eel", "ant", "cat")
    (found,), logits = run(group_of({"loss": "dkd"}, path))
    rows, columns = [0, 2, 3, 4, 5], [0, 2, 3]
    expected = build_loss("dkd")(logits["a"][rows][:, columns], model(IMAGES).detach()[rows][:, [2, 3, 0]], torch.tensor([0, 1, 2, 1, 0]))
    torch.testing.assert_close(found, expected * 5 / 6)
    nobody, _ = run(group_of({"loss": "dkd"}, path), labels=torch.ones(6, dtype=torch.long))
    assert nobody == [0], "no image has a class that it knows"


@pytest.mark.filterwarnings("ignore:peers.t")
def test_mixed_labels_are_conditioned_on_the_classes_in_common(teacher):
    path, model = teacher("dog", "eel", "ant", "cat")
    mixed = torch.tensor([[0.5, 0.5, 0, 0], [0, 1, 0, 0], [0.25, 0.5, 0.25, 0], [0, 0, 0.7, 0.3], [1, 0, 0, 0], [0, 0, 0, 1]])
    (found,), logits = run(group_of({"loss": "kd", "gate": "correct", "temperature": 1.0}, path), labels=mixed)
    teaching = model(IMAGES).detach()[:, [2, 3, 0]]
    targets = mixed[:, [0, 2, 3]] / mixed[:, [0, 2, 3]].sum(dim=1, keepdim=True).clamp(min=1e-12)
    right = [row for row in (0, 2, 3, 4, 5) if teaching[row].argmax() == targets[row].argmax()]
    expected = kl(logits["a"][right][:, [0, 2, 3]], teaching[right], 1.0) * len(right) / 6 if right else torch.tensor(0.0)
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:peers.t")
def test_an_ensemble_is_of_the_classes_that_its_members_have_in_common(teacher):
    first, one = teacher("dog", "eel", "ant", "cat")
    second, two = teacher("cat", "bee", "dog")
    objective = {"loss": "kd", "sources": "ensemble", "ensemble": {"members": ["t0", "t1"]}, "temperature": 1.0}
    (found,), logits = run(group_of(objective, first, second))
    mean = (one(IMAGES)[:, [3, 0]] + two(IMAGES)[:, [0, 2]]).detach() / 2
    torch.testing.assert_close(found, kl(logits["a"][:, [2, 3]], mean, 1.0))


@pytest.mark.filterwarnings("ignore:peers.t")
def test_features_are_read_whatever_the_classes_are(teacher):
    path, _ = teacher("dog", "eel", "ant", "cat")
    group = group_of({"loss": "l2", "at": "blocks2"}, path)
    (found,), _ = run(group)
    outputs = {name: group.forward_peer(name, IMAGES, seed=0)["blocks2"] for name in ("a", "t0")}
    torch.testing.assert_close(found, F.mse_loss(outputs["a"], outputs["t0"]).detach())


def test_classes_by_a_file_and_by_names(teacher, tmp_path):
    path, model = teacher("0", "1", "2", "3")
    names = ["cat", "ant", "dog", "bee"]
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
    for classes in (names, str(tmp_path / "names.txt")):
        _, logits = run(group_of({"loss": "kd"}, path, classes=classes))
        torch.testing.assert_close(logits["t0"], model(IMAGES).detach()[:, [1, 3, 0, 2]])


@pytest.mark.parametrize(
    ("classes", "line"),
    [
        ("missing.txt", "peers.t0.classes: missing.txt cannot be read (No such file or directory); give a text file with a class a line"),
        ([0, 1, 2], "peers.t0.classes: 3 indices for the data's 4 classes"),
        ([0, 1, 2, 7], "peers.t0.classes: output 7 is not there: the model has 4; say how many it has by args: {num_classes: ..}"),
        ([0, 1, 1, None], "peers.t0.classes: output 1 stands for two classes"),
        ([0, None, None, None], "peers.t0.classes: the model knows fewer than two of the data's classes"),
        (["w", "x", "y", "z"], "peers.t0.classes: 0 of its 4 classes are among the data's 4: only the model has 'w', 'x', 'y', ...; "),
        (["ant", "ant", "y", "z"], "peers.t0.classes: classes differ, and cannot be matched by name: the model has 'ant' twice"),
    ],
)
def test_wrong_classes_are_a_line(teacher, classes, line):
    path, _ = teacher("0", "1", "2", "3")
    with pytest.raises(RecipeError) as caught:
        group_of({"loss": "kd"}, path, classes=classes)
    assert line in str(caught.value)


@pytest.mark.filterwarnings("ignore:peers.t")
def test_sources_without_classes_in_common_are_a_line(teacher):
    first, _ = teacher("ant", "bee", "x")
    second, _ = teacher("cat", "dog", "y", "z")
    with pytest.raises(RecipeError, match=r"objectives.1.sources: its sources have 0 of the data's 4 classes in common"):
        group_of({"loss": "kd", "sources": "ensemble", "ensemble": {"members": ["t0", "t1"]}}, first, second)


def test_an_accent_is_part_of_its_letter_however_it_is_written():
    """A folder of macOS has it beside the letter."""
    composed, apart = "caf\u00e9", "cafe\u0301"
    assert match_names((apart, "tea", "milk"), ("milk", composed)).columns == (2, 0)
    assert class_columns((apart, "tea"), ("tea", composed)) == [1, 0]


def test_names_that_mean_the_same():
    known = match_names([("n01", "tench"), ("n02", "goldfish", "Carassius auratus"), ("n03", "shark")], ("shark", "Carassius auratus"))
    assert (known.columns, known.known) == ((2, 1), None)
    assert match_indices([4, None, 2], 5, 3).known == (0, 2)
    with pytest.raises(ValueError, match="they are numbers, not names"):
        match_names(("0", "1", "2"), ("ant", "bee"))


@pytest.mark.filterwarnings("ignore:peer")
def test_a_teacher_of_some_classes_is_scored_on_their_images(teacher, tmp_path):
    path, _ = teacher("v", "w", "x", "y", "z")
    taught = {"model": "small_cnn", "weights": path, "frozen": True, "classes": [0, None, 1, None, 2, 3, 4]}
    document = tiny_document(
        output=str(tmp_path),
        peers={"a": {"model": "small_cnn"}, "t": taught},
        objectives=[{"loss": "cross_entropy"}, {"loss": "kd", "learners": ["a"]}],
        train={"epochs": 1, "progress": False},
    )
    document["data"] |= {"num_classes": 7, "num_val": 70}
    result = mutual.fit(parse_recipe(document))
    lines = [json.loads(each) for each in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["eval"]["t"].keys() == lines[-1]["eval"]["a"].keys()
    assert lines[-1]["eval"]["t"]["top5"] == 1.0
    data, model = build_data(parse_recipe(document).data, seed=0), read_model(path)[0]
    right, total = 0, 0
    for batch in data.eval_batches(world_size=1, shard=(0, 1)):
        labels, known = batch.labels, torch.tensor([0, 2, 4, 5, 6])
        rows = torch.isin(labels, known)
        right += int((known[model(batch.images.float() / 255).argmax(dim=1)] == labels)[rows].sum())
        total += int(rows.sum())
    assert result.metrics["t"]["top1"] == pytest.approx(right / total)


def test_a_name_of_two_outputs_is_refused_where_it_is_needed():
    outputs = [("n1", "crane"), ("n2", "crane"), ("n3", "dog")]
    with pytest.raises(ValueError, match=r"matched by name: two outputs are called 'crane'; give `classes` by index"):
        match_names(outputs, ["crane", "dog"])
    assert match_names(outputs, ["n2", "dog"]).columns == (1, 2)
    assert match_names([("dog", "dog"), ("bee",), ("cat",)], ["bee", "dog"]).columns == (1, 0), "twice of one output"


class _Copies(TorchDispatchMode):
    """Notes operators that take what a Python list holds to the device, or wait for it."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore:peers.t")
@pytest.mark.parametrize(("loss", "avoided"), [("kd", {"lift_fresh", "index", "nonzero"}), ("dkd", {"lift_fresh", "nonzero"})])
def test_a_step_copies_no_index_to_the_device(teacher, loss, avoided):
    path, _ = teacher("dog", "eel", "ant", "cat")
    group = group_of({"loss": loss}, path)
    run(group)  # what is the same in every step is made in the first
    with _Copies() as copies:
        run(group)
    assert not copies.seen & avoided


@pytest.mark.filterwarnings("ignore:peers.t")
def test_flags_of_several_labels_select_all_images(teacher):
    path, _ = teacher("dog", "eel", "ant", "cat")
    (edge,) = (each for each in group_of({"loss": "dkd"}, path).edges if each.sources)
    common = CommonClasses.of(edge, {"t0": (0, 2, 3)}, num_classes=4, multi_label=True)
    flags = torch.tensor([[1.0, 1, 0, 1], [0, 1, 0, 0]])
    selection = Selector(classes=common).select(flags)
    assert selection.mask is None
    torch.testing.assert_close(selection.targets, flags[:, [0, 2, 3]])


@pytest.mark.parametrize("labels", [torch.tensor([3, 0, -1, 2, 1, 3]), torch.eye(4)[[3, 0, 2, 1]] * 0.5 + 0.125])
def test_labels_among_classes(labels):
    targets, is_known = ClassIndex([3, 0]).labels(labels)
    if labels.is_floating_point():
        expected = labels[:, [3, 0]] / labels[:, [3, 0]].sum(dim=1, keepdim=True)
        torch.testing.assert_close(targets, expected)
        assert is_known.all()
    else:
        assert targets.tolist() == [0, 1, -1, -1, -1, 0]
        assert is_known.tolist() == [True, True, False, False, False, True]


def test_positions_are_found_among_those_that_are_known():
    known = ClassIndex([2, 5, 7])
    assert known.of([2, 5, 7]) is None
    assert known.of([2, 7]).classes == (0, 2)
