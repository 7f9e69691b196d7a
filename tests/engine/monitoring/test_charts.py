"""What TensorBoard shows of several runs in one folder: tags, eight charts, hyperparameters."""

import json
import re

from support import charted, tiny_document
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

import mutual
from mutual.engine.monitoring.event_files import _LAYOUT
from mutual.engine.monitoring.hyperparameters import MAX_TEXT, hyperparameters
from mutual.engine.monitoring.series import RUN, SUMMARY, Series, best_values, score_values, values_on_test
from mutual.recipe import parse_recipe

TEACHER = {"model": "support:tiny", "frozen": True}


def layout_of(folder):
    (event,) = EventAccumulator(str(folder)).Reload().Tensors("custom_scalars__config__")
    (category,) = Layout.FromString(event.tensor_proto.string_val[0]).category
    return {chart.title: list(chart.multiline.tag) for chart in category.chart}


def fit(tmp_path, name, **changes):
    document = tiny_document(name=name, output=str(tmp_path), train={"epochs": 2, "progress": False, "pictures": False}, **changes)
    return mutual.fit(parse_recipe(document))


def test_runs_of_other_peers_have_the_same_charts_and_none_is_empty(tmp_path):
    """TensorBoard leaves out charts of later runs that are equal: eight stay eight."""
    peers = {"student": {"model": "support:tiny"}, "teacher": TEACHER}
    one = fit(tmp_path, "one", peers={"solo": {"model": "support:tiny"}}, objectives=[{"loss": "cross_entropy"}]).folder
    kd = fit(tmp_path, "kd", peers=peers, objectives=[{"loss": "cross_entropy"}, {"loss": "kd", "learners": ["student"]}]).folder
    assert len(layout_of(kd)) == 8
    assert layout_of(kd) == _LAYOUT
    assert next(iter(layout_of(kd))).startswith("top-1")
    assert layout_of(one).items() <= layout_of(kd).items()
    assert list(layout_of(kd))[: len(layout_of(one))] == list(layout_of(one)), "what is left out comes last: both orders are one"
    for folder in (one, kd):
        tags = {re.sub(r"/(student|teacher|solo)$", "", tag) for tag in charted(folder)}
        tags |= {tag.rpartition("/")[0] + "/" for tag in tags}  # as those of pairs end in a peer, too
        for title, (regex,) in layout_of(folder).items():
            assert any(re.match(regex, tag) for tag in tags), title
    assert sorted(path.name for path in (kd / "charts").iterdir()) == ["student", "teacher"]


def test_the_best_so_far_is_charted_and_goes_on_where_a_run_is_resumed(tmp_path):
    folder = fit(tmp_path, "run").folder
    history = [json.loads(line)["eval"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [max((scores[name] for name in ("a", "b")), key=lambda row: (row["top1"], -row["nll"])) for scores in history]
    best = max(rows, key=lambda row: (row["top1"], -row["nll"]))
    points = charted(folder)
    assert [round(point.value, 5) for point in points["best/top1"]] == [round(rows[0]["top1"], 5), round(best["top1"], 5)]
    assert round(points["best/nll"][-1].value, 5) == round(best["nll"], 5)
    assert len(points["ensemble/top1"]) == 2
    mutual.fit(folder.parent / "run" / "recipe.yaml", resume=True)
    again = charted(folder)
    assert {tag: len(events) for tag, events in again.items()} == {tag: len(events) for tag, events in points.items()}
    assert len(EventAccumulator(str(folder)).Reload().Tensors("custom_scalars__config__")) == 1
    mutual.fit(folder.parent / "run" / "recipe.yaml", overwrite=True)
    assert all(len(list(place.glob("events.*"))) == 1 for place in (folder, folder / "hparams", folder / "charts" / "a"))


def test_top1_comes_first_and_pairs_stand_with_their_first_peer():
    scores = {
        "a": {"top1": 0.5, "macro_top1": 0.4, "nll": 1.0, "ece": 0.1, "churn": 0.2, "new": 3.0},
        "pairs": {"agreement": 0.5, "kl": 0.25, "agreement/a/b": 0.5, "kl/b/a": 0.75},
    }
    values = score_values(scores)
    assert min(tag for _, tag in values) == "accuracy/top1"
    assert values[Series("a", "scores/new")] == 3.0
    assert values[Series("a", "agreement/b")] == 0.5
    assert values[Series("b", "kl/a")] == 0.75
    assert values[Series(RUN, "kl/mean")] == 0.25
    assert values_on_test(scores)[Series(RUN, "test/kl_mean")] == 0.25
    assert best_values({"map": 0.5, "nll": 1.0, "epoch": 3}, {}) == {Series(SUMMARY, "best/map"): 0.5, Series(SUMMARY, "best/nll"): 1.0}


def test_hyperparameters_are_those_that_tell_runs_apart():
    document = tiny_document(
        peers={"s": {"model": "support:tiny"}, "t": TEACHER},
        objectives=[{"loss": "cross_entropy", "weight": 0.5}, {"loss": "kd", "learners": ["s"], "sources": ["t"], "weight": 0.5}],
        train={"epochs": 7, "accumulate": 2, "ema": 0.5, "progress": False, "log_every": 3},
    )
    document["data"] |= {"batch_size": 4}
    found = hyperparameters(parse_recipe(document).resolved(), processes=3)
    assert found["objectives"] == "0.5 cross_entropy + 0.5 kd T=4 s <- t"
    assert found["models"] == "support:tiny, frozen support:tiny"
    assert (found["peers"], found["epochs"], found["batch_size"]) == (2, 7, 24)
    assert found["train.ema"] == 0.5
    assert not [key for key in found if key in ("name", "train.progress", "train.log_every", "data.subset_seed", "train.best_metric")]
    assert len(found) < 20
    assert all(isinstance(value, str | int | float) and not isinstance(value, bool) for value in found.values())


def test_hyperparameters_are_short():
    weights = [0.5, 1.5] * 2
    document = tiny_document(objectives=[{"loss": "cross_entropy", "class_weight": [*weights * 20]}] * 30)
    text = hyperparameters(parse_recipe(document), processes=1)["objectives"]
    assert "class_weight=..." in text
    assert len(text) <= MAX_TEXT


def test_a_peers_own_rate_is_named():
    peers = {"a": {"model": "support:tiny", "optimizer": {"lr": 0.5}}, "b": {"model": "support:tiny", "optimizer": {"lr": 0.25}}}
    assert hyperparameters(parse_recipe(tiny_document(peers=peers)), processes=1)["lr"] == "a 0.5, b 0.25"
