"""hyperparameters: what tells a run from others, flat and short, under the same names for every run."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from mutual.recipe import Objective, PeerSpec, Recipe

MAX_TEXT = 200
"""Characters of a value: MLflow's limit is 500, and a column of a table is not made for more."""
MAX_WORD = 40
"""Characters of an objective's argument; weights of many classes have more."""
_ELSEWHERE = r"(name|output|extended_from|peers|objectives|seed|placement|checkpoint|tracking|exchange)\b.*"
_SHORT = r"optimizer\.(name|lr)|schedule\.name|data\.(dataset|batch_size)|train\.(epochs|accumulate)"
_NO_DIFFERENCE = (
    r"data\.(root|args|columns|download|normalize|train_list|val_list|val_root|unlabelled_root|delimiter|class_names|eval_batch_size|workers|prefetch|decoded|on_bad_image)\b.*"
    r"|train\.(threads|tune|tune_seconds|log_every|eval_every|pictures|progress|timeout_seconds)"
)
_LEFT_OUT = re.compile(f"{_ELSEWHERE}|{_SHORT}|{_NO_DIFFERENCE}")
"""Key paths that are told in short, or that say nothing about what a run gives."""
_DEFAULTS_OF_NULL = {"train.precision": "no"}

Value = str | int | float


def hyperparameters(recipe: Recipe, *, processes: int) -> dict[str, Value]:
    """Returns what `recipe` trains and with what, and wherever else it differs from the defaults."""
    lrs = {name: recipe.optimizer_of(name).lr for name in recipe.trainable}
    values: dict[str, Value] = {
        "objectives": " + ".join(map(_objective, recipe.objectives)),
        "models": _models(recipe.peers.values()),
        "peers": len(recipe.peers),
        "dataset": recipe.data.dataset,
        "epochs": recipe.train.epochs,
        "batch_size": recipe.data.batch_size * recipe.train.accumulate * processes,
        "optimizer": _one(recipe.optimizer_of(name).name for name in recipe.trainable),
        "schedule": _one(recipe.schedule_of(name).name for name in recipe.trainable),
        "lr": next(iter(lrs.values())) if len(set(lrs.values())) == 1 else ", ".join(f"{name} {lr:g}" for name, lr in lrs.items()),
        "seed": recipe.seed,
    }
    defaults = _defaults()
    for path, value in _leaves(recipe.model_dump(mode="json")):
        follows_seed = path.endswith("seed") and value == recipe.seed
        if not (_LEFT_OUT.fullmatch(path) or follows_seed or value in (defaults.get(path), _DEFAULTS_OF_NULL.get(path))):
            values[path] = _short(value)
    return {name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in values.items()}


@cache
def _defaults() -> dict[str, Any]:
    """Returns by key path what a resolved recipe has that says nothing of it."""
    document = {"name": "defaults", "peers": {"a": {"model": "small_cnn"}}, "objectives": [{"loss": "cross_entropy"}]}
    return dict(_leaves(Recipe.model_validate(document).resolved().model_dump(mode="json")))


def _leaves(value: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield from _leaves(item, f"{path}{key}.")
        else:
            yield f"{path}{key}", item


def _short(value: Any) -> Value:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        return ", ".join(item["name"] for item in value)
    return value if isinstance(value, str | int | float) else json.dumps(value)


def _objective(objective: Objective) -> str:
    """Returns an objective as text: `0.5 kd T=4 student <- teacher`."""
    given = objective.model_dump(mode="json", exclude_defaults=True)
    words = [f"{objective.weight:g} {objective.loss}" if objective.weight != 1 else objective.loss]
    temperature = objective.loss_arguments().get("temperature")
    if isinstance(temperature, float):  # said where it is the default, too
        words.append(f"T={temperature:g}")
    for key, value in given.items():
        if key not in ("loss", "weight", "temperature", "learners", "sources") and value is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            words.append(f"{key}={text if len(text) <= MAX_WORD else '...'}")
    ends = [", ".join(given[key]) for key in ("learners", "sources") if given.get(key)]
    if ends:
        words.append(" <- ".join(ends) if len(ends) == 2 else f"<- {ends[0]}" if given.get("sources") else f"of {ends[0]}")
    return " ".join(words)


def _models(peers: Iterable[PeerSpec]) -> str:
    """Returns the models as text: `2 small_cnn, frozen small_cnn`."""
    counts = Counter(_model(peer) for peer in peers)
    return ", ".join(model if count == 1 else f"{count} {model}" for model, count in counts.items())


def _model(peer: PeerSpec) -> str:
    arguments = ", ".join(f"{key}={value}" for key, value in peer.args.items())
    model = f"{peer.model}({arguments})" if arguments else peer.model
    return f"frozen {model}" if peer.frozen else f"{model} with weights" if peer.has_weights else model


def _one(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))
