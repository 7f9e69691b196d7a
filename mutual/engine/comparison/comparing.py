"""compare_arms: what the runs of several arms say, paired by seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from mutual.engine.comparison.arms import ArmRuns, RunRecord
from mutual.engine.comparison.control_names import INDEPENDENT, LONGER
from mutual.engine.comparison.metrics import default_metrics, is_lower_better
from mutual.engine.comparison.notes import notes_on
from mutual.engine.comparison.result import ArmSummary, Comparison, Difference, Epoch, EqualCompute, MetricSummary, Split, Verdict
from mutual.engine.comparison.statistics import LEVEL, holm, mean_and_std, sign_flip_p, smallest_p, t_interval
from mutual.recipe import InputError, did_you_mean, printable


def compare_arms(
    arm_runs: Sequence[ArmRuns],
    *,
    name: str,
    command: str,
    baseline: str,
    seeds: Sequence[int],
    metrics: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> Comparison:
    """Returns what the runs say: each arm against the baseline, and each method against its controls `independent` and `longer`.

    Holm's correction is over the arms that are no control, for each metric. Controls are not among these tests: they are no claims, and a
    method that is held against both must beat both, which needs no correction.

    Args:
        arm_runs: the arms with the runs that they have; a seed may be missing.
        name: of the comparison.
        command: the command line that makes it.
        baseline: name of the arm that the others are held against.
        seeds: those that were asked for.
        metrics: what is compared, an accuracy first; the default are those of the task.
        notes: what others have to say, which stands first.

    Raises:
        InputError: there is no such arm, no run, or no such metric, or the runs were not scored alike.
    """
    if baseline not in {each.arm.name for each in arm_runs}:
        near = did_you_mean(baseline, [each.arm.name for each in arm_runs])
        raise InputError(f"--baseline: there is no arm {printable(baseline)}{near}")
    split, epoch = _scored_as(arm_runs)
    chosen = _chosen_metrics(arm_runs, baseline, metrics)
    arms = [_summary(each, chosen) for each in arm_runs]
    differences, equal_compute = _differences(arms, baseline, chosen), []
    for method, controls in _methods_with_controls(arms, baseline):
        against = {kind: {metric: _difference(method, control, metric) for metric in chosen} for kind, control in controls.items()}
        equal_compute += [_equal_compute(method.name, metric, {kind: rows[metric] for kind, rows in against.items()}) for metric in chosen]
        if method.name != baseline:
            differences += [row for rows in against.values() for row in rows.values() if row.baseline != baseline]
    found = Comparison(
        name=name,
        command=command,
        baseline=baseline,
        seeds=list(seeds),
        split=split,
        epoch=epoch,
        is_optimistic=(split, epoch) == ("val", "best"),
        arms=arms,
        differences=differences,
        equal_compute=equal_compute,
    )
    return found.model_copy(update={"notes": [*notes, *notes_on(found)]})


def trained_epochs(runs: ArmRuns) -> int:
    """Returns how many epochs a run of the arm took: the longest, or what its recipe says where there is none."""
    return max((record.summary.epoch for record in runs.runs.values()), default=runs.arm.recipe.train.epochs)


def _scored_as(arm_runs: Sequence[ArmRuns]) -> tuple[Split, Epoch]:
    records = [record for each in arm_runs for record in each.runs.values()]
    if not records:
        raise InputError("there is nothing to compare: no run of these arms is finished")
    first = records[0]
    for other in records:
        if (other.split, other.epoch) != (first.split, first.epoch):
            described = " and ".join(f"{printable(each.folder)} (the {each.epoch} epoch on {each.split})" for each in (first, other))
            raise InputError(f"these runs were not scored alike: {described}; score both on the same images")
    return first.split, first.epoch


def _chosen_metrics(arm_runs: Sequence[ArmRuns], baseline: str, metrics: Sequence[str] | None) -> list[str]:
    rows = [row for each in arm_runs for record in each.runs.values() if (row := record.scores.get(each.arm.member)) is not None]
    known = dict.fromkeys(metric for row in rows for metric in row)
    if metrics is None:
        recipe = next(each.arm.recipe for each in arm_runs if each.arm.name == baseline)
        chosen = [metric for metric in default_metrics(recipe) if metric in known]
        if not chosen:
            raise InputError(f"the runs were scored by none of {', '.join(default_metrics(recipe))}")
        return chosen
    for metric in metrics:
        if metric not in known:
            raise InputError(f"metrics: no run was scored by {printable(metric)}{did_you_mean(metric, known)}")
    return list(dict.fromkeys(metrics))


def _summary(runs: ArmRuns, metrics: Sequence[str]) -> ArmSummary:
    arm = runs.arm
    return ArmSummary(
        name=arm.name,
        note=arm.note,
        control=arm.control,
        control_of=arm.control_of,
        member=arm.member,
        runs={seed: str(record.folder) for seed, record in sorted(runs.runs.items())},
        metrics={metric: _metric_summary(runs.runs, arm.member, metric) for metric in metrics},
        epochs=trained_epochs(runs),
        flops=runs.flops,
        flops_note=runs.flops_note,
        images=runs.images,
    )


def _metric_summary(runs: Mapping[int, RunRecord], member: str, metric: str) -> MetricSummary:
    scores = {seed: record.scores.get(member, {}).get(metric, math.nan) for seed, record in sorted(runs.items())}
    values = {seed: value if math.isfinite(value) else None for seed, value in scores.items()}
    mean, std = (None, None) if None in values.values() else mean_and_std(list(scores.values()))
    return MetricSummary(values=values, mean=mean, std=std)


def _differences(arms: Sequence[ArmSummary], baseline: str, metrics: Sequence[str]) -> list[Difference]:
    """Returns each arm against the baseline, arm by arm, those that are no control with Holm's correction."""
    reference = next(arm for arm in arms if arm.name == baseline)
    others = [arm for arm in arms if arm.name != baseline]
    found = {(arm.name, metric): _difference(arm, reference, metric) for arm in others for metric in metrics}
    family = [arm.name for arm in others if arm.control is None]
    for metric in metrics:  # an arm without a p, as a run of it diverged, is one of the tests still
        corrected = holm([1.0 if (p := found[name, metric].p_sign_flip) is None else p for name in family])
        for name, p_holm in zip(family, corrected, strict=True):
            row = found[name, metric]
            verdict = _verdict(metric, row.mean, p_holm, row.num_pairs, num_tests=len(family))
            found[name, metric] = row.model_copy(update={"p_holm": None if row.mean is None else p_holm, "verdict": verdict})
    return list(found.values())


def _difference(arm: ArmSummary, baseline: ArmSummary, metric: str) -> Difference:
    """Returns `arm` minus `baseline` over the seeds that both have, with the verdict of a test by itself."""
    first, second = arm.metrics[metric].values, baseline.metrics[metric].values
    seeds = [seed for seed in first if seed in second]
    pairs = [(x, y) for seed in seeds if (x := first[seed]) is not None and (y := second[seed]) is not None]
    if len(pairs) < len(seeds):
        pairs = []  # a run that diverged has no difference, and the others alone would flatter its arm
    differences = [x - y for x, y in pairs]
    mean, std = mean_and_std(differences)
    p = sign_flip_p([x for x, _ in pairs], [y for _, y in pairs])
    return Difference(
        arm=arm.name,
        baseline=baseline.name,
        metric=metric,
        num_pairs=len(seeds),
        mean=mean,
        std=std,
        interval=t_interval(differences),
        p_sign_flip=p,
        p_holm=None,
        verdict=_verdict(metric, mean, p, len(seeds)),
    )


def _verdict(metric: str, mean: float | None, p: float | None, num_pairs: int, *, num_tests: int = 1) -> Verdict:
    if mean is not None and p is not None and p <= LEVEL:
        return "better" if (mean < 0) == is_lower_better(metric) else "worse"
    return "too few seeds" if smallest_p(num_pairs, num_tests) > LEVEL else "not shown"


def _methods_with_controls(arms: Sequence[ArmSummary], baseline: str) -> Iterator[tuple[ArmSummary, dict[str, ArmSummary]]]:
    """Yields the methods that have controls to be held against, with these by their names."""
    for method in (arm for arm in arms if arm.control is None):
        own = [arm for arm in arms if method.name in (arm.control_of or (baseline,))]
        controls = {kind: arm for arm in own if (kind := arm.control) in (INDEPENDENT, LONGER)}
        if controls:
            yield method, controls


def _equal_compute(arm: str, metric: str, against: Mapping[str, Difference]) -> EqualCompute:
    beats = {control: row.verdict == "better" for control, row in against.items() if row.verdict != "too few seeds"}
    return EqualCompute(arm=arm, metric=metric, beats_independent=beats.get(INDEPENDENT), beats_equal_compute=beats.get(LONGER))
