"""`peers.X.store`: what a recipe may say of it."""

import pytest

from mutual.recipe import RecipeError, parse_recipe


def recipe(store=None, *, peers=None, objectives=None, **sections):
    return {
        "name": "stored",
        "peers": {
            "a": {"model": "small_cnn"},
            "t": {"model": "small_cnn", "frozen": True, "store": {"folder": "stores/t", **(store or {})}},
            **(peers or {}),
        },
        "objectives": objectives or [{"loss": "cross_entropy"}, {"loss": "kd", "sources": ["t"]}],
        **sections,
    }


def test_views_of_a_recipe_are_those_of_its_stores():
    assert parse_recipe(recipe(seed=3)).counted_views == (50, 3)
    assert parse_recipe(recipe({"views": 8, "seed": 5})).counted_views == (8, 5)
    assert parse_recipe(recipe({"views": "epoch"})).counted_views is None
    without = {"model": "small_cnn", "frozen": True}
    assert parse_recipe({**recipe(), "peers": {"a": {"model": "small_cnn"}, "t": without}}).counted_views is None


@pytest.mark.parametrize("field", [{"sampler": "balanced"}, {"epoch_size": 30}, {"crops_per_image": 2}])
def test_epoch_views_are_refused_once_where_an_image_may_occur_several_times(field):
    (name,) = field
    with pytest.raises(RecipeError) as error:
        parse_recipe(recipe({"views": "epoch"}, data={"dataset": "digits", **field, "crops_per_image": 2}))
    assert str(error.value).count("'epoch' is for images that occur once in an epoch") == 1
    assert f"data.{name} is given" in str(error.value)
    parse_recipe(recipe({"views": "epoch"}))


OTHER = {"model": "small_cnn", "frozen": True}
MULTI = {
    "data": {"dataset": "fake", "multi_label": True},
    "objectives": [{"loss": "bce"}, {"loss": "dml", "form": "sigmoid", "learners": ["a"]}],
}


@pytest.mark.parametrize(
    ("document", "path", "message"),
    [
        (recipe(peers={"b": {"model": "small_cnn", "store": {"folder": "x"}}}), "peers.b.store", "'b' is trained"),
        (recipe(peers={"u": {**OTHER, "store": {"folder": "x", "views": 9}}}), "peers.u.store.views", "9 here and 50 for 't'"),
        (recipe(peers={"u": {**OTHER, "store": {"folder": "x", "seed": 9}}}), "peers.u.store.seed", "9 here and null for 't'"),
        (recipe(peers={"u": {**OTHER, "store": {"folder": "stores/t"}}}), "peers.u.store.folder", "is the store of 't'"),
        (recipe({"views": "epoch", "seed": 3}), "peers.t.store.seed", "give `views` a number"),
        (recipe({"views": 0}), "peers.t.store.views", "greater than 0"),
        (recipe({"views": "epochs"}), "peers.t.store.views", "did you mean 'epoch'"),
        (recipe({"topk": "al"}), "peers.t.store.topk", "did you mean 'all'"),
        (recipe({"topk": 0}), "peers.t.store.topk", "greater than 0"),
        (recipe({"top": 3}), "peers.t.store.top", "did you mean 'topk'"),
        (
            recipe(objectives=[{"loss": "cross_entropy"}, {"loss": "l2", "sources": ["t"]}]),
            "peers.t.store.topk",
            "objectives.1 (l2) reads the",
        ),
        (
            recipe(objectives=[{"loss": "cross_entropy"}, {"loss": "l2", "sources": "ensemble"}]),
            "peers.t.store.topk",
            "objectives.1 (l2) reads the",
        ),
        (recipe(**MULTI), "peers.t.store.topk", "several labels need all"),
    ],
)
def test_what_cannot_be_is_a_line(document, path, message):
    with pytest.raises(RecipeError) as error:
        parse_recipe(document)
    (fault,) = error.value.faults
    assert fault.path == path
    assert message in fault.message


@pytest.mark.parametrize(
    "document",
    [
        recipe({"topk": "all"}, **MULTI),
        recipe({"topk": "all"}, objectives=[{"loss": "cross_entropy"}, {"loss": "l2", "sources": ["t"]}]),
        recipe(objectives=[{"loss": "cross_entropy"}, {"loss": "l2", "at": "fc:input", "sources": ["t"]}]),
        recipe(objectives=[{"loss": "cross_entropy"}, {"loss": "dml", "form": "kl"}, {"loss": "ssld", "sources": ["t"]}]),
        recipe({"views": 9}, peers={"u": {**OTHER, "store": {"folder": "x", "views": 9, "topk": "all"}}}),
    ],
)
def test_what_can_be(document):
    assert parse_recipe(document).stores
