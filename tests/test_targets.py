"""Polygons to label maps: PaddleOCR's own maps, closed forms, odd polygons, errors."""

import importlib.util
import json
import math
import pickle
from fractions import Fraction

import cv2
import numpy as np
import programs
import pytest
from helpers import DATA
from hypothesis import given, settings
from hypothesis import strategies as st

from dbloss.targets import Targets, border_map, make_targets, stack_targets
from dbloss.targets.make import draw

CASES = json.loads((DATA / "paddleocr_targets.json").read_text())
GOLDEN = np.load(DATA / "paddleocr_targets.npz")
CONTAINERS = {
    "lists": lambda polygon: polygon,
    "float32": lambda polygon: np.array(polygon, np.float32),
    "float64": lambda polygon: np.array(polygon, np.float64),
}
H, W = 48, 64
BOX = [(14, 14), (50, 14), (50, 34), (14, 34)]
BOX_REACH = (36 * 20) * (1 - 0.4**2) / (2 * (36 + 20))  # 5.4


def one(polygon, ignored=False, height=H, width=W, **kwargs):
    return make_targets([polygon], [ignored], height, width, **kwargs)


def area_of(polygon):
    """The area by the trapezoid rule, from one edge to the next."""
    pairs = zip(polygon, [*polygon[1:], polygon[0]])
    return abs(sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairs))


def reach_of(polygon, ratio=0.4):
    edges = zip(polygon, [*polygon[1:], polygon[0]])
    return area_of(polygon) * (1 - ratio**2) / sum(math.dist(a, b) for a, b in edges)


def distance(pixel, a, b):
    """The rule as it is written down: by the angle under which a pixel sees an edge."""
    to_a, to_b, length = math.dist(pixel, a), math.dist(pixel, b), math.dist(a, b)
    if min(to_a, to_b) == 0:
        return 0.0
    cosine = ((a[0] - pixel[0]) * (b[0] - pixel[0]) + (a[1] - pixel[1]) * (b[1] - pixel[1])) / (
        to_a * to_b
    )
    if length == 0 or cosine > 0:
        return min(to_a, to_b)
    return to_a * to_b * math.sqrt(max(1 - cosine**2, 0)) / length  # twice the area by the base


def threshold(pixel, polygon, ratio=0.4, low=0.3, high=0.7):
    least = min(distance(pixel, a, b) for a, b in zip(polygon, [*polygon[1:], polygon[0]]))
    return low + (high - low) * max(1 - least / reach_of(polygon, ratio), 0)


def assert_same(got, expected, atol=1e-6):
    np.testing.assert_allclose(got.threshold_map, expected.threshold_map, rtol=0, atol=atol)
    for name in Targets._fields[1:]:
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)


def assert_no_text(targets):
    np.testing.assert_array_equal(targets.threshold_map, np.float32(0.3))
    assert not targets.threshold_mask.any() and not targets.shrink_map.any()


def raises(error, *parts):
    return pytest.raises(error, match="(?s)" + "".join(f"(?=.*{part})" for part in parts))


# PaddleOCR's own maps ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_golden(name):
    case = CASES[name]
    size = case["height"], case["width"]
    expected = Targets(*(GOLDEN[f"{name}.{field}"] for field in Targets._fields))
    for convert in CONTAINERS.values():
        polygons = [convert(polygon) for polygon in case["polygons"]]
        assert_same(make_targets(polygons, case["ignored"], *size, **case["kwargs"]), expected)


# Closed forms -----------------------------------------------------------------------------------


def test_threshold_map_of_a_box_follows_the_distance_rule():
    expected = np.array([[threshold((x, y), BOX) for x in range(W)] for y in range(H)])
    got = one(BOX)
    # The map ends with the bounding box of the grown outline, whose corners are rounded to pixels.
    drawn = np.zeros((H, W), bool)
    drawn[14 - 5 : 34 + 5 + 1, 14 - 5 : 50 + 5 + 1] = True
    np.testing.assert_allclose(got.threshold_map, np.where(drawn, expected, 0.3), atol=1e-6)


def test_threshold_map_of_a_text_as_large_as_a_page():
    page = [(20, 10), (580, 25), (570, 590), (5, 560)]
    got = one(page, height=600, width=600).threshold_map
    pixels = np.random.default_rng(0).integers(0, 600, (500, 2))
    expected = [threshold(pixel, page) for pixel in pixels.tolist()]
    np.testing.assert_allclose(got[pixels[:, 1], pixels[:, 0]], expected, atol=1e-5)


@pytest.mark.parametrize("points", [3, 5, 100])
def test_threshold_map_of_few_and_many_points_follows_the_distance_rule(points):
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    # On eighths, so that no pixel is left out.
    polygon = np.round(np.column_stack((np.cos(angle), np.sin(angle))) * 20 * 8) / 8 + (32, 24)
    got = one(polygon)
    for y, x in np.argwhere(got.threshold_mask == 1)[::3].tolist():
        expected = threshold((x, y), polygon.tolist())
        assert got.threshold_map[y, x] == pytest.approx(expected, abs=1e-5)
    assert got.shrink_map[24, 32] == 1


@pytest.mark.parametrize(
    ("pixel", "least"),
    [
        ((30, 14), 0),  # on an edge
        ((14, 14), 0),  # on a corner
        ((30, 12), 2),  # outside, square to the edge
        ((30, 17), 3),  # inside
        ((11, 10), 5),  # off a corner: 3, 4, 5
        ((9, 15), math.sqrt(26)),  # beside an edge, but it sees it under an acute angle
        ((30, 24), BOX_REACH),  # further inside than the reach
    ],
)
def test_threshold_of_a_pixel_by_hand(pixel, least):
    got = one(BOX).threshold_map[pixel[1], pixel[0]]
    assert got == pytest.approx(0.7 - 0.4 * least / BOX_REACH, abs=1e-6)


def test_threshold_map_runs_from_thresh_min_to_thresh_max():
    got = one(BOX, thresh_min=0.1, thresh_max=0.9)
    assert got.threshold_map[0, 0] == np.float32(0.1)
    assert got.threshold_map[14, 30] == np.float32(0.9)
    np.testing.assert_allclose(got.threshold_map[12, 30], 0.9 - 0.8 * 2 / BOX_REACH, atol=1e-6)
    flat = one(BOX, thresh_min=0.5, thresh_max=0.5)
    np.testing.assert_array_equal(flat.threshold_map, np.float32(0.5))


@pytest.mark.parametrize("number", [np.float32, np.float64, Fraction, str])
def test_settings_are_numbers_of_any_type(number):
    settings = {"shrink_ratio": 0.5, "thresh_min": 0.25, "thresh_max": 0.75, "min_text_size": 8}
    converted = {name: number(value) for name, value in settings.items()}
    assert_same(one(BOX, **converted), one(BOX, **settings))


def test_a_box_grows_and_shrinks_by_its_reach_rounded_to_whole_pixels():
    targets = one(BOX)
    shrunk = np.zeros((H, W))
    shrunk[14 + 5 : 34 - 5 + 1, 14 + 5 : 50 - 5 + 1] = 1
    np.testing.assert_array_equal(targets.shrink_map, shrunk)
    np.testing.assert_array_equal(targets.shrink_mask, 1)
    columns, rows = (
        np.flatnonzero(targets.threshold_mask[24]),
        np.flatnonzero(targets.threshold_mask[:, 32]),
    )
    assert (columns[0], columns[-1], len(columns)) == (14 - 5, 50 + 5, 36 + 2 * 5 + 1)
    assert (rows[0], rows[-1], len(rows)) == (14 - 5, 34 + 5, 20 + 2 * 5 + 1)
    assert targets.threshold_mask[14 - 5, 14 - 5] == 0  # round joins


@pytest.mark.parametrize("degrees", [0, 7, 30, 45, 88])
@pytest.mark.parametrize("ratio", [0.4, 0.6])
def test_areas_of_a_rotated_rectangle(degrees, ratio):
    w, h, turn = 150.0, 60.0, math.radians(degrees)
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    corners = np.array([(-w, -h), (w, -h), (w, h), (-w, h)]) / 2 @ rotation + 120
    targets = one(corners, height=240, width=240, shrink_ratio=ratio)
    reach = w * h * (1 - ratio**2) / (2 * (w + h))
    shrunk = (w - 2 * reach) * (h - 2 * reach)
    grown = (w + 2 * reach) * (h + 2 * reach) - (4 - math.pi) * reach**2
    # Corners lie on whole pixels and an outline's own pixels count: one pixel all around at most.
    assert abs(targets.shrink_map.sum() - shrunk) < 2 * (w + h - 4 * reach) + 4
    assert abs(targets.threshold_mask.sum() - grown) < 2 * (w + h + 4 * reach) + 4


def test_a_circle_of_a_hundred_points():
    radius, centre = 40.0, (60, 60)
    angle = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    circle = np.column_stack((np.cos(angle), np.sin(angle))) * radius + centre
    targets = one(circle, height=120, width=120)
    y, x = np.mgrid[:120, :120]
    r = np.hypot(x - centre[0], y - centre[1])
    reach = radius / 2 * (1 - 0.4**2)
    inside = targets.threshold_mask == 1
    # A corner is cut to a whole pixel, and the grown one is rounded to one.
    sure = np.abs(r - radius - reach) > math.sqrt(2) + math.sqrt(0.5)
    np.testing.assert_array_equal(inside[sure], (r < radius + reach)[sure])
    # Further off than the length of an edge, an edge is seen under an acute angle: the nearest
    # corner counts.
    ring = inside & (np.abs(r - radius) > 2 * math.pi * radius / 100)
    least = np.hypot(x[..., None] - circle[:, 0], y[..., None] - circle[:, 1]).min(axis=2)
    expected = 0.7 - 0.4 * np.minimum(least / reach_of(circle), 1)
    np.testing.assert_allclose(targets.threshold_map[ring], expected[ring], atol=1e-6)
    assert targets.shrink_map.sum() == pytest.approx(math.pi * (radius - reach) ** 2, rel=0.05)


# What counts as ignored -------------------------------------------------------------------------


def test_an_ignored_polygon_counts_neither_way():
    targets = one(BOX, ignored=True)
    assert_no_text(targets)
    inside = np.zeros((H, W), bool)
    inside[14 : 34 + 1, 14 : 50 + 1] = True
    np.testing.assert_array_equal(targets.shrink_mask, ~inside)


@pytest.mark.parametrize(("height", "counts"), [(8, True), (7.75, False)])
def test_min_text_size(height, counts):
    targets = one([(10, 10), (50, 10), (50, 10 + height), (10, 10 + height)])
    assert targets.shrink_map.any() == counts
    assert targets.shrink_mask.all() == counts
    assert targets.threshold_mask.any()  # the border step knows no least size


def test_min_text_size_can_be_changed():
    low = [(10, 10), (50, 10), (50, 14), (10, 14)]
    assert not one(low).shrink_map.any()
    assert one(low, min_text_size=4).shrink_map.any()
    assert not one(BOX, min_text_size=21).shrink_map.any()


def test_a_polygon_with_nothing_left_after_shrinking_is_ignored():
    # Two bars at a right angle, wide and high enough, but each thinner than a pixel.
    a, b = 10.05, 10.95
    corner = [(a, a), (40, a), (40, b), (b, b), (b, 40), (a, 40)]
    assert area_of(corner) > 50
    targets = one(corner)
    assert not targets.shrink_map.any()
    assert targets.shrink_mask[10, 30] == 0 and targets.shrink_mask[30, 10] == 0
    assert targets.shrink_mask[30, 30] == 1


# Two squares of 40 pixels joined by a bar of 40 x `bar` pixels.
def dumbbell(bar):
    top, bottom = 30 - bar / 2, 30 + bar / 2
    left = [(50, bottom), (50, 50), (10, 50), (10, 10), (50, 10), (50, top)]
    right = [(90, top), (90, 10), (130, 10), (130, 50), (90, 50), (90, bottom)]
    return left + right


def pieces(shrink_map):
    return cv2.connectedComponents(shrink_map.astype(np.uint8))[0] - 1


def test_a_shrink_that_breaks_a_polygon_up_is_tried_again_at_a_larger_ratio():
    polygon = dumbbell(14)
    assert reach_of(polygon, 0.4) > 7 > reach_of(polygon, 0.8)
    shrunk = one(polygon, height=60, width=140).shrink_map
    assert pieces(shrunk) == 1
    # The left edge moved by the reach at 0.8, not at 0.4.
    assert np.flatnonzero(shrunk[30])[0] == 10 + round(reach_of(polygon, 0.8))


def test_of_a_polygon_that_breaks_up_at_every_ratio_all_pieces_count():
    polygon = dumbbell(4)
    assert reach_of(polygon, 0.8) > 2
    shrunk = one(polygon, height=60, width=140).shrink_map
    assert pieces(shrunk) == 2
    assert np.flatnonzero(shrunk[30])[0] == 10 + round(reach_of(polygon, 0.8))
    assert not shrunk[:, 60:80].any()


# Polygons that no one has to clean --------------------------------------------------------------


@pytest.mark.parametrize(
    ("polygons", "ignored"),
    [([], []), ((), np.array([], bool)), (np.zeros((0, 4, 2)), np.array([]))],
)
def test_no_polygons(polygons, ignored):
    targets = make_targets(polygons, ignored, H, W)
    assert_no_text(targets)
    np.testing.assert_array_equal(targets.shrink_mask, 1)


@pytest.mark.parametrize("container", [*CONTAINERS, "int64", "uint8", "float16"])
def test_the_type_of_the_coordinates_changes_nothing(container):
    convert = CONTAINERS.get(container, lambda polygon: np.array(polygon, container))
    assert_same(one(convert(BOX)), one(BOX), atol=0)


def test_polygons_of_one_array():
    boxes = np.array([BOX, np.array(BOX) + np.array((5, 4))])
    assert_same(
        make_targets(boxes, np.array([True, False]), H, W),
        make_targets(list(boxes), [True, False], H, W),
        atol=0,
    )


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name]["polygons"]])
def test_direction_and_first_point_change_nothing(name):
    case = CASES[name]
    expected = Targets(*(GOLDEN[f"{name}.{field}"] for field in Targets._fields))
    for turned in (lambda p: p[::-1], lambda p: [*p[1:], p[0]]):
        polygons = [turned(polygon) for polygon in case["polygons"]]
        size = case["height"], case["width"]
        assert_same(make_targets(polygons, case["ignored"], *size, **case["kwargs"]), expected)


def test_direction_changes_nothing_where_clipping_makes_an_outline_cross_itself():
    thin = [(-97, 151), (140, 29), (144, 36), (-93, 158)]
    forth, back = (one(polygon, height=120, width=120) for polygon in (thin, thin[::-1]))
    assert forth.shrink_map.any()
    assert_same(forth, back)


@pytest.mark.parametrize("times", [2, 3])
def test_points_given_several_times_change_nothing(times):
    repeated = [point for point in BOX for _ in range(times)]
    assert_same(one(repeated), one(BOX), atol=0)
    closed = [*BOX, BOX[0]]
    assert_same(one(closed), one(BOX), atol=0)


@pytest.mark.parametrize("gap", [2.0**-100, 1e-200])
def test_points_too_close_to_measure_change_nothing(gap):
    bar = [(0, 0), (40, 0), (40, 1), (0, 1)]  # only at 0 can such a gap be told
    assert_same(one([(gap, 0), *bar]), one(bar))


@pytest.mark.parametrize(
    "polygon",
    [[(10, 20)] * 4, [(10, 20), (30, 20), (20, 20)], [(10, 20), (30, 20), (30, 20), (10, 20)]],
    ids=["point", "line", "line there and back"],
)
def test_zero_area_is_ignored(polygon):
    targets = one(polygon)
    assert_no_text(targets)
    xs = [x for x, _ in polygon]
    mask = np.ones((H, W))
    mask[20, min(xs) : max(xs) + 1] = 0
    np.testing.assert_array_equal(targets.shrink_mask, mask)


def test_all_corners_on_one_pixel():
    targets = one([(10.1, 10.1), (10.9, 10.1), (10.5, 10.9)])
    assert_no_text(targets)
    assert targets.shrink_mask.sum() == H * W - 1 and targets.shrink_mask[10, 10] == 0


def test_crossing_itself_with_equal_lobes_is_of_zero_area():
    targets = one([(10, 10), (50, 34), (50, 10), (10, 34)])
    assert_no_text(targets)
    assert targets.shrink_mask[22, 14] == targets.shrink_mask[22, 46] == 0
    assert targets.shrink_mask[12, 30] == 1


def test_crossing_itself_counts_the_signed_area():
    # Lobes of 40 x 40 and 10 x 10 on either side of the crossing (40, 30).
    polygon = [(0, 10), (0, 50), (50, 25), (50, 35)]
    assert area_of(polygon) == 800 - 50
    got = one(polygon, height=60, width=60)
    for x, y in [(0, 30), (3, 30), (40, 30), (20, 21), (20, 35)]:
        assert got.threshold_mask[y, x] == 1
        assert got.threshold_map[y, x] == pytest.approx(threshold((x, y), polygon), abs=1e-6)


@pytest.mark.parametrize("shift", [(W + 60, 0), (-W - 60, 0), (0, H + 60), (0, -H - 60)])
def test_wholly_outside(shift):
    targets = one(np.array(BOX) + shift)
    assert_no_text(targets)
    clipped = np.clip(np.array(BOX) + shift, 0, (W - 1, H - 1))
    (left, top), (right, bottom) = clipped.min(axis=0), clipped.max(axis=0)
    mask = np.ones((H, W))
    mask[top : bottom + 1, left : right + 1] = 0
    assert (mask == 0).sum() in (21, 37)  # a line along the border
    np.testing.assert_array_equal(targets.shrink_mask, mask)


def test_just_outside_the_border_map_reaches_in():
    targets = one(np.array(BOX) - (52, 0))  # its right edge at x = -2
    assert targets.threshold_mask[24].tolist() == [1] * 4 + [0] * (W - 4)
    expected = 0.7 - 0.4 * np.array([2, 3, 4, 5]) / BOX_REACH
    np.testing.assert_allclose(targets.threshold_map[24, :4], np.maximum(expected, 0.3), atol=1e-6)
    assert not targets.shrink_map.any()


@pytest.mark.parametrize(
    ("polygon", "astray"),
    [
        ([(-20, -9), (40, 5), (33, 30), (-27, 20)], 10),
        ([(-20, -9), (40, -9), (40, 30), (-20, 30)], 0),
    ],
)
def test_partly_outside_the_border_map_is_a_crop_and_the_shrink_map_is_of_the_clipped(
    polygon, astray
):
    whole = one(np.array(polygon) + 40, height=H + 80, width=W + 80)
    crop = Targets(*(target[40 : 40 + H, 40 : 40 + W] for target in whole))
    cut = one(polygon)
    np.testing.assert_allclose(cut.threshold_map, crop.threshold_map, atol=1e-6)
    # OpenCV draws a slanted line that leaves the image a pixel off here and there.
    assert (cut.threshold_mask != crop.threshold_mask).sum() <= astray
    clipped = np.clip(polygon, 0, None)
    np.testing.assert_array_equal(cut.shrink_map, one(clipped).shrink_map)


@pytest.mark.parametrize("far", [1e5, 2.0**24])
def test_larger_than_the_image_by_far(far):
    targets = one([(-far, -far), (far, -far), (far, far), (-far, far)])
    np.testing.assert_array_equal(targets.threshold_mask, 1)
    np.testing.assert_array_equal(targets.shrink_mask, 1)
    assert targets.shrink_map[H // 2, W // 2] == 1 and targets.shrink_map[0, 0] == 0


def test_an_image_of_one_pixel():
    targets = one([(-10, -10), (10, -10), (10, 10), (-10, 10)], height=1, width=1)
    assert [target.shape for target in targets] == [(1, 1)] * 4
    assert targets.threshold_mask == 1 and targets.shrink_mask == 0


def test_overlapping_polygons_take_the_greatest_threshold():
    polygons = [np.array(polygon, np.float32) for polygon in CASES["overlap"]["polygons"]]
    both = make_targets(polygons, [False, False], 96, 128)
    single = [one(polygon, height=96, width=128) for polygon in polygons]
    for name in ("threshold_map", "threshold_mask", "shrink_map"):
        parts = [getattr(targets, name) for targets in single]
        np.testing.assert_array_equal(getattr(both, name), np.maximum(*parts), err_msg=name)


# Hands off, and nothing kept --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_inputs_are_not_written_to(dtype):
    polygons = [np.array(BOX, dtype), np.array(BOX, dtype)[::-1] - 30]
    flags = np.array([False, True])
    for array in (*polygons, flags):
        array.flags.writeable = False
    make_targets(polygons, flags, H, W)
    listed = [list(point) for point in BOX]
    make_targets([listed], [False], H, W)
    assert listed == [list(point) for point in BOX]


def test_results_are_float32_maps_of_their_own():
    targets = one(BOX)
    before = [target.copy() for target in targets]
    again = one(np.array(BOX) + 3)
    assert [target.dtype for target in targets] == [np.float32] * 4
    assert all(target.shape == (H, W) and target.flags.c_contiguous for target in targets)
    for target in again:
        target[:] = -1
    for target, kept in zip(targets, before):
        np.testing.assert_array_equal(target, kept)


# One process tries it all, and prints each line at once: what ends it hides nothing before.
PROGRAM = """
import multiprocessing, os, warnings
warnings.simplefilter("ignore")
import cv2, paddle
import numpy as np
from numba.core import event
from dbloss.targets import make_targets

def say(what, true):
    print(what, bool(true), flush=True)

def work(seed):
    polygons = np.random.default_rng(seed).uniform(-20, 600, (20, 6, 2))
    with event.install_recorder("numba:compile") as recorder:
        targets = make_targets(polygons, [False] * 20, 640, 640)
    assert not recorder.buffer, "compiled in a worker"
    return [target.sum() for target in targets]

def in_workers():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        done = pool.map(work, range(4))
        pool.close()  # a signal that ends a worker while it is being forked leaves it waiting
        pool.join()
        return done

def threads():
    return cv2.getNumThreads(), len(os.listdir("/proc/self/task"))

# Workers fork where it is imported, and again where it has been used.
before = in_workers() if hasattr(os, "fork") else None
if os.path.exists("/proc/self/task"):
    cv2.setNumThreads(3)
    was = threads()
    polygons = np.random.default_rng(0).uniform(-20, 1000, (20, 6, 2))
    make_targets(polygons, [False] * 20, 1000, 1000)
    say("it starts no thread and leaves the threads of OpenCV alone", threads() == was)
else:
    say("it starts no thread and leaves the threads of OpenCV alone", True)
here = [work(seed) for seed in range(4)]
say("forked workers", before is None or before == here == in_workers())

class Labels(paddle.io.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        polygons = np.random.default_rng(index).uniform(-20, 300, (10, 5, 2))
        return *make_targets(polygons, [False] * 10, 320, 320), cv2.getNumThreads()

labels = Labels()
labels[0]
for shared in (False, True):
    settings = {"batch_size": 4, "num_workers": 2, "use_shared_memory": shared}
    for number, batch in enumerate(paddle.io.DataLoader(labels, **settings)):
        pages = [labels[index] for index in range(4 * number, 4 * number + 4)]
        for got, expected in zip(batch, zip(*pages)):
            np.testing.assert_array_equal(got.numpy(), np.stack(expected))
    assert number == 1
say("workers of a data loader", True)
"""


@pytest.fixture(scope="module")
def done():
    return programs.run("-c", PROGRAM)


@pytest.mark.parametrize(
    "promise",
    [
        "it starts no thread and leaves the threads of OpenCV alone",
        "forked workers",
        "workers of a data loader",
    ],
)
def test_in_a_process_of_its_own(promise, done):
    assert f"{promise} True" in done.stdout.splitlines(), done.stdout + done.stderr
    assert done.returncode == 0, done.stderr


def test_without_a_folder_for_compiled_code(monkeypatch):
    from numba.core.caching import CompileResultCacheImpl

    monkeypatch.setattr(CompileResultCacheImpl, "_locator_classes", [])
    spec = importlib.util.spec_from_file_location("uncached", border_map.__file__)
    uncached = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(uncached)
    maps, _ = draw([BOX], [False], H, W, uncached.border_half(0.4, 0.3, 0.7))
    np.testing.assert_array_equal(maps["threshold_map"], one(BOX).threshold_map)


def test_what_was_pickled_when_the_package_was_a_module_is_read():
    old = b"cdbloss.targets\nTargets\n(I1\nI2\nI3\nI4\ntR."  # protocol 0, by the name it had
    assert pickle.loads(old) == Targets(1, 2, 3, 4)


def test_a_pixel_that_sees_an_edge_under_a_right_angle():
    """The rounding of float32 decides whether the line or its end counts; clipping makes such.

    The number is that of PaddleOCR's release 3.7.0; the line would give 0.6446167.
    """
    corners = [(21.634857, 0), (79, 1.4096423), (79, 41.968708), (19.4552, 42.243408)]
    targets = make_targets([np.float32(corners)], [False], 64, 80)
    assert targets.threshold_map[0, 79] == pytest.approx(0.644599974, abs=1e-6)


# Errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("polygon", "error", "parts"),
    [
        (BOX[:2], ValueError, [r"polygons\[1\]", r"\[k, 2\] with k >= 3", r"\[2, 2\]"]),
        ([(1, 2, 3)] * 4, ValueError, [r"polygons\[1\]", r"\[k, 2\]", r"\[4, 3\]"]),
        ([1, 2, 3], ValueError, [r"polygons\[1\]", r"\[3\]"]),
        ([], ValueError, [r"polygons\[1\]", r"\[0\]"]),
        (np.zeros((1, 4, 2)), ValueError, [r"polygons\[1\]", r"\[1, 4, 2\]"]),
        ([(1, 2), (3,), (4, 5)], ValueError, [r"polygons\[1\]", "different lengths"]),
        ([("a", "b")] * 4, TypeError, [r"polygons\[1\]", "numbers", "dtype <U1"]),
        (np.zeros((4, 2), complex), TypeError, [r"polygons\[1\]", "complex128"]),
        (np.zeros((4, 2), bool), TypeError, [r"polygons\[1\]", "bool"]),
        ([(1, 2), (3, math.nan), (4, 5)], ValueError, [r"polygons\[1\]", "finite", "nan"]),
        ([(1, 2), (3, 4), (-math.inf, 5)], ValueError, [r"polygons\[1\]", "inf", "point 2"]),
        ([(1, 2), (3, 4), (2.0**24 + 4, 5)], ValueError, [r"polygons\[1\]", "16777216", "point 2"]),
        ([(-(2**63), 2), (3, 4), (4, 5)], ValueError, [r"polygons\[1\]", "point 0"]),
    ],
)
def test_a_wrong_polygon_is_named(polygon, error, parts):
    with raises(error, *parts):
        make_targets([BOX, polygon], [False, True], H, W)


@pytest.mark.parametrize(
    ("changed", "error", "parts"),
    [
        ({"polygons": 3}, TypeError, ["polygons", "sequence", "int"]),
        ({"polygons": None}, TypeError, ["polygons", "got None"]),
        ({"polygons": BOX, "ignored": [False] * 4}, ValueError, [r"polygons\[0\]", r"\[2\]"]),
        ({"ignored": []}, ValueError, ["ignored", "1, got 0"]),
        ({"ignored": [False, True]}, ValueError, ["ignored", "1, got 2"]),
        ({"ignored": False}, TypeError, ["ignored", "sequence of bool", "bool"]),
        ({"ignored": None}, TypeError, ["ignored", "NoneType"]),
        ({"ignored": ["###"]}, TypeError, ["ignored", "<U3"]),
        ({"ignored": [0.0]}, TypeError, ["ignored", "float64"]),
        ({"height": 0}, ValueError, ["height", "at least 1", "got 0"]),
        ({"width": -3}, ValueError, ["width", "got -3"]),
        ({"height": 64.0}, TypeError, ["height", "whole number", "float"]),
        ({"width": True}, TypeError, ["width", "bool"]),
        ({"width": None}, TypeError, ["width", "got None"]),
        ({"shrink_ratio": 0}, ValueError, ["shrink_ratio", "at least 0.01", "got 0"]),
        ({"shrink_ratio": 1}, ValueError, ["shrink_ratio", "below 1"]),
        ({"shrink_ratio": math.nan}, ValueError, ["shrink_ratio", "finite"]),
        ({"shrink_ratio": "less"}, TypeError, ["shrink_ratio", "str"]),
        ({"thresh_min": 0.8}, ValueError, ["thresh_min", "at most 0.7", "0.8"]),
        ({"thresh_min": -0.1}, ValueError, ["thresh_min", "at least 0"]),
        ({"thresh_max": 1.5}, ValueError, ["thresh_max", "at most 1"]),
        ({"min_text_size": -1}, ValueError, ["min_text_size", "at least 0"]),
        ({"min_text_size": None}, TypeError, ["min_text_size", "None"]),
        ({"text_balance": 2.5}, ValueError, ["text_balance", "at most 2"]),
    ],
)
def test_a_wrong_argument_is_named(changed, error, parts):
    with raises(error, *parts):
        make_targets(**{"polygons": [BOX], "ignored": [False], "height": H, "width": W} | changed)


# A batch ----------------------------------------------------------------------------------------


def test_a_batch_is_the_image_and_then_the_maps_in_their_order():
    pages = [one(BOX), one(BOX, ignored=True), make_targets([], [], H, W)]
    image = object()
    labels = stack_targets(pages, image)
    assert labels[0] is image and stack_targets(iter(pages))[0] is None
    assert len(labels) == 5
    for name, label in zip(Targets._fields, labels[1:]):
        assert label.shape == [3, H, W] and str(label.dtype) == "paddle.float32"
        for got, page in zip(label.numpy(), pages):
            np.testing.assert_array_equal(got, getattr(page, name))


@pytest.mark.parametrize(
    ("pages", "error", "parts"),
    [
        (one(BOX), TypeError, ["a single image", r"\[make_targets"]),
        ([one(BOX).shrink_map], TypeError, ["ndarray"]),
        ([], ValueError, ["at least one image"]),
        ([one(BOX), one(BOX, height=50)], ValueError, [r"\[48, 64\]", r"\[50, 64\] for image 1"]),
    ],
)
def test_what_makes_no_batch(pages, error, parts):
    with raises(error, "targets: expected", *parts):
        stack_targets(pages)


# Any polygon at all -----------------------------------------------------------------------------

# Eighths are exact in float32, and so are the squared lengths of the edges: no pixel is left out.
EIGHTHS = st.integers(-25 * 8, 80 * 8).map(lambda i: i / 8)
POINTS = st.tuples(EIGHTHS, EIGHTHS)
POLYGONS = st.one_of(
    st.lists(POINTS, min_size=3, max_size=12),
    st.tuples(EIGHTHS, EIGHTHS, EIGHTHS, EIGHTHS).map(
        lambda b: [(b[0], b[1]), (b[2], b[1]), (b[2], b[3]), (b[0], b[3])]
    ),
)
quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@quick
@given(st.lists(st.tuples(POLYGONS, st.booleans()), max_size=4), st.integers(1, 60))
def test_several_polygons_are_each_drawn_as_if_alone(texts, width):
    polygons, flags = [polygon for polygon, _ in texts], [flag for _, flag in texts]
    got = make_targets(polygons, flags, 50, width)
    assert all(target.shape == (50, width) for target in got)
    assert (got.threshold_map >= np.float32(0.3)).all()
    assert (got.threshold_map <= np.float32(0.7) + 1e-6).all()
    assert all(np.isin(target, (0, 1)).all() for target in got[1:])
    single = [make_targets([p], [f], 50, width) for p, f in texts]
    for name, combine, empty in zip(Targets._fields, [np.max] * 3 + [np.min], (0.3, 0, 0, 1)):
        parts = [np.full((50, width), empty, np.float32), *(getattr(s, name) for s in single)]
        np.testing.assert_allclose(getattr(got, name), combine(parts, axis=0), atol=1e-6)


@quick
@given(POLYGONS)
def test_any_polygon_follows_the_distance_rule(polygon):
    got = one(polygon)
    for y, x in np.argwhere(got.threshold_mask == 1)[::7]:
        assert got.threshold_map[y, x] == pytest.approx(threshold((x, y), polygon), abs=1e-4)


@quick
@given(POLYGONS)
def test_any_polygon_the_other_way_round(polygon):
    assert_same(one(polygon[::-1]), one(polygon), atol=1e-4)


def weights_of(boxes, x, ignored=None, **settings):
    return make_targets(
        boxes, ignored or [False] * len(boxes), 120, 160, text_balance=x, **settings
    )


def box(left, top, width, height):
    return [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]


BOXES = [box(5, 5, 100, 60), box(10, 80, 60, 16), box(100, 80, 40, 24)]


@pytest.mark.parametrize("x", [0.25, 0.5, 1, 2])
def test_text_weights(x):
    targets = weights_of(BOXES, x)
    expected = np.ones((120, 160))
    for (left, top), *_, (_, bottom) in BOXES:
        own = np.zeros_like(expected)
        own[top : bottom + 1, left:] = targets.shrink_map[top : bottom + 1, left:]
        if (left, top) == (10, 80):
            own[:, 90:] = 0
        expected[own == 1] = np.clip((200 / own.sum()) ** x, 0.25, 6)
    assert len(np.unique(expected)) == 4
    np.testing.assert_allclose(targets.text_weights, expected, 1e-6)
    for own, plain in zip(targets, make_targets(BOXES, [False] * 3, 120, 160)):
        np.testing.assert_array_equal(own, plain)


def test_text_that_does_not_count_weighs_one():
    small = box(2, 2, 9, 3)
    targets = weights_of([BOXES[1], small], 1, [True, False])
    assert (targets.text_weights == 1).all()
    assert (weights_of([], 0.5).text_weights == 1).all()


def test_a_tiny_text_counts_for_twenty_pixels():
    targets = weights_of([box(20, 20, 6, 3)], 0.5, min_text_size=2)
    pixels = targets.shrink_map.sum()
    assert 0 < pixels < 20
    np.testing.assert_allclose(targets.text_weights[targets.shrink_map == 1], 10**0.5, 1e-6)


@pytest.mark.parametrize("order", [1, -1])
def test_where_texts_share_pixels_the_greater_weight_counts(order):
    large, small = box(0, 0, 150, 110), box(40, 40, 40, 24)
    alone = weights_of([small], 0.5)
    both = weights_of([large, small][::order], 0.5)
    np.testing.assert_array_equal(
        both.text_weights[alone.shrink_map == 1], alone.text_weights[alone.shrink_map == 1]
    )
    assert both.text_weights.min() < 1


def test_a_batch_of_weighted_targets_is_of_them_alone():
    weighted, plain = weights_of(BOXES, 0.5), weights_of(BOXES, 0)
    *_, weights = stack_targets([weighted, weighted])
    np.testing.assert_array_equal(weights[1].numpy(), weighted.text_weights)
    for pages in ([weighted, plain], [plain, weighted]):
        with pytest.raises(ValueError, match=r"for image 1\. Make all of them with text_balance"):
            stack_targets(pages)
    with pytest.raises(TypeError, match="got that of a single image"):
        stack_targets(weighted)


def test_no_balance_makes_no_weights():
    assert isinstance(weights_of(BOXES, 0), Targets)
    with pytest.raises(ValueError, match=r"text_balance: expected .*at least 0"):
        weights_of(BOXES, -0.5)
