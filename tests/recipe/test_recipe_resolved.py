"""A resolved recipe says what null and auto stand for, and training it is training the recipe."""

import pytest
from support import tiny_document

from mutual.recipe import dump_recipe, load_recipe, parse_recipe


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"dataset": "digits"}, {"image_size": (8, 8), "channels": 1, "normalize": {"mean": (0.3052,), "std": (0.376,)}}),
        (
            {"dataset": "digits", "image_size": 32, "channels": 3},
            {"image_size": 32, "normalize": {"mean": (0.3052,) * 3, "std": (0.376,) * 3}},
        ),
        ({"dataset": "cifar10", "root": "x"}, {"image_size": (32, 32), "channels": 3}),
        ({"dataset": "fake", "channels": 1, "normalize": "none"}, {"normalize": {"mean": (0.0,), "std": (1.0,)}}),
        ({"batch_size": 5}, {"eval_batch_size": 5}),
        ({"subset": 9}, {"subset_seed": 3}),
        ({"subset": 9, "subset_seed": 7}, {"subset_seed": 7}),
    ],
)
def test_null_and_auto_become_values(data, expected):
    resolved = parse_recipe({**tiny_document(), "seed": 3, "data": data}).resolved()
    assert {key: resolved.data.model_dump()[key] for key in expected} == expected


def test_colour_statistics_become_grey_by_luma():
    data = parse_recipe({**tiny_document(), "data": {"dataset": "cifar10", "root": "x", "channels": 1}}).resolved().data
    assert data.normalize.mean == pytest.approx((0.299 * 0.4914 + 0.587 * 0.4822 + 0.114 * 0.4465,))


def test_the_best_metric_follows_the_labels():
    single = parse_recipe(tiny_document())
    several = parse_recipe(
        {**tiny_document(objectives=[{"loss": "bce"}]), "data": {"dataset": "fake", "num_train": 8, "num_classes": 4, "multi_label": True}}
    )
    assert (single.resolved().train.best_metric, several.resolved().train.best_metric) == ("top1", "map")


def test_it_is_resolved_once_and_survives_a_file(tmp_path):
    resolved = parse_recipe(tiny_document()).resolved()
    (tmp_path / "recipe.yaml").write_text(dump_recipe(resolved))
    assert resolved.resolved() == resolved
    assert load_recipe(tmp_path / "recipe.yaml") == resolved
