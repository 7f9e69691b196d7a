"""Weights of the classes become numbers by the training images, which the run's recipe says; whoever resumes goes on with them."""

import json
import signal

import pytest
from support import assert_equal_weights, build, digests, tiny_document, train_epochs, weights

import mutual
from mutual.engine import RunFolder, StoppedError
from mutual.engine.training import resolve_class_weights
from mutual.recipe import InputError, RecipeError, load_recipe, parse_recipe

BALANCED = [{"loss": "cross_entropy", "class_weight": "balanced"}, {"loss": "focal", "alpha": "balanced"}]


class StopInMidEpoch(mutual.Callback):
    """Ends a run as a scheduler does, after 7 of its 10 updates."""

    def update(self, state):
        if state.update == 7:
            signal.raise_signal(signal.SIGTERM)


def document(**sections):
    train = {"epochs": 2, "progress": False}
    return tiny_document(**{"objectives": BALANCED, "peers": {"a": {"model": "support:double"}}, "train": train, **sections})


def weighted(*values):
    return document(objectives=[{"loss": "cross_entropy", "class_weight": list(values)}])


def resolved(document, **options):
    recipe, data, _, _ = build(document)
    return resolve_class_weights(recipe, data, **options), data.class_counts


def test_balanced_weights_are_inverse_to_the_classes_images_and_have_a_mean_of_one():
    recipe, counts = resolved(document())
    assert sum(counts) == 40
    expected = [40 / (4 * count) for count in counts]
    for numbers in recipe.class_weights.values():
        assert numbers == pytest.approx(expected, rel=1e-6)
    assert recipe.objectives[0].class_weight == recipe.objectives[1].alpha
    assert resolve_class_weights(recipe, build(document())[1]) == recipe, "numbers are read as they were written"


def test_a_class_without_images_weighs_one_and_counts_for_nothing():
    several = document()
    several["data"] |= {"num_classes": 9, "num_train": 8}
    recipe, counts = resolved(several)
    assert 0 in counts
    numbers = recipe.class_weights[0]
    assert [numbers[label] for label, count in enumerate(counts) if not count] == [1.0] * counts.count(0)
    assert sum(weight * count for weight, count in zip(numbers, counts, strict=True)) == pytest.approx(8)


def test_given_weights_are_brought_to_a_mean_of_one_over_the_images():
    recipe, counts = resolved(weighted(1, 2, 0, 5))
    mean = (counts[0] + 2 * counts[1] + 5 * counts[3]) / 40
    assert recipe.class_weights[0] == pytest.approx([1 / mean, 2 / mean, 0, 5 / mean], rel=1e-6)
    other, _ = resolved(weighted(2, 4, 0, 10))
    assert other == recipe
    assert_equal_weights(weights(train_epochs(weighted(1, 2, 0, 5))), weights(train_epochs(weighted(2, 4, 0, 10))))


def several(class_fraction, **sections):
    whole = document(objectives=[{"loss": "bce", "class_fraction": class_fraction}], **sections)
    whole["data"] |= {"multi_label": True}
    return whole


def test_fractions_are_those_of_the_training_images():
    recipe, counts = resolved(several("data"))
    assert recipe.class_weights[0] == [count / 40 for count in counts]
    assert resolved(several([0.25, 0.5, 0.0, 1.0]))[0].class_weights[0] == [0.25, 0.5, 0.0, 1.0]
    with pytest.raises(RecipeError, match=r"objectives\.0\.class_fraction: 2 fractions, and the data have 4 classes"):
        build(several([0.5, 0.5]))


def test_a_run_says_its_fractions_and_goes_on_with_them_alone(tmp_path):
    folder = mutual.fit(parse_recipe(several("data", output=str(tmp_path)))).folder
    fractions = load_recipe(folder / "recipe.yaml").objectives[0].class_fraction
    for given in ("data", fractions):
        mutual.fit(parse_recipe(several(given, output=str(tmp_path))), resume=True)
    with pytest.raises(InputError, match=r"objectives.*the run was started with"):
        mutual.fit(parse_recipe(several([each / 2 for each in fractions], output=str(tmp_path))), resume=True)


def test_a_recipe_has_room_for_so_many_numbers():
    recipe, _ = resolved(document(), max_numbers=7)
    assert isinstance(recipe.objectives[0].class_weight, list)
    assert recipe.objectives[1].alpha == "balanced"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1, 2), r"objectives\.0\.class_weight: 2 weights, and the data have 4 classes"),
        ((0, 0, 0, 0), "every class that has training images"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(values, message):
    with pytest.raises(RecipeError, match=message):
        build(weighted(*values))


def test_accumulation_is_exact():
    """Invariant 3, of balanced classes with mixed labels: the divisor is the number of images, whatever they weigh."""
    results = []
    for batch_size, accumulate in ((16, 1), (4, 4)):
        whole = document(train={"accumulate": accumulate})
        whole["data"] |= {"num_train": 37, "batch_size": batch_size, "mixup": 0.3}
        results.append(weights(train_epochs(whole, epochs=2)))
    assert_equal_weights(*results, tolerance=1e-12)


def test_a_run_says_its_weights_and_goes_on_with_them(tmp_path):
    """Stopped in mid-epoch, a run resumed with `balanced` or with multiples is the uninterrupted one; other weights are refused."""

    def recipe(folder, class_weight="balanced"):
        whole = document(output=str(tmp_path / folder), objectives=[{"loss": "cross_entropy", "class_weight": class_weight}])
        return parse_recipe({**whole, "data": {**whole["data"], "sampler": "balanced"}})

    whole = mutual.fit(recipe("whole"))
    saved = load_recipe(whole.folder / "recipe.yaml")
    numbers = saved.objectives[0].class_weight
    assert len(numbers) == 4
    again = mutual.fit(saved.model_copy(update={"output": str(tmp_path / "again")}))
    assert digests(again.folder) == digests(whole.folder)
    for number, class_weight in enumerate(("balanced", [3 * weight for weight in numbers])):
        with pytest.raises(StoppedError):
            mutual.fit(recipe(str(number)), callbacks=StopInMidEpoch())
        done = mutual.fit(recipe(str(number), class_weight=class_weight), resume=True)
        assert digests(done.folder) == digests(whole.folder)
    with pytest.raises(InputError, match=r"objectives.*the run was started with"):
        mutual.fit(recipe("whole", class_weight=[1.0, 2.0, 3.0, 4.0]), resume=True)


def test_the_best_weights_may_be_those_of_the_best_mean_over_classes(tmp_path, capsys):
    train = {"epochs": 2, "progress": False, "best_metric": "macro_top1"}
    result = mutual.fit(parse_recipe(tiny_document(output=str(tmp_path), train=train)))
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.split().count("macro") for line in lines) == 3
    best = RunFolder(result.folder).read_best()
    assert best.metric == "macro_top1"
    scores = [line["eval"] for line in map(json.loads, (result.folder / "metrics.jsonl").read_text().splitlines())]
    for peer in "ab":
        assert best.peers[peer]["macro_top1"] == max(each[peer]["macro_top1"] for each in scores)
    assert best.peers[best.peer]["macro_top1"] == max(row["macro_top1"] for row in best.peers.values())


@pytest.mark.parametrize(("metric", "loss"), [("map", "cross_entropy"), ("top1", "bce"), ("macro_top1", "bce")])
def test_the_best_metric_is_one_of_the_labels(metric, loss):
    whole = tiny_document(objectives=[{"loss": loss}], train={"best_metric": metric})
    whole["data"] |= {"multi_label": loss == "bce"}
    with pytest.raises(RecipeError, match=rf"train\.best_metric: images of .* are scored by .*, not by {metric}"):
        parse_recipe(whole)
