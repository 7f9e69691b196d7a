"""The `objectives` of a recipe: one typed section for each loss; an objective expands into directed edges."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, StrictBool, StrictFloat, StrictInt

from mutual.recipe.base import KernelSize, NonNegativeFloat, PositiveFloat, Probability, Temperature, Width
from mutual.recipe.edges import Objective, SourcedObjective


class CrossEntropy(Objective):
    """Ground truth: cross-entropy with the labels, hard or mixed."""

    loss: Literal["cross_entropy"]
    label_smoothing: Probability = 0.0


class BinaryCrossEntropy(Objective):
    """Ground truth of images with several labels each (`data.multi_label`): binary cross-entropy, the mean over the classes."""

    loss: Literal["bce"]


class KnowledgeDistillation(SourcedObjective):
    """KD (arXiv:1503.02531): T^2 KL(source || learner) of the softened probabilities."""

    loss: Literal["kd"]
    temperature: Temperature = 4.0
    standardize: StrictBool = False
    """Bring each image's logits to mean 0 and standard deviation 1 first (arXiv:2403.01427)."""
    reduction: Literal["batchmean", "mean"] = "batchmean"
    """batchmean: the mean over the images (the KL divergence); mean: divided by the number of classes too, as some tutorials do."""


class SoftLabel(SourcedObjective):
    """Cross-entropy with the source's probabilities in place of the labels."""

    loss: Literal["soft_label"]
    temperature: Temperature = 1.0


class DeepMutualLearning(SourcedObjective):
    """DML (arXiv:1706.00384): the divergence of two peers' predictions.

    `js` is half the Jeffreys divergence, as PaddleClas computes it; `kl` is the paper's; `sigmoid` is `js` for each class by itself, for
    images with several labels each.
    """

    loss: Literal["dml"]
    form: Literal["js", "kl", "sigmoid"] = "js"
    temperature: Temperature = 1.0


class DecoupledKD(SourcedObjective):
    """DKD (arXiv:2203.08679): the label's class against the rest (`alpha`), and the rest among themselves (`beta`)."""

    loss: Literal["dkd"]
    temperature: Temperature = 4.0
    alpha: NonNegativeFloat = 1.0
    beta: NonNegativeFloat = 8.0


class Dist(SourcedObjective):
    """DIST (arXiv:2205.10536): Pearson's correlation between classes (`beta`) and within classes (`gamma`)."""

    loss: Literal["dist"]
    beta: NonNegativeFloat = 1.0
    gamma: NonNegativeFloat = 1.0
    temperature: Temperature = 1.0


class WeightedSoftLabels(SourcedObjective):
    """WSL (arXiv:2102.00650): soft labels, weighted by how much better the source knows the image than the learner."""

    loss: Literal["wsl"]
    temperature: Temperature = 2.0


class SphericalKD(SourcedObjective):
    """SKD (arXiv:2010.07485): soft labels on normalised logits. It holds its own ground-truth term: leave `cross_entropy` away."""

    loss: Literal["skd"]
    temperature: Temperature = 1.0
    multiplier: PositiveFloat = 2.0
    """Size of the normalised logits."""
    alpha: Probability = 0.9
    """Share of the source; 1 - alpha is the labels'."""


class SemiSupervisedLabelDistillation(SourcedObjective):
    """SSLD (arXiv:2103.05959): the Jensen-Shannon divergence from a teacher, without labels; `data.unlabelled` adds images."""

    loss: Literal["ssld"]
    temperature: Temperature = 1.0


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


class AttentionTransfer(SourcedObjective):
    """AT (arXiv:1612.03928): the difference of normalised spatial attention maps, mean of |activation|^power over the channels."""

    loss: Literal["at"]
    power: Annotated[StrictFloat, Field(gt=0, le=16)] = 2.0


class Hint(SourcedObjective):
    """FitNets (arXiv:1412.6550): mean squared difference after a learned regressor, a convolution or linear as the shapes ask."""

    loss: Literal["hint"]
    kernel_size: KernelSize = 1


class OverHaul(SourcedObjective):
    """OFD (arXiv:1904.01866): partial L2 distance of features before ReLU, against the source's margin ReLU, after a 1x1 adapter.

    The margin comes from the source's BatchNorm. Of several layers each counts half as much as the next.
    """

    loss: Literal["ofd"]


class MaskedGenerativeDistillation(SourcedObjective):
    """MGD (arXiv:2205.01529): the learner's masked feature map generates the source's."""

    loss: Literal["mgd"]
    alpha_mgd: NonNegativeFloat = 1.756
    """Factor of the mean squared difference."""
    lambda_mgd: Probability = 0.15
    """Share of the channels that are masked."""


class AttentionFeatureDistillation(SourcedObjective):
    """AFD (AAAI 2021): every layer of the source taught to every layer of the learner, weighted by learned attention; `at` lists layers."""

    loss: Literal["afd"]
    qk_dim: Width = 128
    """Width of the queries and keys."""


class ProjectorEnsemble(SourcedObjective):
    """PEFD (arXiv:2210.15274): one minus the cosine of the source's embedding and the mean of several projections of the learner's."""

    loss: Literal["pefd"]
    num_projectors: Annotated[StrictInt, Field(gt=0, le=64)] = 3


class ContrastiveRepresentation(SourcedObjective):
    """CRD (arXiv:1910.10699): the source's embedding of the same image against those of other classes, over all ranks' batches."""

    loss: Literal["crd"]
    dim: Width = 128
    """Width of the space in which both are compared."""
    temperature: Temperature = 0.07


class MutualContrastive(SourcedObjective):
    """MCL (arXiv:2104.12565): contrast between two peers' embeddings, and the mimicry of the source's similarities."""

    loss: Literal["mcl"]
    dim: Width = 128
    temperature: Temperature = 0.1


class DiversePeers(SourcedObjective):
    """OKDDip (arXiv:1912.00350): KL divergence from a mixture of the peers' predictions, weighted by learned attention.

    `at` is the embedding that the attention reads.
    """

    loss: Literal["okddip"]
    dim: Width = 64
    temperature: Temperature = 3.0
    own: StrictBool = False
    """Whether the learner's own prediction is in the mixture; attention that may choose it tends to, and then nothing is taught."""


class RkdDistance(SourcedObjective):
    """Relational KD (arXiv:1904.05068): the distances between the images of a batch."""

    loss: Literal["rkd_distance"]


class RkdAngle(SourcedObjective):
    """Relational KD (arXiv:1904.05068): the angles that the images of a batch form."""

    loss: Literal["rkd_angle"]


AnyObjective = Annotated[
    CrossEntropy
    | BinaryCrossEntropy
    | KnowledgeDistillation
    | SoftLabel
    | DeepMutualLearning
    | DecoupledKD
    | Dist
    | WeightedSoftLabels
    | SphericalKD
    | SemiSupervisedLabelDistillation
    | L1
    | L2
    | SmoothL1
    | Cosine
    | AttentionTransfer
    | Hint
    | OverHaul
    | MaskedGenerativeDistillation
    | AttentionFeatureDistillation
    | ProjectorEnsemble
    | ContrastiveRepresentation
    | MutualContrastive
    | DiversePeers
    | RkdDistance
    | RkdAngle,
    Field(discriminator="loss"),
]
OBJECTIVES: dict[str, type[Objective]] = {
    get_args(section.model_fields["loss"].annotation)[0]: section for section in get_args(get_args(AnyObjective)[0])
}
