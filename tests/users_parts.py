"""Parts that recipes of the tests name `users_parts:...`, as a user would write them: optimizers, schedules, transforms, data."""

import collections
import itertools
import random

import numpy as np
import torch
from torchvision.transforms import v2

_CALLS = itertools.count()


class Lion(torch.optim.Optimizer):
    """Lion (arXiv:2302.06675)."""

    def __init__(self, params, lr, weight_decay=0.0, beta=0.9):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "beta": beta})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in (each for each in group["params"] if each.grad is not None):
                mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(group["lr"] * mean.lerp(parameter.grad, 1 - group["beta"]).sign())
                mean.lerp_(parameter.grad, 0.01)


class Noisy(Lion):
    """Draws in each step."""

    @torch.no_grad()
    def step(self):
        super().step()
        for parameter in (each for group in self.param_groups for each in group["params"]):
            parameter.add_(torch.randn_like(parameter), alpha=1e-3)


class Warming(torch.optim.SGD):
    """Its momentum rises from step to step."""

    def __init__(self, params, lr):
        super().__init__(params, lr=lr, momentum=0.5)

    def step(self):
        for group in self.param_groups:
            group["momentum"] = min(0.9, group["momentum"] + 0.05)
        super().step()


class Forgetful(Lion):
    """Counts its steps where no checkpoint sees it."""

    steps = 0

    def step(self):
        self.steps += 1
        for group in self.param_groups:
            group["beta"] = 1 / self.steps
        super().step()


class Queueing(Lion):
    """Has a state that no checkpoint can hold."""

    def step(self):
        super().step()
        for state in self.state.values():
            state["losses"] = collections.deque([0.5])


class Raising(Lion):
    """Cannot step."""

    def step(self):
        raise RuntimeError("no such\nkernel")


def partly(params, lr):
    return torch.optim.SGD(params[0]["params"][:1], lr=lr)


def number(params, lr):
    return 3


def without_decay(params, lr):
    return torch.optim.Rprop(params, lr=lr)


def sgd(params, lr, weight_decay):
    return torch.optim.SGD(params, lr=lr, weight_decay=weight_decay)


def polynomial(epoch, epochs, power=1.0):
    return (1 - epoch / epochs) ** power


def falling(epoch, epochs):
    return 1 - epoch


def once_negative(epoch, epochs):
    return -1.0 if epoch == 1 else 1.0


def wordy(epoch, epochs):
    return "half"


def counting(epoch, epochs):
    return next(_CALLS)


def failing(epoch, epochs):
    return {}["rate"]


def one_number(epoch):
    return 1.0


class Dots:
    """Sets a pixel by draws of Python, NumPy and torch."""

    def __call__(self, image):
        changed = image.clone()
        changed[:, random.randrange(image.shape[1]), np.random.randint(image.shape[2])] = int(torch.randint(256, ()))  # noqa: NPY002
        return changed


class Fill:
    def __init__(self, value):
        self.value = value

    def __call__(self, image):
        assert (image.dtype, image.dim()) == (torch.uint8, 3)
        return torch.full_like(image, self.value)


class AddInPlace:
    def __call__(self, image):
        return image.add_(1)


def crop(size):
    return v2.RandomCrop(size)


def as_float():
    return v2.ToDtype(torch.float32)


def three():
    return 3


def as_nothing():
    return lambda image: None


def raising():
    return lambda image: {}["x"]


def sometimes_half():
    first = iter([True])  # what is looked at before the training is whole
    return lambda image: image if next(first, False) else image[:, : random.choice((4, 8))]
