"""Spec: what every section of a recipe is, a frozen pydantic model that refuses unknown keys.

A section's class has the name of its key (`Data`, `Train`), with `Spec` behind it only where another class has that name
(`Peer`, `Checkpoint`).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt


class Spec(BaseModel):
    """A section of a recipe; docstrings under the fields become the descriptions that editors show."""

    # deferred: a section is built once, with the recipe that holds it
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, validate_default=True, defer_build=True
    )


MAX_CLASSES = 1_000_000
"""The largest sets of faces that are trained on have some millions of identities, and need a classifier in parts, which is not here."""
MAX_SIDE = 8_192
"""Pixels; whole slides are cut into tiles first."""
MAX_PEERS = 8
MAX_OBJECTIVES = 128
"""Twice as many as one for each ordered pair of the most peers and one for each peer."""
MAX_CLASS_WEIGHTS = 2_000
"""Of a loss: the recipe that a run writes down must not be larger than a recipe may be."""
MAX_NAMES = 64
"""Entries of a list of peers, sources or module paths."""
MAX_TRANSFORMS = 64

# Strict: YAML has typed the value already, so neither `true` nor "3" passes for a number.
# Each has an upper bound that no training meets. What lies beyond would take all memory or time, or overflow: it is a slip of the keyboard.
Positive = Annotated[StrictInt, Field(gt=0, le=10**9)]
NonNegative = Annotated[StrictInt, Field(ge=0, le=10**9)]
Number = Annotated[StrictFloat, Field(ge=-1e6, le=1e6)]
PositiveFloat = Annotated[StrictFloat, Field(gt=0, le=1e6)]
NonNegativeFloat = Annotated[StrictFloat, Field(ge=0, le=1e6)]  # its square and a sum of a million squares are finite in float32
Probability = Annotated[StrictFloat, Field(ge=0, le=1)]
Temperature = Annotated[StrictFloat, Field(ge=1e-4, le=1e4)]  # logits divided by it, and losses times its square, are finite in float32
Deviation = Annotated[StrictFloat, Field(ge=1e-6, le=1e6)]  # of pixel values in 0 .. 1, which are divided by it
PeerCost = Annotated[StrictFloat, Field(ge=1e-9, le=1e12)]  # microseconds, where it is measured: a million seconds
Seed = Annotated[StrictInt, Field(ge=-(2**63), lt=2**64)]
Epochs = Annotated[StrictInt, Field(gt=0, le=1_000_000)]
Pixels = Annotated[StrictInt, Field(gt=0, le=MAX_SIDE)]
Size = Pixels | tuple[Pixels, Pixels]
BatchSize = Annotated[StrictInt, Field(gt=0, le=1_000_000)]
Crops = Annotated[StrictInt, Field(gt=0, le=256)]
MadeUpImages = Annotated[StrictInt, Field(gt=0, le=10_000_000)]  # their numbers and labels are held in memory
NumClasses = Annotated[StrictInt, Field(gt=0, le=MAX_CLASSES)]
Workers = Annotated[StrictInt, Field(ge=0, le=1_024)]  # processes
Prefetch = Annotated[StrictInt, Field(ge=1, le=1_024)]  # batches, which are held in memory
KernelSize = Annotated[StrictInt, Field(gt=0, le=99)]  # pixels
Width = Annotated[StrictInt, Field(gt=0, le=65_536)]  # features of a layer that we build
