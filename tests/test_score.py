"""The score: against PaddleOCR's own counts, and against a plain double loop over shapely."""

import base64
import importlib
import json
import math
import pickle
import re
import sys
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import paddle
import programs
import pytest
from helpers import DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from score_worker import SIZE, shares
from shapely import Polygon

from dbloss.boxes import find_boxes
from dbloss.score import Hmean, Limit, Limits, Match, match, matching, search_limits

GOLDEN = json.loads((DATA / "paddleocr_score.json").read_text())
BOX = [(0, 0), (40, 0), (40, 10), (0, 10)]
BOW_TIE = [(0, 0), (40, 10), (40, 0), (0, 10)]
WORKER = Path(__file__).with_name("score_worker.py")


def moved(polygon, x=0.0, y=0.0):
    return [(px + x, py + y) for px, py in polygon]


@np.errstate(invalid="ignore")  # older builds of GEOS report it for areas that are right
def plain_match(found, truth, ignored, iou=0.5):
    """PaddleOCR's rules, polygon by polygon and pair by pair."""

    def read(points):
        polygon = Polygon(points)
        return polygon if polygon.is_valid and polygon.is_simple else None

    boxes, texts = [read(p) for p in found], [read(p) for p in truth]
    counts = [box is not None for box in boxes]
    for b, box in enumerate(boxes):
        for t, text in enumerate(texts):
            if box is not None and text is not None and ignored[t] and box.area > 0:
                counts[b] = counts[b] and not text.intersection(box).area / box.area > 0.5
    pairs = []
    for t, text in enumerate(texts):
        if text is None or ignored[t]:
            continue
        for b, box in enumerate(boxes):
            if not counts[b] or b in [taken for taken, _ in pairs]:
                continue
            union = box.union(text).area
            if union > 0 and box.intersection(text).area / union > iou:
                pairs.append((b, t))
                break
    texts_that_count = [t for t, text in enumerate(texts) if text is not None and not ignored[t]]
    return Match(len(pairs), sum(counts), len(texts_that_count), pairs)


# PaddleOCR's counts -----------------------------------------------------------------------------


@pytest.mark.parametrize("image", GOLDEN, ids=lambda image: image["name"])
def test_golden_counts(image):
    got = match(image["found"], image["truth"], image["ignored"])
    assert got[:3] == (image["detMatched"], image["detCare"], image["gtCare"])
    assert len(got.pairs) == got.hits


def test_golden_images_together():
    metric = Hmean()
    for image in GOLDEN:
        metric.update(image["found"], image["truth"], image["ignored"])
    hits, found, truth = (
        sum(image[key] for image in GOLDEN) for key in ("detMatched", "detCare", "gtCare")
    )
    assert hits > 100
    assert metric.accumulate() == {
        "precision": hits / found,
        "recall": hits / truth,
        "hmean": pytest.approx(2 * hits / (found + truth), rel=1e-15),
    }


# A plain loop -----------------------------------------------------------------------------------

SMALL = st.integers(0, 6)
TANGLES = st.lists(st.tuples(SMALL, SMALL), min_size=3, max_size=7)
UPRIGHT = st.tuples(SMALL, SMALL, SMALL, SMALL).map(
    lambda b: [(b[0], b[1]), (b[2], b[1]), (b[2], b[3]), (b[0], b[3])]
)


@st.composite
def rings(draw):
    """A polygon of many points, round or star-shaped, at any place and of any size."""
    count = draw(st.integers(5, 40))
    angle = 2 * np.pi * np.arange(count) / count + draw(st.floats(0, 1))
    radius = draw(st.sampled_from([0.7, 2, 2.1])) * np.where(np.arange(count) % 2, 1, 0.8)
    centre = draw(st.tuples(st.floats(0, 5), st.floats(0, 5)))
    return np.stack((np.cos(angle), np.sin(angle)), axis=1) * radius[:, None] + centre


@st.composite
def pages(draw):
    """Boxes and texts of one pool, so that some are equal and many overlap."""
    pool = draw(st.lists(st.one_of(UPRIGHT, TANGLES, rings()), min_size=1, max_size=8))
    chosen = st.lists(st.sampled_from(pool), max_size=10)
    found, truth = draw(chosen), draw(chosen)
    share = draw(st.sampled_from([0, 0.3, 1]))
    flags = [draw(st.floats(0, 1)) < share or share == 1 for _ in truth]
    return found, truth, flags


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(pages(), st.sampled_from([0, 0.25, 1 / 3, 0.5, 0.75, 1]))
def test_any_page_as_a_plain_loop_has_it(page, iou):
    assert match(*page, iou=iou) == plain_match(*page, iou=iou)


def test_pages_of_many_boxes_as_a_plain_loop_has_them():
    rng = np.random.default_rng(0)
    for _ in range(5):
        truth = rng.uniform(0, 200, (60, 1, 2)) + np.array(BOX) * rng.uniform(0.5, 1.5, (60, 1, 2))
        found = truth[rng.permutation(60)] + rng.normal(0, 2, (60, 4, 2))
        flags = (rng.random(60) < 0.2).tolist()
        got = match(found, truth, flags)
        assert 5 < got.hits < 60
        assert got == plain_match(found, truth, flags)


@pytest.mark.parametrize(("shift", "ignored"), [(40 / 3, False), (20, True)])
def test_an_overlap_of_the_limit_is_rounded_as_by_paddleocr(shift, ignored):
    """A box beside its text by a third of its length: 2/3 / 4/3 = 1/2; and one half in a text."""
    answers = []
    for degrees in range(1, 180):
        turn = math.radians(degrees)
        axes = np.array([(math.cos(turn), math.sin(turn)), (-math.sin(turn), math.cos(turn))])
        text, box = (np.array(moved(BOX, x)) @ axes + 100 for x in (0, shift))
        answers.append(match([box], [text], [ignored]))
        assert answers[-1] == plain_match([box], [text], [ignored]), degrees
    assert 10 < answers.count(answers[0]) < 170


# By hand ----------------------------------------------------------------------------------------


def test_nothing():
    empty = Match(0, 0, 0, [])
    assert match([], [], []) == empty
    assert match(np.zeros((0, 4, 2)), np.zeros((0, 4, 2)), np.zeros(0, bool)) == empty
    assert match([BOX], [], []) == Match(0, 1, 0, [])
    assert match([], [BOX, BOX], [False, True]) == Match(0, 0, 1, [])
    assert match([BOX], [BOX], [True]) == Match(0, 0, 0, [])


def test_pairs_are_numbered_as_the_caller_numbers_them():
    found = [BOW_TIE, moved(BOX, 99), BOX, moved(BOX, 50)]
    truth = [moved(BOX, 200), moved(BOW_TIE, 50), moved(BOX, 50), BOX]
    got = match(found, truth, [True, False, False, False])
    assert got == Match(2, 3, 2, [(3, 2), (2, 3)])


@pytest.mark.parametrize(
    "polygon",
    [
        BOW_TIE,
        [(7, 7)] * 4,
        [(0, 0), (40, 0), (20, 0)],
        [(0, 0), (40, 10), (0, 0)],
        [(0, 0), (40, 0), (40, 10), (0, 0), (-40, 0), (-40, 10)],
    ],
    ids=["crossing", "point", "line", "line there and back", "touching itself"],
)
def test_what_has_no_inside_of_one_piece_is_left_out_of_both(polygon):
    assert match([polygon, BOX], [BOX], [False]) == Match(1, 1, 1, [(1, 0)])
    assert match([BOX], [polygon, BOX], [False, False]) == Match(1, 1, 1, [(0, 1)])
    assert match([BOX], [polygon, BOX], [True, False]) == Match(1, 1, 1, [(0, 1)])


def test_half_in_an_ignored_text_counts_and_more_does_not():
    assert match([moved(BOX, 20)], [BOX], [True]).found == 1
    assert match([moved(BOX, 19)], [BOX], [True]).found == 0
    # Each of two ignored texts is asked alone.
    halves = [moved(BOX, 20), moved(BOX, -20)]
    assert match([BOX], halves, [True, True]).found == 1


def test_a_text_takes_the_first_box_and_not_the_best():
    near = moved(BOX, 5)
    assert match([near, BOX], [BOX], [False]).pairs == [(0, 0)]
    assert match([BOX, BOX], [BOX], [False]) == Match(1, 2, 1, [(0, 0)])
    assert match([BOX], [near, BOX], [False, False]).pairs == [(0, 0)]


def test_iou_is_the_overlap_that_a_hit_exceeds():
    half = moved(BOX, 40 / 3), BOX  # an overlap of 1/2
    assert match([half[0]], [half[1]], [False], iou=0.49).hits == 1
    assert match([half[0]], [half[1]], [False], iou=0.51).hits == 0
    assert match([moved(BOX, 40)], [BOX], [False], iou=0).hits == 0  # side by side
    assert match([BOX], [BOX], [False], iou=1).hits == 0


def test_areas_too_small_for_a_number():
    tiny = [(0, 0), (1e-200, 0), (1e-200, 1e-200)]
    with np.errstate(divide="raise", invalid="raise"):
        assert match([tiny], [tiny], [False]).hits == 0
        assert match([tiny], [BOX], [True]).hits == 0


@pytest.mark.parametrize("dtype", ["int16", "int32", "int64", "uint8", "float16", "float32"])
def test_the_type_of_the_coordinates_changes_nothing(dtype):
    boxes = np.array([BOX, moved(BOX, 50), moved(BOX, 150)], dtype)
    expected = match([BOX, moved(BOX, 50)], [moved(BOX, 50), BOX], [False, True])
    flags = np.array([False, True])
    for array in (boxes, flags):
        array.flags.writeable = False
    assert match(boxes[:2], boxes[1::-1], flags) == expected
    assert match(list(boxes[:2]), tuple(boxes[1::-1]), tuple(flags)) == expected


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_tensors(dtype):
    boxes = paddle.to_tensor([BOX, moved(BOX, 50)], dtype)
    got = match(boxes, boxes.flip(0), paddle.to_tensor([False, False]))
    assert got == Match(2, 2, 2, [(1, 0), (0, 1)])
    padded = paddle.concat([boxes, paddle.zeros_like(boxes)])
    assert match(padded, padded, paddle.zeros([4], "bool")) == Match(2, 2, 2, [(0, 0), (1, 1)])


def test_only_pairs_that_overlap_are_intersected(monkeypatch):
    rows, columns = np.mgrid[:50, :60].reshape(2, -1)
    truth = np.array(BOX) + np.stack((45 * columns, 15 * rows), axis=1)[:, None]
    # Turned, so that the upright rectangles around them overlap, and they do not.
    truth = truth @ np.array([(0.8, 0.6), (-0.6, 0.8)])
    seen, intersection = [], matching.shapely.intersection

    def counted(first, second):
        seen.append(len(first))
        return intersection(first, second)

    monkeypatch.setattr(matching.shapely, "intersection", counted)
    flags = rows % 10 == 0
    got = match(truth + np.array((0.4, 2.8)), truth, flags)
    assert got[:3] == (2700, 2700, 2700)
    assert sum(seen) == 3000


# The metric -------------------------------------------------------------------------------------


def test_a_metric_of_paddle():
    metric = Hmean()
    assert isinstance(metric, paddle.metric.Metric)
    assert metric.name() == "hmean"
    assert Hmean(name="score").name() == "score"
    assert metric.accumulate() == {"precision": 0.0, "recall": 0.0, "hmean": 0.0}
    assert metric.update([BOX, moved(BOX, 50)], [BOX], [False]) == Match(1, 2, 1, [(0, 0)])
    for _ in range(2):
        got = metric.accumulate()
        assert got == {"precision": 0.5, "recall": 1.0, "hmean": pytest.approx(2 / 3)}
        assert all(type(rate) is float for rate in got.values())
    metric.update([], [BOX, BOX, BOX], [False, False, False])
    assert metric.accumulate() == {"precision": 0.5, "recall": 0.25, "hmean": pytest.approx(1 / 3)}
    metric.reset()
    assert metric.accumulate() == {"precision": 0.0, "recall": 0.0, "hmean": 0.0}


@pytest.mark.parametrize(
    ("found", "truth", "flags"),
    [
        ([], [], []),
        ([BOX], [], []),
        ([], [BOX], [False]),
        ([moved(BOX, 99)], [BOX], [False]),
        ([BOX], [BOX], [True]),
    ],
)
def test_rates_that_are_0_by_0_are_0(found, truth, flags):
    metric = Hmean()
    metric.update(found, truth, flags)
    assert list(metric.accumulate().values()) == [0, 0, 0]


def test_the_metric_has_its_own_overlap():
    metric = Hmean(iou=0.9)
    assert metric.update([moved(BOX, 4)], [BOX], [False]).hits == 0


def test_an_error_costs_nothing_that_is_counted():
    metric = Hmean()
    metric.update([BOX], [BOX], [False])
    for wrong in ([BOX, BOX[:2]], [BOX], [False]), ([BOX], [BOX], []):
        with pytest.raises(ValueError):
            metric.update(*wrong)
    assert metric.accumulate() == {"precision": 1.0, "recall": 1.0, "hmean": 1.0}


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")  # Paddle's own
def test_in_a_model_of_paddle():
    """A subclass reads the batch; paddle.Model calls the rest."""

    class Score(Hmean):
        def update(self, maps, truth, ignored):
            for page, texts, flags in zip(maps, truth, ignored):
                super().update([BOX] if page.max() > 0.5 else [], texts, flags)

    class Pages(paddle.io.Dataset):
        def __len__(self):
            return 5

        def __getitem__(self, index):
            page = np.full((1, 2, 2), index / 4, np.float32)
            return page, np.array([BOX], np.float32), np.array([False])

    metric = Score(name="score")
    image, *labels = (
        paddle.static.InputSpec([None, *shape], dtype, name)
        for shape, dtype, name in (
            ([1, 2, 2], "float32", "image"),
            ([1, 4, 2], "float32", "truth"),
            ([1], "bool", "ignored"),
        )
    )
    model = paddle.Model(paddle.nn.Identity(), image, labels)
    model.prepare(metrics=metric)
    result = model.evaluate(Pages(), batch_size=2, verbose=0)
    assert result["score"] == {"precision": 1.0, "recall": 0.4, "hmean": pytest.approx(2 / 3.5)}


# Several processes ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("score")
    programs.launch(SIZE, folder, WORKER, folder)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(SIZE)]


def rates(images):
    hits, found, truth = (
        sum(i[key] for i in images) for key in ("detMatched", "detCare", "gtCare")
    )
    return {
        "precision": hits / found,
        "recall": hits / truth,
        "hmean": pytest.approx(2 * hits / (found + truth)),
    }


def test_processes(launched):
    """Each on images of its own, and unequally many; what one process scores on all comes out."""
    assert len({len(share) for share in shares(GOLDEN)}) == SIZE
    for rank, share in enumerate(shares(GOLDEN)):
        got = launched[rank]
        assert got["together"] == got["together again"] == rates(GOLDEN)
        assert got["alone"] == rates(share)
        assert got["group of one"] == rates(share)
        assert re.search(r"group.*holds this process", got["outsider"])


def test_without_parallelism_all_processes_are_one():
    metric = Hmean(all_processes=True)
    metric.update([BOX], [BOX], [False])
    assert metric.accumulate() == {"precision": 1.0, "recall": 1.0, "hmean": 1.0}


# Limits -----------------------------------------------------------------------------------------

GRID = {"thresh": [0.2, 0.3, 0.5], "box_thresh": [0.5, 0.6, 0.8, 0.95]}


@pytest.fixture(scope="module")
def photographs():
    """Maps that a detector gave, and texts near some of the boxes found there and elsewhere."""
    rng = np.random.default_rng(0)
    with np.load(DATA / "paddleocr_boxes.npz") as arrays:
        maps = [np.float32(array) / 255 for array in list(arrays.values())[:5]]
    truths, ignored = [], []
    for probability in maps:
        boxes = find_boxes(probability, thresh=0.4, box_thresh=0.3).polygons
        kept = [box + rng.normal(0, 2, 2) for box in boxes if rng.random() < 0.8]
        truths.append([*kept, moved(BOX, *rng.uniform(0, 500, 2))])
        ignored.append((rng.random(len(truths[-1])) < 0.15).tolist())
    return maps, truths, ignored


def each_alone(maps, truths, ignored, limits, iou=0.5, **settings):
    """The rates of one pair of limits after another, each from the maps on."""
    tables = {"precision": [], "recall": [], "hmean": []}
    for thresh in limits["thresh"]:
        for box_thresh in limits["box_thresh"]:
            metric = Hmean(iou)
            for probability, truth, flags in zip(maps, truths, ignored):
                pair = {"thresh": thresh, "box_thresh": box_thresh}
                metric.update(find_boxes(probability, **pair, **settings).polygons, truth, flags)
            for name, rate in metric.accumulate().items():
                tables[name].append(rate)
    return {name: np.reshape(t, [len(v) for v in limits.values()]) for name, t in tables.items()}


def assert_tables(got, expected):
    for name, table in expected.items():
        np.testing.assert_array_equal(getattr(got, name), table, err_msg=name)


def test_limits_are_those_of_each_pair_alone(photographs):
    got = search_limits(*photographs, **GRID)
    expected = each_alone(*photographs, GRID)
    assert len(np.unique(expected["hmean"])) > 5
    assert_tables(got, expected)
    assert got.thresh.tolist() == GRID["thresh"] and got.box_thresh.tolist() == GRID["box_thresh"]
    i, j = np.argwhere(expected["hmean"] == expected["hmean"].max())[0]
    rates = [expected[name][i, j] for name in ("precision", "recall", "hmean")]
    assert got.best == (GRID["thresh"][i], GRID["box_thresh"][j], *rates)
    usual = expected["hmean"][1, 1]
    assert got.gain.hmean == pytest.approx(expected["hmean"].max() - usual)


def test_limits_have_the_counts_of_each_image(photographs):
    got = search_limits(*photographs, **GRID)
    assert got.counts.shape == (5, 3, 4, 3)
    for counts, probability, truth, flags in zip(got.counts, *photographs):
        found = find_boxes(probability, thresh=0.3, box_thresh=0.8).polygons
        assert tuple(counts[1, 2]) == match(found, truth, flags)[:3]


def test_the_score_at_a_pair_by_its_values_or_its_indices(photographs):
    got = search_limits(*photographs, **GRID)
    at = Limit(0.3, 0.8, got.precision[1, 2], got.recall[1, 2], got.hmean[1, 2])
    by_value = got.at(0.3, 0.8), got.at(0.1 + 0.2, np.float32(0.8)), got.at("0.3", 0.8)
    by_index = got.at(1, 2), got.at(np.int64(1), -2), got.at(0.3, 2)
    assert {*by_value, *by_index} == {at}
    with raises(
        ValueError, "^box_thresh: expected a box_thresh of the table, 0.5, 0.6, 0.8", "0.7"
    ):
        got.at(0.3, 0.7)
    with raises(IndexError, "^thresh: expected an index below 3, got 3", r"pass 3\.0"):
        got.at(3, 0)
    with raises(TypeError, "^thresh: expected a finite number, got None"):
        got.at(None, 0)


def test_a_box_whose_score_is_box_thresh_is_kept():
    page = np.zeros((64, 96), np.float32)
    page[20:36, 10:42] = 0.5  # so is the mean of these 512 pixels, exactly
    (box,), _ = find_boxes(page, box_thresh=0.5)
    limits = search_limits([page], [[box]], [[False]], thresh=[0.3], box_thresh=[0.5, 0.51])
    assert limits.recall.tolist() == [[1, 0]]


# What the search says ---------------------------------------------------------------------------


def said(caplog, *images, **limits):
    """What the search says on the logger, and what it returns."""
    caplog.clear()
    got = search_limits(*images, **limits)
    records = [record.getMessage() for record in caplog.records if record.name == "dbloss"]
    assert records == [f"search_limits: {remark}" for remark in got.remarks]
    return got.remarks, got


@pytest.fixture
def pages_of(caplog):
    """Pages with a text of one probability and, below it, what is no text of another."""
    caplog.set_level("WARNING", "dbloss")

    def made(*pairs):
        pages = np.zeros((len(pairs), 96, 96), np.float32)
        for page, (text, other) in zip(pages, pairs):
            page[20:36, 10:42], page[60:76, 10:42] = text, other
        texts = [[[(3, 13), (49, 13), (49, 43), (3, 43)]]] * len(pairs)
        return pages, texts, [[False]] * len(pairs)

    return made


def test_it_says_where_the_best_pair_is_at_the_edge(caplog, pages_of):
    images = pages_of(*[(0.9, 0.7)] * 2)  # right from a thresh or a box_thresh above 0.7 on
    above, below = (
        "The best thresh, 0.8, is the highest that was searched, and a higher one may be better."
        " Search further: add higher ones to thresh.",
        "The best box_thresh, 0.75, is the lowest that was searched, and a lower one may be better."
        " Search further: add lower ones to box_thresh.",
    )
    remarks, got = said(caplog, *images, thresh=[0.2, 0.8], box_thresh=[0.3])
    assert remarks == [above] and got.edges == {"thresh": "highest"}
    remarks, got = said(caplog, *images, thresh=[0.3], box_thresh=[0.75, 0.95])
    assert remarks == [below] and got.edges == {"box_thresh": "lowest"}
    for quiet in (
        {"thresh": [0.3], "box_thresh": [0.5, 0.75, 0.95]},
        {"thresh": [0.3], "box_thresh": [0.6, 0.75, 0.8]},  # another is as good
        {"thresh": [0.8], "box_thresh": [0.3]},  # nothing was chosen
    ):
        remarks, got = said(caplog, *images, **quiet)
        assert remarks == [] and got.edges == {}
    images = pages_of(*[(1, 1 - 1e-3)] * 2)  # right at 1 alone, above which there is nothing
    remarks, got = said(caplog, *images, thresh=[0.3], box_thresh=[0.5, 1])
    assert got.best[:2] == (0.3, 1) and remarks == [] and got.edges == {}


def test_it_says_where_every_hmean_is_0_and_chooses_none(caplog, pages_of):
    pages, texts, flags = pages_of((0.9, 0), (0.8, 0))
    aside = [[moved(text, 20, 30) for text in page] for page in texts]
    for images, reason in (
        ((pages, texts, [[True]] * 2), "no text counts"),
        ((pages / 9, texts, flags), "no box was found anywhere in the table"),
        ((pages, aside, flags), "boxes were found, and none overlaps a text"),
    ):
        (remark,), got = said(caplog, *images)
        assert remark.startswith(f"Every hmean is 0, so that no limits are chosen: {reason}")
        assert got.best is None and got.gain is None and got.edges == {}
    alone = Limits([0.3], [0.6], *[[[0.0]]] * 3)
    assert alone.best is None
    assert alone.remarks == ["Every hmean is 0, so that no limits are chosen."]


def test_it_says_where_the_gain_over_paddleocrs_limits_is_within_noise(caplog, pages_of):
    # A word of 0.5 is missed at 0.3 and 0.6.
    grid = {"thresh": [0.2, 0.3, 0.45], "box_thresh": [0.3, 0.4, 0.48, 0.6, 0.7]}
    found, gains = (0.9, 0), (0.5, 0)
    remarks, got = said(caplog, *pages_of(*[found] * 14, gains), **grid)
    assert got.best[:2] == (0.2, 0.3)
    expected = 1 - 28 / 29  # of 15 texts 14 are found: 2 * 14 / (14 + 15)
    assert got.gain.hmean == pytest.approx(expected)
    assert remarks[-1].startswith(
        "Over PaddleOCR's limits, 0.3 and 0.6, the best ones, 0.2 and 0.3, gain +3.4 points of"
        " hmean on these 15 images, and between "
    )
    assert remarks[-1].endswith(": within noise. Choose on more images, or change nothing.")
    assert got.gain.low <= 0 < got.gain.high

    (*_, remark), got = said(caplog, *pages_of(gains), **grid)
    assert remark.endswith(
        "gain +100.0 points of hmean on this image, and one image tells little of others. Choose on"
        " more images."
    )
    # The same on two pages of three is no noise, whether or not 0.3 and 0.6 are in the table.
    for limits in (grid, {"thresh": [0.2, 0.45], "box_thresh": [0.4, 0.48]}):
        remarks, got = said(caplog, *pages_of(*[found, gains, gains] * 8), **limits)
        assert got.gain.hmean == pytest.approx(0.5) and got.gain.low > 0.2
        assert not any("noise" in remark for remark in remarks)
    # Nor is it a gain where PaddleOCR's, which are not in the table, are better.
    remarks, got = said(caplog, *pages_of(*[(0.9, 0.5)] * 9), thresh=[0.2], box_thresh=[0.3, 0.4])
    assert got.gain.high < 0
    assert remarks[-1].endswith(": no gain. Search others, or change nothing.")
    # Nothing is said where these are the best.
    remarks, got = said(
        caplog, *pages_of(*[(0.9, 0.55)] * 4, (0.9, 0)), thresh=[0.3], box_thresh=[0.5, 0.6, 0.95]
    )
    assert got.best[:2] == (0.3, 0.6) and remarks == []


@pytest.mark.parametrize(
    "changed", [{"box_type": "poly"}, {"unclip_ratio": 1.2, "use_dilation": True}, {"iou": 0.8}]
)
def test_limits_with_other_settings(photographs, changed):
    some = [part[:2] for part in photographs]
    assert_tables(search_limits(*some, **GRID, **changed), each_alone(*some, GRID, **changed))


def test_limits_of_images_of_other_sizes_than_the_maps(photographs):
    some = [part[:2] for part in photographs]
    expected = search_limits(*some, **GRID)
    maps, truths, ignored = some
    doubled = [[np.multiply(text, (2, 3)) for text in truth] for truth in truths]
    sizes = [(3 * len(page), 2 * page.shape[1]) for page in maps]
    assert expected.hmean.max() > 0.5
    assert_tables(search_limits(maps, doubled, ignored, sizes=sizes, **GRID), expected._asdict())


def test_boxes_are_found_once_and_maps_read_one_by_one(photographs, monkeypatch):
    asked = []

    def counted(probability, **settings):
        asked.append(settings["thresh"])
        return find_boxes(probability, **settings)

    def one_by_one():
        for number, page in enumerate(photographs[0]):
            assert len(asked) == number * len(GRID["thresh"])
            yield page

    monkeypatch.setattr("dbloss.boxes.find_boxes", counted)
    got = search_limits(one_by_one(), map(list, photographs[1]), iter(photographs[2]), **GRID)
    assert asked == GRID["thresh"] * len(photographs[0])
    assert_tables(got, search_limits(*photographs, **GRID)._asdict())


def test_limits_are_put_in_order_and_equal_ones_taken_once(photographs):
    some = [part[:1] for part in photographs]
    mixed = {"thresh": (0.5, 0.2, 0.3, 0.2), "box_thresh": np.array([0.8, 0.95, 0.6, 0.5])}
    got, expected = search_limits(*some, **mixed), search_limits(*some, **GRID)
    assert_tables(got, expected._asdict())


def test_progress_is_shown_where_it_is_asked_for(photographs, capsys):
    pytest.importorskip("tqdm")
    some = [part[:2] for part in photographs]
    search_limits(*some, **GRID)
    assert capsys.readouterr().err == ""
    search_limits(iter(some[0]), *some[1:], progress=True, **GRID)
    assert re.search(r"limits: 100%.* 2/2 .*image", capsys.readouterr().err)


def test_without_tqdm_the_progress_bar_says_what_to_install(photographs, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with raises(ImportError, "progress=True needs tqdm", "pip install tqdm"):
        search_limits(*photographs, progress=True)


@pytest.mark.parametrize(
    ("changed", "error", "parts"),
    [
        ({"thresh": []}, ValueError, ["^thresh", "at least one number"]),
        ({"thresh": 0.3}, TypeError, ["^thresh", "sequence", "float 0.3"]),
        ({"box_thresh": [0.5, 1.1]}, ValueError, [r"^box_thresh\[1\]", "at most 1", "1.1"]),
        ({"box_thresh": [0.5, None]}, TypeError, [r"^box_thresh\[1\]", "None"]),
        ({"iou": 2}, ValueError, ["^iou", "at most 1"]),
        ({"maps": []}, ValueError, ["^truths and ignored|^maps", "got 0"]),
        ({"maps": [], "truths": [], "ignored": []}, ValueError, ["^maps", "at least one"]),
        ({"truths": [[BOX]] * 3}, ValueError, ["^maps and ignored", "as many", "got 2"]),
        ({"sizes": [(8, 8)]}, ValueError, ["^sizes", "got 1"]),
        ({"ignored": [[False], []]}, ValueError, ["^image 1: ignored", "1, got 0"]),
        ({"truths": [[BOX], [BOX[:2]]]}, ValueError, [r"^image 1: truth\[0\]", "k >= 3"]),
        (
            {"maps": [np.zeros((8, 8)), np.zeros(8)]},
            ValueError,
            ["^image 1: probability"],
        ),
        ({"maps": np.zeros((2, 1, 1, 8, 8))}, ValueError, ["^image 0: maps", "got a batch"]),
        ({"sizes": [(8, 8), (0, 8)]}, ValueError, ["^image 1: height", "above 0"]),
        ({"unclip": 2}, TypeError, ["unclip"]),
        ({"progress": "yes"}, TypeError, ["progress", "True or False"]),
    ],
)
def test_a_wrong_argument_of_the_search_is_named(changed, error, parts):
    given = {"maps": [np.zeros((8, 8))] * 2, "truths": [[BOX]] * 2, "ignored": [[False]] * 2}
    with raises(error, *parts):
        search_limits(**given | changed)


# Pickles ----------------------------------------------------------------------------------------

# Written while `dbloss.score` was a single file: a `Match`, a `Limit`, `Limits`, a `Hmean` and a
# `MapHmean`, compressed by zlib, in base64.
OLDER = """
eNqFUktv00AQzqMPWChv6BvK26EQKOVRoJBSHkEEcvDJF8tyNlvWkmPn866l5hCJHNKSnwC/CokTNyQ4cOQfwK7tRB
SQGEs7452Zb2a+2bcFGzmDNht+KERZ0DBi5LUrKSfIG7W8/mwUarlabgdFV2Ksh/G90a+8licJJoxq5dNqItXK16Hx
I5dItfJlaHxLDYnJHvb9A0kQ7DdskBGaa+OAwv78XsuHETazcdDGlPEbdFaMqYxDNg4bf5fXriM2jirX96Hr49Alca
yH43tbetFibkBwotTDyS5OGVZRhXphjOlRojWlDtf3nXYUUiYEE5gZWOPq8k0Uxm3M1pMfJ3BbDHOJzTUq5q1JfU/D
OJACCzSIW+1O2dF1y63Yl54bRW6HOBGjYSBkFFNF82IaRoJm6sXpWq6PM1SlNRkVhAXaIFiy8gq8gbPWhNK+K71gBe
d2cN7EhV1cNHFJb7fYx+UMsCk7bZVnWAU94RpKg3e7uGJi2agVE6x1XK3X6y9/KkmOmtrhtcaAL1kzyptPycgVMj2W
aZS5qnrdxA2JlUbc+POltTOGbyqGV7u4ZST9OilDt7km/k4Xdw0+PVoinxnw2Tqf4/N8gS/yhIA1rqa6Z+J+NtUDvv
zfztZ1Zw9NPJKoqM7SLW15QRMbdCsOqAxDX5C2G6lN+ASPh603wm0miA50UhObfTwx8dTgm6UunllEMx9uO5JHTHA8
Hz1eUZeoqlKs/Aszaf6I
"""


def test_pickles_made_before_the_module_was_a_package():
    got = pickle.loads(zlib.decompress(base64.b64decode(OLDER)))
    matched, limit, limits, metric, of_maps = got
    assert matched == Match(1, 1, 1, [(0, 0)])
    assert limit == Limit(0.3, 0.6, 1.0, 0.5, 0.625)
    assert limits[:5] == ([0.3], [0.4, 0.6], [[0.5, 1.0]], [[1.0, 0.5]], [[0.75, 0.25]])
    assert metric.update([moved(BOX, 20)], [BOX], [False]).hits == 1  # its IoU, 1/3, is above 1/4
    assert metric.accumulate() == {"precision": 2 / 3, "recall": 0.4, "hmean": pytest.approx(0.5)}
    assert of_maps.name() == ["precision", "recall", "hmean"]
    blank = np.zeros((1, 8, 8), np.float32)
    assert of_maps.update(blank, blank, blank + 1) == pytest.approx([0.5, 0.25, 1 / 3])
    assert of_maps.accumulate() == pickle.loads(pickle.dumps(of_maps)).accumulate()


# Errors -----------------------------------------------------------------------------------------


@contextmanager
def raises(error, *parts):
    with pytest.raises(error) as caught:
        yield
    for part in parts:
        assert re.search(part, str(caught.value)), (part, str(caught.value))


class Found(tuple):
    polygons, scores = property(lambda self: self[0]), property(lambda self: self[1])


@pytest.mark.parametrize(
    ("changed", "error", "parts"),
    [
        ({"found": 3}, TypeError, ["found", "sequence", "int"]),
        ({"found": None}, TypeError, ["found", "got None"]),
        ({"found": Found(([BOX], [1.0]))}, TypeError, ["found", "polygons"]),
        ({"found": [BOX, BOX[:2]]}, ValueError, [r"found\[1\]", r"k >= 3", r"\[2, 2\]"]),
        ({"found": [BOX, []]}, ValueError, [r"found\[1\]", r"\[0\]"]),
        ({"found": [[BOX]]}, ValueError, [r"found\[0\]", r"\[1, 4, 2\]"]),
        ({"truth": [[(1, 2), (3, math.nan), (4, 5)]]}, ValueError, [r"truth\[0\]", "nan"]),
        ({"truth": [[*BOX[:3], (math.inf, 0)]]}, ValueError, [r"truth\[0\]", "inf", "point 3"]),
        ({"truth": [[("a", "b")] * 3]}, TypeError, [r"truth\[0\]", "numbers"]),
        ({"truth": []}, ValueError, ["ignored", "0, got 1"]),
        ({"ignored": [False] * 2}, ValueError, ["ignored", "1, got 2"]),
        ({"ignored": ["###"]}, TypeError, ["ignored", "bool"]),
        ({"ignored": None}, TypeError, ["ignored", "NoneType"]),
        ({"iou": 1.5}, ValueError, ["iou", "at most 1", "1.5"]),
        ({"iou": -0.1}, ValueError, ["iou", "at least 0"]),
        ({"iou": math.nan}, ValueError, ["iou", "nan"]),
        ({"iou": None}, TypeError, ["iou", "None"]),
    ],
)
def test_a_wrong_argument_is_named(changed, error, parts):
    with raises(error, *parts):
        match(**{"found": [BOX], "truth": [BOX], "ignored": [False]} | changed)


def test_a_wrong_setting_of_the_metric_is_named():
    with raises(ValueError, "iou", "at most 1"):
        Hmean(iou=2)
    with raises(TypeError, "all_processes", "True or False"):
        Hmean(all_processes="yes")
    with raises(TypeError, "group", "new_group"):
        Hmean(all_processes=True, group=[0, 1])


def test_without_shapely_the_import_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("dbloss.score")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "shapely", None)
    with raises(ImportError, "shapely", "pip install shapely"):
        importlib.import_module("dbloss.score")
