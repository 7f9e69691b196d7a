"""Whatever stands in a recipe or an override, loading it gives a recipe or one line for each mistake, at once and in little memory."""

from __future__ import annotations

import gc
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from recipe_mutants import mutants, overrides

from mutual.recipe import Recipe, RecipeError, dump_recipe, load_recipe
from mutual.recipe.limits import MAX_FAULTS

pytestmark = [pytest.mark.faults, pytest.mark.slow]
REPOSITORY = Path(__file__).parents[2]
RECIPES = sorted((REPOSITORY / "recipes").rglob("*.yaml"))
SECONDS = 1.0  # of CPU time, as the machine may be busy with something else
BYTES = 200 * 2**20
LONGEST_LINE = 1_000
MUTANTS_OF_EACH, MUTANTS_OF_EACH_LONG = 40, 5_000
PORTION = 1_000
OVERRIDES, OVERRIDES_LONG = 1_000, 20_000


@contextmanager
def little_memory() -> Iterator[None]:
    """Lets the process take 200 MB more than it has, so that a case which asks for more fails."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


class Tally:
    """What came of all cases."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.slowest = 0.0
        self.longest_line = 0
        self.most_memory = 0  # KiB by which a case raised the peak

    def check(self, load: Callable[[], Recipe], file: Path) -> None:
        """Loads a case; a recipe that comes of it must be the same after it was written to `file` and read again."""
        for _ in range(3):  # a pause of a virtual machine counts as CPU time: what is slow is so each time
            recipe, lines, took = self.measure(load)
            if took < SECONDS:
                break
        self.slowest = max(self.slowest, took)
        assert took < SECONDS, f"{took:.1f} s of CPU time"
        self.outcomes["a recipe" if recipe is not None else "a line" if len(lines) == 1 else "several lines"] += 1
        if recipe is None:
            self.check_lines(lines)
        else:
            text = dump_recipe(recipe)
            file.write_text(text, encoding="utf-8")
            again = load_recipe(file)
            assert again == recipe
            assert dump_recipe(again) == text

    def measure(self, load: Callable[[], Recipe]) -> tuple[Recipe | None, list[str], float]:
        gc.freeze()  # what hypothesis holds is not the case's to collect
        with little_memory():
            peak, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
            recipe, lines = None, []
            try:
                recipe = load()
            except RecipeError as error:
                lines = str(error).split("\n")
            took = time.process_time() - begun
        gc.unfreeze()
        self.most_memory = max(self.most_memory, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
        return recipe, lines, took

    def check_lines(self, lines: list[str]) -> None:
        self.longest_line = max(self.longest_line, *map(len, lines))
        assert 1 <= len(lines) <= MAX_FAULTS + 1
        assert all(line.isprintable() and 10 < len(line) < LONGEST_LINE for line in lines)


@pytest.fixture(scope="module")
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    tally = Tally()
    yield tally
    request.config.get_terminal_writer().line(
        f"\n{sum(tally.outcomes.values()):,} cases ({dict(tally.outcomes)}), slowest {tally.slowest * 1e3:.0f} ms of CPU time, "
        f"longest line {tally.longest_line} characters, largest growth of the peak memory in a case {tally.most_memory / 1024:.1f} MiB"
    )


def attack(strategy: st.SearchStrategy, number: int, case: Callable[[object], None]) -> None:
    """Runs `case` on `number` draws, the same in every run; in portions, as hypothesis keeps all that it has drawn in memory."""
    for portion in range(-(-number // PORTION)):
        _attack(strategy, min(number, PORTION), case, portion)


def _attack(strategy: st.SearchStrategy, number: int, case: Callable[[object], None], portion: int) -> None:
    @settings(
        max_examples=number,
        database=None,
        deadline=None,  # CPU time is measured around the call itself
        suppress_health_check=list(HealthCheck),  # the mutants are large, as recipes are, and some are large on purpose
    )
    @seed(portion)
    @given(strategy)
    def run(drawn: object) -> None:
        case(drawn)

    run()


@pytest.mark.parametrize("path", RECIPES, ids=[str(path.relative_to(REPOSITORY)) for path in RECIPES])
def test_a_mutant_is_a_recipe_or_reported_in_lines(path, tmp_path, tally, request):
    file, again = tmp_path / "mutant.yaml", tmp_path / "again.yaml"

    def case(content: bytes) -> None:
        file.write_bytes(content)
        tally.check(lambda: load_recipe(file), again)

    number = MUTANTS_OF_EACH_LONG if request.config.getoption("--faults-long") else MUTANTS_OF_EACH
    attack(mutants(path.read_text(encoding="utf-8")), number, case)


def test_an_override_gives_a_recipe_or_is_reported_in_lines(tmp_path, tally, request):
    recipes = {path: list(key_paths(yaml.safe_load(dump_recipe(load_recipe(path))))) for path in RECIPES}
    cases = st.sampled_from(RECIPES).flatmap(lambda path: st.tuples(st.just(path), overrides(recipes[path])))

    def case(drawn: tuple[Path, list[str]]) -> None:
        tally.check(lambda: load_recipe(drawn[0], drawn[1]), tmp_path / "again.yaml")

    attack(cases, OVERRIDES_LONG if request.config.getoption("--faults-long") else OVERRIDES, case)


def test_the_attack_reaches_recipes_single_lines_and_several(tally):
    assert min(tally.outcomes[outcome] for outcome in ("a recipe", "a line", "several lines")) >= 50


def key_paths(value: object, prefix: str = "") -> Iterator[str]:
    """The path of every key and list index in `value`."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield f"{prefix}{key}"
        yield from key_paths(entry, f"{prefix}{key}.")
