"""`MapHmean` is the score of `paddle.Model`: boxes of predicted maps by those of label maps."""

import numpy as np
import paddle
import pytest
from helpers import tensor

from dbloss import DBLoss

pytest.importorskip("shapely")
pytest.importorskip("cv2")
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


def test_the_settings_of_boxes_are_checked_at_once():
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
    model.prepare(optimizer, loss=DBLoss(), metrics=MapHmean(box_thresh=0.95))
    assert model.evaluate(Perfect(), batch_size=2, verbose=0)["hmean"] == 0
