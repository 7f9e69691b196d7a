"""tune, resolve_tuning: the settings with which an update is fastest, measured one after another on copies of the training.

Each setting is tried together with those that were taken before it (a greedy search), on the first window of the run's own data. Nothing
of the run changes: peers, optimizers and data are built for the measurement alone, random states are restored, and stores are others.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from mutual.commandline import print_main
from mutual.data import Window, mixed
from mutual.engine.costs.candidates import Candidate, candidates, with_values
from mutual.engine.costs.placement_choice import resolve_placement
from mutual.engine.costs.profiles import synchronize
from mutual.engine.costs.tuning_result import TuningResult, TuningRow, tuning_table
from mutual.engine.runtime import Environment, LaunchSettings, init_environment, resolve_launch, restore_switches, torch_threads
from mutual.engine.training import Training, build_training
from mutual.group import Communicator, room_for_graphs
from mutual.recipe import Recipe, RecipeError, first_line

WARMUP = 2
"""Updates of each candidate that are not counted."""
MIN_ROUNDS, MAX_ROUNDS, SECONDS = 5, 20, 2.0
"""A candidate is measured for so many updates, within these bounds for so many seconds."""
GAIN = 0.97
"""A setting is taken if an update takes less than this fraction of its time without it; less is noise."""
COMPILE_SECONDS = 75.0
"""What compiling is assumed to take before it was tried: two PP-LCNets on two cores of a CPU, with an empty cache."""
COMPILE_FRACTION = 0.5
"""Compiling is tried only where it would be worth it if it saved this fraction of an update."""
COMPILATIONS = 2
"""What compiling takes in a run, as a multiple of what it took here: evaluation and an epoch's last, smaller batch have their own."""


def resolve_tuning(recipe: Recipe, environment: Environment, *, tries_threads: bool) -> Recipe:
    """Returns the recipe with the fastest settings in place of `train.tune`. Collective: all ranks obtain the same recipe.

    Args:
        recipe: what is trained; a run that is resumed has taken over what was found (`Recipe.with_tuned_of`).
        environment: the ranks of the run.
        tries_threads: whether fewer threads than the recipe's are tried.

    Raises:
        RecipeError: the recipe cannot be built.
    """
    if not recipe.train.tune:
        return recipe
    result = tune(recipe, environment, tries_threads=tries_threads)
    print_main(tuning_table(result))
    tuned = with_values(recipe, result.values)
    return tuned.model_copy(update={"train": tuned.train.model_copy(update={"tune": False})}).resolved()


@restore_switches()
def measure_tuning(recipe: Recipe) -> TuningResult:
    """Tries every setting of a recipe, those that it says too. Collective: all ranks must call it.

    Raises:
        RecipeError: the recipe cannot be built.
    """
    recipe = recipe.resolved()
    environment = init_environment(recipe)
    recipe = resolve_launch(recipe, None, LaunchSettings.of(recipe, environment.comm))
    assert recipe.train.precision is not None, "it is resolved"
    assert recipe.train.threads is not None, "it is resolved"
    environment = replace(environment, precision=recipe.train.precision)
    with torch_threads(recipe.train.threads), room_for_graphs([recipe]):
        recipe = resolve_placement(recipe, environment)
        return tune(recipe, environment, tries_threads=True, tries_given=True)


def tune(recipe: Recipe, environment: Environment, *, tries_threads: bool, tries_given: bool = False) -> TuningResult:
    """Measures which settings make an update fastest. Collective: all ranks must call it, and obtain what the main process chose.

    Args:
        recipe: with its threads and placement resolved.
        environment: the ranks of the run.
        tries_threads: whether fewer threads than the recipe's are tried.
        tries_given: whether also that is tried in another way which the recipe says.

    Raises:
        RecipeError: the recipe cannot be built.
    """
    settings = candidates(recipe, device=environment.comm.device.type, tries_threads=tries_threads, tries_given=tries_given)
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
        search = _Search(recipe, environment, Path(folder))
        for alternatives in settings:
            search.try_setting(alternatives)
        result = search.result()
        search.close()
    gc.collect()  # reference cycles keep what was measured, and its memory is needed
    return result


@dataclass
class _Trial:
    """A training that is built to be measured."""

    training: Training
    window: Window
    threads: int
    comm: Communicator
    num_updates: int = 0

    def update(self) -> float:
        """Returns the seconds that an update takes on the slowest rank. Collective."""
        with torch_threads(self.threads):
            self.comm.barrier()
            synchronize(self.comm.device)
            start = time.perf_counter()
            self.training.train_step(self.window, self.num_updates, measure=False)
            synchronize(self.comm.device)
            elapsed = time.perf_counter() - start
        self.num_updates += 1
        return float(max(self.comm.all_gather_json(elapsed)))

    def run_peers(self) -> None:
        """Runs each peer forward and, if it is trained, backward on the window's first images; no rank waits for another."""
        training, comm = self.training, self.comm
        group = training.group
        batch = self.window.batches[0].to(comm.device)
        pixels, _ = mixed(batch, num_classes=training.data.info.num_classes)
        with torch_threads(self.threads), group.shared_inputs.kept(), comm.no_sync(peer.train_module for peer in group.trainable):
            for name in group.peers:
                outputs = group.forward_peer(name, pixels, seed=0)
                if name in training.optimizers:
                    torch.autograd.backward([output.float().mean() for output in outputs.values() if output.requires_grad])
                    training.optimizers[name].skip()
        synchronize(comm.device)


@dataclass
class _Search:
    """The settings that were taken so far, and what was measured."""

    recipe: Recipe
    environment: Environment
    folder: Path
    values: dict[str, Any] = field(default_factory=dict)
    ratio: float = 1.0
    rows: list[TuningRow] = field(default_factory=list)
    has_compiled: bool = False

    def __post_init__(self) -> None:
        self._start = time.perf_counter()
        self._comm = self.environment.comm
        training = build_training(self._copy(self.recipe), self.environment)
        self._num_updates = self.recipe.train.epochs * training.updates_per_epoch
        self._data, self._window = training.data, next(training.windows(0))
        self._data.close()
        reference = self._trial(training, self.recipe)
        first = [reference.update() for _ in range(WARMUP + 1)][-1]
        self._num_rounds = round(min(max(SECONDS / first, MIN_ROUNDS), MAX_ROUNDS))
        self._seconds = statistics.median(reference.update() for _ in range(self._num_rounds))
        # a GPU is measured one after another, as memory is short and its times are steady
        self._reference = reference if self._comm.device.type == "cpu" else None
        self.rows.append(TuningRow("the recipe as given", {}, self._seconds, 1.0))

    def try_setting(self, alternatives: Sequence[Candidate]) -> None:
        """Measures the alternatives of a setting and takes the fastest if it gains enough."""
        measured = [(self._try(candidate), candidate) for candidate in alternatives]
        ratios = [(row.step_ratio, candidate) for row, candidate in measured if row.step_ratio is not None and not row.note]
        if not ratios:
            return
        ratio, best = min(ratios, key=lambda each: each[0])
        if ratio < GAIN * self.ratio:
            self.ratio, self.values = ratio, {**self.values, **best.values}

    def result(self) -> TuningResult:
        """Returns what the main process has found."""
        taken = self._comm.all_gather_json([self.values, self.ratio, time.perf_counter() - self._start])[0]
        return TuningResult(self.recipe.name, self.rows, *taken)

    def close(self) -> None:
        """Lets the stores' folder be removed, and frees what was built and compiled."""
        if self._reference is not None:
            self._reference.training.close()
        self._reference = None
        self._reset_compiler()

    def _try(self, candidate: Candidate) -> TuningRow:
        """Returns the row of a candidate, which is in the table from then on."""
        times: list[float] = []
        ratios: list[float] = []
        note = self._reason_against(candidate)
        if not note:
            recipe = with_values(self.recipe, {**self.values, **candidate.values})
            with room_for_graphs([recipe]):  # as in the run that it would be
                note = self._measure(recipe, candidate, times, ratios)
        seconds, ratio = (statistics.median(times), statistics.median(ratios)) if ratios else (None, None)
        row = TuningRow(candidate.label, {**self.values, **candidate.values}, seconds, ratio, note)
        self.rows.append(row)
        return row

    def _measure(self, recipe: Recipe, candidate: Candidate, times: list[float], ratios: list[float]) -> str:
        """Adds a candidate's seconds, and these divided by those of the recipe as given; returns why it is not taken, or nothing."""
        start = time.perf_counter()
        try:
            trial = self._build(recipe, candidate)
        except RecipeError as error:  # on all ranks alike
            return f"left out: {first_line(error)}"
        note = self._failure(trial.run_peers, is_local=True) if candidate.compiles else ""
        compile_seconds = self._told(time.perf_counter() - start)
        if not note:
            note = self._failure(lambda: self._compare(trial, times, ratios), is_local=False)
        if candidate.rebuilds:
            trial.training.close()
        if note:
            times.clear()
            ratios.clear()
            return f"left out: {note}"
        saved = self._num_updates * (self.ratio - statistics.median(ratios)) * self._seconds
        if candidate.compiles and saved < COMPILATIONS * compile_seconds:
            return f"compiling took {compile_seconds:.0f} s, and the run would save {max(saved, 0):.0f} s"
        return ""

    def _compare(self, trial: _Trial, times: list[float], ratios: list[float]) -> None:
        for index in range(WARMUP + self._num_rounds):
            before = self._seconds if self._reference is None else self._reference.update()
            elapsed = trial.update()
            if index >= WARMUP:
                times.append(elapsed)
                ratios.append(elapsed / before)

    def _reason_against(self, candidate: Candidate) -> str:
        """Returns why a candidate is not even measured, or nothing. Collective: the main process' clock says it."""
        left = self.recipe.train.tune_seconds - self._told(time.perf_counter() - self._start)
        expected = 2 * (WARMUP + self._num_rounds) * self._seconds + COMPILE_SECONDS * candidate.compiles
        if expected > left:
            return f"left out: it would take about {expected:.0f} s, and train.tune_seconds leaves {max(left, 0):.0f} s"
        step = self.ratio * self._seconds
        saved = COMPILE_FRACTION * step * self._num_updates
        if candidate.compiles and saved < COMPILE_SECONDS:
            return (
                f"left out: compiling takes about {COMPILE_SECONDS:.0f} s, and {self._num_updates:,} updates of {1e3 * step:.0f} ms "
                f"could save {saved:.0f} s"
            )
        return ""

    def _build(self, recipe: Recipe, candidate: Candidate) -> _Trial:
        if not candidate.rebuilds:
            assert self._reference is not None, "threads are tried on a CPU alone, and before anything is built anew"
            return self._trial(self._reference.training, recipe)
        if self._reference is None:  # memory is short
            gc.collect()
        self._reset_compiler()
        self.has_compiled = candidate.compiles
        return self._trial(build_training(self._copy(recipe), self.environment, data=self._data), recipe)

    def _reset_compiler(self) -> None:
        """Forgets programs that were compiled here: torch gives up a model's function of which it has too many."""
        if self.has_compiled:
            torch.compiler.reset()
        self.has_compiled = False

    def _trial(self, training: Training, recipe: Recipe) -> _Trial:
        training.group.train()
        assert recipe.train.threads is not None, "it is resolved"
        threads = recipe.train.threads
        return _Trial(training, self._window, threads, self._comm)

    def _copy(self, recipe: Recipe) -> Recipe:
        """Returns the recipe with stores of its own, as the run's must not be filled with what other settings compute."""
        folders = {f"peers.{name}.store.folder": str(self.folder / str(len(self.rows)) / name) for name in recipe.stores}
        return with_values(recipe, folders)

    def _told(self, seconds: float) -> float:
        """Returns the main process' seconds. Collective."""
        return float(self._comm.all_gather_json(seconds)[0])

    def _failure(self, run: Callable[[], None], *, is_local: bool) -> str:
        """Runs something and returns what fails in it, on the lowest rank where it does, or nothing. Collective.

        What ranks do together is not caught: the others would wait for the one that failed.
        """
        if not is_local and self._comm.size > 1:
            run()
            return ""
        error = ""
        try:
            run()
        except Exception as raised:  # noqa: BLE001, compilers, kernels and the user's model raise anything where they cannot work
            error = f"{type(raised).__name__}: {first_line(raised)}"
        return next(filter(None, self._comm.all_gather_json(error)), "")
