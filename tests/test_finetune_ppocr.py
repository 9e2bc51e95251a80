"""Training PP-OCRv4's detector further: a step or two of it, from weights that are random."""

import csv
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from label_files import WORD, write_label_file
from PIL import Image

from dbloss.score import Calibration

EXAMPLE = Path(__file__).parents[1] / "examples" / "finetune_ppocr.py"
RATES = ["precision", "recall", "hmean"]


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    return import_module(EXAMPLE.stem)


def run_here(example, monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *map(str, options)])
    example.main()


@pytest.fixture
def options(example, tmp_path):
    """Photographs, and random weights of a detector that finds nothing."""
    paddle.seed(7)
    network, weights = example.ppocrv4.PPOCRv4(), tmp_path / "random.pdparams"
    network.head.binarize.conv3.bias.set_value(paddle.full([1], -9.0))
    paddle.save(network.state_dict(), str(weights))
    labels = [write_label_file(tmp_path / f"{name}.txt", count=2) for name in ("train", "test")]
    given = ["--labels", labels[0], "--test-labels", labels[1], "--weights", weights]
    return [*given, "--out", tmp_path / "out"]


def rows_of(file):
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_trains_scores_draws_and_goes_on(example, options, monkeypatch, capsys, tmp_path):
    found = [WORD + np.float32([150, 10]), WORD]
    training = import_module("train_text_detector")
    monkeypatch.setattr(training, "boxes_on", lambda image, probability, limits: found)
    options += ["--steps", 2, "--seed", 3, "--recipe", "recommended", "--csv", tmp_path / "all.csv"]
    run_here(example, monkeypatch, *options, "--limits", "best")
    said = capsys.readouterr().out.splitlines()
    rates = "precision 0.500, recall 1.000"
    # The search finds nothing, so that no limits are better than PaddleOCR's.
    assert said[-2:] == [f"limits 0.3 0.6: {rates}", "hmean 0.667"]
    rows = rows_of(tmp_path / "all.csv")
    assert [(row["pages"], row["limits"]) for row in rows] == [
        ("held out", "own"),
        ("held out", "PaddleOCR"),
        ("test", "own"),
        ("test", "PaddleOCR"),
    ]
    for row in rows:
        known = ["ppocrv4", "train.txt", example.RECIPES["recommended"], "2", "3", "2"]
        assert [row[name] for name in (*example.KEY, "step")] == known
    assert [rows[-1][rate] for rate in RATES] == ["0.5", "1.0", "0.6667"]

    out = tmp_path / "out"
    for picture in ("maps.png", "losses.png", "limits.png", "photographs/1-test_1.png"):
        with Image.open(out / picture) as image:
            assert np.asarray(image.convert("L"), np.float32).std() > 10, picture
    first = example.ppocrv4.load(out / "model.pdparams").state_dict()
    random = paddle.load(str(tmp_path / "random.pdparams"))
    moved = {name for name, value in first.items() if (value != random[name]).any()}
    assert {"backbone.conv1.conv.weight", "head.thresh.conv3.weight"} <= moved

    # Nothing is left to train, and the scores stand in the CSV once.
    monkeypatch.setattr(example, "draw_all", lambda *arguments: None)
    run_here(example, monkeypatch, *options, "--resume")
    again = capsys.readouterr()
    assert again.out.splitlines()[-1] == "hmean 0.667"
    assert "not calibrated: nothing is found" in again.err
    assert rows_of(tmp_path / "all.csv") == rows
    for name, value in example.ppocrv4.load(out / "model.pdparams").state_dict().items():
        np.testing.assert_array_equal(value.numpy(), first[name].numpy())


def test_what_is_recommended_is_calibrated(example, options, monkeypatch, capsys, tmp_path):
    """For 0.3 and 0.6, on what is held out; model.pdparams stays what was trained."""
    asked = []

    def search_calibration(maps, texts, ignored, **given):
        asked.append((len(list(maps)), len(list(texts)), given["thresh"], given["box_thresh"]))
        return SimpleNamespace(best=Calibration(0.5, 2.0, 0.1, 0.0, 0.0, 0.0))

    monkeypatch.setattr(example, "search_calibration", search_calibration)
    monkeypatch.setattr(example, "draw_all", lambda *arguments: None)
    out = tmp_path / "out"
    run_here(example, monkeypatch, *options, "--steps", 1)
    assert not asked and not (out / "calibrated.pdparams").exists()
    run_here(example, monkeypatch, *options, "--steps", 1, "--recipe", "recommended")
    assert asked == [(1, 1, 0.3, 0.6)]  # of two photographs one is held out
    said = capsys.readouterr().out.splitlines()
    assert said[-2].startswith("calibrated with a = 0.5, b = 2: precision 0.000")
    trained, calibrated = (
        paddle.load(str(out / f"{name}.pdparams"), return_numpy=True)
        for name in ("model", "calibrated")
    )
    last = "head.binarize.conv3."
    np.testing.assert_allclose(calibrated[last + "weight"], trained[last + "weight"] / 2)
    np.testing.assert_allclose(calibrated[last + "bias"], trained[last + "bias"] / 2 + 2)
    changed = {name for name, value in trained.items() if (calibrated[name] != value).any()}
    assert changed == {last + "weight", last + "bias"}


@pytest.mark.parametrize(
    ("chosen", "losses", "rate", "weighs"),
    [
        ([], ["DiceLoss"] * 2, 5e-4, False),
        (
            ["--recipe", "default", "--loss", "BCELoss:text_balance=1:rate=1e-3:warm=1"],
            ["DiceLoss", "BCELoss"],
            1e-3,
            True,
        ),
    ],
)
def test_what_is_trained(example, options, monkeypatch, chosen, losses, rate, weighs):
    begun = []

    class Training(example.Scheduled):
        def run(self, **where):
            begun.append(self)
            raise RuntimeError("training begins")

    monkeypatch.setattr(example, "Scheduled", Training)
    with pytest.raises(RuntimeError, match="training begins"):
        run_here(example, monkeypatch, *options, "--steps", 5, *chosen)
    (training,) = begun
    assert [training.loss_at(step).bce_loss.main_loss_type for step in (0, 1)] == losses
    assert training.schedule.base_lr == rate and training.batch == 4
    assert len(training.pages) == 20
    assert training.pages[0][0].shape == (3, 320, 320)
    assert len(training.pages[0]) == 5 + weighs


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--steps", "0"], "--steps must be at least 1"),
        (["--recipe", "best"], "recommended"),
        (["--loss", "Dice"], "OHEMDiceLoss"),
        (["--loss", "DiceLoss:bias=-4"], "bias= is where the small network starts"),
        (["--limits", "0.3"], "--limits: expected two numbers or best, got 0.3"),
        (["--labels", "no.txt"], "--labels and --test-labels go together"),
        (["--weights", "no.pdparams"], "no.pdparams: no such file"),
        (["--weights", str(EXAMPLE)], "expected the weights of PP-OCRv4's mobile detector"),
    ],
)
def test_a_bad_option_exits_with_2(example, monkeypatch, capsys, given, said):
    with pytest.raises(SystemExit) as ended:
        run_here(example, monkeypatch, *given)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_help_names_every_option(example, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        run_here(example, monkeypatch, "--help")
    assert ended.value.code == 0
    said = capsys.readouterr().out
    names = "recipe loss weights steps seed labels test-labels images limits resume out csv help"
    for name in names.split():
        assert f"--{name}" in said
