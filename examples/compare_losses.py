r"""Train the detector of train_text_detector.py with several losses and compare what it finds.

    pip install ".[cpu,examples]"                            # beside a GPU wheel without cpu
    python examples/compare_losses.py                        # rendered pages, four losses
    python examples/compare_losses.py --losses DiceLoss BCELoss --seeds 0 1 2 3 4 --steps 700
    python examples/compare_losses.py --labels train.txt --test-labels test.txt --steps 1000 \
        --losses DiceLoss DiceFocalLoss:focal_gamma=2.5 BCELoss:text_balance=0.5:bias=-4
    python examples/compare_losses.py --network ppocrv4 --steps 720 --losses DiceLoss TverskyLoss \
        --labels train.txt --test-labels test.txt        # finetune_ppocr.py says what this is

With the small network the trainings start from scratch: what wins there can lose from trained
weights (docs/which-loss.md). A loss is a `main_loss_type` of DBLoss, and after colons any of its
keywords, and of these:

    text_balance    of `make_targets`
    bias            of the example's DBNet
    rate            of Adam, at its highest
    frozen_norm     1: batch normalisation keeps its means and variances, as a trained network has
                    them, in place of those of each batch
    warm            steps that are trained with PaddleOCR's default first
    falling         steps in which the hard negatives for each positive fall from 100, which are
                    all negatives of nine in ten batches of photographs, to `ohem_ratio`

A seed fixes the pages trained on and the first weights, so the losses can be compared seed by seed.
All else is as in that example, but for the rendered pages, which are harder: most have one word or
none among much clutter, and about 1.5 % of the pixels are text. With `--network ppocrv4` all else
is as in finetune_ppocr.py, and the first weights are PP-OCRv4's, whatever the seed.

Every 250 steps, and at the end, each training is scored on the pages held out, at a grid of limits.
The limits that are best there at the end are its own, with which it is scored on the test pages, as
it is with PaddleOCR's 0.3 and 0.6. A training that ends is written to scores.csv in the output
folder at once. Started again, also after Ctrl-C, the program goes on with what is missing there: a
training that was cut off goes on from its last score.

At the end a table, in Markdown, gives the means over the seeds on the test pages at each training's
own limits, the spread of the hmean, which is the highest minus the lowest, and the hmean of each
seed; then the mean hmean at PaddleOCR's limits. curves.png shows the hmean on the pages held out,
at the best limits of that step.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import options

if __name__ == "__main__":
    options.compare_losses(__doc__).parse_args()  # before the imports below, which take seconds

import ppocrv4
from dbloss import DBLoss
from dbloss.losses.balance import MINED_TYPES
from dbloss.score import Limits
from photographs import SIZE as CROP
from train_text_detector import (
    BATCH,
    PADDLEOCR,
    RATE,
    DBNet,
    Pages,
    Pair,
    Training,
    best_pair,
    describe_data,
    read_data,
    score,
    search,
)

import cv2
import numpy as np
import paddle
from matplotlib.figure import Figure
from paddle import nn
from tqdm import tqdm

ALL_NEGATIVES = 100  # for each positive
# Paddle and numba run threads of their own, which do not survive a fork.
SPAWN = multiprocessing.get_context("spawn")
STYLE = {"fill": 0.2, "clutter": 40}  # of a page: 0.9 words and 20 other things in the mean
KEY = ["network", "data", "loss", "steps", "seed"]  # what makes a training
COLUMNS = [*KEY, "step", "pages", "limits", "thresh", "box_thresh", "precision", "recall", "hmean"]

Row = dict[str, Any]  # a score, by the names of the columns
Key = tuple[str, str, str, int, int]


class Network(NamedTuple):
    """How a network is trained."""

    crop: int  # side of what is cut out of a photograph
    batch: int
    rate: float


NETWORKS = {
    "small": Network(CROP, BATCH, RATE),
    "ppocrv4": Network(ppocrv4.CROP, ppocrv4.BATCH, ppocrv4.RATE),
}


class Setting(NamedTuple):
    """What "OHEMDiceLoss:text_balance=0.5:warm=100" asks for."""

    loss_at: Callable[[int], DBLoss]  # the loss of a step
    text_balance: float
    bias: float
    rate: float  # 0: that of the network
    frozen_norm: bool


def read_loss(text: str) -> Setting:
    name, *pairs = text.split(":")
    keywords = {key: value for key, _, value in (pair.partition("=") for pair in pairs)}
    options = ("text_balance", "bias", "rate", "frozen_norm", "warm", "falling")
    balance, bias, rate, frozen, warm, falling = (float(keywords.pop(key, 0)) for key in options)
    default, loss_fn = DBLoss(), DBLoss(main_loss_type=name, **keywords)
    if falling and name not in MINED_TYPES:
        raise ValueError(f"{name} mines nothing, so falling= has no meaning for it")

    ratio = getattr(loss_fn.bce_loss, "negative_ratio", None)

    def loss_at(step: int) -> DBLoss:
        if falling:
            ahead = max(1 - step / falling, 0)
            loss_fn.bce_loss.negative_ratio = ALL_NEGATIVES**ahead * ratio ** (1 - ahead)
        return default if step < warm else loss_fn

    return Setting(loss_at, balance, bias, rate, bool(frozen))


def build(network: str, setting: Setting, *first: Any) -> nn.Layer:
    """Return a network to be trained; `first` is handed to what loads its weights."""
    model = DBNet(bias=setting.bias) if network == "small" else ppocrv4.load(*first)
    for layer in model.sublayers():
        if setting.frozen_norm and isinstance(layer, nn.BatchNorm2D):
            layer._use_global_stats = True
    return model


def check_loss(text: str, network: str) -> None:
    """Complain about a loss that makes no sense, or none with this network."""
    setting = read_loss(text)
    if setting.bias and network != "small":
        raise ValueError(f"{text}: bias= is where the small network starts; {network} has weights")
    if setting.frozen_norm and network == "small":
        raise ValueError(f"{text}: frozen_norm= is for a trained network; this one starts anew")


# ---- 1. A training ---------------------------------------------------------------------------


class Scheduled(Training):
    """A training whose loss depends on the step."""

    def __init__(
        self,
        model: nn.Layer,
        loss_at: Callable[[int], DBLoss],
        pages: Pages,
        *how: Any,
        **known: Any,
    ) -> None:
        super().__init__(model, loss_at(0), pages, *how, **known)
        self.loss_at = loss_at

    def step(self, batch: list[paddle.Tensor]) -> None:
        self.loss_fn = self.loss_at(len(self.history))
        super().step(batch)


def run(args: argparse.Namespace, key: Key, line: int = 1) -> list[Row]:
    """Train a detector, from where it was cut off if it was, and return all its scores.

    Its progress is drawn on a line of the screen.
    """
    warnings.filterwarnings("ignore", "When training, we now always track")  # Paddle's BatchNorm
    network, _, loss, steps, seed = key
    crop, batch, rate = NETWORKS[network]
    setting = read_loss(loss)
    data = read_data(args, seed, crop, count=args.held_out, **STYLE)
    pages = Pages(seed, steps * batch, data.draw, setting.text_balance)
    name = "-".join(map(str, key)).replace(":", "-")
    file, checkpoint = args.out / f"{name}.csv", args.out / f"{name}.pdparams"
    look = {"desc": f"{loss}, seed {seed}", "position": line, "leave": False}

    with paddle.utils.unique_name.guard():  # a checkpoint fits whatever was trained before
        paddle.seed(seed)
        known = {**dict(zip(KEY, key)), "content": describe_data(args)}
        training = Scheduled(
            build(network, setting),
            setting.loss_at,
            pages,
            batch,
            setting.rate or rate,
            **known,
        )
        if checkpoint.exists():
            training.load(checkpoint)
        rows = [row for row in read_rows(file) if row["step"] <= len(training.history)]
        for step in sorted({*range(args.every, steps, args.every), steps}):
            if step < len(training.history) or step in (row["step"] for row in rows):
                continue
            training.run(step, checkpoint, **look)
            rows += rows_held_out(key, step, search(training.model, data.held_out, **look))
            write_rows(file, rows)

    own = Pair(rows[-2]["thresh"], rows[-2]["box_thresh"])
    scores = score(training.model, data.test, own, PADDLEOCR, **look)
    return rows + rows_of_test(key, own, *scores)


def rows_held_out(key: Key, step: int, grid: Limits) -> list[Row]:
    """Return the scores on the pages held out, at the best limits there and at PaddleOCR's."""
    known = {**dict(zip(KEY, key)), "step": step, "pages": "held out"}
    scores = {"own": grid.at(*best_pair(grid)), "PaddleOCR": grid.at(*PADDLEOCR)}
    return [{**known, "limits": name, **scored._asdict()} for name, scored in scores.items()]


def rows_of_test(
    key: Key, own: Pair, at_own: dict[str, float], at_theirs: dict[str, float]
) -> list[Row]:
    """Return the scores on the test pages at a training's own limits and at PaddleOCR's."""
    known = {**dict(zip(KEY, key)), "step": key[3], "pages": "test"}
    return [
        {**known, "limits": name, **pair._asdict(), **scored}
        for name, pair, scored in (("own", own, at_own), ("PaddleOCR", PADDLEOCR, at_theirs))
    ]


def start_worker(lock: object) -> None:
    """Draw the bars of all workers in turn, and leave Ctrl-C to the main program."""
    tqdm.set_lock(lock)
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def run_alone(args: argparse.Namespace, key: Key) -> list[Row]:
    """Run a training in a process of its own, with which all it took of memory ends."""
    # The threads are numbered from 0; the first line is the main program's.
    line = int(threading.current_thread().name.rpartition("_")[2]) + 1
    with ProcessPoolExecutor(1, SPAWN, start_worker, (tqdm.get_lock(),)) as worker:
        return worker.submit(run, args, key, line).result()


def run_all(args: argparse.Namespace, keys: list[Key]) -> None:
    """Run trainings side by side, and add the scores of each to the CSV once it ends."""
    tqdm.set_lock(SPAWN.RLock())
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of a worker
    with ThreadPoolExecutor(args.jobs) as threads:
        futures = [threads.submit(run_alone, args, key) for key in keys]
        try:
            for future in tqdm(
                as_completed(futures), total=len(keys), unit="training", disable=None
            ):
                rows = future.result()
                replace_rows(args.csv, rows)
                for row in rows[-2:]:
                    numbers = "precision {precision:.4f}, recall {recall:.4f}, hmean {hmean:.4f}"
                    what = "{loss}, seed {seed}, at {limits}'s limits: " + numbers
                    tqdm.write(what.format(**row))
        except BaseException as error:
            threads.shutdown(wait=False, cancel_futures=True)
            while not all(future.done() for future in futures):  # a worker may be about to start
                with tqdm.get_lock():  # one that died while it held the lock would block us
                    for worker in multiprocessing.active_children():
                        worker.kill()
                time.sleep(0.1)
            if isinstance(error, KeyboardInterrupt):
                sys.exit(130)
            raise


# ---- 2. What came out ------------------------------------------------------------------------


def read_rows(file: Path) -> list[Row]:
    """Return the scores in a CSV, none where there is no such file.

    Where it does not say of which network they are, it is the small one.
    """
    if not file.exists():
        return []
    whole, text = {"steps", "seed", "step"}, {"network", "data", "loss", "pages", "limits"}
    types = {name: int if name in whole else str if name in text else float for name in COLUMNS}
    with file.open(newline="") as lines:
        return [
            {"network": "small", **{name: types.get(name, str)(x) for name, x in row.items()}}
            for row in csv.DictReader(lines)
        ]


def write_rows(file: Path, rows: Iterable[Row]) -> None:
    """Write scores to a CSV, in all columns that they have. The old one stays until it is whole."""
    rows = list(rows)
    columns = list(dict.fromkeys([*COLUMNS, *chain.from_iterable(rows)]))
    new = file.with_suffix(".new")
    with new.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            rates = {name: round(row[name], 4) for name in ("precision", "recall", "hmean")}
            writer.writerow({**row, **rates})
    new.replace(file)


def replace_rows(file: Path, rows: list[Row]) -> None:
    """Write rows to a CSV, in place of those that it has of the same trainings."""
    keys = set(map(key_of, rows))
    write_rows(file, [row for row in read_rows(file) if key_of(row) not in keys] + rows)


def key_of(row: Row) -> Key:
    """Return what tells a training from others."""
    return tuple(row[name] for name in KEY)


def table(rows: list[Row], losses: list[str], seeds: list[int]) -> str:
    """Return the means, the spread of the hmean and its values as a table in Markdown."""
    own, theirs = (
        {(row["loss"], row["seed"]): row for row in rows if row["limits"] == limits}
        for limits in ("own", "PaddleOCR")
    )
    columns = ["loss", "precision", "recall", "hmean", "spread", *(f"seed {s}" for s in seeds)]
    columns.append("hmean at {} / {}".format(*PADDLEOCR))
    lines = [columns, ["---"] * len(columns)]
    for loss in losses:
        rates = ["precision", "recall", "hmean"]
        means = [np.mean([own[loss, seed][rate] for seed in seeds]) for rate in rates]
        hmeans = [own[loss, seed]["hmean"] for seed in seeds]
        at_theirs = np.mean([theirs[loss, seed]["hmean"] for seed in seeds])
        numbers = [*means, np.ptp(hmeans), *hmeans, at_theirs]
        lines.append([loss, *(f"{number:.3f}" for number in numbers)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw_curves(rows: list[Row], losses: list[str]) -> Figure:
    """Draw the hmean on the pages held out over the steps, the mean of the seeds and the range."""
    figure = Figure(figsize=(8, 4 + 0.25 * len(losses)), layout="constrained")
    axes = figure.subplots()
    ends = []
    for loss in losses:
        of_loss = [row for row in rows if row["loss"] == loss]
        steps = sorted({row["step"] for row in of_loss})
        hmeans = [[row["hmean"] for row in of_loss if row["step"] == step] for step in steps]
        (line,) = axes.plot(steps, [np.mean(of_step) for of_step in hmeans], "o-", label=loss)
        low, high = ([limit(of_step) for of_step in hmeans] for limit in (min, max))
        axes.fill_between(steps, low, high, alpha=0.15, color=line.get_color(), linewidth=0)
        ends.append((np.mean(hmeans[-1]), line))
    axes.set(xlabel="step", ylabel="hmean on the pages held out, at the best limits")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)  # half of the first and the last point
    axes.grid(alpha=0.3)
    ends.sort(key=lambda end: -end[0])
    handles = [line for _, line in ends]
    figure.legend(handles=handles, loc="outside lower center", frameon=False)
    return figure


def main() -> None:
    parser = options.compare_losses(__doc__)
    args = parser.parse_args()
    if min(args.steps, args.held_out, args.every, args.jobs) < 1 or min(args.seeds) < 0:
        parser.error(
            "--steps, --held-out, --every and --jobs must be at least 1, --seeds at least 0"
        )
    try:
        for loss in args.losses:
            check_loss(loss, args.network)
        if args.network == "ppocrv4":
            ppocrv4.find()
        if args.labels or args.test_labels:
            read_data(args, seed=0)
        args.out.mkdir(parents=True, exist_ok=True)
        args.csv = args.csv or args.out / "scores.csv"
        rows = read_rows(args.csv)
    except (TypeError, ValueError, OSError) as error:
        parser.error(str(error))

    data = args.labels.name if args.labels else "rendered"
    keys = [
        (args.network, data, loss, args.steps, seed) for seed in args.seeds for loss in args.losses
    ]
    own = [row for row in rows if row["pages"] == "test" and row["limits"] == "own"]
    done = set(map(key_of, own))
    try:
        run_all(args, [key for key in keys if key not in done])
    except OSError as error:  # of an image that cannot be read to its end
        sys.exit(str(error))
    asked_for = [row for row in read_rows(args.csv) if key_of(row) in keys]
    curves = [r for r in asked_for if r["pages"] == "held out" and r["limits"] == "own"]
    draw_curves(curves, args.losses).savefig(args.out / "curves.png", dpi=150)
    print(table([r for r in asked_for if r["pages"] == "test"], args.losses, args.seeds))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the workers end as well
    main()
