"""OwnLoss: the section of a loss of the user's own, `loss: package.module:name`.

A recipe alone does not tell what such a loss reads: `LossTraits`, which is known when its module has been imported, which happens where a
group is built and nowhere below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema

from mutual.recipe.edges import DistillationObjective, LabelType, OutputKind
from mutual.recipe.users_code import USERS_NAME, is_users_name


@dataclass(frozen=True)
class LossTraits:
    """What a loss of the user's own says that its section cannot.

    Attributes:
        reads_source: whether it learns from sources; else from labels, as `cross_entropy` does.
        label_type: as in `Objective`.
        reads: as in `Objective`.
    """

    reads_source: bool
    label_type: LabelType = "any"
    reads: OutputKind = "any"


def _users_name(name: str) -> str:
    if not is_users_name(name):
        raise ValueError("names no loss of yours; write package.module:name")
    return name


class OwnLoss(DistillationObjective):
    """A loss of your own, `package.module:name`: a function of learner, source and labels, or a module class with weights.

    One that reads no source learns from labels, as `cross_entropy` does. What it is called with is in mutual/objectives/README.md.
    """

    loss: Annotated[str, AfterValidator(_users_name), WithJsonSchema({"type": "string", "pattern": USERS_NAME})]
    """Where it is defined; the module is imported from the current folder, too."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the function, or of the class beside the shapes."""

    def loss_arguments(self) -> dict[str, Any]:
        """The arguments that belong to the loss itself."""
        return dict(self.args)
