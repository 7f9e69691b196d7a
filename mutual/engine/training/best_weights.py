"""BestWeights: each peer's last and best weights as files, and which peer is best."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

from mutual.engine.monitoring import Scores
from mutual.engine.storage import BEST, LAST, BestRecord, RunFolder, sha256, write_file
from mutual.engine.training.peer_collector import PeerCollector
from mutual.group import Group
from mutual.models import ModelCard, model_bytes
from mutual.recipe import InputError, Recipe

_WORST = (-math.inf, -math.inf)


class BestWeights:
    """Writes `last/`, `best/` and best.json of the trainable peers.

    Among equal metrics the lower NLL is better; a peer whose metric or NLL is not finite is worse than any other.

    Args:
        recipe: the resolved one; names the peers and the metric.
        folder: the run folder.
        group: the peers that this rank holds.
        cards: what the weights files of each peer that this rank holds say of it.
        collector: brings the weights to the main process.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder, group: Group, cards: Mapping[str, ModelCard], collector: PeerCollector) -> None:
        self._recipe = recipe
        self._folder = folder
        self._group = group
        self._cards = cards
        self._collector = collector
        assert recipe.train.best_metric is not None, "it is resolved"
        self._metric = recipe.train.best_metric
        self._best_scores: dict[str, dict[str, float]] = {}
        self._sha256: dict[str, str] = {}

    @property
    def best_peer(self) -> str | None:
        """Name of the best peer so far; None before the first evaluation."""
        return max(self._best_scores, key=lambda name: self._ranking_key(self._best_scores[name]), default=None)

    def finish_epoch(self, epoch: int, scores: Scores | None) -> None:
        """Writes every trainable peer's last weights, its best ones where they have improved, and best.json.

        Collective: all ranks must call it.

        Args:
            epoch: number of epochs that are done.
            scores: the epoch's, the same on all ranks; None where it was not evaluated.
        """
        comm = self._collector.comm
        for name in self._recipe.trainable:
            content = self._collector.collect_to_main(name, partial(self._content, name))
            with comm.raise_together():
                if content is not None:
                    self._write_peer(name, content, epoch, scores)
        with comm.raise_together():
            if comm.is_main:
                self._write_best({file: [digest] for file, digest in self._sha256.items()})

    def check_files(self) -> None:
        """Compares the best weights on disk with the restored state; to be called after `load_state_dict`.

        Those of an epoch after the checkpoint are adopted with their scores. A peer whose best weights are lost is warned of, and its
        best is determined again from the next evaluation on.
        """
        for name in self._recipe.trainable if self._collector.comm.is_main else []:
            if not (self._is_as_saved(name) or self._adopt(name)):
                self._sha256.pop(f"{BEST}/{name}", None)
                if self._best_scores.pop(name, None) is not None:
                    path = self._folder.weights(BEST, name)
                    warnings.warn(
                        f"{path} is missing or damaged; the best of peer {name!r} is determined again from the next evaluation on",
                        stacklevel=2,
                    )

    def state_dict(self) -> dict[str, Any]:
        """Returns every peer's best scores so far, and the digests of the files."""
        return {"peers": self._best_scores, "sha256": self._sha256}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._best_scores = dict(state["peers"])
        self._sha256 = dict(state["sha256"])

    def _ranking_key(self, row: Mapping[str, float]) -> tuple[float, float]:
        if not (math.isfinite(row[self._metric]) and math.isfinite(row["nll"])):
            return _WORST
        return (0.0 if self._metric == "nll" else row[self._metric], -row["nll"])

    def _is_better(self, name: str, row: Mapping[str, float]) -> bool:
        return name not in self._best_scores or self._ranking_key(row) > self._ranking_key(self._best_scores[name])

    def _write_peer(self, name: str, content: bytes, epoch: int, scores: Scores | None) -> None:
        """Writes a peer's last weights, and its best ones where it has improved."""
        is_better = scores is not None and self._is_better(name, scores[name])
        if scores is not None and is_better:
            self._best_scores[name] = {"epoch": epoch, **scores[name]}
        self._write({(kind, name): content for kind in ((LAST, BEST) if is_better else (LAST,))})

    def _write(self, files: Mapping[tuple[str, str], bytes]) -> None:
        """Writes best.json with the new digests, then the files: wherever this is interrupted, each file has a digest that holds."""
        previous = self._folder.digests()
        self._sha256 |= {f"{kind}/{name}": sha256(content) for (kind, name), content in files.items()}
        changes = {file: [*(old for old in previous.get(file, []) if old != new), new] for file, new in self._sha256.items()}
        self._write_best(previous | changes)
        for (kind, name), content in files.items():
            write_file(self._folder.weights(kind, name), content)

    def _write_best(self, digests: dict[str, list[str]]) -> None:
        self._folder.write_best(BestRecord(peer=self.best_peer, metric=self._metric, peers=dict(self._best_scores), sha256=digests))

    def _is_as_saved(self, name: str) -> bool:
        return self._folder.digest(BEST, name) == self._sha256.get(f"{BEST}/{name}", "")

    def _adopt(self, name: str) -> bool:
        """Adopts a peer's best scores from best.json, if its best weights are the last that best.json names."""
        try:
            best = self._folder.read_best()
        except InputError:
            return False
        digest, row = self._folder.digest(BEST, name), best.peers.get(name, {})
        if best.sha256.get(f"{BEST}/{name}", [""])[-1] != digest or not {"epoch", "nll", self._metric} <= row.keys():
            return False
        self._sha256[f"{BEST}/{name}"] = digest
        self._best_scores[name] = {key: math.nan if value is None else value for key, value in row.items()}
        return True

    def _content(self, name: str) -> bytes:
        return model_bytes(self._group.peers[name].eval_model, self._cards[name])
