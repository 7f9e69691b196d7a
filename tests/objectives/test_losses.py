"""Losses in closed form, their gradients, their precision, and what `build_loss` refuses."""

import doctest
import inspect
import re

import pytest
import torch
import torch.nn.functional as F

import mutual.objectives.registry
from mutual.objectives import LOSSES, Predictions, SourcePayload, build_loss, distances, pairwise_kl
from mutual.objectives.adapters import SafeBatchNorm1d, SafeBatchNorm2d
from mutual.objectives.registry import merge_tables
from mutual.recipe import OBJECTIVES

WITH_SOURCE = [name for name, spec in LOSSES.items() if spec.reads_source]


def example(name, dtype=torch.float64):
    """A loss at work on six images of five classes: `(loss, learner, source, labels)`."""
    generator = torch.Generator().manual_seed(0)

    def outputs(*shapes):
        return [torch.randn(6, *shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]

    maps = {"at": [(3, 4, 4), (2, 2, 2)], "hint": [(3, 4, 4), (2, 2, 2)], "mgd": [(3, 4, 4), (2, 4, 4)]}
    vectors = {"pefd": [(7,), (4,)], "crd": [(7,), (4,)], "mcl": [(7,), (4,)], "similarity": [(7,), (4,)]}
    lists = {
        "ofd": ([(3, 4, 4), (4, 2, 2)], [(2, 4, 4), (5, 2, 2)]),
        "afd": ([(3, 4, 4), (4, 2, 2)], [(2, 4, 4), (5, 4, 4), (3, 2, 2)]),
        "okddip": ([(5,), (7,)], [(5,), (4,), (5,), (3,)]),
    }
    if name in lists:
        learner, source = (outputs(*shapes) for shapes in lists[name])
    else:
        learner, source = outputs(*{**maps, **vectors}.get(name, [(5,), (5,)]))
    shapes = [[tuple(each.shape[1:]) for each in end] if name in lists else tuple(end.shape[1:]) for end in (learner, source)]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        loss = build_loss(name, learner_shape=shapes[0], source_shape=shapes[1])
    labels = torch.arange(6) % 5
    if name == "bce":
        labels = F.one_hot(labels, 5).to(dtype)
    return loss.to(torch.promote_types(dtype, torch.float32)), learner, source, labels


def mapped(function, output):
    return [function(each) for each in output] if isinstance(output, list) else function(output)


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)


def test_kd_is_the_kl_divergence_of_softened_probabilities(logits):
    learner, source = logits
    p, q = F.softmax(source / 4, dim=1), F.softmax(learner / 4, dim=1)
    expected = 16 * (p * (p / q).log()).sum(dim=1).mean()
    torch.testing.assert_close(build_loss("kd", temperature=4)(learner, source), expected)


def test_soft_label_differs_from_kd_by_a_constant(logits):
    learner, source = logits[0].clone().requires_grad_(), logits[1]
    (soft,) = torch.autograd.grad(build_loss("soft_label", temperature=3)(learner, source), learner)
    (kd,) = torch.autograd.grad(build_loss("kd", temperature=3)(learner, source), learner)
    torch.testing.assert_close(soft, kd)


def test_dml_js_is_half_the_sum_of_both_kl_divergences(logits):
    a, b = logits
    kl = build_loss("dml", form="kl", temperature=2)
    torch.testing.assert_close(build_loss("dml", temperature=2)(a, b), (kl(a, b) + kl(b, a)) / 2)


def test_standardized_kd_ignores_shift_and_scale(logits):
    learner, source = logits
    loss = build_loss("kd", standardize=True)
    torch.testing.assert_close(loss(3 * learner + 1, source), loss(learner, 2 * source - 5), rtol=1e-6, atol=1e-6)
    assert loss(4 * source + 2, source).item() == pytest.approx(0, abs=1e-6)


def test_dkd_with_equal_shares_is_kd(logits):
    """Eq. 6 of the paper: KL = TCKD + (1 - p_label) NCKD, image by image."""
    learner, source = (part[:1] for part in logits)
    labels = torch.tensor([2])
    other = 1 - F.softmax(source, dim=1)[0, 2].item()
    decoupled = build_loss("dkd", temperature=1, alpha=1, beta=other)(learner, source, labels)
    torch.testing.assert_close(decoupled, build_loss("kd", temperature=1)(learner, source))


def test_wsl_gives_no_weight_where_the_learner_is_sure_and_right(logits):
    labels = torch.arange(6) % 5
    sure = 50.0 * F.one_hot(labels, 5).double()
    assert build_loss("wsl")(sure, logits[1], labels).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["rkd_distance", "rkd_angle"])
def test_relations_ignore_turns_scale_and_width(name):
    rows = torch.randn(5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(4), dtype=torch.float64)).Q[:4]
    assert build_loss(name)(rows, 3 * rows @ turn).item() == pytest.approx(0, abs=1e-9)


def test_temperature_squared_keeps_the_size_of_the_gradient(logits):
    learner, source = (logits / 100).clone()
    norms = []
    for temperature in (1.0, 4.0):
        leaf = learner.clone().requires_grad_()
        build_loss("dml", temperature=temperature)(leaf, source).backward()
        norms.append(leaf.grad.norm())
    assert norms[1] / norms[0] == pytest.approx(1, rel=0.02)


def test_cosine_ignores_the_size_of_features():
    feature = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    assert build_loss("cosine")(feature, 5 * feature).item() == pytest.approx(0, abs=1e-6)
    assert build_loss("cosine")(feature, -feature).item() == pytest.approx(2)


def test_cross_entropy_takes_mixed_labels(logits):
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    loss = build_loss("cross_entropy")
    torch.testing.assert_close(loss(logits[0], None, labels), loss(logits[0], None, F.one_hot(labels, 5).double()))


@pytest.mark.parametrize("name", WITH_SOURCE)
def test_source_receives_no_gradient(name):
    loss, learner, source, labels = example(name)
    learner, source = (mapped(lambda each: each.requires_grad_(), end) for end in (learner, source))
    loss(learner, source, labels).backward()
    assert all(each.grad is None for each in (source if isinstance(source, list) else [source]))
    assert (learner[0] if isinstance(learner, list) else learner).grad.abs().sum() > 0


@pytest.mark.parametrize("name", [name for name, spec in LOSSES.items() if spec.has_adapter])
def test_every_weight_of_an_adapter_is_trained(name):
    """A parameter without a gradient would make the processes wait for each other for ever."""
    loss, learner, source, labels = example(name)
    loss(learner, source, labels).backward()
    assert all(parameter.grad is not None for parameter in loss.parameters())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_compute_in_float32_under_autocast(name, dtype):
    """Invariant 9: the same half-precision inputs give the float32 loss, whatever autocast says; trainable parts run in it."""
    loss, learner, source, labels = example(name, dtype)
    parts = [module for module in loss.modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)]
    ran_in = []
    for part in parts:
        part.register_forward_hook(lambda _, inputs, output: ran_in.append(output.dtype))
    torch.manual_seed(0)
    exact = loss(mapped(torch.Tensor.float, learner), mapped(torch.Tensor.float, source), labels)
    torch.manual_seed(0)
    ran_in.clear()
    with torch.autocast("cpu", dtype=dtype):
        found = loss(learner, source, labels)
    assert found.dtype == torch.float32
    if parts:
        assert set(ran_in) == {dtype}
        torch.testing.assert_close(found, exact, rtol=0.05, atol=0.01)
    else:
        assert torch.equal(found, exact)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("wsl", "okddip")])  # whose weights stop gradients, by design
def test_gradients_are_those_of_the_function(name):
    loss, learner, source, labels = example(name)
    inputs = learner if isinstance(learner, list) else [learner]

    def function(*parts):
        torch.manual_seed(0)
        return loss(list(parts) if isinstance(learner, list) else parts[0], source, labels)

    assert torch.autograd.gradcheck(function, [each.detach().requires_grad_() for each in inputs])


def test_pairwise_kl_is_the_matrix_of_all_ordered_pairs(logits):
    log_p = F.log_softmax(logits, dim=2)
    expected = F.kl_div(log_p[1], log_p[0], reduction="batchmean", log_target=True)
    found = pairwise_kl(logits)
    torch.testing.assert_close(found[0, 1], expected)
    torch.testing.assert_close(found.diagonal(), torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_sections_say_which_losses_need_one_class_an_image(name):
    """A softmax does not see what is added to all logits of an image; class indices cannot say several labels."""
    section = OBJECTIVES[name]
    loss, learner, source, labels = example(name)
    shift = torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None]
    logits = learner[0] if isinstance(learner, list) else learner
    shifted = False
    if logits.dim() == 2:
        moved = [logits + shift, *learner[1:]] if isinstance(learner, list) else logits + shift
        torch.manual_seed(0)
        before = loss(learner, source, labels)
        torch.manual_seed(0)
        shifted = torch.allclose(before, loss(moved, source, labels), rtol=1e-6, atol=1e-12)
    if name in ("dml", "focal"):  # only with `form: sigmoid` for several labels, which the check of a recipe knows
        assert shifted
        assert section.label_type == "any"
    elif shifted or "classes" in LOSSES[name].inputs:
        assert section.label_type == "single"
    else:
        assert section.label_type == ("any" if LOSSES[name].reads_source else "multi")


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_called_with_what_its_parameters_say(name):
    spec = LOSSES[name]
    function = spec.function.forward if spec.has_adapter else spec.function
    parameters = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is not parameter.KEYWORD_ONLY and parameter.name != "self"
    ]
    assert [re.sub("_[A-Z0-9]+$", "", parameter) for parameter in parameters] == list(spec.inputs)


def test_two_losses_of_one_name_are_refused():
    with pytest.raises(AssertionError, match="two losses are called 'kd'"):
        merge_tables(LOSSES, {"kd": LOSSES["dml"]})


def test_the_examples_of_build_loss_hold():
    assert doctest.testmod(mutual.objectives.registry).failed == 0


def test_recipe_and_registry_know_the_same_losses_arguments_and_defaults():
    assert set(OBJECTIVES) == set(LOSSES)
    for name, spec in LOSSES.items():
        parameters = inspect.signature(spec.function).parameters.values()
        defaults = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY and each.name != "margins"}
        assert example(name)[0].arguments == defaults, name


@pytest.mark.parametrize("name", [name for name, spec in LOSSES.items() if spec.payload is SourcePayload.WHOLE and not spec.has_adapter])
def test_a_loss_without_arguments_is_its_function(name):
    loss, learner, source, labels = example(name)
    spec = LOSSES[name]
    values = {"learner": learner, "source": source, "labels": labels, "classes": labels, "mask": None}
    if spec.on_logits:
        values |= {end: Predictions(values[end]) for end in ("learner", "source") if values[end] is not None}
    assert torch.equal(loss(learner, source, labels), spec.function(*(values[name] for name in spec.inputs)).mean())


@pytest.mark.parametrize("name", LOSSES)
def test_images_that_do_not_count_change_nothing(name):
    """A mask gives what the images that it selects give alone, times their share; with none it is 0, and every parameter has a gradient."""
    loss, learner, source, labels = example(name)
    if any(isinstance(module, SafeBatchNorm1d | SafeBatchNorm2d) for module in loss.modules()):
        loss.eval()  # the statistics are those of all images
    mask = torch.arange(len(learner[0] if isinstance(learner, list) else learner)) % 3 != 1
    torch.manual_seed(0)
    found = loss(learner, source, labels, mask=mask)
    if not LOSSES[name].is_stochastic:
        chosen = [None if each is None else mapped(lambda rows: rows[mask], each) for each in (learner, source, labels)]
        torch.testing.assert_close(found, loss(*chosen) * mask.double().mean())
    learner = mapped(lambda each: each.requires_grad_(), learner)
    nothing = loss(learner, source, labels, mask=torch.zeros_like(mask))
    assert nothing == 0
    nothing.backward()
    gradients = [parameter.grad for parameter in loss.parameters()]
    gradients += [each.grad for each in (learner if isinstance(learner, list) else [learner]) if each.grad is not None]
    assert gradients
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_measured_distances_are_taken_for_what_they_are(logits):
    learner, source = logits
    loss = build_loss("rkd_distance")
    assert torch.equal(loss(learner, distances(source), source_is_distances=True), loss(learner, source))


def test_shapes_are_compared_where_both_are_reported():
    """A list is as good as a tuple, also of several outputs; an output without dimensions has the shape ()."""
    build_loss("kd", learner_shape=(5,))
    build_loss("kd", source_shape=(5,))
    build_loss("kd", learner_shape=[5], source_shape=(5,))
    build_loss("l2", learner_shape=(), source_shape=())
    build_loss("ofd", learner_shape=[[3, 4, 4]], source_shape=[(3, 4, 4)])
    for shapes in ({"learner_shape": (5,)}, {"source_shape": (5,)}):
        with pytest.raises(ValueError, match="give learner_shape and source_shape"):
            build_loss("hint", **shapes)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("dlm", {}, "'dlm' is no loss; did you mean 'dml'"),
        ("kd", {"temprature": 2}, "temprature.*did you mean 'temperature'"),
        ("kd", {"temperature": -1}, "temperature.*-1"),
        ("kd", {"learner_shape": (5,), "source_shape": (6,)}, "needs equal shapes.*hint"),
        ("hint", {}, "hint has a trainable part: give learner_shape and source_shape"),
        ("hint", {"learner_shape": (5,), "source_shape": (6, 2, 2)}, "cannot be joined by a regressor"),
        ("mgd", {"learner_shape": (5,), "source_shape": (6, 2, 2)}, r"needs feature maps \[C, H, W\]"),
        ("mgd", {"learner_shape": (5, 4, 4), "source_shape": (6, 2, 2)}, "needs equal heights and widths"),
        ("hint", {"learner_shape": (6,), "source_shape": (6, 5)}, "cannot be joined by a regressor"),
        ("ofd", {"learner_shape": [(5, 4, 4)], "source_shape": [(6,)]}, r"needs feature maps \[C, H, W\]"),
        ("ofd", {"learner_shape": [(5, 4, 4)], "source_shape": [(6, 4, 2)]}, "needs layers that agree in height and width"),
        ("afd", {"learner_shape": [(5, 4, 4)], "source_shape": [(6,)]}, r"needs feature maps \[C, H, W\]"),
    ],
)
def test_wrong_arguments_are_one_line(name, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_loss(name, **arguments)
    assert "\n" not in str(caught.value)
