import pytest


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    """A folder in which converted datasets are remembered, for one test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FVCORE_CACHE", str(folder))
    return folder
