"""Each peer reads what its model was made for, wherever images come from: training, evaluate, predict and export agree."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image
from support import build, tiny_document
from torch.nn import functional as F

import mutual
from mutual import evaluate, export, predict, train
from mutual.engine import RunFolder
from mutual.engine.evaluation import prediction
from mutual.models import read_card
from mutual.recipe import RecipeError, load_recipe, parse_recipe

NET = {"model": "small_cnn", "args": {"widths": [8, 8], "strides": [2, 2]}}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Colour images of 40 x 52 in three classes."""
    root, generator = tmp_path_factory.mktemp("photos"), torch.Generator().manual_seed(0)
    for part, number in (("train", 10), ("val", 5)):
        for index, name in enumerate(("ant", "bee", "cow")):
            (root / part / name).mkdir(parents=True)
            for image in range(number):
                pixels = torch.randint(0, 80, (40, 52, 3), generator=generator)
                pixels[..., index] += 140
                Image.fromarray(pixels.to(torch.uint8).numpy()).save(root / part / name / f"{image}.png")
    return root


def document(root, output, **sections):
    data = {"dataset": "image_folder", "root": str(root), "image_size": 16, "batch_size": 10}
    return {
        **tiny_document(data=data, peers={"a": NET}, objectives=[{"loss": "cross_entropy"}], train={"epochs": 2, "progress": False}),
        "optimizer": {"name": "adam", "lr": 0.01},
        "output": str(output),
        **sections,
    }


@pytest.fixture(scope="module")
def teacher(photos, tmp_path_factory):
    """A run of a peer with an input of its own."""
    place = tmp_path_factory.mktemp("teacher")
    own = {"size": 24, "mean": [0.5], "std": [0.25], "interpolation": "bicubic", "channels": 1}
    mutual.fit(parse_recipe(document(photos, place, peers={"a": {**NET, "input": own}}, train={"epochs": 6, "progress": False})))
    return place / "tiny"


def taught(photos, output, teacher, **sections):
    peers = {"student": NET, "t": {**NET, "weights": str(teacher / "best" / "a.safetensors"), "frozen": True}}
    objectives = [{"loss": "cross_entropy"}, {"loss": "kd", "learners": ["student"]}]
    return document(photos, output, peers=peers, objectives=objectives, **sections)


def test_a_card_says_how_images_become_inputs(teacher):
    card = read_card(teacher / "best" / "a.safetensors")
    assert (card.image_size, card.in_channels, card.mean, card.std, card.interpolation) == ((24, 24), 1, (0.5,), (0.25,), "bicubic")
    assert (card.loaded_channels, card.channel_order, card.pixel_range) == (3, "L", (0.0, 1.0))
    assert card.preprocess == [
        {"name": "resize", "size": 27, "mode": "shorter", "interpolation": "bilinear"},
        {"name": "center_crop", "size": [24, 24]},
    ]


@pytest.mark.filterwarnings("ignore:peers")
def test_a_teacher_scores_and_predicts_as_it_did_when_it_was_trained(teacher, photos, tmp_path, capsys):
    trained = json.loads((teacher / "best" / "best.json").read_text())["peers"]["a"]
    assert evaluate.main([str(teacher), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["a"]["nll"] == pytest.approx(trained["nll"], abs=1e-6)
    files = sorted((photos / "val").rglob("*.png"))
    losses = []
    for found, file in zip(mutual.predict(teacher, files), files, strict=True):
        losses.append(-torch.tensor(found.probabilities[found.classes.index(file.parent.name)]).log())
    assert torch.stack(losses).mean().item() == pytest.approx(trained["nll"], abs=1e-5)
    result = mutual.fit(parse_recipe(taught(photos, tmp_path, teacher)))
    assert result.metrics["t"]["nll"] == pytest.approx(trained["nll"], abs=1e-6), "the images are loaded for the largest: as then"


def test_what_peers_read_stands_in_the_resolved_recipe(teacher, photos, tmp_path):
    with pytest.warns(
        UserWarning, match=r"peers.t.input: size \[24, 24\], mean \[0.5\], std \[0.25\], interpolation 'bicubic', channels 1"
    ):
        first = mutual.fit(parse_recipe(taught(photos, tmp_path / "one", teacher)))
    saved = load_recipe(first.folder / "recipe.yaml")
    assert saved.peers["t"].input.model_dump() == {
        "size": (24, 24),
        "mean": (0.5,),
        "std": (0.25,),
        "interpolation": "bicubic",
        "channels": 1,
    }
    assert saved.peers["student"].input.size == (16, 16)
    assert saved.peers["student"].input.mean == (0.485, 0.456, 0.406)
    again = mutual.fit(load_recipe(first.folder / "recipe.yaml", [f"output={tmp_path / 'two'}"]))
    weights = [safetensors.torch.load_file(run.folder / "last" / "student.safetensors") for run in (first, again)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    longer = taught(photos, tmp_path / "one", teacher)
    assert mutual.fit(parse_recipe(longer), resume=True).folder == first.folder
    longer["peers"]["t"]["input"] = {"mean": [0.4]}
    with pytest.raises(RecipeError, match=r"peers.t.input.mean: the run was started with \[0.5\] and cannot go on with \[0.4\]"):
        mutual.fit(parse_recipe(longer), resume=True)


@pytest.mark.filterwarnings("ignore:peers")
def test_peers_of_equal_input_share_it(teacher, photos, tmp_path):
    sections = taught(photos, tmp_path, teacher)
    sections["peers"]["other"] = NET
    sections["peers"]["u"] = sections["peers"]["t"]
    _, data, group, _ = build(sections)
    (window, *_) = data.train_windows(0, world_size=1, shard=(0, 1), accumulate=1)
    pixels = window.batches[0].images
    assert pixels.dtype == torch.uint8
    assert data.loaded_shape == (3, 24, 24) == tuple(pixels.shape[1:])
    with group.shared_inputs.kept():
        read = {name: group.view(name, pixels) for name in group.peers}
    assert read["student"] is read["other"]
    assert read["t"] is read["u"]
    assert (tuple(read["student"].shape[1:]), tuple(read["t"].shape[1:])) == ((3, 16, 16), (1, 24, 24))
    small = F.interpolate(pixels.float(), (16, 16), mode="bilinear", antialias=True) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(read["student"], (small - mean) / std)
    with group.shared_inputs.kept():
        before = group.view("student", pixels)
        pixels += 1
        assert group.view("student", pixels) is not before, "of other pixels, in the same memory"


def test_images_are_loaded_no_larger_than_they_are():
    recipe = tiny_document(peers={"a": {**NET, "input": {"size": 64}}, "b": NET}, objectives=[{"loss": "cross_entropy"}])
    for given, loaded in (({"dataset": "digits", "image_size": 6}, (1, 8, 8)), ({"dataset": "digits", "image_size": 12}, (1, 12, 12))):
        _, data, group, _ = build({**recipe, "data": given})
        assert data.loaded_shape == loaded
        assert group.inputs["a"].size == (64, 64)
        data.close()


def test_transforms_with_a_size_of_their_own_hold(photos):
    sections = document(photos, "unused", peers={"a": {**NET, "input": {"size": 32}}})
    sections["data"] |= {"preprocess": [{"name": "resize", "size": 20, "mode": "shorter"}, {"name": "center_crop", "size": 16}]}
    _, data, _, _ = build(sections)
    assert data.loaded_shape == (3, 16, 16)
    data.close()


@pytest.mark.parametrize(
    ("peer", "line"),
    [
        ({"input": {"channels": 3}}, "peers.t.input.channels: 3 for a model of 1 channels ("),
        ({"input": {"mean": [0.1, 0.2, 0.3]}}, "peers.t.input.mean: 3 values for a peer that reads 1 channels"),
        ({"input": {"mean": 0.5}}, "peers.t.input.mean: 0.5 is no list"),
        ({"input": {"colours": 3}}, "peers.t.input.colours: unknown key 'colours'"),
        ({"frozen": False, "classes": ["x", "y"]}, "peers.t.classes: peer 't' is trained, and has the data's classes"),
    ],
)
def test_a_wrong_input_is_a_line(teacher, photos, tmp_path, capsys, peer, line):
    sections = taught(photos, tmp_path, teacher)
    sections["peers"]["t"] |= peer
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(sections))
    assert train.main([str(tmp_path / "recipe.yaml")]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert "Traceback" not in error


def test_an_export_with_its_input_takes_pixels(teacher, photos, tmp_path, capsys):
    assert export.main([str(teacher), "--format", "torch", "--with-input", "--output", str(tmp_path)]) == 0
    program = torch.export.load(tmp_path / "a.pixels.pt2").module()
    model = mutual.load_peer(teacher)
    pixels = torch.randint(0, 256, (5, 1, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(program(pixels), model(model.card.input(pixels)), rtol=1e-4, atol=1e-5)
    assert export.main([str(teacher), "--with-input", "--output", str(tmp_path)]) == 2
    assert "a safetensors file holds weights and no program that could take pixels" in capsys.readouterr().err


def test_a_card_of_before_is_prepared_as_its_runs_recipe_says(teacher, photos, tmp_path, monkeypatch):
    """Cards had neither `preprocess` nor `loaded_channels`."""
    file = next((photos / "val").rglob("*.png"))
    (expected,) = mutual.predict(teacher, file)
    folder = shutil.copytree(teacher, tmp_path / "run")
    read = prediction.read_models
    monkeypatch.setattr(
        prediction,
        "read_models",
        lambda *args: {name: (model, replace(card, preprocess=None, loaded_channels=None)) for name, (model, card) in read(*args).items()},
    )
    (found,) = mutual.predict(folder, file)
    assert found.classes == expected.classes
    assert found.probabilities == pytest.approx(expected.probabilities, abs=0.02)


def test_predict_reads_the_card_alone(teacher, photos, capsys, tmp_path):
    """What a recipe says of images is for the training; other statistics there change no prediction."""
    file = str(next((photos / "val").rglob("*.png")))
    folder = shutil.copytree(teacher, tmp_path / "run")
    recipe = load_recipe(folder / "recipe.yaml").model_dump(mode="json")
    recipe["data"]["normalize"] = "none"
    recipe["data"]["image_size"] = 8
    assert predict.main([str(folder), file, "--json"]) == 0
    before = capsys.readouterr().out
    RunFolder(folder).initialize(parse_recipe(recipe), {})
    code, (out, err) = predict.main([str(folder), file, "--json"]), capsys.readouterr()
    assert (code, out) == (0, before), err


@pytest.mark.filterwarnings("ignore:peer")
def test_a_factorys_model_says_its_channels(photos, tmp_path):
    recipe = parse_recipe(document(photos, tmp_path, peers={"a": {"model": "support:colourful"}}))
    _, data, group, _ = build({**recipe.model_dump(), "data": {**recipe.data.model_dump(), "channels": 1}})
    assert group.inputs["a"].channels == 3
    assert data.loaded_shape[0] == 3
    data.close()


@pytest.mark.filterwarnings("ignore:peers")
def test_a_student_scores_as_it_did_beside_a_teacher_of_larger_images(teacher, photos, tmp_path, capsys):
    """The images were loaded for the largest peer, by all transforms; each peer alone is scored on the same."""
    mutual.fit(parse_recipe(taught(photos, tmp_path, teacher)))
    first, *_, last = map(json.loads, (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines())
    capsys.readouterr()
    for peer, then in (("student", last["eval"]["student"]), ("t", first["eval"]["t"])):
        assert evaluate.main([str(tmp_path / "tiny"), "--peer", peer, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)[peer]
        assert found == pytest.approx({name: then[name] for name in found}, abs=1e-5), peer


@pytest.mark.filterwarnings("ignore:peers")
def test_images_of_grey_data_are_in_colour_for_a_peer_of_colour(photos, tmp_path):
    """Such a peer predicts what it was scored by: the card says that images are decoded in colour."""
    grey = {"dataset": "image_folder", "root": str(photos), "image_size": 16, "batch_size": 10, "channels": 1}
    colour = {**NET, "input": {"channels": 3}}
    recipe = document(photos, tmp_path, data=grey, peers={"a": NET, "b": colour}, train={"epochs": 6, "progress": False})
    result = mutual.fit(parse_recipe(recipe))
    files = sorted((photos / "val").rglob("*.png"))
    for peer in "ab":
        found = mutual.predict(result.folder, files, peer=peer)
        expected = -sum(math.log(dict(zip(f.classes, f.probabilities, strict=True))[f.image.parent.name]) for f in found) / len(files)
        assert result.best_scores[peer]["nll"] == pytest.approx(expected, abs=1e-5), peer
    assert result.best_scores["b"]["top1"] == 1.0  # classes differ in their colour alone
