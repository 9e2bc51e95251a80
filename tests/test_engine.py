"""Which engine does the sweeps, and what is said where the one asked for cannot."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import oracle
import paddle
import pytest
from helpers import PADDLE, check, make_batch, tensor, tensors
from numba.core.errors import TypingError

from dbloss import BalanceLoss, DBLoss, engine, hard_negative_weights
from dbloss.base.processes import ALONE
from dbloss.engine import operators
from dbloss.engine.arithmetic import absolute
from dbloss.engine.formulas import AbsoluteError
from dbloss.engine.mining import Pixels, Term
from dbloss.losses.balance import PIXEL_LOSSES

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
    monkeypatch.delattr(other, "evaluate")
    if name is None:
        monkeypatch.delenv(engine.VARIABLE, raising=False)
    else:
        monkeypatch.setenv(engine.VARIABLE, name)
    step()
    assert engine.choose(paddle.zeros([1, 2, 2])) is expected


def test_unknown_engine(monkeypatch):
    monkeypatch.setenv(engine.VARIABLE, "quick")
    with pytest.raises(ValueError, match="DBLOSS_ENGINE: expected 'fused', 'operators' or 'auto'"):
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


def test_with_nothing_compiled(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    monkeypatch.setenv(engine.VARIABLE, "fused")
    with pytest.raises(RuntimeError, match="NUMBA_DISABLE_JIT is set"):
        step()
    monkeypatch.setenv(engine.VARIABLE, "auto")
    assert engine.choose(paddle.zeros([1, 2, 2])) is operators


@pytest.fixture
def nothing_kept(monkeypatch):
    """Keeps what is compiled for the losses of these tests off the disk."""
    from dbloss.base.compiled import _Compiled
    from dbloss.engine import loops

    for loop in vars(loops).values():
        if isinstance(loop, _Compiled):
            monkeypatch.setattr(loop, "_run", loop._without_cache())


class Cubic(NamedTuple):
    """A loss of a pixel that the package does not have."""

    factor: float

    def value(self, p, g):
        return self.factor * absolute(p - g) * (p - g) * (p - g)

    def slope(self, p, g):
        return 3 * self.factor * absolute(p - g) * (p - g)


@pytest.mark.usefixtures("nothing_kept")
def test_a_new_loss_is_a_formula_and_a_name(engine, monkeypatch):
    """Both engines take it as it is, mined and not."""
    monkeypatch.setitem(PIXEL_LOSSES, "Euclidean", Cubic(2.0))
    p, g, m = make_batch().single
    d = p.astype(np.float64) - g
    monkeypatch.setitem(
        oracle.PIXEL_LOSS, "Euclidean", lambda p, g: (2 * np.abs(d) ** 3, 6 * d * np.abs(d))
    )
    labels = tensors((g, m))
    for balanced in (True, False):
        layer = BalanceLoss(balanced, "Euclidean")
        check(lambda x, f=layer: f(x, *labels), p, oracle.balance(p, g, m, "Euclidean", balanced))


class Sums(NamedTuple):
    """A loss of three sums, which the package does not have: `I / (P + sum(w))`."""

    scale: float = 1.0

    def hardness(self, p, g):
        return p

    def slope(self, p, g):
        return 1

    def parts(self, h, w, wg):
        return (wg * h, w * h, w)

    def at(self, g, partials):
        return partials[0] * g + partials[1]

    def value(self, sums, count):
        return sums[0] * (sums[1] + sums[2]) ** -1

    def partials(self, sums, count):
        bottom = sums[1] + sums[2]
        return 1 / bottom, -sums[0] / bottom**2


class FourSums(NamedTuple):
    """A loss of a sum too many."""

    scale: float = 1.0

    def hardness(self, p, g):
        return p

    def parts(self, h, w, wg):
        return (wg * h, w * h, w, wg)


def evaluated(loss, p, g, m):
    pixels = Pixels(p, 0, g, m, m)
    (value,) = engine.evaluate([Term(loss, pixels)], [[1]], ALONE)
    return value


@pytest.mark.usefixtures("nothing_kept")
def test_a_new_loss_of_sums_is_a_formula(engine):
    p, g, m = make_batch().single
    p64, g64, m64 = (x.astype(np.float64) for x in (p, g, m))
    top, bottom = (m64 * g64 * p64).sum(), (m64 * p64).sum() + m64.sum()
    expected = top / bottom, m64 * (g64 / bottom - top / bottom**2)
    labels = tensors((g, m))
    check(lambda x: evaluated(Sums(), x, *labels), p, expected)


@pytest.mark.usefixtures("nothing_kept")
def test_a_sum_too_many_is_an_error(engine):
    with pytest.raises((TypeError, TypingError), match="at most 3 sums, and this one has 4"):
        evaluated(FourSums(), *tensors(make_batch().single))


class Twice(NamedTuple):
    """A formula with a setting that nothing reads, and no slope."""

    first: float

    def value(self, p, g):
        return p - g


@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.parametrize("loss", [Twice(1.0), AbsoluteError])
def test_a_loss_without_a_formula_is_an_error(engine, loss, monkeypatch):
    """Whatever is missing, no number comes out."""
    monkeypatch.setitem(PIXEL_LOSSES, "Euclidean", loss)
    p, g, m = make_batch().single
    leaf, labels = tensor(p, grad=True), tensors((g, m))
    monkeypatch.setattr(Twice, "value", None, raising=False)
    with pytest.raises((TypeError, AttributeError, TypingError)):
        BalanceLoss(main_loss_type="Euclidean")(leaf, *labels).backward()


def test_a_setting_too_many_is_an_error():
    with pytest.raises(TypeError):
        AbsoluteError(1.0)
