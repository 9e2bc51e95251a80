"""The comparison of losses: a small one as a program, its table, and what it is made of."""

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import programs
import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "compare_losses.py"
LOSSES, SEEDS = ["BCELoss", "DiceFocalLoss"], [3, 8]


def cells(markdown):
    """The cells of a table in Markdown, without the line under its head."""
    lines = markdown.strip().splitlines()
    return [line.strip("| ").split(" | ") for line in lines if not line.startswith("| ---")]


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    return import_module(EXAMPLE.stem)


@pytest.fixture(scope="module")
def finished():
    options = ["--steps", 2, "--held-out", 5, "--losses", *LOSSES, "--seeds", *SEEDS]
    done = programs.run(EXAMPLE, *options, "--jobs", 2)
    assert done.returncode == 0, done.stderr
    return done


def test_prints_each_training_and_a_table_of_them(finished):
    printed, bar, table = finished.stdout.partition("| loss")
    form = r"^(\w+), seed (\d+): precision (0\.\d{4}|1\.0000), recall (\S+), hmean (\S+)$"
    runs = {(loss, int(seed)): numbers for loss, seed, *numbers in re.findall(form, printed, re.M)}
    assert list(runs) == [(loss, seed) for seed in SEEDS for loss in LOSSES]
    head, *rows = cells(bar + table)
    assert head == ["loss", "precision", "recall", "hmean", "spread", "seed 3", "seed 8"]
    assert [loss for loss, *_ in rows] == LOSSES
    for loss, *numbers in rows:
        scores = np.float64([runs[loss, seed] for seed in SEEDS])
        expected = [*scores.mean(axis=0), np.ptp(scores[:, 2]), *scores[:, 2]]
        assert np.float64(numbers) == pytest.approx(np.array(expected), abs=6e-4)


def test_each_training_has_a_bar_of_its_own(finished):
    for loss in LOSSES:
        for seed in SEEDS:
            assert re.search(rf"{loss}, seed {seed}: 100%.* 2/2 ", finished.stderr)
    assert re.search(r"100%.* 4/4 .*training", finished.stderr)


def test_the_table_of_known_scores(example):
    scores = {
        "DiceLoss": [(0.9, 0.6, 0.72), (0.8, 0.8, 0.8), (0.7, 0.7, 0.7)],
        "BCELoss": [(1.0, 0.5, 0.6667), (0.5, 1.0, 0.6667), (0.0, 0.0, 0.0)],
    }
    assert cells(example.table(scores, [0, 1, 5])) == [
        ["loss", "precision", "recall", "hmean", "spread", "seed 0", "seed 1", "seed 5"],
        ["DiceLoss", "0.800", "0.700", "0.740", "0.100", "0.720", "0.800", "0.700"],
        ["BCELoss", "0.500", "0.500", "0.444", "0.667", "0.667", "0.667", "0.000"],
    ]


def test_scores_stand_at_their_loss_and_seed(example, monkeypatch):
    monkeypatch.setattr(example, "ProcessPoolExecutor", lambda jobs, *_: ThreadPoolExecutor(jobs))
    monkeypatch.setattr(example, "score", lambda steps, n, seed, loss: (n, seed, len(loss)))
    assert example.score_all(["DiceLoss", "BCELoss"], [4, 6], steps=2, held_out=9, jobs=3) == {
        "DiceLoss": [(9, 4, 8), (9, 6, 8)],
        "BCELoss": [(9, 4, 7), (9, 6, 7)],
    }


def test_losses_of_a_seed_share_pages_and_first_weights(example, monkeypatch):
    """Two seeds share none of them, and no page trained on is held out."""
    seen = []

    def train(model, loss_fn, pages, **look):
        assert len(pages) == 7 * 8
        assert look["desc"] == f"{loss_fn}, seed {pages.seed}"
        first = model.stem[0].weight.numpy()
        seen.append({"loss": loss_fn, "weights": first, "page": pages[0][0], "style": pages.style})

    def evaluate(model, pages):
        assert len(pages) == 40
        image = import_module("train_text_detector").to_input(pages[0][0])
        seen[-1] |= {"held out": image, "words": sum(len(words) for _, words in pages)}
        return 0.5, 0.25, 1 / 3

    monkeypatch.setattr(example, "train", train)
    monkeypatch.setattr(example, "evaluate", evaluate)
    monkeypatch.setattr(example, "DBLoss", lambda main_loss_type: main_loss_type)
    worker = SimpleNamespace(name="SpawnProcess-2")
    monkeypatch.setattr(example.multiprocessing, "current_process", lambda: worker)
    for seed, loss in [(0, "DiceLoss"), (0, "BCELoss"), (1, "DiceLoss")]:
        assert example.score(7, 40, seed, loss) == (0.5, 0.25, 1 / 3)
    dice, bce, other = seen
    assert [run["loss"] for run in seen] == ["DiceLoss", "BCELoss", "DiceLoss"]
    for name in ("weights", "page", "held out"):
        assert np.array_equal(dice[name], bce[name])
        assert not np.array_equal(dice[name], other[name])
    for run in seen:
        assert run["style"] == example.STYLE
        assert not np.array_equal(run["page"], run["held out"])
        # 39 and 42 when written; 143 and 162 with the pages of the training example.
        assert 20 < run["words"] < 70


def test_ctrl_c_ends_the_workers_too():
    done = programs.interrupted(EXAMPLE, "--steps", 1000, once=r" [1-9]\d*/1000 ")
    assert done.returncode == 130
    assert not done.stdout
    assert "Traceback" not in done.stderr


def said(example, monkeypatch, capsys, *options):
    """The status of the program, which ends before it trains, and what it prints."""
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *options])
    with pytest.raises(SystemExit) as ended:
        example.main()
    return ended.value.code, *capsys.readouterr()


def test_help_names_every_option(example, monkeypatch, capsys):
    status, printed, _ = said(example, monkeypatch, capsys, "--help")
    assert status == 0
    for option in ("--losses", "--seeds", "--steps", "--held-out", "--jobs", "--help"):
        assert option in printed


@pytest.mark.parametrize(
    "options, complaint",
    [
        (["--steps", "0"], "--steps, --held-out and --jobs must be at least 1"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--held-out", "0"], "--held-out and --jobs must be at least 1"),
        (["--seeds", "0", "-1"], "--seeds at least 0"),
        (["--losses", "DiceLoss", "Dice"], "OHEMDiceLoss"),
        (["--epochs", "3"], "--epochs"),
    ],
)
def test_a_bad_option_exits_with_2(example, monkeypatch, capsys, options, complaint):
    status, _, message = said(example, monkeypatch, capsys, *options)
    assert status == 2
    assert complaint in message
