"""Missing files that a recipe names, reported before torch is imported, in the words of the code that reads them later."""

from __future__ import annotations

from collections.abc import Sequence

from mutual.commandline import launched_rank
from mutual.data import check_present
from mutual.engine.storage import LOCK, MARK, RunFolder
from mutual.models import check_file, weights_path
from mutual.recipe import DATASETS, Recipe, format_value, program_file


def check_inputs(recipe: Recipe, *, into_new_folder: bool = False) -> None:
    """Refuses a recipe whose data or weights files are missing, and if `into_new_folder`, one whose run folder holds a run.

    Of several processes, or jobs that train peers of one recipe, each reads its own: there it is left to those who read.

    Raises:
        RecipeError: a folder or file that the recipe names is missing.
        InputError: the run folder holds a run.
    """
    if launched_rank()[1] != 1 or recipe.exchange.kind == "stale":
        return
    check_data_present(recipe)
    for name in recipe.peers:
        check_weights_present(recipe, name)
    folder = RunFolder.of(recipe)
    is_extended = recipe.extended_from is not None  # perhaps from itself, which is said later, as is who holds a lock
    if into_new_folder and not is_extended and (folder.path / MARK).exists() and not (folder.path / LOCK).exists():
        folder.check_unused()


def check_data_present(recipe: Recipe) -> None:
    """Refuses a recipe whose data are missing.

    Raises:
        RecipeError: a folder or file that its data section names is missing.
    """
    try:
        check_present(recipe.data)
    except ValueError as error:
        raise recipe.error("data", str(error)) from error


def check_split(recipe: Recipe, trained: Recipe, split: str) -> None:
    """Refuses to score `split` where the data have none, as far as a recipe says so, or where it would hold images that were trained on.

    Args:
        recipe: the run's, with other values where the user gave some.
        trained: the run's, as it was trained.
        split: `val`, `test` or `train`.

    Raises:
        RecipeError: there is no such split, or a fraction holds out others than the run did.
    """
    data, before = recipe.data, trained.data
    if split == "test" and data.test is None and data.family in DATASETS and not data.tests_on_official_part:
        remedy = (
            "name a folder or list of some, as data.test=PATH"
            if data.kind.in_files
            else f"a run with data.val=0.1 has those that {data.dataset} holds out itself"
        )
        raise recipe.error("data.test", f"the run has no test images; {remedy}")
    fractions = [key for key in ("val", "test") if isinstance(getattr(data, key), float)]
    for key in (*fractions, *(["split_seed"] if fractions else [])):
        now, then = getattr(data, key), getattr(before, key)
        if now != then and (data.dataset, data.root) == (before.dataset, before.root):
            trained_with = f"the run was trained with {format_value(then)}"
            raise recipe.error(f"data.{key}", f"{trained_with}, and on some of the images that this holds out; give that value")


def given_datasets(datasets: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Returns the data sets of the user's own that the command line names, by `--dataset` or as `data.dataset=NAME`."""
    return [*datasets, *(text.partition("=")[2] for text in overrides if text.startswith("data.dataset="))]


def check_weights_present(recipe: Recipe, peer: str) -> None:
    """Refuses a recipe whose file of `peer`, of weights or a program, is missing.

    Raises:
        RecipeError: it is.
    """
    spec = recipe.peers[peer]
    source = spec.weights_file
    for key, file in {"model": program_file(spec.model), "weights": None if source is None else source.file}.items():
        if file is not None:
            try:
                check_file(weights_path(file))
            except ValueError as error:
                raise recipe.error(f"peers.{peer}.{key}", str(error)) from error
