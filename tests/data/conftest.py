"""What several files of tests here share."""

import pytest


@pytest.fixture
def hub_cache(tmp_path_factory, monkeypatch):
    """Where `datasets` keeps what it converts."""
    datasets = pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder
