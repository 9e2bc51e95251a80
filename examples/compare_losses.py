"""Train the detector of train_text_detector.py with several losses and compare what it finds."""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import signal
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import paddle
from photographs import random_crop, read_labels, read_page
from tqdm import tqdm
from train_text_detector import BATCH, LIMITS, PADDLEOCR, Pages, Training, score_limits

from dbloss import DBLoss

COLUMNS = ["loss", "seed", "steps", "step", "pages", "limits", "thresh", "box_thresh"]
COLUMNS += ["precision", "recall", "hmean"]


def settings_of(loss: str) -> tuple[dict[str, Any], float]:
    """Turn "DiceBCELoss:bce_weight=0.4:text_balance=0.5" into keywords of DBLoss and a balance."""
    name, *pairs = loss.split(":")
    settings = dict(pair.split("=") for pair in pairs)
    balance = float(settings.pop("text_balance", 0))
    return {"main_loss_type": name, **settings}, balance


def rows_of(scores: dict, **known: Any) -> list[dict[str, Any]]:
    """Return the rows of the best limits and of PaddleOCR's."""
    best = max(scores, key=lambda pair: scores[pair]["hmean"])
    return [
        {**known, "limits": name, "thresh": pair[0], "box_thresh": pair[1], **scores[pair]}
        for name, pair in (("chosen", best), ("PaddleOCR's", PADDLEOCR))
    ]


def run(args: argparse.Namespace, loss: str, seed: int) -> list[dict[str, Any]]:
    """Train a detector; return the rows of its scores."""
    warnings.filterwarnings("ignore", "When training, we now always track")  # Paddle's BatchNorm
    cv2.setNumThreads(1)
    labels = read_labels(args.labels)
    held_out = labels[:: len(labels) // args.held_out][: args.held_out]
    names = {photograph.path for photograph in held_out}
    trained = [photograph for photograph in labels if photograph.path not in names]
    keywords, balance = settings_of(loss)
    pages = Pages(seed, args.steps * BATCH, partial(random_crop, trained), balance)
    with paddle.utils.unique_name.guard():
        paddle.seed(seed)
        training = Training(DBLoss(**keywords), pages, loss=loss, seed=seed, steps=args.steps)
        name = f"{loss.replace(':', '-')}-{args.steps}-{seed}"
        checkpoint, curve = args.out / f"{name}.pdparams", args.out / f"{name}.csv"
        rows = read_rows(curve)
        if checkpoint.exists():
            training.load(checkpoint)
        rows = [row for row in rows if int(row["step"]) <= len(training.history)]
        known = {"loss": loss, "seed": seed, "steps": args.steps}
        marks = sorted({*range(args.every, args.steps, args.every), args.steps})
        for step in marks:
            if any(int(row["step"]) == step for row in rows):
                continue
            training.run(step, desc=name, mininterval=30)
            training.save(checkpoint)
            scores = score_limits(training.model, map(read_page, held_out), LIMITS)
            rows += rows_of(scores, **known, step=step, pages="held out")
            write_rows(curve, rows)
        chosen = tuple(float(rows[-2][name]) for name in ("thresh", "box_thresh"))
        test = map(read_page, read_labels(args.test_labels))
        scores = score_limits(training.model, test, [chosen, PADDLEOCR])
        known |= {"step": args.steps, "pages": "test"}
        for limits, pair in (("chosen", chosen), ("PaddleOCR's", PADDLEOCR)):
            pair_of = {"limits": limits, "thresh": pair[0], "box_thresh": pair[1]}
            rows.append({**known, **pair_of, **scores[pair]})
        write_rows(curve, rows)
    return rows


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV, none where it is missing."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("--labels", type=Path)
    add("--test-labels", type=Path)
    add("--losses", nargs="+", default=["DiceLoss"])
    add("--seeds", type=int, nargs="+", default=[0, 1])
    add("--steps", type=int, default=1000)
    add("--every", type=int, default=250)
    add("--held-out", type=int, default=100)
    add("--jobs", type=int, default=1)
    add("--out", type=Path, default=Path("runs/compare"))
    add("--csv", type=Path, default=Path("which-loss.csv"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = read_rows(args.csv)
    done = {(r["loss"], int(r["seed"]), int(r["steps"])) for r in rows}
    for seed in args.seeds:
        for loss in args.losses:
            if (loss, seed, args.steps) not in done:
                rows += run(args, loss, seed)
                write_rows(args.csv, rows)
                print(*rows[-1].values(), flush=True)


if __name__ == "__main__":
    main()
