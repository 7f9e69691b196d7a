"""What a loss asks of its two outputs' shapes (without the batch dimension), and the common ways to bring outputs into form."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mutual.objectives.products import average_to_size, interpolate_to_size

Shape = tuple[int, ...]
Check = Callable[[Shape, Shape], None]


def any_shapes(learner: Shape, source: Shape) -> None:
    """Takes whatever comes."""


def equal_shapes(learner: Shape, source: Shape) -> None:
    """Asks for equal shapes.

    Raises:
        ValueError: they differ.
    """
    if learner != source:
        raise ValueError("needs equal shapes: take outputs that agree, or a loss with a regressor (hint)")


def equal_logits(learner: Shape, source: Shape) -> None:
    """Asks for logits, or vectors like them, of equal width.

    Raises:
        ValueError: one has other dimensions, or they differ.
    """
    if len(learner) != 1 or len(source) != 1:
        raise ValueError("compares predictions [C]: take the logits, or a distance between features (l2)")
    equal_shapes(learner, source)


def feature_maps(*shapes: Shape) -> None:
    """Asks for feature maps `[C, H, W]`.

    Raises:
        ValueError: one of `shapes` is none.
    """
    if any(len(shape) != 3 for shape in shapes):
        raise ValueError("needs feature maps [C, H, W]: take the outputs of convolutions or of their blocks")


def vector_width(shape: Shape) -> int:
    """Returns the width of what `to_vector` makes of an output of this shape."""
    return shape[-1] if len(shape) < 3 else shape[0]


def to_vector(output: Tensor) -> Tensor:
    """Returns `[B, D]`: vectors as they are, the mean over positions of feature maps `[B, D, H, W]` and of token rows `[B, N, D]`."""
    if output.dim() == 4:
        return output.mean(dim=(2, 3))
    return output.mean(dim=1) if output.dim() == 3 else output


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns feature maps `[B, C, H, W]` at `size` (height, width): averaged where they were larger, interpolated where smaller."""
    height, width = maps.shape[2:]
    if (height, width) == size:
        return maps
    if height >= size[0] and width >= size[1]:
        return average_to_size(maps, size)
    return interpolate_to_size(maps, size)


def size_of(maps: Tensor) -> tuple[int, int]:
    """Returns the height and width of feature maps `[B, C, H, W]`."""
    return maps.shape[2], maps.shape[3]
