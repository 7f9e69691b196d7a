"""The `objectives` of a recipe: one typed section for each loss; an objective expands into directed edges.

A new section here needs no entry elsewhere: `OBJECTIVES` collects them. `OwnLoss` is that of every name `package.module:name`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args

from pydantic import Discriminator, Field, StrictBool, StrictFloat, StrictInt, Tag

from mutual.recipe.base import MAX_CLASS_WEIGHTS, KernelSize, NonNegativeFloat, PositiveFloat, Probability, Temperature, Width
from mutual.recipe.edges import DistillationObjective, Objective
from mutual.recipe.own_loss import OwnLoss

ClassWeights = Annotated[list[NonNegativeFloat], Field(min_length=1, max_length=MAX_CLASS_WEIGHTS)]
ClassFractions = Annotated[list[Probability], Field(min_length=1, max_length=MAX_CLASS_WEIGHTS)]


class CrossEntropy(Objective):
    """Ground truth: cross-entropy with the labels, hard or mixed."""

    label_type = "single"
    loss: Literal["cross_entropy"]
    label_smoothing: Probability = 0.0
    """Fraction of the label's probability that is spread evenly over all classes (arXiv:1512.00567)."""
    class_weight: Literal["balanced"] | ClassWeights | None = None
    """Factor of each class' term, a number for each class; balanced: in inverse proportion to its training images. They are brought to a
    mean of 1 over the training images, and the loss is the mean over the images (torch divides by the sum of the batch's weights instead,
    which depends on how a batch is cut). Recorded in the run's recipe as numbers, for up to 2,000 classes."""


class Focal(Objective):
    """Focal loss (arXiv:1708.02002): cross-entropy in which an image counts the less the surer the learner is of its class.

    `softmax` is for one class an image; `sigmoid`, the mean over the classes of each by itself, also for images with several labels.
    """

    loss: Literal["focal"]
    gamma: Annotated[StrictFloat, Field(ge=0, le=16)] = 2.0
    """Exponent of 1 - p; 0: cross-entropy."""
    alpha: Probability | Literal["balanced"] | ClassWeights | None = None
    """softmax: weights of the classes, as `class_weight` of cross_entropy. sigmoid: the weight of a class that is there (0.25 in the
    paper), of one that is not 1 - alpha. null: none."""
    form: Literal["softmax", "sigmoid"] = "softmax"
    """Which probability p is."""


class BinaryCrossEntropy(Objective):
    """Ground truth of images with several labels each (`data.multi_label`): binary cross-entropy, the mean over the classes."""

    label_type = "multi"
    loss: Literal["bce"]
    class_fraction: Literal["data"] | ClassFractions | None = None
    """Fraction of the training images that have each class, a number for each; data: as they have them. A class that is there then weighs
    exp(1 - fraction), one that is not exp(fraction), so that what is rare counts more (DeepMAR, Li et al., ACPR 2015, eq. 4, with sigma
    1; `weight_ratio` of PaddleClas). null: all weigh 1. Recorded in the run's recipe as numbers, for up to 2,000 classes."""


class KnowledgeDistillation(DistillationObjective):
    """KD (arXiv:1503.02531): T^2 KL(source || learner) of the softened probabilities."""

    label_type = "single"
    reads = "logits"
    loss: Literal["kd"]
    temperature: Temperature = 4.0
    """Divides the logits before the softmax; the loss is multiplied by its square."""
    standardize: StrictBool = False
    """Bring each image's logits to mean 0 and standard deviation 1 first (arXiv:2403.01427)."""
    reduction: Literal["batchmean", "mean"] = "batchmean"
    """batchmean: the mean over the images (the KL divergence); mean: divided by the number of classes too, as some tutorials do."""


class SoftLabel(DistillationObjective):
    """Cross-entropy with the source's probabilities in place of the labels."""

    label_type = "single"
    reads = "logits"
    loss: Literal["soft_label"]
    temperature: Temperature = 1.0
    """Divides the logits before the softmax; the loss is multiplied by its square."""


class DeepMutualLearning(DistillationObjective):
    """DML (arXiv:1706.00384): the divergence of two peers' predictions.

    `js` is half the Jeffreys divergence, as PaddleClas computes it; `kl` is the paper's; `sigmoid` is `js` for each class by itself, for
    images with several labels each; `sigmoid_present` is its part of the classes being there, without that of their not being there, as
    PaddleClas computes it; `softmax` is `js` there, too, as if the classes shared one probability.
    """

    reads = "logits"
    loss: Literal["dml"]
    form: Literal["js", "kl", "sigmoid", "sigmoid_present", "softmax"] = "js"
    """Which divergence."""
    temperature: Temperature = 1.0
    """Divides the logits before the softmax (or sigmoid); the loss is multiplied by its square."""


class DecoupledKD(DistillationObjective):
    """DKD (arXiv:2203.08679): the label's class against the rest (`alpha`), and the rest among themselves (`beta`)."""

    label_type = "single"
    reads = "logits"
    loss: Literal["dkd"]
    temperature: Temperature = 4.0
    """Divides the logits before the softmax; the loss is multiplied by its square."""
    alpha: NonNegativeFloat = 1.0
    """Weight of the label's class against the rest."""
    beta: NonNegativeFloat = 8.0
    """Weight of the rest among themselves."""


class Dist(DistillationObjective):
    """DIST (arXiv:2205.10536): Pearson's correlation between classes (`beta`) and within classes (`gamma`)."""

    label_type = "single"
    reads = "logits"
    loss: Literal["dist"]
    beta: NonNegativeFloat = 1.0
    """Weight of the relations between classes."""
    gamma: NonNegativeFloat = 1.0
    """Weight of the relations within a class."""
    temperature: Temperature = 1.0
    """Divides the logits before the softmax; the loss is multiplied by its square."""


class WeightedSoftLabels(DistillationObjective):
    """WSL (arXiv:2102.00650): soft labels, weighted by how much better the source knows the image than the learner."""

    label_type = "single"
    reads = "logits"
    loss: Literal["wsl"]
    temperature: Temperature = 2.0
    """Divides the logits before the softmax; the loss is multiplied by its square."""


class SphericalKD(DistillationObjective):
    """SKD (arXiv:2010.07485): soft labels on normalised logits. It holds its own ground-truth term: leave `cross_entropy` away."""

    label_type = "single"
    reads = "logits"
    loss: Literal["skd"]
    temperature: Temperature = 1.0
    """Divides the logits before the softmax; the loss is multiplied by its square."""
    multiplier: PositiveFloat = 2.0
    """Size of the normalised logits."""
    alpha: Probability = 0.9
    """Weight of the source; 1 - alpha is the labels'."""


class SemiSupervisedLabelDistillation(DistillationObjective):
    """SSLD (arXiv:2103.05959): the Jensen-Shannon divergence from a teacher, without labels; `data.unlabelled` adds images."""

    label_type = "single"
    reads = "logits"
    loss: Literal["ssld"]
    temperature: Temperature = 1.0
    """Divides the logits before the softmax; the loss is multiplied by its square."""


class L1(DistillationObjective):
    """Mean absolute difference of two outputs."""

    loss: Literal["l1"]


class L2(DistillationObjective):
    """Mean squared difference of two outputs (UDML takes it between features)."""

    loss: Literal["l2"]


class SmoothL1(DistillationObjective):
    """Huber distance of two outputs, quadratic under `beta`."""

    loss: Literal["smooth_l1"]
    beta: PositiveFloat = 1.0
    """Difference at which the distance turns from quadratic to linear."""


class Cosine(DistillationObjective):
    """One minus the cosine similarity of two outputs, flattened for each sample."""

    loss: Literal["cosine"]


class AttentionTransfer(DistillationObjective):
    """AT (arXiv:1612.03928): the difference of normalised spatial attention maps, mean of |activation|^power over the channels."""

    reads = "maps"
    loss: Literal["at"]
    power: Annotated[StrictFloat, Field(gt=0, le=16)] = 2.0
    """Exponent of the activations."""


class Hint(DistillationObjective):
    """FitNets (arXiv:1412.6550): mean squared difference after a learned regressor, a convolution or linear as the shapes ask."""

    loss: Literal["hint"]
    kernel_size: KernelSize = 1
    """Of the convolution between feature maps, in pixels."""


class OverHaul(DistillationObjective):
    """OFD (arXiv:1904.01866): partial L2 distance of features before ReLU, against the source's margin ReLU, after a 1x1 adapter.

    The margin comes from the source's BatchNorm. Of several layers each counts half as much as the next.
    """

    reads = "maps"
    loss: Literal["ofd"]


class MaskedGenerativeDistillation(DistillationObjective):
    """MGD (arXiv:2205.01529): the learner's masked feature map generates the source's."""

    reads = "maps"
    loss: Literal["mgd"]
    alpha_mgd: NonNegativeFloat = 1.756
    """Factor of the mean squared difference."""
    lambda_mgd: Probability = 0.15
    """Fraction of the channels that are masked."""


class AttentionFeatureDistillation(DistillationObjective):
    """AFD (AAAI 2021): every layer of the source taught to every layer of the learner, weighted by learned attention; `at` lists layers."""

    reads = "maps"
    loss: Literal["afd"]
    qk_dim: Width = 128
    """Width of the queries and keys."""


class ProjectorEnsemble(DistillationObjective):
    """PEFD (arXiv:2210.15274): one minus the cosine of the source's embedding and the mean of several projections of the learner's."""

    loss: Literal["pefd"]
    num_projectors: Annotated[StrictInt, Field(gt=0, le=64)] = 3
    """Projections whose mean is compared."""


class ContrastiveRepresentation(DistillationObjective):
    """CRD (arXiv:1910.10699): the source's embedding of the same image against those of other classes, over all ranks' batches."""

    label_type = "single"
    loss: Literal["crd"]
    dim: Width = 128
    """Width of the space in which both are compared."""
    temperature: Temperature = 0.07
    """Divides the cosine similarities."""


class MutualContrastive(DistillationObjective):
    """MCL (arXiv:2104.12565): contrast between two peers' embeddings, and the mimicry of the source's similarities."""

    label_type = "single"
    loss: Literal["mcl"]
    dim: Width = 128
    """Width of the space in which both are compared."""
    temperature: Temperature = 0.1
    """Divides the cosine similarities."""


class DiversePeers(DistillationObjective):
    """OKDDip (arXiv:1912.00350): KL divergence from a mixture of the peers' predictions, weighted by learned attention.

    `at` is the embedding that the attention reads.
    """

    label_type = "single"
    reads = "logits"
    loss: Literal["okddip"]
    dim: Width = 64
    """Width of the queries and keys."""
    temperature: Temperature = 3.0
    """Divides the logits before the softmax; the loss is multiplied by its square."""
    own: StrictBool = False
    """Whether the learner's own prediction is in the mixture; attention that may choose it tends to, and then nothing is taught."""


class Similarity(DistillationObjective):
    """SEED (arXiv:2101.04731), the batch as its queue: KL(source || learner) of each image's similarities to all others, over all ranks.

    Each end compares within its own outputs, of whatever width; no labels and no adapter.
    """

    loss: Literal["similarity"]
    temperature: Temperature = 0.2
    """Divides the learner's cosine similarities before the softmax."""
    source_temperature: Temperature = 0.01
    """Divides the source's."""


class RkdDistance(DistillationObjective):
    """Relational KD (arXiv:1904.05068): the distances between the images of a batch."""

    loss: Literal["rkd_distance"]


class RkdAngle(DistillationObjective):
    """Relational KD (arXiv:1904.05068): the angles that the images of a batch form."""

    loss: Literal["rkd_angle"]


CLASS_FRACTIONS = {"bce": "class_fraction"}
"""By loss the argument that holds the fraction of the training images that have each class."""
CLASS_WEIGHTS = {"cross_entropy": "class_weight", "focal": "alpha", **CLASS_FRACTIONS}
"""By loss the argument that holds a number for each class, which the training images may give."""


def _sections() -> dict[str, type[Objective]]:
    """Returns every section of this module by the name of its loss."""
    sections: dict[str, type[Objective]] = {}
    for section in globals().values():
        if isinstance(section, type) and issubclass(section, Objective) and section.__module__ == __name__:
            (name,) = get_args(section.model_fields["loss"].annotation)
            assert name not in sections, f"two sections are for the loss {name!r}"
            sections[name] = section
    return sections


def _loss(objective: Any) -> str | None:
    """Returns the tag of an objective's section, by the key that pydantic's errors then name; None where it says no loss."""
    name = objective.get("loss") if isinstance(objective, Mapping) else getattr(objective, "loss", None)
    if name is None and not (isinstance(objective, Mapping) and "loss" in objective):
        return None
    return OwnLoss.__name__ if isinstance(name, str) and ":" in name else str(name)


OBJECTIVES = _sections()
if TYPE_CHECKING:
    AnyObjective = Objective
else:
    _TAGGED = tuple(Annotated[section, Tag(name)] for name, section in {**OBJECTIVES, OwnLoss.__name__: OwnLoss}.items())
    AnyObjective = Annotated[Union[_TAGGED], Discriminator(_loss)]  # noqa: UP007  (of a tuple)
