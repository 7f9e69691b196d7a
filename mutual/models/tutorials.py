"""The nets of well-known distillation tutorials, so that their recipes compare number by number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from mutual.recipe import did_you_mean

Activation = Literal["relu", "sigmoid", "tanh"]
_ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


class DeepNN(nn.Module):
    """The teacher of PyTorch's knowledge distillation tutorial: images `[B, C, 32, 32]` to logits.

    1,186,986 parameters for 10 classes. `features` gives maps `[B, 32, 8, 8]`; `pooled` the flattened maps averaged in pairs,
    `[B, 1024]`, which the tutorial compares by cosine.
    """

    def __init__(self, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(in_channels, 128, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(128, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(64, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.flat = nn.Flatten()
        self.pooled = nn.AvgPool1d(2)
        self.classifier = nn.Sequential(nn.Linear(2048, 512), nn.ReLU(), nn.Dropout(0.1), nn.Linear(512, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits."""
        flat = self.flat(self.features(images))
        self.pooled(flat)  # for taps only
        logits: Tensor = self.classifier(flat)
        return logits


class LightNN(nn.Module):
    """The student of PyTorch's tutorial: images `[B, C, 32, 32]` to logits; 267,738 parameters for 10 classes.

    `features` gives maps `[B, 16, 8, 8]`, `flat` the same as `[B, 1024]`.
    """

    def __init__(self, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(in_channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.flat = nn.Flatten()
        self.classifier = nn.Sequential(nn.Linear(1024, 256), nn.ReLU(), nn.Dropout(0.1), nn.Linear(256, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits."""
        logits: Tensor = self.classifier(self.flat(self.features(images)))
        return logits


def keras_cnn(*, num_classes: int, in_channels: int = 1, widths: Sequence[int] = (256, 512)) -> nn.Module:
    """Returns the net of Keras' tutorial for images `[B, C, 28, 28]`: widths 256 and 512 are its teacher, 16 and 32 its student."""
    first, second = widths
    return nn.Sequential(
        *(nn.Conv2d(in_channels, first, 3, stride=2, padding=1), nn.LeakyReLU(0.2)),
        *(nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, stride=1)),
        nn.Conv2d(first, second, 3, stride=2, padding=1),
        *(nn.Flatten(), nn.Linear(second * 7 * 7, num_classes)),
    )


def tensorflow_cnn(*, num_classes: int, in_channels: int = 1) -> nn.Module:
    """Returns the net of TensorFlow's first tutorial of CNNs, for images `[B, C, 28, 28]`; 93,322 parameters for 10 classes of grey images.

    Three 3x3 convolutions without padding (32, 64, 64 channels), max pooling between them, a hidden layer of 64, ReLUs.
    """
    return nn.Sequential(
        *(nn.Conv2d(in_channels, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64 * 3 * 3, 64), nn.ReLU(), nn.Linear(64, num_classes)),
    )


def mlp(
    *,
    num_classes: int,
    in_channels: int = 1,
    image_size: Sequence[int] = (28, 28),
    hidden: Sequence[int] = (512,),
    dropout: float = 0.0,
    activation: Activation = "relu",
) -> nn.Module:
    """Returns a perceptron with an activation (and dropout) behind each hidden layer, for images of `image_size` (height, width).

    Raises:
        ValueError: no such activation.
    """
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is unknown{did_you_mean(activation, _ACTIVATIONS)}")
    widths = [in_channels * image_size[0] * image_size[1], *hidden]
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), _ACTIVATIONS[activation](), nn.Dropout(dropout))]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], num_classes))


TUTORIAL_MODELS: dict[str, Callable[..., nn.Module]] = {
    "deep_nn": DeepNN,
    "light_nn": LightNN,
    "keras_cnn": keras_cnn,
    "tensorflow_cnn": tensorflow_cnn,
    "mlp": mlp,
}
