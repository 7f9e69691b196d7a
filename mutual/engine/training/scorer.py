"""Scorer: which peers of a run are scored when; those whose weights never change are scored once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from mutual.data import Batch
from mutual.engine.evaluation import BANK_SIZE, Chance, ChanceMeter, Evaluator, knn_scores
from mutual.engine.monitoring import PAIRS, Scores, StragglerMonitor, with_rank
from mutual.engine.training.setup import Training
from mutual.group import Communicator
from mutual.recipe import ENSEMBLE, Recipe

_CAUSES = "another `input` (size, mean, std, channels), other `classes` or another order of them, and other `weights`"


class Scorer:
    """Scores the peers of a run on the validation images, and at its end on the test images.

    Peers that begin with weights, and frozen ones, are scored before the first update. The scores of frozen peers are part of every later
    evaluation without being computed again; peers that other jobs train (`exchange.reads`) do change, and are scored each time.

    Args:
        recipe: what is trained.
        training: data and group.
        comm: the ranks of the run.
        stragglers: reports ranks that are slow or hang.

    Attributes:
        initial_peers: the peers that are scored before the first update.
        initial: their scores; empty until `score_initial` or `restore_initial` was called.
    """

    def __init__(self, recipe: Recipe, training: Training, comm: Communicator, stragglers: StragglerMonitor) -> None:
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

    def evaluate(self, update: int) -> Scores:
        """Returns the scores after `update` updates, those of frozen peers among them. Collective: all ranks must call it."""
        scores = self._score(self._evaluator, self._changing_peers, update)
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
        scores = self._score(self._build_evaluator(classifiers, (), compares=False), classifiers, update, meter) if classifiers else {}
        scores |= self._score_headless()
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

    def _score(
        self, evaluator: Evaluator, peers: Sequence[str], update: int, chance: ChanceMeter | None = None, *, split: str = "val"
    ) -> Scores:
        data, group = self._training.data, self._training.group
        group.eval()

        def predict(pixels: Tensor, batch: Batch) -> dict[str, Tensor]:
            return group.predict(pixels, peers, global_batch_size=batch.global_batch_size)

        batches: Iterable[Batch] = with_rank(data.eval_batches(world_size=self._comm.size, shard=group.shard, split=split), self._comm)
        return evaluator(predict, self._stragglers.evaluated(batches, update), is_scoring_rank=group.is_scoring_rank, chance=chance)

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
            has_new_head = peer.weights_file is None or peer.weights_file.head == "new"  # of a fine-tuned peer, which knows nothing yet
            if name not in levels or (has_new_head and not peer.frozen):
                continue
            if math.isnan(row[metric]) or levels[name].explains(row[metric]):
                score = f"a {metric} of {row[metric]:.2%} on {levels[name].num_images:,} validation images"
                chance = f"{levels[name].level:.2%}"
                warnings.warn(
                    f"peer {name!r} begins with {score}, and chance gives {chance}; the likely causes are {_CAUSES}", stacklevel=2
                )
