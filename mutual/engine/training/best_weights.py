"""BestWeights: each peer's last and best weights as files, those of its best epochs, and which peer is best."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from mutual.engine.monitoring import CHURN, Scores, ranking_key
from mutual.engine.storage import BEST, LAST, BestRecord, RunFolder, epoch_name, is_weights_name, remove, sha256, write_file
from mutual.engine.training.peer_collector import PeerCollector
from mutual.group import Group
from mutual.models import ModelCard, model_bytes
from mutual.recipe import InputError, Recipe


class BestWeights:
    """Writes `last/`, `best/` and best.json of the trainable peers.

    Among equal metrics the lower NLL is better, and of epochs that are equal in both the first; a peer whose metric or NLL is not finite is
    worse than any other. With `checkpoint.keep_best`, the weights of so many epochs of each peer stay beside its best ones.

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
        self._kept: dict[str, list[dict[str, float]]] = {}
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
        if scores is not None:
            scores = {name: {metric: value for metric, value in row.items() if metric != CHURN} for name, row in scores.items()}
        for name in self._recipe.trainable:
            content = self._collector.collect_to_main(name, partial(self._content, name))
            with comm.raise_together():
                if content is not None:
                    self._write_peer(name, content, epoch, scores)
        with comm.raise_together():
            if comm.is_main:
                self._remove_surplus()
                self._write_best({file: [digest] for file, digest in self._sha256.items()})

    def check_files(self, folder: RunFolder | None = None) -> None:
        """Compares the best weights on disk with the restored state; to be called after `load_state_dict`.

        Args:
            folder: of the run that the state is of; None: this one's.

        Those of an epoch after the checkpoint are adopted with their scores. A peer whose best weights are lost is warned of, and its
        best is determined again from the next evaluation on.
        """
        for name in self._recipe.trainable if self._collector.comm.is_main else []:
            self._check_kept(name, folder or self._folder)
            if not (self._is_as_saved(name, folder or self._folder) or self._adopt(name, folder or self._folder)):
                self._sha256.pop(f"{BEST}/{name}", None)
                if self._best_scores.pop(name, None) is not None:
                    path = (folder or self._folder).weights(BEST, name)
                    warnings.warn(
                        f"{path} is missing or damaged; the best of peer {name!r} is determined again from the next evaluation on",
                        stacklevel=2,
                    )

    def copy_from(self, folder: RunFolder) -> None:
        """Copies the weights that the restored state names from the folder of another run, and leaves out what is there no more.

        Collective: all ranks must call it.
        """
        with self._collector.comm.raise_together():
            for file, digest in list(self._sha256.items()) if self._collector.comm.is_main else []:
                kind, _, stem = file.partition("/")
                if folder.digest(kind, stem) == digest:
                    self._write({(kind, stem): folder.weights(kind, stem).read_bytes()})
                else:  # the last ones, of an epoch after the checkpoint
                    del self._sha256[file]

    def state_dict(self) -> dict[str, Any]:
        """Returns every peer's best scores so far, those of the epochs that are kept, and the digests of the files."""
        return {"peers": self._best_scores, "kept": self._kept, "sha256": self._sha256}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._best_scores = dict(state["peers"])
        self._kept = dict(state.get("kept", {}))  # earlier versions kept none
        self._sha256 = {file: digest for file, digest in state["sha256"].items() if is_weights_name(file)}

    def _ranking_key(self, row: Mapping[str, float]) -> tuple[float, float]:
        return ranking_key(row, self._metric)

    def _is_better(self, name: str, row: Mapping[str, float]) -> bool:
        return name not in self._best_scores or self._ranking_key(row) > self._ranking_key(self._best_scores[name])

    def _write_peer(self, name: str, content: bytes, epoch: int, scores: Scores | None) -> None:
        """Writes a peer's last weights, and its best ones where it has improved."""
        is_better = scores is not None and self._is_better(name, scores[name])
        if scores is not None and is_better:
            self._best_scores[name] = {"epoch": epoch, **scores[name]}
        files = [(LAST, name), *([(BEST, name)] if is_better else [])]
        if scores is not None and self._keeps(name, {"epoch": epoch, **scores[name]}):
            files.append((BEST, epoch_name(name, epoch)))
        self._write(dict.fromkeys(files, content))

    def _keeps(self, name: str, row: dict[str, float]) -> bool:
        """Takes an epoch's scores of a peer among those that are kept, if they are good enough; returns whether they are."""
        num_kept = self._recipe.checkpoint.keep_best
        if num_kept is None:
            return False
        others = [other for other in self._kept.get(name, []) if other["epoch"] != row["epoch"]]  # a run that goes on meets it again
        self._kept[name] = self._ranked([*others, row])[:num_kept]
        return row in self._kept[name]

    def _ranked(self, rows: Sequence[dict[str, float]]) -> list[dict[str, float]]:
        """Returns scores of epochs, best first."""
        return sorted(sorted(rows, key=lambda row: row["epoch"]), key=self._ranking_key, reverse=True)

    def _remove_surplus(self) -> None:
        """Removes weights of epochs that are kept no longer, as far as best.json knows their digests; it names them until they are gone."""
        if self._recipe.checkpoint.keep_best is None:
            return
        kept = {f"{BEST}/{epoch_name(name, int(row['epoch']))}" for name, rows in self._kept.items() for row in rows}
        recorded = self._folder.digests()
        for file in [file for file in recorded if "-" in file and file not in kept]:
            kind, _, stem = file.partition("/")
            if self._folder.digest(kind, stem) in recorded[file]:
                remove([self._folder.weights(kind, stem)], root=self._folder.path)
        self._sha256 = {file: digest for file, digest in self._sha256.items() if "-" not in file or file in kept}

    def _write(self, files: Mapping[tuple[str, str], bytes]) -> None:
        """Writes best.json with the new digests, then the files: wherever this is interrupted, each file has a digest that holds."""
        previous = self._folder.digests()
        self._sha256 |= {f"{kind}/{name}": sha256(content) for (kind, name), content in files.items()}
        changes = {file: [*(old for old in previous.get(file, []) if old != new), new] for file, new in self._sha256.items()}
        self._write_best(previous | changes)
        for (kind, name), content in files.items():
            write_file(self._folder.weights(kind, name), content)

    def _write_best(self, digests: dict[str, list[str]]) -> None:
        self._folder.write_best(
            BestRecord(peer=self.best_peer, metric=self._metric, peers=self._best_scores, kept=self._kept, sha256=digests)
        )

    def _is_as_saved(self, name: str, folder: RunFolder) -> bool:
        return folder.digest(BEST, name) == self._sha256.get(f"{BEST}/{name}", "")

    def _adopt(self, name: str, folder: RunFolder) -> bool:
        """Adopts a peer's best scores from best.json, if its best weights are the last that best.json names."""
        try:
            best = folder.read_best()
        except InputError:
            return False
        digest, row = folder.digest(BEST, name), best.peers.get(name, {})
        if best.sha256.get(f"{BEST}/{name}", [""])[-1] != digest or not {"epoch", "nll", self._metric} <= row.keys():
            return False
        self._sha256[f"{BEST}/{name}"] = digest
        self._best_scores[name] = {key: math.nan if value is None else value for key, value in row.items()}
        return True

    def _check_kept(self, name: str, folder: RunFolder) -> None:
        """Adopts the epochs whose weights are on the disk as the restored state or best.json says; warns of those that are lost."""
        try:
            best = folder.read_best()
        except InputError:
            best = None
        recorded: list[Mapping[str, float | None]] = [] if best is None else list(best.kept.get(name, []))
        rows: dict[int, dict[str, float]] = {}
        for row in (*recorded, *self._kept.get(name, [])):
            if not {"epoch", "nll", self._metric} <= row.keys() or row["epoch"] in rows:
                continue
            epoch = int(row["epoch"] or 0)
            file = f"{BEST}/{epoch_name(name, epoch)}"
            known = {self._sha256.get(file), *([] if best is None else best.sha256.get(file, [])[-1:])}
            digest = folder.digest(BEST, epoch_name(name, epoch))
            if digest in known:
                rows[epoch] = {key: math.nan if value is None else value for key, value in row.items()}
                self._sha256[file] = digest
        for row in self._kept.get(name, []):
            epoch = int(row["epoch"])
            if epoch not in rows:
                file = f"{BEST}/{epoch_name(name, epoch)}"
                self._sha256.pop(file, None)
                if best is None or any(other["epoch"] == epoch for other in recorded):
                    warnings.warn(f"{folder.path / file}.safetensors is missing or damaged; it is kept no longer", stacklevel=2)
        if rows or name in self._kept:
            self._kept[name] = self._ranked(list(rows.values()))

    def _content(self, name: str) -> bytes:
        return model_bytes(self._group.peers[name].eval_model, self._cards[name])
