"""Pictures: what they show, when they are drawn, and that a run's numbers do not depend on them."""

import numpy as np
import pytest
import yaml
from support import digests, run, tiny_document
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mutual
from mutual.engine.monitoring import agreement_picture, confusion_picture, kl_picture, reliability_picture, views_picture
from mutual.engine.training.pictures import FRACTION, PictureBudget
from mutual.recipe import parse_recipe


@pytest.mark.parametrize("num_classes", [2, 10, 30, 100])
def test_the_matrix_of_confusion_is_dark_where_a_class_is_predicted(num_classes):
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    counts[:, 1] = 5  # everything is taken for the second class
    picture = confusion_picture(counts, [f"class {index}" for index in range(num_classes)], "a")
    assert picture.dtype == np.uint8
    assert max(picture.shape[:2]) < 600
    dark = (picture == (8, 81, 156)).all(axis=2).any(axis=0)
    side = np.flatnonzero(dark)
    assert np.ptp(side) < 360 / min(num_classes, 90) + 4, "one column of cells"


def test_pairs_that_are_not_known_are_grey():
    known, unknown = kl_picture(np.array([[0.0, 2.0], [1.0, 0.0]]), "ab"), kl_picture(np.array([[0.0, np.nan], [np.nan, 0.0]]), "ab")
    assert not (known == 225).all(axis=2).sum() > 100, "single pixels of the letters"
    assert (unknown == 225).all(axis=2).sum() > 100
    assert agreement_picture(np.array([[1.0, 0.5], [0.5, 1.0]]), "ab").shape == known.shape


def test_bins_without_predictions_have_no_bar():
    counts, nothing = np.zeros(15), np.full(15, np.nan)
    empty = reliability_picture(counts, nothing, nothing, "a")
    counts[7], confidences, accuracies = 3, nothing.copy(), nothing.copy()
    confidences[7], accuracies[7] = 0.5, 0.9
    assert not (empty == (66, 133, 190)).all(axis=2).any()
    assert (reliability_picture(counts, confidences, accuracies, "a") == (66, 133, 190)).all(axis=2).any()


@pytest.mark.parametrize("shape", [(3, 1, 8, 8), (16, 3, 20, 10), (9, 3, 300, 200)])
def test_views_stand_side_by_side(shape):
    picture = views_picture(np.zeros(shape, np.uint8))
    assert picture.shape[2] == 3
    assert picture.shape[1] <= 8 * 130
    assert (picture == 0).all(axis=2).any()


def test_pictures_keep_within_their_part_of_the_time():
    now, spent, drawn = 0.0, 0.0, []
    budget = PictureBudget(lambda: now)
    for epoch in range(1000):
        if budget.is_due():
            budget.spend(0.25)
            spent += 0.25
            drawn.append(epoch)
        now += 1.0
        assert spent <= 0.15 + FRACTION * now, "but for what the first ones take longer than was expected"
    assert drawn[:3] == [10, 50, 75]


def document(tmp_path, name, pictures, **changes):
    train = {"epochs": 3, "progress": False, "pictures": pictures}
    document = tiny_document(name=name, output=str(tmp_path), train=train, **changes)
    document["data"] |= {"augment": [{"name": "random_crop", "padding": 1}], "views": "per_peer"}
    return document


def test_a_runs_numbers_do_not_depend_on_pictures(tmp_path):
    folders = [mutual.fit(parse_recipe(document(tmp_path, name, name == "drawn"))).folder for name in ("drawn", "plain")]
    assert digests(folders[0]) == digests(folders[1])
    drawn, plain = (EventAccumulator(str(folder / "charts" / "a")).Reload() for folder in folders)
    assert set(drawn.Tags()["images"]) == {"pictures/confusion", "pictures/reliability", "pictures/views"}
    assert [event.step for event in drawn.Images("pictures/views")][-1] == 15, "the last evaluation is drawn"
    assert set(EventAccumulator(str(folders[0])).Reload().Tags()["images"]) == {"pictures/agreement", "pictures/kl"}
    assert plain.Tags()["images"] == []


@pytest.mark.slow
def test_ranks_draw_together(tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document(tmp_path, "tiny", pictures=True, placement="parallel")))
    run("mutual.train", tmp_path / "recipe.yaml", processes=2)
    assert "pictures/confusion" in EventAccumulator(str(tmp_path / "tiny" / "charts" / "b")).Reload().Tags()["images"]
