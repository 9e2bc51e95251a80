"""Pictures of what was given and what the loss makes of it; the command names what is wrong."""

import doctest
import importlib
import json
import os
import re
import subprocess
import sys

import cv2
import matplotlib
import numpy as np
import oracle
import paddle
import pytest
from helpers import make_batch, tensor, tensors
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.contour import ContourSet
from matplotlib.path import Path
from matplotlib.text import Text
from PIL import Image

from dbloss.plot import panels, plot_batch, plot_history
from dbloss.plot.__main__ import main
from dbloss.plot.targets import draw_targets, make_and_sort
from dbloss.targets import make_targets

N, H, W = 3, 20, 32
NOT_MINED = tuple(kind for kind in oracle.MAIN_LOSS_TYPES if kind not in oracle.MINED)

IMAGE = np.random.default_rng(0).integers(20, 200, (40, 50, 3), dtype=np.uint8)
FLOAT = (IMAGE.transpose(2, 0, 1) / 255 - 0.45) / 0.23  # as a loader normalises it
STRETCHED = (IMAGE - IMAGE.min()) * 255.0 / np.ptp(IMAGE)


def arrays(kind="binary", shape=(N, H, W), seed=3):
    return make_batch(kind, shape, seed)


def plot(batch, dtype="float32", label_dtype="float32", **options):
    predicts = {"maps": tensor(batch.maps, dtype, grad=True)}
    return plot_batch(predicts, tensors(batch.labels, label_dtype), **options)


def axes_of(figure):
    """The panels by title."""
    return {ax.get_title(): ax for ax in figure.axes if ax.get_title()}


def shown(ax, layer=0):
    """What a layer of a panel shows: values that were drawn, NaN where they are masked."""
    values = ax.get_images()[layer].get_array()
    return np.ma.filled(np.ma.asarray(values, np.float64), np.nan)


def marked(ax, colour):
    """The pixels `[H, W]` that a colour was laid over."""
    layers = [shown(ax, i) for i in range(1, len(ax.get_images()))]
    chosen = [a for a in layers if np.allclose(a[0, 0, :3], to_rgb(colour))]
    assert len(chosen) == 1
    return chosen[0][..., 3] > 0


def hatched(ax):
    """The pixels `[H, W]` whose middle is hatched."""
    return surrounded(ax, filled=True, points=middles(ax))


def middles(ax):
    """The middle of each pixel, (x, y), `[H, W, 2]`."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    y, x = np.mgrid[: int(bottom - top), : int(right - left)]
    return np.stack((x, y), axis=2)


def surrounded(ax, filled, points):
    """Which points `[..., 2]` lie inside the contours of a panel, filled ones or lines."""
    sets = [a for a in ax.collections if isinstance(a, ContourSet) and a.filled == filled]
    inside = np.zeros(points[..., 0].size, bool)
    for contours in sets:
        for path in contours.get_paths():
            for ring in path.to_polygons():  # an area, or a hole in one
                inside ^= Path(ring).contains_points(points.reshape(-1, 2))
    return inside.reshape(points.shape[:-1])


def note(figure):
    return axes_of(figure)["hard negatives over P"].get_xlabel()


def legend(figure):
    return [text.get_text() for group in figure.legends for text in group.get_texts()]


def assert_readable(figure):
    """Each text is inside the figure, of 9 points or more, and none lies on another."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    beyond = [
        text
        for ax in figure.findobj(Axes)  # those below a panel too
        for axis in (ax.xaxis, ax.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        if not axis.get_view_interval().min() <= tick.get_loc() <= axis.get_view_interval().max()
        for text in tick.findobj(Text)
    ]
    boxes = []
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in beyond:
            assert text.get_fontsize() >= 9, text.get_text()
            boxes.append((text.get_text(), text.get_window_extent(canvas.get_renderer())))
    width, height = figure.get_size_inches() * figure.dpi
    for i, (name, box) in enumerate(boxes):
        assert box.x0 >= -1 and box.x1 <= width + 1, name
        assert box.y0 >= -1 and box.y1 <= height + 1, name
        for other_name, other in boxes[:i]:
            apart = (
                box.x1 <= other.x0 + 0.5
                or other.x1 <= box.x0 + 0.5
                or box.y1 <= other.y0 + 0.5
                or other.y1 <= box.y0 + 0.5
            )
            assert apart, (name, other_name)


# What is in the picture of a batch --------------------------------------------------------------


def test_predictions_stand_above_their_targets_on_one_scale():
    batch = arrays()
    figure = plot(batch, index=1)
    axes = axes_of(figure)
    rows = [
        (("probability P", batch.maps[1, 0]), ("target of P", batch.g[1])),
        (("threshold T", batch.maps[1, 1]), ("target of T", batch.t[1])),
        (("binary B", batch.maps[1, 2]), ("target of B", batch.g[1])),
    ]
    for column, pair in enumerate(rows):
        for row, (title, expected) in enumerate(pair):
            place = axes[title].get_subplotspec()
            assert (place.rowspan.start, place.colspan.start) == (row, column)
            np.testing.assert_allclose(shown(axes[title]), expected, atol=1e-6)
            assert axes[title].get_images()[0].get_clim() == (0, 1)


def test_what_has_no_part_in_a_loss_is_hatched():
    batch = arrays()
    batch.m[1, 5:9, 3:30] = 0
    axes = axes_of(plot(batch, index=1))
    for title, mask in [
        ("probability P", batch.m),
        ("target of P", batch.m),
        ("threshold T", batch.k),
        ("target of T", batch.k),
        ("binary B", batch.m),
        ("target of B", batch.m),
        ("cross-entropy of P", batch.m),
        ("hard negatives over P", batch.m),
    ]:
        np.testing.assert_array_equal(hatched(axes[title]), mask[1] == 0, err_msg=title)


def test_hatching_reaches_the_border():
    ax = axes_of(plot(arrays("all_ignored")))["probability P"]
    corners = np.array([(-0.4, -0.4), (W - 0.6, -0.4), (-0.4, H - 0.6), (W - 0.6, H - 0.6)])
    assert surrounded(ax, filled=True, points=corners).all()


def test_the_shrunk_text_is_outlined():
    batch = arrays()
    batch.g[1] = 0
    batch.g[1, 4:9, 20:W] = batch.g[1, 0, 0] = 1  # on the border too
    axes = axes_of(plot(batch, index=1, image=IMAGE))
    for title in ("hard negatives over P", "image"):
        inside = surrounded(axes[title], filled=False, points=middles(axes[title]))
        np.testing.assert_array_equal(inside, batch.g[1])


@pytest.mark.parametrize("kind", oracle.MAIN_LOSS_TYPES)
def test_the_title_has_the_parts_of_the_whole_batch(kind):
    batch = arrays()
    title = plot(batch, index=2, main_loss_type=kind, ohem_ratio=2).get_suptitle().splitlines()
    losses, _ = oracle.db({"maps": batch.maps}, batch.labels, main_loss_type=kind, ohem_ratio=2)
    assert title[0] == "image 2 of a batch of 3"
    assert title[1] == (
        f"of the whole batch: loss {losses['loss']:.4g} = shrink maps {losses[oracle.PARTS[0]]:.4g}"
        f" + threshold maps {losses[oracle.PARTS[1]]:.4g}"
        f" + binary maps {losses[oracle.PARTS[2]]:.4g}"
    )
    assert title[2] == f'DBLoss(main_loss_type="{kind}", ohem_ratio=2)'


@pytest.mark.parametrize(
    ("kind", "name", "loss"),
    [
        (None, "cross-entropy", lambda p, g: oracle.bce(p, g)[0]),
        ("BCELoss", "cross-entropy", lambda p, g: oracle.bce(p, g)[0]),
        ("CrossEntropy", "cross-entropy", lambda p, g: oracle.bce(p, g)[0]),
        ("DiceLoss", "cross-entropy", lambda p, g: oracle.bce(p, g)[0]),
        ("OHEMDiceLoss", "cross-entropy", lambda p, g: oracle.bce(p, g)[0]),
        ("Euclidean", "squared error", lambda p, g: (p - g) ** 2),
        ("MaskL1Loss", "absolute error", lambda p, g: np.abs(p - g)),
        # On text a weight of 0.25, elsewhere 0.75; the exponent is 2.
        (
            "DiceFocalLoss",
            "focal loss",
            lambda p, g: np.where(
                g == 1, -0.25 * (1 - p) ** 2 * np.log(p), -0.75 * p**2 * np.log(1 - p)
            ),
        ),
    ],
)
def test_the_loss_of_each_pixel(kind, name, loss):
    batch = arrays()
    ax = axes_of(plot(batch, index=1, main_loss_type=kind))[f"{name} of P"]
    p, g, m = (a[1].astype(np.float64) for a in batch.single)
    np.testing.assert_allclose(shown(ax), m * loss(p, g), rtol=1e-5, atol=1e-6)


def test_the_scale_of_the_loss_ends_where_it_does_or_at_5():
    batch = arrays()
    batch.maps[:, 0] = 0.5
    (low,) = axes_of(plot(batch))["cross-entropy of P"].get_images()
    assert low.get_clim() == (0, pytest.approx(np.log(2)))
    batch.maps[0, 0, 0, 0], batch.g[0, 0, 0], batch.m[0, 0, 0] = 0, 1, 1
    (high,) = axes_of(plot(batch))["cross-entropy of P"].get_images()
    assert high.get_clim() == (0, 5)
    assert shown(high.axes)[0, 0] == 100


@pytest.mark.parametrize("ratio", [1, 2.5])
@pytest.mark.parametrize("kind", [None, *oracle.MINED])
def test_hard_negatives_are_those_of_the_whole_batch(kind, ratio):
    batch = arrays()
    batch.maps[1, 0] *= 0.8  # so that a selection within the image alone would differ
    p, g, m = batch.single
    # Without ties, and with labels of 0 and 1, all rank negatives by their probability.
    count = int(ratio * (g * m).sum())
    least = np.sort(p[(g == 0) & (m == 1)])[-count]
    expected = (p >= least) & (g == 0) & (m == 1)
    assert 0 < expected[1].sum() < expected[0].sum()
    for index in range(N):
        figure = plot(batch, index=index, main_loss_type=kind, ohem_ratio=ratio)
        ax = axes_of(figure)["hard negatives over P"]
        np.testing.assert_allclose(shown(ax), p[index], atol=1e-6)
        np.testing.assert_array_equal(marked(ax, panels.VERMILLION), expected[index])
        assert not marked(ax, panels.SKY).any()
        assert note(figure).startswith(f"{expected[index].sum()} here, {count} in the batch")
        assert ("DiceLoss does not" in note(figure)) == (kind is None)


def test_hard_negatives_that_share_places_have_a_colour_of_their_own():
    batch = arrays("ties")
    weights = oracle.hard_negative_weights(*batch.single, ratio=2)[1]
    assert (weights == 1).any() and ((weights > 0) & (weights < 1)).any()
    figure = plot(batch, index=1, main_loss_type="OHEMDiceLoss", ohem_ratio=2)
    ax = axes_of(figure)["hard negatives over P"]
    np.testing.assert_array_equal(marked(ax, panels.VERMILLION), weights == 1)
    np.testing.assert_array_equal(marked(ax, panels.SKY), (weights > 0) & (weights < 1))
    assert {"hard negative", "hard negatives that share places"} <= set(legend(figure))


@pytest.mark.parametrize("kind", NOT_MINED)
def test_a_loss_that_does_not_mine_says_so(kind):
    figure = plot(arrays(), main_loss_type=kind)
    assert note(figure) == f"none: {kind} does not mine"
    ax = axes_of(figure)["hard negatives over P"]
    assert not marked(ax, panels.VERMILLION).any() and not marked(ax, panels.SKY).any()
    assert "hard negative" not in legend(figure)


def test_a_map_of_distances_brings_its_loss_into_the_title():
    batch = arrays()
    predicts = {"maps": tensor(batch.maps), "distance_maps": None, "cbn_maps": tensor(batch.maps)}
    title = plot_batch(predicts, tensors(batch.labels)).get_suptitle()
    losses, _ = oracle.db(
        {"maps": batch.maps, "distance_maps": None, "cbn_maps": batch.maps}, batch.labels
    )
    assert f" + cbn {losses['loss_cbn']:.4g}" in title


# What a training loop has at hand ---------------------------------------------------------------


@pytest.mark.parametrize("kind", [None, "BCELoss", "DiceLoss"])
def test_a_head_in_evaluation_mode_has_one_channel(kind):
    batch = arrays()
    predicts = {"maps": tensor(batch.maps[:, :1])}
    figure = plot_batch(predicts, tensors(batch.labels), index=1, main_loss_type=kind)
    assert set(axes_of(figure)) == {
        "probability P",
        "target of P",
        "cross-entropy of P",
        "hard negatives over P",
    }
    part = 5 * oracle.balance(*batch.single, kind=kind or "DiceLoss")[0]
    assert f"whole batch: shrink maps {part:.4g}; no T and B" in figure.get_suptitle()
    assert_readable(figure)


@pytest.mark.parametrize("channels", [1, 3])
def test_without_labels_the_predictions_are_drawn(channels):
    batch = arrays()
    predicts = {"maps": tensor(batch.maps[:, :channels])}
    figure = plot_batch(predicts, None, index=2, image=np.zeros((H, W, 3), np.uint8))
    titles = ["probability P", "threshold T", "binary B"][:channels]
    assert list(axes_of(figure)) == [*titles, "image"]
    np.testing.assert_array_equal(shown(axes_of(figure)["probability P"]), batch.maps[2, 0])
    assert figure.get_suptitle() == "image 2 of a batch of 3"
    assert_readable(figure)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (IMAGE, IMAGE),
        (paddle.to_tensor(IMAGE), IMAGE),
        (IMAGE.transpose(2, 0, 1), IMAGE),
        (np.dstack((IMAGE, IMAGE[..., 0])), IMAGE),
        (IMAGE[..., 0], IMAGE[..., [0, 0, 0]]),
        (IMAGE[..., :1], IMAGE[..., [0, 0, 0]]),
        (IMAGE[None, ..., 0], IMAGE[..., [0, 0, 0]]),
        (FLOAT, STRETCHED),
        (paddle.to_tensor(FLOAT), STRETCHED),
        (paddle.to_tensor(FLOAT).astype("float16"), STRETCHED),
        (np.full((3, 8, 8), 0.5), np.zeros((8, 8, 3))),
        (np.full((8, 8), np.nan), np.zeros((8, 8, 3))),
    ],
)
def test_an_image_of_any_form(image, expected):
    drawn = axes_of(plot(arrays(), image=image))["image"].get_images()[0]
    np.testing.assert_allclose(drawn.get_array(), expected, atol=2)
    assert drawn.get_extent() == [-0.5, W - 0.5, H - 0.5, -0.5]


def test_the_image_of_the_labels_is_drawn_in_grey_where_no_other_is_given():
    batch = arrays()
    images = np.random.default_rng(1).normal(size=(N, 3, H, W))
    labels = [tensor(images), *tensors(batch.labels[1:])]
    predicts = {"maps": tensor(batch.maps)}
    drawn = shown(axes_of(plot_batch(predicts, labels, index=1))["image"])
    grey = images[1].mean(axis=0)
    assert np.ptp(drawn, axis=2).max() == 0
    assert np.corrcoef(drawn[..., 0].ravel(), grey.ravel())[0, 1] > 0.999
    given = shown(axes_of(plot_batch(predicts, labels, index=1, image=IMAGE))["image"])
    np.testing.assert_array_equal(given, IMAGE)


@pytest.mark.parametrize("image", [None, "a path", tensor(np.zeros((N, 7)))])
def test_a_first_label_that_is_no_image_is_left_alone(image):
    batch = arrays()
    figure = plot_batch({"maps": tensor(batch.maps)}, [image, *tensors(batch.labels[1:])])
    assert "image" not in axes_of(figure)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("label_dtype", ["bool", "int32", "uint8", "float16"])
def test_other_dtypes_draw_the_same(dtype, label_dtype):
    batch = arrays()
    batch.t[:] = 1  # a threshold that a bool can hold
    other = axes_of(plot(batch, dtype, label_dtype, main_loss_type="BCELoss"))
    for title, ax in axes_of(plot(batch, main_loss_type="BCELoss")).items():
        np.testing.assert_allclose(shown(other[title]), shown(ax), rtol=0.05, atol=0.01)
        np.testing.assert_array_equal(hatched(other[title]), hatched(ax))


def test_nothing_of_the_callers_is_changed(monkeypatch):
    batch = arrays()
    predicts = {"maps": tensor(batch.maps, grad=True)}
    image = np.array(IMAGE, np.float32)
    labels = [tensor(np.zeros((N, 3, H, W))), *tensors(batch.labels[1:])]
    settings = dict(matplotlib.rcParams)
    state = paddle.get_rng_state()[0].current_seed()
    plot_batch(predicts, labels, image=image, main_loss_type="OHEMDiceLoss").savefig("/dev/null")
    np.testing.assert_array_equal(predicts["maps"].numpy(), batch.maps)
    for label, expected in zip(labels[1:], batch.labels[1:]):
        np.testing.assert_array_equal(label.numpy(), expected)
    np.testing.assert_array_equal(image, IMAGE)
    assert list(predicts) == ["maps"] and predicts["maps"].grad is None
    assert not predicts["maps"].stop_gradient and all(label.stop_gradient for label in labels)
    assert dict(matplotlib.rcParams) == settings
    assert paddle.get_rng_state()[0].current_seed() == state


# Odd batches ------------------------------------------------------------------------------------


def test_what_is_not_finite_is_marked():
    batch = arrays()
    batch.maps[1, 0, 4, 7] = np.nan
    batch.maps[1, 0, 6, 2] = np.inf
    batch.maps[1, 1, 5, 9] = -np.inf
    figure = plot(batch, index=1, main_loss_type="BCELoss")
    axes = axes_of(figure)
    for title, places in [
        ("probability P", {(7, 4), (2, 6)}),
        ("threshold T", {(9, 5)}),
        ("binary B", set()),
        ("cross-entropy of P", {(7, 4), (2, 6)}),
        ("hard negatives over P", {(7, 4), (2, 6)}),
    ]:
        (marks,) = [line for line in axes[title].lines if line.get_marker() == "s"]
        assert {(int(x), int(y)) for x, y in marks.get_xydata()} == places, title
        assert marks.get_color() == panels.PURPLE
        assert {(x, y) for y, x in np.argwhere(np.isnan(shown(axes[title]))).tolist()} == places
        assert tuple(axes[title].get_images()[0].get_cmap().get_bad()[:3]) == to_rgb(panels.PURPLE)
    assert "loss nan" in figure.get_suptitle()
    assert "NaN or Inf" in legend(figure)
    assert "NaN or Inf" not in legend(plot(batch, index=0))


@pytest.mark.parametrize("kind", [None, "BCELoss", "OHEMDiceLoss", "DiceFocalLoss"])
@pytest.mark.parametrize("batch", ["no_text", "all_text", "all_ignored", "noise", "masks_255"])
def test_odd_batches_draw(batch, kind):
    figure = plot(arrays(batch), main_loss_type=kind)
    assert_readable(figure)
    if batch in ("no_text", "all_text", "all_ignored") and kind in oracle.MINED:
        assert note(figure) == "none in the batch"
    if batch == "all_ignored":
        assert hatched(axes_of(figure)["probability P"]).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 60), (60, 1), (2, 3), (400, 20), (20, 400)])
def test_maps_of_any_size_draw_readably(size):
    batch = arrays(shape=(1, *size))
    for image in (None, IMAGE):
        figure = plot(batch, image=image, main_loss_type="BCELoss")
        assert_readable(figure)
        assert figure.get_size_inches().max() < 25
        panel = axes_of(figure)["cross-entropy of P"]
        assert panel.get_window_extent().height > 50
        (scale,) = panel.child_axes
        assert scale.get_window_extent().y1 < panel.get_window_extent().y0


def test_all_is_nan():
    batch = arrays()
    batch.maps[:] = np.nan
    assert_readable(plot(batch))


# The legend, letters and colours ----------------------------------------------------------------


@pytest.mark.parametrize("dpi", [100, 72])
def test_letters_are_readable_at_the_default_size(dpi):
    batch = arrays("ties", (8, 160, 160))
    figure = plot(batch, index=7, image=IMAGE, ohem_ratio=2.5)
    figure.set_dpi(dpi)
    assert_readable(figure)
    assert legend(figure) == [
        "hard negative",
        "hard negatives that share places",
        "outline of the shrunk text",
        "not in the loss: mask 0",
    ]


# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision
# Deficiency", 2009, severity 1.
BLIND = {
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("kind", BLIND)
@pytest.mark.parametrize(
    "colours",
    [
        (panels.VERMILLION, panels.SKY, panels.GREEN),  # over P
        (panels.BLUE, panels.ORANGE, panels.VERMILLION),  # targets
        ("black", panels.BLUE, panels.ORANGE, panels.SKY, panels.VERMILLION),  # losses
    ],
)
def test_colours_that_meet_are_told_apart_by_the_colour_blind(kind, colours):
    linear = np.array([to_rgb(colour) for colour in colours]) ** 2.2
    seen = (linear @ np.array(BLIND[kind]).T).clip(0, 1) ** (1 / 2.2)
    for i in range(len(seen)):
        for j in range(i):
            assert np.abs(seen[i] - seen[j]).max() > 0.17, (colours[i], colours[j])


# No display, no pyplot, no matplotlib where none is asked for -----------------------------------


def run(script, **env):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "DISPLAY": "", **env},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_dbloss_imports_no_matplotlib():
    assert run("import sys, dbloss; print('matplotlib' in sys.modules)") == "False\n"


def test_pictures_need_neither_pyplot_nor_a_display(tmp_path):
    script = f"""
import sys
import paddle
from dbloss.plot import plot_batch, plot_history
m = paddle.rand([1, 3, 8, 8]); o = paddle.ones([1, 8, 8])
plot_batch({{"maps": m}}, [None, o, o, o, o]).savefig({str(tmp_path / "a.png")!r})
plot_history([{{"loss": 1.0}}]).savefig({str(tmp_path / "b.png")!r})
print("matplotlib.pyplot" in sys.modules)
"""
    assert run(script, MPLBACKEND="tkagg") == "False\n"
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_without_matplotlib_the_import_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("dbloss.plot")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'matplotlib.*pip install "dbloss\[plot\]"'):
        importlib.import_module("dbloss.plot")


def test_without_opencv_the_command_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "dbloss.plot.__main__")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r'cv2.*pip install "dbloss\[targets\]"'):
        importlib.import_module("dbloss.plot.__main__")


@pytest.mark.parametrize("name", ["batch", "history"])
def test_examples_of_the_docstrings(name):
    failed, tried = doctest.testmod(importlib.import_module(f"dbloss.plot.{name}"))
    assert tried and not failed


def test_a_ratio_written_as_text_is_read():
    title = plot(arrays(), ohem_ratio="2e0").get_suptitle().splitlines()
    assert title[2] == 'DBLoss(main_loss_type="DiceLoss", ohem_ratio=2)'


# Errors of plot_batch ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "parts"),
    [
        ({"index": 3}, ValueError, ["index", "0 to 2", "3 images", "got 3"]),
        ({"index": -1}, ValueError, ["index", "0 to 2", "-1"]),
        ({"index": 1.0}, TypeError, ["index", "whole number", "float 1.0"]),
        ({"index": True}, TypeError, ["index", "bool True"]),
        ({"main_loss_type": "diceloss"}, ValueError, ["main_loss_type", "DiceLoss", "spelling"]),
        ({"main_loss_type": ""}, ValueError, ["main_loss_type"]),
        ({"ohem_ratio": -1}, ValueError, ["ohem_ratio", "at least 0"]),
        ({"image": np.zeros((2, 3, 8, 8))}, ValueError, ["image", "h, w", "one image"]),
        ({"image": np.zeros((8, 8, 5))}, ValueError, ["image", r"\[8, 8, 5\]"]),
        ({"image": np.zeros((0, 8))}, ValueError, ["image", r"\[0, 8\]"]),
        ({"image": 3}, ValueError, ["image", r"\[\]"]),
    ],
)
def test_a_wrong_option_is_named(options, error, parts):
    with pytest.raises(error) as caught:
        plot(arrays(), **options)
    for part in parts:
        assert re.search(part, str(caught.value))


def test_a_wrong_batch_is_named_as_the_loss_names_it():
    batch = arrays()
    labels = tensors(batch.labels)
    with pytest.raises(ValueError, match=r"expected the shape \[N, 3, H, W\]"):
        plot_batch({"maps": tensor(batch.maps[:, :2])}, labels)
    with pytest.raises(TypeError, match="predicts: expected a dict"):
        plot_batch(tensor(batch.maps), labels)
    with pytest.raises(ValueError, match="labels: expected 5 entries"):
        plot_batch({"maps": tensor(batch.maps)}, labels[1:])
    with pytest.raises(ValueError, match=r"labels\[3\] \(shrink_map\): expected the shape"):
        plot_batch({"maps": tensor(batch.maps)}, [*labels[:3], labels[3][:, 1:], labels[4]])


# The losses of a run ----------------------------------------------------------------------------


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


# The command ------------------------------------------------------------------------------------

# In an image of 128 x 96. On corners (10, 10) to (110, 40) an area of 3000 and a perimeter of 260
# move the outline by 3000 * 0.84 / 260 = 9.69.
WORD = [[10, 10], [110, 10], [110, 40], [10, 40]]
WORD_SHARE = (100 - 19) * (30 - 19) / (128 * 96)  # columns 20 to 100 and rows 20 to 30
HIDDEN = [[10, 50], [60, 50], [60, 70], [10, 70]]
HIDDEN_SHARE = 51 * 21 / (128 * 96)
SMALL = [[80, 60], [110, 60], [110, 67], [80, 67]]  # 7 pixels high
SMALL_SHARE = 31 * 8 / (128 * 96)
TEXTS = [("word", WORD), ("###", HIDDEN), ("\u5929\u5730", SMALL)]


def listed(texts):
    return [{"transcription": text, "points": points} for text, points in texts]


class Command:
    """Runs `python -m dbloss.plot` in this process, in a folder of its own."""

    def __init__(self, folder, monkeypatch, capsys):
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys
        monkeypatch.chdir(folder)
        self.image = self.write_image("page.png", np.full((96, 128, 3), 200, np.uint8))

    def write_image(self, name, array):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix, array)[1].tobytes())
        return path

    def write_labels(self, content, name="label.txt"):
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def __call__(self, *options, image=None, labels="label.txt", output="out.png"):
        """Return status, what was printed, and the message."""
        words = [image or self.image, self.folder / labels, "-o", self.folder / output, *options]
        self.monkeypatch.setattr(sys, "argv", ["plot", *map(str, words)])
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code
        return status, *self.capsys.readouterr()

    def numbers(self, *options, **files):
        """Return polygons and share of pixels of each row."""
        status, printed, message = self(*options, **files)
        assert (status, message) == (0, "")
        rows = re.findall(r"^([a-z ]+?) {2,}([\d,]*) +(\d+\.\d+)%$", printed, re.MULTILINE)
        return printed, {name: (int(n or -1), float(share) / 100) for name, n, share in rows}

    def refuses(self, *parts, **files):
        status, printed, message = self(**files)
        assert (status, printed) == (2, "")
        for part in parts:
            assert part in message, message
        assert "Traceback" not in message and message.startswith("python -m dbloss.plot: ")
        assert not (self.folder / "out.png").exists()


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    return Command(tmp_path, monkeypatch, capsys)


def line(path, texts):
    return f"{path}\t{json.dumps(listed(texts), ensure_ascii=False)}\n"


def test_the_command_says_how_much_is_text_ignored_and_dropped(command):
    command.write_labels(line("other.png", []) + line("page.png", TEXTS))
    printed, rows = command.numbers()
    assert printed.startswith(f"{command.folder / 'label.txt'}, line 2\n")
    assert "targets of 96 x 128 pixels (height x width)" in printed
    assert "dropped: entries 3\n" in printed
    rest = 1 - WORD_SHARE - HIDDEN_SHARE - SMALL_SHARE
    assert rows == {
        "text": (1, pytest.approx(WORD_SHARE, abs=6e-5)),
        "ignored": (1, pytest.approx(HIDDEN_SHARE, abs=6e-5)),
        "dropped as too small": (1, pytest.approx(SMALL_SHARE, abs=6e-5)),
        "background": (-1, pytest.approx(rest, abs=6e-5)),
    }
    picture = cv2.imread(str(command.folder / "out.png"))
    assert min(picture.shape[:2]) > 700 and picture.std() > 20


def test_text_under_an_ignored_text_is_ignored(command):
    command.write_labels(line("page.png", [("word", WORD), ("###", WORD)]))
    rows = command.numbers()[1]
    assert rows["text"] == (1, 0)
    assert rows["ignored"] == (1, pytest.approx(101 * 31 / (128 * 96), abs=6e-5))


def test_the_size_decides_what_is_dropped(command):
    # At half the size the hidden text stays, and the word is 15 pixels high.
    command.write_labels(
        line("page.png", [*TEXTS, ("low", [[5, 80], [60, 80], [60, 94], [5, 94]])])
    )
    assert "dropped: entries 3\n" in command.numbers()[0]
    printed, rows = command.numbers("--size", "48", "128")
    assert (
        "targets of 48 x 128 pixels (height x width),\nthe image of 96 x 128 scaled by 0.5\n"
        in (printed)
    )
    assert "dropped: entries 3, 4\n" in printed
    assert rows["ignored"][1] == pytest.approx(26 * 11 / (48 * 128), abs=6e-5)
    printed, rows = command.numbers("--size", "192", "256")
    assert rows["dropped as too small"] == (0, 0) and "dropped: entries" not in printed


@pytest.mark.parametrize("seed", range(3))
def test_a_polygon_is_dropped_as_make_targets_drops_it(seed):
    rng = np.random.default_rng(seed)
    middles = rng.uniform(-5, 105, (40, 1, 2))
    polygons = (middles + rng.normal(0, 7, (40, 4, 2))).astype(np.float32)
    _, kinds = make_and_sort(list(polygons), [False] * 40, 100, 100)
    kept = [
        number
        for number, polygon in enumerate(polygons, start=1)
        if make_targets([polygon], [False], 100, 100).shrink_map.any()
    ]
    assert kinds[0].entries == kept and 3 < len(kept) < 37
    assert sorted(kinds[0].entries + kinds[2].entries) == list(range(1, 41))


def test_the_picture_shows_polygons_and_targets():
    polygons = [np.array(points, np.float32) for _, points in TEXTS]
    flags = [False, True, False]
    targets, kinds = make_and_sort(polygons, flags, 96, 128)
    image = np.full((96, 128, 3), 200, np.uint8)
    figure = draw_targets(image, polygons, targets, kinds, "title")
    axes = axes_of(figure)
    outlines = axes["polygons"].patches
    assert [patch.get_xy()[:4].tolist() for patch in outlines] == [WORD, HIDDEN, SMALL]
    assert len({patch.get_edgecolor() for patch in outlines}) == 3
    assert len({patch.get_linestyle() for patch in outlines}) == 3
    shrunk = axes["shrink map and mask"]
    np.testing.assert_array_equal(marked(shrunk, kinds[0].colour), targets.shrink_map)
    for kind, points in (kinds[1], HIDDEN), (kinds[2], SMALL):
        (left, top), (right, bottom) = points[0], points[2]
        expected = np.zeros((96, 128), bool)
        expected[top : bottom + 1, left : right + 1] = True
        np.testing.assert_array_equal(marked(shrunk, kind.colour), expected)
    np.testing.assert_array_equal(shown(axes["threshold map"]), targets.threshold_map)
    np.testing.assert_array_equal(hatched(axes["threshold map"]), targets.threshold_mask == 0)
    assert legend(figure)[:3] == [
        "text: 1, 7.25% of the pixels",
        "ignored: 1, 8.72% of the pixels",
        "dropped as too small: 1, 2.02% of the pixels",
    ]
    assert_readable(figure)


@pytest.mark.parametrize("size", [(30, 900), (900, 30), (1, 1)])
def test_the_picture_of_targets_of_any_size_is_readable(size):
    targets, kinds = make_and_sort([], [], *size)
    image = np.zeros((*size, 3), np.uint8)
    assert_readable(draw_targets(image, [], targets, kinds, "one line,\nand another"))


@pytest.mark.parametrize("mark", ["###", "*"])
def test_both_marks_of_an_ignored_text(command, mark):
    command.write_labels(line("page.png", [(mark, WORD), ("# ##", HIDDEN)]))
    assert {name: n for name, (n, _) in command.numbers()[1].items()} == {
        "text": 1,
        "ignored": 1,
        "dropped as too small": 0,
        "background": -1,
    }


@pytest.mark.parametrize(
    ("before", "path", "after"),
    [
        (b"\xef\xbb\xbf", "page.png", b""),
        (b"\n\r\n", "page.png", b"\n\n"),
        (b"", "./page.png", b""),
        (b"", "elsewhere/page.png", b""),
        (b"", "elsewhere\\page.png", b""),
        (b"page.png.bak\t[]\n", " page.png", b""),
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
def test_label_lines(command, before, path, after, ending):
    text = line(path, [("\u5929\u2028\u5730", WORD)]).replace("\n", ending).encode()
    command.write_labels(before + text + after)
    assert command.numbers()[1]["text"][0] == 1


@pytest.mark.parametrize("indent", [None, 2, "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_file_with_the_list_alone(command, indent, encoding):
    text = json.dumps(listed(TEXTS), indent=indent, ensure_ascii=False)
    command.write_labels(text.encode(encoding), "list.json")
    printed, rows = command.numbers(labels="list.json")
    assert rows["ignored"][0] == 1
    assert printed.startswith(f"{command.folder / 'list.json'}\ntargets")


def test_an_empty_list_is_a_page_without_text(command):
    for content in ("page.png\t[]", "[]", " [\n]"):
        command.write_labels(content)
        assert command.numbers()[1]["background"] == (-1, 1)


def test_the_longest_path_that_fits_is_taken(command):
    image = command.write_image("a/b/page.png", np.zeros((96, 128, 3), np.uint8))
    command.write_labels(
        line("page.png", []) + line("b/page.png", TEXTS[:1]) + line("c/b/page.png", [])
    )
    assert command.numbers(image=image)[0].splitlines()[0].endswith("line 2")
    # A relative path, and one with dots, mean the same file.
    for path in ("a/b/page.png", "a/../a/b/page.png"):
        assert command.numbers(image=path)[0].splitlines()[0].endswith("line 2")


@pytest.mark.parametrize("array", [np.zeros((96, 128), np.uint8), np.zeros((96, 128, 4), np.uint8)])
def test_grey_images_and_images_with_alpha(command, array):
    command.write_labels(line("page.png", TEXTS))
    image = command.write_image("\u5929/page.png", array)
    assert command.numbers(image=image)[1]["text"][0] == 1


def test_an_image_is_turned_as_its_exif_data_says(command):
    picture = Image.fromarray(np.zeros((96, 128, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees: 128 high, 96 wide
    picture.save(command.folder / "turned.jpg", exif=exif)
    command.write_labels(
        line("turned.jpg", [("low", [[10, 100], [80, 100], [80, 128], [10, 128]])])
    )
    printed, rows = command.numbers(image="turned.jpg")
    assert "targets of 128 x 96 pixels" in printed and rows["text"][0] == 1


def test_points_on_the_border_are_inside(command):
    command.write_labels(line("page.png", [("word", [[0, 0], [128, 0], [128, 96], [0, 96]])]))
    assert command.numbers()[1]["text"][0] == 1


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        ({"transcription": "word"}, ['"points"', "['transcription']"]),
        ({"points": WORD}, ['"transcription"', "['points']"]),
        ("word", ["dict", "'word'"]),
        ({"transcription": None, "points": WORD}, ["string", "None"]),
        ({"transcription": "word", "points": WORD[:2]}, ["'word'", "at least 3 points, got 2"]),
        ({"transcription": "word", "points": []}, ["at least 3 points, got 0"]),
        ({"transcription": "word", "points": 3}, ["'word'", "numbers", "got 3"]),
        ({"transcription": "word", "points": [[1, 2, 3]] * 4}, ["numbers", "[1, 2, 3]"]),
        ({"transcription": "word", "points": [["1", 2]] * 4}, ["numbers", "['1', 2]"]),
        ({"transcription": "word", "points": [[True, 2]] * 4}, ["numbers", "[True, 2]"]),
        ({"transcription": "\u5929", "points": [*WORD[:3], [-1, 40]]}, ["\u5929", "(-1, 40)"]),
        ({"transcription": "word", "points": [*WORD[:3], [5, 97]]}, ["128 pixels wide", "(5, 97)"]),
        ({"transcription": "word", "points": [*WORD[:3], [128.5, 9]]}, ["96 high", "(128.5, 9)"]),
        ({"transcription": "###", "points": [*WORD[:3], [float("nan"), 9]]}, ["(nan, 9)"]),
        ({"transcription": "word", "points": [*WORD[:3], [1e400, 9]]}, ["(inf, 9)"]),
        ({"transcription": "word", "points": [*WORD[:3], [10**400, 9]]}, ["inside the image"]),
    ],
)
def test_a_wrong_entry_is_named(command, entry, parts):
    entries = json.dumps([*listed(TEXTS), entry], ensure_ascii=False)
    command.write_labels(f"other.png\t[]\npage.png\t{entries}\n")
    command.refuses("label.txt, line 2, entry 4 of 4: ", "expected", *parts)
    command.write_labels(entries)
    command.refuses("label.txt, entry 4 of 4: ", *parts)


def test_every_wrong_entry_is_named(command):
    command.write_labels(line("page.png", [("a", WORD[:1]), ("b", WORD), ("c", WORD[:2])]))
    command.refuses("line 1, entry 1 of 3: 'a'", "line 1, entry 3 of 3: 'c'")
    command.write_labels(line("page.png", [("a", WORD[:1])] * 25))
    command.refuses("entry 10 of 25", "and 15 more")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (
            'page.png\t[{"transcription": "a", "points": [[1, 2]',
            ["line 1: expected a list in JSON", "at column 42, near"],
        ),
        ('other.png\t[]\npage.png\t{"points": []}', ["line 2", "list", '{"points": []}']),
        ("page.png\tnull", ["line 1", "list", "null"]),
        ('[{"transcription": "a"},\n{"points": 1],\n{}]', ["JSON", "at line 2, column 13, near"]),
        ("page.png []", ["line 1", "no tab", "page.png []"]),
        ("page.png\t[]\nother.png []", ["line 2", "no tab"]),
        ("page.png\t[]\n\u5929.png\t[]".encode("gb18030"), ["line 2", "UTF-8", "0xCC"]),
        ("", ["page.png", "got 0", "empty"]),
        ("a.png\t[]\nb.png\t[]", ["page.png", "got 0", "line 1: a.png", "line 2: b.png"]),
        ("page.png\t[]\n\npage.png\t[]", ["page.png", "got 2", "line 1: page", "line 3: page"]),
        ("./page.png\t[]\npage.png\t[]", ["got 2", "line 1: ./page.png", "line 2: page.png"]),
        ("a/page.png\t[]\nb/page.png\t[]\nc.png\t[]", ["got 2", "line 2: b/page.png"]),
    ],
)
def test_a_wrong_file_is_named(command, content, parts):
    command.write_labels(content)
    command.refuses("label.txt", *parts)


def test_of_many_lines_ten_are_listed(command):
    command.write_labels("".join(line(f"{i}.png", []) for i in range(40)))
    command.refuses("line 10: 9.png", "and 30 more")


def test_missing_and_unreadable_files(command):
    command.write_labels(line("page.png", TEXTS))
    command.refuses("No such file", "absent.png", image="absent.png")
    command.refuses("No such file", "absent.txt", labels="absent.txt")
    for content in (b"", b"no image"):
        (command.folder / "broken.png").write_bytes(content)
        command.refuses("broken.png", "expected an image", image="broken.png")
    command.refuses("No such file", "absent/out.png", output="absent/out.png")
    command.refuses("'txt' is not supported", output="out.txt")


def test_wrong_options(command):
    command.write_labels(line("page.png", TEXTS))
    for options in (["--size", "0", "5"], ["--size", "640"], ["--size", "a", "b"], ["--sise", "1"]):
        status, _, message = command(*options)
        assert status == 2 and options[0] in message


def test_the_command_runs_as_a_module(command):
    command.write_labels(line("page.png", TEXTS))
    arguments = ["page.png", "label.txt", "-o", "out.png", "--size", "192", "192"]
    words = [sys.executable, "-W", "ignore", "-m", "dbloss.plot", *arguments]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "scaled by 1.5" in done.stdout and (command.folder / "out.png").exists()
    done = subprocess.run([*words[:5], "--help"], capture_output=True, text=True, timeout=120)
    for word in ("IMAGE", "ANNOTATIONS", "--output", "--size", "###"):
        assert word in done.stdout
