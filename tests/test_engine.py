"""Which engine does the sweeps, and what is said where the one asked for cannot."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import oracle
import paddle
import pytest
from helpers import PADDLE, make_batch, tensor, tensors

from dbloss import BalanceLoss, DBLoss, engine, hard_negative_weights
from dbloss.balance import PIXEL_LOSSES
from dbloss.engine import operators

pytestmark = pytest.mark.skipif(PADDLE < (3, 0), reason="the fused engine needs Paddle 3")


def step():
    """Compute a loss and the weights of hard negatives."""
    batch = make_batch()
    assert np.isfinite(float(DBLoss()({"maps": tensor(batch.maps)}, tensors(batch.labels))["loss"]))
    hard_negative_weights(*tensors(batch.single))


@pytest.mark.parametrize("name", [None, "auto", "fused", "operators"])
def test_engine_that_runs(name, monkeypatch):
    from dbloss.engine import fused

    expected, other = (operators, fused) if name == "operators" else (fused, operators)
    for function in ("sweep", "hard_negatives"):
        monkeypatch.delattr(other, function)
    if name is None:
        monkeypatch.delenv(engine.VARIABLE, raising=False)
    else:
        monkeypatch.setenv(engine.VARIABLE, name)
    step()
    assert engine.choose(paddle.zeros([1, 2, 2])) is expected


def test_unknown_engine(monkeypatch):
    monkeypatch.setenv(engine.VARIABLE, "quick")
    with pytest.raises(ValueError, match="DBLOSS_ENGINE: expected 'auto', 'operators' or 'fused'"):
        step()


CPU = paddle.zeros([1]).place


class Elsewhere:
    """The place of a tensor that is not on the CPU."""

    def is_cpu_place(self):
        return False

    def __str__(self):
        return "Place(gpu:0)"


@pytest.mark.parametrize(
    ("maps", "reason"),
    [
        (SimpleNamespace(place=Elsewhere(), __dlpack__=None), r"on the CPU and these are on .*gpu"),
        (SimpleNamespace(place=CPU), r"Paddle \d.* does not share memory with NumPy"),
    ],
    ids=["not on the CPU", "no __dlpack__"],
)
def test_tensors_that_the_fused_engine_does_not_take(maps, reason, monkeypatch):
    monkeypatch.setenv(engine.VARIABLE, "fused")
    with pytest.raises(RuntimeError, match=f"DBLOSS_ENGINE=fused: .*{reason}"):
        engine.choose(maps)
    monkeypatch.setenv(engine.VARIABLE, "auto")
    assert engine.choose(maps) is operators


def test_without_numba(monkeypatch):
    monkeypatch.setenv(engine.VARIABLE, "fused")
    monkeypatch.setattr(engine, "_has_numba", lambda: False)
    with pytest.raises(RuntimeError, match="numba is not installed"):
        step()
    monkeypatch.setenv(engine.VARIABLE, "auto")
    step()


class Cubic(NamedTuple):
    """A loss of a pixel that has no kernel."""

    def value(self, p, g):
        return abs(p - g) ** 3

    def derivative(self, p, g):
        return 3 * (p - g) * abs(p - g)


def test_loss_without_a_kernel_runs_on_operators(monkeypatch):
    monkeypatch.setenv(engine.VARIABLE, "auto")
    monkeypatch.setitem(PIXEL_LOSSES, "Euclidean", Cubic())
    p, g, m = make_batch().single
    layer, labels = BalanceLoss(main_loss_type="Euclidean"), tensors((g, m))
    _, n_neg = oracle.counts(g, m)
    cubes = np.abs(p.astype(np.float64) - g) ** 3
    hardest = np.sort((cubes * (1 - g) * m).ravel())[::-1][:n_neg].sum()
    expected = ((cubes * g * m).sum() + hardest) / ((g * m).sum() + n_neg + 1e-6)
    assert float(layer(paddle.to_tensor(p), *labels)) == pytest.approx(expected, rel=2e-6)
    monkeypatch.setenv(engine.VARIABLE, "fused")
    with pytest.raises(RuntimeError, match="has no kernel for one of the losses"):
        layer(paddle.to_tensor(p), *labels)
