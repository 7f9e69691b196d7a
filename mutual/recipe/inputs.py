"""The sections on what a peer's model was made for: the images that it reads."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mutual.recipe.base import Deviation, Number, Size, Spec
from mutual.recipe.transforms import Interpolation


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
