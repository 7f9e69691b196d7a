"""Losses with a trainable part against their papers' equations, written out in float64."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
import torchvision

from mutual.objectives import build_loss
from mutual.objectives.adapters import SafeBatchNorm1d, SafeBatchNorm2d, margin_of_normal, margins_of, partial_l2


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trained(name, learner, source, **arguments):
    shapes = [[each.shape[1:] for each in end] if isinstance(end, list) else end.shape[1:] for end in (learner, source)]
    return build_loss(name, learner_shape=shapes[0], source_shape=shapes[1], **arguments).double()


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_hint_regresses_feature_maps_by_a_convolution(kernel_size):
    learner, source = rand(2, 3, 4, 4), rand(2, 5, 4, 4, seed=1)
    loss = trained("hint", learner, source, kernel_size=kernel_size)
    regressor = loss.adapter.regressor
    assert regressor.weight.shape == (5, 3, kernel_size, kernel_size)
    expected = F.mse_loss(F.conv2d(learner, regressor.weight, regressor.bias, padding=kernel_size // 2), source)
    torch.testing.assert_close(loss(learner, source), expected)


@pytest.mark.parametrize(
    ("learner", "source"),
    [
        ((3, 8, 8), (5, 4, 4)),
        ((3, 4, 4), (5, 8, 8)),
        ((7,), (5,)),
        ((3, 4, 4), (5,)),
        ((6, 7), (5,)),
        ((6, 7), (6, 5)),
        ((2, 3, 4, 7), (2, 3, 4, 5)),
    ],
)
def test_hint_joins_whatever_shapes_can_meet(learner, source):
    learner, source = rand(2, *learner), rand(2, *source, seed=1)
    assert trained("hint", learner, source)(learner, source).isfinite()


def test_pefd_ignores_the_size_of_the_sources_vector():
    learner, source = rand(4, 6), rand(4, 5, seed=1)
    loss = trained("pefd", learner, source)
    torch.testing.assert_close(loss(learner, source), loss(learner, 7 * source))
    assert len(loss.adapter.projectors) == 3


def test_mgd_masks_whole_channels_of_an_image():
    learner, source = rand(2, 4, 3, 3), rand(2, 4, 3, 3, seed=1)
    nothing = trained("mgd", learner, source, lambda_mgd=1.0)
    expected = 1.756 * F.mse_loss(nothing.adapter.generation(torch.zeros_like(learner)), source)
    torch.testing.assert_close(nothing(learner, source), expected)
    everything = trained("mgd", learner, source, lambda_mgd=0.0)
    torch.testing.assert_close(everything(learner, source), 1.756 * F.mse_loss(everything.adapter.generation(learner), source))


def test_mgd_without_masks_keeps_a_channel_whatever_is_drawn(monkeypatch):
    learner, source = rand(2, 4, 3, 3), rand(2, 4, 3, 3, seed=1)
    loss = trained("mgd", learner, source, lambda_mgd=0.0)
    monkeypatch.setattr(torch, "rand", lambda *shape, device: torch.zeros(shape))
    torch.testing.assert_close(loss(learner, source), 1.756 * F.mse_loss(loss.adapter.generation(learner), source))


def test_the_margin_is_the_mean_of_a_channels_negative_part():
    """E[x | x < 0] of a normal distribution, here summed numerically."""
    grid = torch.linspace(-30, 0, 2_000_001, dtype=torch.float64)
    for mean, deviation in ((0.0, 1.0), (1.5, 0.7), (-2.0, 1.1), (3.0, 0.9), (10.0, 1.0)):
        density = torch.exp((mean**2 - (grid - mean) ** 2) / deviation**2 / 2)
        assert margin_of_normal(mean, deviation) == pytest.approx(((grid * density).sum() / density.sum()).item(), rel=1e-4)
    assert margin_of_normal(40.0, 1.0) < 0  # where nothing is negative the limit holds


def test_the_margin_of_a_channel_that_hardly_varies_is_finite():
    """A BatchNorm's weight may be 0 or next to it; the mean of the negative part is then the mean itself, or next to 0."""
    assert margin_of_normal(-1.5, 0.0) == -1.5
    assert margin_of_normal(0.0, 0.0) == 0
    for deviation in (0.0, 1e-9, 9.99e-4, 1.001e-3):
        assert margin_of_normal(1.0, deviation) == pytest.approx(-(deviation**2), rel=1e-3)
    assert margin_of_normal(2.0, 1e-3) == pytest.approx(-5e-7)
    assert margin_of_normal(1e-9, 1e-3) == pytest.approx(margin_of_normal(0.0, 1e-3), rel=1e-5)


def test_the_margin_is_read_from_the_batchnorm_before_the_tap():
    model = torchvision.models.resnet18(num_classes=4)
    torch.nn.init.constant_(model.layer1[1].bn2.weight, 2.0)
    torch.nn.init.constant_(model.layer1[1].bn2.bias, -1.0)
    for path in ("layer1", "layer1.1", "layer1.1.bn2", "layer1.1.relu:input"):
        (margin,) = margins_of(model, [path])["margins"]
        torch.testing.assert_close(margin, torch.full((64,), margin_of_normal(-1.0, 2.0)))
    with pytest.raises(ValueError, match=r"BatchNorm, and there is none at '0'"):
        margins_of(torch.nn.Sequential(torch.nn.Linear(2, 2)), ["0"])


def test_the_margin_is_read_from_a_batchnorm_with_weights_of_either_sign():
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3, affine=False))
    torch.nn.init.constant_(model[0].weight, -2.0)
    (margin,) = margins_of(torch.nn.Sequential(model), ["0"])["margins"]
    torch.testing.assert_close(margin, torch.full((3,), margin_of_normal(0.0, 2.0)))


@pytest.mark.parametrize(("norm", "shape"), [(SafeBatchNorm1d, (1, 3)), (SafeBatchNorm2d, (1, 3, 1, 1))])
def test_a_lone_value_is_normalised_by_the_running_statistics(norm, shape):
    layer = norm(3, eps=0.5)
    layer(4 + 3 * torch.randn(8, *shape[1:], generator=torch.Generator().manual_seed(0)))
    statistics = layer.running_mean.clone(), layer.running_var.clone()
    row = torch.tensor([1.0, -2.0, 3.0]).view(shape)
    found = layer(row)
    torch.testing.assert_close(found.flatten(), (row.flatten() - statistics[0]) / (statistics[1] + 0.5).sqrt())
    assert torch.equal(layer.running_mean, statistics[0]), "it has no statistics of its own to add"


def test_partial_l2_counts_nothing_where_the_learner_is_below_a_source_that_is_not_positive():
    learner = torch.tensor([[-2.0, 0.5, 1.0, -1.0]])
    target = torch.tensor([[-1.0, -1.0, 3.0, 2.0]])
    assert partial_l2(learner, target) == 1.5**2 + 2**2 + 3**2
    assert partial_l2(torch.tensor([[-1.0]]), torch.tensor([[0.0]])) == 0
    assert partial_l2(torch.tensor([[-0.5]]), torch.tensor([[0.5]])) == 1
    assert partial_l2(learner.repeat(2, 1), target.repeat(2, 1)).tolist() == 2 * partial_l2(learner, target).tolist(), "image by image"


def test_ofd_without_a_model_takes_the_margin_of_the_standard_normal():
    loss = build_loss("ofd", learner_shape=[(3, 4, 4)], source_shape=[(5, 4, 4)])
    torch.testing.assert_close(loss.adapter.margin0, torch.full((5,), -math.sqrt(2 / math.pi)))
    assert loss.adapter.adapters[0][0].bias is None, "the BatchNorm has one"
    with pytest.raises(ValueError, match="BatchNorm has 2 channels where the layer has 5"):
        build_loss("ofd", learner_shape=[(3, 4, 4)], source_shape=[(5, 4, 4)], from_model={"margins": [torch.zeros(2)]})


def test_ofd_halves_from_layer_to_layer():
    learner, source = [rand(2, 3, 4, 4), rand(2, 3, 2, 2, seed=1)], [rand(2, 5, 4, 4, seed=2), rand(2, 4, 2, 2, seed=3)]
    margins = [torch.full((5,), -0.3), torch.full((4,), -0.7)]
    loss = build_loss("ofd", learner_shape=[(3, 4, 4), (3, 2, 2)], source_shape=[(5, 4, 4), (4, 2, 2)], from_model={"margins": margins})
    loss.double()
    parts = [
        partial_l2(adapter(learner_x), torch.maximum(source_x, margin.double()[:, None, None]))
        for adapter, learner_x, source_x, margin in zip(loss.adapter.adapters, learner, source, margins, strict=True)
    ]
    torch.testing.assert_close(loss(learner, source), (parts[0] / 2 + parts[1]).mean())


def test_attention_transfer_is_the_distance_of_normalised_maps():
    learner, source = rand(2, 3, 4, 4), rand(2, 5, 4, 4, seed=1)
    maps = [each.pow(2).mean(dim=1).flatten(1) for each in (learner, source)]
    expected = (maps[0] / maps[0].norm(dim=1, keepdim=True) - maps[1] / maps[1].norm(dim=1, keepdim=True)).pow(2).mean()
    torch.testing.assert_close(build_loss("at")(learner, source), expected)
    torch.testing.assert_close(build_loss("at")(learner, 3 * learner), torch.zeros((), dtype=torch.float64))
    assert build_loss("at")(rand(2, 3, 8, 8), source).isfinite()


def embeddings(loss, learner, source):
    heads = loss.adapter.heads
    return F.normalize(heads.learner(learner), dim=1), F.normalize(heads.source(source), dim=1)


def test_crd_tells_an_image_from_those_of_other_classes():
    learner, source, labels = rand(4, 6), rand(4, 5, seed=1), torch.tensor([0, 1, 0, 2])
    loss = trained("crd", learner, source, temperature=0.5)
    learner_x, source_x = embeddings(loss, learner, source)
    terms = []
    for i in range(4):
        similarity = torch.exp(learner_x[i] @ source_x.T / 0.5)
        against = sum(similarity[j] for j in range(4) if labels[j] != labels[i])
        terms.append(-torch.log(similarity[i] / (similarity[i] + against)))
    torch.testing.assert_close(loss(learner, source, labels), torch.stack(terms).mean())


def test_mcl_is_contrast_and_mimicry():
    learner, source, labels = rand(4, 6), rand(4, 5, seed=1), torch.tensor([0, 1, 0, 2])
    loss = trained("mcl", learner, source, temperature=0.5)
    learner_x, source_x = embeddings(loss, learner, source)
    terms = []
    for i in range(4):
        log = torch.log_softmax(learner_x[i] @ source_x.T / 0.5, dim=0)
        contrast = -torch.stack([log[j] for j in range(4) if labels[j] == labels[i]]).mean()
        others = [j for j in range(4) if j != i]
        p, q = (torch.softmax(torch.stack([anchor @ source_x[j] / 0.5 for j in others]), dim=0) for anchor in (source_x[i], learner_x[i]))
        terms.append(contrast + (p * (p / q).log()).sum())
    torch.testing.assert_close(loss(learner, source, labels), torch.stack(terms).mean())


def test_mcl_of_a_single_image_is_finite():
    """There is no other image whose place could be mimicked."""
    loss = trained("mcl", rand(1, 6), rand(1, 5, seed=1))
    assert loss(rand(1, 6), rand(1, 5, seed=1), torch.tensor([0])).item() == pytest.approx(0, abs=1e-12)


def test_mimicry_does_not_train_the_sources_head():
    """In the closed form with what is mimicked detached, every head gets the same gradient."""
    learner, source, labels = rand(4, 6), rand(4, 5, seed=1), torch.tensor([0, 1, 0, 2])
    loss = trained("mcl", learner, source)
    mine, theirs = embeddings(loss, learner, source)
    similarity, mimicked = mine @ theirs.T / 0.1, (theirs @ theirs.T / 0.1).detach()
    same = (labels[:, None] == labels[None, :]).double()
    contrast = -(similarity.log_softmax(dim=1) * same).sum(dim=1) / same.sum(dim=1)
    others = ~torch.eye(4, dtype=torch.bool)
    p, q = (each[others].view(4, 3).softmax(dim=1) for each in (mimicked, similarity))
    expected = (contrast + (p * (p / q).log()).sum(dim=1)).mean()
    parameters = list(loss.parameters())
    for found, gradient in zip(*(torch.autograd.grad(each, parameters) for each in (loss(learner, source, labels), expected)), strict=True):
        torch.testing.assert_close(found, gradient)


@pytest.mark.parametrize("name", ["crd", "mcl"])
def test_contrast_reads_the_class_of_soft_labels(name):
    learner, source, labels = rand(4, 6), rand(4, 5, seed=1), torch.tensor([0, 1, 0, 2])
    loss = trained(name, learner, source)
    torch.testing.assert_close(loss(learner, source, F.one_hot(labels, 3).double()), loss(learner, source, labels))


@pytest.mark.parametrize("name", ["crd", "mcl"])
def test_contrast_over_gathered_images_is_contrast_over_one_batch(name):
    learner, source, labels = rand(4, 6), rand(4, 5, seed=1), torch.tensor([0, 1, 0, 2])
    loss = trained(name, learner, source)
    halves = [loss(learner[:1], source, labels, row_offset=0), loss(learner[1:], source, labels, row_offset=1)]
    torch.testing.assert_close((halves[0] + 3 * halves[1]) / 4, loss(learner, source, labels))


def crd_with_selected_rows(loss, learner, source, labels, row_offset):
    similarity, same_image = similarity_and_same_image(loss, learner, source, row_offset, 0.07)
    same_class = labels[row_offset : row_offset + len(learner), None] == labels[None]
    return -similarity.masked_fill(same_class & ~same_image, -torch.inf).log_softmax(dim=1)[same_image].mean()


def mcl_with_selected_rows(loss, learner, source, labels, row_offset):
    similarity, same_image = similarity_and_same_image(loss, learner, source, row_offset, 0.1)
    theirs = embeddings(loss, learner, source)[1]
    own = slice(row_offset, row_offset + len(learner))
    positive = labels[own, None] == labels[None]
    contrast = -((similarity.log_softmax(dim=1) * positive).sum(dim=1) / positive.sum(dim=1)).mean()
    mimicked = (theirs[own] @ theirs.T / 0.1).detach()
    q, p = (each[~same_image].view(len(learner), -1).log_softmax(dim=1) for each in (similarity, mimicked))
    return contrast + F.kl_div(q, p, reduction="batchmean", log_target=True)


def similarity_and_same_image(loss, learner, source, row_offset, temperature):
    mine, theirs = embeddings(loss, learner, source)
    same_image = torch.arange(len(source)) == row_offset + torch.arange(len(learner))[:, None]
    return mine @ theirs.T / temperature, same_image


@pytest.mark.parametrize(("name", "reference"), [("crd", crd_with_selected_rows), ("mcl", mcl_with_selected_rows)])
@pytest.mark.parametrize(("num_rows", "row_offset"), [(6, 0), (2, 3), (1, 5)])
def test_contrast_in_fixed_shapes_equals_that_of_selected_elements(name, reference, num_rows, row_offset):
    learner, source, labels = rand(num_rows, 6).requires_grad_(), rand(6, 5, seed=1), torch.tensor([0, 1, 0, 2, 2, 2])
    loss = trained(name, learner, source)
    results = [loss(learner, source, labels, row_offset=row_offset), reference(loss, learner, source, labels, row_offset)]
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
    inputs = [learner, *loss.parameters()]
    for actual, expected in zip(*(torch.autograd.grad(each, inputs) for each in results), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("own", [False, True])
def test_okddip_without_attention_is_kd_from_the_mean_prediction(own):
    logits = [rand(4, 5, seed=seed) for seed in range(3)]
    embedding = [rand(4, 6 + seed, seed=10 + seed) for seed in range(3)]
    learner, source = [logits[0], embedding[0]], [logits[1], embedding[1], logits[2], embedding[2]]
    loss = trained("okddip", learner, source, temperature=3.0, own=own)
    torch.nn.init.zeros_(loss.adapter.query.weight)
    mixture = torch.stack([F.softmax(each / 3, dim=1) for each in logits[0 if own else 1 :]]).mean(dim=0)
    expected = 9 * F.kl_div(F.log_softmax(logits[0] / 3, dim=1), mixture, reduction="batchmean")
    torch.testing.assert_close(loss(learner, source), expected)


def test_okddip_trains_its_attention_through_the_mixture():
    learner = [rand(4, 5).requires_grad_(), rand(4, 6).requires_grad_()]
    source = [rand(4, 5, seed=1), rand(4, 3, seed=2), rand(4, 5, seed=3), rand(4, 3, seed=4)]
    loss = trained("okddip", learner, source)
    loss(learner, source).backward()
    assert loss.adapter.query.weight.grad.abs().sum() > 0
    assert learner[1].grad is None
    assert [name for name, _ in loss.adapter.named_parameters()] == ["query.weight", "key.0.weight", "key.1.weight"], "no biases"


def test_okddip_reads_the_projections_of_older_checkpoints():
    shapes = [(5,), (6,)]
    old, new = (build_loss("okddip", learner_shape=shapes, source_shape=shapes) for _ in range(2))
    former = {"query": "ask", "key": "answer"}
    state = {re.sub("query|key", lambda name: former[name[0]], key): value for key, value in old.state_dict().items()}
    assert list(state) == ["adapter.ask.weight", "adapter.answer.0.weight"]
    new.load_state_dict(state)
    assert all(torch.equal(value, new.state_dict()[key]) for key, value in old.state_dict().items())


def test_ssld_is_the_jensen_shannon_divergence():
    learner, source = rand(4, 5), rand(4, 5, seed=1)
    p, q = F.softmax(learner, dim=1), F.softmax(source, dim=1)
    middle = (p + q) / 2
    expected = ((p * (p / middle).log()).sum(1) + (q * (q / middle).log()).sum(1)).mean() / 2
    loss = build_loss("ssld")
    torch.testing.assert_close(loss(learner, source), expected)
    torch.testing.assert_close(loss(source, learner), expected)
    opposite = 50.0 * F.one_hot(torch.arange(4) % 2, 5).double()
    assert loss(opposite, opposite.roll(1, dims=1)).item() == pytest.approx(math.log(2))


def test_skd_reads_directions_only():
    learner, source, labels = rand(4, 5), rand(4, 5, seed=1), torch.arange(4)
    loss = build_loss("skd")
    torch.testing.assert_close(loss(3 * learner + 1, 2 * source, labels), loss(learner, source, labels), rtol=1e-6, atol=1e-6)
    unit = (learner - learner.mean(1, keepdim=True)) / learner.std(1, keepdim=True, correction=0)
    torch.testing.assert_close(
        build_loss("skd", alpha=0.0)(learner, source, labels), F.cross_entropy(2 * unit, labels), rtol=1e-6, atol=1e-6
    )


def test_sigmoid_dml_is_half_of_both_bernoulli_divergences_of_every_class():
    learner, source = rand(4, 5), rand(4, 5, seed=1)
    p, q = torch.sigmoid(learner), torch.sigmoid(source)
    kl = [a * (a / b).log() + (1 - a) * ((1 - a) / (1 - b)).log() for a, b in ((p, q), (q, p))]
    torch.testing.assert_close(build_loss("dml", form="sigmoid")(learner, source), (kl[0] + kl[1]).sum(dim=1).mean() / 2)


def test_the_mean_reduction_divides_by_the_classes_too():
    learner, source = rand(4, 5), rand(4, 5, seed=1)
    whole, split_launch = (build_loss("kd", reduction=reduction)(learner, source) for reduction in ("batchmean", "mean"))
    torch.testing.assert_close(split_launch, whole / 5)
