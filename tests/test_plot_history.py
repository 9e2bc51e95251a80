"""plot_history: each step, the mean of the last ones, and what is not finite."""

import re

import numpy as np
import oracle
import paddle
import pytest
from pictures import assert_readable, legend

from dbloss.plot import plot_history


def records(steps=50, **more):
    rng = np.random.default_rng(0)
    rows = [dict(zip(oracle.PARTS, rng.uniform(0.5, 2, 3).tolist())) for _ in range(steps)]
    return [{"loss": sum(row.values()), **row, **more} for row in rows]


def curves(figure):
    """The thin and the thick line of each name in the legend."""
    lines = figure.axes[0].lines
    thick = {line.get_label(): line for line in lines if line.get_linewidth() == 2}
    thin = [line for line in lines if line.get_linewidth() < 1]
    return {name: (raw, mean) for (name, mean), raw in zip(thick.items(), thin)}


@pytest.mark.parametrize("steps", [1, 5, 20, 50, 2500])
def test_each_step_is_thin_and_the_mean_thick(steps):
    rows = records(steps)
    drawn = curves(plot_history(rows))
    assert list(drawn) == ["loss", "shrink maps", "threshold maps", "binary maps"]
    window = {1: 1, 5: 5, 20: 20, 50: 20, 2500: 50}[steps]
    for key, (raw, mean) in zip(rows[0], drawn.values()):
        values = [row[key] for row in rows]
        assert raw.get_xdata().tolist() == list(range(1, steps + 1))
        assert raw.get_ydata().tolist() == values
        assert mean.get_xdata().tolist() == list(range(window, steps + 1))
        last = [sum(values[i - window : i]) / window for i in range(window, steps + 1)]
        np.testing.assert_allclose(mean.get_ydata(), last)
        assert raw.get_color() == mean.get_color()
    assert len({mean.get_color() for _, mean in drawn.values()}) == 4


def test_the_axis_begins_and_ends_where_the_steps_do():
    assert plot_history(records(50)).axes[0].get_xlim() == (1, 50)


def test_one_step_is_a_point():
    for _, mean in curves(plot_history(records(1))).values():
        assert mean.get_marker() == "o"


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_records_of_tensors(dtype):
    rows = records(3)
    given = [{key: paddle.to_tensor(loss, dtype) for key, loss in row.items()} for row in rows]
    given[1]["loss"] = np.float32(rows[1]["loss"])
    given[2]["loss"] = paddle.to_tensor([rows[2]["loss"]])
    for (raw, _), (expected, _) in zip(
        curves(plot_history(given)).values(), curves(plot_history(rows)).values()
    ):
        np.testing.assert_allclose(raw.get_ydata(), expected.get_ydata(), rtol=0.01)


@pytest.mark.parametrize(
    ("least", "scale"), [(1e-4, "log"), (0.0, "linear"), (-0.1, "linear"), (np.nan, "log")]
)
def test_the_scale_is_logarithmic_where_all_is_above_0(least, scale):
    rows = records()
    rows[7]["loss"] = least
    assert plot_history(rows).axes[0].get_yscale() == scale


def test_other_keys_are_drawn_too_and_may_be_missing():
    rows = records(30, loss_cbn=0.5)
    for row in rows[10:]:
        row.update(loss_aux_maps_p4=1.0, aux=2.0, loss_aux_maps_p3=3.0)
    del rows[4]["loss_cbn"]
    figure = plot_history(rows)
    drawn = curves(figure)
    assert list(drawn)[4:] == ["cbn", "aux maps p4", "aux", "aux maps p3"]
    assert np.flatnonzero(np.isnan(drawn["cbn"][0].get_ydata())).tolist() == [4]
    assert np.isnan(drawn["aux"][0].get_ydata()).sum() == 10
    looks = {(mean.get_color(), mean.get_linestyle()) for _, mean in drawn.values()}
    assert len(looks) == len(drawn) == 8
    assert "NaN or Inf" not in legend(figure)
    assert_readable(figure)


def test_a_loss_that_is_not_finite_is_crossed():
    rows = records()
    rows[30]["loss"] = rows[30]["loss_binary_maps"] = np.nan
    rows[31]["loss"] = np.inf
    figure = plot_history(rows)
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    at = {line.get_color(): line.get_xdata() for line in crosses if len(line.get_xdata())}
    drawn = curves(figure)
    assert at.keys() == {drawn[name][1].get_color() for name in ("loss", "binary maps")}
    assert at["black"].tolist() == [31, 32]
    assert np.isnan(drawn["loss"][0].get_ydata()[30:32]).all()
    assert "NaN or Inf" in legend(figure)
    assert_readable(figure)
    assert_readable(plot_history([{"loss": np.nan}] * 3))


@pytest.mark.parametrize("steps", [1, 2, 50])
def test_letters_of_the_losses_are_readable(steps):
    assert_readable(plot_history(records(steps)))


def test_records_are_not_changed():
    rows = records(3)
    rows[1]["loss"] = np.inf
    before = [dict(row) for row in rows]
    plot_history(rows)
    assert rows == before


@pytest.mark.parametrize(
    ("given", "error", "parts"),
    [
        ([], ValueError, ["records", "at least one step", "records.append"]),
        ({"loss": 1.0}, TypeError, ["records", "list", "dict"]),
        ([1.0], TypeError, [r"records\[0\]", "dict of losses", "float 1.0"]),
        ([{"loss": 1.0}, {"loss": "high"}], TypeError, [r"records\[1\]\['loss'\]", "str 'high'"]),
        ([{"loss": None}], TypeError, [r"records\[0\]\['loss'\]", "None"]),
        ([{"loss": paddle.ones([2])}], TypeError, [r"records\[0\]\['loss'\]", r"shape \[2\]"]),
    ],
)
def test_wrong_records_are_named(given, error, parts):
    with pytest.raises(error) as caught:
        plot_history(given)
    for part in parts:
        assert re.search(part, str(caught.value))
