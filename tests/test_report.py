"""`python -m dbloss`: what runs here, and whether it computes what it should."""

import importlib
import re

import numpy as np
import paddle
import programs
import pytest
from helpers import PADDLE

import dbloss
from dbloss import __main__ as report
from dbloss import _plain


def test_help_and_version_run_nothing_and_no_command_speaks_of_ccache(monkeypatch, capsys):
    for option, said in (("--version", f"dbloss {dbloss.__version__}"), ("--help", "two wheels")):
        monkeypatch.setattr(report, "_batch", None)
        with pytest.raises(SystemExit) as ended:
            report.main([option])
        assert ended.value.code == 0
        assert said in capsys.readouterr().out
    program = "import dbloss, warnings; print('ccache' in str(warnings.filters))"
    done = programs.run("-c", program)
    assert done.stdout == "False\n", done.stderr
    assert "ccache" not in done.stderr


ENGINES = ["operators", "fused"] if PADDLE >= (3, 0) else ["operators"]


@pytest.fixture
def report_on_small_batch(monkeypatch, capsys):
    """Run the report on a small batch; return its status and what it prints."""

    def run():
        monkeypatch.setattr(report, "_SHAPE", (2, 64, 64))
        return report.main([]), capsys.readouterr().out

    return run


def test_report(report_on_small_batch, monkeypatch, caplog):
    """The command itself, on a batch of the usual size, runs in `.ci/run`."""
    monkeypatch.delenv("DBLOSS_ENGINE", raising=False)
    status, out = report_on_small_batch()
    assert status == 0
    head, table = out.split("\n\n")
    values = dict(line.split(":", 1) for line in head.splitlines())
    assert values["dbloss"].strip() == dbloss.__version__
    assert values["Paddle"].strip() == f"{paddle.__version__}, device {paddle.get_device()}"
    assert values["NumPy"].strip() == np.__version__
    assert values["engine"].strip().startswith(f"{ENGINES[-1]}, because ")
    assert table.rstrip().endswith("all is well")
    assert len(re.findall(r"^DiceLoss +(operators|fused)", table, re.MULTILINE)) == len(ENGINES)
    # Of its own maps, which no detector gave, there is nothing to say.
    assert not [record for record in caplog.records if record.name == "dbloss"]


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ("operators", "operators, because DBLOSS_ENGINE asks for it"),
        ("quick", "none. DBLOSS_ENGINE: expected 'fused', 'operators' or 'auto', got 'quick'"),
    ],
)
def test_engine_that_the_environment_asks_for(asked, line, monkeypatch, report_on_small_batch):
    monkeypatch.setenv("DBLOSS_ENGINE", asked)
    status, out = report_on_small_batch()
    assert status == 0
    assert line in out


def test_engine_without_numba(monkeypatch, report_on_small_batch):
    monkeypatch.setattr("dbloss.engine._has_numba", lambda: False)
    monkeypatch.delenv("DBLOSS_ENGINE", raising=False)
    status, out = report_on_small_batch()
    assert status == 0
    assert "operators, because numba is not installed" in out
    assert "fused" not in out.split("\n\n")[1]


def test_a_difference_of_the_gradient_alone_is_found(monkeypatch, report_on_small_batch):
    formulas = _plain.db_loss

    def tilted(maps, *given):
        return formulas(maps, *given) + 1e-3 * (maps - maps.detach()).sum()  # of the value 0

    monkeypatch.setattr(_plain, "db_loss", tilted)
    status, out = report_on_small_batch()
    assert status == 1
    assert out.rstrip().endswith("something is wrong")


@pytest.mark.parametrize("wrong", ENGINES)
def test_one_engine_that_differs_is_found(wrong, monkeypatch, report_on_small_batch):
    module = importlib.import_module(f"dbloss.engine.{wrong}")
    evaluate = module.evaluate

    def off(*given):
        return tuple(1.001 * loss for loss in evaluate(*given))

    monkeypatch.setattr(module, "evaluate", off)
    status, out = report_on_small_batch()
    assert status == 1
    assert out.rstrip().endswith("something is wrong")


def test_a_difference_from_the_formulas_is_found(monkeypatch, report_on_small_batch):
    formulas = _plain.db_loss
    monkeypatch.setattr(_plain, "db_loss", lambda *given: 1.0001 * formulas(*given))
    status, out = report_on_small_batch()
    assert status == 1
    assert out.rstrip().endswith("something is wrong")
