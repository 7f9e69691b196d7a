"""Charts: what TensorBoard and other trackers show of a run, on the main process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mutual.engine.monitoring.event_files import EventFiles
from mutual.engine.monitoring.hyperparameters import hyperparameters
from mutual.engine.monitoring.series import Series, Values
from mutual.engine.monitoring.services import Services, start_tracker
from mutual.engine.storage import RunFolder
from mutual.recipe import TENSORBOARD, Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator
    from numpy.typing import NDArray


class Charts:
    """The trackers of a run; before `open` and after `close`, and where the recipe names none, nothing is written.

    Args:
        recipe: what is trained, and with which trackers.
        accelerator: starts the trackers.
        folder: the run folder.
    """

    def __init__(self, recipe: Recipe, accelerator: Accelerator, folder: RunFolder) -> None:
        self._recipe = recipe
        self._accelerator = accelerator
        self._folder = folder
        self._services = Services(recipe, folder)
        self._event_files: EventFiles | None = None

    def open(self, *, step: int, is_new: bool) -> None:
        """Starts the trackers after `step` updates; those of a new run are told what it trains.

        Raises:
            InputError: a service cannot start.
        """
        values = hyperparameters(self._recipe, processes=self._accelerator.num_processes)
        self._services.start(self._accelerator, values)
        if TENSORBOARD in self._recipe.trackers:
            purge_step = step + 1 if step else None
            arguments = {"purge_step": purge_step, **self._recipe.trackers[TENSORBOARD].args}
            tracker = start_tracker(self._accelerator, TENSORBOARD, self._recipe.name, arguments)
            self._event_files = EventFiles(self._recipe, tracker, self._folder.path, purge_step=purge_step)
            if is_new:
                self._event_files.introduce(values)

    def log(self, values: Values, *, step: int) -> None:
        """Adds a point to each of these series, after `step` updates."""
        if self._event_files is not None:
            self._event_files.log(values, step=step)
        self._services.log(values, step=step)

    def log_pictures(self, pictures: Mapping[Series, NDArray[Any]], *, step: int) -> None:
        """Adds pictures `[H, W, 3]` of uint8 to these series, after `step` updates."""
        if self._event_files is not None:
            self._event_files.log_pictures(pictures, step=step)
        self._services.log_pictures(pictures, step=step)

    def close(self) -> None:
        """Closes the trackers."""
        if self._event_files is not None:
            self._event_files.close()
            self._event_files = None
        self._services.finish()
