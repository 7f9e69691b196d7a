"""Series: what charts call a run's values, and which member of the group each is of.

TensorBoard gives a colour to each folder of event files and sorts tags by what stands before their `/`. So each member has a folder of its
own, where its values have the same tags as those of other members and other runs, and what is read first comes first in the alphabet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mutual.engine.monitoring.scores import PAIRS, Scores
from mutual.engine.monitoring.train_metrics import TrainMetrics
from mutual.recipe import ENSEMBLE

SUMMARY = "summary"
"""In the place of a member: what compares whole runs."""
RUN = ""
"""In the place of a member: what belongs to none."""


class Series(NamedTuple):
    """A sequence of values.

    Attributes:
        member: a peer, `ensemble`, SUMMARY or RUN.
        tag: GROUP/NAME.
    """

    member: str
    tag: str

    @property
    def key(self) -> str:
        """Its name where members have no folders.

        Example:
            >>> Series("a", "accuracy/top1").key, Series(RUN, "kl/mean").key, Series(SUMMARY, "best/top1").key
            ('accuracy/top1/a', 'kl/mean', 'best/top1')
        """
        return self.tag if self.member in (RUN, SUMMARY) else f"{self.tag}/{self.member}"


Values = dict[Series, float]

_SCORES = {
    "top1": "accuracy/top1",
    "macro_top1": "accuracy/top1_macro",
    "top5": "accuracy/top5",
    "map": "accuracy/map",
    "nll": "loss/nll",
    "ece": "calibration/ece",
    "churn": "agreement/churn",
}
_OF_PEERS = {"learning_rate", "learning_rate_lowest", "learning_rate_highest", "grad_norm", "paused"}
"""Of what is logged between evaluations, by `NAME/PEER`: what belongs to a peer."""


def score_values(scores: Scores) -> Values:
    """Returns the values of an evaluation.

    Example:
        >>> score_values({"a": {"top1": 0.5}, "pairs": {"kl": 0.25, "kl/a/b": 0.25}})
        {Series(member='a', tag='accuracy/top1'): 0.5, Series(member='', tag='kl/mean'): 0.25, Series(member='a', tag='kl/b'): 0.25}
    """
    rows = ((member, row) for member, row in scores.items() if member != PAIRS)
    values = {Series(member, _SCORES.get(metric, f"scores/{metric}")): value for member, row in rows for metric, value in row.items()}
    return values | dict(_pair_values(scores.get(PAIRS, {})))


def values_on_test(scores: Scores) -> Values:
    """Returns the values of the scores on the test images."""
    members = {member: row for member, row in scores.items() if member != PAIRS}
    values = {Series(member, f"test/{metric}"): value for member, row in members.items() for metric, value in row.items()}
    pairs = dict(_pair_values(scores.get(PAIRS, {})))
    return values | {Series(member, f"test/{tag.replace('/', '_')}"): value for (member, tag), value in pairs.items()}


def train_values(metrics: TrainMetrics, others: Mapping[str, float]) -> Values:
    """Returns the values of the updates between two points, and `others`, of which some are of peers (`grad_norm/a`)."""
    values = {Series(peer, "loss/train"): value for peer, value in metrics.loss.items()}
    values |= {Series(peer, "accuracy/train_top1"): value for peer, value in metrics.top1.items()}
    values |= {Series(RUN, f"objective/{name}"): value for name, value in metrics.objectives.items()}
    for key, value in others.items():
        group, _, name = key.partition("/")
        values[Series(name, f"optimizer/{group}") if group in _OF_PEERS else Series(RUN, key)] = value
    return values


def best_values(best: Mapping[str, float], ensemble: Mapping[str, float]) -> Values:
    """Returns what compares whole runs: the scores of the best peer's best weights, and of the ensemble at its best."""
    values = {Series(SUMMARY, f"best/{metric}"): best[metric] for metric in ("top1", "map", "nll") if metric in best}
    return values | {Series(SUMMARY, f"{ENSEMBLE}/{metric}"): ensemble[metric] for metric in ("top1", "map", "nll") if metric in ensemble}


def _pair_values(row: Mapping[str, float]) -> Iterator[tuple[Series, float]]:
    """Yields how peers compare: the means over pairs, and of each pair what stands in the folder of its first peer."""
    for key, value in row.items():
        metric, *pair = key.split("/")
        yield (Series(pair[0], f"{metric}/{pair[1]}") if pair else Series(RUN, f"{metric}/mean")), value
