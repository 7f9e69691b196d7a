"""PairMeter: agreement and KL divergence of single pairs of peers, frozen ones included.

Agreement with a teacher is the student's fidelity, which accuracy does not tell (Stanton et al., arXiv:2106.05945).
Shapes: B images, C classes, U pairs, O ordered pairs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations

import torch

from mutual.engine.evaluation.kept_outputs import KeptOutputs
from mutual.engine.evaluation.readable import readable_rows
from mutual.engine.evaluation.scored_batch import ScoredBatch
from mutual.engine.evaluation.task_metrics import task_metrics
from mutual.group import Communicator

MAX_PEERS = 8
"""Up to so many peers all pairs are compared."""


def pairs_to_compare(peers: Sequence[str], joined: Collection[frozenset[str]]) -> list[tuple[str, str]]:
    """Returns the pairs of `peers`, in their order: all, or where there are more than 8 peers those that an edge has `joined`."""
    return [pair for pair in combinations(peers, 2) if len(peers) <= MAX_PEERS or frozenset(pair) in joined]


class PairMeter:
    """Compares peers pair by pair: `agreement/A/B`, and `kl/A/B`, the mean of KL(p_B || p_A), of both orders.

    Agreement is the fraction of images with the same predicted class, or of equal flags of several labels.

    Args:
        pairs: names of the peers of each pair.
        comm: the ranks of the run.
        kept: what frozen peers say; of those whose logits it does not have there is no divergence.
        num_classes: of the data.
        multi_label: whether an image has several labels and not one class.
    """

    def __init__(
        self, pairs: Sequence[tuple[str, str]], comm: Communicator, kept: KeptOutputs, *, num_classes: int, multi_label: bool
    ) -> None:
        self._pairs = tuple(pairs)
        self._peers = tuple(dict.fromkeys(name for pair in pairs for name in pair))
        without = () if kept.has_logits else kept.peers
        compared = [pair for pair in pairs if not set(pair).intersection(without)]
        self._others = {
            name: [b if a == name else a for a, b in compared if name in (a, b)] for name in self._peers
        }  # the q of KL(p || q), by the peer of p
        self._comm = comm
        self._kept = kept
        self._task = task_metrics(num_classes, multi_label=multi_label)
        self._num_elements = num_classes if multi_label else 1
        self._begin()

    def add(self, scored: ScoredBatch) -> None:
        """Adds a batch."""
        if not self._pairs:
            return
        device, bad = self._comm.device, [image.row for image in scored.batch.bad]
        kept_logits = {name: readable_rows(each, bad) for name, each in self._kept.logits(scored.batch, device).items()}
        predictions = {name: readable_rows(each, bad) for name, each in self._kept.predictions(scored.batch).items()}
        logits = {name: each for name, each in {**scored.logits, **kept_logits}.items() if name in self._peers}
        predictions |= {name: self._task.predictions(each) for name, each in logits.items() if name not in predictions}
        log_probabilities = {name: self._task.log_probabilities(each) for name, each in logits.items()}
        self._num_images += scored.num_images
        self._matches_U += torch.stack([(predictions[a] == predictions[b]).sum() for a, b in self._pairs])
        for index, (name, others) in enumerate(self._others.items()):
            if others:
                own = log_probabilities[name]
                stacked = torch.stack([log_probabilities[other] for other in others])
                self._divergences[index] += (own.exp() * (own - stacked)).flatten(start_dim=1).sum(dim=1, dtype=self._dtype)

    def scores(self) -> dict[str, float]:
        """Returns the scores of the batches since the last call, over all ranks. Collective: all ranks must call it."""
        if not self._pairs:
            return {}
        num_images = torch.full((1,), self._num_images, dtype=self._dtype, device=self._comm.device)
        sums = torch.cat([num_images, self._matches_U.to(self._dtype), *self._divergences])
        total_images, *totals = self._comm.all_reduce_sum(sums).tolist()
        matches, divergences = totals[: len(self._pairs)], totals[len(self._pairs) :]
        num_elements = total_images * self._num_elements
        agreements = {f"agreement/{a}/{b}": total / num_elements for (a, b), total in zip(self._pairs, matches, strict=True)}
        keys = [(other, name) for name, others in self._others.items() for other in others]
        by_pair = dict(zip(keys, divergences, strict=True))
        ordered = [each for a, b in self._pairs for each in ((a, b), (b, a)) if each in by_pair]
        self._begin()
        return agreements | {f"kl/{a}/{b}": by_pair[a, b] / total_images for a, b in ordered}

    def _begin(self) -> None:
        device = self._comm.device
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._num_images = 0
        self._matches_U = torch.zeros(len(self._pairs), dtype=torch.int64, device=device)
        self._divergences = [torch.zeros(len(others), dtype=self._dtype, device=device) for others in self._others.values()]
