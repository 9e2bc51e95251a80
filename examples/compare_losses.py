"""Train the detector of train_text_detector.py with several losses and compare what it finds.

    pip install ".[cpu,examples]"                            # beside a GPU wheel without cpu
    python examples/compare_losses.py                        # about 19 minutes on 2 CPU cores
    python examples/compare_losses.py --losses DiceLoss BCELoss --seeds 0 1 2 3 4 --steps 700

The pages are harder than in that example: most have one word or none among much clutter, and
about 1.5 % of the pixels are text. A seed fixes the pages trained on, the first weights and the
pages held out, so the losses can be compared seed by seed. All else is as in that example: the
learning rate, and the limits above which a pixel is text and a box is kept.

A line for each training gives precision, recall and hmean on the pages held out. The table at
the end, in Markdown, gives their means over the seeds, the spread of the hmean, which is the
highest minus the lowest, and the hmean of each seed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import paddle
from tqdm import tqdm
from train_text_detector import BATCH, DBNet, Pages, evaluate, render_page, train

from dbloss import DBLoss

LOSSES = ["DiceLoss", "BCELoss", "OHEMDiceLoss", "DiceFocalLoss"]
STYLE = {"fill": 0.2, "clutter": 40}  # of a page: 0.9 words and 20 other things in the mean

Scores = tuple[float, float, float]  # precision, recall, hmean


def score(steps: int, held_out: int, seed: int, loss: str) -> Scores:
    """Train a detector and return its scores on the pages held out."""
    warnings.filterwarnings("ignore", "When training, we now always track")  # Paddle's BatchNorm
    paddle.seed(seed)
    model = DBNet()
    # The workers are numbered from 1; the first line is the main program's.
    line = int(multiprocessing.current_process().name.rpartition("-")[2])
    look = {"desc": f"{loss}, seed {seed}", "position": line, "leave": False}
    train(model, DBLoss(main_loss_type=loss), Pages(seed, steps * BATCH, **STYLE), **look)
    generators = (np.random.default_rng([seed, 1, i]) for i in range(held_out))
    return evaluate(model, [render_page(rng, **STYLE) for rng in generators])


def start_worker(lock: object) -> None:
    """Draw the bars of all workers in turn, and leave Ctrl-C to the main program."""
    tqdm.set_lock(lock)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def score_all(
    losses: list[str], seeds: list[int], steps: int, held_out: int, jobs: int
) -> dict[str, list[Scores]]:
    """Return the scores of each loss, one for each seed, from trainings side by side."""
    scores: dict[str, list[Scores]] = {loss: [] for loss in losses}
    runs = [(seed, loss) for seed in seeds for loss in scores]
    # Paddle and numba run threads of their own, which do not survive a fork.
    spawn = multiprocessing.get_context("spawn")
    tqdm.set_lock(spawn.RLock())
    with ProcessPoolExecutor(jobs, spawn, start_worker, (tqdm.get_lock(),)) as pool:
        results = pool.map(partial(score, steps, held_out), *zip(*runs))
        try:
            for seed, loss in tqdm(runs, unit="training"):
                scores[loss].append(next(results))
                numbers = "precision {:.4f}, recall {:.4f}, hmean {:.4f}".format(*scores[loss][-1])
                tqdm.write(f"{loss}, seed {seed}: {numbers}")
        except KeyboardInterrupt:
            with tqdm.get_lock():  # a worker that died while it held the lock would block us
                for worker in multiprocessing.active_children():
                    worker.kill()
            sys.exit(130)
    return scores


def table(scores: dict[str, list[Scores]], seeds: list[int]) -> str:
    """Return the means, the spread of the hmean and its values as a table in Markdown."""
    columns = ["loss", "precision", "recall", "hmean", "spread", *(f"seed {s}" for s in seeds)]
    rows = [columns, ["---"] * len(columns)]
    for loss, of_seeds in scores.items():
        hmeans = [hmean for *_, hmean in of_seeds]
        numbers = [*np.mean(of_seeds, axis=0), np.ptp(hmeans), *hmeans]
        rows.append([loss, *(f"{number:.3f}" for number in numbers)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--losses", nargs="+", default=LOSSES, metavar="LOSS", help="main_loss_type of DBLoss")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED", help="of a training")
    add("--steps", type=int, default=500, help=f"training steps of {BATCH} pages")
    add("--held-out", type=int, default=1000, help="pages to measure on")
    add("--jobs", type=int, default=2, help="trainings side by side, of about a core each")
    args = parser.parse_args()
    if min(args.steps, args.held_out, args.jobs) < 1 or min(args.seeds) < 0:
        parser.error("--steps, --held-out and --jobs must be at least 1, --seeds at least 0")
    try:
        for loss in args.losses:
            DBLoss(main_loss_type=loss)
    except ValueError as error:
        parser.error(str(error))
    print(table(score_all(**vars(args)), args.seeds))


if __name__ == "__main__":
    main()
