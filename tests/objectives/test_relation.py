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


def written_out_similarity(learner, source, temperature, source_temperature):
    """Image by image, with loops, from the definition."""
    num = len(learner)
    total = 0
    for i in range(num):
        logits = []
        for rows, divisor in ((source, source_temperature), (learner, temperature)):
            cosines = [rows[i] @ rows[j] / (rows[i].norm() * rows[j].norm()) for j in range(num) if j != i]
            logits.append(torch.stack(cosines) / divisor)
        p, q = (each.exp() / each.exp().sum() for each in logits)
        total = total + (p * (p / q).log()).sum()
    return total / num


@pytest.mark.parametrize(("temperature", "source_temperature"), [(0.2, 0.1), (0.07, 0.3)])
def test_similarity_is_the_divergence_of_softmaxed_similarities_to_the_others(temperature, source_temperature):
    learner, source = rand(6, 7).requires_grad_(), rand(6, 3, seed=1)
    loss = build_loss("similarity", temperature=temperature, source_temperature=source_temperature)(learner, source)
    expected = written_out_similarity(learner, source, temperature, source_temperature)
    torch.testing.assert_close(loss, expected)
    (found_gradient,), (expected_gradient,) = (torch.autograd.grad(each, learner) for each in (loss, expected))
    torch.testing.assert_close(found_gradient, expected_gradient)


def test_similarity_ignores_turns_scales_and_width_and_is_zero_between_equals():
    rows = rand(5, 4)
    turn = torch.linalg.qr(rand(7, 7, seed=4)).Q[:4]
    loss = build_loss("similarity", temperature=0.1, source_temperature=0.1)
    assert loss(rows, 3 * rows @ turn).item() == pytest.approx(0, abs=1e-12)
    assert loss(rows, rand(5, 4, seed=1)) > 0.01


def test_an_image_alone_is_similar_to_nothing():
    learner = rand(1, 4).requires_grad_()
    loss = build_loss("similarity")(learner, rand(1, 3, seed=1))
    loss.backward()
    assert loss.item() == 0
    assert not learner.grad.any()


def test_the_sources_sharp_similarities_stay_finite_in_float32():
    """Equal and opposite images at the paper's 0.01 differ by 200 in the exponent."""
    learner, source = torch.eye(4)[:3].requires_grad_(), torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    loss = build_loss("similarity")(learner, source)
    loss.backward()
    assert loss.isfinite()
    assert learner.grad.isfinite().all()
