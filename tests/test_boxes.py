"""A probability map to boxes: those that PaddleOCR found, closed forms, limits, batches, errors."""

import importlib
import inspect
import json
import math
import sys

import cv2
import numpy as np
import paddle
import pytest
from helpers import DATA, not_written

from dbloss.boxes import Boxes, _distance, boxes_with_pixels, find_boxes

CASES = json.loads((DATA / "paddleocr_boxes.json").read_text())
with np.load(DATA / "paddleocr_boxes.npz") as stored:
    MAPS = {name: stored[name].astype(np.float32) / np.float32(255) for name in stored}
KINDS = [
    {},
    {"score_mode": "slow"},
    {"box_type": "poly"},
    {"use_dilation": True, "thresh": 0.2},
    {"max_candidates": 7},
]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


def block(top, bottom, left, right, value=0.9, height=64, width=96):
    """A map that is 0 but in the rows and columns from the first up to and without the last."""
    probability = np.zeros((height, width), np.float32)
    probability[top:bottom, left:right] = value
    return probability


def assert_boxes(got, polygons, scores):
    assert isinstance(got, Boxes)
    assert [polygon.tolist() for polygon in got.polygons] == [
        np.array(p).tolist() for p in polygons
    ]
    assert all(polygon.dtype == np.int32 for polygon in got.polygons)
    assert got.scores.dtype == np.float64
    np.testing.assert_allclose(got.scores, scores, rtol=1e-9, atol=0)


def raises(error, *parts):
    return pytest.raises(error, match="(?s)" + "".join(f"(?=.*{part})" for part in parts))


def test_signature():
    """Names, order and defaults: those of a PP-OCR configuration."""
    names = "probability, *, thresh=0.3, box_thresh=0.6, unclip_ratio=1.5, max_candidates=1000, "
    names += "min_size=3, use_dilation=False, score_mode='fast', box_type='quad', height=None, "
    parameters = inspect.signature(find_boxes).parameters.values()
    signature = inspect.Signature([each.replace(annotation=each.empty) for each in parameters])
    assert str(signature) == f"({names}width=None)"


# PaddleOCR's own boxes --------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['map']}-{case['kwargs']}")
def test_golden(case):
    opencv = tuple(int(number) for number in cv2.__version__.split(".")[:2])
    if opencv < (4, 13) and case["map"] == "map10" and "box_type" in case["kwargs"]:
        pytest.skip("OpenCV before 4.13 simplifies one outline otherwise, in PaddleOCR too")
    size = {"height": case["height"], "width": case["width"]}
    got = find_boxes(MAPS[case["map"]], **size, **case["kwargs"])
    assert_boxes(got, case["boxes"], case["scores"])


@each_kind
def test_boxes_found_once_give_those_of_every_box_thresh(kind):
    dropped = 0
    for probability in MAPS.values():
        every = find_boxes(probability, **kind, box_thresh=0)
        for box_thresh in (0.3, 0.6, 0.75, 0.95, *every.scores[:1].tolist()):
            kept = np.flatnonzero(every.scores >= box_thresh)
            dropped += len(every.scores) - len(kept)
            got = find_boxes(probability, **kind, box_thresh=box_thresh)
            assert_boxes(got, [every.polygons[i] for i in kept], every.scores[kept])
    assert dropped


def test_area_and_length_are_those_of_shapely_to_the_last_bit():
    geometry = pytest.importorskip("shapely.geometry")
    rng = np.random.default_rng(0)
    quads = rng.uniform(-20, 2000, (200, 4, 2)).astype(np.float32)
    curved = [rng.integers(0, 2000, (k, 2), np.int32) for k in range(4, 100)]
    polygons = [geometry.Polygon(points) for points in (*quads, *curved)]
    expected = [polygon.area * 1.6 / polygon.length for polygon in polygons]
    assert [*_distance(quads, 1.6), *(_distance(points, 1.6) for points in curved)] == expected


# Closed forms -----------------------------------------------------------------------------------


def test_a_box_grows_by_area_times_ratio_over_length():
    # 50 x 10 from the first pixel to the last: 500 * 1.5 / 120 = 6.25 on all sides.
    got = find_boxes(block(20, 31, 20, 71))
    assert_boxes(got, [[(14, 14), (76, 14), (76, 36), (14, 36)]], [np.float32(0.9)])
    got = find_boxes(block(20, 31, 20, 71), unclip_ratio=0)
    assert_boxes(got, [[(20, 20), (70, 20), (70, 30), (20, 30)]], [np.float32(0.9)])


def test_boxes_are_scaled_to_the_image_and_clipped_to_it():
    probability = block(0, 11, 0, 51)
    got = find_boxes(probability, height=32, width=192)
    assert_boxes(got, [[(0, 0), (112, 0), (112, 8), (0, 8)]], [np.float32(0.9)])
    got = find_boxes(block(53, 64, 45, 96), height=640, width=960)
    assert_boxes(got, [[(390, 470), (960, 470), (960, 640), (390, 640)]], [np.float32(0.9)])


@pytest.mark.parametrize("angle", [-60, -45, -20, 20, 45, 80])
def test_a_turned_quad_starts_at_the_upper_one_of_its_two_leftmost_points(angle):
    probability = np.zeros((200, 200), np.float32)
    turned = cv2.boxPoints(((100.0, 100.0), (90.0, 30.0), angle))
    cv2.fillPoly(probability, [turned.astype(np.int32)], 1.0)
    (quad,), _ = find_boxes(probability)
    left, right = quad[[0, 3]], quad[[1, 2]]
    assert left[:, 0].max() <= right[:, 0].min()
    assert left[0, 1] <= left[1, 1] and right[0, 1] <= right[1, 1]
    x, y = quad.T
    assert (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() > 0  # clockwise, as y points down
    # Area 2700, length 240, D = 16.875: about 124 x 64, and pixels are whole.
    assert np.hypot(*(quad[1] - quad[0])) + np.hypot(*(quad[2] - quad[1])) == pytest.approx(187, 3)


def test_the_first_point_of_upright_text_that_leans_by_more_than_its_width_is_at_its_foot():
    probability = np.zeros((220, 220), np.float32)
    foot, head = [(70, 180), (90, 187)], [(131, 53), (111, 46)]  # it leans by 41, and is 20 wide
    cv2.fillPoly(probability, [np.array(foot + head)], 1)
    (quad,), _ = find_boxes(probability, unclip_ratio=0)
    np.testing.assert_allclose(quad, [foot[0], head[1], head[0], foot[1]], atol=2)


def test_a_hole_gives_a_box_too():
    probability = block(10, 50, 10, 80)
    probability[25:36, 30:61] = 0.1
    found = find_boxes(probability, box_thresh=0)
    assert len(found.polygons) == 2
    hole = int(np.argmin(found.scores))
    # The outline of a hole is the text around it: 12 x 32, of which the edge is text.
    edge, inside = 2 * (13 + 33) - 4, 11 * 31
    assert found.scores[hole] == pytest.approx((0.9 * edge + 0.1 * inside) / (edge + inside), 1e-6)
    assert len(find_boxes(probability, box_thresh=0.3).polygons) == 1


def test_the_slow_score_leaves_out_what_is_beside_the_outline():
    probability = block(10, 30, 10, 60) + block(30, 50, 10, 30)  # an L
    fast, slow = (
        find_boxes(probability, score_mode=mode, box_thresh=0).scores for mode in ("fast", "slow")
    )
    assert slow == pytest.approx([0.9], 1e-6)
    assert fast < 0.8


@pytest.mark.parametrize("kind", [{}, {"score_mode": "slow"}, {"box_type": "poly"}], ids=str)
@pytest.mark.parametrize("corner", [(20, 30), (0, 0), (64 - 11, 96 - 21)], ids=str)
def test_the_score_is_a_mean_of_all_pixels_from_the_first_row_and_column_to_the_last(kind, corner):
    """A box of 11 rows and 21 columns whose border is 0.5, inside and at the edges of the map."""
    top, left = corner
    for axis, end in ((0, 0), (0, -1), (1, 0), (1, -1)):
        probability = block(top, top + 11, left, left + 21, 1)
        inside = probability[top : top + 11, left : left + 21]
        side = inside[end] if axis == 0 else inside[:, end]
        side[:] = 0.5
        expected = (11 * 21 - side.size / 2) / (11 * 21)
        assert find_boxes(probability, **kind).scores == pytest.approx([expected], rel=1e-12)


def test_a_turned_box_has_the_mean_of_all_pixels_that_it_covers():
    """A diamond: the row and the column through its middle reach from corner to corner."""
    y, x = np.mgrid[:64, :96]
    inside = np.abs(x - 50) + np.abs(y - 30) <= 20  # 841 pixels
    for pixel in ((50, 10), (30, 30), (70, 30), (50, 50)):
        probability = inside.astype(np.float32)
        probability[pixel[::-1]] = 0.5
        (score,) = find_boxes(probability).scores
        assert score == pytest.approx(1 - 0.5 / 841, rel=1e-12)


def test_the_least_size_before_and_after_a_box_grows():
    # 4 pixels from the first to the last are 3 long; 20 x 3 grows by 60 * 1.5 / 46 = 1.96, that is
    # by 2, to 7. Of 1 x 1 nothing is left below the default of 3; it grows by 0.375, that is by 0.
    assert len(find_boxes(block(20, 24, 20, 41)).polygons) == 1
    assert not find_boxes(block(20, 23, 20, 41)).polygons
    assert len(find_boxes(block(20, 23, 20, 41), min_size=2).polygons) == 1
    assert not find_boxes(
        block(20, 24, 20, 41), unclip_ratio=0.3
    ).polygons  # 3 again, and 5 is needed
    point = block(20, 22, 20, 22)
    assert not find_boxes(point, min_size=0).polygons
    for empty in (block(20, 21, 20, 21), block(20, 21, 20, 50)):  # no area, and one without length
        assert not find_boxes(empty, min_size=0).polygons
        assert not find_boxes(empty, min_size=0, box_type="poly").polygons


def test_candidates_are_counted_before_anything_is_dropped():
    probability = block(5, 16, 10, 61) + block(25, 36, 10, 61) + block(55, 57, 10, 12)
    # OpenCV gives the lowest first, which is too small.
    found = find_boxes(probability)
    assert len(found.polygons) == 2
    assert not find_boxes(probability, max_candidates=1).polygons
    assert_boxes(find_boxes(probability, max_candidates=2), found.polygons[:1], found.scores[:1])


def test_dilation_joins_neighbours_to_the_right_and_below():
    probability = block(20, 31, 10, 40) + block(20, 31, 41, 80)
    assert len(find_boxes(probability).polygons) == 2
    joined = find_boxes(probability, use_dilation=True, unclip_ratio=0)
    assert joined.polygons[0].tolist() == [[10, 20], [80, 20], [80, 31], [10, 31]]


def test_a_polygon_that_falls_apart_as_it_grows_is_left_out():
    probability = block(10, 50, 10, 80)
    probability[12:48, 12:78] = 0
    probability[30, 78:80] = 0  # a ring that is open: its two ends meet when they grow
    kept = find_boxes(probability, box_type="poly", box_thresh=0, unclip_ratio=0.1)
    assert len(kept.polygons) == 1
    assert not find_boxes(probability, box_type="poly", box_thresh=0, unclip_ratio=2).polygons


def test_a_ring_with_a_gap_narrower_than_it_grows_by_is_no_polygon():
    # 12 pixels thick: area / length is about 6, D about 6 for a ratio of 1.
    ring = np.zeros((200, 200), np.float32)
    cv2.circle(ring, (100, 100), 60, 1, 12)
    ring[96:104, 100:] = 0
    found = [
        len(find_boxes(ring, box_type="poly", unclip_ratio=ratio).polygons) for ratio in (0.2, 1)
    ]
    assert found == [1, 0]


def test_a_polygon_of_three_points_is_none():
    triangle = np.zeros((64, 96), np.float32)
    triangle[10:40, 10:40] = np.tril(np.ones((30, 30)))
    assert len(find_boxes(triangle, box_thresh=0.4).polygons) == 1
    assert not find_boxes(triangle, box_thresh=0.4, box_type="poly").polygons


@each_kind
def test_a_page_without_text(kind):
    for value in (0, 0.2):  # a pixel of exactly `thresh` is no text
        got = find_boxes(np.full((32, 32), value, np.float32), **{"thresh": 0.2} | kind)
        assert got.polygons == [] and got.scores.shape == (0,) and got.scores.dtype == np.float64


@each_kind
def test_the_pixels_of_a_box_are_those_that_its_score_is_the_mean_of(kind):
    for probability in MAPS.values():
        boxes, pixels = boxes_with_pixels(probability, **kind, height=100, width=200)
        assert_boxes(boxes, *find_boxes(probability, **kind, height=100, width=200))
        means = [each.mean(dtype=np.float64) for each in pixels]
        np.testing.assert_allclose(means, boxes.scores, rtol=1e-12)
    with pytest.raises(ValueError, match="one map"):
        boxes_with_pixels(np.stack([MAPS["map0"]] * 2)[:, None])


# Batches, dtypes, sizes -------------------------------------------------------------------------

BATCH = np.stack([MAPS["map0"], MAPS["map1"], MAPS["map2"]])


def assert_same(got, expected):
    assert isinstance(got, list) and len(got) == len(expected)
    for one, other in zip(got, expected):
        assert_boxes(one, *other)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_is_its_images_one_by_one(channels):
    batch = np.stack([BATCH, *[np.ones_like(BATCH)] * (channels - 1)], axis=1)
    expected = [find_boxes(probability) for probability in BATCH]
    assert all(one.polygons for one in expected)
    tensor = paddle.to_tensor(batch)
    tensor.stop_gradient = False
    for given in (batch, tensor):
        assert_same(find_boxes(given), expected)
    assert_boxes(find_boxes(tensor[0, 0]), *expected[0])


def test_sizes_for_each_image_or_for_all():
    shape_list = np.array([(720, 1280, 0.75, 0.75), (400, 600, 1, 1), (1088, 1920, 0.5, 0.5)])
    rows, columns = shape_list[:, 0], shape_list[:, 1]
    expected = [
        find_boxes(one, height=height, width=width)
        for one, height, width in zip(BATCH, rows, columns)
    ]
    batch = BATCH[:, None]
    tensor = paddle.to_tensor(shape_list)
    assert_same(find_boxes(batch, height=rows, width=columns), expected)
    assert_same(find_boxes(batch, height=tensor[:, 0], width=tensor[:, 1]), expected)
    together = [find_boxes(one, height=720, width=1280) for one in BATCH]
    assert_same(find_boxes(batch, height=720, width=np.array(1280)), together)
    assert_boxes(find_boxes(BATCH[0], height="720", width=1280.0), *together[0])


def test_a_size_of_a_shape_list_scales_in_the_precision_that_it_has_in_paddleocr():
    # In float32 this is 2.5, which goes to 2. The product in float64 is just above, and goes to 3.
    share = np.float32(6) / np.float32(60)
    assert share * np.float32(25) == 2.5 < float(share) * 25
    probability = block(10, 50, 6, 43, height=60, width=60)
    assert find_boxes(probability, unclip_ratio=0, width=25).polygons[0][0, 0] == 2
    # NumPy 1 leaves float32 what is times a number, even one of its own.
    promotes = (np.ones(1, np.float32) * np.float64(1)).dtype == np.float64
    of_list = find_boxes(probability, unclip_ratio=0, width=np.float64(25))
    assert of_list.polygons[0][0, 0] == (3 if promotes else 2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_maps_of_every_float_width(dtype):
    # Sixteenths are exact in all of them.
    probability = np.round(MAPS["map3"] * 16) / 16
    expected = find_boxes(probability)
    assert expected.polygons
    tensor = paddle.to_tensor(probability).astype(dtype)
    assert_boxes(find_boxes(tensor), *expected)
    if dtype != "bfloat16":
        assert_boxes(find_boxes(probability.astype(dtype)), *expected)


def test_maps_of_any_layout_and_nothing_is_written_to():
    probability = MAPS["map0"].copy()
    expected = find_boxes(probability, use_dilation=True)
    layouts = (
        probability,
        np.asfortranarray(probability),
        np.repeat(probability, 2, axis=1)[:, ::2],
        probability[::-1, ::-1].copy()[::-1, ::-1],
        probability.astype(">f4"),
    )
    for given in layouts:
        before = given.copy()
        given.flags.writeable = False
        assert_boxes(find_boxes(given, use_dilation=True), *expected)
        np.testing.assert_array_equal(given, before)
    assert_boxes(find_boxes(probability.tolist(), use_dilation=True), *expected)
    tensor = paddle.to_tensor(probability)
    with not_written(tensor):
        find_boxes(tensor, use_dilation=True)


# Errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "parts"),
    [
        (np.zeros(5, np.float32), ValueError, [r"\[H, W\]", r"got \[5\]", "predicts"]),
        (np.zeros((2, 5, 5), np.float32), ValueError, [r"\[2, 5, 5\]", r"\[:, None\]"]),
        (np.zeros((2, 2, 5, 5), np.float32), ValueError, [r"\[N, 3, H, W\]", r"\[2, 2, 5, 5\]"]),
        (np.zeros((2, 5, 5, 3), np.float32), ValueError, [r"\[2, 5, 5, 3\]"]),
        (np.zeros((0, 5), np.float32), ValueError, ["one pixel", r"\[0, 5\]"]),
        (np.zeros((0, 3, 5, 5), np.float32), ValueError, ["one image", r"\[0, 3, 5, 5\]"]),
        (np.zeros((5, 5), bool), TypeError, ["float", "bool", "astype"]),
        (np.zeros((5, 5), np.uint8), TypeError, ["float", "uint8", "255"]),
        ([["a", "b"]], TypeError, ["float", "<U1"]),
        ([[0.1, 0.2], [0.3]], ValueError, ["array", "different lengths"]),
        (None, ValueError, [r"\[H, W\]", r"got \[\]"]),
        ({"maps": np.zeros((1, 1, 5, 5))}, ValueError, ["predicts"]),
    ],
)
def test_a_wrong_map_is_named(given, error, parts):
    with raises(error, "^probability: ", *parts):
        find_boxes(given)
    if isinstance(given, np.ndarray) and given.size:
        with raises(error, "^probability: "):
            find_boxes(paddle.to_tensor(given))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_named_with_its_pixel(wrong):
    batch = np.zeros((2, 3, 8, 9), np.float32)
    batch[:, 1:] = wrong  # channels that are not read
    assert [one.polygons for one in find_boxes(batch)] == [[], []]
    batch[1, 0, 5, 7] = wrong
    for given in (batch, paddle.to_tensor(batch)):
        with raises(ValueError, "probability", str(wrong), "image 1", r"\(5, 7\)", "diverged"):
            find_boxes(given)


@pytest.mark.parametrize(
    ("changed", "error", "parts"),
    [
        ({"thresh": 1.5}, ValueError, ["thresh", "at most 1", "1.5"]),
        ({"thresh": -0.1}, ValueError, ["thresh", "at least 0"]),
        ({"thresh": math.nan}, ValueError, ["thresh", "nan"]),
        ({"box_thresh": 60}, ValueError, ["box_thresh", "at most 1", "60"]),
        ({"box_thresh": None}, TypeError, ["box_thresh", "None"]),
        ({"unclip_ratio": -1}, ValueError, ["unclip_ratio", "at least 0"]),
        ({"unclip_ratio": 1e9}, ValueError, ["unclip_ratio", "at most 100"]),
        ({"max_candidates": 0}, ValueError, ["max_candidates", "at least 1"]),
        ({"max_candidates": 1.5}, ValueError, ["max_candidates", "whole"]),
        ({"min_size": -1}, ValueError, ["min_size", "at least 0"]),
        ({"use_dilation": 2}, TypeError, ["use_dilation", "True or False"]),
        ({"score_mode": "Fast"}, ValueError, ["score_mode", "'fast', 'slow'", "'Fast'"]),
        ({"box_type": "rect"}, ValueError, ["box_type", "'quad', 'poly'", "'rect'"]),
        ({"height": 0}, ValueError, ["height", "above 0"]),
        ({"width": 2**25}, ValueError, ["width", "at most"]),
        ({"width": True}, TypeError, ["width", "bool"]),
        (
            {"height": [32, 32]},
            ValueError,
            ["height", "or 1, one for each image, got 2", r"shape_list\[:, 0\]"],
        ),
        ({"width": np.ones((1, 4))}, TypeError, [r"width\[0\]", "number"]),
        ({"width": [math.nan]}, ValueError, [r"width\[0\]", "nan"]),
        ({"height": {1: 2}}, TypeError, ["height", "dict"]),
    ],
)
def test_a_wrong_argument_is_named(changed, error, parts):
    with raises(error, *parts):
        find_boxes(np.zeros((32, 32), np.float32), **changed)


@pytest.mark.parametrize("missing", ["cv2", "pyclipper"])
def test_without_its_libraries_the_import_says_what_to_install(monkeypatch, missing):
    monkeypatch.delitem(sys.modules, "dbloss.boxes")
    monkeypatch.setitem(sys.modules, missing, None)
    with raises(ImportError, f"needs {missing}, which", "pip install"):
        importlib.import_module("dbloss.boxes")
