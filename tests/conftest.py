import pytest


@pytest.fixture(params=["operators", "fused"])
def engine(request, monkeypatch):
    """Runs a test once with each engine that does the sweeps."""
    monkeypatch.setenv("DBLOSS_ENGINE", request.param)
    return request.param
