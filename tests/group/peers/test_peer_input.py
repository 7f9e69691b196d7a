"""Inputs that peers share: made once as long as they are kept, and again when the pixels are others."""

import pytest
import torch

from mutual.group import PeerInput
from mutual.group.peers import SharedInputs
from mutual.models import ModelInput

GREY = PeerInput(ModelInput((4, 4), (0.5,), (0.5,), channels=1))


def pixels(value=0):
    return torch.full((2, 1, 4, 4), value, dtype=torch.uint8)


def test_inputs_of_several_pixels_are_kept_until_the_outermost_context_ends():
    shared, first, second = SharedInputs(), pixels(), pixels(255)
    with shared.kept():
        with shared.kept():
            made = [shared.get(GREY, each, None) for each in (first, second)]
        assert [each.unique().item() for each in made] == [-1.0, 1.0]
        assert shared.num_kept == 2
        equal = PeerInput(ModelInput((4, 4), (0.5,), (0.5,), channels=1))
        assert all(shared.get(equal, each, None) is own for each, own in zip((first, second), made, strict=True))
        shared.drop(first)
        assert shared.num_kept == 1
        assert shared.get(GREY, first, None) is not made[0]
    assert shared.num_kept == 0


def test_nothing_is_kept_outside_of_a_context_or_after_a_failure():
    shared, images = SharedInputs(), pixels()
    assert shared.get(GREY, images, None) is not shared.get(GREY, images, None)

    def fail():
        with shared.kept():
            shared.get(GREY, images, None)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert shared.num_kept == 0
    shared.drop(images)


def test_pixels_that_were_written_to_are_read_again():
    shared, images = SharedInputs(), pixels()
    with shared.kept():
        assert shared.get(GREY, images, None).unique().item() == -1.0
        images.fill_(255)
        assert shared.get(GREY, images, None).unique().item() == 1.0
        assert shared.num_kept == 1


def test_views_of_the_same_pixels_are_kept_apart():
    shared, views = SharedInputs(), torch.stack([pixels(), pixels(255)])
    with shared.kept():
        assert [shared.get(GREY, views, view).unique().item() for view in (0, 1)] == [-1.0, 1.0]
        assert shared.get(GREY, views, 0) is shared.get(GREY, views, 0)
