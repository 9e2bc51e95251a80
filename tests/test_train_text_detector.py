"""The training example: a few steps of it as a program, and its measuring on known boxes."""

import importlib.util
import re
import sys
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import paddle
import programs
import pytest
from PIL import Image

EXAMPLE = Path(__file__).parents[1] / "examples" / "train_text_detector.py"
PICTURES = ("photograph.png", "maps.png", "losses.png")


def figures(stdout, label):
    """The numbers on the line of stdout that begins with the label."""
    (line,) = re.findall(rf"^{label}\b(.*)$", stdout, re.MULTILINE)
    return [float(number) for number in re.findall(r"\d+\.\d+", line)]


def assert_outputs(folder):
    for name in PICTURES:
        with Image.open(folder / name) as picture:
            pixels = np.asarray(picture.convert("L"), np.float32)
        assert min(pixels.shape) > 400, name
        assert pixels.std() > 10, f"{name} is blank"
    weights = paddle.load(str(folder / "model.pdparams"))
    assert len(weights) > 50
    assert all(np.isfinite(weight.numpy()).all() for weight in weights.values())
    return weights


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "made" / "by the example"
    done = programs.run(EXAMPLE, "--steps", 3, "--seed", 5, "--out", folder)
    assert done.returncode == 0, done.stderr
    return done, folder


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("train_text_detector", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_writes_pictures_and_a_model_that_loads(finished, example):
    weights = assert_outputs(finished[1])
    missing, unexpected = example.DBNet().set_state_dict(weights)
    assert not missing and not unexpected


def test_prints_the_loss_and_its_parts(finished):
    total, *parts = figures(finished[0].stdout, "step 3")
    assert len(parts) == 3
    assert total == pytest.approx(sum(parts), abs=5e-6)


def test_the_bar_shows_the_loss_and_its_parts(finished):
    number = r"=\d+\.\d\d"
    shown = f"3/3 .*loss{number}, shrink{number}, threshold{number}, binary{number}"
    assert re.search(shown, finished[0].stderr)


def test_prints_hmean_with_its_precision_and_recall(finished):
    ((precision,), (recall,), (hmean,)) = (
        figures(finished[0].stdout, label) for label in ("precision", "recall", "hmean")
    )
    assert all(0 <= rate <= 1 for rate in (precision, recall, hmean))
    assert min(precision, recall) <= hmean <= max(precision, recall)


def run_here(example, monkeypatch, *options):
    """Run it in this process, with as few pages held out as it takes for the pictures."""
    monkeypatch.setattr(example, "HELD_OUT", 9)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *map(str, options)])
    example.main()


def test_another_seed_begins_with_other_pages_and_weights(example, monkeypatch, tmp_path):
    begun = []

    def train(model, loss_fn, pages):
        begun.append((pages[0][0], model.stem[0].weight.numpy()))
        raise RuntimeError("training begins")

    monkeypatch.setattr(example, "train", train)
    for seed in (5, 6):
        with pytest.raises(RuntimeError, match="training begins"):
            run_here(example, monkeypatch, "--steps", 1, "--seed", seed, "--out", tmp_path)
    for one, other in zip(*begun):
        assert one.shape == other.shape and (one != other).any()


def test_ctrl_c_leaves_pictures_and_model_of_the_steps_done(tmp_path):
    options = ["--steps", 1000, "--out", tmp_path]
    done = programs.interrupted(EXAMPLE, *options, once=r" [1-9]\d*/1000 ")
    assert done.returncode == 0, done.stderr
    assert 1 <= int(re.search(r"^step (\d+):", done.stdout, re.MULTILINE)[1]) < 1000
    assert "Traceback" not in done.stderr
    assert_outputs(tmp_path)


@pytest.mark.parametrize(("loss", "drawn"), [("DiceLoss", None), ("BCELoss", "BCELoss")])
def test_maps_and_losses_are_drawn_by_the_library(
    finished, example, monkeypatch, capsys, tmp_path, loss, drawn
):
    for name in ("plot_batch", "plot_history"):
        monkeypatch.setattr(example, name, Mock(wraps=getattr(example, name)))
    run_here(example, monkeypatch, "--steps", 3, "--seed", 5, "--loss", loss, "--out", tmp_path)
    assert_outputs(tmp_path)
    if loss == "DiceLoss":  # the same seed gives the same run
        first, folder = finished
        losses = figures(capsys.readouterr().out, "step 3")
        assert losses == figures(first.stdout, "step 3")
        for name in PICTURES:
            assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name

    (history,) = example.plot_history.call_args.args
    assert [len(losses) for losses in history] == [4, 4, 4]
    (predicts, labels), options = example.plot_batch.call_args
    pages = [example.render_page(np.random.default_rng([5, 1, i])) for i in range(8)]
    fullest = max(range(8), key=lambda i: len(pages[i][1]))
    assert predicts["maps"].shape == [8, 3, 160, 160]
    assert [label.shape for label in labels] == [[8, 3, 160, 160]] + 4 * [[8, 160, 160]]
    assert options["index"] == fullest and options["main_loss_type"] == drawn
    np.testing.assert_array_equal(options["image"], pages[fullest][0])
    # The boxes of that page are where its labels have text.
    for word in pages[fullest][1]:
        x, y = word.mean(axis=0).round().astype(int)
        assert labels[3][fullest, y, x] == 1


def test_help_names_every_option(example, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        run_here(example, monkeypatch, "--help")
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for option in ("--steps", "--loss", "--seed", "--out", "--help"):
        assert option in said


@pytest.mark.parametrize(
    "options, said",
    [
        (["--epochs", "3"], "--epochs"),
        (["--steps", "many"], "--steps"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--seed", "-1"], "--seed at least 0"),
        (["--loss", "diceloss"], "OHEMDiceLoss"),
        (["--out", str(EXAMPLE)], "exists"),
    ],
)
def test_a_bad_option_exits_with_2(example, monkeypatch, capsys, options, said):
    with pytest.raises(SystemExit) as ended:
        run_here(example, monkeypatch, *options)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_words_lie_where_their_corners_say(example):
    inside, outside = [], []
    for seed in range(20):
        image, words = example.render_page(np.random.default_rng(seed), fill=1, clutter=0)
        assert image.shape == (160, 160, 3) and image.dtype == np.uint8
        assert words.shape[1:] == (4, 2) and ((words >= 0) & (words < 160)).all()
        strokes = np.abs(np.diff(cv2.blur(image.mean(axis=-1), (3, 3)), axis=1, append=0))
        mask = np.zeros(strokes.shape, np.uint8)
        for word in words:
            cv2.fillConvexPoly(mask, np.int32(word), 1)
        inside.append(strokes[:, :-1][mask[:, :-1] == 1])
        outside.append(strokes[:, :-1][mask[:, :-1] == 0])
    # 7.4 times when written; 2.7 times with the corners moved by 10 pixels.
    assert np.concatenate(inside).mean() > 4 * np.concatenate(outside).mean()


def test_iou_of_known_squares(example):
    square = np.float32([[0, 0], [10, 0], [10, 10], [0, 10]])
    assert example.iou(square, square) == pytest.approx(1)
    assert example.iou(square, square + np.float32([5, 0])) == pytest.approx(50 / 150)
    assert example.iou(square, square + np.float32([20, 0])) == 0


def test_boxes_come_from_shrunk_words_only(example):
    probability = np.zeros((64, 160), np.float32)
    probability[20:28, 30:90] = 1  # a shrunk word
    probability[40:48, 30:90] = 0.4  # above the threshold, below the score
    probability[2, 2] = 1  # a speck
    (box,) = example.find_boxes(probability)
    # By hand: OpenCV measures between pixel centres, 59 x 7; grown by 59 * 7 * 1.5 / 132 = 4.69.
    assert box.min(axis=0) == pytest.approx([30 - 4.69, 20 - 4.69], abs=1)
    assert box.max(axis=0) == pytest.approx([89 + 4.69, 27 + 4.69], abs=1)
    assert example.find_boxes(np.zeros((32, 32), np.float32)).shape == (0, 4, 2)


def test_evaluate_counts_hits_misses_and_false_boxes(example, monkeypatch):
    square = np.float32([[0, 0], [10, 0], [10, 10], [0, 10]])
    near, half_off, far = square + np.float32([1, 0]), square + np.float32([5, 0]), square + 100
    found = iter([np.stack([near]), np.stack([half_off, far, far + 100])])
    monkeypatch.setattr(example, "predict", lambda model, image: [None])
    monkeypatch.setattr(example, "find_boxes", lambda probability: next(found))
    pages = [(None, np.stack([square, far])), (None, np.stack([square]))]
    # One hit, the near square (IoU 9/11; half off has 1/3), among 4 boxes for 3 words.
    assert example.evaluate(None, pages) == pytest.approx((1 / 4, 1 / 3, 2 / 7))
