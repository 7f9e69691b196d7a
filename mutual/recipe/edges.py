"""What every objective shares: its learners and sources, the outputs it reads, and its weight over time."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, StrictBool

from mutual.recipe.base import MAX_NAMES, NonNegativeFloat, PositiveFloat, Spec

LOGITS, EMBEDDING = "logits", "embedding"
ENSEMBLE, EMA, PEERS_EMA, SELF = "ensemble", "ema", "peers_ema", "self"
SOURCE_KINDS = (ENSEMBLE, EMA, PEERS_EMA, SELF)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


LabelType = Literal["any", "single", "multi"]
OutputKind = Literal["logits", "any", "maps"]
PeerNames = Annotated[list[str], Field(min_length=1, max_length=MAX_NAMES)]
SourceNames = Annotated[
    list[str], Field(min_length=1, max_length=MAX_NAMES), BeforeValidator(_as_list, json_schema_input_type=str | list[str])
]
Path = str | Annotated[list[str], Field(min_length=1, max_length=MAX_NAMES)]
At = Path | Annotated[dict[str, Path], Field(max_length=MAX_NAMES)]


class WeightSchedule(Spec):
    """A factor on an objective's weight, as a function of the epoch (fractions count).

    constant: 1 within [from_epoch, until_epoch), 0 outside. The others go from `start` at from_epoch to `end` at until_epoch and stay
    there: linear, cosine (half a period), ramp_up (the sigmoid-shaped exp(-5 (1 - t)^2) of arXiv:1610.02242).
    """

    name: Literal["constant", "linear", "cosine", "ramp_up"] = "linear"
    """Form of the change."""
    from_epoch: NonNegativeFloat = 0.0
    """Epoch at which the change begins."""
    until_epoch: PositiveFloat | None = None
    """Epoch at which it ends; the default is the end of the training."""
    start: NonNegativeFloat = 0.0
    """Factor at from_epoch (not for constant)."""
    end: NonNegativeFloat = 1.0
    """Factor from until_epoch on (not for constant)."""


class Ensemble(Spec):
    """How `sources: ensemble` makes one source of several peers' logits (detached).

    mean: of the logits. KDCL (Guo et al., CVPR 2020): naive takes for each image the logits with the lowest cross-entropy; linear the
    convex combination of the peers with the lowest cross-entropy on the batch; min_logit the lowest logit of each class, each
    peer's measured from its logit of the label.
    """

    weighting: Literal["mean", "naive", "linear", "min_logit"] = "mean"
    """How the members' logits are combined."""
    members: PeerNames | None = None
    """Peers in the ensemble; the default is all."""
    own: StrictBool = False
    """Whether the learner's own logits are among them."""


class Objective(Spec):
    """What all objectives share: a loss, its weight, its learners and the output it reads."""

    label_type: ClassVar[LabelType] = "any"
    """The data that the loss is for. single: one class an image, for it reads class indices or a softmax over the classes; multi: several
    labels an image."""
    reads: ClassVar[OutputKind] = "any"
    """The outputs that the loss is for. logits: scores of classes, which a peer without a head does not have; maps: feature maps."""

    loss: str
    """The loss, by its name."""
    weight: NonNegativeFloat = 1.0
    """Factor of the loss in the learner's sum of losses."""
    schedule: WeightSchedule | None = None
    """How the weight changes over the epochs."""
    learners: PeerNames | None = None
    """Peers that this objective trains; the default is every trainable peer."""
    at: At = LOGITS
    """Which output the loss reads: `logits`, `embedding` of a peer with `head: none`, or a module path inside the peers ("blocks5";
    "fc:input" is what the module is given).

    A list reads several: losses that compare them jointly (afd) take all, the others add up. A mapping gives one for each peer.
    """
    gate: Literal["through", "cutoff", "linear", "correct"] = "through"
    """The gates of knowledge transfer graphs (arXiv:1909.04286), for every edge of the objective: linear opens over the whole training;
    correct lets images through that the source classifies correctly; cutoff takes the edges away."""

    def loss_arguments(self) -> dict[str, Any]:
        """The arguments that belong to the loss itself (temperature and the like)."""
        shared = set(DistillationObjective.model_fields)
        return {name: value for name, value in self if name not in shared}

    def at_of(self, peer: str) -> tuple[str, ...]:
        """The outputs of `peer` that the loss reads where the peer learns."""
        return _paths(self.at, peer)


class DistillationObjective(Objective):
    """An objective whose learners learn from other peers."""

    sources: SourceNames | None = None
    """Peers that each learner learns from; the default is every other peer. Also: `ensemble` (see there), `ema` (the learner's own moving
    average), `peers_ema` (the other peers'), `NAME.ema`, and `self` (the learner itself at another output, `source_at`)."""
    reduce: Literal["mean", "sum"] = "mean"
    """How the losses over a learner's several sources combine (DML eq. 8 is the mean)."""
    source_at: At | None = None
    """Which output of the sources the loss reads; the default is `at`."""
    ensemble: Ensemble | None = None
    """How `sources: ensemble` is made; the default is the mean of the other peers' logits."""

    def source_at_of(self, peer: str) -> tuple[str, ...]:
        """The outputs of `peer` that the loss reads where the peer teaches."""
        return _paths(self.at if self.source_at is None else self.source_at, peer)


def peer_of(source: str) -> str:
    """Returns the peer whose model or moving average `source` is."""
    return re.sub(r"\.ema$", "", source)


def is_ema(source: str) -> bool:
    """Returns True where `source` is a peer's moving average."""
    return source.endswith(f".{EMA}")


def _paths(at: At, peer: str) -> tuple[str, ...]:
    path = at[peer] if isinstance(at, dict) else at
    return (path,) if isinstance(path, str) else tuple(path)
