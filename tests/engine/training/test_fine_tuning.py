"""From a finished run to other classes in one command: its best peer's weights, a new classifier, small rates for what is old."""

import numpy as np
import pytest
import yaml
from PIL import Image
from support import tiny_document
from taught import DIGITS

from mutual import train
from mutual.data import build_data
from mutual.engine.storage import RunFolder
from mutual.models import read_card
from mutual.recipe import load_recipe


@pytest.fixture(scope="module")
def parities(tmp_path_factory):
    """Folders of images of digits, as even and odd ones."""
    folder = tmp_path_factory.mktemp("parities")
    recipe = load_recipe(tiny_document(data={**DIGITS, "subset": None}))
    data = build_data(recipe.data.resolved(seed=0), seed=0)
    number = 0
    for batch in data.eval_batches(world_size=1, shard=(0, 1)):
        for image, label in zip(batch.images[: batch.num_valid], batch.labels, strict=False):
            path = folder / ("val" if number % 3 == 0 else "train") / ("odd" if label % 2 else "even") / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(image[0])).save(path)
            number += 1
    data.close()
    return folder


@pytest.fixture
def words(teacher, parities, tmp_path):
    """A command that names the run's weights as a string."""
    document = tiny_document(
        name="parity",
        output=str(tmp_path),
        data={"dataset": "image_folder", "root": str(parities), "image_size": 8, "channels": 1, "batch_size": 16, "workers": 0},
        peers={"a": {"model": "small_cnn"}},
        objectives=[{"loss": "cross_entropy"}],
        optimizer={"name": "adam", "lr": 0.01},
        train={"epochs": 3, "progress": False},
    )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    return [str(tmp_path / "recipe.yaml"), f"peers.a.weights={teacher.parents[1]}"]


@pytest.mark.filterwarnings("default::UserWarning")
def test_weights_of_other_classes_are_refused_with_what_to_write(words, capsys):
    file, weights = words
    assert train.main([file, weights]) == 2
    line = capsys.readouterr().err
    assert "t.safetensors: class counts differ: the model has 10, the data have 2; write `weights: {file: " in line
    section = line.partition("write `weights: ")[2].partition("`")[0]
    assert train.main([file, f"peers.a.weights={section}", "train.epochs=1"]) == 0


@pytest.mark.filterwarnings("default::UserWarning")
def test_a_finished_run_is_fine_tuned_to_other_classes_in_one_command(words, teacher, tmp_path, capsys):
    new = [f"peers.a.weights={{file: {teacher.parents[1]}, head: new}}"]
    groups = ["optimizer.layer_decay=0.75", "optimizer.groups=[{modules: [fc], lr: 0.02}, {modules: [blocks1], weight_decay: 0.0}]"]
    assert train.main([words[0], *new, *groups]) == 0
    folder = RunFolder(tmp_path / "parity")
    card = read_card(folder.weights("best", "a"))
    assert (card.class_names, card.num_classes) == (("even", "odd"), 2)
    assert folder.read_best().peers["a"]["top1"] > 0.8
    assert "the classifier (fc) is left out: the file's has 10 classes, the model 2" in capsys.readouterr().err
