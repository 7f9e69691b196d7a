"""What a comparison shows, in words; no number without its interval and its p-value, and nothing claimed of too few seeds."""

from __future__ import annotations

from mutual.engine.comparison import Comparison, Difference, EqualCompute
from mutual.engine.report.pages.markup import clip
from mutual.engine.report.pages.numbers import difference_text, metric_label, p_text, unit_of

_ORDER = ("nll", "top1", "map")
"""Of the metrics that a headline may name, the first one that decides."""
_MAX_NAME = 40
_SAYS = {
    "better": "better",
    "worse": "worse",
    "not shown": "no difference is shown",
    "too few seeds": "too few seeds to claim a difference",
}


def headline(comparison: Comparison) -> str:
    """Returns the answer in a line: whether the arms that the user gave helped."""
    answers = [_answer(comparison, arm, found) for arm in _given(comparison) if (found := _against_baseline(comparison, arm))]
    if not answers:
        return "There is no difference to look at: the comparison has one arm, or no seed in common"
    if len(answers) > 3:
        helping = sum("helps" in answer for answer in answers)
        return f"{helping} of {len(answers)} arms help, against {clip(comparison.baseline, _MAX_NAME)}"
    return "; ".join(answers)


def sentences(comparison: Comparison) -> list[str]:
    """Returns a sentence for each arm and metric, and for what equal compute says of the arm: of metrics of which it says the same, one."""
    found = []
    for arm in _given(comparison):
        found += [_sentence(each) for each in _against_baseline(comparison, arm)]
        metrics: dict[str, list[str]] = {}
        for each in comparison.equal_compute:
            if each.arm == arm:
                metrics.setdefault(_beside_longer(comparison, each), []).append(metric_label(each.metric))
        found += [f"{clip(arm, _MAX_NAME)}, {', '.join(labels)}: {said}." for said, labels in metrics.items()]
    return found


def _given(comparison: Comparison) -> list[str]:
    """Returns the arms that the answer is about; the controls alone where the user gave none beside the baseline."""
    others = [arm for arm in comparison.arms if arm.name != comparison.baseline]
    return [arm.name for arm in others if arm.control is None] or [arm.name for arm in others]


def _against_baseline(comparison: Comparison, arm: str) -> list[Difference]:
    found = [each for each in comparison.differences if each.arm == arm and each.baseline == comparison.baseline]
    return sorted(found, key=lambda each: _ORDER.index(each.metric) if each.metric in _ORDER else len(_ORDER))


def _answer(comparison: Comparison, arm: str, found: list[Difference]) -> str:
    name = clip(arm, _MAX_NAME)
    for verdict, word in (("better", "helps"), ("worse", "hurts")):
        shown = [each for each in found if each.verdict == verdict]
        if shown:
            opposite = any(each.verdict == "worse" for each in found) and verdict == "better"
            more = f", and hurts {_list(found, 'worse')}" if opposite else ""
            return f"{name} {word}: {_value(shown[0])}{more}{_beside_compute(comparison, shown[0])}"
    if all(each.verdict == "too few seeds" for each in found):
        return f"{name}: too few seeds to claim a difference"
    beaten = any(each.verdict == "worse" for metric in _ORDER for each in _against_longer(comparison, arm, metric))
    more = ", and one net trained longer with the same compute is better" if beaten else ""
    return f"{name}: no difference is shown{more}"


def _beside_compute(comparison: Comparison, difference: Difference) -> str:
    """Returns what a headline adds where a method helps, and the same compute spent plainly does, too."""
    refuted = [each for each in comparison.equal_compute if (each.arm, each.metric) == (difference.arm, difference.metric)]
    if difference.verdict != "better" or not any(each.beats_equal_compute is False for each in refuted):
        return ""
    if any(each.verdict == "worse" for each in _against_longer(comparison, difference.arm, difference.metric)):
        return ", but one net trained longer with the same compute is better"
    return ", but not more than the same compute spent on one longer-trained net"


def _against_longer(comparison: Comparison, arm: str, metric: str) -> list[Difference]:
    """Returns the differences of an arm from one peer that is trained with the same compute."""
    longer = {each.name for each in comparison.arms if each.control == "longer"}
    return [each for each in comparison.differences if (each.arm, each.metric) == (arm, metric) and each.baseline in longer]


def _list(found: list[Difference], verdict: str) -> str:
    return ", ".join(_value(each) for each in found if each.verdict == verdict)


def _value(difference: Difference) -> str:
    return f"{metric_label(difference.metric)} {difference_text(difference.metric, difference.mean)}{unit_of(difference.metric)}"


def _sentence(difference: Difference) -> str:
    arms = f"{clip(difference.arm, _MAX_NAME)} against {clip(difference.baseline, _MAX_NAME)}"
    return f"{arms}: {_value_and_details(difference)}: {_SAYS[difference.verdict]}."


def _value_and_details(difference: Difference) -> str:
    details = []
    if difference.interval is not None:
        low, high = (difference_text(difference.metric, end) for end in difference.interval)
        details.append(f"95 % interval {low} .. {high}")
    if difference.p_sign_flip is not None:
        details.append(f"p {p_text(difference.p_sign_flip)}")
    if difference.p_holm is not None:
        details.append(f"{p_text(difference.p_holm)} after Holm's correction")
    more = f" ({', '.join(details)})" if details else ""
    return f"{_value(difference)}{more}"


def _beside_longer(comparison: Comparison, found: EqualCompute) -> str:
    """Returns what equal compute says of an arm in one metric."""
    if found.beats_equal_compute is None:
        return "the same compute spent on one longer-trained net was not compared (--control longer)"
    if found.beats_equal_compute:
        return "better than the same compute spent on one longer-trained net"
    worse = [each for each in _against_longer(comparison, found.arm, found.metric) if each.verdict == "worse"]
    if worse:
        return f"worse than the same compute spent on one longer-trained net: {_value_and_details(worse[0])}"
    beats = "better than independent peers, but " if found.beats_independent else ""
    return f"{beats}not shown to be better than the same compute spent on one longer-trained net"
