"""The example that watches mining: what it sees of known maps, and that it changes nothing."""

import csv
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.utils import unique_name
from PIL import Image

from dbloss import DBLoss

EXAMPLE = Path(__file__).parents[1] / "examples" / "watch_mining.py"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    return import_module(EXAMPLE.stem)


def run_here(example, monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *map(str, options)])
    example.main()


def test_writes_what_was_seen_and_a_picture(example, monkeypatch, tmp_path):
    losses = ["BCELoss:bias=-4", "DiceFocalLoss"]
    run_here(example, monkeypatch, "--losses", *losses, "--steps", 6, "--out", tmp_path)
    with (tmp_path / "mining.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["loss"], row["step"]) for row in rows] == [
        (loss, step) for loss in losses for step in ("0", "5")
    ]
    for row in rows:
        assert 0 <= float(row["low"]) <= float(row["median"]) <= float(row["high"]) <= 1
    assert float(rows[0]["median"]) < 0.05 < 0.4 < float(rows[2]["median"])
    with Image.open(tmp_path / "mining.png") as picture:
        assert np.asarray(picture.convert("L"), np.float32).std() > 10


class Known(nn.Layer):
    """A model whose maps are known: P of 10 x 10 pixels, of which the first row is text."""

    def __init__(self):
        super().__init__()
        self.p = self.create_parameter([1, 1, 10, 10])
        self.p.set_value(paddle.full([1, 1, 10, 10], 0.1))
        self.p[:, :, 0] = 0.4  # text
        self.p[:, :, 1, :3] = 0.8  # of the background, the three hardest

    def forward(self, images):
        return {"maps": paddle.concat([self.p, self.p, self.p], axis=1)}


def test_what_is_seen_of_known_maps(example):
    text = paddle.zeros([1, 10, 10])
    text[:, 0] = 1
    batch = [paddle.zeros([1, 3, 10, 10]), text, text, text, paddle.ones_like(text)]
    with paddle.no_grad():
        model = Known()
    loss_fn = DBLoss(main_loss_type="BCELoss", alpha=1)
    seen = example.Watched(model, lambda step: loss_fn, range(8)).look(batch)
    # Of 90 pixels of the background 3 are above 0.1, which is under 5 %.
    assert [seen[name] for name in ("text", "low", "median", "high")] == pytest.approx(
        [0.4, 0.1, 0.1, 0.1]
    )
    # 30 are chosen: the three, and a share of the others that together count 27.
    assert seen["chosen"] == pytest.approx((3 * 0.8 + 27 * 0.1) / 30)
    assert seen["above"] == 1
    # Of the cross-entropy a logit's slope is p - g, here over 10 + 30 pixels.
    assert seen["pull"] == pytest.approx(10 * (0.4 - 1) / 40, rel=1e-4)
    assert seen["push"] == pytest.approx((3 * 0.8 + 27 * 0.1) / 40, rel=1e-4)


@pytest.mark.filterwarnings("ignore:When training, we now always track")  # Paddle's BatchNorm
def test_a_training_that_is_watched_is_the_same(example):
    pages = example.Pages(2, example.BATCH)

    def trained(kind, loss):
        with unique_name.guard():
            paddle.seed(0)
            training = kind(example.DBNet(), loss, pages)
            training.run()
        return training

    loss_fn = DBLoss(main_loss_type="BCELoss")
    watched = trained(example.Watched, lambda step: loss_fn)
    alone = trained(import_module("train_text_detector").Training, loss_fn)
    assert len(watched.rows) == 1 and watched.history == alone.history
    for one, other in zip(watched.model.state_dict().values(), alone.model.state_dict().values()):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize(
    "options, said",
    [
        (["--steps", "0"], "--steps must be at least 1"),
        (["--steps", "20", "--of", "10"], "at most --of"),
        (["--losses", "Dice"], "OHEMDiceLoss"),
    ],
)
def test_a_bad_option_exits_with_2(example, monkeypatch, capsys, options, said):
    with pytest.raises(SystemExit) as ended:
        run_here(example, monkeypatch, *options)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
