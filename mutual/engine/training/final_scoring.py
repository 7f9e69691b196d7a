"""FinalScoring: the test images, scored once, at the end of a run, by each peer's best weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager

import safetensors.torch

from mutual.engine.monitoring import Scores, SkippedImages, Tracker
from mutual.engine.storage import BEST, FinalScores, RunFolder, sha256
from mutual.engine.training.best_weights import BestWeights
from mutual.engine.training.checkpointer import Checkpointer
from mutual.engine.training.scorer import Scorer
from mutual.engine.training.setup import Training
from mutual.group import Communicator
from mutual.models import cpu_tensors
from mutual.recipe import Recipe


class FinalScoring:
    """Scores the test split when nothing is left to be chosen, and writes the scores down.

    A run that was cut before they were written scores it when it is resumed; one that has them, of the same weights and images, does not
    again.

    Args:
        recipe: what was trained.
        folder: the run folder.
        training: data and group.
        comm: the ranks of the run.
        scorer: scores the peers.
        best_weights: knows which weights are the best.
        checkpointer: knows the digests of frozen weights.
        skipped_images: reports images that could not be read.
        tracker: prints and charts the scores.

    Attributes:
        scores: by peer and for the ensemble of the trained ones; empty before the end, and without a test split.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        training: Training,
        comm: Communicator,
        *,
        scorer: Scorer,
        best_weights: BestWeights,
        checkpointer: Checkpointer,
        skipped_images: SkippedImages,
        tracker: Tracker,
    ) -> None:
        self.scores: Scores = {}
        self._recipe = recipe
        self._folder = folder
        self._training = training
        self._comm = comm
        self._scorer = scorer
        self._best_weights = best_weights
        self._checkpointer = checkpointer
        self._skipped_images = skipped_images
        self._tracker = tracker

    def run(self, update: int) -> None:
        """Scores the test split after the last of `update` updates, unless it was, or there is none. Collective: all ranks must call it.

        Raises:
            InputError: a peer's best weights are missing or damaged.
            OSError: the scores could not be written; on all ranks alike.
        """
        num_images = self._training.data.info.num_test
        if num_images is None:
            return
        digest, saved = self._digest(), None
        with self._comm.raise_together():
            if self._comm.is_main:
                saved = self._folder.read_final_scores()
        known = self._comm.all_gather_json(None if saved is None or saved.digest != digest else saved.test)[0]
        if known is not None:
            nan = math.nan  # null in a file
            self.scores = {name: {key: nan if value is None else value for key, value in row.items()} for name, row in known.items()}
        else:
            with self._best_weights_loaded():
                self.scores = self._scorer.score_test(update)
            self._skipped_images.report(lambda line: self._tracker.print_line(f"note: {line}"), prefix="test: ")
            with self._comm.raise_together():
                if self._comm.is_main:
                    record = FinalScores(digest=digest, peer=self._folder.best_peer(), images=num_images, test=self.scores)
                    self._folder.write_final_scores(record)
            self._tracker.log_test(self.scores, step=update)
        self._tracker.print_test(self.scores, num_images)

    def _digest(self) -> str:
        """Returns a digest of what the scores depend on in a run: weights and test images; the main process knows those of the best."""
        weights = self._best_weights.state_dict()["sha256"]
        best = [weights.get(f"{BEST}/{name}") for name in self._recipe.trainable]
        return sha256(json.dumps([best, self._checkpointer.frozen_digests(), self._training.data.fingerprint["test"]]).encode())

    @contextmanager
    def _best_weights_loaded(self) -> Iterator[None]:
        """Context in which each trained peer is evaluated by its best weights. Collective: all ranks must enter it."""
        models = {peer.name: peer.eval_model for peer in self._training.group.trainable}
        last = {name: cpu_tensors(model) for name, model in models.items()}
        try:
            for name in self._recipe.trainable:
                content = None
                with self._comm.raise_together():
                    if self._comm.is_main:
                        content = self._folder.verified_weights(BEST, name).read_bytes()
                content = self._comm.broadcast_bytes(content)
                if name in models:
                    models[name].load_state_dict(safetensors.torch.load(content))
            yield
        finally:
            for name, model in models.items():
                model.load_state_dict(last[name])
