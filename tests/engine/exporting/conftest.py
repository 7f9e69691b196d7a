"""A trained run for the tests of exports."""

import shutil

import pytest
import yaml
from support import tiny_document

from mutual import train

NET = {"model": "small_cnn", "args": {"widths": [8, 8, 8, 8]}}


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run on digits, of which the best weights are better than chance."""
    root = tmp_path_factory.mktemp("runs")
    document = tiny_document(
        name="digits",
        output=str(root),
        data={"dataset": "digits", "batch_size": 64, "image_size": 8},
        peers={"a": NET, "b": NET},
        optimizer={"name": "adam", "lr": 0.01},
    )
    (root / "digits.yaml").write_text(yaml.safe_dump(document))
    assert train.main([str(root / "digits.yaml")]) == 0
    return root / "digits"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it, in a folder of its own."""
    shutil.copytree(trained, tmp_path / "runs" / "digits")
    return tmp_path / "runs" / "digits"
