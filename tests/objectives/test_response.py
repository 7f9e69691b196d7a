"""Losses on logits at temperatures and forms other than their defaults, against their equations written out."""

import pytest
import torch
import torch.nn.functional as F

from mutual.objectives import build_loss

LABELS = torch.arange(6) % 5
T = 3.0  # where T**2 and 2 * T differ


@pytest.fixture
def logits():
    return torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_dml_in_its_papers_form_is_kd(logits):
    torch.testing.assert_close(build_loss("dml", form="kl", temperature=T)(*logits), build_loss("kd", temperature=T)(*logits))
    assert build_loss("dml", form="kl")(*logits) != build_loss("dml")(*logits)


@pytest.mark.parametrize("form", ["sigmoid", "sigmoid_present"])
def test_sigmoid_dml_softens_by_the_temperature(form, logits):
    found = build_loss("dml", form=form, temperature=T)(*logits)
    torch.testing.assert_close(found, T**2 * build_loss("dml", form=form)(*(logits / T)))


def test_sigmoid_dml_is_its_part_of_the_classes_that_are_there_and_that_of_the_others(logits):
    parts = [build_loss("dml", form="sigmoid_present")(*(sign * logits)) for sign in (1, -1)]
    torch.testing.assert_close(sum(parts), build_loss("dml", form="sigmoid")(*logits))


@pytest.mark.parametrize("name", ["dist", "ssld", "soft_label", "kd", "dml"])
def test_a_temperature_divides_the_logits_and_its_square_multiplies_the_loss(name, logits):
    torch.testing.assert_close(build_loss(name, temperature=T)(*logits), T**2 * build_loss(name, temperature=1.0)(*(logits / T)))


def test_skd_softens_its_soft_labels_alone(logits):
    unit = [2 * (each - each.mean(1, keepdim=True)) / each.std(1, keepdim=True, correction=0) for each in logits]
    soft = -(F.softmax(unit[1] / T, dim=1) * F.log_softmax(unit[0] / T, dim=1)).sum(dim=1).mean() * T**2
    found = build_loss("skd", temperature=T)(*logits, LABELS)
    torch.testing.assert_close(found, 0.9 * soft + 0.1 * F.cross_entropy(unit[0], LABELS), rtol=1e-6, atol=1e-6)


def test_skd_damps_logits_that_hardly_differ(logits):
    """The standard deviation is raised by 1e-7, which shows where it is no larger itself."""
    small = logits[0] * 1e-7
    unit = (small - small.mean(1, keepdim=True)) / (small.std(1, keepdim=True, correction=0) + 1e-7)
    torch.testing.assert_close(build_loss("skd", alpha=0.0)(small, logits[1], LABELS), F.cross_entropy(2 * unit, LABELS))


def test_wsl_weighs_each_image_by_both_peers_losses(logits):
    logits[1][0] = 20 * F.one_hot(LABELS[0], 5)  # its loss is of the size of what keeps the division from 0
    logits[0][0] = 17 * F.one_hot(LABELS[0], 5)
    hard = [F.cross_entropy(each, LABELS, reduction="none") for each in logits]
    weight = 1 - torch.exp(-hard[0] / (hard[1] + 1e-7))
    soft = -(F.softmax(logits[1] / T, dim=1) * F.log_softmax(logits[0] / T, dim=1)).sum(dim=1)
    torch.testing.assert_close(build_loss("wsl", temperature=T)(*logits, LABELS), (weight * soft).mean() * T**2)


def test_dkd_reads_the_class_of_soft_labels(logits):
    loss = build_loss("dkd")
    torch.testing.assert_close(loss(*logits, F.one_hot(LABELS, 5).double()), loss(*logits, LABELS))
