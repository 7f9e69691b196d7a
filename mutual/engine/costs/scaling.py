"""Forecast: what an update would take on more ranks than there are, with the peers as they are measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mutual.engine.costs.prediction import Prediction, predict
from mutual.engine.costs.profiles import Link, Links, profile_peers
from mutual.engine.runtime import start, switches_restored
from mutual.engine.training import build_parts
from mutual.group import Routes, parallel, replicated
from mutual.recipe import Recipe


@dataclass(frozen=True)
class Forecast:
    """A prediction for a recipe, so many processes and one placement."""

    name: str
    processes: int
    placement: str
    prediction: Prediction


@switches_restored()
def forecast(recipe: Recipe, processes: Sequence[int], link: Link) -> list[Forecast]:
    """Returns for each number of processes, joined by `link`, what an update takes replicated and parallel.

    Raises:
        RecipeError: the recipe cannot be built, or its peers cannot be placed on so many processes.
    """
    alone = recipe.model_copy(update={"placement": "replicated"})
    environment = start(alone)
    data, group, _ = build_parts(alone, environment)
    data.close()
    profiles = profile_peers(alone, environment, data.info)
    costs = {name: profile.seconds(recipe.data.batch_size) for name, profile in profiles.items()}
    found = []
    for number in processes:
        for kind, placement in (("replicated", replicated(recipe, number)), ("parallel", parallel(recipe, number, costs))):
            routes = Routes.of(placement, group.edges, group.exchange.routes.forms, dtype=recipe.exchange.dtype)
            train = recipe.train
            prediction = predict(
                placement, routes, profiles, Links(link, link), batch_size=recipe.data.batch_size, accumulate=train.accumulate
            )
            found.append(Forecast(recipe.name, number, kind, prediction))
    return found
