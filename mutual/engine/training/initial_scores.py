"""InitialScoring: the scores before the first update, kept so that a run computes them once, wherever it is cut."""

from __future__ import annotations

import json
from collections.abc import Sequence

import safetensors.torch

from mutual.engine.storage import InitialScores, RunFolder, sha256
from mutual.engine.training.checkpointer import Checkpointer
from mutual.engine.training.peer_collector import PeerCollector
from mutual.engine.training.scorer import Scorer
from mutual.engine.training.setup import Training
from mutual.models import cpu_tensors
from mutual.recipe import Recipe


class InitialScoring:
    """Finds the scores before the first update where a run has computed them already, and writes them down.

    Args:
        recipe: what is trained.
        folder: the run folder.
        training: data and group, with the peers' initial weights.
        scorer: holds the scores.
        checkpointer: knows the digests of frozen weights.
        collector: collects what ranks know of their peers.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        training: Training,
        scorer: Scorer,
        checkpointer: Checkpointer,
        collector: PeerCollector,
    ) -> None:
        self._recipe = recipe
        self._folder = folder
        self._training = training
        self._scorer = scorer
        self._checkpointer = checkpointer
        self._collector = collector
        self._digest: str | None = None

    def restore(self, lines: Sequence[str], *, update: int, resume: bool) -> bool:
        """Gives the scorer the scores that the run has computed before; returns whether there were some, or there are none to compute.

        Collective: all ranks must call it.

        Args:
            lines: of metrics.jsonl, as the checkpoint has them.
            update: number of updates that the run has done.
            resume: whether the folder may hold a part of this run.
        """
        if not self._scorer.initial_peers:
            return True
        first = json.loads(lines[0]) if lines else {}
        scores = first["eval"] if first.get("epoch") == 0 else None
        if scores is None and update == 0:
            self._digest = self._digest_of_start()
            scores = self._saved_scores(self._digest) if resume else None
        if scores is None:
            return False
        self._scorer.restore_initial(scores)
        return True

    def save(self) -> None:
        """Writes the scores on the main process, for a run that is cut before its first checkpoint; after `restore`."""
        if self._collector.comm.is_main:
            assert self._digest is not None, "`restore` has computed it, as nothing is done yet"
            self._folder.write_initial_scores(InitialScores(digest=self._digest, eval=self._scorer.initial))

    def _digest_of_start(self) -> str:
        """Returns a digest of what the scores depend on. Collective: all ranks must call it, before the first update."""
        peers = self._training.group.peers
        trained = [name for name in self._scorer.initial_peers if name in peers and not self._recipe.peers[name].frozen]
        weights = self._collector.all_gather_dict(
            {name: sha256(safetensors.torch.save(cpu_tensors(peers[name].eval_model))) for name in trained}
        )
        document = self._recipe.model_dump(mode="json", exclude={"name", "output"})
        content = [document, self._training.data.fingerprint, self._checkpointer.frozen_digests(), weights, self._collector.comm.size]
        return sha256(json.dumps(content).encode())

    def _saved_scores(self, digest: str) -> dict[str, dict[str, float | None]] | None:
        """Returns the scores that lie in the folder if they are of the same weights, data and recipe. Collective."""
        comm, saved = self._collector.comm, None
        with comm.raise_together():
            if comm.is_main:
                saved = self._folder.read_initial_scores()
        is_same = saved is not None and saved.digest == digest and set(saved.eval) == set(self._scorer.initial_peers)
        scores: dict[str, dict[str, float | None]] | None = comm.all_gather_json(saved.eval if saved is not None and is_same else None)[0]
        return scores
