"""`MapHmean` is the score of `paddle.Model`: boxes of predicted maps by those of label maps."""

import numpy as np
import paddle
import pytest
from helpers import tensor

from dbloss import DBLoss

pytest.importorskip("shapely")
pytest.importorskip("cv2")
from dbloss.boxes import find_boxes
from dbloss.score import MapHmean
from dbloss.targets import make_targets, stack_targets

# Paddle's own: it copies what its loader gives.
pytestmark = pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")


def box(x, y, width, height):
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]


# Two words, of which the second is ignored, on pages of 48 x 128.
WORDS = [box(8, 8, 60, 24), box(100, 10, 20, 30)]
TARGETS = make_targets(WORDS, [False, True], 48, 128)
G = TARGETS.shrink_map
NOISE, BESIDE = np.zeros_like(G), np.zeros_like(G)
NOISE[38:46, 10:60] = 0.9  # where no text is
BESIDE[10:40, 92:98] = 0.9  # by the ignored one, as near as that would grow
FOUND = {
    "all": (G, (1, 1, 1)),
    "nothing": (0 * G, (0, 0, 0)),
    "one too many": (np.maximum(G, NOISE), (1 / 2, 1, 2 / 3)),
    "one beside what is ignored": (np.maximum(G, BESIDE), (1 / 2, 1, 2 / 3)),
    "what is ignored, too": (make_targets(WORDS, [False, False], 48, 128).shrink_map, (1, 1, 1)),
}


@pytest.mark.parametrize("name", FOUND)
def test_the_score_of_maps(name):
    found, expected = FOUND[name]
    metric, labels = MapHmean(), stack_targets([TARGETS])[1:]
    maps = tensor(np.stack([[found] * 3]))
    for predicts in (maps, {"maps": maps}):
        metric.reset()
        states = metric.compute(predicts, *labels)
        got = metric.update(*(state.numpy() for state in states))
        assert got == metric.accumulate() == pytest.approx(expected)


def hmean_of(found, targets, **settings):
    return MapHmean(**settings).update(
        found[None], targets.shrink_map[None], targets.shrink_mask[None]
    )


def turned(polygon, degrees):
    turn = np.deg2rad(degrees)
    axes = [(np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))]
    return (np.array(polygon) - 60) @ axes + 80


# Words in the rectangle around two ignored ones that touch: in the notch of an L, and on both sides
# of a slope.
NOTCH = [box(56, 58, 48, 26)], [box(10, 10, 100, 40), box(10, 50, 40, 40)]
SLOPE = [box(76, 14, 22, 22), box(12, 44, 22, 22)], [box(10, 10, 60, 30), box(40, 40, 60, 30)]
TOUCHING = {
    f"{name}, {degrees} degrees": [[turned(word, degrees) for word in part] for part in parts]
    for name, parts in (("notch", NOTCH), ("slope", SLOPE))
    for degrees in (0, 20)
}


@pytest.mark.parametrize("settings", [{}, {"box_thresh": 0.5}, {"box_type": "poly"}], ids=str)
@pytest.mark.parametrize("case", TOUCHING)
def test_a_perfect_prediction_has_1_beside_ignored_words_that_touch(case, settings):
    words, ignored = TOUCHING[case]
    flags = [False] * len(words) + [True] * len(ignored)
    targets = make_targets([*words, *ignored], flags, 160, 160)
    assert hmean_of(targets.shrink_map, targets, **settings) == [1, 1, 1]


@pytest.mark.parametrize("settings", [{}, {"box_thresh": 0.8}, {"box_type": "poly"}], ids=str)
def test_a_perfect_prediction_has_1_on_crowded_pages(settings):
    """Turned words of any size that touch and cover each other, half of them ignored."""
    rng = np.random.default_rng(0)
    metric = MapHmean(**settings)
    for _ in range(20):
        words = [
            turned(box(*rng.uniform(0, 120, 2), *rng.uniform(8, 60, 2)), rng.uniform(-90, 90))
            for _ in range(12)
        ]
        targets = make_targets(words, (rng.random(12) < 0.5).tolist(), 200, 200)
        maps = (targets.shrink_map[None], targets.shrink_mask[None])
        assert metric.update(maps[0], *maps) == [1, 1, 1]


ARMS = [(20, 60), (140, 60), (140, 76), (36, 76), (36, 120), (20, 120)]


@pytest.mark.parametrize(
    ("ignored", "rows", "settings"),
    [
        # The L does not fill its rectangle: as a box it would be below `box_thresh`.
        ([ARMS], (62, 74), {"box_thresh": 0.95}),
        # Two pixels from the first row to the last: as a box it would be below PaddleOCR's
        # `min_size`, 3.
        ([box(20, 60, 60, 2)], (60, 63), {"min_size": 0, "unclip_ratio": 0}),
        # More outlines than are looked at.
        (
            [box(20, 60, 60, 30), *(box(20 * i, 110, 10, 12) for i in range(6))],
            (65, 80),
            {"max_candidates": 2},
        ),
    ],
    ids=["box_thresh", "min_size", "max_candidates"],
)
def test_what_is_found_in_an_ignored_region_never_counts(ignored, rows, settings):
    targets = make_targets(
        [box(20, 10, 80, 30), *ignored], [False] + [True] * len(ignored), 128, 160
    )
    found = targets.shrink_map.copy()
    found[slice(*rows), 26:74] = 1
    assert len(find_boxes(found, **settings).polygons) == 2
    assert hmean_of(found, targets, **settings) == [1, 1, 1]


@pytest.mark.parametrize("dtype", ["float32", "bool", "int64"])
def test_half_in_an_ignored_region_counts_and_more_does_not(dtype):
    blank = np.zeros((1, 64, 96), np.float32)
    found = blank.copy()
    found[0, 20:31, 20:41] = 1  # grown by 0: 11 rows of 21 pixels
    for columns, precision in ((10, 0.5), (11, 1)):
        mask = np.ones((1, 64, 96), dtype)
        mask[0, :, 20 : 20 + columns] = 0
        word = found.copy()
        word[0, :, :] = 0
        word[0, 45:56, 50:81] = 1
        metric = MapHmean(unclip_ratio=0)
        assert metric.update(np.maximum(found, word), word.astype(dtype), mask)[0] == precision


def test_names_of_several_metrics():
    first, second = MapHmean(), MapHmean(iou=0.9, name="strict")
    assert first.name() == ["precision", "recall", "hmean"]
    assert second.name() == ["strict_precision", "strict_recall", "strict_hmean"]


def test_the_settings_of_boxes_are_checked_at_once():
    with pytest.raises(TypeError, match=r"width: expected no size.*int 8"):
        MapHmean(width=8)
    with pytest.raises(TypeError, match="tresh"):
        MapHmean(tresh=0.5)
    with pytest.raises(ValueError, match="box_thresh: expected"):
        MapHmean(box_thresh=2)
    assert MapHmean(box_thresh=0.95).name() == ["precision", "recall", "hmean"]


class Perfect(paddle.io.Dataset):
    """Maps as an image, the labels of which they are."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return np.stack([TARGETS.shrink_map] * 3), *TARGETS


def test_hmean_as_the_metric(engine):
    network = paddle.nn.Conv2D(3, 3, 1, bias_attr=False)  # what is predicted is 0.9 of the labels
    network.weight.set_value(0.9 * paddle.eye(3).reshape([3, 3, 1, 1]))
    model = paddle.Model(network)
    optimizer = paddle.optimizer.SGD(0.0, parameters=network.parameters())
    model.prepare(optimizer, loss=DBLoss(), metrics=MapHmean())
    model.fit(Perfect(), Perfect(), batch_size=2, epochs=1, verbose=0)
    score = model.evaluate(Perfect(), batch_size=2, verbose=0)
    assert [score[name] for name in ("precision", "recall", "hmean")] == [1, 1, 1]
    metrics = [MapHmean(), MapHmean(box_thresh=0.95, name="sure")]
    model.prepare(optimizer, loss=DBLoss(), metrics=metrics)
    score = model.evaluate(Perfect(), batch_size=2, verbose=0)
    assert (score["hmean"], score["sure_hmean"], score["sure_precision"]) == (1, 0, 0)
