"""What trainings of whole configs share."""

import pytest

from mutual.models.paddleclas import resnet


@pytest.fixture
def narrow(monkeypatch):
    """ResNets have their blocks and their names of modules, and an eighth of their widths."""
    monkeypatch.setattr(resnet, "_WIDTHS", tuple(width // 8 for width in resnet._WIDTHS))
