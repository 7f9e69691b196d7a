"""What a run folder's JSON files hold, checked when they are read."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

BEST, LAST = "best", "last"
_WEIGHTS = rf"({BEST}|{LAST})/[A-Za-z]\w*(-epoch\d+)?"
"""What weights are called, without their suffix, where they are named with their digests."""
MAX_COUNT = 10**15
"""No count of epochs, updates or images is larger, unless somebody else has written it."""
Scores = dict[str, dict[str, float | None]]
"""By member (a peer, `ensemble`) its metrics; null where one is not finite."""


class BestRecord(BaseModel):
    """best.json: the best peer, by which metric, every peer's best scores, and the sha256 of the weights files.

    A file that is being replaced has two digests, its own before and after, so that a kill leaves it with one that holds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    peer: StrictStr | None
    metric: StrictStr
    peers: dict[str, dict[str, int | float | None]]
    kept: dict[str, list[dict[str, int | float | None]]] = {}
    """By peer the scores of the epochs whose weights are kept, best first; not written where none are."""
    sha256: dict[Annotated[str, Field(pattern=rf"^{_WEIGHTS}$")], list[StrictStr]]


class InitialScores(BaseModel):
    """initial_scores.json: the scores before the first update, and a digest of what they depend on.

    A run that ends before its first checkpoint takes them from there; later ones have them in metrics.jsonl.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: StrictStr
    eval: Scores


class FinalScores(BaseModel):
    """test_scores.json: the scores of the best weights on the test images, the best peer by validation, and a digest of what they are of.

    A run that is resumed behind its end takes them from there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: StrictStr
    peer: StrictStr
    images: int
    test: Scores


class EpochRecord(BaseModel):
    """A line of metrics.jsonl."""

    model_config = ConfigDict(extra="allow", frozen=True)

    epoch: Annotated[StrictInt, Field(ge=0, le=MAX_COUNT)]
    train: dict[str, float | dict[str, float | None] | None] = {}
    eval: Scores = {}


class RunSummary(BaseModel):
    """summary.json: written last, so that a run that has it is finished; what the run took."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epoch: Annotated[int, Field(ge=0, le=MAX_COUNT)]
    """Epochs that were trained; fewer than the recipe's where `train.patience` was exhausted."""
    update: int
    """Updates that were done."""
    processes: int
    device: StrictStr
    """Name of the main process' device: that of the GPU, or `cpu`."""
    peak_bytes: int
    """The most memory of a process: of a GPU what was allocated, elsewhere what was resident."""
    sent_bytes: float
    """What a process sent to others in an update, gradients and outputs, mean over processes and over the updates since it began or was
    resumed."""
    images: dict[StrictStr, int] = {}
    """Number of images by split: `train`, `val` and, where there is one, `test`."""


class TrackedRuns(BaseModel):
    """tracked.json: by tracker the id under which its service knows the run, for a run that is resumed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ids: dict[StrictStr, StrictStr]


def is_weights_name(name: str) -> bool:
    """Returns whether `name` is that of weights in a run folder, as best.json and checkpoints have it: these may be anybody's."""
    return re.fullmatch(_WEIGHTS, name) is not None
