"""CardFacts: what a model card says of an exported peer, gathered from its run folder and from what the export measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import nn

from mutual.engine.comparison import COMPARISON, ArmSummary, Comparison
from mutual.engine.exporting.latency import Benchmark
from mutual.engine.exporting.quantization import Int8Export
from mutual.engine.exporting.timm_folder import TimmConfig
from mutual.engine.storage import RunFolder, RunSummary, read_file
from mutual.models import ModelCard
from mutual.recipe import PRETRAINED, InputError, Recipe

Row = Mapping[str, float | None]


@dataclass(frozen=True)
class CardScores:
    """Scores of the peer in its run.

    Attributes:
        split: which images were scored.
        images: how many; None where the run does not say it.
        row: its metrics.
        epoch: of the weights; None where the run does not say it.
    """

    split: Literal["test", "val"]
    images: int | None
    row: Row
    epoch: int | None


@dataclass(frozen=True)
class Temperature:
    """By what the logits are divided.

    Attributes:
        value: the number.
        is_fitted: whether it was fitted to validation images; else it was given.
        images: number of validation images that were scored; 0 where none were.
        nll: their NLL before and after; None where they were not scored.
        is_in_weights: whether the classifier's weights hold it, and not an operation of the programs alone.
    """

    value: float
    is_fitted: bool
    images: int
    nll: tuple[float, float] | None
    is_in_weights: bool


@dataclass(frozen=True)
class ExportedFile:
    """A file of an export: its format, its size, and how far its logits are from the model's, relative to the largest."""

    path: Path
    format: str
    num_bytes: int
    difference: float


@dataclass(frozen=True)
class CardFacts:
    """What a model card says.

    Attributes:
        run: name of the run.
        peer: name of the peer.
        card: what its weights files say.
        preprocess: the transforms of evaluation images, as sections of a recipe that leave nothing open.
        recipe: what was trained.
        scores: of the peer; None where the run has none.
        summary: what the run took; None where it is not finished.
        comparison: the comparison that the run belongs to, and its arm there; None where it belongs to none.
        num_parameters: of the model.
        flops: of a forward of one image, two for a multiplication and an addition; None where torch does not count them.
        files: what was exported.
        license: as its user gave it; None where nobody did.
        takes_pixels: whether the programs take uint8 pixels.
        temperature: by what the logits are divided; None: by nothing.
        int8: the int8 program; None where there is none.
        benchmark: latencies; None where they were not measured.
        timm: what timm is told; None where the peer is not timm's.
    """

    run: str
    peer: str
    card: ModelCard
    preprocess: Sequence[Any]
    recipe: Recipe
    scores: CardScores | None
    summary: RunSummary | None
    comparison: tuple[Comparison, ArmSummary] | None
    num_parameters: int
    flops: int | None
    files: Sequence[ExportedFile] = ()
    license: str | None = None
    takes_pixels: bool = False
    temperature: Temperature | None = None
    int8: Int8Export | None = None
    benchmark: Benchmark | None = None
    timm: TimmConfig | None = None
    factories: Sequence[str] = field(default=())

    @property
    def has_timm_folder(self) -> bool:
        """Whether weights are written for timm, too."""
        return self.timm is not None and any(each.format == "safetensors" for each in self.files)

    @property
    def stem(self) -> str:
        """What the files are called, without suffix."""
        return self.files[0].path.name.partition(".")[0] if self.files else self.peer


def read_scores(folder: RunFolder, peer: str, epoch: int | None) -> CardScores | None:
    """Returns the scores of a peer's best weights, or of those of `epoch`: on test images where the run has scored these on them."""
    summary, best = folder.read_summary(), folder.read_best()
    if epoch is not None:
        row: Row = next((row for row in best.kept.get(peer, []) if row["epoch"] == epoch), {})
        return _validation(row, summary)
    final = folder.read_final_scores()
    if final is not None and peer in final.test and _is_current(folder, summary):
        return CardScores("test", final.images, final.test[peer], _epoch(best.peers.get(peer, {})))
    return _validation(best.peers.get(peer, {}), summary)


def _validation(row: Row, summary: RunSummary | None) -> CardScores | None:
    images = None if summary is None else summary.images.get("val")
    return CardScores("val", images, {key: value for key, value in row.items() if key != "epoch"}, _epoch(row)) if row else None


def _epoch(row: Row) -> int | None:
    epoch = row.get("epoch")
    return None if epoch is None else int(epoch)


def _is_current(folder: RunFolder, summary: RunSummary | None) -> bool:
    """Returns whether a run has ended and not been gone on with since: the test scores are of the best weights then."""
    try:
        history = folder.history()
    except InputError:  # it is damaged, and weights can be exported without it
        return False
    return summary is not None and bool(history) and history[-1]["epoch"] <= summary.epoch


def read_comparison(folder: RunFolder) -> tuple[Comparison, ArmSummary] | None:
    """Returns the comparison in the folder that holds the run's, and the arm that the run is of; None where there is none that names it."""
    try:
        comparison = Comparison.model_validate_json(read_file(folder.path.resolve().parent / COMPARISON))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValidationError):
        return None
    name = folder.path.resolve().name
    arm = next((arm for arm in comparison.arms if any(Path(run).name == name for run in arm.runs.values())), None)
    return None if arm is None else (comparison, arm)


def count_flops(model: nn.Module, card: ModelCard) -> int | None:
    """Returns the floating-point operations of a forward of one image, as torch counts them; None where it counts none."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, card.in_channels, *card.image_size))
    return int(counter.get_total_flops()) or None


def lessons(recipe: Recipe, peer: str) -> list[tuple[str, str, str]]:
    """Returns what a peer learned from: of each objective its loss, its sources and what else the recipe says of it."""
    rows = []
    for objective in recipe.objectives:
        if peer in recipe.learners_of(objective):
            sources = ", ".join(recipe.sources_of(objective, peer)) or "the labels"
            written = objective.model_dump(mode="json", exclude_defaults=True, exclude={"loss", "learners", "sources"})
            arguments = objective.model_dump(mode="json", include=set(objective.loss_arguments()), exclude_none=True)
            said = ", ".join(f"{key} {_in_words(value)}" for key, value in {**arguments, **written}.items())
            rows.append((objective.loss, sources, said))
    return rows


def origin(recipe: Recipe, peer: str) -> str:
    """Returns where the weights of a peer begin."""
    spec = recipe.peers[peer]
    if spec.weights_file is not None:
        return spec.weights_file.file
    return "the library's pretrained weights" if spec.weights == PRETRAINED else "initial weights"


def metrics_of(row: Row) -> dict[str, float]:
    """Returns the finite metrics of a row, in the order in which they are shown."""
    order = ("top1", "macro_top1", "top5", "map", "nll", "ece")
    found = {name: row.get(name) for name in order}
    return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}


def _in_words(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
