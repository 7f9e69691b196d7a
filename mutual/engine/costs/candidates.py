"""Candidate: a setting that changes an update's time and, but for last digits, not its result; which of them a recipe can be tried with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mutual.engine.training import takes_argument
from mutual.recipe import Recipe

THREADS = "train.threads"
CHANNELS_LAST = "train.channels_last"
COMPILE = "train.compile"
COMPILE_MODE = "train.compile_mode"
_FORMS: dict[str, dict[str, bool | None]] = {
    "as torch chooses": {"fused": None, "foreach": None},
    "fused": {"fused": True, "foreach": None},
    "foreach": {"fused": None, "foreach": True},
}
"""In which form the steps of optimizers are computed, by what the table calls it."""


@dataclass(frozen=True)
class Candidate:
    """A setting to try.

    Attributes:
        label: what the table calls it.
        values: by key path what it sets in the recipe.
    """

    label: str
    values: Mapping[str, Any]

    @property
    def compiles(self) -> bool:
        """Whether peers are compiled, which takes long before the first update."""
        return bool(self.values.get(COMPILE, False))

    @property
    def rebuilds(self) -> bool:
        """Whether peers or optimizers are built anew for it."""
        return THREADS not in self.values


def candidates(recipe: Recipe, *, device: str, tries_threads: bool, tries_given: bool = False) -> Iterator[Sequence[Candidate]]:
    """Yields the candidates of one setting after another, of each those that are not the recipe as it is.

    Args:
        recipe: with its number of threads resolved.
        device: type of the device.
        tries_threads: whether fewer threads are tried, on a CPU.
        tries_given: whether also that is tried in another way which the recipe says.
    """
    train = recipe.train
    if tries_threads and device == "cpu":
        assert train.threads is not None, "it is resolved"
        numbers = [number for number in dict.fromkeys((train.threads // 2, 1)) if 0 < number < train.threads]
        yield [_train_candidate(THREADS, number) for number in numbers]
    if tries_given or train.channels_last is None:
        yield [_train_candidate(CHANNELS_LAST, not train.channels_last)]
    yield list(_optimizer_candidates(recipe, device=device, tries_given=tries_given))
    if (tries_given or train.compile is None) and not any(peer.activation_checkpointing for peer in recipe.peers.values()):
        yield list(_compile_candidates(recipe, device=device))


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Returns `recipe` with other values at some key paths.

    Example:
        >>> from mutual.recipe import parse_recipe
        >>> recipe = parse_recipe({"name": "n", "peers": {"a": {"model": "small_cnn"}}, "objectives": [{"loss": "cross_entropy"}]})
        >>> with_values(recipe, {"train.threads": 2}).train.threads
        2
    """
    for path, value in values.items():
        recipe = _replace(recipe, path.split("."), value)
    return recipe


def _replace(section: Any, keys: Sequence[str], value: Any) -> Any:
    key, *rest = keys
    if isinstance(section, Mapping):
        return {**section, key: _replace(section[key], rest, value)}
    return section.model_copy(update={key: _replace(getattr(section, key), rest, value) if rest else value})


def _train_candidate(path: str, value: object) -> Candidate:
    return Candidate(f"{path.removeprefix('train.')} {str(value).lower()}", {path: value})


def _compile_candidates(recipe: Recipe, *, device: str) -> Iterator[Candidate]:
    """Yields eager peers and each mode of compiled ones, but for that which the recipe has."""
    given = recipe.train.compile_mode if recipe.train.compile else None
    if given is not None:
        yield _train_candidate(COMPILE, False)
    for mode in ("default", "reduce-overhead"):
        if mode != given and (mode == "default" or device == "cuda"):
            yield Candidate(f"compile, mode {mode}", {COMPILE: True, COMPILE_MODE: mode})


def _optimizer_candidates(recipe: Recipe, *, device: str, tries_given: bool) -> Iterator[Candidate]:
    """Yields the forms of a step that are not what the recipe says or what torch takes by itself."""
    own = {name: f"peers.{name}.optimizer" for name in recipe.trainable if recipe.peers[name].optimizer is not None}
    sections = {own.get(name, "optimizer"): recipe.optimizer_of(name) for name in recipe.trainable}
    sections = {path: spec for path, spec in sections.items() if tries_given or spec.is_form_open}
    for label, form in _FORMS.items():
        if label == "foreach" and device != "cpu":
            continue  # it is what torch takes there
        values: dict[str, Any] = {}
        for path, spec in sections.items():
            is_same = all(getattr(spec, key) == value for key, value in form.items())
            if not is_same and not {"fused", "foreach"} & set(spec.args) and all(takes_argument(spec, key) for key in form):
                values |= {f"{path}.{key}": value for key, value in form.items()}
        if values:
            yield Candidate(f"optimizers {label}", values)
