"""count_training_flops: what a whole training costs, with the training of its teachers where that is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mutual.engine.costs.flops import count_update_flops
from mutual.engine.storage import BEST, LAST, RunFolder
from mutual.group import import_own_losses
from mutual.models import weights_path
from mutual.recipe import ENSEMBLE, InputError, PeerSpec, Recipe, first_line, peer_of, program_file, users_names

_WEIGHTS_FOLDERS = (BEST, LAST, "export")
_GIVE = "give --teacher-flops"


@dataclass(frozen=True)
class TrainingFlops:
    """FLOPs of a whole training.

    Attributes:
        flops: of all epochs, with the training of its teachers where that is known. Evaluations are not counted.
        note: what of it is known from elsewhere, and what is not in it, in a line; empty where there is nothing to say.
        images: training images that it sees over all epochs, each as often as it is seen.
        epochs: how many these are.
        teachers: what the training of its teachers took, as far as it is known; 0 where it has none.
    """

    flops: float
    note: str
    images: int
    epochs: int
    teachers: float = 0.0

    @property
    def per_epoch(self) -> float:
        """FLOPs of an epoch without the training of teachers; the mean where a store makes later ones cheaper."""
        return (self.flops - self.teachers) / self.epochs


def count_training_flops(recipe: Recipe, *, teacher_flops: float | None = None, epochs: int | None = None) -> TrainingFlops:
    """Counts the FLOPs of all that a training computes, and of the trainings that its teachers' weights come from.

    These are counted where the weights are of one of our run folders: that run's whole training, and so on with its own teachers. Weights
    that peers begin with which are trained are not: whoever trains these peers otherwise begins with them, too.

    Args:
        recipe: what is trained; nothing is written, and its run folder need not be there.
        teacher_flops: what the training of the teachers took that are of no such folder, all together.
        epochs: if given, in place of the recipe's: where `train.patience` was exhausted, say.

    Raises:
        RecipeError: the data, a model, an objective or an optimizer does not fit.
    """
    recipe = import_own_losses(recipe)
    own = count_update_flops(recipe, epochs=epochs)
    teachers = _Teachers(recipe)
    teachers.add(recipe)
    notes = list(dict.fromkeys(teachers.notes))
    if teachers.unknown and teacher_flops is not None:
        teachers.flops += teacher_flops
        notes = [f"the training of {' and '.join(teachers.unknown)} as given, {teacher_flops:.3g}"]
    if recipe.exchange.kind == "stale":
        notes.append("without the forwards by which jobs read each other's weights")
    return TrainingFlops(own.flops + teachers.flops, "; ".join(notes), own.images, own.epochs, teachers.flops)


def source_peers(recipe: Recipe) -> tuple[str, ...]:
    """Returns the peers that others learn from, or themselves from their moving averages, in the recipe's order.

    Example:
        >>> from mutual.recipe import parse_recipe
        >>> peers = {"student": {"model": "small_cnn"}, "teacher": {"model": "small_cnn", "frozen": True}}
        >>> source_peers(parse_recipe({"name": "kd", "peers": peers, "objectives": [{"loss": "kd"}]}))
        ('teacher',)
    """
    sources: set[str] = set()
    for objective in recipe.objectives:
        for learner in recipe.learners_of(objective):
            sources.update(peer_of(source) for source in recipe.sources_of(objective, learner) if source != ENSEMBLE)
            sources.update(recipe.members_of(objective, learner))
    return tuple(name for name in recipe.peers if name in sources)


class _Teachers:
    """Counts the trainings that the weights of teachers come from, each run once.

    Attributes:
        flops: of those that are known.
        unknown: the peers of the first recipe of which it is not.
        notes: a line for each of which it is not.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.flops = 0.0
        self.unknown: list[str] = []
        self.notes: list[str] = []
        self._allowed = set(users_names(recipe.model_dump()))
        self._visited: set[Path] = set()

    def add(self, recipe: Recipe, *, of_run: str = "") -> None:
        """Adds the teachers of `recipe`, that of a run or the first."""
        for name in source_peers(recipe):
            spec = recipe.peers[name]
            if not spec.frozen or name in recipe.exchange.reads or not (spec.has_weights or ":" in spec.model):
                continue
            missing = self._add_run(spec)
            if missing:
                self.notes.append(f"without the training of {name}{of_run}: {missing}; {_GIVE}")
                self.unknown.append(f"{name}{of_run}")

    def _add_run(self, spec: PeerSpec) -> str:
        """Adds the training of a teacher; returns why that cannot be, or nothing."""
        folder = _run_of(spec)
        if folder is None:
            return "its weights are of no run folder" if spec.has_weights else f"{spec.model} may load weights"
        if folder.path.resolve() in self._visited:
            return ""
        self._visited.add(folder.path.resolve())
        try:
            recipe = folder.recipe()
            foreign = [name for name in users_names(recipe.model_dump()) if name not in self._allowed]
            if foreign:  # no file chooses code
                return f"{folder.path} runs code that this recipe does not name ({foreign[0]})"
            summary = folder.read_summary()
            recipe = import_own_losses(recipe)
            self.flops += count_update_flops(recipe, epochs=None if summary is None else summary.epoch).flops
        except (InputError, OSError) as error:
            return f"that of {folder.path} cannot be counted ({first_line(error)})"
        self.add(recipe, of_run=f" of {folder.path}")
        return ""


def _run_of(spec: PeerSpec) -> RunFolder | None:
    """Returns the run folder that a peer's weights are in; None where they are in none."""
    file = program_file(spec.model) if spec.weights_file is None else spec.weights_file.file
    if file is None:
        return None
    try:
        path = weights_path(file)
    except ValueError:
        return None  # who builds the peer says what is wrong
    folder = RunFolder(path.parent.parent)
    return folder if path.parent.name in _WEIGHTS_FOLDERS and (folder.path / "recipe.yaml").is_file() else None
