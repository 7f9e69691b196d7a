"""The sections on how peers are built and trained: peers, optimizer, schedule, train, checkpoint."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from mutual.recipe.base import (
    MAX_CLASSES,
    MAX_NAMES,
    BatchSize,
    Epochs,
    NonNegativeFloat,
    PeerCost,
    Positive,
    PositiveFloat,
    Probability,
    Seed,
    Spec,
    Temperature,
)
from mutual.recipe.inputs import InputSpec

Precision = Literal["no", "fp16", "bf16"]
Classes = (
    str
    | Annotated[list[StrictStr], Field(min_length=2, max_length=MAX_CLASSES)]
    | Annotated[list[Annotated[StrictInt, Field(ge=0, lt=MAX_CLASSES)] | None], Field(min_length=2, max_length=MAX_CLASSES)]
)
PRETRAINED = "pretrained"
"""In place of a weights file: the zoo's own weights."""


def _yaml_no(value: Any) -> Any:
    return "no" if value is False else value  # YAML 1.1 reads a bare `no` as false


class Optimizer(Spec):
    """One optimizer for each trainable peer, by its torch or timm name."""

    name: str = "sgd"
    """sgd, adam, adamw, lamb, ... (any optimizer of torch.optim, else of timm)."""
    lr: PositiveFloat = 0.1
    """Learning rate; the schedule multiplies it."""
    weight_decay: NonNegativeFloat = 0.0
    """Weight decay, as the optimizer applies it (L2 penalty or decoupled)."""
    momentum: Probability | None = None
    """Momentum; left out, the optimizer's default."""
    nesterov: StrictBool | None = None
    """Nesterov momentum; left out, the optimizer's default."""
    betas: tuple[Probability, Probability] | None = None
    """Decay rates of Adam's two averages; left out, the optimizer's default."""
    eps: NonNegativeFloat | None = None
    """Added to the denominator; left out, the optimizer's default."""
    decay_norm_and_bias: StrictBool = True
    """false: weight decay leaves out biases and the weights of normalisation layers (every parameter of fewer than two dimensions)."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments, passed to the optimizer as they are."""


class Schedule(Spec):
    """The learning rate as a function of the update, as a multiple of the optimizer's `lr`."""

    name: Literal["constant", "cosine", "linear", "step", "multistep"] = "cosine"
    """Form of the schedule after the warm-up."""
    warmup_epochs: NonNegativeFloat = 0.0
    """The rate rises linearly from 0 over this number of epochs, before the schedule proper begins."""
    min_lr: NonNegativeFloat = 0.0
    """cosine, linear: the rate that the last update approaches; with `period_epochs`, the lowest rate of each period."""
    period_epochs: Annotated[StrictFloat, Field(ge=1e-3, le=1e6)] | None = None
    """cosine: epochs in which the rate falls; in as many it rises again, and so on, as torch's CosineAnnealingLR with this T_max. The
    default is all epochs behind the warm-up, in which it falls once."""
    step_epochs: Annotated[StrictFloat, Field(ge=1e-3, le=1e6)] = 30.0
    """step: epochs between two drops."""
    milestones: list[PositiveFloat] = Field(default_factory=list, max_length=1_000)
    """multistep: epochs at which the rate drops."""
    gamma: Annotated[StrictFloat, Field(gt=0, le=1)] = 0.1
    """step, multistep: factor of a drop."""
    interval: Literal["update", "epoch"] = "update"
    """update: the rate changes with each update; epoch: an epoch's updates have the rate of its first one, as with a scheduler of torch
    that is stepped once an epoch. The warm-up rises with each update all the same."""


class ExchangeSpec(Spec):
    """How peers on different ranks or in different jobs exchange outputs or weights.

    live: between the ranks of a job, where `placement` is parallel. stale: between jobs that have no process group in common,
    codistillation (arXiv:1804.03235); each trains some of the peers and learns from the weights that the others have published last.
    """

    kind: Literal["live", "stale"] = "live"
    """live: within one job; stale: codistillation between jobs."""
    folder: str | None = None
    """stale: a folder that all jobs see, or an address that fsspec knows; weights are published there."""
    trains: list[str] = Field(default_factory=list, max_length=MAX_NAMES)
    """stale: the peers that this job trains; every job names its own. Left out, the processes of one launch are divided into a job for each
    peer, which do not wait for each other."""
    every: Positive = 100
    """stale: updates between two publications, and between two looks at the others'."""
    reads: list[str] = Field(default_factory=list, max_length=MAX_NAMES)
    """stale: the peers that other jobs train; recorded in the resolved recipe of a job."""
    dtype: Literal["exact", "bf16", "fp16"] = "exact"
    """live: exact: in the precision they have; bf16, fp16: in half of float32's bytes."""


class WeightsSpec(Spec):
    """Weights from a file, and how its tensors become the model's."""

    file: str
    """A safetensors file, a torch checkpoint, or the folder of an earlier run (its best peer)."""
    head: Literal["keep", "new"] = "keep"
    """keep: every tensor of the model is in the file; new: all but the classifier, where the file's is of another width or of other classes
    or there is none: the model's begins with its initial weights, and a line says so."""
    prefix: str = "auto"
    """What stands before the model's names in the file, such as `backbone.` or `state_dict.model.`; tensors without it are left out.
    auto: what makes most of the file's names the model's; where several fit equally, what names a moving average (`model_ema.module.`)."""


PROGRAM_PREFIX, PROGRAM_SUFFIX = "program:", ".pt2"


def program_file(model: str) -> str | None:
    """Returns the path in `program:FILE.pt2`; None where `model` names no exported program.

    Example:
        >>> program_file("program:teacher.pt2"), program_file("program:net")
        ('teacher.pt2', None)
    """
    is_program = model.startswith(PROGRAM_PREFIX) and model.endswith(PROGRAM_SUFFIX)
    return model.removeprefix(PROGRAM_PREFIX) if is_program else None


FROZEN_ONLY = ("precision", "compile", "channels_last", "forward_batch")
"""Fields of a peer that say how it is run where it only teaches."""


class Expect(Spec):
    """What a peer must score on the validation images before the first update; a run whose peer scores less ends before it begins."""

    top1: Probability | None = None
    """Images of one class each: the lowest top-1 accuracy, as a fraction."""
    top5: Probability | None = None
    """Images of one of more than 5 classes each: the lowest top-5 accuracy, as a fraction."""
    map: Probability | None = None
    """Images with several labels each: the lowest mean average precision, as a fraction."""

    @property
    def minima(self) -> dict[str, float]:
        """By metric the lowest score that is taken."""
        return {name: value for name, value in self if value is not None}


class StoreSpec(Spec):
    """Where the outputs of a frozen peer are kept: each is computed once, and read in later epochs and runs.

    An output is that of one view of one training image, so a store belongs to weights, data, transforms and seed; another one is refused.
    """

    folder: str
    """The folder; it may be shared by runs, and by ranks that see the same disk."""
    topk: Annotated[StrictInt, Field(gt=0, le=MAX_CLASSES)] | Literal["all"] = 10
    """Number of largest log-probabilities that are kept of each image, with the probability of all other classes together, which is
    spread evenly over them when it is read; all: every log-probability. In float16."""
    views: Annotated[StrictInt, Field(gt=0, le=1_000_000)] | Literal["epoch"] = 50
    """A number: each image has so many views, which are augmented (and mixed) by their number and not by the epoch, so that after so many
    epochs nothing is computed any more; epoch: each epoch has views of its own, as without a store."""
    seed: Seed | None = None
    """Seed of the views, where they are a number; the default is the recipe's. With one given, runs of other seeds share the store."""
    feature_maps: StrictBool = False
    """Keep feature maps, where a loss reads all of one; they are large, and refused by default."""


class PeerSpec(Spec):
    """One model of the group."""

    model: str
    """pplcnet_x1_0, torchvision/resnet18, timm/convnext_tiny, package.module:factory, or program:FILE.pt2 for a frozen peer that
    `torch.export` wrote."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the model's factory."""
    weights: str | WeightsSpec | None = None
    """A safetensors file, a torch checkpoint, the folder of an earlier run (its best peer), `pretrained` where the zoo has weights, or a
    section that says how a file's tensors become the model's."""
    train_only: list[str] = Field(default_factory=list, max_length=MAX_NAMES)
    """Module paths (`fc`, `layer4.1`) whose parameters are trained; all others stay as they are, and what is not named stays in eval mode
    (BatchNorm statistics, dropout)."""
    freeze: list[str] = Field(default_factory=list, max_length=MAX_NAMES)
    """Module paths whose parameters stay as they are, in eval mode; all others are trained."""
    frozen: StrictBool = False
    """The peer only teaches: eval mode for good, no gradient, no optimizer."""
    input: Literal["auto"] | InputSpec = "auto"
    """What the model was made for: size, mean, std, interpolation, channels. auto: what its weights say (the card in a file of ours,
    timm's or torchvision's record of pretrained weights), else what the factory's model says in its attribute `input`, else the data's;
    the size of a peer that is trained is the data's unless its model takes one size only."""
    classes: Literal["auto"] | Classes = "auto"
    """The classes that a frozen peer's outputs stand for: names, a text file with a name a line, or for each class of the data the index
    of its output (null: the peer does not know it). auto: by the names that its weights have. Losses and scores read those in common."""
    head: Literal["classifier", "none"] = "classifier"
    """none: a frozen peer without a classifier (DINO, a tower of CLIP, an embedding net). Its output is called `embedding`, a vector of any
    width, which feature, relational and contrastive losses read with `at` or `source_at`; a classifier in its weights is left out. It is
    scored once, by its nearest neighbours among the training images."""
    standardize: StrictBool = False
    """head: none: each dimension of the embedding is brought to mean 0 and standard deviation 1 by the statistics of at most 2,048 training
    images, so that of several such peers none outweighs the others by its scale (arXiv:2410.01680)."""
    expect: Expect | None = None
    """What the peer, which begins with weights, must score before the first update."""
    precision: Annotated[Precision | None, BeforeValidator(_yaml_no)] = None
    """Frozen peers: no, fp16 or bf16; the default is the run's. Losses compute in float32 in any case."""
    compile: StrictBool | None = None
    """Frozen peers: torch.compile; the default is the run's."""
    channels_last: StrictBool | None = None
    """Frozen peers: memory format of weights and images; the default is the run's."""
    forward_batch: BatchSize | None = None
    """Frozen peers: most images of a forward. Micro-batches of an update share a forward if together they have no more images; one that has
    more is computed in several. The default is 256, or a micro-batch where that is larger; where memory is short, take that of a
    micro-batch."""
    store: StoreSpec | None = None
    """Frozen peers: the folder in which its outputs are kept, so that each is computed once; by default they are computed every time."""
    optimizer: Optimizer | None = None
    """This peer's own optimizer; the default is the recipe's."""
    schedule: Schedule | None = None
    """This peer's own schedule; the default is the recipe's."""
    rank: Literal["own"] | None = None
    """placement: parallel, frozen peers: own: it has ranks of its own, and its learners need no memory for it; by default it is
    computed on the ranks that learn from it."""
    ranks: Positive | None = None
    """placement: parallel: number of ranks that hold this peer alone; the default is an equal share, or by cost where this cannot be."""
    cost: PeerCost | None = None
    """placement: parallel: what an image costs in this peer (next to the others), where ranks cannot be shared equally; the default is what
    is measured when the run begins (microseconds), and recorded in the run's recipe."""

    @property
    def weights_file(self) -> WeightsSpec | None:
        """The file that the weights come from, and how; None for initial weights and the zoo's own."""
        if isinstance(self.weights, WeightsSpec):
            return self.weights
        return None if self.weights in (None, PRETRAINED) else WeightsSpec.model_validate({"file": self.weights})

    def with_weights_file(self, file: str) -> PeerSpec:
        """Returns the same with another weights file; the rest of its section stays."""
        weights = self.weights.model_copy(update={"file": file}) if isinstance(self.weights, WeightsSpec) else file
        return self.model_copy(update={"weights": weights})

    @property
    def has_weights(self) -> bool:
        """Whether it begins with trained weights, as far as the recipe says."""
        return self.weights is not None or any(value for key, value in self.args.items() if key.startswith(("pretrained", "weights")))


class Pause(Spec):
    """SwitOKD (arXiv:2209.04996): `peer` skips an update in which it is too far ahead of `versus`.

    With p the softened predictions and y the labels, as means of L1 norms over the update's images: it pauses where ||p_versus - p_peer||
    exceeds ||p_versus - y|| - exp(-||p_peer - y|| / (||p_versus - y|| + ||p_peer - y||)) ||p_peer - y||.
    """

    peer: str
    """The stronger peer, the one that waits."""
    versus: str
    """The weaker peer."""
    temperature: Temperature = 1.0
    """Divides both peers' logits before the softmax."""


class Train(Spec):
    """The training loop."""

    epochs: Epochs = 20
    """Passes over the training images."""
    precision: Annotated[Precision | None, BeforeValidator(_yaml_no)] = None
    """no, fp16 or bf16; the default is the launcher's mixed precision; recorded in the run's recipe."""
    threads: Annotated[StrictInt, Field(gt=0, le=1_024)] | None = None
    """CPU threads of a process: sums over more threads differ in their last digits. The default is what the launcher gives;
    recorded in the run's recipe."""
    accumulate: Annotated[StrictInt, Field(gt=0, le=1_000_000)] = 1
    """Micro-batches in one update."""
    update: Literal["simultaneous", "alternating"] = "simultaneous"
    """simultaneous: all peers step on the same predictions; alternating: each peer steps on the other peers' updated
    predictions (DML, algorithm 1)."""
    clip_grad_norm: PositiveFloat | None = None
    """Largest gradient norm of a peer."""
    ema: Annotated[StrictFloat, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of each peer's weights; evaluation and saved weights are the average's."""
    ema_warmup: StrictBool = False
    """The decay of update t is at most 1 - 1/t, so that the average forgets the initial weights at once."""
    evaluate_ema: StrictBool = True
    """false: the averages only teach (`sources: ema`); evaluated and saved are the trained weights."""
    pause: Pause | None = None
    """SwitOKD: a peer that waits while another is too far behind."""
    sync_batchnorm: StrictBool = False
    """BatchNorm statistics over all ranks (GPU only)."""
    compile: StrictBool = False
    """torch.compile for each peer; the first steps then take minutes."""
    channels_last: StrictBool = False
    """Memory format of weights and images; faster convolutions on some GPUs."""
    deterministic: StrictBool = False
    """Only deterministic kernels, on GPUs too."""
    log_every: Positive = 10
    """Updates between two points in TensorBoard."""
    eval_every: Positive = 1
    """Epochs between two evaluations; the last epoch is always evaluated."""
    best_metric: Literal["top1", "nll", "map"] | None = None
    """What makes weights the best: the highest top-1 accuracy or mean average precision, or the lowest negative log-likelihood. The
    default is top1, and map for images with several labels each."""
    progress: StrictBool = True
    """A progress bar on the terminal."""
    timeout_seconds: Annotated[StrictFloat, Field(ge=1, le=1e7)] = 1800.0
    """Several processes: a collective that takes longer ends the run, as some process does not answer any more."""


class CheckpointSpec(Spec):
    """When the run can be resumed from."""

    every_epochs: Positive | None = 1
    """Epochs between two checkpoints; null: none at the end of an epoch."""
    every_steps: Positive | None = None
    """Updates between two checkpoints, counted from the start of the run."""
    keep: Positive = 2
    """Number of the latest checkpoints that stay."""
