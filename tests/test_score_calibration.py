"""Calibration: its formula, the search against boxes of calibrated maps, and a folded network."""

import re

import numpy as np
import paddle
import pytest
from helpers import DATA
from paddle import nn

pytest.importorskip("shapely")
pytest.importorskip("cv2")
from dbloss.boxes import find_boxes
from dbloss.score import (
    Calibration,
    Hmean,
    calibrate,
    fold_calibration,
    search_calibration,
)

# The formula -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b"), [(1, 0), (2, 0), (0.5, -1.5), (16, 3)])
def test_the_formula_in_odds(a, b):
    """`P' / (1 - P') = (P / (1 - P))^a * e^b`, without a logarithm."""
    p = np.array([1e-6, 0.01, 0.3, 0.5, 0.75, 0.999])
    odds = (p / (1 - p)) ** a * np.exp(b)
    expected = odds / (1 + odds)
    np.testing.assert_allclose(calibrate(p, a, b), expected, rtol=1e-12)
    single = np.float32(p)
    odds = (np.float64(single) / (1 - np.float64(single))) ** a * np.exp(b)
    got = calibrate(single, a, b)
    assert got.dtype == np.float32 and calibrate(p, a, b).dtype == np.float64
    np.testing.assert_allclose(got, odds / (1 + odds), rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("a", "b"), [(1, 0), (0.05, 0), (300, -20), (1e300, 1e300)])
def test_probabilities_of_0_and_1_stay_numbers_and_in_order(dtype, a, b):
    p = np.array([0, np.finfo(dtype).tiny, 1e-3, 0.5, 1 - np.finfo(dtype).epsneg, 1], dtype)
    before = p.copy()
    with np.errstate(all="raise", under="ignore"):
        got = calibrate(p, a, b)
    assert np.isfinite(got).all() and (got >= 0).all() and (got <= 1).all()
    assert (np.diff(got) >= 0).all()
    np.testing.assert_array_equal(p, before)
    if (a, b) == (1, 0):
        np.testing.assert_allclose(got, p, atol=np.finfo(dtype).epsneg)


def test_tensors_give_arrays():
    p = paddle.rand([2, 3, 4])
    got = calibrate(p, 2, 1)
    assert isinstance(got, np.ndarray) and got.dtype == np.float32
    np.testing.assert_array_equal(got, calibrate(p.numpy(), 2, 1))
    assert calibrate(p.astype("bfloat16"), 2, 1).dtype == np.float32


# The search --------------------------------------------------------------------------------------

# Numbers that are no 255th, as every value of these maps is: no pixel lies exactly on a limit.
GRID = {"own_thresh": [0.111, 0.311, 0.511], "a": [0.5, 1, 4, 16]}


@pytest.fixture(scope="module")
def photographs():
    """Maps that a detector gave, some pixels exactly 0 and 1, with texts near some of the boxes."""
    rng = np.random.default_rng(0)
    with np.load(DATA / "paddleocr_boxes.npz") as arrays:
        maps = [np.float32(array) / np.float32(255) for array in list(arrays.values())[:3]]
    assert min(page.min() for page in maps) == 0 and max(page.max() for page in maps) == 1
    truths = []
    for page in maps:
        boxes = find_boxes(page, thresh=0.4, box_thresh=0.3).polygons
        truths.append([box + rng.normal(0, 2, 2) for box in boxes if rng.random() < 0.8])
    return maps, truths, [(rng.random(len(truth)) < 0.15).tolist() for truth in truths]


def each_alone(maps, truths, flags, limits, **settings):
    """The hmean of each own_thresh and a: boxes found in calibrated maps at the given limits."""
    thresh, box_thresh = limits
    for own in GRID["own_thresh"]:
        for a in GRID["a"]:
            b = np.log(thresh / (1 - thresh)) - a * np.log(own / (1 - own))
            metric = Hmean()
            for page, truth, ignored in zip(maps, truths, flags):
                found = find_boxes(
                    calibrate(page, a, b), thresh=thresh, box_thresh=box_thresh, **settings
                )
                metric.update(found.polygons, truth, ignored)
            yield a, b, metric.accumulate()


@pytest.mark.parametrize(
    ("limits", "settings"),
    [((0.3, 0.6), {}), ((0.45, 0.7), {"score_mode": "slow"}), ((0.3, 0.6), {"box_type": "poly"})],
)
def test_the_table_is_that_of_calibrated_maps(photographs, limits, settings):
    given = dict(zip(("thresh", "box_thresh"), limits))
    got = search_calibration(*photographs, **given, **GRID, **settings)
    expected = list(each_alone(*photographs, limits, **settings))
    for name in ("precision", "recall", "hmean"):
        np.testing.assert_array_equal(
            getattr(got, name).ravel(), [rates[name] for _, _, rates in expected]
        )
    np.testing.assert_allclose(got.b.ravel(), [b for _, b, _ in expected], rtol=1e-12)
    assert len(np.unique(got.hmean)) > 1
    best = got.best
    assert best.hmean == got.hmean.max()
    (rates,) = [rates for *line, rates in expected if np.allclose(line, best[:2])]
    assert best[3:] == tuple(rates.values())
    before = Hmean()
    for page, truth, ignored in zip(*photographs):
        found = find_boxes(page, thresh=limits[0], box_thresh=limits[1], **settings)
        before.update(found.polygons, truth, ignored)
    assert got.gain.hmean == pytest.approx(best.hmean - before.accumulate()["hmean"])


def faint(value, other=0.02, count=9):
    """Pages with a text of one probability and, below it, what is no text of another."""
    page = np.full((96, 96), 0.02, np.float32)
    page[20:36, 10:42], page[60:76, 10:42] = value, other
    return [page] * count, [[[(3, 13), (49, 13), (49, 43), (3, 43)]]] * count, [[False]] * count


def test_of_calibrations_that_are_as_good_the_one_that_changes_least_is_chosen(caplog):
    got = search_calibration(*faint(0.9))
    assert got.best == Calibration(1, 0, 0.3, 1, 1, 1)  # none at all, exactly
    assert got.remarks == [] and caplog.records == []
    assert got.gain == (0, 0, 0)
    # sigmoid(a * (logit(0.45) - logit(0.3)) + logit(0.3)) reaches 0.6 for a from 1.94 on.
    got = search_calibration(*faint(0.45), a=[1, 1.9, 2, 4, 8])
    assert got.best[:3] == (2, pytest.approx(0.8473, abs=1e-4), 0.3)
    assert got.best.hmean == 1 and got.gain == (1, 1, 1)


def test_what_is_to_be_known_of_the_choice_is_said(caplog):
    def said(*images, **grid):
        caplog.clear()
        got = search_calibration(*images, **grid)
        assert [r.getMessage() for r in caplog.records] == [
            f"search_calibration: {remark}" for remark in got.remarks
        ]
        return got

    got = said(*faint(0.45, other=0.4), own_thresh=[0.3, 0.42], a=[1, 16, 32])
    assert got.edges == {"own_thresh": "highest"}
    assert got.remarks[0].startswith("The best own_thresh, 0.42, is the highest that was searched")
    got = said(*faint(0.1, other=0.05), own_thresh=[0.3, 0.5])
    assert got.best is None and got.gain is None and got.edges == {}
    assert got.remarks[0].startswith("Every hmean is 0, so that no calibration is chosen: no box")
    some, most = faint(0.45, count=1), faint(0.9, count=14)
    got = said(*(one + others for one, others in zip(some, most)), a=[1, 2, 4])
    assert got.gain.hmean == pytest.approx(1 - 28 / 29)  # of 15 texts one is not found before
    assert got.remarks == [
        "Over no calibration the best one, a 2 and b 0.847, gains +3.4 points of hmean on these"
        f" 15 images, and between {100 * got.gain.low:+.1f} and {100 * got.gain.high:+.1f} on"
        " others like them (paired bootstrap, 95 %): within noise. Choose on more images, or change"
        " nothing."
    ]


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"thresh": 0}, ValueError, "^thresh: .* above 0 and below 1, got 0"),
        ({"box_thresh": 2}, ValueError, "^box_thresh: .* at most 1"),
        ({"own_thresh": [0.3, 1]}, ValueError, r"^own_thresh\[1\]: .* below 1"),
        ({"a": [0]}, ValueError, r"^a\[0\]: .* above 0"),
        ({"a": []}, ValueError, "^a: .* at least one"),
        ({"a": 2}, TypeError, "^a: expected a sequence"),
        ({"ignored": []}, ValueError, "^ignored: expected as many as maps, texts, ignored, got 0"),
        ({"texts": [[3]]}, ValueError, r"^image 0: truth\[0\]"),
        ({"maps": np.zeros((1, 1, 1, 8, 8))}, ValueError, "^image 0: maps: .* got a batch"),
        ({"unclip": 2}, TypeError, "unclip"),
    ],
)
def test_a_wrong_argument_of_the_search_is_named(changed, error, words):
    images = dict(zip(("maps", "texts", "ignored"), faint(0.9, count=1)))
    with pytest.raises(error, match=re.compile(words)):
        search_calibration(**images | changed)


# Folding -----------------------------------------------------------------------------------------


class Branch(nn.Layer):
    """A branch with the names and the layers of the one in PaddleOCR's DBHead."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2D(channels, channels // 4, 3, padding=1, bias_attr=False)
        self.conv_bn1 = nn.BatchNorm2D(channels // 4)
        self.conv2 = nn.Conv2DTranspose(channels // 4, channels // 4, 2, 2)
        self.conv_bn2 = nn.BatchNorm2D(channels // 4)
        self.conv3 = nn.Conv2DTranspose(channels // 4, 1, 2, 2)

    def logits(self, x):
        x = nn.functional.relu(self.conv_bn1(self.conv1(x)))
        return self.conv3(nn.functional.relu(self.conv_bn2(self.conv2(x))))


class Head(nn.Layer):
    def __init__(self, channels=16):
        super().__init__()
        self.binarize, self.thresh = Branch(channels), Branch(channels)

    def forward(self, x):
        return nn.functional.sigmoid(self.binarize.logits(x))


class Model(nn.Layer):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Conv2D(3, 16, 3, padding=1), Head()

    def forward(self, x):
        return self.head(self.backbone(x))


def wrapped(model):
    """As paddle.DataParallel wraps a model."""
    outer = nn.Layer()
    outer._layers = model
    return outer


@pytest.mark.parametrize(
    "part",
    [lambda m: m, wrapped, lambda m: m.head, lambda m: m.head.binarize.conv3],
    ids=["model", "wrapped", "head", "layer"],
)
@pytest.mark.parametrize(("a", "b"), [(8.0, 1.5), (0.25, -0.75)])
def test_a_folded_network_returns_the_calibrated_map(part, a, b):
    paddle.seed(0)
    model = Model()
    model.eval()
    model.head.binarize.conv3.weight.set_value(20 * model.head.binarize.conv3.weight)
    x = paddle.rand([2, 3, 16, 24])
    others = {k: v.numpy() for k, v in model.state_dict().items() if "binarize.conv3" not in k}
    before, z = model(x).numpy(), model.head.binarize.logits(model.backbone(x)).numpy()
    assert before.min() < 0.1 and before.max() > 0.9
    assert fold_calibration(part(model), a, b) is model.head.binarize.conv3
    after = model(x).numpy()
    # From its logits in float64; and from its map, where float32 tells P from 1 well enough.
    np.testing.assert_allclose(after, 1 / (1 + np.exp(-(a * np.float64(z) + b))), atol=1e-5)
    clear = np.abs(z) < 6
    assert 0.3 < clear.mean() < 1
    np.testing.assert_allclose(after[clear], calibrate(before, a, b)[clear], atol=1e-4)
    for name, value in others.items():
        np.testing.assert_array_equal(model.state_dict()[name].numpy(), value)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_the_dtype_of_the_weights_stays(dtype):
    last = nn.Conv2D(2, 1, 1).to(dtype=dtype)
    weight, bias = (p.astype("float32").numpy() for p in (last.weight, last.bias))
    fold_calibration(last, 2, 4)
    assert last.weight.dtype == last.bias.dtype == getattr(paddle, dtype)
    np.testing.assert_array_equal(last.weight.astype("float32").numpy(), 2 * weight)
    np.testing.assert_allclose(last.bias.astype("float32").numpy(), 2 * bias + 4, rtol=1e-2)


class PFHeadLocal(Head):
    """PP-OCRv5's server head has this second branch, and the mean of both as its map."""

    def __init__(self):
        super().__init__()
        self.cbn_layer = nn.Conv2D(17, 1, 3)


def test_what_does_not_fold_is_named_and_nothing_changes():
    half = nn.Conv2D(2, 1, 1).to(dtype="float16")
    for layer, a, error, words in (
        (
            PFHeadLocal(),
            2,
            ValueError,
            "PFHeadLocal.*mean of two: no calibration can be folded in.*search_limits",
        ),
        (nn.Conv2D(4, 2, 1), 2, ValueError, "one output channel.*got 2"),
        (nn.Conv2D(4, 1, 1, bias_attr=False), 2, TypeError, "weight and a bias, got Conv2D"),
        (nn.Sigmoid(), 2, TypeError, "weight and a bias, got Sigmoid"),
        ({"weight": 1}, 2, TypeError, "weight and a bias, got dict"),
        (nn.Conv2D(4, 1, 1), 0, ValueError, "^a: expected .* above 0"),
        (nn.Conv2D(4, 1, 1), float("nan"), ValueError, "^a: expected a finite number"),
        (half, 1e6, ValueError, "finite in .*float16.*overflow"),
    ):
        before = (
            {k: v.numpy() for k, v in layer.state_dict().items()}
            if isinstance(layer, nn.Layer)
            else {}
        )
        with pytest.raises(error, match=re.compile(words)):
            fold_calibration(layer, a, 0)
        for name, value in before.items():
            np.testing.assert_array_equal(layer.state_dict()[name].numpy(), value)
    with pytest.raises(TypeError, match=r"^probability: expected a float dtype, got int64"):
        calibrate(np.zeros(3, np.int64), 1, 0)
