"""predict_scaling: the cost of an update on more ranks than there are, from the peers as they are measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mutual.engine.costs.benchmark import PLACEMENTS
from mutual.engine.costs.cost_prediction import CostPrediction, predict_cost
from mutual.engine.costs.profiles import Link, Links, profile_peers
from mutual.engine.runtime import init_environment, restore_switches
from mutual.engine.training import build_training
from mutual.group import TransferPlan, parallel, replicated
from mutual.recipe import Recipe


@dataclass(frozen=True)
class ScalingPrediction:
    """The predicted cost of an update of a recipe on a number of processes in one placement."""

    name: str
    processes: int
    placement: str
    prediction: CostPrediction


@restore_switches()
def predict_scaling(recipe: Recipe, processes: Sequence[int], link: Link) -> list[ScalingPrediction]:
    """Predicts the cost of an update on each number of processes, replicated and parallel.

    Args:
        recipe: what is trained.
        processes: numbers of processes.
        link: between them.

    Raises:
        RecipeError: the recipe cannot be built, or its peers cannot be placed on one of these numbers of processes.
    """
    single = recipe.model_copy(update={"placement": "replicated"})
    environment = init_environment(single)
    training = build_training(single, environment)
    data, group = training.data, training.group
    data.close()
    profiles = profile_peers(single, environment, data.info)
    costs = {name: profile.seconds(recipe.data.batch_size) for name, profile in profiles.items()}
    predictions = []
    for size in processes:
        for kind, placement in zip(PLACEMENTS, (replicated(recipe, size), parallel(recipe, size, costs)), strict=True):
            transfer_plan = TransferPlan.of(placement, group.edges, group.exchange.transfer_plan.specs, dtype=recipe.exchange.dtype)
            train = recipe.train
            prediction = predict_cost(
                placement,
                transfer_plan,
                profiles,
                Links(link, link),
                batch_size=recipe.data.batch_size,
                accumulate=train.accumulate,
                backward=train.backward,
            )
            predictions.append(ScalingPrediction(recipe.name, size, kind, prediction))
    return predictions
