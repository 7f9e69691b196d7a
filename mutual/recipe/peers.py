"""The sections on the peers: their models, weights, inputs, classes, and how a frozen one is run and kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr

from mutual.recipe.base import MAX_CLASSES, MAX_NAMES, BatchSize, Deviation, Number, PeerCost, Positive, Probability, Seed, Size, Spec
from mutual.recipe.schedules import Schedule
from mutual.recipe.training import GivenPrecision, Optimizer
from mutual.recipe.transforms import Interpolation

Classes = (
    str
    | Annotated[list[StrictStr], Field(min_length=2, max_length=MAX_CLASSES)]
    | Annotated[list[Annotated[StrictInt, Field(ge=0, lt=MAX_CLASSES)] | None], Field(min_length=2, max_length=MAX_CLASSES)]
)
PRETRAINED = "pretrained"
"""In place of a weights file: the zoo's own weights."""


class InputSpec(Spec):
    """What a peer reads; what is left out is as `auto` says."""

    size: Size | None = None
    """Height and width in pixels (one number: square); images of another size are resized to it, antialiased, on the device."""
    mean: tuple[Number, ...] | None = Field(None, min_length=1, max_length=3)
    """Mean of each channel (one number: of all), of pixel values in 0 .. 1; it is subtracted."""
    std: tuple[Deviation, ...] | None = Field(None, min_length=1, max_length=3)
    """Standard deviation of each channel (one number: of all), by which is divided."""
    interpolation: Interpolation | None = None
    """How images are resized to `size`."""
    channels: Literal[1, 3] | None = None
    """1 grey (of colour images the luma), 3 colour (grey is repeated)."""

    @property
    def height_width(self) -> tuple[int, int] | None:
        """`size` as (height, width)."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def given(self) -> dict[str, Any]:
        """What is not left out, with the size as (height, width)."""
        fields = self.model_dump(exclude_none=True)
        return fields if self.size is None else {**fields, "size": self.height_width}


class WeightsSpec(Spec):
    """Weights from a file, and how its tensors become the model's."""

    file: str
    """A safetensors file, a torch checkpoint, or the folder of an earlier run (its best peer)."""
    head: Literal["keep", "new", "auto"] = "keep"
    """keep: every tensor of the model is in the file; new: all but the classifier, where the file's is of another width or of other classes
    or there is none: the model's begins with its initial weights, and a line says so; auto: new where that is so, else keep."""
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
    """pplcnet_x1_0, paddleclas/ResNet50_vd, torchvision/resnet18, timm/convnext_tiny, package.module:factory, or program:FILE.pt2 for a
    frozen peer that `torch.export` wrote."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the model's factory."""
    weights: str | WeightsSpec | None = None
    """A safetensors file, a torch checkpoint, a `.pdparams` of Paddle's, the folder of an earlier run (its best peer), `pretrained` where
    the zoo has weights, or a section that says how a file's tensors become the model's."""
    train_only: list[str] = Field(default_factory=list, max_length=MAX_NAMES)
    """Module paths (`fc`, `layer4.1`) whose parameters are trained; all others stay as they are, and what is not named stays in eval mode
    (BatchNorm statistics, dropout)."""
    freeze: list[str] = Field(default_factory=list, max_length=MAX_NAMES)
    """Module paths whose parameters stay as they are, in eval mode; all others are trained."""
    frozen: StrictBool = False
    """The peer only teaches: eval mode for good, no gradient, no optimizer."""
    input: Literal["auto"] | InputSpec = "auto"
    """What the model was made for: size, mean, std, interpolation, channels. auto: what its weights say (the card in a file of ours, what
    timm, torchvision or PaddleClas record of pretrained weights), else what the factory's model says in its attribute `input`, else the
    data's; the size of a peer that is trained is the data's unless its model takes one size only."""
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
    precision: GivenPrecision = None
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
    activation_checkpointing: StrictBool = False
    """Trained peers: of each block of the model only the input is kept for the backward, which computes the rest once more: less memory,
    about a third more time, the same update bit for bit."""
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
