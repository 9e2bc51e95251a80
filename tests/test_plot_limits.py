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
        assert line.get_xdata().tolist() == given.recall[i].tolist()
        assert line.get_ydata().tolist() == given.precision[i].tolist()
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
    assert legend(figure)[-1] == f"best: {pair}, hmean {given.hmean.max():.3f}"


def test_another_pair_is_marked_where_it_is_chosen():
    given = limits()
    _, star, frame = parts(figure := plot_limits(given, chosen=(0.1 + 0.2, 0.7)))
    assert (star.get_xdata(), star.get_ydata()) == ([given.recall[1, 3]], [given.precision[1, 3]])
    assert frame == (1, 3)
    assert legend(figure)[-1].startswith("chosen: thresh 0.3, box_thresh 0.7, hmean")


def test_lines_of_equal_hmean_run_behind():
    axes = axes_of(plot_limits(limits()))["precision over recall"]
    (contours,) = axes.collections
    for level, path in zip(contours.levels, contours.get_paths()):
        for recall, precision in path.vertices[::20]:
            assert 2 * precision * recall / (precision + recall) == pytest.approx(level, abs=2e-3)


def test_the_curves_are_seen_whole_but_for_pairs_far_below_the_best():
    given = limits()
    given.recall[0, 1] = given.hmean[0, 1] = 0
    axes = axes_of(plot_limits(given))["precision over recall"]
    inside = [
        low <= rate <= high
        for table, (low, high) in (
            (given.recall, axes.get_xlim()),
            (given.precision, axes.get_ylim()),
        )
        for rate in table[given.hmean > 0.5 * given.hmean.max()]
    ]
    assert all(inside)
    assert axes.get_xlim()[0] > 0.1


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 1), (5, 9), (12, 12), (3, 40)])
def test_it_reads_at_any_size(shape):
    pairs = (np.round(np.linspace(0.1, 0.9, count), 3) for count in shape)
    figure = plot_limits(limits(*pairs))
    assert_readable(figure)
    assert bool(axes_of(figure)["hmean"].texts) == (max(shape) <= 20)


@pytest.mark.parametrize("rate", [0.0, 1.0])
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
