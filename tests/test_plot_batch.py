"""plot_batch: what was given, what the loss makes of it, and that it reads in any case."""

import re

import matplotlib
import numpy as np
import oracle
import paddle
import pytest
from helpers import make_batch, tensor, tensors
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from pictures import assert_readable, axes_of, hatched, legend, marked, middles, shown, surrounded

from dbloss.plot import panels, plot_batch

N, H, W = 3, 20, 32
MINED = (*oracle.MINED, "DiceBCELoss")
NOT_MINED = tuple(kind for kind in oracle.MAIN_LOSS_TYPES if kind not in MINED)

IMAGE = np.random.default_rng(0).integers(20, 200, (40, 50, 3), dtype=np.uint8)
FLOAT = (IMAGE.transpose(2, 0, 1) / 255 - 0.45) / 0.23  # as a loader normalises it
STRETCHED = (IMAGE - IMAGE.min()) * 255.0 / np.ptp(IMAGE)


def arrays(kind="binary", shape=(N, H, W), seed=3):
    return make_batch(kind, shape, seed)


def plot(batch, dtype="float32", label_dtype="float32", **options):
    predicts = {"maps": tensor(batch.maps, dtype, grad=True)}
    return plot_batch(predicts, tensors(batch.labels, label_dtype), **options)


def note(figure):
    return axes_of(figure)["hard negatives over P"].get_xlabel()


# What is in the picture of a batch --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["DiceLoss", "BCELoss"])
def test_predictions_stand_above_their_targets_on_one_scale(kind):
    batch = arrays()
    figure = plot(batch, index=1, image=IMAGE, main_loss_type=kind)
    axes = axes_of(figure)
    columns = [
        [("probability P", batch.maps[1, 0]), ("target of P", batch.g[1])],
        [("threshold T", batch.maps[1, 1]), ("target of T", batch.t[1])],
        [("binary B", batch.maps[1, 2])],  # its target is that of P
    ]
    image = axes["image"].get_position()
    assert image.width > 0.95  # at full width, and first
    assert image.y0 > max(ax.get_position().y1 for title, ax in axes.items() if title != "image")
    tops = [axes[title].get_position().y1 for title in ("probability P", "target of P")]
    lefts = [axes[stacked[0][0]].get_position().x0 for stacked in columns]
    assert tops == sorted(tops, reverse=True) and lefts == sorted(lefts)
    for left, stacked in zip(lefts, columns):
        for top, (title, expected) in zip(tops, stacked):
            place = axes[title].get_position()
            assert (place.x0, place.y1) == pytest.approx((left, top))
            np.testing.assert_allclose(shown(axes[title]), expected, atol=1e-6)
            assert axes[title].get_images()[0].get_clim() == (0, 1)


def test_what_has_no_part_in_a_loss_is_hatched():
    batch = arrays()
    batch.m[1, 5:9, 3:30] = 0
    axes = axes_of(plot(batch, index=1, main_loss_type="BCELoss"))
    for title, mask in [
        ("probability P", batch.m),
        ("target of P", batch.m),
        ("threshold T", batch.k),
        ("target of T", batch.k),
        ("binary B", batch.m),
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
    axes = axes_of(plot(batch, index=1, image=IMAGE, main_loss_type="BCELoss"))
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
        ("BCELoss", "cross-entropy", lambda p, g: oracle.bce(p, g)[0]),
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


@pytest.mark.parametrize("kind", MINED)
def test_hard_negatives_are_those_of_the_whole_batch(kind, ratio=2.5):
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
        assert note(figure) == f"{expected[index].sum()} here, {count} in the batch"


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
def test_no_hard_negatives_are_drawn_of_a_loss_that_does_not_mine(kind):
    figure = plot(arrays(), main_loss_type=kind)
    assert len(axes_of(figure)) == 6  # three maps, two targets, the loss
    assert "hard negatives over P" not in axes_of(figure)
    assert "hard negative" not in legend(figure)


def test_a_map_of_distances_brings_its_loss_into_the_title():
    batch = arrays()
    predicts = {"maps": tensor(batch.maps), "distance_maps": None, "cbn_maps": tensor(batch.maps)}
    title = plot_batch(predicts, tensors(batch.labels)).get_suptitle()
    losses, _ = oracle.db(
        {"maps": batch.maps, "distance_maps": None, "cbn_maps": batch.maps}, batch.labels
    )
    assert f" + cbn {losses['loss_cbn']:.4g}" in title


@pytest.mark.parametrize("channels", [1, 3])
def test_weights_of_pixels_are_in_the_title(channels):
    batch = arrays()
    labels = [*batch.labels, np.random.default_rng(1).uniform(0.25, 6, (N, H, W))]
    predicts = {"maps": tensor(batch.maps[:, :channels])}
    title = plot_batch(predicts, tensors(labels), main_loss_type="BCELoss").get_suptitle()
    losses, _ = oracle.db({"maps": batch.maps}, labels, main_loss_type="BCELoss")
    assert f"shrink maps {losses['loss_shrink_maps']:.4g}" in title


# Larger: the size, and places zoomed -----------------------------------------------------------


def large():
    """A batch of 320 x 320 where P is wrong in one place, and a little so in another."""
    batch = arrays(shape=(1, 320, 320))
    batch.g[:], batch.m[:] = 0, 1
    batch.maps[:, 0] = 0.01
    batch.maps[0, 0, 40:50, 200:230] = 0.99
    batch.maps[0, 0, 200:210, 50:60] = 0.9
    return batch


def test_the_places_where_the_loss_is_largest_are_zoomed():
    axes = axes_of(plot(large(), image=IMAGE))
    zooms = {title: ax for title, ax in axes.items() if ": " in title}
    assert list(zooms) == [
        f"{letter}: {title}"
        for letter in "AB"
        for title in ("image", "probability P", "target of P", "cross-entropy of P")
    ]
    for letter, (left, top, right, bottom) in {
        "A": (200, 40, 230, 50),
        "B": (50, 200, 60, 210),
    }.items():
        for title, ax in zooms.items():
            if title.startswith(letter):
                (x0, x1), (y1, y0) = ax.get_xlim(), ax.get_ylim()
                assert x0 < left and right < x1 and y0 < top and bottom < y1
                assert x1 - x0 == 64  # a fifth of the map
    assert [text.get_text().strip() for text in axes["image"].texts] == ["A", "B"]


def test_chosen_places_are_zoomed_and_none_where_none_is_asked_for():
    axes = axes_of(plot(large(), zoom=[(10, 20, 110, 80)], main_loss_type="BCELoss"))
    ax = axes["A: hard negatives over P"]
    assert ax.get_xlim() == (9.5, 109.5) and ax.get_ylim() == (79.5, 19.5)
    assert shown(ax).shape == (320, 320)
    assert not any(": " in title for title in axes_of(plot(large(), zoom=())))
    predicts = {"maps": tensor(large().maps)}
    assert "A: binary B" in axes_of(plot_batch(predicts, None, zoom=[(0, 0, 9, 9)]))


def test_a_zoomed_figure_of_any_width_is_readable():
    for size in (9, 16):
        figure = plot(large(), image=IMAGE, size=size, main_loss_type="BCELoss")
        assert figure.get_size_inches()[0] == size
        assert_readable(figure)


def test_the_padding_of_an_image_is_left_out():
    batch = arrays()
    image = np.zeros((H, W, 3), np.uint8)
    image[:12, :30] = IMAGE[:12, :30]
    figure = plot(batch, image=image)
    for ax in axes_of(figure).values():
        assert ax.get_xlim() == (-0.5, 29.5) and ax.get_ylim() == (11.5, -0.5)
    assert f"of its {H} x {W} pixels the padding is left out" in figure.get_suptitle()


def test_a_few_hard_negatives_among_many_pixels_are_marked():
    ax = axes_of(plot(large(), zoom=(), main_loss_type="BCELoss"))["hard negatives over P"]
    assert not any(len(line.get_xdata()) for line in ax.lines if line.get_marker() == ".")
    batch = large()
    batch.g[0, 100, 100] = 1
    ax = axes_of(plot(batch, zoom=(), main_loss_type="BCELoss"))["hard negatives over P"]
    (dots,) = [line for line in ax.lines if line.get_color() == panels.VERMILLION]
    np.testing.assert_array_equal(
        dots.get_xydata(), np.argwhere(marked(ax, panels.VERMILLION))[:, ::-1]
    )


def test_a_notebook_shows_it_as_the_last_line_of_a_cell():
    figure = plot(arrays())
    assert figure._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"


# What a training loop has at hand ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["BCELoss", "DiceLoss"])
def test_a_head_in_evaluation_mode_has_one_channel(kind):
    batch = arrays()
    predicts = {"maps": tensor(batch.maps[:, :1])}
    figure = plot_batch(predicts, tensors(batch.labels), index=1, main_loss_type=kind)
    mined = {"hard negatives over P"} if kind == "BCELoss" else set()
    assert set(axes_of(figure)) == {"probability P", "target of P", "cross-entropy of P"} | mined
    part = 5 * oracle.balance(*batch.single, kind=kind)[0]
    assert f"whole batch: shrink maps {part:.4g}; no T and B" in figure.get_suptitle()
    assert_readable(figure)


@pytest.mark.parametrize("channels", [1, 3])
def test_without_labels_the_predictions_are_drawn(channels):
    batch = arrays()
    predicts = {"maps": tensor(batch.maps[:, :channels])}
    figure = plot_batch(predicts, None, index=2, image=np.zeros((H, W, 3), np.uint8))
    titles = ["probability P", "threshold T", "binary B"][:channels]
    assert list(axes_of(figure)) == ["image", *titles]
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


@pytest.mark.parametrize(
    ("dtype", "label_dtype"), [("float16", "bool"), ("bfloat16", "uint8"), ("float64", "float16")]
)
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


@pytest.mark.parametrize(
    ("batch", "kind"),
    [
        *((batch, "BCELoss") for batch in ("no_text", "all_text", "all_ignored", "masks_255")),
        *(("noise", kind) for kind in ("DiceLoss", "OHEMDiceLoss", "DiceFocalLoss")),
    ],
)
def test_odd_batches_draw(batch, kind):
    figure = plot(arrays(batch), main_loss_type=kind)
    assert_readable(figure)
    if batch in ("no_text", "all_text", "all_ignored"):
        assert note(figure) == "none in the batch"
    if batch == "all_ignored":
        assert hatched(axes_of(figure)["probability P"]).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 60), (60, 1), (2, 3), (400, 20), (20, 400)])
def test_maps_of_any_size_draw_readably(size):
    figure = plot(arrays(shape=(1, *size)), image=IMAGE, main_loss_type="BCELoss")
    assert_readable(figure)
    assert figure.get_size_inches().max() < 25
    panel = axes_of(figure)["cross-entropy of P"]
    assert panel.get_window_extent().height > 50
    (scale,) = panel.child_axes
    assert scale.get_window_extent().y1 < panel.get_window_extent().y0


@pytest.mark.parametrize("image", [None, IMAGE])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["DiceLoss", "BCELoss"])
def test_panels_leave_no_gap(kind, channels, image):
    batch = arrays()
    predicts = {"maps": tensor(batch.maps[:, :channels])}
    labels = tensors(batch.labels)
    figure = plot_batch(predicts, labels, image=image, main_loss_type=kind, zoom=[(0, 0, 9, 9)])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # Text is black, and the least gap between its lines is less than 0.6 inches.
    drawn = (np.asarray(canvas.buffer_rgba())[..., :3] != 255).any(axis=2)
    rows = np.flatnonzero(drawn.any(axis=1))
    ends = [-1, *rows, len(drawn)]
    assert np.diff(ends).max() < 0.6 * figure.dpi
    # The panels of a row, and a legend, fill it: none is empty for half the width of a panel.
    for ax in axes_of(figure).values():
        place = ax.get_window_extent()
        row = drawn[int(len(drawn) - place.y1) : int(len(drawn) - place.y0)]
        ends = [-1, *np.flatnonzero(row.any(axis=0)), row.shape[1]]
        assert np.diff(ends).max() < 0.7 * place.width


def test_all_is_nan():
    batch = arrays()
    batch.maps[:] = np.nan
    assert_readable(plot(batch))


# The legend, letters and colours ----------------------------------------------------------------


@pytest.mark.parametrize("dpi", [100, 72])
def test_letters_are_readable_at_the_default_size(dpi):
    batch = arrays("ties", (8, 160, 160))
    figure = plot(batch, index=7, image=IMAGE, main_loss_type="BCELoss", ohem_ratio=2.5)
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
        (panels.SKY, "white", panels.VERMILLION),  # targets
        (panels.SKY, panels.YELLOW),  # a contact sheet
        ("black", panels.BLUE, panels.ORANGE, panels.SKY, panels.VERMILLION),  # losses
    ],
)
def test_colours_that_meet_are_told_apart_by_the_colour_blind(kind, colours):
    linear = np.array([to_rgb(colour) for colour in colours]) ** 2.2
    seen = (linear @ np.array(BLIND[kind]).T).clip(0, 1) ** (1 / 2.2)
    for i in range(len(seen)):
        for j in range(i):
            assert np.abs(seen[i] - seen[j]).max() > 0.17, (colours[i], colours[j])


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
        ({"main_loss_type": "diceloss"}, ValueError, ["main_loss_type", "mean 'DiceLoss'?"]),
        ({"main_loss_type": ""}, ValueError, ["main_loss_type"]),
        ({"ohem_ratio": -1}, ValueError, ["ohem_ratio", "at least 0"]),
        ({"image": np.zeros((2, 3, 8, 8))}, ValueError, ["image", "h, w", "one image"]),
        ({"image": np.zeros((8, 8, 5))}, ValueError, ["image", r"\[8, 8, 5\]"]),
        ({"image": np.zeros((0, 8))}, ValueError, ["image", r"\[0, 8\]"]),
        ({"image": 3}, ValueError, ["image", r"\[\]"]),
        ({"size": 2}, ValueError, ["size", "at least 8"]),
        ({"zoom": [(0, 0, 40, 10)]}, ValueError, ["zoom", "32 pixels wide and 20 high", "40"]),
        ({"zoom": [(5, 5, 5, 9)]}, ValueError, ["zoom", "left, top, right, bottom"]),
        ({"zoom": [3]}, ValueError, ["zoom", "got 3"]),
        ({"zoom": [(0, 0, 4, 4)] * 13}, ValueError, ["zoom", "at most 12"]),
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
