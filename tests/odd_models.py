"""Models that recipes of the tests name `odd_models:...`: each has a way of its own to go wrong."""

import random

import torch
from support import TinyNet
from torch import nn


class Spare(TinyNet):
    """Has a layer that no output depends on, with weights that decay would shrink."""

    def __init__(self, num_classes, in_channels, **named):
        super().__init__(num_classes, in_channels, double=True, **named)
        self.spare = nn.Linear(3, 2).double()


class Counting(Spare):
    """Keeps what it has seen in a buffer and draws from every generator that torch and Python have."""

    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels, norm=True, dropout=0.5)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, images):
        if self.training:
            self.seen += images.float().abs().sum()
            random.random()
        return super().forward(images)


class Dropping(TinyNet):
    """Leaves its body out of three forwards in four, in training mode."""

    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels, double=True)

    def forward(self, images):
        hidden = torch.tanh(self.stem(images.double()))
        if not self.training or torch.rand(()) < 0.25:
            hidden = torch.tanh(self.body(hidden))
        return self.head(hidden.mean(dim=(2, 3)))


class Auxiliary(TinyNet):
    """Answers with a tuple in training mode alone."""

    def forward(self, images):
        logits = super().forward(images)
        return (logits, logits) if self.training else logits


class Detached(TinyNet):
    """Its logits have no gradient."""

    def forward(self, images):
        return super().forward(images).detach()


class Raising(TinyNet):
    """Fails in training mode alone."""

    def forward(self, images):
        if self.training:
            raise KeyError("targets")
        return super().forward(images)


class Bare(nn.Module):
    """Has no parameter: every class is as probable."""

    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.num_classes = num_classes

    def forward(self, images):
        return images.new_zeros(len(images), self.num_classes)


class Held(TinyNet):
    """Cannot be copied."""

    def __deepcopy__(self, memo):
        raise TypeError("cannot pickle '_thread.lock' object")


SHARED = []


def shared(num_classes, in_channels):
    """Returns the same model at every call."""
    if not SHARED:
        SHARED.append(TinyNet(num_classes, in_channels))
    return SHARED[0]


class Unsteady(TinyNet):
    """Does what it should not in eval mode alone: other classes, a tuple, or an error of this name."""

    def __init__(self, num_classes, in_channels, *, fault):
        super().__init__(num_classes, in_channels)
        self.fault = fault

    def forward(self, images):
        logits = super().forward(images)
        if self.training:
            return logits
        if self.fault == "classes":
            return logits[:, 1:]
        if self.fault == "tuple":
            return logits, logits
        raise {"value": ValueError, "key": KeyError}[self.fault]("strange")


class Narrowing(TinyNet):
    """Has one class less in training mode."""

    def forward(self, images):
        logits = super().forward(images)
        return logits[:, 1:] if self.training else logits


class Shifted(TinyNet):
    """The statistics of its BatchNorm are not those of a fresh one."""

    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels, norm=True)
        nn.init.constant_(self.norm.bias, -2.0)


class Fixed(TinyNet):
    """Does not train its stem."""

    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels)
        self.stem.requires_grad_(False)


class Tokens(TinyNet):
    """Gives three vectors for each image."""

    def forward(self, images):
        return torch.zeros(len(images), 3, 4)


def tokens(in_channels):
    """The factory `odd_models:tokens`."""
    return Tokens(1, in_channels)


def counts(in_channels):
    """The factory `odd_models:counts`: whole numbers in place of features."""
    return Counts(1, in_channels)


class Counts(TinyNet):
    """Gives each pixel's sign as a whole number."""

    def forward(self, images):
        return images.flatten(1).sign().long()


def spectral(num_classes, in_channels):
    """The factory `odd_models:spectral`: every forward in training mode moves a buffer that the next one reads."""
    model = TinyNet(num_classes, in_channels, double=True)
    nn.utils.parametrizations.spectral_norm(model.body)
    return model
