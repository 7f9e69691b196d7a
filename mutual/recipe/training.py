"""The sections on how peers are built and trained: peers, optimizer, schedule, train, checkpoint."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictFloat, StrictInt

from mutual.recipe.base import (
    MAX_CLASSES,
    MAX_NAMES,
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

Precision = Literal["no", "fp16", "bf16"]


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
    """cosine, linear: the rate that the last update approaches."""
    step_epochs: Annotated[StrictFloat, Field(ge=1e-3, le=1e6)] = 30.0
    """step: epochs between two drops."""
    milestones: list[PositiveFloat] = Field(default_factory=list, max_length=1_000)
    """multistep: epochs at which the rate drops."""
    gamma: Annotated[StrictFloat, Field(gt=0, le=1)] = 0.1
    """step, multistep: factor of a drop."""


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


class StoreSpec(Spec):
    """Where the outputs of a frozen peer are kept: each is computed once, and read in later epochs and runs.

    An output is that of one view of one training image, so a store belongs to weights, data, transforms and seed; another one is refused.
    """

    folder: str
    """The folder; it may be shared by runs, and by ranks that see the same disk."""
    topk: Annotated[StrictInt, Field(gt=0, le=MAX_CLASSES)] | Literal["all"] = 10
    """Number of largest log-probabilities that are kept of each image, with what all other classes have together at several temperatures,
    which is spread evenly over them when it is read; all: every log-probability. In float16. The higher the temperature, the more the
    other classes matter."""
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
    """pplcnet_x1_0, torchvision/resnet18, timm/convnext_tiny or package.module:factory."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the model's factory."""
    weights: str | None = None
    """A safetensors file, a torch checkpoint, or `pretrained` where the zoo has weights."""
    frozen: StrictBool = False
    """The peer only teaches: eval mode for good, no gradient, no optimizer."""
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


def _yaml_no(value: Any) -> Any:
    return "no" if value is False else value  # YAML 1.1 reads a bare `no` as false


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
