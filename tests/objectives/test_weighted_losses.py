"""Weights of the classes in cross-entropy, and the focal loss, against torch, torchvision and their equations written out."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from mutual.objectives import build_loss

LABELS = torch.tensor([0, 1, 2, 3, 4, 1, 1, 2])
WEIGHTS = [0.5, 2.0, 0.0, 1.25, 3.0]


@pytest.fixture
def logits():
    return 2 * torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def mixed():
    return torch.rand(8, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(dim=1)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_weighted_cross_entropy_is_torchs_but_for_the_divisor(logits, mixed, label_smoothing):
    loss = build_loss("cross_entropy", class_weight=WEIGHTS, label_smoothing=label_smoothing)
    weight = torch.tensor(WEIGHTS, dtype=torch.float64)
    by_image = F.cross_entropy(logits, LABELS, weight=weight, label_smoothing=label_smoothing, reduction="none")
    torch.testing.assert_close(loss(logits, None, LABELS), by_image.mean())
    if not label_smoothing:
        torch_mean = F.cross_entropy(logits, LABELS, weight=weight)
        torch.testing.assert_close(loss(logits, None, LABELS) * len(LABELS) / weight[LABELS].sum(), torch_mean)
        torch.testing.assert_close(loss(logits, None, mixed), F.cross_entropy(logits, mixed, weight=weight))
    torch.testing.assert_close(loss(logits, None, F.one_hot(LABELS, 5).double()), loss(logits, None, LABELS))


def test_a_batch_may_be_cut_wherever_one_likes(logits):
    """Invariants 3 and 4; torch's mean is not the mean of the means of the parts."""
    for loss in (build_loss("cross_entropy", class_weight=WEIGHTS), build_loss("focal", alpha=WEIGHTS)):
        parts = [loss(logits[rows], None, LABELS[rows]) * len(LABELS[rows]) for rows in (slice(0, 3), slice(3, 4), slice(4, 8))]
        torch.testing.assert_close(sum(parts) / 8, loss(logits, None, LABELS))


def test_weights_of_one_are_none(logits, mixed):
    for labels in (LABELS, mixed):
        for name, key in (("cross_entropy", "class_weight"), ("focal", "alpha")):
            torch.testing.assert_close(build_loss(name, **{key: [1.0] * 5})(logits, None, labels), build_loss(name)(logits, None, labels))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.5])
@pytest.mark.parametrize("alpha", [None, WEIGHTS])
def test_focal_is_its_equation(logits, mixed, gamma, alpha):
    loss = build_loss("focal", gamma=gamma, alpha=alpha)
    p, weight = logits.softmax(dim=1), torch.tensor(alpha or [1.0] * 5, dtype=torch.float64)
    terms = -weight * (1 - p) ** gamma * p.log()
    torch.testing.assert_close(loss(logits, None, LABELS), terms[torch.arange(8), LABELS].mean())
    torch.testing.assert_close(loss(logits, None, mixed), (mixed * terms).sum(dim=1).mean())
    if gamma == 0:
        torch.testing.assert_close(loss(logits, None, LABELS), build_loss("cross_entropy", class_weight=alpha)(logits, None, LABELS))


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (2.0, None), (0.5, 0.9), (0.0, 0.25)])
def test_focal_of_each_class_is_torchvisions(logits, gamma, alpha):
    flags = (torch.rand(8, 5, generator=torch.Generator().manual_seed(2)) < 0.4).double()
    loss = build_loss("focal", form="sigmoid", gamma=gamma, alpha=alpha)
    expected = sigmoid_focal_loss(logits, flags, alpha=-1 if alpha is None else alpha, gamma=gamma, reduction="mean")
    torch.testing.assert_close(loss(logits, None, flags), expected)
    one_hot = F.one_hot(LABELS, 5).double()
    torch.testing.assert_close(loss(logits, None, LABELS), loss(logits, None, one_hot))
    if gamma == 0 and alpha is None:
        torch.testing.assert_close(expected, build_loss("bce")(logits, None, flags))


def test_focal_of_numbers_known_from_hand():
    """p = 3/4: -(1/4)^2 log(3/4); with a sigmoid, 3/4 is there and 1/4 is not."""
    logits = torch.tensor([[3.0, 1.0]]).log()
    assert build_loss("focal")(logits, None, torch.tensor([0])).item() == pytest.approx(0.0179801, rel=1e-5)
    logits = torch.tensor([[3.0, 1 / 3]]).log()
    assert build_loss("focal", form="sigmoid")(logits, None, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(0.0179801, rel=1e-5)


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 2.0])
def test_a_learner_that_is_sure_has_a_finite_gradient(form, gamma):
    logits = (100.0 * F.one_hot(LABELS, 5)).requires_grad_()
    wrong = (logits.detach().roll(1, dims=1)).requires_grad_()
    for each in (logits, wrong):
        loss = build_loss("focal", form=form, gamma=gamma)(each, None, LABELS)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(each.grad).all()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("cross_entropy", {"class_weight": "balanced"}, "class_weight: 'balanced' is for a recipe, whose data say how frequent"),
        ("focal", {"alpha": "balanced"}, "alpha: 'balanced' is for a recipe"),
        ("cross_entropy", {"class_weight": [1.0, -1.0]}, r"class_weight.*-1"),
        ("cross_entropy", {"class_weight": "balance"}, r"class_weight.*'balance'.*did you mean 'balanced'"),
        ("focal", {"gamma": -1.0}, r"gamma: -1.* must be at least 0"),
    ],
)
def test_wrong_weights_are_one_line(name, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_loss(name, **arguments)
    assert "\n" not in str(caught.value)


def test_a_class_that_is_there_weighs_the_more_the_fewer_images_have_it():
    """DeepMAR, eq. 4; the fractions are PaddleClas' label_ratio."""
    logits, flags = (
        torch.randn(6, 3, dtype=torch.float64),
        torch.tensor([[0.0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1], [0, 0, 1], [1, 0, 1]]),
    )
    fractions = [0.5, 0.1, 1.0]
    losses = F.binary_cross_entropy_with_logits(logits, flags.double(), reduction="none")
    weights = torch.where(flags == 1, 1 - torch.tensor(fractions), torch.tensor(fractions)).double().exp()
    torch.testing.assert_close(
        build_loss("bce", class_fraction=fractions)(logits, None, flags), (losses * weights).mean(), check_dtype=False
    )
    with pytest.raises(ValueError, match="class_fraction: 'data' is for a recipe"):
        build_loss("bce", class_fraction="data")
