"""What a store keeps of an image, and what comes back: against the formula written out."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mutual.engine.teacher_store.layout import FeatureLayout, RecordLayout
from mutual.objectives import build_loss

FLOAT = {"logits": torch.float32}


def logits(*shape, scale=4.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0, 8.0])
def test_the_largest_probabilities_are_kept_and_the_others_share_the_rest_evenly(temperature):
    """Softened by the temperature of the loss, whichever of those it is that a record knows."""
    layout = RecordLayout(num_classes=7, topk=3, features={}, dtypes=FLOAT, temperature=temperature)
    source = logits(5, 7)
    found = (layout.decode(layout.encode({"logits": source}))["logits"] / temperature).softmax(dim=1)
    for row, probabilities in zip(found, (source / temperature).softmax(dim=1), strict=True):
        kept = sorted(range(7), key=lambda index: -probabilities[index])[:3]
        rest = 1 - sum(float(probabilities[index]) for index in kept)
        expected = [float(probabilities[index]) if index in kept else rest / 4 for index in range(7)]
        torch.testing.assert_close(row, torch.tensor(expected), rtol=4e-3, atol=1e-5)


@pytest.mark.parametrize(("temperature", "tolerance"), [(1.0, 2e-3), (1.5, 3e-2), (3.0, 2e-2), (5.0, 2e-2), (16.0, 5e-3), (1000.0, 2e-3)])
def test_between_those_temperatures_the_sum_of_the_others_is_nearly_right(temperature, tolerance):
    source = logits(200, 100)
    layout = RecordLayout(100, 5, {}, FLOAT, temperature)
    found = (layout.decode(layout.encode({"logits": source}))["logits"] / temperature).softmax(dim=1)
    expected, classes = (source / temperature).softmax(dim=1), source.topk(5).indices
    torch.testing.assert_close(found.gather(1, classes).sum(1), expected.gather(1, classes).sum(1), rtol=0, atol=tolerance)


def test_below_1_the_others_are_as_at_1():
    source = logits(20, 30)
    record = RecordLayout(30, 4, {}, FLOAT).encode({"logits": source})
    cold, plain = (RecordLayout(30, 4, {}, FLOAT, temperature).decode(record)["logits"] for temperature in (0.5, 1.0))
    assert torch.equal(cold, plain)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_of_kd_is_exact_for_the_kept_classes_and_in_sum_for_the_others(temperature):
    layout = RecordLayout(num_classes=50, topk=10, features={}, dtypes=FLOAT, temperature=temperature)
    source, learner = logits(4, 50), logits(4, 50, scale=1.0).flip(0).requires_grad_()
    read = layout.decode(layout.encode({"logits": source}))["logits"]
    kd = build_loss("kd", temperature=temperature)
    gradients = [torch.autograd.grad(kd(learner, target), learner)[0] for target in (source, read)]
    classes = source.topk(10).indices
    torch.testing.assert_close(gradients[1].gather(1, classes), gradients[0].gather(1, classes), rtol=0, atol=2e-3)
    others = [gradient.scatter(1, classes, 0.0).sum(1) for gradient in gradients]
    torch.testing.assert_close(others[1], others[0], rtol=0, atol=2e-3)


@pytest.mark.parametrize("topk", [4, 9])
def test_with_all_classes_the_logits_come_back_but_for_float16(topk):
    layout = RecordLayout(num_classes=4, topk=topk, features={}, dtypes=FLOAT)
    source = logits(64, 4) + 100
    found = layout.decode(layout.encode({"logits": source}))["logits"]
    bound = source.log_softmax(dim=1).abs() * 2**-11 + 2e-5  # float32's own rounding of numbers next to 100
    assert bool(((found - source).abs() <= bound).all())


def test_what_is_read_stays_the_same_when_it_is_kept_again():
    layout = RecordLayout(num_classes=30, topk=30, features={}, dtypes=FLOAT)
    once = layout.encode({"logits": logits(8, 30)})
    assert torch.equal(layout.decode(once)["logits"], layout.decode(once.clone())["logits"])


@pytest.mark.parametrize(("num_classes", "bytes_of_class"), [(256, 1), (257, 2), (2**15, 2), (2**15 + 1, 4)])
def test_classes_take_as_few_bytes_as_they_can(num_classes, bytes_of_class):
    layout = RecordLayout(num_classes, 3, {}, FLOAT)
    source = torch.zeros(1, num_classes)
    source[0, [num_classes - 1, 0, num_classes // 2]] = torch.tensor([9.0, 8.0, 7.0])
    record = layout.encode({"logits": source})
    assert record.shape == (1, layout.num_bytes) == (1, 4 + 10 + 3 * (2 + bytes_of_class))
    assert layout.decode(record)["logits"][0].topk(3).indices.tolist() == [num_classes - 1, 0, num_classes // 2]


def test_vectors_maps_and_means_of_maps_come_back_in_their_shapes():
    features = {"fc:input": FeatureLayout((6,)), "body": FeatureLayout((2, 3, 3)), "stem": FeatureLayout((4,), is_mean=True)}
    layout = RecordLayout(5, 2, features, {**FLOAT, **dict.fromkeys(features, torch.float32)})
    outputs = {"logits": logits(3, 5), "fc:input": logits(3, 6), "body": logits(3, 2, 3, 3), "stem": logits(3, 4, 5, 5)}
    found = layout.decode(layout.encode(outputs))
    for path, expected in (("fc:input", outputs["fc:input"]), ("body", outputs["body"]), ("stem", outputs["stem"].mean(dim=(2, 3)))):
        torch.testing.assert_close(found[path], expected, rtol=2**-11, atol=1e-7)
    assert layout.overflowing(outputs) is None
    assert layout.overflowing({**outputs, "body": 1e6 * outputs["body"]}) == "body"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-(2.0**120), 2.0**120, width=32), min_size=6, max_size=6), st.integers(1, 6))
def test_finite_logits_give_finite_log_probabilities(row, topk):
    layout = RecordLayout(6, topk, {}, FLOAT)
    record = layout.encode({"logits": torch.tensor([row])})
    assert not layout.decode(record)["logits"].isnan().any()


def test_a_certain_peer_stays_certain():
    layout = RecordLayout(4, 1, {}, FLOAT)
    found = layout.decode(layout.encode({"logits": torch.tensor([[1e4, 0.0, 0.0, 0.0]])}))["logits"].softmax(dim=1)
    assert found[0].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert math.isfinite(float(found.sum()))


def test_a_peer_without_logits_has_a_record_of_its_vector_alone():
    layout = RecordLayout(0, 10, {"embedding": FeatureLayout((6,))}, {"embedding": torch.float32})
    embedding = logits(3, 6)
    record = layout.encode({"embedding": embedding})
    assert record.shape == (3, layout.num_bytes) == (3, 12)
    (found,) = layout.decode(record).values()
    torch.testing.assert_close(found, embedding, rtol=2**-11, atol=1e-7)
