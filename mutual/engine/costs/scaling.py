"""Forecast: what an update would take on more ranks than there are, with the peers as they are measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mutual.engine.costs.prediction import Prediction, predict
from mutual.engine.costs.profiles import Link, Links, profile_peers
from mutual.engine.runtime import init_environment, restore_switches
from mutual.engine.training import build_training
from mutual.group import TransferPlan, parallel, replicated
from mutual.recipe import Recipe


@dataclass(frozen=True)
class ScalingPrediction:
    """A prediction for a recipe, so many processes and one placement."""

    name: str
    processes: int
    placement: str
    prediction: Prediction


@restore_switches()
def predict_scaling(recipe: Recipe, processes: Sequence[int], link: Link) -> list[ScalingPrediction]:
    """Returns for each number of processes, joined by `link`, what an update takes replicated and parallel.

    Raises:
        RecipeError: the recipe cannot be built, or its peers cannot be placed on so many processes.
    """
    alone = recipe.model_copy(update={"placement": "replicated"})
    environment = init_environment(alone)
    data, group, _ = build_training(alone, environment)
    data.close()
    profiles = profile_peers(alone, environment, data.info)
    costs = {name: profile.seconds(recipe.data.batch_size) for name, profile in profiles.items()}
    found = []
    for number in processes:
        for kind, placement in (("replicated", replicated(recipe, number)), ("parallel", parallel(recipe, number, costs))):
            transfer_plan = TransferPlan.of(placement, group.edges, group.exchange.transfer_plan.specs, dtype=recipe.exchange.dtype)
            train = recipe.train
            prediction = predict(
                placement, transfer_plan, profiles, Links(link, link), batch_size=recipe.data.batch_size, accumulate=train.accumulate
            )
            found.append(ScalingPrediction(recipe.name, number, kind, prediction))
    return found
