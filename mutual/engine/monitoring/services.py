"""Services: the trackers beside TensorBoard that Accelerate knows (Weights & Biases, MLflow, trackio and others).

A service that cannot start ends the run before it trains, in a line; one that fails later is warned of and left out from there on.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from threading import Timer
from typing import TYPE_CHECKING, Any, NamedTuple

from mutual.engine.monitoring.hyperparameters import Value
from mutual.engine.monitoring.series import Series, Values
from mutual.engine.storage import RunFolder, TrackedRuns
from mutual.recipe import TENSORBOARD, InputError, Recipe, TrackerSpec

if TYPE_CHECKING:
    from accelerate import Accelerator
    from numpy.typing import NDArray

PROJECT = "mutual"
"""The project of runs whose recipe names none."""
PATIENCE = 10.0
"""Seconds after which a line says that a service has not answered yet."""
_PACKAGES = {"comet_ml": "comet-ml"}
_NO_KEY = re.compile(r"[^\w\-. /]")
"""What MLflow takes in no name."""

_NAMED = {"wandb": "name", "trackio": "name", "mlflow": "run_name"}
"""By tracker the argument of its start that names the run."""


class _Resumption(NamedTuple):
    """How a run goes on in a service.

    Attributes:
        id_of: returns the id of the service's run.
        arguments: returns those of the service's start with which the run of an id goes on.
    """

    id_of: Callable[[Any], str]
    arguments: Callable[[str], dict[str, Any]]


_RESUMPTIONS = {
    "wandb": _Resumption(lambda run: run.id, lambda run_id: {"id": run_id, "resume": "allow"}),
    "mlflow": _Resumption(lambda run: run.info.run_id, lambda run_id: {"run_id": run_id}),
    "trackio": _Resumption(lambda run: run.name, lambda run_id: {"name": run_id, "resume": "allow"}),
    "swanlab": _Resumption(lambda run: run.id, lambda run_id: {"id": run_id, "resume": "allow"}),
}
"""By tracker; others begin a new run."""


def check_trackers(recipe: Recipe) -> None:
    """Refuses trackers that cannot be here, before anything is written.

    Raises:
        RecipeError: Accelerate does not know one, or its package is missing.
    """
    if set(recipe.trackers) <= {TENSORBOARD}:
        return
    from accelerate.tracking import get_available_trackers
    from accelerate.utils import LoggerType

    known, available = {str(each) for each in LoggerType.list()}, {str(each) for each in get_available_trackers()}
    for index, name in enumerate(recipe.trackers):
        if name not in known:
            raise recipe.error(f"tracking.{index}", f"the installed Accelerate knows no {name}; pip install --upgrade accelerate")
        if name not in available:
            raise recipe.error(f"tracking.{index}", f"{name} is not installed; pip install {_PACKAGES.get(name, name)}, or leave it out")


def start_tracker(accelerator: Accelerator, name: str, project: str, arguments: Mapping[str, Any]) -> Any:
    """Starts one of Accelerate's trackers, and returns it; it is not among those that `accelerator.log` writes to."""
    from accelerate.utils import LoggerType

    accelerator.log_with, accelerator.trackers = [LoggerType(name)], []
    accelerator.init_trackers(project, init_kwargs={name: dict(arguments)})
    (tracker,) = accelerator.trackers
    accelerator.log_with, accelerator.trackers = [], []
    return tracker


class Services:
    """The services that show a run. They are for the main process alone.

    Args:
        recipe: names them.
        folder: the run folder, which keeps the ids of the run.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder) -> None:
        self._recipe = recipe
        self._folder = folder
        self._trackers: dict[str, Any] = {}

    def start(self, accelerator: Accelerator, hyperparameters: Mapping[str, Value]) -> None:
        """Starts all services; a run that they know goes on there.

        Raises:
            InputError: one cannot start.
        """
        specs = [spec for name, spec in self._recipe.trackers.items() if name != TENSORBOARD]
        if not specs:
            return
        ids = {name: run_id for name, run_id in self._folder.read_tracked().ids.items() if name in _RESUMPTIONS}
        for spec in specs:
            tracker = self._trackers[spec.name] = self._start(accelerator, spec, ids.get(spec.name))
            if spec.name not in ids:
                self._attempt(spec.name, partial(tracker.store_init_configuration, dict(hyperparameters)))
                if spec.name in _RESUMPTIONS:
                    ids[spec.name] = _RESUMPTIONS[spec.name].id_of(tracker.tracker)
                    self._folder.write_tracked(TrackedRuns(ids=ids))

    def log(self, values: Values, *, step: int) -> None:
        """Adds a point to each of these series, after `step` updates."""
        named = {_NO_KEY.sub("_", series.key): value for series, value in values.items()}
        for name, tracker in list(self._trackers.items()):
            self._attempt(name, partial(tracker.log, named, step=step))

    def log_pictures(self, pictures: Mapping[Series, NDArray[Any]], *, step: int) -> None:
        """Adds pictures `[H, W, 3]` of uint8 to the services that take pictures, after `step` updates."""
        named = {_NO_KEY.sub("_", series.key): picture_HWC for series, picture_HWC in pictures.items()}
        for name, tracker in list(self._trackers.items()):
            if name in _PICTURES:
                self._attempt(name, partial(_PICTURES[name], tracker, named, step))

    def finish(self) -> None:
        """Ends the run in all services, which sends what is left."""
        for name, tracker in list(self._trackers.items()):
            self._attempt(name, tracker.finish)
        self._trackers.clear()

    def _start(self, accelerator: Accelerator, spec: TrackerSpec, run_id: str | None) -> Any:
        named = {_NAMED[spec.name]: self._recipe.name} if spec.name in _NAMED else {}
        resumed = _RESUMPTIONS[spec.name].arguments(run_id) if run_id is not None else {}
        project = spec.project or PROJECT
        with _announced(spec.name):
            try:
                return start_tracker(accelerator, spec.name, project, {**named, **spec.args, **resumed})
            except Exception as error:  # a service raises anything where it cannot be reached or is not logged in
                reason = " ".join(str(error).split()) or type(error).__name__
                raise InputError(
                    f"tracking: {spec.name} cannot start: {reason[:300]}; log in, see that its server answers, take an offline mode "
                    "(tracking.N.args), or leave it out"
                ) from error

    def _attempt(self, name: str, call: Callable[[], object]) -> None:
        """Calls a service; one that fails is left out from there on: what it shows is in the run folder, too."""
        try:
            call()
        except Exception as error:  # noqa: BLE001, as above; a training does not end because a server did
            self._trackers.pop(name, None)
            warnings.warn(f"{name} has failed and is left out from here on: {' '.join(str(error).split())[:300]}", stacklevel=2)


def _add_to_list(tracker: Any, pictures: Mapping[str, NDArray[Any]], step: int) -> None:
    tracker.log_images({key: [picture_HWC] for key, picture_HWC in pictures.items()}, step=step)


def _add_one(tracker: Any, pictures: Mapping[str, NDArray[Any]], step: int) -> None:
    tracker.log_images(dict(pictures), step=step)


def _add_to_mlflow(tracker: Any, pictures: Mapping[str, NDArray[Any]], step: int) -> None:
    import mlflow

    for key, picture_HWC in pictures.items():
        mlflow.log_image(picture_HWC, artifact_file=f"{key}/step_{step:08d}.png")


def _add_to_trackio(tracker: Any, pictures: Mapping[str, NDArray[Any]], step: int) -> None:
    import trackio

    tracker.log({key: trackio.Image(picture_HWC) for key, picture_HWC in pictures.items()}, step=step)


_PICTURES: dict[str, Callable[[Any, Mapping[str, NDArray[Any]], int], None]] = {
    "wandb": _add_to_list,
    "swanlab": _add_to_list,
    "aim": _add_one,
    "clearml": _add_one,
    "mlflow": _add_to_mlflow,
    "trackio": _add_to_trackio,
}
"""By tracker what adds pictures to it; where Accelerate has no function for that, the service's own."""


@contextmanager
def _announced(name: str) -> Iterator[None]:
    """Context in which a service starts; should that take long, a line says what is waited for."""
    timer = Timer(PATIENCE, warnings.warn, [f"still waiting for {name} to start; an offline mode needs no server (tracking.N.args)"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
