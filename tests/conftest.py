import logging
import os
import signal

import pytest
from helpers import PADDLE


def pytest_configure():
    """Lets tests end what they have started where pytest itself is told to end, and log alike."""
    # The fused engine compiles for seconds: it runs where a test asks for it, as the fixture does.
    os.environ.setdefault("DBLOSS_ENGINE", "operators")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    # Which test compiles first depends on what an earlier run has kept.
    logging.getLogger("dbloss").addFilter(lambda record: record.module != "compiled")


@pytest.fixture(params=["operators", "fused"])
def engine(request, monkeypatch):
    """Runs a test once with each engine that does the sweeps."""
    if PADDLE < (3, 0) and request.param == "fused":
        pytest.skip("the fused engine needs Paddle 3")
    monkeypatch.setenv("DBLOSS_ENGINE", request.param)
    return request.param
