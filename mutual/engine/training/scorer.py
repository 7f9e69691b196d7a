"""Scorer: which peers of a run are scored when; those whose weights never change are scored once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from mutual.data import Batch
from mutual.engine.evaluation import (
    BANK_SIZE,
    BatchObserver,
    Chance,
    ChanceMeter,
    ChurnMeter,
    DetailsMeter,
    EvaluationDetails,
    Evaluator,
    KeptOutputs,
    PairMeter,
    knn_scores,
    pairs_to_compare,
)
from mutual.engine.monitoring import CHURN, PAIRS, Scores, StragglerMonitor, with_rank
from mutual.engine.training.setup import Training
from mutual.group import Communicator
from mutual.recipe import ENSEMBLE, Recipe, peer_of

_CAUSES = "another `input` (size, mean, std, channels), other `classes` or another order of them, and other `weights`"


class Scorer:
    """Scores the peers of a run on the validation images, and at its end on the test images.

    Peers that begin with weights, and frozen ones, are scored before the first update. The scores of frozen peers are part of every later
    evaluation without being computed again, and what they say of each image is kept to be compared with what the others say; peers that
    other jobs train (`exchange.reads`) do change, and are scored each time.

    Args:
        recipe: what is trained.
        training: data and group.
        comm: the ranks of the run.
        stragglers: reports ranks that are slow or hang.
        churn: counts predictions that change from one evaluation to the next; it is part of a checkpoint.

    Attributes:
        initial_peers: the peers that are scored before the first update.
        initial: their scores; empty until `score_initial` or `restore_initial` was called.
        details: what the last evaluation has counted beside the scores; None where it was not asked to.
    """

    def __init__(self, recipe: Recipe, training: Training, comm: Communicator, stragglers: StragglerMonitor, churn: ChurnMeter) -> None:
        self._recipe = recipe
        self._training = training
        self._comm = comm
        self._stragglers = stragglers
        read = recipe.exchange.reads
        unscored = {*read, *(recipe.headless if training.data.info.multi_label else ())}
        own = {name: peer for name, peer in recipe.peers.items() if name not in unscored}
        self.initial_peers = tuple(name for name, peer in own.items() if peer.frozen or peer.has_weights or peer.expect is not None)
        self.initial: Scores = {}
        self._constant_peers = tuple(name for name, peer in own.items() if peer.frozen)
        self._changing_peers = tuple(name for name in recipe.classifiers if name not in self._constant_peers)
        self._evaluator = self._build_evaluator(self._changing_peers, recipe.trainable)
        self._churn = churn
        self._compared_peers = tuple(name for name in recipe.classifiers if name not in training.group.known_classes)
        self._kept, self._pair_meter = self._compare(self._compared_peers)
        self.details: EvaluationDetails | None = None

    def evaluate(self, update: int, *, details: bool = False) -> Scores:
        """Returns the scores after `update` updates, those of frozen peers among them. Collective: all ranks must call it.

        Args:
            update: number of updates that are done.
            details: whether to count what `details` has then, too.
        """
        if not self._kept.is_complete:  # the run goes on, and has the scores of these peers already
            self._keep_outputs(update)
        info = self._training.data.info
        meter = DetailsMeter(self._comm, self._evaluator.class_numbers, multi_label=info.multi_label) if details else None
        observers: list[BatchObserver] = [self._churn, self._pair_meter, *([meter] if meter else [])]
        scores = self._score(self._evaluator, self._changing_peers, update, observers=observers)
        for member, churn in self._churn.finish().items():
            scores[member][CHURN] = math.nan if math.isnan(scores[member]["nll"]) else churn
        pairs = self._pair_meter.scores()
        if pairs:
            scores[PAIRS] = scores.get(PAIRS, {}) | pairs
        known = self._training.group.known_classes
        self.details = None if meter is None else meter.details(pairs, self._compared_peers, known_classes=known)
        rows = {**{name: self.initial[name] for name in self._constant_peers}, **scores}
        return {member: rows[member] for member in (*self._recipe.peers, ENSEMBLE, PAIRS) if member in rows}

    def score_test(self, update: int) -> Scores:
        """Returns the scores on the test images, after `update` updates, of trained peers and their ensemble, and of frozen peers.

        Collective: all ranks must call it.
        """
        trained, frozen = self._recipe.trainable, tuple(name for name in self._constant_peers if name not in self._recipe.headless)
        rows = self._score(self._build_evaluator(trained, trained), trained, update, split="test")
        if frozen:
            rows |= self._score(self._build_evaluator(frozen, (), compares=False), frozen, update, split="test")
        return {member: rows[member] for member in (*self._recipe.peers, ENSEMBLE, PAIRS) if member in rows}

    def score_initial(self, *, update: int = 0) -> None:
        """Scores the initial peers, and warns of each that only chance explains. Collective: all ranks must call it.

        Args:
            update: if it is not 0, only peers whose weights have not changed since the beginning are scored, and none is warned of.
        """
        peers = self.initial_peers if update == 0 else self._constant_peers
        if not peers:
            return
        info, classifiers = self._training.data.info, tuple(name for name in peers if name not in self._recipe.headless)
        meter = ChanceMeter(
            classifiers,
            self._comm,
            num_classes=info.num_classes,
            multi_label=info.multi_label,
            known_classes=self._known_classes(classifiers),
        )
        evaluator = self._build_evaluator(classifiers, (), compares=False)
        scores = self._score(evaluator, classifiers, update, observers=[meter]) if classifiers else {}
        scores |= self._score_headless()
        self._kept.is_complete = True
        self.restore_initial(self._comm.all_gather_json(scores)[0])
        levels = meter.levels()
        if update == 0 and self._comm.is_main:
            self._warn_of_chance(levels)

    def restore_initial(self, scores: Mapping[str, Mapping[str, float | None]]) -> None:
        """Takes over scores of initial peers as metrics.jsonl has them, in which null is a number that is not finite."""
        finite = {
            name: {metric: value if value is not None and math.isfinite(value) else math.nan for metric, value in row.items()}
            for name, row in scores.items()
        }
        self.initial = {name: finite[name] for name in self._recipe.peers if name in finite}

    def check_expected(self) -> None:
        """Compares the initial scores with what the recipe expects.

        Raises:
            RecipeError: a peer scores less; on all ranks alike.
        """
        expected = {name: peer.expect.minima for name, peer in self._recipe.peers.items() if peer.expect is not None}
        for name, minima in expected.items():
            row = self.initial.get(name, {})
            for metric, minimum in minima.items() if name not in self._recipe.exchange.reads else ():
                where, num_classes = f"peers.{name}.expect.{metric}", self._training.data.info.num_classes
                if not row:
                    raise self._recipe.error(where, "the peer was not scored before the first update of this run")
                if metric not in row:
                    raise self._recipe.error(where, f"is not scored: the data have {num_classes} classes")
                if not row[metric] >= minimum:  # NaN is not
                    images = f"{self._training.data.info.num_val:,} validation images"
                    raise self._recipe.error(
                        where,
                        f"{metric} is {row[metric]:.4f} on {images} before the first update, less than {minimum:g}; "
                        f"the likely causes are {_CAUSES}; or expect less",
                    )

    def _build_evaluator(self, peers: Sequence[str], ensemble: Sequence[str], *, compares: bool = True) -> Evaluator:
        info = self._training.data.info
        return Evaluator(
            peers,
            ensemble,
            num_classes=info.num_classes,
            device=self._comm.device,
            multi_label=info.multi_label,
            known_classes=self._known_classes(peers),
            compares=compares,
        )

    def _known_classes(self, peers: Sequence[str]) -> dict[str, tuple[int, ...]]:
        known = self._training.group.known_classes
        return {name: known[name] for name in peers if name in known}

    def _compare(self, peers: Sequence[str]) -> tuple[KeptOutputs, PairMeter]:
        """Returns what keeps the outputs of frozen ones among `peers`, and what compares these peers."""
        data: dict[str, Any] = {"num_classes": self._training.data.info.num_classes, "multi_label": self._training.data.info.multi_label}
        joined = {frozenset((edge.learner, peer_of(name))) for edge in self._training.group.edges for name in edge.required_sources}
        pairs = pairs_to_compare(peers, joined)
        frozen = [name for name in self._constant_peers if any(name in pair for pair in pairs)]
        kept = KeptOutputs(frozen, num_images=self._training.data.info.num_val, **data)
        return kept, PairMeter(pairs, self._comm, kept, **data)

    def _keep_outputs(self, update: int) -> None:
        """Computes what is kept of frozen peers. Collective: all ranks must call it."""
        for batch in self._batches(update):
            self._predict(batch.to(self._comm.device, non_blocking=True).images, batch, self._kept.peers)
        self._kept.is_complete = True

    def _score(
        self,
        evaluator: Evaluator,
        peers: Sequence[str],
        update: int,
        *,
        split: str = "val",
        observers: Sequence[BatchObserver] = (),
    ) -> Scores:
        def predict(pixels: Tensor, batch: Batch) -> dict[str, Tensor]:
            return self._predict(pixels, batch, peers, split=split)

        is_scoring_rank = self._training.group.is_scoring_rank
        return evaluator(predict, self._batches(update, split=split), is_scoring_rank=is_scoring_rank, observers=observers)

    def _batches(self, update: int, *, split: str = "val") -> Iterator[Batch]:
        """Yields this rank's batches of `split`, with all peers in evaluation mode."""
        data, group = self._training.data, self._training.group
        group.eval()
        batches = with_rank(data.eval_batches(world_size=self._comm.size, shard=group.shard, split=split), self._comm)
        yield from self._stragglers.evaluated(batches, update)

    def _predict(self, pixels: Tensor, batch: Batch, peers: Sequence[str], *, split: str = "val") -> dict[str, Tensor]:
        """Returns the logits of `peers`; what is said of validation images by those that stay as they are is kept."""
        group = self._training.group
        logits = group.predict(pixels, peers, global_batch_size=batch.global_batch_size)
        if split == "val" and group.is_scoring_rank and not self._kept.is_complete and set(self._kept.peers).issubset(peers):
            self._kept.keep(batch, logits)
        return logits

    def _score_headless(self) -> Scores:
        """Returns the scores of the peers without a head by their nearest neighbours. Collective: all ranks must call it."""
        data, group, names = self._training.data, self._training.group, self._recipe.headless
        if not names or data.info.multi_label:
            return {}
        ranks: dict[str, Any] = {"world_size": self._comm.size, "shard": group.shard}
        bank = with_rank(data.sample_batches(BANK_SIZE, **ranks), self._comm)
        batches = with_rank(data.eval_batches(**ranks), self._comm)
        with self._stragglers.during("scores the peers without a head"):
            return knn_scores(group, bank, batches, data.info, self._comm, names=names)

    def _warn_of_chance(self, levels: Mapping[str, Chance]) -> None:
        metric = "map" if self._training.data.info.multi_label else "top1"
        for name, row in self.initial.items():
            peer = self._recipe.peers[name]
            has_new_head = peer.weights_file is None or peer.weights_file.head != "keep"  # of a fine-tuned peer, which knows nothing yet
            if name not in levels or (has_new_head and not peer.frozen):
                continue
            if math.isnan(row[metric]) or levels[name].explains(row[metric]):
                score = f"a {metric} of {row[metric]:.2%} on {levels[name].num_images:,} validation images"
                chance = f"{levels[name].level:.2%}"
                warnings.warn(
                    f"peer {name!r} begins with {score}, and chance gives {chance}; the likely causes are {_CAUSES}", stacklevel=2
                )


def build_churn_meter(recipe: Recipe, training: Training, comm: Communicator) -> ChurnMeter:
    """Returns what counts the predictions of trained peers, and of their ensemble, that change between evaluations."""
    info, known = training.data.info, training.group.known_classes
    sizes = {name: len(known.get(name, range(info.num_classes))) for name in recipe.trainable}
    if len([name for name in sizes if name not in known]) > 1:
        sizes[ENSEMBLE] = info.num_classes
    return ChurnMeter(sizes, comm, num_images=info.num_val, multi_label=info.multi_label)
