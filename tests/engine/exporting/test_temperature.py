"""A temperature divides a model's logits, in its classifier's weights or, where these alone do not give the logits, behind it."""

import pytest
import torch
from torch import nn

from mutual.engine.exporting.temperature import Divided, divide_logits
from mutual.models import create_model


class Tied(nn.Module):
    """Uses the weights of its classifier a second time, so that dividing them is not dividing the logits."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(4, 4)

    def forward(self, images):
        return self.classifier(torch.tanh(self.classifier(images.flatten(1))))


MODELS = {
    "linear": (lambda: create_model("small_cnn", num_classes=3, in_channels=1, widths=[4, 4, 4, 4]), 8, False),
    "convolution": (lambda: create_model("torchvision/squeezenet1_1", num_classes=3), 32, False),  # a ReLU behind it changes nothing
    "branches": (lambda: create_model("one", num_classes=3, in_channels=1), 8, True),
    "tied": (Tied, 2, True),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_logits_are_divided_and_the_model_is_left_alone(name):
    torch.manual_seed(0)
    make, side, is_behind = MODELS[name]
    model = make().eval()
    images = torch.randn(3, 3 if name == "convolution" else 1, side, side)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        expected = model(images) / 2.5
        divided = divide_logits(model, 2.5, images[:2])
        torch.testing.assert_close(divided(images), expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not divided.training
    assert isinstance(divided, Divided) is is_behind
    if not isinstance(divided, Divided):
        assert divided.state_dict().keys() == before.keys()
