"""Images with several labels, and images with none: from their files to the scores."""

import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support import build, run, tiny_document
from torchmetrics.functional.classification import multilabel_average_precision

from mutual.data import build_data
from mutual.engine.evaluation.evaluator import Evaluator
from mutual.recipe import RecipeError, parse_recipe

SEVERAL = [{"loss": "bce"}, {"loss": "dml", "form": "sigmoid"}]


def several(**data):
    document = tiny_document(objectives=SEVERAL)
    document["data"] |= {"multi_label": True, **data}
    return document


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images whose left, right or both halves are bright, with lists of flags and of classes, and more without a label."""
    root = tmp_path_factory.mktemp("lists")
    generator = torch.Generator().manual_seed(0)
    lines = {"flags": [], "classes": [], "none": []}
    (root / "more").mkdir()
    for index in range(96):
        left, right = torch.randint(0, 2, (2,), generator=generator).tolist()
        pixels = torch.randint(0, 60, (8, 8), generator=generator)
        pixels[:, :4] += 150 * left
        pixels[:, 4:] += 150 * right
        name = f"more/{index}.png" if index >= 64 else f"{index}.png"
        Image.fromarray(pixels.byte().numpy()).save(root / name)
        lines["flags"].append(f"{name} {left},{right}")
        lines["classes"].append(f"{name} {2 * left + right}")
        lines["none"].append(name)
    for kind, written in lines.items():
        (root / f"{kind}_train.txt").write_text("\n".join(written[64:] if kind == "none" else written[:48]))
        (root / f"{kind}_val.txt").write_text("\n".join(written[48:64]))
    return root


def listed(folder, kind, **data):
    return {
        "dataset": "image_list",
        "root": str(folder),
        "train_list": str(folder / f"{kind}_train.txt"),
        "val_list": str(folder / f"{kind}_val.txt"),
        "image_size": 8,
        "channels": 1,
        "batch_size": 8,
        **data,
    }


def test_several_labels_are_learned_end_to_end(folder, tmp_path):
    document = tiny_document(data=listed(folder, "flags", multi_label=True), objectives=SEVERAL, train={"epochs": 12, "progress": False})
    document["peers"] = {name: {"model": "support:tiny", "args": {"width": 16}} for name in "ab"}
    (tmp_path / "several.yaml").write_text(json.dumps(document))
    done = run("mutual.train", tmp_path / "several.yaml", f"output={tmp_path}")
    assert "map" in done.stdout
    best = json.loads((tmp_path / "tiny" / "best" / "best.json").read_text())
    assert best["metric"] == "map"
    assert best["peers"][best["peer"]]["map"] > 0.95
    scores = json.loads(run("mutual.evaluate", tmp_path / "tiny", "--factory", "support:tiny", "--json").stdout)
    assert scores[best["peer"]]["map"] == pytest.approx(best["peers"][best["peer"]]["map"], abs=1e-6)
    answer = json.loads(run("mutual.predict", tmp_path / "tiny", folder / "0.png", "--factory", "support:tiny", "--json").stdout)
    flags = (folder / "flags_train.txt").read_text().splitlines()[0].split()[1].split(",")
    for each in answer["classes"]:
        assert (each["probability"] > 0.5) == (flags[int(each["class"])] == "1")


def test_scores_of_several_labels_are_by_definition():
    _, data, _, _ = build(several(eval_batch_size=5))
    labels = torch.cat([batch.labels for batch in data.eval_batches(world_size=1, shard=(0, 1))])
    generator = torch.Generator().manual_seed(0)
    logits = {name: torch.randn(12, 4, generator=generator) for name in "ab"}
    served = iter(range(0, 12, 5))

    def predict(images, batch):
        begin = next(served)
        return {name: value[begin : begin + len(images)] for name, value in logits.items()}

    evaluator = Evaluator("ab", "ab", num_classes=4, device=torch.device("cpu"), multi_label=True)
    scores = evaluator(predict, data.eval_batches(world_size=1, shard=(0, 1)))
    for name, value in logits.items():
        assert scores[name]["nll"] == pytest.approx(F.binary_cross_entropy_with_logits(value, labels).item(), rel=1e-5)
        expected = multilabel_average_precision(value.sigmoid(), labels.long(), num_labels=4)
        assert scores[name]["map"] == pytest.approx(expected.item(), rel=1e-5)
    mean = torch.stack([value.sigmoid() for value in logits.values()]).mean(dim=0)
    assert scores["ensemble"]["nll"] == pytest.approx(F.binary_cross_entropy(mean, labels).item(), rel=1e-5)
    p, q = (value.sigmoid() for value in logits.values())
    kl = [a * (a / b).log() + (1 - a) * ((1 - a) / (1 - b)).log() for a, b in ((p, q), (q, p))]
    assert scores["pairs"]["kl"] == pytest.approx(((kl[0] + kl[1]).sum(1).mean() / 2).item(), rel=1e-4)
    assert scores["pairs"]["agreement"] == pytest.approx(((p > 0.5) == (q > 0.5)).float().mean().item())


@pytest.mark.parametrize("place", ["more", "none_train.txt"])
def test_unlabelled_images_are_mixed_in(folder, place):
    recipe = parse_recipe(tiny_document(data=listed(folder, "classes", unlabelled=str(folder / place))))
    data = build_data(recipe.data, seed=0)
    assert (data.info.num_train, data.info.num_classes) == (48 + 32, 4)
    windows = list(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1))
    labels = torch.cat([batch.labels[: batch.num_valid] for window in windows for batch in window.batches])
    assert (labels == -1).sum() == 32
    assert 0 < (windows[0].batches[0].labels == -1).sum() < 8, "labelled and unlabelled stand in one batch"


def test_a_sample_of_training_images_leaves_unlabelled_ones_out(folder):
    recipe = parse_recipe(tiny_document(data=listed(folder, "classes", unlabelled=str(folder / "more"))))
    data = build_data(recipe.data, seed=0)
    batches = list(data.sample_batches(80, world_size=1, shard=(0, 1)))
    labels = torch.cat([batch.labels[: batch.num_valid] for batch in batches])
    assert len(labels) == 48
    assert (labels >= 0).all()


def test_a_student_learns_from_a_teacher_on_unlabelled_images(folder, tmp_path):
    teacher = tiny_document(
        name="teacher", peers={"t": {"model": "support:tiny", "args": {"width": 16}}}, objectives=[{"loss": "cross_entropy"}]
    )
    teacher |= {"data": listed(folder, "classes"), "train": {"epochs": 12, "progress": False}}
    (tmp_path / "teacher.yaml").write_text(json.dumps(teacher))
    run("mutual.train", tmp_path / "teacher.yaml", f"output={tmp_path}")
    student = tiny_document(name="student", objectives=[{"loss": "ssld"}], train={"epochs": 12, "progress": False})
    student["data"] = listed(folder, "classes", unlabelled=str(folder / "more"))
    student["peers"] = {
        "s": {"model": "support:tiny", "args": {"width": 16}},
        "t": {"model": "support:tiny", "args": {"width": 16}, "frozen": True, "weights": str(tmp_path / "teacher/best/t.safetensors")},
    }
    (tmp_path / "student.yaml").write_text(json.dumps(student))
    run("mutual.train", tmp_path / "student.yaml", f"output={tmp_path}")
    last = json.loads((tmp_path / "student" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["eval"]["s"]["top1"] > 0.9
    assert last["train"]["top1"]["s"] > 0.9, "hits are counted among the labelled images"


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"objectives": [{"loss": "bce"}]}, "objectives.0.loss: bce is for images with several labels"),
        ({"data": {"dataset": "digits", "multi_label": True}, "objectives": SEVERAL}, "data.multi_label: digits has one label an image"),
        ({"data": {"dataset": "fake", "multi_label": True}}, "objectives.0.loss: cross_entropy needs one class an image"),
        (
            {"data": {"dataset": "fake", "multi_label": True}, "objectives": [SEVERAL[0], {"loss": "dml"}]},
            "objectives.1.form: 'js' needs one",
        ),
        ({"data": {"dataset": "digits", "unlabelled": "x"}}, "data.unlabelled: needs labelled images in files"),
        ({"data": {"dataset": "image_folder", "root": "x", "unlabelled": "x", "mixup": 0.2}}, "data.mixup: mixes labels"),
    ],
)
def test_labels_that_do_not_fit_are_one_line(sections, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(tiny_document(**sections))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.png 0,1\n1.png 0,1,1\n", "line 2: 3 flags, the lines before have 2"),
        ("0.png 3\n", "line 1: '0.png 3' is not `path label` with flags such as 0,1,1"),
        ("nowhere.png 0,1\n", "line 1: no file"),
    ],
)
def test_a_wrong_list_is_one_line(folder, tmp_path, text, message):
    (tmp_path / "train.txt").write_text(text)
    data = listed(folder, "flags", multi_label=True, train_list=str(tmp_path / "train.txt"))
    with pytest.raises(ValueError, match=message):
        build_data(parse_recipe(tiny_document(data=data, objectives=SEVERAL)).data, seed=0)


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_a_wrong_place_of_unlabelled_images_is_one_line(folder, tmp_path, place):
    (tmp_path / "empty").mkdir()
    recipe = parse_recipe(tiny_document(data=listed(folder, "classes", unlabelled=str(tmp_path / place))))
    with pytest.raises(ValueError, match=r"data.unlabelled: .*(neither a folder nor a list|holds no image)"):
        build_data(recipe.data, seed=0)
