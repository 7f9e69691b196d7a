"""Bringing outputs into form."""

import pytest
import torch
import torch.nn.functional as F

from mutual.objectives.shapes import resized, size_of


@pytest.mark.parametrize(
    ("size", "wanted", "averaged"),
    [
        ((8, 12), (4, 3), True), ((4, 12), (4, 3), True), ((12, 4), (3, 4), True),
        ((3, 4), (6, 8), False), ((3, 12), (6, 4), False), ((12, 3), (4, 6), False), ((4, 12), (8, 3), False), ((6, 12), (8, 5), False),
    ],
)  # fmt: skip
def test_maps_are_averaged_where_larger_and_interpolated_where_smaller(size, wanted, averaged):
    maps = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = resized(maps, wanted)
    expected = F.avg_pool2d(maps, (size[0] // wanted[0], size[1] // wanted[1])) if averaged else None
    if expected is None:
        expected = F.interpolate(maps, size=wanted, mode="bilinear", align_corners=False)
        assert torch.equal(expected, F.interpolate(maps, size=wanted, mode="bilinear")), "torch's own default, stated against its warning"
    torch.testing.assert_close(found, expected)
    assert size_of(found) == wanted
    assert torch.equal(resized(maps, size), maps)
