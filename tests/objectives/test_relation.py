"""Relations between images: the edges of what the golden numbers show."""

import pytest
import torch
import torch.nn.functional as F

from mutual.objectives import build_loss, distances

NAMES = ("rkd_distance", "rkd_angle")


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_relations_of_feature_maps_are_those_of_their_elements(name):
    learner, source = rand(5, 3, 2, 2), rand(5, 4, 3, 1, seed=1)
    torch.testing.assert_close(build_loss(name)(learner, source), build_loss(name)(learner.flatten(1), source.flatten(1)))


def test_distances_of_equal_images_are_exactly_zero():
    rows = 1000 + torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    rows[1::2] = rows[::2]
    found = distances(rows)
    assert not found.diagonal().any()
    assert not found[::2, 1::2].diagonal().any()


def test_relative_distances_are_at_least_a_millionth():
    """Of both ends, the diagonal among them, as in the reference; it shows where outputs are as close as that."""
    learner, source = 2e-6 * rand(5, 3), 2e-6 * rand(5, 3, seed=1)
    source[1] = source[0]
    ends = [torch.cdist(each, each, compute_mode="donot_use_mm_for_euclid_dist").clamp(min=1e-6) for each in (learner, source)]
    expected = F.smooth_l1_loss(*(each / each.mean() for each in ends))
    torch.testing.assert_close(build_loss("rkd_distance")(learner, source), expected)


def test_angles_of_close_images_count():
    rows, source = rand(5, 4), rand(5, 4, seed=1)
    torch.testing.assert_close(build_loss("rkd_angle")(rows, 1e-3 * source), build_loss("rkd_angle")(rows, source))


def test_a_direction_without_length_has_no_angle():
    source = rand(5, 4, seed=1)
    source[1] = source[0]
    directions = F.normalize(source[None, :] - source[:, None], dim=2)
    found = build_loss("rkd_angle")(source, source)
    assert found.item() == pytest.approx(0, abs=1e-12)
    learner = rand(5, 4)
    ours = F.normalize(learner[None, :] - learner[:, None], dim=2)
    expected = F.smooth_l1_loss(ours @ ours.transpose(1, 2), directions @ directions.transpose(1, 2))
    torch.testing.assert_close(build_loss("rkd_angle")(learner, source), expected)
