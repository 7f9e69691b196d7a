"""What a frozen peer's outputs stand for is found when a run begins, stands in its recipe, and must be the same when it goes on."""

import json

import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image
from support import tiny_document
from torch import nn

import mutual
from mutual import evaluate, train
from mutual.models import ModelCard, create_model, model_bytes
from mutual.recipe import RecipeError, load_recipe, parse_recipe

pytestmark = pytest.mark.filterwarnings("ignore:peer")
NET = {"model": "small_cnn", "args": {"widths": [8, 8], "strides": [2, 2]}}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images of 8 x 8 in three classes."""
    root, generator = tmp_path_factory.mktemp("photos"), torch.Generator().manual_seed(0)
    for part, number in (("train", 8), ("val", 4)):
        for index, name in enumerate(("ant", "bee", "cow")):
            (root / part / name).mkdir(parents=True)
            for image in range(number):
                pixels = torch.randint(0, 80, (8, 8, 3), generator=generator)
                pixels[..., index] += 140
                Image.fromarray(pixels.to(torch.uint8).numpy()).save(root / part / name / f"{image}.png")
    return root


def net(num_classes):
    torch.manual_seed(3)
    return create_model("small_cnn", num_classes=num_classes, in_channels=3, **NET["args"]).eval()


def write_card(path, *names):
    card = ModelCard("small_cnn", len(names), 3, (8, 8), (0.5,) * 3, (0.25,) * 3, names, args=NET["args"])
    path.write_bytes(model_bytes(net(len(names)), card))


def document(photos, output, teacher):
    return {
        **tiny_document(
            data={"dataset": "image_folder", "root": str(photos), "image_size": 8, "batch_size": 8},
            peers={"s": NET, "t": {**NET, "frozen": True, **teacher}},
            objectives=[{"loss": "cross_entropy"}, {"loss": "kd", "learners": ["s"]}],
            train={"epochs": 1, "progress": False},
        ),
        "output": str(output),
    }


def assert_trains_the_same(folder, output):
    """The recipe that a run has written trains what the run has trained."""
    again = mutual.fit(load_recipe(folder / "recipe.yaml", [f"output={output}"]))
    first, second = (safetensors.torch.load_file(each / "last" / "s.safetensors") for each in (folder, again.folder))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_classes_that_a_card_says_stand_in_the_resolved_recipe(photos, tmp_path, capsys):
    path = tmp_path / "t.safetensors"
    write_card(path, "cow", "x", "ant", "y")
    recipe = document(photos, tmp_path / "runs", {"weights": str(path)})
    folder = mutual.fit(parse_recipe(recipe)).folder
    assert load_recipe(folder / "recipe.yaml").peers["t"].classes == [2, None, 0]
    assert mutual.fit(parse_recipe(recipe), resume=True).folder == folder
    assert_trains_the_same(folder, tmp_path / "again")
    assert evaluate.main([str(folder), "--peer", "t", "--json"]) == 0
    scored = json.loads(capsys.readouterr().out.splitlines()[-1])["t"]
    trained = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["eval"]["t"]
    assert scored["nll"] == pytest.approx(trained["nll"], rel=1e-5)
    write_card(path, "ant", "x", "cow", "y")  # the same weights
    with pytest.raises(RecipeError) as caught:
        mutual.fit(parse_recipe(recipe), resume=True)
    assert (
        "peers.t.classes: its outputs stand for other classes than when the run was started ('ant' was output 2 and is 0, 'cow' was "
        "output 0 and is 2); give back what says its classes, or --overwrite, or another name=..."
    ) in str(caught.value)


def test_classes_of_a_file_stand_in_the_resolved_recipe(photos, tmp_path, capsys):
    """And with them how many outputs the model has, which weights without a card do not say."""
    path, names = tmp_path / "bare.safetensors", tmp_path / "names.txt"
    safetensors.torch.save_file(net(5).state_dict(), path)
    names.write_text("v\ncow\nw\nbee\nant\n")
    recipe = document(photos, tmp_path / "runs", {"weights": str(path), "classes": str(names)})
    folder = mutual.fit(parse_recipe(recipe)).folder
    saved = load_recipe(folder / "recipe.yaml").peers["t"]
    assert (saved.classes, saved.args) == ([4, 3, 1], {"num_classes": 5, **NET["args"]})
    assert mutual.fit(parse_recipe(recipe), resume=True).folder == folder
    assert_trains_the_same(folder, tmp_path / "again")
    names.write_text("x\ncow\ny\nbee\nant\n")
    assert mutual.fit(parse_recipe(recipe), resume=True).folder == folder, "it resolves to the same"
    names.write_text("v\nbee\nw\ncow\nant\n")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert train.main([str(tmp_path / "recipe.yaml"), "--resume"]) == 2
    (line,) = (each for each in capsys.readouterr().err.splitlines() if "peers.t.classes" in each)
    assert "its outputs stand for other classes than when the run was started ('bee' was output 3 and is 1, 'cow' was output 1" in line
    names.write_text("ant\nbee\ncow\nv\nw\n")
    assert train.main([str(tmp_path / "recipe.yaml"), "--resume"]) == 2
    capsys.readouterr()
    assert mutual.fit(load_recipe(folder / "recipe.yaml"), resume=True).folder == folder, "which reads no file"


def test_classes_in_order_stay_as_they_are_given(photos, tmp_path):
    path = tmp_path / "t.safetensors"
    write_card(path, "ant", "bee", "cow")
    recipe = document(photos, tmp_path / "runs", {"weights": str(path)})
    folder = mutual.fit(parse_recipe(recipe)).folder
    assert load_recipe(folder / "recipe.yaml").peers["t"].classes == "auto"
    write_card(path, "bee", "ant", "cow")
    with pytest.raises(RecipeError, match=r"peers.t.classes: .*\('ant' was output 0 and is 1, 'bee' was output 1 and is 0\)"):
        mutual.fit(parse_recipe(recipe), resume=True)


class _Doubled(nn.Module):
    """Other operators with the same weights."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return 2 * self.model(images)


class _Single(_Doubled):
    def forward(self, images):
        return self.model(images)


def test_another_program_with_the_same_weights_is_refused(photos, tmp_path):
    path = tmp_path / "t.pt2"

    def write(module):
        shapes = ({0: torch.export.Dim("batch")},)
        torch.export.save(torch.export.export(module.eval(), (torch.rand(3, 3, 8, 8),), dynamic_shapes=shapes), path)

    write(_Single(net(5)))
    names = tmp_path / "names.txt"
    names.write_text("v\ncow\nw\nbee\nant\n")
    recipe = document(photos, tmp_path / "runs", {})
    recipe["peers"]["t"] = {"model": f"program:{path}", "frozen": True, "classes": str(names)}
    folder = mutual.fit(parse_recipe(recipe)).folder
    saved = load_recipe(folder / "recipe.yaml")
    assert (saved.peers["t"].classes, saved.peers["t"].args) == ([4, 3, 1], {})
    assert_trains_the_same(folder, tmp_path / "again")
    write(_Doubled(net(5)))
    with pytest.raises(RecipeError, match=r"peers.t.model: these are not the weights and classes that the run was started with"):
        mutual.fit(parse_recipe(recipe), resume=True)


def test_a_recipe_keeps_room_for_what_is_not_classes():
    peers = {"s": {"model": "small_cnn"}} | {name: {"model": "small_cnn", "frozen": True} for name in "tuv"}
    recipe = parse_recipe(tiny_document(peers=peers, objectives=[{"loss": "cross_entropy"}]))
    kept = recipe.with_classes({name: [None, *range(count)] for name, count in (("t", 900), ("u", 5_000), ("v", 5))}, {})
    assert [isinstance(kept.peers[name].classes, list) for name in "tuv"] == [True, False, False]
