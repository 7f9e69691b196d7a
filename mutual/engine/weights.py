"""BestWeights: each peer's last and best weights as files, and which peer is best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mutual.data import DataInfo
from mutual.engine.courier import Courier
from mutual.engine.evaluation import Scores
from mutual.engine.files import write_file
from mutual.engine.folder import RunFolder
from mutual.group import Group
from mutual.models import ModelCard, architecture_args, model_bytes
from mutual.recipe import Recipe


class BestWeights:
    """Writes `last/` and `best/` of the trainable peers; among equal metrics the lower NLL wins."""

    def __init__(self, recipe: Recipe, folder: RunFolder, group: Group, info: DataInfo, courier: Courier) -> None:
        self._recipe = recipe
        self._folder = folder
        self._group = group
        self._info = info
        self._courier = courier
        self._metric = recipe.train.best_metric or ("map" if info.multi_label else "top1")
        self._main = courier.is_main
        self._peers: dict[str, dict[str, float]] = {}

    @property
    def best_peer(self) -> str:
        """Name of the best peer so far."""
        return max(self._peers, key=lambda name: self._merit(self._peers[name]))

    def write_last(self) -> None:
        """Writes every trainable peer's weights as they are now; every process must call it."""
        for name in self._recipe.trainable:
            self._write(name, self._folder.last(name))

    def update(self, scores: Scores, epoch: int) -> None:
        """Writes the weights of each trainable peer that is better than ever after `epoch`, and best.json.

        Every process must call it, with the same scores.
        """
        for name in self._recipe.trainable:
            if name not in self._peers or self._merit(scores[name]) > self._merit(self._peers[name]):
                self._write(name, self._folder.best(name))
                self._peers[name] = {"epoch": epoch, **scores[name]}
        if self._main:
            self._folder.write_best({"peer": self.best_peer, "metric": self._metric, "peers": self._peers})

    def state_dict(self) -> dict[str, Any]:
        """Returns every peer's best scores so far."""
        return {"peers": self._peers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned."""
        self._peers = state["peers"]

    def _merit(self, row: dict[str, float]) -> tuple[float, float]:
        return (0.0 if self._metric == "nll" else row[self._metric], -row["nll"])

    def _write(self, name: str, path: Path) -> None:
        content = self._courier.bring(name, lambda: self._content(name))
        if content is not None:
            write_file(path, content)

    def _content(self, name: str) -> bytes:
        spec = self._recipe.peers[name]
        card = ModelCard(
            model=spec.model,
            args=architecture_args(spec.model, spec.args),
            num_classes=self._info.num_classes,
            in_channels=self._info.channels,
            image_size=self._info.image_size,
            mean=self._info.mean,
            std=self._info.std,
            class_names=self._info.class_names,
            multi_label=self._info.multi_label,
        )
        return model_bytes(self._group.peers[name].scored_model, card)
