"""Notes on a comparison: what is to be said beside the table, above all what cannot be claimed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mutual.engine.comparison.control_names import SAME
from mutual.engine.comparison.result import Comparison
from mutual.engine.comparison.statistics import LEVEL, seeds_needed, smallest_p


def notes_on(found: Comparison) -> list[str]:
    """Returns the notes, the gravest first."""
    return [*_too_few_seeds(found), *_not_finite(found), *_unpaired(found), *_optimistic(found), *_reading(found)]


def format_seeds(seeds: Sequence[int]) -> str:
    """Returns seeds in short, as ranges where they follow one another.

    Example:
        >>> format_seeds([0, 1, 2, 5, 8, 9])
        '0-2, 5, 8, 9'
    """
    ranges: list[list[int]] = []
    for seed in sorted(seeds):
        if ranges and seed == ranges[-1][-1] + 1:
            ranges[-1].append(seed)
        else:
            ranges.append([seed])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 2 else ", ".join(map(str, part)) for part in ranges)


def _too_few_seeds(found: Comparison) -> Iterator[str]:
    rows = [row for row in found.differences if row.verdict == "too few seeds"]
    if not rows:
        return
    names = {arm.name for arm in found.arms if arm.control is None and arm.name != found.baseline}
    family = {row.arm for row in found.differences if row.baseline == found.baseline} & names
    num_tests = len(family) if any(row.arm in family and row.baseline == found.baseline for row in rows) else 1
    num_pairs = min(row.num_pairs for row in rows)
    text = (
        f"{_count(num_pairs, 'seed')}: the sign-flip test of {_count(num_pairs, 'pair')} cannot give a p below {smallest_p(num_pairs):.3g}"
    )
    if num_tests > 1:
        text += f", or {smallest_p(num_pairs, num_tests):.3g} after Holm's correction over {num_tests} arms"
    yield (
        f"{text}, so that nothing can be shown at {LEVEL:.0%}, however narrow an interval is; it takes {seeds_needed(num_tests)} seeds"
        + (f" ({seeds_needed()} for one arm)" if seeds_needed(num_tests) > seeds_needed() else "")
    )


def _not_finite(found: Comparison) -> Iterator[str]:
    for arm in found.arms:
        diverged: dict[tuple[int, ...], list[str]] = {}
        for metric, summary in arm.metrics.items():
            seeds = tuple(seed for seed, value in summary.values.items() if value is None)
            if seeds:
                diverged.setdefault(seeds, []).append(metric)
        for seeds, metrics in diverged.items():
            word = "seeds" if len(seeds) > 1 else "seed"
            yield (
                f"{arm.name}, {word} {format_seeds(seeds)}: {' and '.join(metrics)} not finite, or not scored; "
                "the arm has no mean there and nothing is said of it, as the other runs alone would flatter it"
            )


def _unpaired(found: Comparison) -> Iterator[str]:
    for arm in found.arms:
        missing = [seed for seed in found.seeds if seed not in arm.runs]
        if missing:
            word = "seeds" if len(missing) > 1 else "seed"
            yield f"{arm.name} has no run of {word} {format_seeds(missing)}; differences are over the seeds that both arms have"


def _optimistic(found: Comparison) -> Iterator[str]:
    if found.is_optimistic:
        yield (
            "scores are those of the best epoch on the validation images, by which it was chosen: they are optimistic; "
            "`data.test` holds images that choose nothing"
        )


def _reading(found: Comparison) -> Iterator[str]:
    if any(row.verdict == "not shown" for row in found.differences):
        yield "not shown is not the same as no effect: the interval says which differences these runs are compatible with"
    if any(row.metric == "ece" and row.verdict == "better" for row in found.differences):
        yield "a better ECE is no proof of a better model: temperature scaling takes such a gain away; look at the NLL"
    controls = {arm.name: arm.control for arm in found.arms}
    for row in found.differences:
        if controls[row.arm] == SAME and row.verdict in ("better", "worse"):
            yield (
                f"{row.arm} differs from {row.baseline} in {row.metric}, although they differ in their seeds alone: such things happen "
                f"by chance in up to {LEVEL:.0%} of comparisons; take other findings of this size with care"
            )


def _count(num: int, word: str) -> str:
    return f"{num} {word}{'' if num == 1 else 's'}"
