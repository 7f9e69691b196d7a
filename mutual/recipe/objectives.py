"""The `objectives` of a recipe: one typed section for each loss; an objective expands into directed edges."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from mutual.recipe.base import NonNegativeFloat, PositiveFloat, Probability, Spec

LOGITS = "logits"
PeerNames = Annotated[list[str], Field(min_length=1)]


class Objective(Spec):
    """What all objectives share: a loss, its weight and its learners."""

    loss: str
    weight: NonNegativeFloat = 1.0
    learners: PeerNames | None = None
    """Peers that this objective trains; the default is every trainable peer."""

    def loss_arguments(self) -> dict[str, Any]:
        """The arguments that belong to the loss itself (temperature and the like)."""
        shared = set(SourcedObjective.model_fields)
        return {name: value for name, value in self if name not in shared}


class SourcedObjective(Objective):
    """An objective whose learners learn from other peers."""

    sources: PeerNames | None = None
    """Peers that each learner learns from; the default is every other peer."""
    reduce: Literal["mean", "sum"] = "mean"
    """How the losses over a learner's several sources combine (DML eq. 8 is the mean)."""
    at: str | dict[str, str] = LOGITS
    """Which output the loss reads: `logits`, or a module path inside the peers ("blocks5"); a mapping gives one for each peer."""

    def at_of(self, peer: str) -> str:
        """The output of `peer` that the loss reads."""
        return self.at if isinstance(self.at, str) else self.at[peer]


class CrossEntropy(Objective):
    """Ground truth: cross-entropy with the labels, hard or mixed."""

    loss: Literal["cross_entropy"]
    label_smoothing: Probability = 0.0


class KnowledgeDistillation(SourcedObjective):
    """KD (arXiv:1503.02531): T^2 KL(source || learner) of the softened probabilities."""

    loss: Literal["kd"]
    temperature: PositiveFloat = 4.0
    standardize: bool = False
    """Bring each image's logits to mean 0 and standard deviation 1 first (arXiv:2403.01427)."""


class SoftLabel(SourcedObjective):
    """Cross-entropy with the source's probabilities in place of the labels."""

    loss: Literal["soft_label"]
    temperature: PositiveFloat = 1.0


class DeepMutualLearning(SourcedObjective):
    """DML (arXiv:1706.00384): `js` is half the Jeffreys divergence, as PaddleClas computes it; `kl` is the paper's."""

    loss: Literal["dml"]
    form: Literal["js", "kl"] = "js"
    temperature: PositiveFloat = 1.0


class DecoupledKD(SourcedObjective):
    """DKD (arXiv:2203.08679): the label's class against the rest (`alpha`), and the rest among themselves (`beta`)."""

    loss: Literal["dkd"]
    temperature: PositiveFloat = 4.0
    alpha: NonNegativeFloat = 1.0
    beta: NonNegativeFloat = 8.0


class Dist(SourcedObjective):
    """DIST (arXiv:2205.10536): Pearson's correlation between classes (`beta`) and within classes (`gamma`)."""

    loss: Literal["dist"]
    beta: NonNegativeFloat = 1.0
    gamma: NonNegativeFloat = 1.0
    temperature: PositiveFloat = 1.0


class WeightedSoftLabels(SourcedObjective):
    """WSL (arXiv:2102.00650): soft labels, weighted by how much better the source knows the image than the learner."""

    loss: Literal["wsl"]
    temperature: PositiveFloat = 2.0


class L1(SourcedObjective):
    """Mean absolute difference of two outputs."""

    loss: Literal["l1"]


class L2(SourcedObjective):
    """Mean squared difference of two outputs (UDML takes it between features)."""

    loss: Literal["l2"]


class SmoothL1(SourcedObjective):
    """Huber distance of two outputs, quadratic under `beta`."""

    loss: Literal["smooth_l1"]
    beta: PositiveFloat = 1.0


class Cosine(SourcedObjective):
    """One minus the cosine similarity of two outputs, flattened for each sample."""

    loss: Literal["cosine"]


class RkdDistance(SourcedObjective):
    """Relational KD (arXiv:1904.05068): the distances between the images of a batch."""

    loss: Literal["rkd_distance"]


class RkdAngle(SourcedObjective):
    """Relational KD (arXiv:1904.05068): the angles that the images of a batch form."""

    loss: Literal["rkd_angle"]


AnyObjective = Annotated[
    CrossEntropy
    | KnowledgeDistillation
    | SoftLabel
    | DeepMutualLearning
    | DecoupledKD
    | Dist
    | WeightedSoftLabels
    | L1
    | L2
    | SmoothL1
    | Cosine
    | RkdDistance
    | RkdAngle,
    Field(discriminator="loss"),
]
OBJECTIVES: dict[str, type[Objective]] = {
    get_args(section.model_fields["loss"].annotation)[0]: section for section in get_args(get_args(AnyObjective)[0])
}
