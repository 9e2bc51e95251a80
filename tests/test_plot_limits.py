"""plot_limits: the curves, the table, and the pair that is marked."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from pictures import assert_readable, axes_of, legend, shown

from dbloss.plot import panels, plot_limits
from dbloss.score import Limits


def limits(thresh=(0.2, 0.3, 0.5), box_thresh=(0.4, 0.5, 0.6, 0.7), seed=0):
    rng = np.random.default_rng(seed)
    precision, recall = rng.uniform(0.3, 0.9, (2, len(thresh), len(box_thresh)))
    hmean = 2 * precision * recall / (precision + recall)
    return Limits(np.array(thresh), np.array(box_thresh), precision, recall, hmean)


def parts(figure):
    """The curves by their names, the star, and the place (row, column) of the frame."""
    curves, table = axes_of(figure)["precision over recall"], axes_of(figure)["hmean"]
    lines = {line.get_label(): line for line in curves.lines}
    (star,) = [line for line in lines.values() if line.get_marker() == "*"]
    (frame,) = [patch for patch in table.patches if isinstance(patch, Rectangle)]
    return lines, star, (frame.get_y() + 0.5, frame.get_x() + 0.5)


def test_a_curve_for_each_thresh_and_a_cell_for_each_pair():
    given = limits()
    figure = plot_limits(given)
    lines, _, _ = parts(figure)
    for i, limit in enumerate(given.thresh):
        line = lines[f"thresh {limit:g}"]
        near = given.hmean[i] >= 0.5 * given.hmean.max()
        np.testing.assert_array_equal(line.get_xdata(), np.where(near, given.recall[i], np.nan))
        np.testing.assert_array_equal(line.get_ydata(), np.where(near, given.precision[i], np.nan))
    table = axes_of(figure)["hmean"]
    np.testing.assert_array_equal(shown(table), given.hmean)
    numbers = {text.get_position(): text.get_text() for text in table.texts}
    assert numbers == {(j, i): f"{given.hmean[i, j]:.2f}" for i in range(3) for j in range(4)}
    assert [text.get_text() for text in table.get_xticklabels()] == ["0.4", "0.5", "0.6", "0.7"]
    assert [text.get_text() for text in table.get_yticklabels()] == ["0.2", "0.3", "0.5"]


def test_the_best_pair_is_marked():
    given = limits()
    i, j = np.unravel_index(np.argmax(given.hmean), given.hmean.shape)
    figure = plot_limits(given)
    _, star, frame = parts(figure)
    assert (star.get_xdata(), star.get_ydata()) == ([given.recall[i, j]], [given.precision[i, j]])
    assert frame == (i, j)
    assert to_rgb(star.get_color()) == to_rgb(panels.VERMILLION)
    pair = f"thresh {given.thresh[i]:g}, box_thresh {given.box_thresh[j]:g}"
    assert f"best: {pair}, hmean {given.hmean.max():.3f}" in legend(figure)


def test_another_pair_is_marked_where_it_is_chosen():
    given = limits()
    _, star, frame = parts(figure := plot_limits(given, chosen=(0.1 + 0.2, 0.7)))
    assert (star.get_xdata(), star.get_ydata()) == ([given.recall[1, 3]], [given.precision[1, 3]])
    assert frame == (1, 3)
    assert legend(figure)[-1].startswith("chosen: thresh 0.3, box_thresh 0.7, hmean")
    assert not marked_edges(figure)


def test_lines_of_equal_hmean_run_behind():
    axes = axes_of(plot_limits(limits()))["precision over recall"]
    (contours,) = axes.collections
    for level, path in zip(contours.levels, contours.get_paths()):
        for recall, precision in path.vertices[::20]:
            assert 2 * precision * recall / (precision + recall) == pytest.approx(level, abs=2e-3)


def test_the_axes_begin_and_end_where_the_points_near_the_best_do():
    given = limits()
    given.recall[0, 1] = given.hmean[0, 1] = 0  # far below the best: in the table alone
    axes = axes_of(plot_limits(given))["precision over recall"]
    near = given.hmean >= 0.5 * given.hmean.max()
    for table, (low, high) in ((given.recall, axes.get_xlim()), (given.precision, axes.get_ylim())):
        first, last = table[near].min(), table[near].max()
        margin = 0.1 * (last - first)
        assert first - margin < low < first and last < high < last + margin


def marked_edges(figure):
    """The dashed lines along the table: the axis that each is across, and where."""
    lines = [line for line in axes_of(figure)["hmean"].lines if line.is_dashed()]
    return {
        ("thresh", line.get_ydata()[0])
        if line.get_xdata()[0] == 0
        else ("box_thresh", line.get_xdata()[0])
        for line in lines
    }


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        ((1, 2), set()),
        ((0, 2), {("thresh", -0.5)}),
        ((2, 3), {("thresh", 2.5), ("box_thresh", 3.5)}),
        ((1, 0), {("box_thresh", -0.5)}),
    ],
)
def test_an_edge_of_the_table_with_the_best_pair_is_marked(best, expected):
    given = limits()
    for table in given[2:5]:
        table[best] = 0.95
    figure = plot_limits(given)
    assert marked_edges(figure) == expected
    assert ("the best pair is at this edge" in legend(figure)) == bool(expected)
    assert_readable(figure)


def test_the_colours_of_the_table_have_a_scale():
    given = limits()
    (scale,) = [axes for axes in plot_limits(given).axes if axes.get_label() == "<colorbar>"]
    assert scale.get_ylim() == (given.hmean.min(), given.hmean.max())


def test_where_every_hmean_is_0_no_pair_is_marked():
    none = np.zeros((2, 3))
    figure = plot_limits(Limits(np.array([0.2, 0.3]), np.array([0.4, 0.5, 0.6]), *[none] * 3))
    assert_readable(figure)
    table = axes_of(figure)["hmean"]
    assert not [patch for patch in table.patches if isinstance(patch, Rectangle)]
    assert legend(figure)[-1] == "best: none, every hmean is 0"


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 1), (5, 9), (12, 12), (3, 40)])
def test_it_reads_at_any_size(shape):
    pairs = (np.round(np.linspace(0.1, 0.9, count), 3) for count in shape)
    figure = plot_limits(limits(*pairs))
    assert_readable(figure)
    assert bool(axes_of(figure)["hmean"].texts) == (max(shape) <= 20)


@pytest.mark.parametrize("rate", [0.25, 1.0])
def test_all_cells_alike(rate):
    same = np.full((2, 3), rate)
    given = Limits(np.array([0.2, 0.3]), np.array([0.4, 0.5, 0.6]), same, same, same)
    figure = plot_limits(given)
    assert_readable(figure)
    assert parts(figure)[2] == (0, 0)
    axes = axes_of(figure)["precision over recall"]
    assert axes.get_xlim()[0] < rate < axes.get_xlim()[1]


@pytest.mark.parametrize(
    ("changed", "error", "parts"),
    [
        ({"limits": {"hmean": 1}}, TypeError, ["limits", "search_limits", "dict"]),
        ({"chosen": 0.3}, ValueError, ["chosen", "pair", "0.3"]),
        ({"chosen": (0.3, 0.5, 0.6)}, ValueError, ["chosen", "pair"]),
        ({"chosen": (0.35, 0.5)}, ValueError, ["chosen", "thresh of the table, 0.2, 0.3", "0.35"]),
        ({"chosen": (0.3, 0.9)}, ValueError, ["chosen", "box_thresh of the table, 0.4", "0.9"]),
    ],
)
def test_a_wrong_argument_is_named(changed, error, parts):
    with pytest.raises(error) as caught:
        plot_limits(**{"limits": limits()} | changed)
    for part in parts:
        assert part in str(caught.value)
