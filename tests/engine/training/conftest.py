"""Fixtures of what trains."""

import pytest
from support import tiny_document
from taught import DIGITS

import mutual
from mutual.recipe import parse_recipe


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """The weights file of a net that was trained on digits; it knows three of four."""
    output = tmp_path_factory.mktemp("teacher")
    document = tiny_document(
        name="teacher",
        output=str(output),
        data={**DIGITS, "subset": None},
        peers={"t": {"model": "small_cnn"}},
        objectives=[{"loss": "cross_entropy"}],
        optimizer={"name": "adam", "lr": 0.01},
        train={"epochs": 2, "progress": False},
    )
    result = mutual.fit(parse_recipe(document))
    assert result.metrics["t"]["top1"] > 0.75
    return result.folder / "best" / "t.safetensors"
