"""Spec: what every section of a recipe is, a frozen pydantic model that refuses unknown keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt


class Spec(BaseModel):
    """A section of a recipe; docstrings under the fields become the descriptions that editors show."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, validate_default=True)


# Strict: YAML has typed the value already, so neither `true` nor "3" passes for a number.
Positive = Annotated[StrictInt, Field(gt=0)]
NonNegative = Annotated[StrictInt, Field(ge=0)]
PositiveFloat = Annotated[StrictFloat, Field(gt=0)]
NonNegativeFloat = Annotated[StrictFloat, Field(ge=0)]
Probability = Annotated[StrictFloat, Field(ge=0, le=1)]
Size = Positive | tuple[Positive, Positive]
