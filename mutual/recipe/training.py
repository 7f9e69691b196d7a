"""The sections on how peers are trained: optimizer, exchange, train, checkpoint; `schedules` has the schedule."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictFloat, StrictInt

from mutual.recipe.base import (
    MAX_NAMES,
    Epochs,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Probability,
    Spec,
    Temperature,
)

Precision = Literal["no", "fp16", "bf16"]


def _yaml_no(value: Any) -> Any:
    return "no" if value is False else value  # YAML 1.1 reads a bare `no` as false


GivenPrecision = Annotated[Precision | None, BeforeValidator(_yaml_no)]


class ParameterGroup(Spec):
    """Parameters that are trained with another learning rate or weight decay than the rest."""

    modules: list[str] = Field(min_length=1, max_length=MAX_NAMES)
    """Paths of modules or parameters in the model (`fc`, `layer4.1`, `blocks.*.attn`; * stands for any text); what they hold belongs to
    the group. Parameters that several groups name belong to the first."""
    lr: PositiveFloat | None = None
    """Their learning rate, which the schedule changes as it does the optimizer's; `layer_decay` leaves it alone."""
    lr_scale: NonNegativeFloat | None = None
    """Their learning rate as a multiple of what they would have. 0: they stay as they are, and what lies between them does not: BatchNorm's
    statistics move; `freeze` of a peer holds both."""
    weight_decay: NonNegativeFloat | None = None
    """Their weight decay; `decay_norm_and_bias: false` leaves out biases and normalisation layers here, too."""
    may_be_empty: StrictBool = False
    """true: a path at which the model has nothing is no fault."""


class Optimizer(Spec):
    """One optimizer for each trainable peer, by its torch or timm name, or of your own."""

    name: str = "sgd"
    """sgd, adam, adamw, lamb, ... (any optimizer of torch.optim, else of timm), paddle_rmsprop (RMSProp as Paddle computes it), or
    package.module:name, which is called with the groups of parameters, lr, and what else is given here, and returns a
    torch.optim.Optimizer."""
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
    fused: StrictBool | None = None
    """One kernel for all parameters and all of a step (torch's sgd, adam, adamw, adagrad); left out, the optimizer's default, or what
    `train.tune` finds."""
    foreach: StrictBool | None = None
    """A few kernels for all parameters in place of some for each (torch's optimizers); left out, the optimizer's default, which on GPUs is
    true, or what `train.tune` finds."""
    decay_norm_and_bias: StrictBool = True
    """false: weight decay leaves out biases and the weights of normalisation layers (every parameter of fewer than two dimensions)."""
    layer_decay: Annotated[StrictFloat, Field(gt=0, le=1)] | None = None
    """Each layer's learning rate is so many times that of the layer behind it, the last one's is `lr` (BEiT's fine-tuning). The layers are
    those of timm's models' `group_matcher`; of others the top-level modules in their order, in which a Sequential or ModuleList counts
    entry by entry and a normalisation belongs to the layer before it. What a model's `no_weight_decay` names is then left out by
    `decay_norm_and_bias: false`, too. Adapters have `lr`."""
    groups: list[ParameterGroup] = Field(default_factory=list, max_length=MAX_NAMES)
    """Parts of the model with a learning rate or weight decay of their own."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments, passed to the optimizer as they are."""

    @property
    def is_form_open(self) -> bool:
        """Whether nothing says in which form the step is computed, which `train.tune` then chooses."""
        return self.fused is None and self.foreach is None and not {"fused", "foreach"} & set(self.args)


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
    precision: GivenPrecision = None
    """no, fp16 or bf16; the default is the launcher's mixed precision; recorded in the run's recipe. In fp16 on GPUs sgd, adam and
    adamw are fused (`fused: true`) unless `fused` or `foreach` says otherwise: they skip an overflow without making the host wait."""
    threads: Annotated[StrictInt, Field(gt=0, le=1_024)] | None = None
    """CPU threads of a process: sums over more threads differ in their last digits. The default on a CPU is what OMP_NUM_THREADS or
    `--num_cpu_threads_per_process` says where the user gave it (that a launcher sets 1 by itself does not count), else the cores that the
    process may use, which the processes of a machine share; beside a GPU, what the process has. Recorded in the run's recipe."""
    tune: StrictBool = False
    """Measure before the first update, on copies, which of `threads`, `channels_last`, `compile` and the optimizers' `fused` and `foreach`
    are fastest, as far as the recipe does not say them; recorded in the run's recipe, so that a resumed run measures nothing."""
    tune_seconds: Annotated[StrictFloat, Field(gt=0, le=1e6)] = 300.0
    """tune: nothing more is tried after so many seconds, and nothing is compiled that cannot be ready by then or whose compilation the
    updates of the run cannot repay."""
    accumulate: Annotated[StrictInt, Field(gt=0, le=1_000_000)] = 1
    """Micro-batches in one update."""
    update: Literal["simultaneous", "alternating"] = "simultaneous"
    """simultaneous: all peers step on the same predictions; alternating: each peer steps on the other peers' updated
    predictions (DML, algorithm 1)."""
    backward: Literal["joint", "per_peer"] = "joint"
    """simultaneous updates: joint: all peers run forward, then one backward serves them all; per_peer: what they learn from each other is
    computed first, without gradients, then each runs forward and backward by itself: the same update with the activations of one peer in
    memory at a time, for one more forward of all but one of the peers that others read."""
    clip_grad_norm: PositiveFloat | None = None
    """Largest gradient norm of a peer."""
    clip_parameter_norm: PositiveFloat | None = None
    """Largest gradient norm of each parameter by itself; in place of `clip_grad_norm`."""
    ema: Annotated[StrictFloat, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of each peer's weights; evaluation and saved weights are the average's."""
    ema_warmup: StrictBool = False
    """The decay of update t is at most 1 - 1/t, so that the average forgets the initial weights at once."""
    evaluate_ema: StrictBool = True
    """false: the averages only teach (`sources: ema`); evaluated and saved are the trained weights."""
    pause: Pause | None = None
    """SwitOKD: a peer that waits while another is too far behind. On GPUs its sgd, adam or adamw is fused, as in fp16."""
    sync_batchnorm: StrictBool = False
    """BatchNorm statistics over all ranks (GPU only)."""
    compile: StrictBool | None = None
    """torch.compile for each peer; the first steps then take minutes. The default is false, or what `tune` finds."""
    compile_mode: Literal["default", "reduce-overhead"] = "default"
    """compile: torch.compile's mode; reduce-overhead: with CUDA graphs, on GPUs. `tune` tries both there where it tries `compile`."""
    channels_last: StrictBool | None = None
    """Memory format of weights and images, in which convolutions are faster on CPUs and on some GPUs. The default is false, or what `tune`
    finds."""
    deterministic: StrictBool = False
    """Only deterministic kernels, on GPUs too. A model ends the run there with an operator that has none: adaptive pooling to more than one
    position (torchvision's VGG and AlexNet), say."""
    cudnn_benchmark: StrictBool = False
    """GPUs: cuDNN times its convolution algorithms for each shape and takes the fastest. Which one it is may differ from run to run, and
    with it the last digits, so that neither a repeated nor a resumed run need be equal to the bit."""
    tf32: Literal[True, False, "convolutions"] = "convolutions"
    """GPUs from Ampere on: what models and adapters compute in TF32, which rounds factors in float32 to 10 bits of mantissa, a relative
    error of about 1e-3: true: convolutions and matrix products; convolutions: these alone, as torch does by itself; false: nothing. What
    holds to 1e-6 (accumulation, ranks, placement) holds so on such GPUs with false alone. Losses, behind the models and the adapters,
    compute in float32 at least."""
    log_every: Positive = 10
    """Updates between two points in TensorBoard."""
    pictures: StrictBool = True
    """Draw confusion matrices, reliability diagrams, how peers agree and what they see, for TensorBoard and trackers that take images: at
    the last evaluation, and at as many before it as together take less than 1% of the time. No number of the run depends on it."""
    eval_every: Positive = 1
    """Epochs between two evaluations; the last epoch is always evaluated."""
    best_metric: Literal["top1", "macro_top1", "nll", "map"] | None = None
    """What makes weights the best: the highest top-1 accuracy, over the images or (macro_top1) the mean over the classes that occur, the
    highest mean average precision, or the lowest negative log-likelihood. The default is top1, and map for images with several labels."""
    patience: Positive | None = None
    """The training ends when no trainable peer has improved its own `best_metric` in so many evaluations; by default it never does. A
    peer's best weights stay those of its best evaluation."""
    min_improvement: NonNegativeFloat = 0.0
    """patience: what counts as an improvement is more than this: accuracies as fractions (0.001 is a tenth of a percent), NLL in nats."""
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
    keep_best: Annotated[StrictInt, Field(gt=0, le=1_000)] | None = None
    """Number of each peer's best evaluated epochs whose weights stay, as `best/PEER-epoch12.safetensors` beside its best ones; best.json
    has their scores, and `--epoch 12` names one to `evaluate` and `export`. By default only the best weights stay."""
