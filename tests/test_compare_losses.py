"""The comparison of losses: a small one as a program, its table, and what it is made of."""

import argparse
import csv
import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import numpy as np
import paddle
import programs
import pytest
from label_files import write_label_file
from PIL import Image

from dbloss.score import Limits

EXAMPLE = Path(__file__).parents[1] / "examples" / "compare_losses.py"
LOSSES, SEEDS = ["BCELoss", "DiceBCELoss:text_balance=0.5"], [3, 8]
OPTIONS = ["--steps", 2, "--every", 1, "--held-out", 2, "--losses", *LOSSES, "--seeds", *SEEDS]
RATES = ["precision", "recall", "hmean"]


def cells(markdown):
    """The cells of a table in Markdown, without the line under its head."""
    lines = markdown.strip().splitlines()
    return [line.strip("| ").split(" | ") for line in lines if not line.startswith("| ---")]


def rows_of(file):
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    module = import_module(EXAMPLE.stem)
    # A thread stands in for a worker.
    monkeypatch.setattr(module, "ProcessPoolExecutor", lambda jobs, *_: ThreadPoolExecutor(jobs))
    return module


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared") / "made"
    done = programs.run(EXAMPLE, *OPTIONS, "--jobs", 2, "--out", folder)
    assert done.returncode == 0, done.stderr
    return done, folder


def test_writes_and_prints_the_scores_of_each_training(finished):
    done, folder = finished
    rows = rows_of(folder / "scores.csv")
    where = [(r["loss"], int(r["seed"]), int(r["step"]), r["pages"], r["limits"]) for r in rows]
    assert sorted(where) == sorted(
        (loss, seed, step, pages, limits)
        for loss in LOSSES
        for seed in SEEDS
        for step, pages in ((1, "held out"), (2, "held out"), (2, "test"))
        for limits in ("own", "PaddleOCR")
    )
    assert all(row["data"] == "rendered" and row["steps"] == "2" for row in rows)
    for row in rows:
        assert row["limits"] == "own" or (row["thresh"], row["box_thresh"]) == ("0.3", "0.6")
        assert all(0 <= float(row[rate]) <= 1 for rate in RATES)
    form = r"^(\S+), seed (\d+), at (\S+)'s limits: precision (\S+), recall (\S+), hmean (\S+)$"
    assert re.findall(form, done.stdout, re.M) == [
        (row["loss"], row["seed"], row["limits"], *(f"{float(row[rate]):.4f}" for rate in RATES))
        for row in rows
        if row["pages"] == "test"
    ]


def test_ends_with_a_table_and_a_picture(finished):
    done, folder = finished
    head, *lines = cells(done.stdout[done.stdout.index("| loss") :])
    assert head[:5] == ["loss", *RATES, "spread"] and [line[0] for line in lines] == LOSSES
    with Image.open(folder / "curves.png") as picture:
        assert np.asarray(picture.convert("L"), np.float32).std() > 10


def test_a_log_file_gets_no_bars(finished):
    assert "%|" not in finished[0].stderr


def test_started_again_it_does_what_is_missing(finished, example, monkeypatch, capsys, tmp_path):
    whole = rows_of(finished[1] / "scores.csv")
    file = tmp_path / "some.csv"
    rows = example.read_rows(finished[1] / "scores.csv")
    *_, missing = (tuple(row[name] for name in example.KEY) for row in rows)
    # Of the last training there is the score at PaddleOCR's limits alone.
    example.write_rows(file, [*rows[:-6], {**rows[-1], "hmean": 0.5}])

    def run(args, key, line):
        assert key == missing
        return rows[-6:]

    monkeypatch.setattr(example, "run", run)
    argv = [str(EXAMPLE), *map(str, OPTIONS), "--out", str(tmp_path), "--csv", str(file)]
    monkeypatch.setattr(sys, "argv", argv)
    example.main()
    assert rows_of(file) == whole
    table = finished[0].stdout[finished[0].stdout.index("| loss") :]
    assert capsys.readouterr().out.endswith(table)


def test_each_training_has_a_process_of_its_own(example, monkeypatch, tmp_path):
    workers, lines = [], []
    executor = example.ProcessPoolExecutor

    def started(jobs, *settings):
        workers.append(jobs)
        return executor(jobs, *settings)

    def run(args, key, line):
        lines.append(line)
        return []

    monkeypatch.setattr(example, "ProcessPoolExecutor", started)
    monkeypatch.setattr(example, "run", run)
    given = options(tmp_path, jobs=2, csv=tmp_path / "scores.csv")
    example.run_all(given, [("small", "rendered", "DiceLoss", 1, seed) for seed in range(5)])
    assert workers == [1] * 5
    assert set(lines) <= {1, 2}  # of the screen, below that of the main program


def options(tmp_path, **changed):
    given = {"labels": None, "test_labels": None, "images": None, "held_out": 2, "every": 1}
    return argparse.Namespace(**{**given, "out": tmp_path, **changed})


def test_a_training_that_was_cut_off_gives_the_same_scores(example, monkeypatch, tmp_path):
    key = ("small", "rendered", "BCELoss", 3, 5)
    (tmp_path / "cut").mkdir()
    whole = example.run(options(tmp_path), key)
    searches = []

    def search(*arguments, **look):
        searches.append(look)
        if len(searches) == 2:
            raise KeyboardInterrupt
        return found(*arguments, **look)

    found = example.search
    monkeypatch.setattr(example, "search", search)
    with pytest.raises(KeyboardInterrupt):
        example.run(options(tmp_path / "cut"), key)
    assert example.run(options(tmp_path / "cut"), key) == whole
    # Of three scores one was there, and one was cut off.
    assert len(searches) == 4
    # Scores without the model that they are of are no start either.
    (checkpoint,) = tmp_path.glob("*.pdparams")
    checkpoint.unlink()
    assert example.run(options(tmp_path), key) == whole
    assert len(searches) == 7


def test_a_training_of_other_pages_is_no_start(example, tmp_path):
    file = write_label_file(tmp_path / "some.txt", count=2)
    key = ("small", "rendered", "DiceLoss", 1, 0)
    example.run(options(tmp_path), key)
    (checkpoint,) = tmp_path.glob("*.pdparams")
    other = ("small", "some.txt", *key[2:])
    checkpoint.rename(str(checkpoint).replace("rendered", "some.txt"))
    with pytest.raises(ValueError, match="data: rendered there"):
        example.run(options(tmp_path, labels=file, test_labels=file), other)


def test_the_table_of_known_scores(example):
    scores = {
        "DiceLoss": [(0.9, 0.6, 0.72), (0.8, 0.8, 0.8), (0.7, 0.7, 0.7)],
        "BCELoss": [(1.0, 0.5, 0.6667), (0.5, 1.0, 0.6667), (0.0, 0.0, 0.0)],
    }
    rows = [
        {"loss": loss, "seed": seed, "limits": limits, **dict(zip(RATES, np.array(rates) * scale))}
        for loss, of_loss in scores.items()
        for seed, rates in zip((0, 1, 5), of_loss)
        for limits, scale in (("own", 1), ("PaddleOCR", 0.5))
    ]
    seeds = ["seed 0", "seed 1", "seed 5"]
    assert cells(example.table(rows, ["DiceLoss", "BCELoss"], [0, 1, 5])) == [
        ["loss", "precision", "recall", "hmean", "spread", *seeds, "hmean at 0.3 / 0.6"],
        ["DiceLoss", "0.800", "0.700", "0.740", "0.100", "0.720", "0.800", "0.700", "0.370"],
        ["BCELoss", "0.500", "0.500", "0.444", "0.667", "0.667", "0.667", "0.000", "0.222"],
    ]


def test_the_curves_are_means_with_their_range(example):
    hmeans = {("A", 0): [0.1, 0.4], ("A", 1): [0.3, 0.8], ("B", 0): [0.0, 0.9]}
    rows = [
        {"loss": loss, "seed": seed, "step": 250 * (i + 1), "hmean": hmean}
        for (loss, seed), of_seed in hmeans.items()
        for i, hmean in enumerate(of_seed)
    ]
    figure = example.draw_curves(rows, ["A", "B"])
    (axes,), (legend,) = figure.axes, figure.legends
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert drawn["A"] == [[250, pytest.approx(0.2)], [500, pytest.approx(0.6)]]
    assert drawn["B"] == [[250, 0], [500, 0.9]]
    band = axes.collections[0].get_paths()[0].vertices
    assert {(250, 0.1), (250, 0.3), (500, 0.4), (500, 0.8)} <= set(map(tuple, band))
    # The best at the end stands first.
    assert [text.get_text() for text in legend.get_texts()] == ["B", "A"]


def test_a_loss_is_a_name_and_settings(example):
    text = "DiceBCELoss:bce_weight=0.4:text_balance=0.5:alpha=3:bias=-4:rate=1e-3"
    loss_at, *others = example.read_loss(text)
    loss = loss_at(0)
    assert others == [0.5, -4, 1e-3, False] and loss.alpha == 3
    assert loss.bce_loss.main_loss_type == "DiceBCELoss" and loss.bce_loss.bce_weight == 0.4
    loss_at, *others = example.read_loss("DiceLoss")
    assert others == [0, 0, 0, False] and loss_at(0).bce_loss.main_loss_type == "DiceLoss"


def test_a_loss_may_begin_as_another(example, monkeypatch):
    monkeypatch.setattr(example.Training, "step", lambda self, loss: self.history.append(loss))
    loss_at = example.read_loss("BCELoss:ohem_ratio=4:warm=2:falling=8").loss_at
    training = example.Scheduled(example.DBNet(), loss_at, range(96))
    names, ratios = [], []
    for _ in range(12):
        training.step(None)
        balance = training.loss_fn.bce_loss
        names.append(balance.main_loss_type)
        ratios.append(balance.negative_ratio)
    assert names == 2 * ["DiceLoss"] + 10 * ["BCELoss"]
    # From 100 to 4 in eight equal factors, of which two pass unseen beside the default's 3.
    assert ratios == pytest.approx([3, 3, *(100 * 0.04 ** (n / 8) for n in range(2, 8)), *4 * [4]])
    for name in ("DiceLoss", "DiceFocalLoss"):
        with pytest.raises(ValueError, match=f"{name} mines nothing"):
            example.read_loss(f"{name}:falling=8")


def test_losses_of_a_seed_share_pages_and_first_weights(example, monkeypatch, tmp_path):
    """Two seeds share none of them, and no page trained on is held out or tested on."""
    seen = []

    class Training:
        def __init__(self, model, loss_at, pages, batch, rate, **settings):
            self.model, self.history = model, []
            first = model.stem[0].weight.numpy()
            assert len(pages) == 7 * 8
            seen.append({"weights": first, "page": pages[0][0], "style": pages.draw.keywords})

        def run(self, *where, **look):
            pass

    def search(model, pages, **look):
        seen[-1]["held out"] = pages[0].image
        return Limits([0.3, 0.4], [0.5, 0.6], *np.float64([3 * [[0, 0], [1, 0]]]).reshape(3, 2, 2))

    def score(model, pages, *pairs, **look):
        assert len(pages) == 40
        seen[-1] |= {"test": pages[0].image, "words": sum(len(page.texts) for page in pages)}
        return [{"hmean": 0.5}, {"hmean": 0.25}]

    monkeypatch.setattr(example, "Scheduled", Training)
    monkeypatch.setattr(example, "search", search)
    monkeypatch.setattr(example, "score", score)
    monkeypatch.setattr(example, "write_rows", lambda file, rows: None)
    for seed, loss in [(0, "DiceLoss"), (0, "BCELoss"), (1, "DiceLoss")]:
        rows = example.run(options(tmp_path, held_out=40), ("small", "rendered", loss, 7, seed))
        assert [row["hmean"] for row in rows[-2:]] == [0.5, 0.25]
        assert [row["thresh"] for row in rows[-2:]] == [0.4, 0.3]
    dice, bce, other = seen
    for name in ("weights", "page", "held out", "test"):
        assert np.array_equal(dice[name], bce[name])
        assert not np.array_equal(dice[name], other[name])
    for run in seen:
        assert run["style"] == example.STYLE
        assert not np.array_equal(run["held out"], run["test"])
        # 39 and 42 when written; 143 and 162 with the pages of the training example.
        assert 20 < run["words"] < 70


def test_a_trained_network_can_be_compared_too(example, monkeypatch, tmp_path):
    """With its own crops, its own batch, and its rate or that of the loss."""
    monkeypatch.setattr(example.ppocrv4, "load", example.ppocrv4.PPOCRv4)  # without its weights
    seen = []

    class Training(example.Scheduled):
        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **settings)
            rate = self.schedule.base_lr
            seen.append((type(self.model).__name__, self.pages[0][0].shape, self.batch, rate))

        def run(self, *where, **look):
            self.history.append({})

    nothing = Limits([0.3], [0.6], *np.zeros((3, 1, 1)))
    monkeypatch.setattr(example, "Scheduled", Training)
    monkeypatch.setattr(example, "search", lambda *arguments, **look: nothing)
    file = write_label_file(tmp_path / "some.txt", count=11)
    given = options(tmp_path, labels=file, test_labels=file)
    monkeypatch.setattr(example, "score", lambda *arguments, **look: 2 * [{"hmean": 0.5}])
    monkeypatch.setattr(example, "write_rows", lambda file, rows: None)
    for loss in ("DiceLoss", "DiceLoss:rate=1e-3"):
        (*_, row) = example.run(given, ("ppocrv4", "some.txt", loss, 1, 0))
        assert row["network"] == "ppocrv4" and row["loss"] == loss
    shape = (3, 320, 320)
    assert seen == [("PPOCRv4", shape, 4, 5e-4), ("PPOCRv4", shape, 4, 1e-3)]


@pytest.mark.filterwarnings("ignore:When training, we now always track")  # Paddle's BatchNorm
def test_a_frozen_norm_keeps_its_statistics(example, monkeypatch):
    monkeypatch.setattr(example.ppocrv4, "load", example.ppocrv4.PPOCRv4)
    image = paddle.rand([1, 3, 32, 32])
    for frozen in (0, 1):
        model = example.build("ppocrv4", example.read_loss(f"DiceLoss:frozen_norm={frozen}"))
        before = {name: value.numpy() for name, value in model.state_dict().items()}
        model.eval()
        in_use = model(image)["maps"].numpy()
        model.train()
        trained_on = model(image)["maps"].numpy()
        kept = all(
            (value.numpy() == before[name]).all() for name, value in model.state_dict().items()
        )
        assert kept == bool(frozen)
        assert np.allclose(in_use, trained_on, atol=1e-6) == bool(frozen)


def test_a_csv_keeps_columns_of_its_own(example, tmp_path):
    """Where the network is not named, it is the small one."""
    file = tmp_path / "scores.csv"
    columns = [name for name in example.COLUMNS if name != "network"]
    row = dict.fromkeys(columns, "1") | {"threads": "2"}
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, [*row])
        writer.writeheader()
        writer.writerow(row)
    known = example.read_rows(file)
    example.write_rows(file, [*known, {**known[0], "network": "ppocrv4", "threads": "4"}])
    written = rows_of(file)
    assert [row["network"] for row in written] == ["small", "ppocrv4"]
    assert [row["threads"] for row in written] == ["2", "4"]


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_kill_end_the_workers_too(by, tmp_path):
    options = ["--steps", 1000, "--held-out", 2, "--out", tmp_path]
    done = programs.interrupted(EXAMPLE, *options, once=r"seed \d+ step 1:", by=by)
    assert done.returncode == 128 + by
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
    names = "network losses seeds steps labels test-labels images held-out every jobs out csv help"
    for option in names.split():
        assert f"--{option}" in printed


@pytest.mark.parametrize(
    "options, complaint",
    [
        (["--steps", "0"], "--steps, --held-out, --every and --jobs must be at least 1"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--held-out", "0"], "--jobs must be at least 1"),
        (["--seeds", "0", "-1"], "--seeds at least 0"),
        (["--losses", "DiceLoss", "Dice"], "OHEMDiceLoss"),
        (["--losses", "DiceLoss:text_balance=much"], "much"),
        (["--losses", "DiceLoss:alpah=3"], "alpha"),
        (["--labels", "no.txt"], "--labels and --test-labels go together"),
        (["--epochs", "3"], "--epochs"),
        (["--network", "resnet"], "ppocrv4"),
        (["--network", "ppocrv4", "--losses", "BCELoss:bias=-4"], "bias= is where the small"),
        (["--losses", "DiceLoss:frozen_norm=1"], "frozen_norm= is for a trained network"),
    ],
)
def test_a_bad_option_exits_with_2(example, monkeypatch, capsys, options, complaint):
    status, _, message = said(example, monkeypatch, capsys, *options)
    assert status == 2
    assert complaint in message
