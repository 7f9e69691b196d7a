"""The section on trackers: what beside the run folder keeps a run's charts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from mutual.recipe.base import Spec

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio", "comet_ml", "aim", "clearml", "dvclive", "swanlab"]
"""The trackers that Accelerate knows; which of them an installation has is asked where a training begins."""
TENSORBOARD: TrackerName = "tensorboard"


class TrackerSpec(Spec):
    """A tracker with arguments; one that needs none may be written as its name alone."""

    name: TrackerName
    """Accelerate's name of the tracker. All but tensorboard are packages of their own: `pip install wandb`."""
    project: str | None = Field(None, min_length=1, max_length=200)
    """The project (wandb, trackio, comet_ml, clearml, swanlab) or experiment (mlflow) in which the run is shown, under the run's name. The
    default is mutual. TensorBoard's files are in the run folder."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments for the service's own start, as Accelerate's `init_kwargs` has them: `{mode: offline}` for wandb. They are written
    into the run's recipe: keys and passwords belong into the variables of the service."""


def _without_repetition(value: list[TrackerName | TrackerSpec]) -> list[TrackerName | TrackerSpec]:
    names = [tracker_spec(each).name for each in value]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"has {name} twice; name each tracker once")
    return value


def tracker_spec(tracker: TrackerName | TrackerSpec) -> TrackerSpec:
    """Returns an entry of `tracking` as a section.

    Example:
        >>> tracker_spec("wandb").name
        'wandb'
    """
    return tracker if isinstance(tracker, TrackerSpec) else TrackerSpec(name=tracker)


Tracking = Annotated[list[TrackerName | TrackerSpec], Field(max_length=9), AfterValidator(_without_repetition)]
