"""`python -m dbloss`: what runs here, and whether it computes what it should."""

import re
import subprocess
import sys

import numpy as np
import paddle
import pytest
from helpers import PADDLE

import dbloss
from dbloss import __main__ as report
from dbloss import _plain

ENGINES = ["operators", "fused"] if PADDLE >= (3, 0) else ["operators"]


@pytest.fixture
def printed(monkeypatch, capsys):
    """Run the report on a small batch; return its status and what it prints."""

    def run():
        monkeypatch.setattr(report, "_SHAPE", (2, 64, 64))
        return report.main(), capsys.readouterr().out

    return run


def test_report_of_the_command():
    result = subprocess.run(
        [sys.executable, "-m", "dbloss"], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    head, table = result.stdout.split("\n\n")
    values = dict(line.split(":", 1) for line in head.splitlines())
    assert values["dbloss"].strip() == dbloss.__version__
    assert values["Paddle"].strip() == f"{paddle.__version__}, device {paddle.get_device()}"
    assert values["NumPy"].strip() == np.__version__
    assert values["engine"].strip().startswith(f"{ENGINES[-1]}, because ")
    assert table.rstrip().endswith("all is well")
    assert len(re.findall(r"^DiceLoss +(operators|fused)", table, re.MULTILINE)) == len(ENGINES)


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ("operators", "operators, because DBLOSS_ENGINE asks for it"),
        ("quick", "none. DBLOSS_ENGINE: expected 'auto', 'operators' or 'fused', got 'quick'"),
    ],
)
def test_engine_that_the_environment_asks_for(asked, line, monkeypatch, printed):
    monkeypatch.setenv("DBLOSS_ENGINE", asked)
    status, out = printed()
    assert status == 0
    assert line in out


def test_engine_without_numba(monkeypatch, printed):
    monkeypatch.setattr("dbloss.engine._has_numba", lambda: False)
    status, out = printed()
    assert status == 0
    assert "operators, because numba is not installed" in out
    assert "fused" not in out.split("\n\n")[1]


def test_a_difference_from_the_formulas_is_found(monkeypatch, printed):
    formulas = _plain.db_loss
    monkeypatch.setattr(_plain, "db_loss", lambda *given: 1.0001 * formulas(*given))
    status, out = printed()
    assert status == 1
    assert out.rstrip().endswith("something is wrong")
