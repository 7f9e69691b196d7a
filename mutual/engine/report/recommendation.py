"""Recommendation: which peer to ship and why, in sentences; what may be chance, and what else may be shipped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mutual.engine.report.chance import paired_test
from mutual.engine.report.findings import EdgeFinding, MemberFindings
from mutual.engine.report.pages.numbers import count_text
from mutual.engine.report.predictions import SplitPredictions
from mutual.recipe import ENSEMBLE, SPLIT_NAMES, peer_of

_NAMES = {"top1": "top-1 accuracy", "macro_top1": "top-1 accuracy averaged over the classes", "map": "mAP", "nll": "NLL"}
_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}
_SIMILAR = 0.02
"""Models whose numbers of parameters differ by no more than this fraction are of the same size."""
_LARGEST_ERROR = {"top1": 0.02, "nll": 0.05}
"""Where a difference has a larger standard error, that it may be chance does not say that it is small."""
_LEAST_GAIN = {"map": 0.01, "nll": 0.05}
"""Gains of the ensemble below these are not worth a sentence: points of mAP; NLL as a fraction of the best peer's."""


@dataclass(frozen=True)
class Choice:
    """By what a run has chosen its best peer.

    Attributes:
        peer: the best one.
        metric: the run's `best_metric`.
        scores: by trained peer the scores of its best weights on the validation images, as the run has them.
    """

    peer: str
    metric: str
    scores: Mapping[str, Mapping[str, float | None]]

    def value(self, peer: str, metric: str | None = None) -> float:
        """Returns a score of a peer; NaN where it has none."""
        value = self.scores.get(peer, {}).get(metric or self.metric)
        return math.nan if value is None else value


def reason(choice: Choice, members: Sequence[MemberFindings], edges: Sequence[EdgeFinding], predictions: SplitPredictions) -> str:
    """Returns why to ship the best peer, and what speaks for another one or for the ensemble."""
    by_name = {member.name: member for member in members}
    others = [by_name[name] for name in choice.scores if name in by_name and name != choice.peer]
    others.sort(key=lambda each: _rank(choice, each.name))
    sentences = [_why(choice, by_name[choice.peer], others)]
    if math.isfinite(choice.value(choice.peer)):
        sentences += [
            _about_teachers(choice, by_name, edges, predictions),
            _about_others(choice, by_name[choice.peer], others, predictions),
            _about_ensemble(choice, by_name, len(others) + 1, predictions),
        ]
    return " ".join(sentence for sentence in sentences if sentence)


def _rank(choice: Choice, name: str) -> float:
    """Returns a number that is lower the better a peer is."""
    value = choice.value(name)
    if math.isnan(value):
        return math.inf
    return value if choice.metric == "nll" else -value


def _why(choice: Choice, best: MemberFindings, others: Sequence[MemberFindings]) -> str:
    metric, own = f"validation {_NAMES[choice.metric]}", choice.value(best.name)
    if not math.isfinite(own):
        return f"{best.name} has no finite {metric}, and no other peer has: this training diverged, and nothing of it should be shipped."
    texts = _texts(choice.metric, [own, *(choice.value(each.name) for each in others)])
    if not others:
        return f"{best.name} is the one peer that was trained; its {metric} is {texts[0]}."
    if own == choice.value(others[0].name):
        equal = [each.name for each in others if choice.value(each.name) == own]
        lower_nll = choice.value(best.name, "nll") < min(choice.value(name, "nll") for name in equal)
        because = ", a lower NLL" if lower_nll and choice.metric != "nll" else ""
        return f"{best.name} has the same {metric} as {_listed(equal)} ({texts[0]}){because}{_size(best, others)}."
    extreme, number = "lowest" if choice.metric == "nll" else "highest", _number(len(others) + 1)
    return f"{best.name} has the {extreme} {metric} of the {number} ({texts[0]} against {_listed(texts[1:])}){_size(best, others)}."


def _size(best: MemberFindings, others: Sequence[MemberFindings]) -> str:
    """Returns how large the best peer is next to the others, as the end of a sentence."""
    own, sizes = best.num_parameters, [each.num_parameters for each in others]
    if all(_is_same(own, size) for size in sizes):
        return "; both are of the same size" if len(sizes) == 1 else "; all are of the same size"
    place = "the smallest" if own <= min(sizes) else "the largest" if own >= max(sizes) else "neither the smallest nor the largest"
    listed = ", ".join(f"{each.name}: {count_text(each.num_parameters)}" for each in others)
    return f"; with {count_text(own)} parameters it is {place} ({listed})"


def _about_teachers(
    choice: Choice, by_name: Mapping[str, MemberFindings], edges: Sequence[EdgeFinding], predictions: SplitPredictions
) -> str:
    """Returns what the frozen peers score that taught the best one."""
    best = by_name[choice.peer]
    names = dict.fromkeys(peer_of(edge.source) for edge in edges if edge.learner == best.name)
    known = [by_name[name] for name in names if name in predictions.comparable]
    teachers = [each for each in known if each.is_frozen and choice.metric in each.scores]
    if not teachers:
        return ""
    everyone = (*teachers, best)
    values = _texts(choice.metric, [each.scores[choice.metric] for each in everyone])
    sizes = [count_text(each.num_parameters) for each in everyone]
    *taught, own = (f"{each.name} has {value} with {size}" for each, value, size in zip(everyone, values, sizes, strict=True))
    peers = "The frozen peer that taught it" if len(teachers) == 1 else "The frozen peers that taught it"
    return f"{peers}: {', '.join(taught)} parameters; on these {_images(predictions)} {own}."


def _about_others(choice: Choice, best: MemberFindings, others: Sequence[MemberFindings], predictions: SplitPredictions) -> str:
    """Returns which smaller peer may be shipped in its place, or else which of its own size, as their difference may be chance."""
    if predictions.multi_label:
        return ""
    metric = "nll" if choice.metric == "nll" else "top1"
    tests = {each.name: paired_test(predictions, metric, best.name, each.name) for each in others}
    alike = [each for each in others if tests[each.name].may_be_chance]
    same = [each for each in alike if _is_same(best.num_parameters, each.num_parameters)]
    smaller = [each for each in alike if each.num_parameters < best.num_parameters and each not in same]
    near = min(smaller, key=lambda each: each.num_parameters) if smaller else same[0] if same else None
    if near is None:
        return ""
    test, images, difference = tests[near.name], _images(predictions), _difference(metric, best, near)
    if not test.standard_error <= _LARGEST_ERROR[metric]:
        error = f"with a standard error of {_amount(metric, test.standard_error)} ({test})"
        return f"These {images} are too few to tell it from {near.name}: they differ by {difference}, {error}."
    if near in smaller:
        return (
            f"{near.name} has {_percent(near.num_parameters / best.num_parameters)} of its parameters, and the difference of {difference} "
            f"is within the noise of these {images} ({test}): the smaller one may be shipped."
        )
    if best.scores[metric] == near.scores[metric]:
        return f"{near.name} has the same {_NAMES[metric]} on these {images} ({test}): either may be shipped."
    return f"Its difference from {near.name} ({difference}) is within the noise of these {images} ({test}): either may be shipped."


def _about_ensemble(choice: Choice, by_name: Mapping[str, MemberFindings], num_peers: int, predictions: SplitPredictions) -> str:
    """Returns by how much the ensemble is better, and what it costs; nothing where it is not, or where that may be chance."""
    if ENSEMBLE not in by_name:
        return ""
    best, ensemble = by_name[choice.peer], by_name[ENSEMBLE]
    metrics = ("map", "nll") if predictions.multi_label else dict.fromkeys(["nll" if choice.metric == "nll" else "top1", "nll"])
    for metric in metrics:
        own, joint = best.scores[metric], ensemble.scores[metric]
        gain = (own - joint) / own if metric == "nll" and own else joint - own
        if not gain > _LEAST_GAIN.get(metric, 0.0):
            continue
        test = None if predictions.multi_label else paired_test(predictions, metric, ENSEMBLE, best.name)
        if test is None or test.is_sure:
            texts = _texts(metric, [joint, own])
            better = "lower" if metric == "nll" else "higher"
            sure = "" if test is None else f"; {test}"
            return (
                f"The ensemble of the {_number(num_peers)} has a {better} {_NAMES[metric]} on these {_images(predictions)} "
                f"({texts[0]} against {texts[1]}{sure}), at {_cost(best, ensemble)} of {best.name}."
            )
    return ""


def _cost(best: MemberFindings, ensemble: MemberFindings) -> str:
    parameters = f"{ensemble.num_parameters / max(best.num_parameters, 1):.1f} times the parameters"
    if not best.flops or not ensemble.flops:
        return parameters
    return f"{ensemble.flops / best.flops:.1f} times the FLOPs and {parameters}"


def _difference(metric: str, first: MemberFindings, second: MemberFindings) -> str:
    return f"{_amount(metric, abs(first.scores[metric] - second.scores[metric]))} of {_NAMES[metric]}"


def _amount(metric: str, difference: float) -> str:
    return f"{difference:.3f} nats" if metric == "nll" else f"{100 * difference:.1f} points"


def _texts(metric: str, values: Sequence[float]) -> list[str]:
    """Returns scores with as many digits as it takes to tell different ones apart."""
    factor, unit, first = (1, "", 3) if metric == "nll" else (100, " %", 1)
    different = len(set(values))
    for digits in range(first, first + 3):
        texts = [f"{factor * value:.{digits}f}{unit}" for value in values]
        if len(set(texts)) >= different:
            break
    return texts


def _images(predictions: SplitPredictions) -> str:
    return f"{predictions.num_images:,} {SPLIT_NAMES[predictions.split]} images"


def _is_same(first: int, second: int) -> bool:
    return abs(first - second) <= _SIMILAR * max(first, second)


def _number(count: int) -> str:
    return _NUMBERS.get(count, str(count))


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2g} %"


def _listed(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
